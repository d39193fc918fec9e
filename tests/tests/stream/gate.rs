//! The stream gate with real, synthetic and hostile streams.
#![allow(clippy::panic, clippy::unwrap_used, reason = "all of this is test code")]

use std::io;

use proptest::prelude::*;
use zsnap_common::stream::gate::Part;
use zsnap_common::stream::{Gate, Guid, Kind, StreamError, StreamFacts, SubStream};
use zsnap_tests::stream::{RECORD, Rec, Stream, Sub, kind};
use zsnap_tests::{SAMPLES, sample};

/// A seeded pseudo-random generator, so that a failure can be reproduced.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

type Accepted = (StreamFacts, Vec<(SubStream, Vec<u8>)>);

/// Feeds a stream in pieces. Returns its facts, and each substream with its bytes.
fn gate_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Accepted, StreamError> {
    let mut gate = Gate::new();
    let mut parts: Vec<(SubStream, Vec<u8>)> = Vec::new();
    let mut inside = false;
    for piece in pieces {
        gate.feed(piece, &mut |part| {
            match part {
                Part::Begin(substream) => parts.push((substream.clone(), Vec::new())),
                Part::Bytes(bytes) => parts.last_mut().unwrap().1.extend(bytes),
                Part::End => {}
            }
            assert_eq!(inside, !matches!(part, Part::Begin(_)), "parts come in order");
            inside = !matches!(part, Part::End);
            Ok(())
        })?;
    }
    let facts = gate.finish()?;
    assert!(!inside);
    Ok((facts, parts))
}

fn gate(bytes: &[u8]) -> Result<Accepted, StreamError> {
    gate_pieces([bytes])
}

/// Fails unless the gate rejects the stream with an error that contains `words`.
#[track_caller]
fn rejected(bytes: &[u8], words: &str) {
    match gate(bytes) {
        Ok(_) => panic!("accepted, not rejected with \"{words}\""),
        Err(e) => assert!(e.to_string().contains(words), "{e}: not \"{words}\""),
    }
}

/// Makes a compound stream with every kind of record, about 9 KB.
fn synthetic() -> Stream {
    Stream::with_properties(
        "tank/home@c",
        &[9; 64],
        [
            Sub::full("tank/home@a", 1).features(Sub::EVERY).records(Rec::every_kind()),
            Sub::increment("tank/home@b", 1, 2).records([]),
            Sub::increment("tank/home@c", 2, 3),
        ],
    )
}

/// Makes a raw stream with every kind of record, about 6 KB.
fn synthetic_raw() -> Stream {
    Stream::plain(Sub::full("tank/home@a", 1).features(Sub::EVERY_RAW).records(Rec::every_raw_kind()))
}

fn both_orders(stream: Stream) -> [Vec<u8>; 2] {
    [stream.bytes(), stream.swapped().bytes()]
}

const DATA: [u64; 5] =
    [0x94bf4e4be22815be, 0x4a5f8393f875eeb, 0x1e15513d366915d7, 0xe5049c0c92f4ee8, 0xb4750d57d07863e9];
const BIG: u64 = 0xf52aa2ad6ee524ff;
const ENC: [u64; 2] = [0x30efaacd271ccf8f, 0x91148a19eb9289f0];

/// A row of what `zstream dump` prints: sample, wrapper, properties, raw, compressed, last toname, creation times, and
/// the guids of the base and the snapshots.
type Row = (&'static str, bool, bool, bool, bool, &'static str, &'static [u64], &'static [u64]);
const FACTS: [Row; 12] = [
    ("bookmark-i.zfs", false, false, false, false, "src/data@s2", &[0x6b02369e], &[DATA[0], DATA[1]]),
    ("compressed-c.zfs", false, false, false, true, "src/big@b1", &[0x6b0236a5], &[0, BIG]),
    ("embedded-e.zfs", false, false, false, false, "src/data@s1", &[0x6b02369c], &[0, DATA[0]]),
    ("empty-incr.zfs", false, false, false, false, "src/data@s5", &[0x6b0236ce], &[DATA[3], DATA[4]]),
    ("full-props-p.zfs", true, true, false, false, "src/data@s1", &[0x6b02369c], &[0, DATA[0]]),
    ("full.zfs", false, false, false, false, "src/data@s1", &[0x6b02369c], &[0, DATA[0]]),
    (
        "incr-I-s1-s4.zfs",
        true,
        false,
        false,
        false,
        "src/data@s4",
        &[0x6b02369e, 0x6b0236a1, 0x6b0236a2],
        &[DATA[0], DATA[1], DATA[2], DATA[3]],
    ),
    ("incr-i-s1-s2.zfs", false, false, false, false, "src/data@s2", &[0x6b02369e], &[DATA[0], DATA[1]]),
    ("largeblock-L.zfs", false, false, false, false, "src/big@b1", &[0x6b0236a5], &[0, BIG]),
    ("largeblock-Lec.zfs", false, false, false, true, "src/big@b1", &[0x6b0236a5], &[0, BIG]),
    ("raw-w-full.zfs", false, false, true, true, "src/enc@e1", &[0x6b0236b6], &[0, ENC[0]]),
    ("raw-w-incr.zfs", false, false, true, true, "src/enc@e2", &[0x6b0236b7], &[ENC[0], ENC[1]]),
];

#[test]
fn facts_of_real_streams_agree_with_zstream_dump() {
    for (name, compound, properties, raw, compressed, toname, created, guids) in FACTS {
        let little = sample(name);
        let big = Stream::parse(&little).swapped().bytes();
        for bytes in [little, big] {
            let (facts, parts) = gate(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            let shape = (facts.compound, facts.properties, facts.bytes);
            assert_eq!(shape, (compound, properties, bytes.len() as u64), "{name}");
            let (fs, last) = toname.split_once('@').unwrap();
            assert_eq!(facts.substreams.last().unwrap().snap, last, "{name}");
            assert_eq!(facts.substreams.len(), created.len(), "{name}");
            for (n, s) in facts.substreams.iter().enumerate() {
                let from = (guids[n] != 0).then_some(Guid(guids[n]));
                assert_eq!((s.from, s.to, s.created), (from, Guid(guids[n + 1]), created[n]), "{name}");
                assert_eq!(
                    (s.fs.as_str(), s.kind, s.raw, s.compressed),
                    (fs, Kind::Filesystem, raw, compressed),
                    "{name}"
                );
            }

            // Each substream is a stream of its own, and the substreams are all that the wrapper contains.
            let inner: usize = parts.iter().map(|(_, part)| part.len()).sum();
            let wrapper = if compound { 3 * RECORD + Stream::parse(&bytes).records[0].payload.len() } else { 0 };
            assert_eq!(inner + wrapper, bytes.len(), "{name}");
            for ((reported, part), known) in parts.iter().zip(&facts.substreams) {
                let (alone, again) = gate(part).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(
                    (alone.compound, &alone.substreams, reported),
                    (false, &vec![known.clone()], known),
                    "{name}"
                );
                assert!(again[0].1 == *part && bytes.windows(part.len()).any(|w| w == part), "{name}");
            }
        }
    }
}

#[test]
fn a_stream_of_several_file_systems_is_rejected_as_unsupported() {
    for name in ["replication-R.zfs", "replication-RI.zfs"] {
        for bytes in both_orders(Stream::parse(&sample(name))) {
            rejected(&bytes, "several file systems inside (src/data, src/data/child): send each dataset by itself");
            assert!(matches!(gate(&bytes), Err(StreamError::Unsupported(_))));
        }
    }
}

#[test]
fn a_stream_cut_at_any_byte_is_truncated() {
    let mut random = Random(1);
    for name in SAMPLES {
        let little = sample(name);
        for bytes in both_orders(Stream::parse(&little)) {
            let mut cuts: Vec<usize> =
                (0..1000).map(|_| random.below(bytes.len())).chain([0, bytes.len() - 1]).collect();
            let mut at = 0;
            for rec in Stream::parse(&bytes).records {
                cuts.extend([at, at + RECORD]);
                at += RECORD + rec.payload.len();
            }
            cuts.retain(|cut| *cut < bytes.len());
            cuts.sort();
            // A clone of the gate is finished at each cut, as if the stream ended there.
            let (mut whole, mut fed) = (Gate::new(), 0);
            for cut in cuts {
                if whole.feed(&bytes[fed..cut], &mut |_| Ok(())).is_err() {
                    assert!(name.starts_with("replication"), "{name}");
                    break;
                }
                fed = cut;
                let ended = whole.clone().finish();
                assert!(matches!(ended, Err(StreamError::Truncated { at }) if at == cut as u64), "{name} at {cut}");
            }
        }
    }
    let bytes = synthetic().bytes();
    for cut in 0..bytes.len() {
        assert!(matches!(gate(&bytes[..cut]), Err(StreamError::Truncated { at }) if at == cut as u64), "{cut}");
    }
}

#[test]
fn the_result_does_not_depend_on_the_piece_size() {
    let mut random = Random(2);
    for name in SAMPLES {
        let bytes = sample(name);
        for largest in [3, 300, 5000, 300_000] {
            let mut rest = bytes.as_slice();
            let pieces = std::iter::from_fn(|| {
                let (piece, after) = rest.split_at(rest.len().min(random.below(largest)));
                let before = std::mem::replace(&mut rest, after);
                (!before.is_empty()).then_some(piece)
            });
            match (gate(&bytes), gate_pieces(pieces)) {
                (Ok(whole), Ok(cut)) => assert!(whole == cut, "{name}"),
                (Err(whole), Err(cut)) => assert_eq!(whole.to_string(), cut.to_string(), "{name}"),
                _ => panic!("{name}"),
            }
        }
    }
}

#[test]
fn the_head_is_known_after_the_first_begin_record() {
    let bytes = synthetic().bytes();
    let begin_ends = RECORD + 64 + RECORD + RECORD;
    let mut gate = Gate::new();
    gate.feed(&bytes[..begin_ends - 1], &mut |_| Ok(())).unwrap();
    assert!(gate.head().is_none());
    gate.feed(&bytes[begin_ends - 1..begin_ends], &mut |_| Ok(())).unwrap();
    let head = gate.head().unwrap();
    assert_eq!((head.toname.as_str(), head.compound, head.properties), ("tank/home@c", true, true));
    assert_eq!((head.first.snap.as_str(), head.first.to), ("a", Guid(1)));

    let mut gate = Gate::new();
    gate.feed(&sample("incr-i-s1-s2.zfs")[..RECORD], &mut |_| Ok(())).unwrap();
    let head = gate.head().unwrap();
    assert_eq!((head.toname.as_str(), head.compound, head.properties), ("src/data@s2", false, false));
}

#[test]
fn other_data_is_distinguished_from_a_truncated_stream() {
    assert!(matches!(gate(b""), Err(StreamError::Truncated { at: 0 })));
    for bytes in [&b"#"[..], b"hello\n", &[0; 20], &[1; RECORD], &[0; 1000], b"\x28\xb5\x2f\xfd a zstd frame"] {
        assert!(matches!(gate(bytes), Err(StreamError::NotZfs)), "{bytes:?}");
    }
    for full in both_orders(Stream::parse(&sample("full.zfs"))) {
        assert!(matches!(gate(&full[..5]), Err(StreamError::Truncated { at: 5 })));
        // A first record that has the magic number but is an END.
        let headless = [&[5, 0, 0, 5], &full[4..]].concat();
        assert!(matches!(gate(&headless), Err(StreamError::NotZfs)));
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    for mut bytes in both_orders(synthetic()).into_iter().chain(both_orders(synthetic_raw())) {
        assert!(gate(&bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(gate(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn damaged_real_streams_are_rejected() {
    let second = sample("empty-incr.zfs");
    for (name, ..) in FACTS {
        for good in both_orders(Stream::parse(&sample(name))) {
            let records = Stream::parse(&good).records;
            let mut at = 0;
            for rec in &records {
                let mut bytes = good.clone();
                bytes[at + 300] ^= 1; // In the checksum, or after the name in BEGIN.
                rejected(&bytes, "checksum");
                if let Some(middle) = (!rec.payload.is_empty()).then_some(at + RECORD + rec.payload.len() / 2) {
                    let mut bytes = good.clone();
                    bytes[middle] ^= 0x10;
                    rejected(&bytes, "checksum");
                }
                at += RECORD + rec.payload.len();
            }
            rejected(&[&good[..], b"\0"].concat(), "a second stream or garbage");
            rejected(&[&good[..], &second].concat(), "a second stream or garbage");
            rejected(&[&good[..], &good].concat(), "a second stream or garbage");
        }
    }
}

#[test]
fn only_the_end_record_must_have_a_checksum() {
    for stream in [synthetic(), synthetic().swapped()] {
        let mut bytes = stream.bytes_without_record_checksums();
        assert_eq!(gate(&bytes).map(|t| t.0.substreams.len()).ok(), Some(3));
        let payload = 5 * RECORD + 64;
        bytes[payload] ^= 1;
        rejected(&bytes, "the checksum in the END record is wrong");
        bytes[payload] ^= 1;
        let end = bytes.len() - 2 * RECORD;
        bytes[end + 8..end + 40].fill(0);
        rejected(&bytes, "the checksum in the END record is wrong");
    }
}

#[test]
fn an_end_record_is_passed_on_only_if_it_is_correct() {
    let good = Stream::plain(Sub::full("tank@a", 1)).bytes();
    for at in [8, 40, 60, 290] {
        let mut bytes = good.clone();
        let end = bytes.len() - RECORD;
        bytes[end + at] ^= 1;
        let mut passed: Vec<u8> = Vec::new();
        let fed = Gate::new().feed(&bytes, &mut |part| {
            match part {
                Part::Begin(_) => {}
                Part::Bytes(bytes) => passed.extend(bytes),
                Part::End => panic!("END of a damaged stream"),
            }
            Ok(())
        });
        assert!(fed.is_err() && passed == bytes[..end], "{at}");
    }
}

#[test]
fn an_error_of_the_consumer_ends_the_gate() {
    let bytes = synthetic().bytes();
    let mut gate = Gate::new();
    let mut calls = 0;
    let fed = gate.feed(&bytes, &mut |_| {
        calls += 1;
        Err(io::ErrorKind::BrokenPipe.into())
    });
    assert!(matches!(fed, Err(StreamError::Sink(e)) if e.kind() == io::ErrorKind::BrokenPipe));
    assert!(gate.feed(&bytes[..1], &mut |_| panic!("the consumer is called after an error")).is_err());
    assert_eq!(calls, 1);
    assert!(gate.finish().is_err());
}

#[test]
fn volumes_long_chains_and_many_properties_are_accepted() {
    let properties = vec![1; 64 << 20];
    assert!(gate(&Stream::with_properties("tank@a", &properties, [Sub::full("tank@a", 1)]).bytes()).is_ok());

    let (facts, _) = gate(&Stream::plain(Sub::full("tank/vol@a", 7).objset(3)).bytes()).unwrap();
    assert_eq!(facts.substreams[0].kind, Kind::Volume);

    let subs = (0..5000).map(|n| Sub::increment(&format!("tank/home@s{n}"), 100 + n, 101 + n));
    let (facts, parts) = gate(&Stream::compound("tank/home@s4999", subs).bytes()).unwrap();
    assert_eq!((facts.substreams.len(), parts.len()), (5000, 5000));
    assert_eq!(facts.substreams[4999].to, Guid(5100));
}

#[test]
fn a_stream_of_more_than_100_000_snapshots_is_rejected() {
    let mut gate = Gate::new();
    gate.feed(&Stream::compound("tank@z", []).bytes()[..2 * RECORD], &mut |_| Ok(())).unwrap();
    let mut feed = |n| {
        let sub = Sub::increment(&format!("tank@{n}"), n, n + 1).records([]);
        gate.feed(&Stream::plain(sub).bytes(), &mut |_| Ok(()))
    };
    (1..=100_000).for_each(|n| feed(n).unwrap());
    assert!(matches!(feed(100_001), Err(StreamError::Unsupported(_))));
}

#[test]
fn a_compound_stream_without_one_of_its_snapshots_is_rejected() {
    let mut stream = Stream::parse(&sample("incr-I-s1-s4.zfs"));
    let begins: Vec<usize> =
        stream.records.iter().enumerate().filter(|(_, rec)| rec.kind() == kind::BEGIN).map(|(n, _)| n).collect();
    let bare = stream.records.len() - 1;

    let mut last_missing = stream.clone();
    last_missing.records.drain(begins[3]..bare);
    rejected(&last_missing.bytes(), "the last snapshot, @s4, is missing: zfs send failed on the way");
    let mut middle_missing = stream.clone();
    middle_missing.records.drain(begins[2]..begins[3]);
    rejected(&middle_missing.bytes(), "@s4 is not based on @s2");
    let mut repeated = stream.clone();
    repeated.records.splice(begins[2]..begins[2], stream.records[begins[1]..begins[2]].to_vec());
    rejected(&repeated.bytes(), "@s2 is not based on @s2");
    stream.records.drain(begins[1]..bare);
    rejected(&stream.bytes(), "the last snapshot, @s4, is missing");
}

/// A change to a good stream, and what the rejection must contain.
type Hostile = (fn(&mut Vec<Rec>), &'static str);

/// Changes to `synthetic()`. Its records are 0, 1 wrapper; 2 to 13 @a (WRITE at 6 and 7, SPILL at 9); 14, 15 @b; 16 to
/// 19 @c; 20 bare END.
const HOSTILE: [Hostile; 41] = [
    (|r| r[2].set_toname("tank0/evil@a"), "a stream of tank/home around one of tank0/evil"),
    (|r| r[2].set_toname("tank/home0/evil@a"), "a stream of tank/home around one of tank/home0/evil"),
    (|r| r[2].set_toname("tank/home/child@a"), "several file systems inside"),
    (|r| r[2].set_toname("tank/home/../x@a"), "is not a dataset name"),
    (|r| r[14].set_toname("tank/renamed@b"), "a stream of tank/home around one of tank/renamed"),
    (|r| r[0].set_toname("tank@c"), "several file systems inside"),
    (|r| r[2].set_toname("tank/home"), "is not FILESYSTEM@SNAPSHOT"),
    (|r| r[2].set_toname("tank/home@a@b"), "holds a character other than"),
    (|r| r[2].set_toname("tank/home@a/b"), "holds a character other than"),
    (|r| r[2].set_toname("tank/home@%recv"), "holds a character other than"),
    (|r| r[0].set_toname("/etc@c"), "has an empty component"),
    (|r| r[2].set_toname(&"n".repeat(256)), "a name without an end"),
    (|r| r[16].set_toname("tank/home@d"), "the last snapshot, @c, is missing"),
    (|r| r[14].set_u32(36, 0xd), "is sent as a clone"),
    (|r| r[14].set_u32(36, 0x1c), "flags that zsnap does not know (0x10)"),
    (
        |r| r[2].set_u64(16, 1 | 1 << (50 + 2)),
        "features that zsnap does not know (0x4000000000000): carry it with --opaque",
    ),
    (|r| r[2].set_u64(16, 1 | 1 << 2), "deduplicated"),
    (|r| r[2].set_u64(16, 1 | 2 << 2), "deduplicated"),
    (|r| r[2].set_u64(16, 1 | 1 << (20 + 2)), "resumed"),
    (|r| r[2].set_u64(16, 1 | 1 << (21 + 2)), "redacted"),
    (|r| r[0].set_u64(16, 3), "unknown header type 3"),
    (|r| r[2].set_u64(16, 2), "a BEGIN record where none may be"),
    (|r| r[2].set_u64(8, 0xacbc_baf5_0200_0000), "a BEGIN record without the magic number"),
    (|r| r[2].set_u32(32, 1), "neither file system nor volume"),
    (|r| r[14].set_u32(32, 3), "file system and volume"),
    (|r| r[14].set_u64(48, 99), "@b is not based on @a"),
    (|r| r[14].set_u64(48, 0), "@b is not based on @a"),
    (|r| r[2].set_u64(40, 0), "zero, its base's, or sent before"),
    (|r| r[2].set_u64(48, 1), "zero, its base's, or sent before"),
    (|r| r[16].set_u64(40, 1), "zero, its base's, or sent before"),
    (|r| r[6].set_u64(32, 1 << 40), "a WRITE record with a payload of 1099511627776 bytes"),
    (|r| r[7].set_u64(96, 1 << 40), "a WRITE record with a payload of 1099511627776 bytes"),
    (|r| r[9].set_u64(16, 1 << 40), "a SPILL record with a payload of 1099511627776 bytes"),
    (|r| r[2].set_u32(4, 1 << 21), "a BEGIN record with a payload of 2097152 bytes"),
    (|r| r[2].set_u32(4, 2), "a BEGIN record with a payload of 2 bytes"),
    (|r| r[0].set_u32(4, (64 << 20) + 4), "a BEGIN record with a payload of 67108868 bytes"),
    (|r| r[6].set_u64(40, 2), "a WRITE record of another snapshot"),
    (|r| r[13].set_u64(40, 2), "an END record of another snapshot"),
    (|r| r[13].set_u64(48, 2), "an END record with more in it"),
    (|r| r[6].set_u32(0, 11), "records of unknown type 11: carry it with --opaque"),
    (|r| r[20].set_u64(40, 3), "an END record of another snapshot"),
];

#[test]
fn hostile_streams_with_correct_checksums_are_rejected() {
    for stream in [synthetic(), synthetic().swapped()] {
        for (change, words) in HOSTILE {
            let mut hostile = stream.clone();
            change(&mut hostile.records);
            rejected(&hostile.bytes(), words);
        }
        let mut moved = stream.clone();
        moved.records.swap(1, 2);
        rejected(&moved.bytes(), "a BEGIN record where none may be");
        let mut outside = stream.clone();
        outside.records.insert(14, stream.records[6].clone());
        rejected(&outside.bytes(), "a WRITE record where none may be");
        for (unwanted, words) in [(kind::WRITE_BYREF, "deduplicated"), (kind::REDACT, "redacted")] {
            let mut hostile = stream.clone();
            let mut rec = Rec { big: stream.records[0].big, ..Rec::new(kind::END) };
            rec.set_u32(0, unwanted);
            rec.set_u64(32, 1);
            hostile.records.insert(5, rec);
            rejected(&hostile.bytes(), words);
        }
    }
    rejected(&Stream::plain(Sub::increment("tank@a", 5, 5)).bytes(), "zero, its base's");
    let circle = [Sub::increment("tank@a", 5, 6), Sub::increment("tank@b", 6, 5)];
    rejected(&Stream::compound("tank@b", circle).bytes(), "its base's, or sent before");
    let mixed = [Stream::plain(Sub::full("tank@a", 1)), Stream::plain(Sub::full("tank@a", 1)).swapped()];
    let mut wrapper = Stream::compound("tank@a", []);
    wrapper.records.splice(2..2, mixed[1].records.clone());
    rejected(&wrapper.bytes(), "a BEGIN record without the magic number of the first");
}

#[test]
fn features_that_only_the_receiving_kernel_must_know_are_accepted() {
    for bit in 0..62 {
        let bytes = Stream::plain(Sub::full("tank@a", 1).features(1 << bit).records([])).bytes();
        assert_eq!(gate(&bytes).is_ok(), [2, 16, 17, 19, 22, 23, 24, 25, 26, 27, 28, 29].contains(&bit), "{bit}");
    }
}

proptest! {
    /// The gate does not panic, and the facts of what it accepts are consistent with the bytes.
    #[test]
    fn changed_streams_are_rejected_or_consistent(
        big: bool,
        changes in prop::collection::vec((0usize..21, 0usize..300, any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = synthetic();
        if big {
            stream = stream.swapped();
        }
        for (rec, at, value) in changes {
            stream.records[rec].head[at] ^= value;
        }
        let bytes = stream.bytes();
        if let Ok((facts, parts)) = gate(&bytes) {
            prop_assert_eq!(facts.bytes, bytes.len() as u64);
            prop_assert_eq!(facts.substreams.len(), parts.len());
            for (_, part) in parts {
                prop_assert!(gate(&part).is_ok());
            }
            let cut = cut.index(bytes.len());
            prop_assert!(gate(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn random_bytes_are_rejected(big: bool, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(gate(&bytes).is_err());
        let good = synthetic();
        let good = if big { good.swapped() } else { good }.bytes();
        for known in [16, RECORD, 2 * RECORD + 64, 3 * RECORD + 64] {
            prop_assert!(gate(&[&good[..known], &bytes].concat()).is_err());
        }
    }
}
