//! Releases the stream of an authentic message: from memory, or by a second pass.

use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::thread::{self, ScopedJoinHandle};

use super::digests::Digest;
use super::memory::Memory;
use super::seipd::Session;
use super::{again, walk};
use crate::payload::{PayloadError, PayloadReader};
use crate::pipe::{Disconnected, PipeWriter, drain, pipe};
use zsnap_common::cli::exit::Exit;

/// How the stream is obtained again.
pub enum Again {
    /// The stream was kept: its bytes.
    Plain(Memory),
    /// It was not: the message is read and decrypted again, and its payload compared with the digests of the
    /// authentic one.
    Pass { digests: Vec<Digest>, length: u64, session: Session },
}

impl Again {
    /// Returns how many bytes of memory it takes.
    pub fn kept(&self) -> u64 {
        match self {
            Again::Plain(bytes) => bytes.resident(),
            Again::Pass { digests, .. } => size_of_val(digests.as_slice()) as u64,
        }
    }

    /// Writes the stream to `out`, and returns its length in bytes.
    pub fn write<R: Read + Seek + Send>(
        self,
        src: &mut R,
        window_log: u32,
        out: &mut dyn Write,
    ) -> anyhow::Result<u64> {
        match self {
            Again::Plain(plain) => {
                out.write_all(&plain)?;
                Ok(plain.len() as u64)
            }
            Again::Pass { digests, length, session } => {
                src.seek(SeekFrom::Start(0))?;
                let (to, from) = pipe();
                thread::scope(|scope| {
                    let pass = walk::spawn(scope, || again::decrypt_again(src, length, &digests, &session, to))?;
                    let written = decompress(from, window_log, out);
                    both(joined(pass), written).map(|((), written)| written)
                })
            }
        }
    }
}

/// Decompresses a payload that was walked before, writes its stream to `out`, and returns the length. A thread of its
/// own decompresses while this one writes.
fn decompress(payload: impl BufRead + Send, window_log: u32, out: &mut dyn Write) -> anyhow::Result<u64> {
    let (to, mut from) = pipe();
    thread::scope(|scope| {
        let unpacking = walk::spawn(scope, || unpack(payload, window_log, to))?;
        let written = drain(&mut from, out);
        drop(from); // otherwise the thread would wait for it
        both(joined(unpacking), written.map_err(anyhow::Error::from)).map(|(length, ())| length)
    })
}

fn unpack(payload: impl BufRead, window_log: u32, mut to: PipeWriter<'_>) -> anyhow::Result<u64> {
    let failed = |e| match e {
        PayloadError::Io(e) => e.into(),
        PayloadError::Malformed(why) | PayloadError::Newer(why) | PayloadError::Window(why) => {
            Exit::Io.error(format!("the second reading failed: {why}"))
        }
    };
    let mut reader = PayloadReader::new(payload, window_log).map_err(failed)?;
    let mut length = 0;
    loop {
        let n = reader.read(to.space()).map_err(failed)?;
        if n == 0 {
            to.finish()?;
            return Ok(length);
        }
        to.advance(n)?;
        length += n as u64;
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| Err(Exit::Io.error("a thread that reads the message again failed")))
}

/// Returns the results of both ends of a pipe. Of two errors, one only says that the other end is gone.
fn both<T, U>(writing: anyhow::Result<T>, reading: anyhow::Result<U>) -> anyhow::Result<(T, U)> {
    match (writing, reading) {
        (Err(e), Err(broken)) if Disconnected::is(&broken) => Err(e),
        (_, Err(e)) | (Err(e), Ok(_)) => Err(e),
        (Ok(written), Ok(read)) => Ok((written, read)),
    }
}
