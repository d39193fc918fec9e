//! Walks a payload: checks its form, its digest where nothing else covers the stream, and, for ZFS, its stream,
//! record by record.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::thread::{self, Scope, ScopedJoinHandle};

use sha2::{Digest, Sha256};

use super::memory::Memory;
use super::{Limits, Refusal};
use crate::payload::{Manifest, PayloadError, PayloadKind, PayloadReader, Trailer};
use crate::pipe::{PipeReader, PipeWriter, pipe_in};
use zsnap_common::cli::cancel;
use zsnap_common::names::digest::hex;
use zsnap_common::stream::{Gate, StreamFacts, record};

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
    /// The uncompressed stream, if it fitted into the memory for it.
    pub plain: Option<Memory>,
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

/// Reads `payload` to its end. Keeps the uncompressed stream in `memory` if it fits there. A second thread walks the
/// gate, and digests the stream where that is needed, because either takes as long as decompression. `unsigned`
/// says that anybody may have made the payload, and `any_stream` is [`Trust::any_stream`](super::Trust::any_stream). Stops where a limit is exceeded, so that a payload that
/// decompresses to very much costs little time.
pub fn walk(
    payload: impl BufRead,
    limits: &Limits,
    mut memory: Option<Memory>,
    unsigned: bool,
    any_stream: bool,
) -> Result<Walked, Refusal> {
    let taken = Cell::new(0);
    let mut reader = PayloadReader::new(Counted { src: payload, taken: &taken }, limits.window_log)?;
    // A signature vouches for the sender, and then a checksum is enough to show what a sender with a fault compressed:
    // a ZFS stream has its own, and another one that of the zstd frame, which is compared as it is decompressed.
    let opaque = reader.manifest().is_some_and(|manifest| manifest.kind == PayloadKind::Opaque);
    let digest = (unsigned || opaque && !reader.has_checksum()).then(Sha256::new);
    let (to, from) = pipe_in(memory.as_mut().map_or(&mut [], Memory::space));
    let (bytes, checked) = thread::scope(|scope| -> Result<_, Refusal> {
        let any = any_stream && reader.manifest().is_none();
        let mut checked = Checked { sha256: digest, gate: (!opaque).then(Gate::new), any };
        let checking = spawn(scope, move || checked.all(from).map(|()| checked))?;
        let bytes = decompress(&mut reader, limits, &taken, to);
        let failed = || Err(Refusal::Malformed("walking it failed".into()));
        Ok((bytes, checking.join().unwrap_or_else(|_| failed())))
    })?;
    let bytes = bytes?;
    let Checked { sha256, gate, .. } = checked?;
    let (manifest, trailer) = (reader.manifest().cloned(), reader.trailer().cloned());
    let sha256 = sha256.map(|sha256| hex(&sha256.finalize()));
    if trailer.as_ref().is_some_and(|said| said.bytes != bytes || sha256.is_some_and(|sha256| said.sha256 != sha256)) {
        return Err(Refusal::Malformed("the stream is not the one that its trailer describes".into()));
    }
    let stream = match gate {
        Some(gate) => Some(facts(gate, manifest.as_ref(), trailer.as_ref())?),
        None => None,
    };
    let plain = memory.and_then(|memory| memory.filled(bytes));
    Ok(Walked { manifest, trailer, stream, bytes, plain })
}

/// Decompresses the stream. Returns its length in bytes.
fn decompress(
    reader: &mut PayloadReader<impl BufRead>,
    limits: &Limits,
    taken: &Cell<u64>,
    mut to: PipeWriter<'_>,
) -> Result<u64, Refusal> {
    let mut bytes = 0;
    loop {
        cancel::check().map_err(Refusal::Io)?;
        let n = reader.read(to.space())?;
        bytes += n as u64;
        within(limits, bytes, taken.get())?;
        // Where nothing can be sent, the checking thread has rejected the stream, and returns the reason.
        if n == 0 || to.advance(n).is_err() {
            break;
        }
    }
    let _ = to.finish();
    Ok(bytes)
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

/// What the second thread computes.
struct Checked {
    sha256: Option<Sha256>,
    gate: Option<Gate>,
    /// The gate is for a ZFS stream only, and another one is not rejected.
    any: bool,
}

impl Checked {
    fn all(&mut self, mut stream: PipeReader<'_>) -> Result<(), Refusal> {
        if self.any {
            let piece = stream.fill_buf().map_err(Refusal::Io)?;
            let is_zfs = !piece.is_empty() && record::order_of_first(&piece[..piece.len().min(16)]).is_some();
            self.gate = self.gate.take().filter(|_| is_zfs);
        }
        loop {
            let piece = stream.fill_buf().map_err(Refusal::Io)?;
            if piece.is_empty() {
                return Ok(());
            }
            self.feed(piece)?;
            let n = piece.len();
            stream.consume(n);
        }
    }

    fn feed(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(piece);
        }
        match &mut self.gate {
            Some(gate) => gate.feed(piece, &mut |_| Ok(())).map_err(|e| Refusal::Malformed(e.to_string())),
            None => Ok(()),
        }
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

    fn manifest() -> Vec<u8> {
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
        manifest.encode().unwrap()
    }

    /// Returns a manifest and a zstd frame of so many blocks of 128 KiB of zeros, each of which has four bytes (RFC
    /// 8878, 3.1.1: RLE_Block). There is no trailer, because no test gets that far.
    fn bomb(blocks: u32) -> Vec<u8> {
        let mut payload = manifest();
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
        walk(payload, limits, Memory::reserve(1 << 20, 0), true, false).err().unwrap()
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
    fn a_digest_is_compared_where_nothing_else_covers_the_stream() {
        let walked = |checksum, said: u64, sha256: &[u8], unsigned| {
            let mut zstd = zstd::stream::write::Encoder::new(manifest(), 1).unwrap();
            zstd.include_checksum(checksum).unwrap();
            io::Write::write_all(&mut zstd, b"stream").unwrap();
            let sha256 = hex(&Sha256::digest(sha256));
            let trailer = Trailer { zsnap: 1, bytes: said, sha256, substreams: None, to: None };
            let payload = [zstd.finish().unwrap(), trailer.encode().unwrap()].concat();
            walk(&payload[..], &LIMITS, None, unsigned, false).map(|walked| walked.bytes)
        };
        for (checksum, unsigned) in [(true, true), (false, true), (true, false), (false, false)] {
            let compared = unsigned || !checksum;
            assert_eq!(walked(checksum, 6, b"stream", unsigned).unwrap(), 6);
            assert_eq!(walked(checksum, 6, b"another", unsigned).is_err(), compared, "{checksum} {unsigned}");
            assert!(walked(checksum, 7, b"stream", unsigned).is_err());
        }
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
