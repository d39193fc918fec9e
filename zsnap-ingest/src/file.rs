//! A queue file during a run: where it is, what is known of it, and what was done with it.

use std::ffi::{OsStr, OsString};
use std::fs::File as Fd;
use std::sync::Arc;

use zsnap_common::durable::incoming::{Incoming, shown};
use zsnap_common::names::queue_name::{Label, QueueName};
use zsnap_common::names::target::Target;

use crate::known::{Entry, What};
use crate::opened::Opened;
use crate::plan::{Facts, Standing};
use crate::shared::{MemoryReservation, OpenSlot, Shared};

/// A directory that contains files of one host.
pub struct Place {
    /// The directory that contains the directories of all hosts.
    pub root: Arc<Incoming>,
    /// The directory of the host.
    pub dir: Incoming,
    /// Whether exec spooled the files. It knew the sender, so bare streams are allowed here.
    pub exec: bool,
}

/// The prefix of the keys of files in the incoming directory.
pub const INCOMING: &str = "incoming/";
const EXEC: &str = "exec/";

impl Place {
    /// Returns the key under which what is known of a file in this directory is saved.
    pub fn key(&self, name: &OsStr) -> String {
        format!("{}{}", if self.exec { EXEC } else { INCOMING }, shown(name))
    }
}

/// A queue file during a run.
pub struct File<'a> {
    /// The index of its directory in the host's places.
    pub place: usize,
    /// Its name as stored.
    pub name: OsString,
    /// Its name as parsed.
    pub queue: QueueName,
    /// What this and earlier runs know of it.
    pub entry: Entry,
    /// What this run has found out about it apart from what the plan says; `None`: the plan decides.
    pub settled: Option<Standing>,
    /// Whether it was applied, removed, or moved to quarantine.
    pub is_gone: bool,
    /// The verified file, if it was verified in this run and has been held open since.
    pub kept: Option<HeldFile<'a>>,
    /// Whether `zfs receive` rejected it in this run because the dataset was modified: it is not attempted again in
    /// this run.
    pub refused: bool,
}

impl File<'_> {
    /// Returns what the file says about its place in a chain, if that is known.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.entry.what {
            What::Says(facts) => Some(facts),
            _ => None,
        }
    }

    /// Whether the plan decides about it.
    pub fn is_open(&self) -> bool {
        self.settled.is_none() && !self.is_gone
    }

    /// Returns its last failure, if a program or disk has failed while it was processed.
    pub fn failure(&self) -> Option<String> {
        (self.entry.attempts > 0).then(|| self.entry.failed_over(&shown(&self.name)))
    }

    /// Returns the target in its name, if the name contains one.
    pub fn named(&self) -> Option<Target> {
        match &self.queue.label {
            Label::Dataset(dataset) => Some(Target { host: self.queue.host.clone(), dataset: dataset.clone() }),
            Label::Digest(_) => None,
        }
    }
}

/// A verified file that is held open.
pub struct HeldFile<'a> {
    /// Its verified content, which can write the stream.
    pub opened: Opened,
    /// The open file. A file is removed by name only if it is still this one.
    pub fd: Arc<Fd>,
    /// The memory that it uses.
    pub room: Option<MemoryReservation<'a>>,
    /// Its slot among the files that are held until they are applied.
    pub slot: Option<OpenSlot<'a>>,
}

impl<'a> HeldFile<'a> {
    /// Holds the file until it is applied. If too many are held already, it is closed, and will be verified again.
    pub fn hold(self, shared: &'a Shared<'_>) -> Option<HeldFile<'a>> {
        shared.slot().map(|slot| HeldFile { slot: Some(slot), ..self })
    }
}
