//! Streams of real senders with a few changed fields and correct checksums, so that a stream gate must judge the fields
//! themselves. They are used by the fuzz target in `fuzz` and by the tests.
//!
//! All random choices come from one function, `next(n)`, which returns a number below n: from a seed, so that a stream
//! can be reproduced, or from the bytes of a fuzzer, which then learns what to change.

use std::path::Path;

use zsnap_common::stream::gate::Part;
use zsnap_common::stream::{Gate, StreamError, StreamFacts, SubStream};

use crate::stream::{Rec, Stream, kind};

/// A field of a record: its name in OpenZFS without `drr_`, its offset and its width in bytes.
type Field = (&'static str, usize, usize);

/// Returns the fields that can be changed in a record of a kind. The guid of the snapshot is not among them, because it
/// does not depend on the other fields.
pub fn fields(kind: u32) -> &'static [Field] {
    match kind {
        kind::BEGIN => &[("versioninfo", 16, 8), ("creation_time", 24, 8), ("type", 32, 4), ("flags", 36, 4)],
        kind::OBJECT => &[
            ("payloadlen", 4, 4),
            ("object", 8, 8),
            ("type", 16, 4),
            ("bonustype", 20, 4),
            ("blksz", 24, 4),
            ("bonuslen", 28, 4),
            ("checksumtype", 32, 1),
            ("compress", 33, 1),
            ("dn_slots", 34, 1),
            ("flags", 35, 1),
            ("raw_bonuslen", 36, 4),
            ("indblkshift", 48, 1),
            ("nlevels", 49, 1),
            ("nblkptr", 50, 1),
            ("pad", 51, 1),
            ("maxblkid", 56, 8),
        ],
        kind::FREEOBJECTS => &[("firstobj", 8, 8), ("numobjs", 16, 8)],
        kind::WRITE => &[
            ("payloadlen", 4, 4),
            ("object", 8, 8),
            ("type", 16, 4),
            ("pad", 20, 4),
            ("offset", 24, 8),
            ("logical_size", 32, 8),
            ("checksumtype", 48, 1),
            ("flags", 49, 1),
            ("compressiontype", 50, 1),
            ("pad2", 51, 1),
            ("key.ddk_prop", 88, 8),
            ("compressed_size", 96, 8),
            ("salt", 104, 8),
        ],
        kind::FREE => &[("payloadlen", 4, 4), ("object", 8, 8), ("offset", 16, 8), ("length", 24, 8)],
        kind::END => &[("payloadlen", 4, 4), ("behind the guid", 48, 8)],
        kind::WRITE_BYREF => &[("object", 8, 8), ("length", 24, 8), ("refguid", 40, 8)],
        kind::SPILL => &[
            ("payloadlen", 4, 4),
            ("object", 8, 8),
            ("length", 16, 8),
            ("flags", 32, 1),
            ("compressiontype", 33, 1),
            ("pad", 34, 1),
            ("compressed_size", 40, 8),
            ("type", 84, 4),
        ],
        kind::WRITE_EMBEDDED => &[
            ("object", 8, 8),
            ("offset", 16, 8),
            ("length", 24, 8),
            ("compression", 40, 1),
            ("etype", 41, 1),
            ("pad", 42, 1),
            ("lsize", 48, 4),
            ("psize", 52, 4),
        ],
        kind::OBJECT_RANGE => &[("firstobj", 8, 8), ("numslots", 16, 8), ("flags", 60, 1)],
        kind::REDACT => &[("object", 8, 8), ("offset", 16, 8), ("length", 24, 8)],
        _ => &[],
    }
}

/// Values at which sizes, counts, types and flags change their meaning. Their neighbors are tried as well.
const EDGES: [u64; 34] = [
    0,
    1,
    3,
    8,
    10,
    12,
    17,
    32,
    44,
    54,
    64,
    112,
    128,
    192,
    196,
    320,
    512,
    1024,
    4096,
    12_288,
    16_192,
    16_384,
    65_536,
    131_072,
    1 << 20,
    16 << 20,
    1 << 31,
    1 << 32,
    1 << 47,
    1 << 48,
    1 << 63,
    u64::MAX - 512,
    u64::MAX - 131_072,
    u64::MAX,
];

/// The maximum payload of a changed record. Now and then it is [`LONGEST`], that of the format. If the fields say more,
/// the payload is not changed.
const USUAL: u64 = 256 << 10;
const LONGEST: u64 = (16 << 20) + 1024;

/// A generator of changed streams.
pub struct Mutator {
    samples: Vec<Stream>,
    /// Records of all samples, grouped by kind.
    kinds: Vec<Vec<Rec>>,
}

/// A changed stream.
pub struct Mutant {
    /// The changed stream. [`Stream::bytes`] computes its checksums.
    pub stream: Stream,
    /// Descriptions of the changes, for messages.
    pub changes: Vec<String>,
}

impl Mutator {
    /// Makes a mutator of streams of real senders.
    pub fn new(samples: Vec<Stream>) -> Mutator {
        let mut kinds: Vec<Vec<Rec>> = vec![Vec::new(); 11];
        // Synthetic records of the kinds that no sample or few samples have.
        let mut made = [Rec::every_kind(), Rec::every_raw_kind()].concat();
        made.push(Rec::new(kind::REDACT).with(8, 1).with(24, 512));
        let real = samples.iter().flat_map(|s| &s.records).filter(|rec| rec.payload.len() as u64 <= USUAL).cloned();
        for rec in made.into_iter().chain(real).filter(|rec| ![kind::BEGIN, kind::END].contains(&rec.kind())) {
            let of = &mut kinds[rec.kind() as usize];
            if of.len() < 4000 {
                of.push(rec);
            }
        }
        kinds.retain(|of| !of.is_empty());
        Mutator { samples, kinds }
    }

    /// Makes a stream with one to three changes, or sometimes none. `next(n)` returns a number below n.
    pub fn mutant(&self, next: &mut impl FnMut(u64) -> u64) -> Mutant {
        let sample = pick(next, &self.samples);
        let mut stream = shortened(sample, next);
        let mut changes = Vec::new();
        for _ in 0..*pick(next, &[0, 1, 1, 1, 1, 1, 2, 3]) {
            changes.push(match next(12) {
                0 => self.insert(&mut stream, next),
                1 | 2 => feature(&mut stream, next),
                _ => field(&mut stream, next),
            });
        }
        let stream = if next(4) == 0 { stream.swapped() } else { stream };
        Mutant { stream, changes }
    }

    /// Inserts a record of another stream with the guid of this one.
    fn insert(&self, stream: &mut Stream, next: &mut impl FnMut(u64) -> u64) -> String {
        let of_kind = pick(next, &self.kinds);
        let mut rec = pick(next, of_kind).clone();
        let inside: Vec<usize> = inside(stream);
        let at = if inside.is_empty() { stream.records.len() } else { *pick(next, &inside) };
        let to = stream.records[..at].iter().rev().find(|r| r.kind() == kind::BEGIN).map_or(0, |r| r.u64(40));
        rec.set_toguid(to);
        let what = format!("an inserted record of kind {}", rec.kind());
        stream.records.insert(at, rec);
        what
    }
}

fn pick<'a, T>(next: &mut impl FnMut(u64) -> u64, of: &'a [T]) -> &'a T {
    &of[next(of.len() as u64) as usize]
}

/// Returns the places where a record may be inserted: after the BEGIN of a substream and up to its END. There are none
/// if the BEGIN was changed into something else.
fn inside(stream: &Stream) -> Vec<usize> {
    let mut places = Vec::new();
    let mut open = false;
    for (at, rec) in stream.records.iter().enumerate() {
        if open {
            places.push(at);
        }
        match rec.kind() {
            kind::BEGIN => open = rec.u64(16) & 3 == 1,
            kind::END => open = false,
            _ => (),
        }
    }
    places
}

/// Returns a stream with up to 16 of the records besides BEGIN and END, few of them long: more would not test more. A
/// block is kept with its object, because they have the same block size.
fn shortened(sample: &Stream, next: &mut impl FnMut(u64) -> u64) -> Stream {
    let first = next(sample.records.len() as u64 - 1) as usize;
    let step = 1 + next(3) as usize;
    let long = next(32) == 0;
    let (mut kept, mut length) = (0, 0);
    let mut keep = vec![false; sample.records.len()];
    for (n, rec) in sample.records.iter().enumerate() {
        if [kind::BEGIN, kind::END].contains(&rec.kind()) {
            keep[n] = true;
        } else if n >= first && (n - first) % step == 0 && kept < 16 {
            let fits = long || length + rec.payload.len() as u64 <= USUAL;
            kept += usize::from(fits);
            length += if fits { rec.payload.len() as u64 } else { 0 };
            keep[n] = fits;
        }
        if keep[n] && [kind::WRITE, kind::SPILL, kind::WRITE_EMBEDDED].contains(&rec.kind()) {
            let is_its_object = |r: &Rec| r.kind() == kind::OBJECT && r.u64(8) == rec.u64(8);
            if let Some(object) = sample.records[..n].iter().rposition(is_its_object) {
                keep[object] = true;
            }
        }
    }
    let records = sample.records.iter().zip(keep).filter(|(_, keep)| *keep);
    Stream { records: records.map(|(rec, _)| rec.clone()).collect() }
}

/// Inverts one feature or flag of a BEGIN, including features that other records require.
fn feature(stream: &mut Stream, next: &mut impl FnMut(u64) -> u64) -> String {
    let begins: Vec<usize> = (0..stream.records.len()).filter(|n| stream.records[*n].kind() == kind::BEGIN).collect();
    let begin = &mut stream.records[*pick(next, &begins)];
    if next(6) == 0 {
        let bit = next(4) as u32;
        begin.set_u32(36, begin.u32(36) ^ 1 << bit);
        return format!("flag {bit} of BEGIN");
    }
    let bit = *pick(next, &[2, 16, 17, 19, 22, 23, 24, 25, 26, 27, 28, 29, 16, 17, 19, 22, 23, 24, 25]);
    begin.set_u64(16, begin.u64(16) ^ 1 << (bit + 2));
    format!("feature {bit} of BEGIN")
}

/// Changes a field, and adapts the payload of the record to it.
fn field(stream: &mut Stream, next: &mut impl FnMut(u64) -> u64) -> String {
    // The kind is chosen first, because a stream has many WRITEs and few others. BEGIN and END are chosen now and then:
    // each stream has them, and most of their fields do not concern other records.
    let mut kinds: Vec<u32> = stream.records.iter().map(Rec::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if next(8) != 0 {
        kinds.retain(|kind| ![kind::BEGIN, kind::END].contains(kind));
    }
    if kinds.is_empty() {
        kinds.push(kind::END);
    }
    let kind = *pick(next, &kinds);
    let of: Vec<usize> = (0..stream.records.len()).filter(|n| stream.records[*n].kind() == kind).collect();
    let rec = &mut stream.records[*pick(next, &of)];
    let before = rec.payload_length();
    let (name, at, width) = *pick(next, fields(kind));
    let old = rec.number(at, width);
    let (_, other, other_width) = *pick(next, fields(kind));
    let new = match next(8) {
        0..=2 => pick(next, &EDGES).wrapping_add(next(3)).wrapping_sub(1),
        3 => old.wrapping_add(next(5)).wrapping_sub(2),
        4 => old ^ 1 << next(8 * width as u64),
        5 => {
            rec.number(other, other_width).wrapping_add(*pick(next, &[0, 0, 1, 512, u64::MAX, 512_u64.wrapping_neg()]))
        }
        6 => next(256),
        _ => next(1 << 32) << 32 | next(1 << 32),
    };
    rec.set(at, width, new);
    let new = rec.number(at, width);
    let after = rec.payload_length();
    let longest = if next(16) == 0 { LONGEST } else { USUAL };
    if kind != kind::BEGIN && after != before && after <= longest {
        rec.payload.resize(after as usize, 0xa5);
    }
    format!("{name} of a record of kind {kind}: {old:#x}, now {new:#x}")
}

/// Returns a `next(n)` that uses four bytes of a fuzzer for each number, and zeros after their end.
pub fn from_bytes(mut bytes: &[u8]) -> impl FnMut(u64) -> u64 {
    move |n| {
        let (word, rest) = bytes.split_at(bytes.len().min(4));
        bytes = rest;
        word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) % n
    }
}

/// Reads the streams in `dir`, which is `data/streams`, and in its `kinds`, with their names.
pub fn samples_in(dir: &Path) -> Vec<(String, Stream)> {
    let files = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut all: Vec<_> = files(dir).into_iter().chain(files(&dir.join("kinds"))).collect();
    all.retain(|path| path.extension().is_some_and(|end| end == "zst"));
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    all.sort_by_key(|path| name(path).replace(".zfs", ""));
    let stream = |path: &Path| Stream::parse(&zstd::decode_all(&std::fs::read(path).unwrap()[..]).unwrap());
    all.iter().map(|path| (name(path), stream(path))).collect()
}

/// The result of the gate for a stream, and the substreams that it passed on, each with its bytes and whether its END
/// was passed on.
type Judgement = (Result<StreamFacts, String>, Vec<(SubStream, Vec<u8>, bool)>);

fn judgement(bytes: &[u8], pieces: usize) -> Judgement {
    let mut gate = Gate::new();
    let mut out = Vec::new();
    let mut take = |part: Part<'_>| {
        match part {
            Part::Begin(sub) => out.push((sub.clone(), Vec::new(), false)),
            Part::Bytes(more) => out.last_mut().unwrap().1.extend(more),
            Part::End => out.last_mut().unwrap().2 = true,
        }
        Ok(())
    };
    let fed: Result<(), StreamError> = bytes.chunks(pieces).try_for_each(|piece| gate.feed(piece, &mut take));
    let facts = fed.and_then(|()| gate.finish()).map_err(|e| e.to_string());
    (facts, out)
}

/// Returns the result of the gate for a stream, with the message as the error. It must be the same if the stream comes
/// in pieces of this many bytes.
pub fn judged(bytes: &[u8], pieces: usize) -> Result<StreamFacts, String> {
    let whole = judgement(bytes, bytes.len().max(1));
    assert!(judgement(bytes, pieces) == whole, "the result differs in pieces of {pieces} bytes");
    whole.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::stream::RECORD;
    use crate::{SAMPLES, sample};

    fn mutator() -> Mutator {
        Mutator::new(SAMPLES.iter().map(|name| Stream::parse(&sample(name))).collect())
    }

    fn mutant(of: &Mutator, seed: u64) -> Mutant {
        let mut random = Random::seeded(seed);
        of.mutant(&mut |n| random.below(n))
    }

    #[test]
    fn the_same_seed_makes_the_same_stream() {
        let (one, other) = (mutator(), mutator());
        for seed in 0..50 {
            let (a, b) = (mutant(&one, seed), mutant(&other, seed));
            assert!(a.stream.bytes() == b.stream.bytes() && a.changes == b.changes, "seed {seed}");
        }
    }

    #[test]
    fn every_field_of_every_kind_is_changed() {
        let of = mutator();
        let all: String = (0..20_000).flat_map(|seed| mutant(&of, seed).changes).map(|c| c + "\n").collect();
        for kind in (0..=10).filter(|kind| ![kind::WRITE_BYREF, kind::REDACT].contains(kind)) {
            for (name, ..) in fields(kind) {
                assert!(all.contains(&format!("{name} of a record of kind {kind}:")), "{name} of {kind}");
            }
        }
    }

    #[test]
    fn numbers_come_from_the_fuzzers_bytes_and_then_are_0() {
        let mut next = from_bytes(&[0, 0, 1, 2, 0xff, 0xff, 0xff, 0xff, 9]);
        assert_eq!([next(1000), next(1 << 32), next(7), next(7)], [258, 0xffff_ffff, 2, 0]);
    }

    #[test]
    fn no_field_extends_beyond_the_record() {
        for kind in 0..=10 {
            assert!(fields(kind).iter().all(|(_, at, width)| at + width <= RECORD - 32));
        }
    }
}
