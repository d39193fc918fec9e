//! One sub-stream into one `zfs receive`. The arguments come from a fixed grammar: nothing here
//! can produce -F, -d, -e, -M or -s, and every name is ours, never the stream's.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::{ChildStdin, Stdio};

use anyhow::Result;
use zsnap_common::cancel::Interruptible;
use zsnap_common::child::{self, Child};
use zsnap_common::exit::Exit;
use zsnap_common::log;
use zsnap_common::zfs::Zfs;
use zsnap_common::zstream::gate::{Gate, Part};
use zsnap_common::zstream::{Kind, StreamError, SubStream};

/// The arguments of `zfs receive` for one sub-stream into `dataset`. What is received is never
/// mounted and never exposed as a device by itself; `DATASET@SNAP` fixes where it goes,
/// whatever names the stream holds.
pub fn argv(dataset: &str, sub: &SubStream) -> Vec<OsString> {
    let hidden = match sub.kind {
        Kind::Filesystem => "canmount=noauto",
        Kind::Volume => "volmode=none",
    };
    let to = format!("{dataset}@{}", sub.snap);
    ["receive", "-u", "-o", "readonly=on", "-o", hidden, &to].into_iter().map(OsString::from).collect()
}

/// Takes a verified stream apart: every sub-stream from number `skip` on goes to a `zfs receive`
/// of its own; wrappers and properties are dropped.
pub struct Unwrap<'a> {
    zfs: &'a Zfs,
    dataset: &'a str,
    gate: Gate,
    feeder: Feeder<'a>,
}

/// What runs while a sub-stream passes.
struct Feeder<'a> {
    zfs: &'a Zfs,
    dataset: &'a str,
    skip: usize,
    seen: usize,
    current: Option<Current>,
    committed: Vec<SubStream>,
    failed: Option<anyhow::Error>,
}

struct Current {
    sub: SubStream,
    // Dropped before the pipe: killed before it could see an end that is none.
    child: Child,
    stdin: Option<BufWriter<Interruptible<ChildStdin>>>,
}

impl<'a> Unwrap<'a> {
    /// Receives into `dataset`.
    pub fn new(zfs: &'a Zfs, dataset: &'a str, skip: usize) -> Unwrap<'a> {
        let feeder = Feeder { zfs, dataset, skip, seen: 0, current: None, committed: Vec::new(), failed: None };
        Unwrap { zfs, dataset, gate: Gate::new(), feeder }
    }

    /// What was committed, and what went wrong, if anything. Call it also after a failed write:
    /// a child may have committed all the same.
    pub fn end(mut self) -> (Vec<SubStream>, Result<()>) {
        // A child that still runs is killed before its stdin is closed (see Child).
        if let Some(mut current) = self.feeder.current.take() {
            current.child.kill();
            let name = format!("{}@{}", self.dataset, current.sub.snap);
            if self.zfs.snapshot_guid(&name).ok().flatten() == Some(current.sub.to) {
                self.feeder.committed.push(current.sub);
            }
        }
        let result = match self.feeder.failed {
            Some(e) => Err(e),
            None => self.gate.finish().map(drop).map_err(|e| Exit::Data.error(e.to_string())),
        };
        (self.feeder.committed, result)
    }
}

impl Write for Unwrap<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let feeder = &mut self.feeder;
        match self.gate.feed(bytes, &mut |part| feeder.take(part)) {
            Ok(()) => Ok(bytes.len()),
            Err(StreamError::Sink(e)) => Err(e),
            Err(e) => Err(io::Error::other(e.to_string())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Feeder<'_> {
    fn take(&mut self, part: Part<'_>) -> io::Result<()> {
        let done = match part {
            Part::Begin(sub) => {
                self.seen += 1;
                if self.seen <= self.skip { Ok(()) } else { self.begin(sub) }
            }
            Part::Bytes(bytes) => self.bytes(bytes),
            Part::End => self.finish(),
        };
        done.map_err(|e| {
            let shown = io::Error::other(format!("{e:#}"));
            self.failed.get_or_insert(e);
            shown
        })
    }

    fn begin(&mut self, sub: &SubStream) -> Result<()> {
        let mut command = child::command(self.zfs.program());
        command.args(argv(self.dataset, sub)).stdin(Stdio::piped());
        log::info(format!("receiving {}@{}", self.dataset, sub.snap));
        let mut child = Child::spawn(command, "zfs")?;
        let stdin = child.stdin().map(|pipe| BufWriter::with_capacity(256 * 1024, Interruptible::new(pipe)));
        self.current = Some(Current { sub: sub.clone(), child, stdin });
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stdin) = self.current.as_mut().and_then(|current| current.stdin.as_mut()) else { return Ok(()) };
        match stdin.write_all(bytes) {
            // It ended early: its status and the pool tell why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.finish(),
            other => Ok(other?),
        }
    }

    /// Whether the snapshot is there decides, not the exit status: an orphan or a late error may
    /// have committed, and a success may not have (OpenZFS ignores a snapshot that is there).
    fn finish(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        if let Some(mut stdin) = current.stdin.take() {
            match stdin.flush() {
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                    current.child.kill();
                    return Err(e.into());
                }
                _ => drop(stdin),
            }
        }
        let status = current.child.wait(None)?;
        let name = format!("{}@{}", self.dataset, current.sub.snap);
        if self.zfs.snapshot_guid(&name)? == Some(current.sub.to) {
            self.committed.push(current.sub);
            return Ok(());
        }
        let words = current.child.last_words();
        Err(Exit::Unavailable.error(format!("zfs receive {name}: {status}, and the snapshot is not there: {words}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zsnap_common::zstream::Guid;

    #[test]
    fn the_arguments_have_one_form() {
        let mut sub = SubStream {
            fs: "tank/evil".into(),
            snap: "s 1".into(),
            from: None,
            to: Guid(1),
            kind: Kind::Filesystem,
            raw: false,
            compressed: false,
            created: 0,
        };
        let line = |sub: &SubStream| argv("pool/hosts/h/tank", sub).join(" ".as_ref()).into_string().unwrap();
        assert_eq!(line(&sub), "receive -u -o readonly=on -o canmount=noauto pool/hosts/h/tank@s 1");
        sub.kind = Kind::Volume;
        assert_eq!(line(&sub), "receive -u -o readonly=on -o volmode=none pool/hosts/h/tank@s 1");
    }
}
