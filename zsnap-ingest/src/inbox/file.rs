//! A queue file during a run, and the directory that contains it.

use std::sync::Arc;

use zsnap_common::durable::incoming::{Incoming, Unsafe, shown};
use zsnap_common::names::queue_name::{Label, QueueName};
use zsnap_common::names::stored::name_of;
use zsnap_common::names::target::Target;

use super::INCOMING;
use super::stored::Stored;
use crate::joined::Joined;
use crate::known::{Entry, Knowledge};
use crate::plan::{Facts, Standing};
use crate::seen;

/// A directory that contains files of one host.
pub struct Place {
    /// The directory that contains the directories of all hosts.
    pub root: Arc<Incoming>,
    /// The directory of the host.
    pub dir: Incoming,
    /// Whether exec spooled the files. It knew the sender, so bare streams are allowed here.
    pub exec: bool,
    /// Whether its file system keeps inode numbers.
    pub is_lasting: bool,
}

const EXEC: &str = "exec/";

impl Place {
    /// Describes an open directory.
    pub fn new(root: Arc<Incoming>, dir: Incoming, exec: bool) -> Place {
        let is_lasting = dir.has_lasting_inodes();
        Place { root, dir, exec, is_lasting }
    }

    /// Opens a queue file in this directory.
    pub fn open(&self, stored: &Stored) -> Result<Joined, Unsafe> {
        let files = stored.files().iter().map(|name| self.dir.open_file(name)).collect::<Result<_, _>>()?;
        Joined::of(files).map_err(Unsafe::Io)
    }

    /// Returns the digest of both ends of a queue file in this directory; `None`: it cannot be read.
    pub fn ends(&self, stored: &Stored) -> Option<String> {
        let content = self.open(stored).ok()?;
        let length = content.length();
        seen::ends(content, length).ok()
    }

    /// Returns the key under which what is known of a file in this directory is saved.
    pub fn key(&self, stored: &Stored) -> String {
        let dir = self.dir.path().file_name().unwrap_or_default();
        let escaped = if name_of(dir) == dir.to_string_lossy() { String::new() } else { format!("{}/", shown(dir)) };
        format!("{}{escaped}{}", if self.exec { EXEC } else { INCOMING }, stored.key())
    }
}

/// A queue file during a run.
pub struct File {
    /// The index of its directory in the host's places.
    pub(super) place: usize,
    /// How it is stored.
    pub(super) stored: Stored,
    /// Its name as parsed.
    pub(super) queue: QueueName,
    /// What this and earlier runs know of it.
    pub(super) entry: Entry,
    /// What this run has found out about it apart from what the plan says; `None`: the plan decides.
    pub(super) settled: Option<Standing>,
    /// Whether it was applied, removed, or moved to quarantine.
    pub(super) is_gone: bool,
    /// Whether `zfs receive` rejected it in this run because the dataset was modified: it is not attempted again in
    /// this run.
    pub(super) was_refused: bool,
}

impl File {
    pub(super) fn new(place: usize, stored: Stored, queue: QueueName, entry: Entry) -> File {
        let settled = stored.waits_for().map(|why| Standing::Waiting { why, behind: None });
        File { place, stored, queue, entry, settled, is_gone: false, was_refused: false }
    }

    /// Returns how it is stored.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Returns its real name.
    pub fn shown(&self) -> String {
        self.stored.name()
    }

    /// Returns the name as parsed.
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Returns what this and earlier runs know of it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Returns what the file says about its place in a chain, if that is known.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.entry.what {
            Knowledge::Facts(facts) => Some(facts),
            _ => None,
        }
    }

    /// Returns its standing if that does not depend on other files; `None`: the plan decides.
    pub fn standing(&self) -> Option<Standing> {
        let known = || match &self.entry.what {
            Knowledge::Facts(_) => None,
            Knowledge::Held(why) => Some(Standing::Held(why.clone())),
            Knowledge::Bad(why) => Some(Standing::Refused(why.clone())),
            Knowledge::New => Some(Standing::New),
        };
        self.settled.clone().or_else(known)
    }

    /// Whether nothing was done with it in this run.
    pub fn is_open(&self) -> bool {
        self.settled.is_none() && !self.is_gone
    }

    /// Returns its last failure, if a program or disk has failed while it was processed.
    pub fn failure(&self) -> Option<String> {
        (self.entry.attempts > 0).then(|| self.entry.failed_over(&self.shown()))
    }

    /// Returns the target in its name, if the name contains one.
    pub fn named(&self) -> Option<Target> {
        match &self.queue.label {
            Label::Dataset(dataset) => Some(Target { host: self.queue.host.clone(), dataset: dataset.clone() }),
            Label::Digest(_) => None,
        }
    }
}
