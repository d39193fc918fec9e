//! The stream gate accepts what real senders write: records as `module/zfs/dmu_send.c` of each release makes them,
//! where no real stream is at hand, in both byte orders.
#![allow(clippy::panic, clippy::unwrap_used, reason = "all of this is test code")]

use zsnap_common::stream::{Gate, StreamError};
use zsnap_tests::sample;
use zsnap_tests::stream::{Rec, Stream, Sub, kind};

/// Makes a record with numbers of 8, 32 and 64 bits at these offsets. The payload has the length that they imply.
fn rec(kind: u32, bytes: &[(usize, u8)], words: &[(usize, u32)], longs: &[(usize, u64)]) -> Rec {
    let mut rec = Rec::new(kind);
    bytes.iter().for_each(|(at, value)| rec.head[*at] = *value);
    words.iter().for_each(|(at, value)| rec.set_u32(*at, *value));
    longs.iter().for_each(|(at, value)| rec.set_u64(*at, *value));
    rec.fit();
    rec
}

/// Makes an OBJECT record: number, type, block size, bonus type and length, dnode slots, flags.
fn object(number: u64, kind: u32, size: u32, bonus: (u32, u32), slots: u8, flags: u8) -> Rec {
    // Checksum and compression are 0: inherited.
    let words = [(16, kind), (20, bonus.0), (24, size), (28, bonus.1)];
    rec(kind::OBJECT, &[(34, slots), (35, flags)], &words, &[(8, number)])
}

/// Makes an OBJECT record of a raw stream, which sends the whole bonus buffer, the number of block pointers and the
/// last block.
fn raw_object(plain: Rec, raw_length: u32, pointers: u8, last: u64) -> Rec {
    let mut rec = plain;
    rec.set_u32(36, raw_length);
    rec.head[48..51].copy_from_slice(&[17, 2, pointers]);
    rec.set_u64(56, last);
    rec.fit();
    rec
}

fn write(object: u64, kind: u32, offset: u64, size: u64, checksum: u8) -> Rec {
    rec(kind::WRITE, &[(48, checksum)], &[(16, kind)], &[(8, object), (24, offset), (32, size)])
}

fn packed(object: u64, offset: u64, size: u64, algorithm: u8, length: u64) -> Rec {
    let longs = [(8, object), (24, offset), (32, size), (56, 0x1122_3344), (96, length)];
    rec(kind::WRITE, &[(48, 7), (49, 1), (50, algorithm)], &[(16, 19)], &longs)
}

fn embedded(object: u64, size: u32, algorithm: u8, length: u32) -> Rec {
    rec(kind::WRITE_EMBEDDED, &[(40, algorithm)], &[(48, size), (52, length)], &[(8, object), (24, size.into())])
}

fn free(object: u64, offset: u64, length: u64) -> Rec {
    rec(kind::FREE, &[], &[], &[(8, object), (16, offset), (24, length)])
}

fn freeobjects(first: u64, count: u64) -> Rec {
    rec(kind::FREEOBJECTS, &[], &[], &[(8, first), (16, count)])
}

const MAX: u64 = u64::MAX;
const NONE: (u32, u32) = (0, 0);
/// System attributes.
const SA: (u32, u32) = (44, 168);
const LARGE: u64 = Sub::LARGE_BLOCKS;

/// Name, features in addition to SA_SPILL, flags of BEGIN, 2 for a file system or 3 for a volume, records.
type Vector = (&'static str, u64, u32, u32, Vec<Rec>);

fn vectors() -> Vec<Vector> {
    vec![
        // No drr_payloadlen, no slots, no flags; bonus buffers of znodes and of FUID tables.
        (
            "0.6.5 incremental",
            0,
            0,
            2,
            vec![
                object(1, 21, 512, NONE, 0, 0),
                object(3, 35, 16_384, (36, 8), 0, 0),
                object(7, 19, 1536, (17, 264), 0, 0),
                object(8, 20, 16_384, (17, 320), 0, 0),
                object(9, 19, 131_072, (44, 0), 0, 0),
                write(7, 19, 0, 1536, 7),
                free(7, 1536, MAX),
                // A hole high in the tree whose length overflows to 0, and one that is merged with another.
                free(8, 0, 0),
                free(8, 1 << 60, (1 << 60) - 1),
                rec(kind::SPILL, &[], &[], &[(8, 9), (16, 512)]),
                freeobjects(10, 22),
                // Holes of the meta-dnode beyond all objects.
                freeobjects(1 << 48, 1 << 47),
            ],
        ),
        (
            "0.6.5 -e",
            Sub::EMBED_DATA | Sub::LZ4,
            0,
            2,
            vec![
                object(7, 19, 512, SA, 0, 0),
                object(8, 19, 131_072, SA, 0, 0),
                embedded(7, 512, 3, 112),
                embedded(8, 131_072, 15, 1),
            ],
        ),
        // Without -L: the object has the largest block size that is allowed, and the data is split.
        (
            "0.6.5 of large blocks",
            0,
            0,
            2,
            vec![
                object(7, 19, 131_072, SA, 0, 0),
                write(7, 19, 0, 131_072, 2),
                write(7, 19, 131_072, 73_728, 2),
                free(7, 204_800, MAX),
            ],
        ),
        // A file of a single block, which is as long as the file in whole sectors; a file of several blocks; and one
        // with a block of more than 128 KiB, which is sent whole.
        (
            "0.6.5 files of one block and of many",
            LARGE,
            0,
            2,
            vec![
                object(7, 19, 1536, SA, 0, 0),
                object(8, 19, 131_072, SA, 0, 0),
                object(9, 19, 204_800, SA, 0, 0),
                write(7, 19, 0, 1536, 7),
                free(7, 1536, MAX),
                write(8, 19, 0, 131_072, 7),
                write(8, 19, 131_072, 131_072, 7),
                write(8, 19, 1 << 50, 131_072, 7),
                write(9, 19, 0, 204_800, 7),
            ],
        ),
        (
            "2.0 files of one block and of many, each after its dnode",
            Sub::COMPRESSED | Sub::LZ4,
            0xc,
            2,
            vec![
                object(7, 19, 1536, SA, 1, 0),
                packed(7, 0, 1536, 15, 512),
                object(31, 19, 4096, SA, 1, 0),
                write(31, 19, 4096, 4096, 7),
                packed(31, 1 << 50, 4096, 15, 512),
                object(32, 19, 3072, SA, 1, 0),
                write(32, 19, 0, 3072, 7),
            ],
        ),
        (
            "0.6.5 -L",
            LARGE,
            0,
            2,
            vec![object(7, 19, 1 << 20, SA, 0, 0), write(7, 19, 0, 1 << 20, 7), write(7, 19, 1 << 20, 1 << 20, 7)],
        ),
        (
            "0.7 volume",
            0,
            4,
            3,
            vec![
                object(1, 23, 8192, NONE, 1, 0),
                object(2, 24, 512, NONE, 1, 0),
                freeobjects(0, 1),
                write(1, 23, 0, 8192, 8),
                free(1, 8192, 1 << 30),
                write(1, 23, (1 << 30) + 8192, 8192, 8),
                write(2, 24, 0, 512, 7),
            ],
        ),
        (
            "0.7 -c, large dnodes",
            Sub::COMPRESSED | Sub::LZ4 | Sub::LARGE_DNODE,
            4,
            2,
            vec![
                freeobjects(0, 1),
                object(128, 19, 131_072, (44, 832), 2, 0),
                object(130, 20, 512, (44, 16_192), 32, 0),
                packed(128, 0, 131_072, 15, 4096),
                packed(128, 131_072, 131_072, 13, 512),
                packed(128, 262_144, 131_072, 14, 130_560),
                write(128, 19, 393_216, 131_072, 11),
                write(128, 19, 524_288, 131_072, 12),
                write(128, 19, 655_360, 131_072, 13),
            ],
        ),
        // Spill blocks: one of this snapshot, and one that is sent again for old receivers.
        (
            "0.8 spill blocks",
            0,
            0xc,
            2,
            vec![
                object(7, 19, 131_072, SA, 1, 4),
                rec(kind::SPILL, &[], &[], &[(8, 7), (16, 1536)]),
                object(8, 20, 512, SA, 1, 4),
                rec(kind::SPILL, &[(32, 4)], &[], &[(8, 8), (16, 131_072)]),
            ],
        ),
        // Raw streams begin with object 0. A bonus buffer is sent up to its end; a spill block or more block pointers
        // shorten it. A raw block may have its full length, and may be byte-swapped.
        (
            "0.8 -w",
            Sub::RAW | Sub::COMPRESSED | Sub::LZ4 | Sub::LARGE_DNODE | LARGE,
            0xc,
            2,
            vec![
                rec(kind::OBJECT_RANGE, &[], &[], &[(8, 0), (16, 32)]),
                freeobjects(0, 1),
                raw_object(object(1, 21, 512, NONE, 1, 0), 0, 3, 0),
                raw_object(object(2, 45, 512, NONE, 3, 2), 0, 3, 0),
                raw_object(object(7, 19, 1 << 20, SA, 1, 0), 320, 1, 1 << 20),
                raw_object(object(8, 19, 131_072, SA, 1, 4), 192, 1, 0),
                raw_object(object(10, 19, 131_072, (44, 176), 2, 6), 704, 1, 0),
                raw_object(object(12, 35, 16_384, (36, 8), 1, 0), 64, 3, 0),
                rec(kind::SPILL, &[(32, 6), (33, 15)], &[], &[(8, 8), (16, 2048), (40, 512)]),
                rec(kind::SPILL, &[(33, 2)], &[], &[(8, 10), (16, 512), (40, 512)]),
                packed(7, 0, 1 << 20, 2, 1 << 20),
                packed(7, 1 << 20, 1 << 20, 15, 8192),
                packed(8, 0, 131_072, 9, 512),
                rec(kind::OBJECT_RANGE, &[(68, 2)], &[], &[(8, 64), (16, 32)]),
                freeobjects(64, 32),
            ],
        ),
        // As with -Lec, because the dataset was not encrypted.
        (
            "2.0 -w of data in the clear",
            Sub::COMPRESSED | Sub::EMBED_DATA | Sub::LZ4 | LARGE,
            0xc,
            2,
            vec![
                object(7, 19, 1 << 20, SA, 1, 0),
                embedded(7, 1 << 20, 15, 40),
                packed(7, 1 << 20, 1 << 20, 15, 65_536),
            ],
        ),
        (
            "2.0 -ce of ZSTD",
            Sub::COMPRESSED | Sub::EMBED_DATA | Sub::LZ4 | Sub::ZSTD,
            0xc,
            2,
            vec![
                object(7, 19, 131_072, SA, 1, 0),
                embedded(7, 131_072, 16, 90),
                packed(7, 131_072, 131_072, 16, 1024),
                packed(7, 262_144, 131_072, 15, 1024),
            ],
        ),
        (
            "2.0 -w of ZSTD",
            Sub::RAW | Sub::COMPRESSED | Sub::LZ4 | Sub::ZSTD,
            0xc,
            3,
            vec![
                rec(kind::OBJECT_RANGE, &[], &[], &[(8, 0), (16, 32)]),
                raw_object(object(1, 23, 16_384, NONE, 1, 0), 0, 3, 1 << 40),
                packed(1, 0, 16_384, 16, 512),
                packed(1, 16_384, 16_384, 2, 16_384),
            ],
        ),
        // BLAKE3; directories in large blocks with long names.
        (
            "2.3 and 2.4",
            LARGE | 1 << 28 | 1 << 29,
            0xc,
            2,
            vec![
                object(7, 20, 1 << 20, SA, 1, 0),
                write(7, 20, 0, 1 << 20, 14),
                object(8, 19, 16 << 20, (44, 0), 1, 0),
                write(8, 19, 0, 16 << 20, 14),
                free(8, 16 << 20, MAX),
            ],
        ),
    ]
}

fn judge(bytes: &[u8]) -> Result<(), StreamError> {
    let mut gate = Gate::new();
    gate.feed(bytes, &mut |_| Ok(()))?;
    gate.finish().map(drop)
}

#[test]
fn records_of_every_openzfs_release_are_accepted() {
    for (name, features, flags, objset, records) in vectors() {
        let mut sub = Sub::increment("tank/data@b", 1, 2).features(features).objset(objset).records(records);
        sub.flags = flags;
        let stream = Stream::plain(sub);
        for stream in [stream.clone().bytes_without_record_checksums(), stream.bytes(), stream.swapped().bytes()] {
            assert!(judge(&stream).is_ok(), "{name}: {}", judge(&stream).unwrap_err());
        }
    }
}

/// Some senders write streams that no receiver can use. The rejection names a remedy and does not say "damaged, send it
/// again".
#[test]
fn the_rejection_of_an_unusable_stream_names_a_remedy() {
    let on_file = |size, rec| vec![object(7, 19, size, SA, 1, 0), rec];
    // Extended attributes of 512 bytes, embedded at the offset that stands for the spill block.
    let spill = embedded(7, 512, 15, 100).with(16, 0u64.wrapping_sub(1024));
    let embedding = Sub::EMBED_DATA | Sub::LZ4;
    for (name, features, records, remedy) in [
        (
            "-e of large blocks",
            embedding,
            on_file(131_072, embedded(7, 1 << 20, 15, 40)),
            "send with -L, or without -e",
        ),
        ("2.3 -e of a spill block", embedding, on_file(131_072, spill), "send without -e"),
        ("recompressed", 0, on_file(131_072, packed(7, 0, 131_072, 15, 512)), "send it without them"),
        ("by ZSTD", Sub::COMPRESSED, on_file(131_072, packed(7, 0, 131_072, 16, 512)), "send it without them"),
        ("decompressed", Sub::COMPRESSED, on_file(131_072, packed(7, 0, 131_072, 2, 4096)), "send it without them"),
        (
            "a new algorithm",
            Sub::COMPRESSED,
            on_file(131_072, packed(7, 0, 131_072, 17, 512)),
            "carry it with --opaque",
        ),
    ] {
        let stream = Stream::plain(Sub::full("tank/data@b", 2).features(features).records(records));
        for bytes in [stream.bytes(), stream.swapped().bytes()] {
            match judge(&bytes) {
                Err(StreamError::Unsupported(why)) => assert!(why.ends_with(remedy), "{name}: {why}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

/// The block size of an object counts only if its record precedes the data in the same substream.
#[test]
fn embedded_data_must_match_the_block_size_of_its_object() {
    let features = Sub::EMBED_DATA | Sub::LZ4;
    let sub = |from, to, records: Vec<Rec>| {
        Sub::increment(&format!("tank@s{to}"), from, to).features(features).records(records)
    };
    let objects = || (0..32).map(|n| object(64 + n, 19, 512 * (1 + n as u32), SA, 1, 0));
    let data = || (0..32).map(|n| embedded(64 + n, 512 * (1 + n as u32), 15, 27));
    let of_one = |records: Vec<Rec>| judge(&Stream::plain(sub(0, 1, records)).bytes());

    // All dnodes of a block first, as OpenZFS before 2.0 sends them; or one by one.
    of_one(objects().chain(data()).collect()).unwrap();
    of_one(objects().zip(data()).flat_map(<[Rec; 2]>::from).collect()).unwrap();
    let words = "a WRITE_EMBEDDED record with a block size other than its object's, 512";
    for records in [
        data().chain(objects()).collect::<Vec<_>>(),
        objects().chain([object(96, 19, 512, SA, 1, 0)]).chain(data()).collect(),
    ] {
        assert!(of_one(records).unwrap_err().to_string().contains(words));
    }
    let two = Stream::compound("tank@s2", [sub(0, 1, objects().collect()), sub(1, 2, data().collect())]);
    assert!(judge(&two.bytes()).unwrap_err().to_string().contains(words));
}

/// Real streams with one changed field. `tests/lab/part-hostile` shows what they do to a kernel.
#[test]
fn real_streams_with_one_harmful_field_are_rejected() {
    for hostile in zsnap_tests::hostile::poison() {
        let why = judge(&hostile.bytes).unwrap_err().to_string();
        assert!(why.contains(hostile.why), "{}: {why}", hostile.name);
    }
    assert!(judge(&sample("embedded-e.zfs")).is_ok());
}
