//! What earlier runs found out about a host's files, so that 2,000 waiting files are not decrypted every ten minutes.
//! It may order, hold back and report files; but every file that is applied, removed or quarantined is verified again
//! in the same run. Losing it costs only time. The path is `STATE/<pool guid>/facts/HOST.json`, so that two drives
//! used in rotation have separate ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use zsnap_common::names::target::Host;
use zsnap_common::stream::Guid;

use crate::journal;
use crate::plan::{Facts, Head};

/// What is known about the files of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The fingerprint of the configuration that was used: another one may judge otherwise.
    fingerprint: String,
    /// When a new file of the host was last seen, or else when the host was first seen: seconds since 1970.
    pub last_came: u64,
    /// The files, by place and name: `incoming/NAME`.
    pub files: BTreeMap<String, Entry>,
}

/// What is known about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Identifies the file that this entry describes.
    pub seen: Seen,
    /// When the file was first seen: seconds since 1970.
    pub first: u64,
    /// How often a program or disk failed while the file was processed.
    pub attempts: u32,
    /// The reason of the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The result of examining the file.
    pub what: Knowledge,
    /// When (seconds since 1970) to examine a held file again although neither it nor the configuration has changed,
    /// for example because a future date in it has passed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
    /// The state in which the dataset rejected the file because it was modified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<Head>,
}

impl Entry {
    /// Returns the entry of a new file, first seen at `first` (seconds since 1970).
    pub fn new(seen: Seen, first: u64) -> Entry {
        Entry { seen, first, attempts: 0, failure: None, what: Knowledge::New, again: None, refused_at: None }
    }

    /// Describes the failures of a file: how often a program or disk failed, and why.
    pub fn failed_over(&self, name: &str) -> String {
        let why = self.failure.as_deref().unwrap_or("the log says why");
        format!("failed over {name} for {} times: {why}", self.attempts)
    }

    /// Whether a run examines the file: it is new, or it is time to examine it again.
    pub fn is_due(&self, now: u64) -> bool {
        self.what == Knowledge::New || self.again.is_some_and(|again| again <= now)
    }
}

/// The result of examining a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Knowledge {
    /// Not examined yet.
    New,
    /// The file was verified, and states these facts.
    #[serde(rename = "says")]
    Facts(Facts),
    /// The file stays: it is not proven to come from its host, or cannot be received as it is. Contains the reason and
    /// the remedy.
    Held(String),
}

/// The identity of a file. The device number is not part of it: a removable drive gets another one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    inode: u64,
    /// The length in bytes.
    pub size: u64,
    /// Nanoseconds since 1970; the same in `changed`.
    modified: i64,
    changed: i64,
}

impl Seen {
    /// Returns the identity of the file with these attributes.
    pub fn of(stat: &Stat) -> Seen {
        let nanos = |secs: i64, nanos: u64| {
            secs.saturating_mul(1_000_000_000).saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX))
        };
        Seen {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

fn path(state: &Path, pool: Option<Guid>, host: &Host) -> PathBuf {
    let dir = pool.map_or_else(|| state.to_owned(), |guid| state.join(guid.to_string()));
    dir.join("facts").join(format!("{host}.json"))
}

impl Known {
    /// Reads what is known about a host's files. Results of another configuration are forgotten; only the
    /// files' first-seen times, attempts and failures stay. If the file is damaged, it starts from nothing.
    pub fn read(state: &Path, pool: Option<Guid>, host: &Host, fingerprint: &str, now: u64) -> Known {
        let mut known: Known = journal::read(&path(state, pool, host)).ok().flatten().unwrap_or_default();
        if known.fingerprint != fingerprint {
            known.fingerprint = fingerprint.to_owned();
            for entry in known.files.values_mut() {
                entry.what = Knowledge::New;
                entry.again = None;
                entry.refused_at = None;
            }
        }
        if known.last_came == 0 {
            known.last_came = now;
        }
        known
    }

    /// Returns what is known about the file with this key, or the entry of a new file.
    pub fn entry(&self, key: &str, seen: Seen, now: u64) -> Entry {
        let known = self.files.get(key).filter(|entry| entry.seen == seen).cloned();
        known.unwrap_or(Entry::new(seen, now))
    }

    /// Replaces the file on disk, if anything changed.
    pub fn write(&self, state: &Path, pool: Option<Guid>, host: &Host) -> anyhow::Result<()> {
        let path = path(state, pool, host);
        match journal::read::<Known>(&path) {
            Ok(Some(same)) if same == *self => Ok(()),
            _ => journal::write(&path, self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_or_configuration_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let host: Host = "h".parse().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        let seen = Seen::of(&rustix::fs::stat(&file).unwrap());
        let mut known = Known::read(dir.path(), None, &host, "a", 5);
        assert_eq!(known.last_came, 5);
        let held = Entry { what: Knowledge::Held("no key".into()), ..known.entry("incoming/f", seen, 5) };
        known.files.insert("incoming/f".into(), held.clone());
        known.write(dir.path(), None, &host).unwrap();
        let again = Known::read(dir.path(), None, &host, "a", 9);
        assert_eq!(again, known);
        assert_eq!(again.entry("incoming/f", seen, 9), held);
        assert_eq!(Known::read(dir.path(), None, &host, "b", 9).entry("incoming/f", seen, 9).what, Knowledge::New);
        assert_eq!(Known::read(dir.path(), None, &host, "b", 9).entry("incoming/f", seen, 9).first, 5);
        assert!(!held.is_due(u64::MAX) && again.entry("incoming/new", seen, 9).is_due(9));
        let ahead = Entry { again: Some(100), ..held };
        assert!(!ahead.is_due(99) && ahead.is_due(100));
        std::fs::write(&file, "y").unwrap();
        let changed = Seen::of(&rustix::fs::stat(&file).unwrap());
        assert_eq!(again.entry("incoming/f", changed, 9).what, Knowledge::New);
        std::fs::write(dir.path().join("facts/h.json"), "{").unwrap();
        assert!(Known::read(dir.path(), None, &host, "a", 9).files.is_empty());
    }
}
