//! The record of deliveries that were aborted because they hung: `.hang.json` in the outbox. If it is missing or
//! outdated, only time is lost.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Dest, Item, hangs};
use crate::durable::publish;
use crate::names::queue_name::{Label, QueueName};
use crate::names::target::Host;
use crate::process::proc::began;

const NOTE: &str = ".hang.json";

/// The content of `.hang.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// The destination that hung. An outbox is named after a drive, which may become another destination later.
    dest: Dest,
    /// When a delivery hung, if none has ended since: seconds since 1970.
    hung: Option<u64>,
    /// The files with which a program hung, one of each host and label, the latest last.
    files: Vec<String>,
    /// The process that was killed but that the kernel did not end.
    process: Option<Process>,
}

/// A process, identified so that a later one with the same id is not mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// When it started: clock ticks since the machine was started.
    began: u64,
    /// When it was left behind: seconds since 1970.
    left: u64,
}

impl Hang {
    /// Reads the record from the outbox. It is empty if there is none, or one of another destination, or one that
    /// cannot be read.
    pub fn read(outbox: &Path, dest: &Dest) -> Hang {
        let note = fs::read(outbox.join(NOTE)).ok().and_then(|text| serde_json::from_slice::<Hang>(&text).ok());
        let nothing = || Hang { dest: dest.clone(), hung: None, files: Vec::new(), process: None };
        note.filter(|note| note.dest == *dest).unwrap_or_else(nothing)
    }

    /// Writes the record, or removes it if it is empty.
    pub(super) fn write(&self, outbox: &Path) -> anyhow::Result<()> {
        let path = outbox.join(NOTE);
        if self.hung.is_some() || !self.files.is_empty() || self.process.is_some() {
            return Ok(publish::write_durably(&path, &serde_json::to_vec(self)?)?);
        }
        // If this fails, an outdated record is only believed for longer.
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Records that a delivery was aborted because of `why`. `item` is the file that a program received, `left` the
    /// id of the process that was left behind. Returns whether the record is to be written.
    pub(super) fn given_up(&mut self, why: &anyhow::Error, item: Option<&Item>, left: Option<u32>) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let hung = hangs(why);
        // Otherwise it was a signal, which says nothing about the destination.
        if hung {
            self.hung = Some(now);
            self.forget(item);
            self.files.extend(item.map(|item| item.name.clone()));
        }
        if let Some(pid) = left {
            self.process = began(pid).map(|began| Process { pid, began, left: now });
        }
        hung || left.is_some()
    }

    /// Records that the delivery of these items has ended, successfully or not. Returns whether the record is to be
    /// written.
    pub(super) fn ended<'i>(&mut self, items: impl IntoIterator<Item = &'i Item>) -> bool {
        let before = (self.hung.take(), self.process.take(), self.files.len());
        self.forget(items);
        before != (None, None, self.files.len())
    }

    fn forget<'i>(&mut self, items: impl IntoIterator<Item = &'i Item>) {
        let gone: Vec<_> = items.into_iter().map(Item::line).collect();
        self.files.retain(|file| line(file).is_some_and(|line| !gone.contains(&line)));
    }

    /// Returns when a delivery hung, if none has ended since, or when its process was left behind, if that still
    /// exists: seconds since 1970.
    pub fn hung_at(&self) -> Option<u64> {
        self.hung.or_else(|| self.process().map(|(_, left)| left))
    }

    /// Returns the hosts and labels with whose files a program hung, the latest last.
    pub fn lines(&self) -> Vec<(Host, Label)> {
        self.files.iter().filter_map(|file| line(file)).collect()
    }

    /// Returns the id of the process that was left behind, if it still exists, and when that was: seconds since 1970.
    pub fn process(&self) -> Option<(u32, u64)> {
        let process = self.process.as_ref()?;
        (began(process.pid) == Some(process.began)).then_some((process.pid, process.left))
    }
}

fn line(file: &str) -> Option<(Host, Label)> {
    let name: QueueName = file.parse().ok()?;
    Some((name.host, name.label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;
    use crate::process::hung::hung;

    fn item(seq: u32, dataset: &str) -> Item {
        let name = format!("bakfsfmt2-1700000000.{seq:09}.1_h@{dataset}");
        let file = fs::File::open("/dev/null").unwrap();
        Item { parsed: name.parse().unwrap(), entry: name.clone(), name, file }
    }

    fn nothing() -> Hang {
        Hang::read("/nonexistent".as_ref(), &"cmd:x".parse().unwrap())
    }

    #[test]
    fn a_process_counts_only_while_the_same_process_exists() {
        let outbox = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut hang = nothing();
        // A signal says nothing about the destination; a process that is left behind does.
        assert!(!hang.given_up(&Exit::Io.error("a signal"), Some(&item(1, "a")), None));
        assert_eq!(hang, nothing());
        assert!(hang.given_up(&Exit::Io.error("a signal"), Some(&item(1, "a")), Some(child.id())));
        hang.write(outbox.path()).unwrap();
        let read = Hang::read(outbox.path(), &hang.dest);
        assert_eq!((&read, read.process().unwrap().0), (&hang, child.id()));
        assert!(read.hung_at().is_some() && read.lines().is_empty());
        assert_eq!(Hang::read(outbox.path(), &"cmd:y".parse().unwrap()).process(), None);
        let began = hang.process.as_ref().unwrap().began + 1;
        let process = Process { began, ..hang.process.clone().unwrap() };
        assert_eq!(Hang { process: Some(process), ..hang.clone() }.process(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((read.process(), read.hung_at()), (None, None));
        assert!(hang.ended([]) && !hang.ended([]));
        hang.write(outbox.path()).unwrap();
        assert!(!outbox.path().join(NOTE).exists());
        fs::write(outbox.path().join(NOTE), "{").unwrap();
        assert_eq!(Hang::read(outbox.path(), &hang.dest), nothing());
    }

    #[test]
    fn datasets_that_hung_are_tried_last_in_the_order_of_their_hangs() {
        let mut hang = nothing();
        let labels = |hang: &Hang| hang.lines().into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        let of = |items: &[&Item]| items.iter().map(|item| item.parsed.label.clone()).collect::<Vec<_>>();
        let (a, b, later) = (item(1, "a"), item(2, "b"), item(3, "a"));
        for item in [&a, &b, &later] {
            assert!(hang.given_up(&hung("no answer"), Some(item), None) && hang.hung_at().is_some());
        }
        assert_eq!(labels(&hang), of(&[&b, &later]));
        // Another delivery has ended, so the destination does not hang, only the deliveries of these files do.
        assert!(hang.ended([&item(4, "c")]) && !hang.ended([&item(5, "c")]));
        assert_eq!((hang.hung_at(), labels(&hang)), (None, of(&[&b, &later])));
        assert!(hang.ended([&item(6, "b")]));
        assert_eq!(labels(&hang), of(&[&later]));
    }
}
