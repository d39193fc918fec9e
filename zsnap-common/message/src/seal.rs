//! Sealing: a stream becomes a queue file.
//!
//! Four threads work, with pipes between them: the caller's produces and compresses, one signs, one encrypts, one
//! writes.

mod effort;
mod seipd;

use std::borrow::Borrow;
use std::io::{self, Write};
use std::thread::{self, ScopedJoinHandle};

use sequoia_openpgp as openpgp;

use openpgp::serialize::stream::{LiteralWriter, Message, Signer};
use openpgp::types::HashAlgorithm;
use zstd::stream::raw::CParameter;

use effort::Effort;

use crate::keys::{Format, Recipients, SigningKey};
use crate::payload::{Manifest, Trailer};
use crate::pipe::{Disconnected, PipeReader, PipeWriter, drain, pipe};
use zsnap_common::cli::exit::Exit;
use zsnap_common::stream::counted::Counted;

/// How a queue file is sealed.
pub struct Sealing<'a> {
    /// The recipients to encrypt to.
    pub recipients: &'a Recipients,
    /// The key to sign with. `None`: the file is not signed.
    pub signer: Option<&'a SigningKey>,
    /// The OpenPGP format.
    pub format: Format,
    /// The zstd level; data that does not compress gets a lower one.
    pub level: i32,
    /// The number of zstd worker threads. 0 or 1: one thread compresses.
    pub threads: u32,
}

/// Why a queue file could not be sealed.
#[derive(Debug)]
pub enum SealError {
    /// The writer of the queue file failed.
    Out(io::Error),
    /// Anything else failed, such as what writes the stream.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for SealError {
    fn from(e: E) -> SealError {
        SealError::Other(e.into())
    }
}

impl SealError {
    /// Whether it says only that another thread failed.
    fn is_of_another(&self) -> bool {
        match self {
            SealError::Out(e) => Disconnected::is_io(e),
            SealError::Other(e) => Disconnected::is(e),
        }
    }
}

/// Seals what `body` writes, and writes it to `out`: OpenPGP(encrypt(sign(literal(manifest, zstd(body), trailer)))).
/// Compression, signing, encryption and writing overlap in threads; memory is bounded. Returns `out` and what `body`
/// returns, which has the trailer.
///
/// # Errors
/// An error of `body` or `out` ends all threads. What `out` has received is garbage then, and the caller must discard
/// it.
pub fn seal<W: Write + Send + Sync, T: Borrow<Trailer>>(
    out: W,
    how: &Sealing<'_>,
    manifest: &Manifest,
    body: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
) -> Result<(W, T), SealError> {
    let front = manifest.encode()?;
    if how.format == Format::Gpg && how.signer.is_some_and(|signer| signer.pair.public().version() > 4) {
        return Err(Exit::Config
            .error("the signing key is of version 6, which no GnuPG reads: use --format aead")
            .into());
    }
    let (to_sign, from_body) = pipe();
    let (to_encrypt, from_sign) = pipe();
    let (to_write, from_encrypt) = pipe();
    thread::scope(|scope| {
        let writing = scope.spawn(|| write(from_encrypt, out));
        let encrypting = scope.spawn(|| encrypt(from_sign, to_write, how));
        let signing = scope.spawn(|| sign(from_body, to_encrypt, how));
        let mut errors = Vec::new();
        let content = kept(produce(to_sign, how, &front, body), &mut errors);
        let out = kept(joined(writing), &mut errors);
        kept(joined(encrypting), &mut errors);
        kept(joined(signing), &mut errors);
        match (out, content, errors.is_empty()) {
            (Some(out), Some(content), true) => Ok((out, content)),
            // The thread that failed by itself has the reason; the others only saw a pipe break.
            _ => Err(errors.into_iter().find(|e| !e.is_of_another()).unwrap_or_else(|| interrupted().into())),
        }
    })
}

fn interrupted() -> anyhow::Error {
    Exit::Io.error("sealing was interrupted")
}

/// Returns the result of a thread, or moves its error to `errors`.
fn kept<T>(result: Result<T, SealError>, errors: &mut Vec<SealError>) -> Option<T> {
    result.map_err(|e| errors.push(e)).ok()
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, SealError>>) -> Result<T, SealError> {
    thread.join().unwrap_or_else(|_| Err(Exit::Io.error("a thread that seals failed").into()))
}

/// Compresses what `body` writes with zstd, between manifest and trailer.
fn produce<T: Borrow<Trailer>>(
    mut to: PipeWriter<'static>,
    how: &Sealing<'_>,
    front: &[u8],
    body: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
) -> Result<T, SealError> {
    to.write_all(front)?;
    let mut zstd = zstd::stream::write::Encoder::new(Counted { to, bytes: 0 }, how.level)?;
    zstd.include_checksum(true)?;
    if how.threads > 1 {
        zstd.multithread(how.threads)?;
    }
    let mut zstd = Compressor { zstd, read: 0, effort: Effort::new(how.level), broken: false };
    let content = match body(&mut zstd) {
        // It failed because a later stage did: this is not an error of its own.
        Err(_) if zstd.broken => return Err(io::Error::other(Disconnected).into()),
        other => other?,
    };
    let mut to = zstd.zstd.finish()?.to;
    to.write_all(&content.borrow().encode()?)?;
    to.finish()?;
    Ok(content)
}

/// Compresses, at a level that depends on what that gains.
struct Compressor {
    zstd: zstd::stream::write::Encoder<'static, Counted<PipeWriter<'static>>>,
    /// The number of bytes that were compressed.
    read: u64,
    effort: Effort,
    /// Whether a write failed because a later stage is gone.
    broken: bool,
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.zstd.write(bytes).inspect_err(|e| self.broken |= Disconnected::is_io(e))?;
        self.read += n as u64;
        if let Some(level) = self.effort.decide(self.read, self.zstd.get_ref().bytes) {
            // It applies to what the threads begin from now on; one thread alone keeps its level within a frame.
            self.zstd.set_parameter(CParameter::CompressionLevel(level))?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // a flush in the middle would only cost compression
    }
}

/// Writes a one-pass signature, the literal packet, and the signature.
fn sign(mut from: PipeReader<'_>, mut to: PipeWriter<'_>, how: &Sealing<'_>) -> Result<(), SealError> {
    let mut message = Message::new(&mut to);
    if let Some(signer) = how.signer {
        // SHA-256 is three times as fast as Sequoia's default, SHA-512.
        let mut signer = Signer::new(message, signer.pair.clone())?.hash_algo(HashAlgorithm::SHA256)?;
        for cert in &how.recipients.certs {
            signer = signer.add_intended_recipient(cert);
        }
        message = signer.build()?;
    }
    let mut literal = LiteralWriter::new(message).build()?;
    drain(&mut from, &mut literal)?;
    literal.finalize()?;
    Ok(to.finish()?)
}

/// Writes the session key for each recipient, and the encrypted packet around what was signed.
fn encrypt(mut from: PipeReader<'_>, mut to: PipeWriter<'_>, how: &Sealing<'_>) -> Result<(), SealError> {
    let keys = &how.recipients.keys;
    match how.format {
        Format::Gpg => seipd::encrypt_v1(&mut from, &mut to, keys)?,
        Format::Aead => seipd::encrypt_v2(&mut from, &mut to, keys)?,
    }
    Ok(to.finish()?)
}

fn write<W: Write>(mut from: PipeReader<'_>, mut out: W) -> Result<W, SealError> {
    drain(&mut from, &mut out).and_then(|()| out.flush()).map_err(SealError::Out)?;
    Ok(out)
}

/// The memory of the process that is not zstd's, in bytes: the pipes, Sequoia's buffers, the program.
const BASE: u64 = 48 << 20;

/// Returns the maximum number of zstd workers, at least 1, whose memory and that of the rest of the process stay
/// below `budget` bytes. A worker has its own tables and the input and output of a job (zstd 1.5.7:
/// `ZSTDMT_computeTargetJobLog`: four windows), and three more jobs wait in the buffer.
pub fn max_threads(level: i32, budget: u64) -> u32 {
    let (tables, job): (u64, u64) = match level {
        ..=2 => (2 << 20, 4 << 20),
        3..=8 => (8 << 20, 8 << 20),
        9..=16 => (45 << 20, 16 << 20),
        17..=19 => (90 << 20, 32 << 20),
        _ => (700 << 20, 512 << 20),
    };
    let workers = budget.saturating_sub(BASE + 3 * job) / (tables + 2 * job);
    u32::try_from(workers).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zstd::stream::raw::{InBuffer, OutBuffer};
    use zstd::zstd_safe::{CCtx, zstd_sys::ZSTD_EndDirective::ZSTD_e_continue};

    #[test]
    fn workers_fit_the_budget() {
        let data: Vec<u8> = (0..6_u32 << 20).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
        for (level, most) in [(1, 16), (8, 7), (12, 2)] {
            let threads = max_threads(level, 256 << 20).min(16);
            assert_eq!(threads, most, "level {level}");
            let mut zstd = CCtx::create();
            zstd.set_parameter(CParameter::CompressionLevel(level)).unwrap();
            zstd.set_parameter(CParameter::NbWorkers(threads)).unwrap();
            let (mut input, mut out, mut peak) = (InBuffer::around(&data), vec![0; 1 << 18], 0);
            while input.pos() < data.len() {
                let mut out = OutBuffer::around(&mut out[..]);
                zstd.compress_stream2(&mut out, &mut input, ZSTD_e_continue).unwrap();
                peak = peak.max(zstd.sizeof() as u64);
            }
            assert!(peak + BASE <= 256 << 20, "level {level}: {peak}");
        }
        assert_eq!((max_threads(8, 0), max_threads(22, 256 << 20)), (1, 1));
    }
}
