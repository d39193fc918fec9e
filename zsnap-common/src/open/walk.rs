//! Walks a payload: its form, its digest, and for ZFS its stream, record by record.

use std::io::{BufRead, Write};
use std::thread;

use sha2::{Digest, Sha256};

use super::Refusal;
use crate::digest::hex;
use crate::payload::{Manifest, PayloadError, PayloadKind, PayloadReader, Trailer};
use crate::pipe::{PipeReader, pipe};
use crate::zstream::{Gate, StreamFacts};

/// Bytes decompressed at a time.
pub const STEP: usize = 256 << 10;

/// What a payload holds.
pub struct Walked {
    pub manifest: Option<Manifest>,
    pub trailer: Option<Trailer>,
    pub stream: Option<StreamFacts>,
    /// Length of the plain stream.
    pub bytes: u64,
    /// The plain stream, if it is not longer than was to be kept.
    pub plain: Option<Vec<u8>>,
}

impl From<PayloadError> for Refusal {
    fn from(e: PayloadError) -> Refusal {
        match e {
            PayloadError::Malformed(why) => Refusal::Malformed(why),
            PayloadError::Io(e) => Refusal::Io(e),
        }
    }
}

/// Reads `payload` to its end. Keeps the plain stream as long as it has at most `keep` bytes. A
/// second thread digests the stream and walks the gate, for that takes as long as decompressing.
pub fn walk(payload: impl BufRead, window_log: u32, keep: u64) -> Result<Walked, Refusal> {
    let mut reader = PayloadReader::new(payload, window_log)?;
    let opaque = reader.manifest().is_some_and(|manifest| manifest.kind == PayloadKind::Opaque);
    let mut plain = (keep > 0).then(Vec::new);
    let (mut to, mut from) = pipe();
    let (bytes, checked) = thread::scope(|scope| {
        let checking = scope.spawn(move || check(&mut from, (!opaque).then(Gate::new)));
        let mut decompress = || -> Result<u64, Refusal> {
            let (mut bytes, mut buffer) = (0, vec![0; STEP]);
            loop {
                let n = reader.read(&mut buffer)?;
                let piece = &buffer[..n];
                if n == 0 {
                    return Ok(bytes);
                }
                bytes += n as u64;
                if bytes > keep {
                    plain = None;
                }
                if let Some(plain) = &mut plain {
                    plain.extend_from_slice(piece);
                }
                // The checking thread has found fault: it says which.
                if to.write_all(piece).is_err() {
                    return Ok(bytes);
                }
            }
        };
        let bytes = decompress();
        match bytes {
            // As above: if it is gone, it says why.
            Ok(_) => drop(to.finish()),
            Err(_) => drop(to),
        }
        let failed = || Err(Refusal::Malformed("walking it failed".into()));
        (bytes, checking.join().unwrap_or_else(|_| failed()))
    });
    let bytes = bytes?;
    let Checked { sha256, gate } = checked?;
    let (manifest, trailer) = (reader.manifest().cloned(), reader.trailer().cloned());
    if let Some(trailer) = &trailer
        && (trailer.bytes != bytes || trailer.sha256 != sha256)
    {
        return Err(Refusal::Malformed("the stream is not the one that its trailer describes".into()));
    }
    let stream = match gate {
        Some(gate) => Some(facts(gate, manifest.as_ref(), trailer.as_ref())?),
        None => None,
    };
    Ok(Walked { manifest, trailer, stream, bytes, plain })
}

/// What the second thread found.
struct Checked {
    /// Hex digits.
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

/// The end of a ZFS stream: manifest and trailer must say of it what the gate saw.
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
