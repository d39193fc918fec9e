//! What is known of a host's files from earlier runs, so that 2,000 files that wait are not decrypted
//! every ten minutes. It may order, hold back and report; whatever is applied, removed or
//! quarantined is verified again in the same run. Losing it costs time only.
//! `STATE/<pool guid>/facts/HOST.json`: two drives taken in turn keep their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use zsnap_common::names::target::Host;
use zsnap_common::stream::Guid;

use crate::journal;
use crate::plan::{Facts, Head};

/// Of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Of the configuration that it was found out with: another one may judge otherwise.
    fingerprint: String,
    /// When a file of the host was seen for the first time, or the host was; seconds since 1970.
    pub last_came: u64,
    /// By place and name: `incoming/NAME`.
    pub files: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which file it is about.
    pub seen: Seen,
    /// When it was first seen: seconds since 1970.
    pub first: u64,
    /// How often a program or disk failed over it.
    pub attempts: u32,
    /// Why it did the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What it says.
    pub what: What,
    /// From when on (seconds since 1970) a held one is worth another look, though neither it nor the
    /// configuration has changed: a date that lies ahead has come then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
    /// The state in which its dataset refused it as changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<Head>,
}

impl Entry {
    /// Of a file of which nothing is known but when it was first seen: seconds since 1970.
    pub fn new(seen: Seen, first: u64) -> Entry {
        Entry { seen, first, attempts: 0, failure: None, what: What::New, again: None, refused_at: None }
    }

    /// That a program or disk failed over it, how often, and why.
    pub fn failed_over(&self, name: &str) -> String {
        let why = self.failure.as_deref().unwrap_or("the log says why");
        format!("failed over {name} for {} times: {why}", self.attempts)
    }

    /// Whether a run looks into it.
    pub fn is_due(&self, now: u64) -> bool {
        self.what == What::New || self.again.is_some_and(|again| again <= now)
    }
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Not looked at yet.
    New,
    /// It was verified.
    Says(Facts),
    /// It was not, or nobody receives it; the remedy.
    Held(String),
}

/// Identity of a file. Not the device: a removable drive gets another number each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    modified: i64,
    changed: i64,
}

impl Seen {
    /// Of a file.
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
    /// Reads it. What was found out under another configuration is forgotten, but not since
    /// when a file is here. Damage means to begin anew.
    pub fn read(state: &Path, pool: Option<Guid>, host: &Host, fingerprint: &str, now: u64) -> Known {
        let mut known: Known = journal::read(&path(state, pool, host)).ok().flatten().unwrap_or_default();
        if known.fingerprint != fingerprint {
            known.fingerprint = fingerprint.to_owned();
            for entry in known.files.values_mut() {
                entry.what = What::New;
                entry.again = None;
                entry.refused_at = None;
            }
        }
        if known.last_came == 0 {
            known.last_came = now;
        }
        known
    }

    /// What is known of the file with that key, or that it is new.
    pub fn entry(&self, key: &str, seen: Seen, now: u64) -> Entry {
        let known = self.files.get(key).filter(|entry| entry.seen == seen).cloned();
        known.unwrap_or(Entry::new(seen, now))
    }

    /// Replaces what is on disk, if it changed.
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
        let held = Entry { what: What::Held("no key".into()), ..known.entry("incoming/f", seen, 5) };
        known.files.insert("incoming/f".into(), held.clone());
        known.write(dir.path(), None, &host).unwrap();
        let again = Known::read(dir.path(), None, &host, "a", 9);
        assert_eq!(again, known);
        assert_eq!(again.entry("incoming/f", seen, 9), held);
        assert_eq!(Known::read(dir.path(), None, &host, "b", 9).entry("incoming/f", seen, 9).what, What::New);
        assert_eq!(Known::read(dir.path(), None, &host, "b", 9).entry("incoming/f", seen, 9).first, 5);
        assert!(!held.is_due(u64::MAX) && again.entry("incoming/new", seen, 9).is_due(9));
        let ahead = Entry { again: Some(100), ..held };
        assert!(!ahead.is_due(99) && ahead.is_due(100));
        std::fs::write(&file, "y").unwrap();
        let changed = Seen::of(&rustix::fs::stat(&file).unwrap());
        assert_eq!(again.entry("incoming/f", changed, 9).what, What::New);
        std::fs::write(dir.path().join("facts/h.json"), "{").unwrap();
        assert!(Known::read(dir.path(), None, &host, "a", 9).files.is_empty());
    }
}
