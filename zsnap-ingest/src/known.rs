//! What earlier runs found out about a host's files, so that 2,000 waiting files are not decrypted every ten minutes.
//! It may order, hold back and report files; but every file that is applied, removed or quarantined is verified again
//! in the same run. Losing it costs only time. The path is `STATE/<pool guid>/facts/HOST.json`, so that two drives
//! used in rotation have separate ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::listing;
use zsnap_common::names::digest::sha256_hex;
use zsnap_common::names::target::Host;
use zsnap_common::stream::Guid;

use crate::journal;
use crate::plan::{Facts, Head};
use crate::quarantine::is_called;
use crate::seen::Seen;

/// What is known about the files of one host. An entry is either here or with whoever has taken it, because there may
/// be 100,000.
#[derive(Debug, Default, Deserialize)]
pub struct Known {
    /// The fingerprint of the configuration that was used: another one may judge otherwise.
    fingerprint: String,
    /// When a new file of the host was last seen, or else when the host was first seen: seconds since 1970.
    pub last_came: u64,
    /// The files, by place and name as stored: `incoming/NAME`, or `incoming/DIRECTORY/NAME` if the name of the host's
    /// directory is escaped.
    files: BTreeMap<String, Entry>,
    /// The digest of the text that was read.
    #[serde(skip)]
    digest: String,
}

/// What is saved.
#[derive(Serialize)]
struct Saved<'a> {
    fingerprint: &'a str,
    last_came: u64,
    files: &'a BTreeMap<String, &'a Entry>,
}

/// What is known about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Identifies the file that this entry describes.
    pub seen: Seen,
    /// The digest of its first and last MiB, see [`crate::seen::ends`]; `None`: its file system keeps inode numbers, or the
    /// file was not examined yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
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
    /// The file was applied, or need not be, and could not be removed: it is not examined again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// The state in which the dataset rejected the file because it was modified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<Head>,
}

impl Entry {
    /// Returns the entry of a new file, first seen at `first` (seconds since 1970).
    pub fn new(seen: Seen, first: u64) -> Entry {
        let (what, ends, failure, again, refused_at) = (Knowledge::New, None, None, None, None);
        Entry { seen, ends, first, attempts: 0, failure, what, again, kept: false, refused_at }
    }

    /// Whether this describes the file that is seen now. `is_lasting`: its file system keeps inode numbers. Otherwise the
    /// name, size, time and both ends must be the same; `ends` reads them.
    pub fn is_of(&self, seen: &Seen, is_lasting: bool, ends: impl FnOnce() -> Option<String>) -> bool {
        let same_ends = || self.ends.is_none() || self.ends == ends();
        self.seen == *seen || !is_lasting && seen.may_be(&self.seen) && same_ends()
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
    /// The file must never be applied, and could not be moved to quarantine: it stays, and counts as if it were there.
    /// Contains the reason and the remedy.
    Bad(String),
}

fn path(state: &Path, pool: Option<Guid>, host: &Host) -> PathBuf {
    let dir = pool.map_or_else(|| state.to_owned(), |guid| state.join(guid.to_string()));
    dir.join("facts").join(format!("{host}.json"))
}

impl Known {
    /// Reads what is known about a host's files. Results of another configuration are forgotten; only the
    /// files' first-seen times, attempts and failures stay. If the file is damaged, it starts from nothing.
    pub fn read(state: &Path, pool: Option<Guid>, host: &Host, fingerprint: &str, now: u64) -> Known {
        let text = std::fs::read(path(state, pool, host)).unwrap_or_default();
        let mut known: Known = serde_json::from_slice(&text).unwrap_or_default();
        known.digest = sha256_hex(&text);
        drop(text);
        if known.fingerprint != fingerprint {
            known.fingerprint = fingerprint.to_owned();
            for entry in known.files.values_mut() {
                entry.what = Knowledge::New;
                entry.again = None;
                entry.kept = false;
                entry.refused_at = None;
            }
        }
        if known.last_came == 0 {
            known.last_came = now;
        }
        known
    }

    /// Takes what is known about the file with this key, or returns the entry of a new file. `is_of`: whether an entry
    /// describes the file.
    pub fn take(&mut self, key: &str, seen: Seen, now: u64, is_of: impl FnOnce(&Entry) -> bool) -> Entry {
        match self.files.remove(key).filter(is_of) {
            Some(known) => Entry { seen, ..known },
            None => Entry::new(seen, now),
        }
    }

    /// Returns when the file with this key was first seen, although it may have changed since: seconds since 1970.
    pub fn first(&self, key: &str) -> Option<u64> {
        self.files.get(key).map(|entry| entry.first)
    }

    /// Takes what is known about the files whose keys begin with `prefix`.
    pub fn take_all(&mut self, prefix: &str) -> BTreeMap<String, Entry> {
        let all = std::mem::take(&mut self.files);
        let (taken, rest) = all.into_iter().partition(|(key, _)| key.starts_with(prefix));
        self.files = rest;
        taken
    }

    /// Saves `files`, by key, if anything has changed since this was read.
    pub fn save(&self, files: &BTreeMap<String, &Entry>, state: &Path, pool: Option<Guid>, host: &Host) -> Result<()> {
        let saved = Saved { fingerprint: &self.fingerprint, last_came: self.last_came, files };
        let text = serde_json::to_vec(&saved).context("facts")?;
        match sha256_hex(&text) == self.digest {
            true => Ok(()),
            false => journal::write_text(&path(state, pool, host), &text),
        }
    }
}

/// Forgets, for every pool, that files are bad: all of them, those of a host, or those with a name. Returns how many
/// files that are. The next run examines them again.
pub fn retry(state: &Path, all: bool, what: &[String]) -> Result<usize> {
    let mut files = BTreeSet::new();
    let pools = listing::entries(state).or_exit(Exit::Io, "--state")?.into_iter().map(|entry| entry.path());
    for dir in pools.chain([state.to_owned()]).map(|dir| dir.join("facts")).filter(|dir| dir.is_dir()) {
        for entry in listing::entries(&dir).or_exit(Exit::Io, "--state")? {
            let name = entry.file_name();
            let Some(host) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            let text = std::fs::read(entry.path()).or_exit(Exit::Io, entry.path().display())?;
            let Ok(mut known) = serde_json::from_slice::<Known>(&text) else { continue };
            let mut any = false;
            for (key, entry) in &mut known.files {
                let file = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
                let is_asked = all || what.iter().any(|what| is_called(host.as_ref(), file, what));
                if is_asked && matches!(entry.what, Knowledge::Bad(_)) {
                    (entry.what, entry.again, any) = (Knowledge::New, None, true);
                    files.insert(format!("{host}/{file}"));
                }
            }
            if any {
                let files = known.files.iter().map(|(key, entry)| (key.clone(), entry)).collect();
                let saved = Saved { fingerprint: &known.fingerprint, last_came: known.last_came, files: &files };
                journal::write_text(&entry.path(), &serde_json::to_vec(&saved).context("facts")?)?;
            }
        }
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_found_by_every_name_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let host: Host = "h".parse().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let seen = Seen::of(&rustix::fs::stat(dir.path().join("f")).unwrap());
        let bad = Entry { what: Knowledge::Bad("damaged".into()), ..Entry::new(seen, 1) };
        let keys = ["incoming/a:b~p1of3", "incoming/%68/c%3Ad", "exec/e"];
        let files = keys.iter().map(|key| ((*key).to_owned(), &bad)).collect();
        for (what, count) in [("a:b", 1), ("a:b~p1of3", 1), ("c:d", 1), ("c%3Ad", 1), ("e", 1), ("h", 3), ("a", 0)] {
            Known::read(dir.path(), None, &host, what, 1).save(&files, dir.path(), None, &host).unwrap();
            assert_eq!(retry(dir.path(), false, &[what.into()]).unwrap(), count, "{what}");
        }
    }

    #[test]
    fn another_file_or_configuration_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let host: Host = "h".parse().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        let seen = Seen::of(&rustix::fs::stat(&file).unwrap());
        let read = |fingerprint| Known::read(dir.path(), None, &host, fingerprint, 9);
        let mut known = Known::read(dir.path(), None, &host, "a", 5);
        assert_eq!(known.last_came, 5);
        let held = Entry {
            what: Knowledge::Held("no key".into()),
            ..known.take("incoming/f", seen, 5, |entry| entry.seen == seen)
        };
        let files = BTreeMap::from([("incoming/f".to_owned(), &held)]);
        known.save(&files, dir.path(), None, &host).unwrap();
        assert_eq!(read("a").last_came, 5);
        assert_eq!(read("a").take("incoming/f", seen, 9, |entry| entry.seen == seen), held);
        assert_eq!(
            read("b").take("incoming/f", seen, 9, |entry| entry.seen == seen),
            Entry { what: Knowledge::New, ..held.clone() }
        );
        assert!(
            !held.is_due(u64::MAX) && read("a").take("incoming/new", seen, 9, |entry| entry.seen == seen).is_due(9)
        );
        let ahead = Entry { again: Some(100), ..held.clone() };
        assert!(!ahead.is_due(99) && ahead.is_due(100));
        // Nothing is written if nothing has changed.
        let saved = dir.path().join("facts/h.json");
        let inode = |path: &Path| rustix::fs::stat(path).unwrap().st_ino;
        let before = inode(&saved);
        read("a").save(&files, dir.path(), None, &host).unwrap();
        assert_eq!(inode(&saved), before);
        read("b").save(&files, dir.path(), None, &host).unwrap();
        assert_ne!(inode(&saved), before);
        let mut known = read("b");
        assert_eq!((known.take_all("exec/").len(), known.take_all("incoming/").len(), known.files.len()), (0, 1, 0));
        std::fs::write(&file, "y").unwrap();
        let changed = Seen::of(&rustix::fs::stat(&file).unwrap());
        assert_eq!(read("b").take("incoming/f", changed, 9, |entry| entry.seen == changed).what, Knowledge::New);
        std::fs::write(dir.path().join("facts/h.json"), "{").unwrap();
        assert!(read("a").files.is_empty());
    }
}
