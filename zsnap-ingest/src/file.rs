//! A queue file in a run: where it lies, what is known of it, what became of it.

use std::ffi::{OsStr, OsString};
use std::fs::File as Fd;
use std::sync::Arc;

use zsnap_common::durable::incoming::{Incoming, shown};
use zsnap_common::names::queue_name::{Label, QueueName};
use zsnap_common::names::target::Target;

use crate::known::{Entry, What};
use crate::opened::Opened;
use crate::plan::Facts;
use crate::shared::{Room, Shared, Slot};

/// A directory with files of the host.
pub struct Place {
    /// The directory of all hosts.
    pub root: Arc<Incoming>,
    /// The host's.
    pub dir: Incoming,
    /// Spooled by exec, which knew the sender: plain streams are allowed here.
    pub exec: bool,
}

/// How the keys of files in the incoming directory begin.
pub const INCOMING: &str = "incoming/";
const EXEC: &str = "exec/";

impl Place {
    /// What a file here is remembered by.
    pub fn key(&self, name: &OsStr) -> String {
        format!("{}{}", if self.exec { EXEC } else { INCOMING }, shown(name))
    }
}

/// A queue file.
pub struct File<'a> {
    /// Which of the host's places.
    pub place: usize,
    /// Its name as it is.
    pub name: OsString,
    /// Its name as it is read.
    pub queue: QueueName,
    /// What is known of it.
    pub entry: Entry,
    /// What became of it in this run.
    pub fate: Fate,
    /// Verified in this run and not let go of since.
    pub kept: Option<Kept<'a>>,
    /// Its dataset refused it as changed in this run, and is not asked again in this run.
    pub refused: bool,
}

/// What became of a file in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet.
    Open,
    /// Trouble that may pass: still arriving, not here, not its turn.
    Later(String),
    /// A program or a disk failed over it: not again in this run.
    Failed,
    /// It is left alone.
    Bad(String),
    /// It would go to quarantine, if anything were done.
    Doomed(String),
    /// Applied, removed, or moved away.
    Gone,
}

impl File<'_> {
    /// What it says, if that is known.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.entry.what {
            What::Says(facts) => Some(facts),
            _ => None,
        }
    }

    /// The target that its name tells.
    pub fn named(&self) -> Option<Target> {
        match &self.queue.label {
            Label::Dataset(dataset) => Some(Target { host: self.queue.host.clone(), dataset: dataset.clone() }),
            Label::Digest(_) => None,
        }
    }
}

/// A verified file.
pub struct Kept<'a> {
    /// Gives its stream.
    pub opened: Opened,
    /// What was opened: only that is removed.
    pub fd: Arc<Fd>,
    /// Its memory.
    pub room: Option<Room<'a>>,
    /// Its place among those that are held until they are applied.
    pub slot: Option<Slot<'a>>,
}

impl<'a> Kept<'a> {
    /// Holds it until it is applied, unless too many are held: then it will be verified again.
    pub fn hold(self, shared: &'a Shared<'_>) -> Option<Kept<'a>> {
        shared.slot().map(|slot| Kept { slot: Some(slot), ..self })
    }
}
