//! Reads the stream, checks it with the gate, computes its digest and passes it on to be sealed.
//! Memory is bounded: only the beginning, up to the first record of the first substream, is buffered.

use std::borrow::Borrow;
use std::io::{self, Read, Write};
use std::time::SystemTime;

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::progress::Progress;
use zsnap_common::names::digest::Hasher;
use zsnap_common::stream::{Gate, StreamError, StreamFacts};
use zsnap_message::payload::{Trailer, ZfsHead};
use zsnap_message::seal::SealError;

const CHUNK: usize = 256 << 10;

/// A stream whose beginning has been read.
pub struct Begun {
    /// `None` for an opaque stream.
    gate: Option<Gate>,
    read: Vec<u8>,
}

/// What the first records of a ZFS stream contain.
pub struct Beginning {
    pub head: ZfsHead,
    /// Whether a wrapper carries properties.
    pub properties: bool,
}

/// The summary of a stream that was passed on completely.
pub struct Passed {
    pub trailer: Trailer,
    /// `None` for an opaque stream.
    pub facts: Option<StreamFacts>,
}

impl Begun {
    /// Returns the beginning of an opaque stream. Nothing has to be read for it.
    pub fn opaque() -> Begun {
        Begun { gate: None, read: Vec::new() }
    }

    /// Reads a ZFS stream up to the first record of its first substream. The gate limits how many bytes
    /// that takes.
    pub fn zfs(input: &mut dyn Read) -> anyhow::Result<(Begun, Beginning)> {
        let (mut gate, mut read, mut chunk) = (Gate::new(), Vec::new(), vec![0; CHUNK]);
        loop {
            if let Some(head) = gate.head() {
                let first = head.first;
                let beginning = Beginning {
                    properties: head.properties,
                    head: ZfsHead {
                        from: first.from,
                        to: (!head.compound).then_some(first.to),
                        raw: first.raw,
                        compressed: first.compressed,
                        toname: head.toname,
                    },
                };
                return Ok((Begun { gate: Some(gate), read }, beginning));
            }
            let length = read_some(input, &mut chunk)?;
            if length == 0 {
                // The stream ended before its first substream: `finish` returns the reason.
                gate.finish().map_err(refused)?;
                return Err(Exit::Data.error("the stream holds no snapshot"));
            }
            gate.feed(&chunk[..length], &mut |_| Ok(())).map_err(refused)?;
            read.extend_from_slice(&chunk[..length]);
        }
    }

    /// Passes on everything up to the end of `input` to `out`. The stream is known to be complete only if
    /// this succeeds.
    pub fn pass(self, input: &mut dyn Read, out: &mut dyn Write, progress: &Progress) -> anyhow::Result<Passed> {
        let (mut gate, mut sum, mut bytes) = (self.gate, Hasher::default(), 0);
        let mut take = |part: &[u8]| -> anyhow::Result<()> {
            sum.write_all(part)?;
            out.write_all(part)?;
            bytes += part.len() as u64;
            progress.add(part.len() as u64);
            Ok(())
        };
        take(&self.read)?;
        drop(self.read);
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = read_some(input, &mut chunk)?;
            if length == 0 {
                break;
            }
            if let Some(gate) = &mut gate {
                gate.feed(&chunk[..length], &mut |_| Ok(())).map_err(refused)?;
            }
            take(&chunk[..length])?;
        }
        let facts = gate.map(|gate| gate.finish().map_err(refused)).transpose()?;
        // Until that date, the backup server would hold this file and all that build on it.
        if let Some(late) = facts.as_ref().and_then(|facts| facts.ahead(SystemTime::now())) {
            let what = format!("snapshot {} is dated more than a day ahead", late.snap);
            return Err(Exit::Data.error(format!("{what}: set the clock, destroy it, and take a new snapshot")));
        }
        let trailer = Trailer {
            zsnap: 1,
            bytes,
            sha256: sum.finish(),
            substreams: facts.as_ref().map(|f| f.substreams.len() as u64),
            to: facts.as_ref().and_then(|f| f.substreams.last()).map(|s| s.to),
        };
        Ok(Passed { trailer, facts })
    }
}

fn read_some(input: &mut dyn Read, chunk: &mut [u8]) -> anyhow::Result<usize> {
    loop {
        match input.read(chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.or_exit(Exit::Io, "cannot read the stream"),
        }
    }
}

fn refused(e: StreamError) -> anyhow::Error {
    match e {
        StreamError::Sink(e) => e.into(),
        other => Exit::Data.error(other.to_string()),
    }
}

impl Borrow<Trailer> for Passed {
    fn borrow(&self) -> &Trailer {
        &self.trailer
    }
}

/// Returns a function that adds the exit status and the remedy to the error of a queue file that could not be written.
pub fn seal_failed(what: &str) -> impl FnOnce(SealError) -> anyhow::Error {
    move |e| match e {
        SealError::Out(e) => io_failed(what)(e),
        SealError::Other(e) => e,
    }
}

/// Returns a function that adds the exit status and the remedy to an I/O error.
pub fn io_failed(what: &str) -> impl FnOnce(io::Error) -> anyhow::Error {
    move |e| {
        let (exit, remedy) = match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (Exit::TryAgain, " (make room, then run again)")
            }
            io::ErrorKind::FileTooLarge => {
                (Exit::CantCreate, " (the file system stores no larger file: use ext4 or exFAT)")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => (Exit::CantCreate, ""),
            _ => (Exit::Io, ""),
        };
        exit.context(e, format!("{what}{remedy}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_streams_pass_unchanged_with_their_digest() {
        let mut out = Vec::new();
        let bytes = vec![9; CHUNK + 1];
        let passed = Begun::opaque().pass(&mut bytes.as_slice(), &mut out, &Progress::new("", None)).unwrap();
        assert_eq!((passed.trailer.bytes, out.len(), passed.facts), (CHUNK as u64 + 1, CHUNK + 1, None));
        let empty = Begun::opaque().pass(&mut io::empty(), &mut out, &Progress::new("", None)).unwrap();
        assert_eq!(empty.trailer.sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn input_that_is_not_a_zfs_stream_is_a_data_error() {
        for input in [&b""[..], b"x", &[0; 400]] {
            let e = Begun::zfs(&mut { input }).map(|_| ()).unwrap_err();
            assert_eq!(Exit::of(&e), Exit::Data, "{e:#}");
        }
    }

    #[test]
    fn a_full_disk_is_reported_as_the_cause() {
        let failed = |e| Exit::of(&seal_failed("cannot write")(e));
        assert_eq!(failed(SealError::Out(io::ErrorKind::StorageFull.into())), Exit::TryAgain);
        assert_eq!(failed(Exit::Data.error("bad").into()), Exit::Data);
    }
}
