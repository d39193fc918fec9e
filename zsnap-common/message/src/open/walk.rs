//! Walks a payload: checks its form, its digest and, for ZFS, its stream, record by record.

use std::cell::Cell;
use std::io::{self, BufRead, Read, Write};
use std::thread::{self, Scope, ScopedJoinHandle};

use sha2::{Digest, Sha256};

use super::{Limits, Refusal};
use crate::payload::{Manifest, PayloadError, PayloadKind, PayloadReader, Trailer};
use crate::pipe::{PipeReader, pipe};
use zsnap_common::cli::cancel;
use zsnap_common::names::digest::hex;
use zsnap_common::stream::{Gate, StreamFacts};

/// The number of bytes decompressed at a time.
pub const STEP: usize = 256 << 10;

/// The length of the uncompressed stream up to which [`Limits::max_ratio`] is not checked: empty and uniform data
/// compress as well as a zip bomb, and a bomb of this size does no harm.
const ANY_RATIO: u64 = 1 << 30;

/// What a payload contains.
pub struct Walked {
    pub manifest: Option<Manifest>,
    pub trailer: Option<Trailer>,
    pub stream: Option<StreamFacts>,
    /// The length of the uncompressed stream, in bytes.
    pub bytes: u64,
    /// The uncompressed stream, if it is not longer than was to be kept.
    pub plain: Option<Vec<u8>>,
}

impl From<PayloadError> for Refusal {
    fn from(e: PayloadError) -> Refusal {
        match e {
            PayloadError::Malformed(why) => Refusal::Malformed(why),
            PayloadError::Newer(why) => Refusal::Newer(why),
            PayloadError::Window(why) => Refusal::TooLarge(why),
            PayloadError::Io(e) => Refusal::Io(e),
        }
    }
}

/// Reads `payload` to its end. Keeps the uncompressed stream as long as it has at most `keep` bytes. A second thread
/// digests the stream and walks the gate, because that takes as long as decompression. Stops where a limit is
/// exceeded, so that a payload that decompresses to very much costs little time.
pub fn walk(payload: impl BufRead, limits: &Limits, keep: u64) -> Result<Walked, Refusal> {
    let taken = Cell::new(0);
    let mut reader = PayloadReader::new(Counted { src: payload, taken: &taken }, limits.window_log)?;
    let opaque = reader.manifest().is_some_and(|manifest| manifest.kind == PayloadKind::Opaque);
    let mut plain = (keep > 0).then(Vec::new);
    let (mut to, mut from) = pipe();
    let (bytes, checked) = thread::scope(|scope| -> Result<_, Refusal> {
        let checking = spawn(scope, move || check(&mut from, (!opaque).then(Gate::new)))?;
        let mut decompress = || -> Result<u64, Refusal> {
            let (mut bytes, mut buffer) = (0, vec![0; STEP]);
            loop {
                cancel::check().map_err(Refusal::Io)?;
                let n = reader.read(&mut buffer)?;
                let piece = &buffer[..n];
                if n == 0 {
                    return Ok(bytes);
                }
                bytes += n as u64;
                within(limits, bytes, taken.get())?;
                // Without the memory, the stream is decompressed again when it is wanted.
                if bytes > keep || plain.as_mut().is_some_and(|plain| plain.try_reserve(n).is_err()) {
                    plain = None;
                }
                if let Some(plain) = &mut plain {
                    plain.extend_from_slice(piece);
                }
                // The checking thread has rejected it, and returns the reason.
                if to.write_all(piece).is_err() {
                    return Ok(bytes);
                }
            }
        };
        let bytes = decompress();
        match bytes {
            // If the checking thread is gone, it returns the reason.
            Ok(_) => drop(to.finish()),
            Err(_) => drop(to),
        }
        let failed = || Err(Refusal::Malformed("walking it failed".into()));
        Ok((bytes, checking.join().unwrap_or_else(|_| failed())))
    })?;
    let bytes = bytes?;
    let Checked { sha256, gate } = checked?;
    let (manifest, trailer) = (reader.manifest().cloned(), reader.trailer().cloned());
    if trailer.as_ref().is_some_and(|trailer| trailer.bytes != bytes || trailer.sha256 != sha256) {
        return Err(Refusal::Malformed("the stream is not the one that its trailer describes".into()));
    }
    let stream = match gate {
        Some(gate) => Some(facts(gate, manifest.as_ref(), trailer.as_ref())?),
        None => None,
    };
    Ok(Walked { manifest, trailer, stream, bytes, plain })
}

/// Starts a thread. If the machine has none left, that is `Refusal::Io`, because it is not the message's fault.
pub(super) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Refusal> {
    thread::Builder::new().spawn_scoped(scope, work).map_err(Refusal::Io)
}

/// Checks that a stream of `bytes`, for which `taken` bytes of payload were read, is within the limits.
fn within(limits: &Limits, bytes: u64, taken: u64) -> Result<(), Refusal> {
    if let Some(most) = limits.max_size.filter(|most| bytes > *most) {
        return Err(Refusal::TooLarge(format!("its stream is longer than max-size, {most} bytes")));
    }
    if bytes > ANY_RATIO && bytes > taken.saturating_mul(limits.max_ratio) {
        let ratio = limits.max_ratio;
        return Err(Refusal::TooLarge(format!(
            "{taken} bytes of it are more than {bytes} bytes of stream, and max-ratio is {ratio}"
        )));
    }
    Ok(())
}

/// Counts the bytes that are read.
struct Counted<'a, R> {
    src: R,
    taken: &'a Cell<u64>,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.src.read(out)?;
        self.taken.set(self.taken.get() + n as u64);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.src.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.taken.set(self.taken.get() + n as u64);
        self.src.consume(n);
    }
}

/// What the second thread found.
struct Checked {
    /// In hex digits.
    sha256: String,
    gate: Option<Gate>,
}

fn check(from: &mut PipeReader, mut gate: Option<Gate>) -> Result<Checked, Refusal> {
    let mut sha256 = Sha256::new();
    loop {
        let piece = from.fill_buf().map_err(Refusal::Io)?;
        if piece.is_empty() {
            return Ok(Checked { sha256: hex(&sha256.finalize()), gate });
        }
        sha256.update(piece);
        if let Some(gate) = &mut gate {
            gate.feed(piece, &mut |_| Ok(())).map_err(|e| Refusal::Malformed(e.to_string()))?;
        }
        let n = piece.len();
        from.consume(n);
    }
}

/// Ends a ZFS stream: what manifest and trailer say about it must be what the gate saw.
fn facts(gate: Gate, manifest: Option<&Manifest>, trailer: Option<&Trailer>) -> Result<StreamFacts, Refusal> {
    let head = gate.head().map(|head| (head.toname, head.compound, head.first.from, head.first.to));
    let facts = gate.finish().map_err(|e| Refusal::Malformed(e.to_string()))?;
    if let Some(zfs) = manifest.and_then(|manifest| manifest.zfs.as_ref()) {
        let agrees = head.is_some_and(|(toname, compound, from, to)| {
            zfs.toname == toname && zfs.from == from && zfs.to == (!compound).then_some(to)
        });
        if !agrees {
            return Err(Refusal::Malformed("the stream is not the one that its manifest describes".into()));
        }
    }
    if let Some(trailer) = trailer {
        let count = facts.substreams.len() as u64;
        if trailer.substreams != Some(count) || trailer.to != facts.substreams.last().map(|last| last.to) {
            return Err(Refusal::Malformed("the stream's snapshots are not those that its trailer describes".into()));
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Base, Epoch};

    const LIMITS: Limits = Limits { verify_buffer: 0, window_log: 27, max_size: None, max_ratio: 10_000 };

    /// Returns a manifest and a zstd frame of so many blocks of 128 KiB of zeros, each of which has four bytes (RFC
    /// 8878, 3.1.1: RLE_Block). There is no trailer, because no test gets that far.
    fn bomb(blocks: u32) -> Vec<u8> {
        let manifest = Manifest {
            zsnap: 1,
            host: "h".parse().unwrap(),
            dataset: "d".parse().unwrap(),
            created: 0,
            kind: PayloadKind::Opaque,
            id: "0".repeat(32),
            epoch: Epoch { id: "0".repeat(32), started: 0 },
            seq: 1,
            prev: None,
            base: Base::None,
            zfs: None,
        };
        let mut payload = manifest.encode().unwrap();
        // No content size, a window of 128 KiB.
        payload.extend([0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3]);
        for left in (0..blocks).rev() {
            let header: u32 = u32::from(left == 0) | 1 << 1 | (128 << 10) << 3;
            payload.extend(&header.to_le_bytes()[..3]);
            payload.push(0);
        }
        payload
    }

    fn refused(payload: &[u8], limits: &Limits) -> Refusal {
        walk(payload, limits, 1 << 20).err().unwrap()
    }

    #[test]
    fn a_bomb_is_left_when_it_is_known_for_one() {
        // It has 64 GiB, of which hardly more than one is read.
        match refused(&bomb(1 << 19), &LIMITS) {
            Refusal::TooLarge(why) => {
                let bytes: u64 = why.split(' ').find_map(|word| word.parse().ok().filter(|n| *n > ANY_RATIO)).unwrap();
                assert!(bytes < ANY_RATIO + (1 << 20), "{why}");
                assert!(why.contains("max-ratio is 10000"), "{why}");
            }
            other => panic!("{other}"),
        }
        // A small payload may be as dense.
        assert!(matches!(refused(&bomb(100), &LIMITS), Refusal::Malformed(why) if why.contains("without a trailer")));
    }

    #[test]
    fn limits_are_what_is_still_allowed() {
        let block = 128 << 10;
        let small = |most| Limits { max_size: Some(most), ..LIMITS };
        assert!(matches!(refused(&bomb(100), &small(100 * block)), Refusal::Malformed(_)));
        assert!(matches!(refused(&bomb(100), &small(100 * block - 1)), Refusal::TooLarge(_)));
        let ok = |bytes, taken| within(&LIMITS, bytes, taken).is_ok();
        assert!(ok(ANY_RATIO, 1) && !ok(ANY_RATIO + 1, 1));
        assert!(ok(20_000_000_000, 2_000_000) && !ok(20_000_000_001, 2_000_000));
        assert!(ok(u64::MAX, u64::MAX));
    }
}
