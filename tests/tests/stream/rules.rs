//! Tests each rule of the gate for the fields of records: streams that are correct except for one field, with
//! correct checksums, in both byte orders. The last accepted value stands beside the first rejected one.
#![allow(clippy::panic, clippy::unwrap_used, reason = "all of this is test code")]

use std::collections::BTreeSet;

use zsnap_common::stream::{Gate, StreamError};
use zsnap_tests::stream::{Rec, Stream, Sub, kind};

/// How the gate rejects a wrong value.
#[derive(Clone, Copy)]
enum Rejection {
    /// As damaged: what the message says that the record has.
    Damaged(&'static str),
    /// As known only to a newer OpenZFS: what the message says that the stream has.
    Newer(&'static str),
    /// With a message that ends with this remedy.
    Remedy(&'static str),
}
use Rejection::{Damaged, Newer, Remedy};

/// The accepted and rejected values of a field: the stream, the number of the record, the field's offset and
/// width, accepted values, rejected values, and how they are rejected.
type Row = (fn() -> Stream, usize, (usize, usize), &'static [u64], &'static [u64], Rejection);

const MAX: u64 = u64::MAX;
const LAST_OBJECT: u64 = (1 << 48) - 1;
/// The fields of BEGIN with the features, behind two bits, and with the flags.
const VERSION: (usize, usize) = (16, 8);
const FLAGS: (usize, usize) = (36, 4);

const fn features(bits: u64) -> u64 {
    1 | (1 << 2 | bits) << 2
}

/// A stream of BEGIN, these records, END.
fn stream(features: u64, records: impl Into<Vec<Rec>>) -> Stream {
    Stream::plain(Sub::full("tank@a", 1).features(features).records(records))
}

fn with(mut rec: Rec, fields: &[(usize, u32)], bytes: &[(usize, u8)]) -> Rec {
    fields.iter().for_each(|(at, value)| rec.set_u32(*at, *value));
    bytes.iter().for_each(|(at, value)| rec.head[*at] = *value);
    rec.fit();
    rec
}

// The streams. Their records are numbered from 0, which is BEGIN.

fn object() -> Stream {
    stream(Sub::LARGE_DNODE, [Rec::object(1, 131_072)])
}

fn large_object() -> Stream {
    stream(Sub::LARGE_BLOCKS, [Rec::object(1, 131_072)])
}

fn four_slots() -> Stream {
    stream(Sub::LARGE_DNODE, [with(Rec::object(LAST_OBJECT - 3, 512), &[], &[(34, 4)])])
}

fn most_slots() -> Stream {
    stream(Sub::LARGE_DNODE, [with(Rec::object(1, 512), &[], &[(34, 32)])])
}

/// An object as OpenZFS before 0.7 writes all of them.
fn no_slots() -> Stream {
    stream(0, [with(Rec::object(1, 512), &[], &[(34, 0)])])
}

fn no_bonus() -> Stream {
    stream(0, [with(Rec::object(1, 512), &[(20, 0), (28, 0)], &[])])
}

fn object_with_spill() -> Stream {
    stream(0, [with(Rec::object(1, 512), &[], &[(35, 4)])])
}

fn raw_object() -> Stream {
    stream(Sub::EVERY_RAW, [Rec::raw_object(1, 131_072)])
}

fn raw_odd_object() -> Stream {
    stream(Sub::EVERY_RAW, [Rec::raw_object(1, 1536)])
}

fn raw_small_indirects() -> Stream {
    stream(Sub::EVERY_RAW, [with(Rec::raw_object(1, 512), &[], &[(48, 12)])])
}

fn raw_object_with_spill() -> Stream {
    stream(Sub::EVERY_RAW, [with(Rec::raw_object(1, 512), &[(36, 192)], &[(35, 4)])])
}

/// A directory in the oldest style, with 100 bytes of bonus and two block pointers.
fn raw_two_pointers() -> Stream {
    stream(Sub::EVERY_RAW, [with(Rec::raw_object(1, 512), &[(20, 17), (28, 100), (36, 192)], &[(50, 2)])])
}

/// An object of type 21, a table, without a bonus buffer.
fn raw_no_bonus() -> Stream {
    stream(Sub::EVERY_RAW, [with(Rec::raw_object(1, 512), &[(16, 21), (20, 0), (28, 0), (36, 0)], &[(50, 3)])])
}

fn free() -> Stream {
    stream(0, [Rec::new(kind::FREE).with(8, 1).with(16, 1024).with(24, 512)])
}

fn freeobjects() -> Stream {
    stream(0, [Rec::new(kind::FREEOBJECTS).with(8, 32).with(16, 1)])
}

fn range() -> Stream {
    stream(Sub::RAW, [Rec::new(kind::OBJECT_RANGE).with(8, 32).with(16, 32)])
}

fn write() -> Stream {
    stream(0, [Rec::object(1, 131_072), Rec::write(&[1; 512])])
}

fn large_write() -> Stream {
    stream(Sub::LARGE_BLOCKS, [Rec::object(1, 16 << 20), Rec::write(&[1; 512])])
}

fn write_of_last() -> Stream {
    stream(0, [Rec::object(LAST_OBJECT, 512), Rec::write(&[1; 512]).with(8, LAST_OBJECT)])
}

/// 512 bytes of a block of 1536.
fn odd_write() -> Stream {
    stream(0, [Rec::object(1, 1536), Rec::write(&[1; 512])])
}

/// 1024 bytes at offset 2048.
fn far_write() -> Stream {
    stream(0, [Rec::object(1, 1024), Rec::write(&[1; 1024]).with(24, 2048)])
}

fn compressed(algorithm: u8) -> Rec {
    with(Rec::write(&[1; 512]).with(32, 1024).with(96, 512), &[], &[(50, algorithm)])
}

fn compressed_write() -> Stream {
    stream(Sub::COMPRESSED | Sub::LZ4 | Sub::ZSTD, [Rec::object(1, 1024), compressed(15)])
}

fn zstd_write() -> Stream {
    stream(Sub::COMPRESSED | Sub::LZ4 | Sub::ZSTD, [Rec::object(1, 1024), compressed(16)])
}

fn raw_write() -> Stream {
    stream(Sub::EVERY_RAW | Sub::ZSTD, [Rec::raw_object(1, 1024), compressed(15)])
}

fn spill() -> Stream {
    stream(0, [Rec::object(1, 512), Rec::new(kind::SPILL).with(8, 1).with(16, 1024).followed_by(&[1; 1024])])
}

fn raw_spill() -> Stream {
    let rec = Rec::new(kind::SPILL).with(8, 1).with(16, 1024).with(40, 512);
    stream(Sub::EVERY_RAW | Sub::ZSTD, [Rec::raw_object(1, 512), with(rec, &[], &[(33, 15)])])
}

fn embed(size: u32) -> Rec {
    let rec = Rec::new(kind::WRITE_EMBEDDED).with(8, 1).with(24, size.into());
    with(rec, &[(48, size), (52, 27)], &[(40, 15)])
}

fn embedded() -> Stream {
    stream(Sub::EMBED_DATA | Sub::LZ4 | Sub::ZSTD, [Rec::object(1, 512), embed(512)])
}

fn large_embedded() -> Stream {
    stream(Sub::EMBED_DATA | Sub::LZ4 | Sub::LARGE_BLOCKS, [Rec::object(1, 131_584), embed(131_584)])
}

fn lone_embedded() -> Stream {
    stream(Sub::RAW | Sub::EMBED_DATA | Sub::LZ4, [embed(512)])
}

const OBJECT: &[Row] = &[
    (object, 1, (8, 8), &[1, LAST_OBJECT], &[0, LAST_OBJECT + 1, MAX], Damaged("object")),
    (four_slots, 1, (8, 8), &[LAST_OBJECT - 3], &[LAST_OBJECT - 2], Damaged("dnode slots up to object")),
    (object, 1, (16, 4), &[1, 9, 12, 19, 53, 0x80, 0xe9], &[54, 0x7f, 0x8a, 0xea, 0xff], Newer("type")),
    (object, 1, (16, 4), &[0xc4, 0xc7], &[0, 10, 11, 0x85, 0xc6, 0x113, 0x180, 0xffff_ffff], Damaged("type")),
    (object, 1, (20, 4), &[17, 44, 53, 0xc3], &[54, 0x8a], Newer("bonus type")),
    (object, 1, (20, 4), &[], &[10, 11, 0x86, 0x12c], Damaged("bonus type")),
    (no_bonus, 1, (20, 4), &[0, 44, 0xc3], &[17, 0x83], Damaged("an empty bonus buffer of type")),
    (no_bonus, 1, (28, 4), &[0], &[1, 320], Damaged("no bonus type and bonus length")),
    (object, 1, (34, 1), &[0, 1, 2, 32], &[33, 255], Damaged("dnode slots")),
    (most_slots, 0, VERSION, &[features(1 << 23)], &[features(0)], Damaged("dnode slots without LARGE_DNODE")),
    (
        large_object,
        1,
        (24, 4),
        &[512, 1536, 16 << 20],
        &[0, 511, 513, 768, 1000, (16 << 20) + 512],
        Damaged("block size"),
    ),
    (object, 1, (24, 4), &[131_072], &[131_584], Damaged("block size without LARGE_BLOCKS")),
    (object, 1, (32, 1), &[0, 2, 6, 8, 10, 14], &[15, 255], Newer("checksum")),
    (object, 1, (32, 1), &[], &[3, 4, 5, 9], Damaged("checksum")),
    (object, 1, (33, 1), &[0, 2, 16], &[17, 100, 255], Newer("compression")),
    (object, 1, (28, 4), &[1, 320], &[321, 12_288, 0xffff], Damaged("bonus length")),
    (no_slots, 1, (28, 4), &[320], &[321], Damaged("bonus length")),
    (most_slots, 1, (28, 4), &[16_192], &[16_193], Damaged("bonus length")),
    (object, 1, (35, 1), &[0, 4], &[1, 8, 255], Newer("flags")),
    (object, 1, (35, 1), &[], &[2, 6], Damaged("flags of a raw stream,")),
    (object_with_spill, 0, FLAGS, &[0xc], &[0, 4], Damaged("a spill block without SPILL_BLOCK, flags")),
    (object, 1, (36, 4), &[0], &[184, 320], Damaged("raw bonus length")),
    (object, 1, (48, 1), &[0], &[17], Damaged("indirect block shift")),
    (object, 1, (49, 1), &[0], &[1], Damaged("levels")),
    (object, 1, (50, 1), &[0], &[1], Damaged("block pointers")),
    (raw_object, 1, (35, 1), &[0, 2], &[1, 8, 255], Newer("flags")),
    (raw_object, 1, (36, 4), &[184, 320], &[0, 180, 324, 12_288], Damaged("raw bonus length")),
    (raw_object, 1, (28, 4), &[0, 320], &[321], Damaged("bonus length")),
    (raw_object_with_spill, 1, (36, 4), &[184, 192], &[180, 196], Damaged("raw bonus length")),
    (raw_two_pointers, 1, (36, 4), &[100, 192], &[96, 196], Damaged("raw bonus length")),
    (raw_no_bonus, 1, (35, 1), &[0, 2], &[4, 6], Damaged("raw bonus length")),
    (raw_object, 1, (48, 1), &[0, 12, 17], &[1, 11, 18, 255], Damaged("indirect block shift")),
    (raw_object, 1, (49, 1), &[1, 7], &[0, 8, 12, 13, 255], Damaged("levels")),
    (raw_small_indirects, 1, (49, 1), &[1, 12], &[0, 13, 255], Damaged("levels")),
    (raw_object, 1, (50, 1), &[1], &[0, 2, 3, 255], Damaged("block pointers")),
    (raw_two_pointers, 1, (50, 1), &[2], &[1, 3], Damaged("block pointers")),
    (raw_no_bonus, 1, (50, 1), &[3], &[0, 2, 4], Damaged("block pointers")),
    (raw_object, 1, (56, 8), &[0, (1 << 47) - 1], &[1 << 47, MAX], Damaged("last block")),
    (raw_odd_object, 1, (56, 8), &[0], &[1, 1 << 40], Damaged("last block")),
];

const OTHERS: &[Row] = &[
    (free, 1, (8, 8), &[1, LAST_OBJECT], &[0, LAST_OBJECT + 1, MAX], Damaged("object")),
    (free, 1, (24, 8), &[0, MAX - 1024, MAX], &[MAX - 1023, MAX - 1], Damaged("length")),
    (freeobjects, 1, (8, 8), &[0, LAST_OBJECT + 1, MAX - 1], &[MAX], Damaged("objects")),
    (freeobjects, 1, (16, 8), &[0, MAX - 32], &[MAX - 31, MAX], Damaged("objects")),
    (range, 0, VERSION, &[features(1 << 24)], &[features(0)], Damaged("a range of a raw stream, of objects from")),
    (range, 1, (16, 8), &[32], &[0, 31, 33, 64, MAX], Damaged("slots")),
    (range, 1, (8, 8), &[0, 64, (1 << 48) - 32], &[1, 33, 1 << 48, MAX - 31], Damaged("first object")),
    (spill, 2, (8, 8), &[1], &[0, LAST_OBJECT + 1, MAX], Damaged("object")),
    (spill, 2, (8, 8), &[], &[2, 33], Damaged("a spill block without attributes, of object")),
    (spill, 1, (20, 4), &[44], &[17, 0xc3], Damaged("a spill block without attributes, of object")),
    (spill, 2, (84, 4), &[0, 44, 0xc3], &[54, 0xca], Newer("type")),
    (spill, 2, (84, 4), &[], &[10, 11, 0x85, 0x12c], Damaged("type")),
    (spill, 2, (16, 8), &[512, 1536, 16 << 20], &[4, 508, 516, 768, 1020], Damaged("block size")),
    (spill, 2, (16, 8), &[], &[0, (16 << 20) + 4, MAX], Damaged("a payload of")),
    (spill, 2, (40, 8), &[0], &[512, 1024], Damaged("compressed size")),
    (spill, 2, (33, 1), &[0], &[1, 2, 15], Damaged("compression")),
    (spill, 2, (33, 1), &[], &[17, 255], Newer("compression")),
    (raw_spill, 2, (40, 8), &[512, 1024], &[0, 4, 508, 516, 768], Damaged("compressed size")),
    (raw_spill, 2, (40, 8), &[], &[1028], Damaged("1028 bytes for a block of")),
    (raw_spill, 2, (33, 1), &[2, 3, 5, 13, 14, 15, 16], &[0, 1, 4], Damaged("compression")),
    (raw_spill, 2, (33, 1), &[], &[17, 100, 255], Newer("compression")),
    (
        raw_spill,
        0,
        VERSION,
        &[features(Sub::EVERY_RAW)],
        &[features(Sub::RAW | Sub::ZSTD)],
        Damaged("unannounced compression"),
    ),
];

const WRITE: &[Row] = &[
    (write, 2, (8, 8), &[1], &[0, LAST_OBJECT + 1, MAX], Damaged("object")),
    (write, 2, (8, 8), &[], &[2, 31, 32, 33, LAST_OBJECT], Damaged("data without an OBJECT record, of object")),
    (write, 1, (8, 8), &[1], &[2, 33], Damaged("data without an OBJECT record, of object")),
    (write_of_last, 1, (8, 8), &[LAST_OBJECT], &[1], Damaged("data without an OBJECT record, of object")),
    (write, 2, (16, 4), &[0, 19, 53, 0xe9], &[54, 0x8a], Newer("type")),
    (write, 2, (16, 4), &[], &[10, 11, 0x86, 0x113], Damaged("type")),
    (write, 2, (48, 1), &[0, 2, 14], &[15, 255], Newer("checksum")),
    (write, 2, (32, 8), &[512, 1536, 131_072], &[4, 508, 516, 768, 1020], Damaged("block size")),
    (write, 2, (32, 8), &[], &[131_584, 16 << 20], Damaged("block size without LARGE_BLOCKS")),
    (large_write, 2, (32, 8), &[131_584, 16 << 20], &[0, (16 << 20) + 4, MAX], Damaged("a payload of")),
    (write, 2, (24, 8), &[0, MAX - 512], &[MAX - 511, MAX], Damaged("offset")),
    // An object of one block, and one of many: where its data begins, how long it is, how long the block is.
    (odd_write, 2, (24, 8), &[0, 512, 1024], &[1536, 131_072, MAX - 512], Damaged("offset")),
    (odd_write, 2, (32, 8), &[512, 1536], &[2048, 131_072], Damaged("offset")),
    (far_write, 1, (24, 4), &[512, 1024, 3072, 131_072], &[1536, 2560], Damaged("offset")),
    (write, 2, (96, 8), &[0], &[4, 512], Damaged("compressed size")),
    (compressed_write, 2, (50, 1), &[3, 5, 13, 14, 15, 16], &[17, 100, 255], Newer("compression")),
    (compressed_write, 2, (50, 1), &[], &[1, 4], Damaged("compression")),
    (compressed_write, 2, (50, 1), &[], &[2], Remedy("send it without them")),
    (compressed_write, 2, (96, 8), &[512, 1024], &[0], Damaged("a payload of")),
    (compressed_write, 2, (96, 8), &[], &[4, 508, 516, 768], Damaged("compressed size")),
    (compressed_write, 2, (96, 8), &[], &[1028], Damaged("1028 bytes for a block of")),
    (
        compressed_write,
        0,
        VERSION,
        &[features(Sub::COMPRESSED | Sub::LZ4)],
        &[features(Sub::LZ4), features(Sub::COMPRESSED | Sub::ZSTD)],
        Remedy("send it without them"),
    ),
    (
        zstd_write,
        0,
        VERSION,
        &[features(Sub::COMPRESSED | Sub::ZSTD)],
        &[features(Sub::ZSTD), features(Sub::COMPRESSED | Sub::LZ4)],
        Remedy("send it without them"),
    ),
    (raw_write, 2, (50, 1), &[2, 3, 5, 13, 14, 15, 16], &[0, 1, 4], Damaged("compression")),
    (raw_write, 2, (50, 1), &[], &[17, 100, 255], Newer("compression")),
    (raw_write, 2, (96, 8), &[512, 1024], &[0], Damaged("a payload of")),
    (raw_write, 2, (96, 8), &[], &[4, 508, 516, 768], Damaged("compressed size")),
    (raw_write, 1, (24, 4), &[1024], &[512, 1536, 131_072], Damaged("a block size other than its object's,")),
    (raw_write, 2, (8, 8), &[], &[2, 33], Damaged("data without an OBJECT record, of object")),
    (raw_write, 2, (24, 8), &[0, 1024, MAX - 2047], &[1, 512, 1025], Damaged("offset")),
    (
        raw_write,
        0,
        VERSION,
        &[features(Sub::EVERY_RAW)],
        &[features(Sub::RAW | Sub::ZSTD)],
        Damaged("unannounced compression"),
    ),
];

const EMBEDDED: &[Row] = &[
    (lone_embedded, 1, (16, 8), &[], &[0], Damaged("embedded data in a raw stream, of size")),
    (embedded, 0, VERSION, &[], &[features(Sub::LZ4)], Damaged("embedded data without EMBED_DATA, of size")),
    (embedded, 2, (8, 8), &[1], &[0, LAST_OBJECT + 1, MAX], Damaged("object")),
    (embedded, 2, (41, 1), &[0], &[1, 2, 3, 255], Newer("embedded type")),
    (embedded, 2, (40, 1), &[3, 5, 13, 14, 15, 16], &[17, 100, 255], Newer("compression")),
    (embedded, 2, (40, 1), &[], &[0, 1, 2, 4], Damaged("compression")),
    (
        embedded,
        0,
        VERSION,
        &[features(Sub::EMBED_DATA | Sub::LZ4)],
        &[features(Sub::EMBED_DATA | Sub::ZSTD)],
        Damaged("unannounced compression"),
    ),
    (embedded, 2, (16, 8), &[0, 1 << 40, MAX - 512], &[MAX - 511, MAX], Damaged("offset")),
    (embedded, 2, (16, 8), &[MAX - 1535], &[MAX - 1023], Remedy("without -e")),
    (odd_embedded, 2, (16, 8), &[0], &[512, 1536, 1 << 40], Damaged("offset")),
    (embedded, 2, (24, 8), &[512], &[0, 64, 1024, 1 << 32 | 512], Damaged("decompressed size")),
    (embedded, 2, (48, 4), &[512], &[0, 64, 1024], Damaged("decompressed size")),
    (embedded, 2, (52, 4), &[1, 112], &[0, 113, 120], Damaged("compressed size")),
    (embedded, 1, (24, 4), &[512], &[1024, 131_072], Damaged("a block size other than its object's,")),
    (embedded, 2, (8, 8), &[], &[2, 33], Damaged("a block size other than its object's,")),
    (
        large_embedded,
        0,
        VERSION,
        &[features(Sub::EMBED_DATA | Sub::LZ4 | Sub::LARGE_BLOCKS)],
        &[],
        Remedy("send with -L, or without -e"),
    ),
    // A sender without -L announces the largest block that it may use.
    (large_without_l, 1, (24, 4), &[], &[131_072], Remedy("send with -L, or without -e")),
];

/// A block of 1536 bytes.
fn odd_embedded() -> Stream {
    stream(Sub::EMBED_DATA | Sub::LZ4, [Rec::object(1, 1536), embed(1536)])
}

fn large_without_l() -> Stream {
    stream(Sub::EMBED_DATA | Sub::LZ4, [Rec::object(1, 131_072), embed(1 << 20)])
}

/// Data of an object in the second block of dnodes, after objects in the first one.
fn second_dnodes() -> Stream {
    stream(0, [Rec::object(2, 131_072), Rec::object(33, 131_072), Rec::write(&[1; 512]).with(8, 33)])
}

fn second_spill() -> Stream {
    let spill = Rec::new(kind::SPILL).with(8, 33).with(16, 512).followed_by(&[1; 512]);
    stream(0, [Rec::object(2, 512), Rec::object(33, 512), spill])
}

/// Two OBJECT records of one object, of which the last counts.
fn spill_of_twice() -> Stream {
    let spill = Rec::new(kind::SPILL).with(8, 1).with(16, 512).followed_by(&[1; 512]);
    stream(0, [Rec::object(1, 512), Rec::object(1, 512), spill])
}

/// 512 bytes of a block of 200 KiB.
fn large_odd_write() -> Stream {
    stream(Sub::LARGE_BLOCKS, [Rec::object(1, 204_800), Rec::write(&[1; 512])])
}

fn compressed_odd_write() -> Stream {
    stream(Sub::COMPRESSED | Sub::LZ4, [Rec::object(1, 1536), compressed(15)])
}

fn raw_odd_write() -> Stream {
    stream(Sub::EVERY_RAW, [Rec::raw_object(1, 1536), Rec::raw_write(&[1; 1536])])
}

fn raw_medium_indirects() -> Stream {
    stream(Sub::EVERY_RAW, [with(Rec::raw_object(1, 512), &[], &[(48, 15)])])
}

/// Rules for combinations of records.
const TOGETHER: &[Row] = &[
    (second_dnodes, 3, (8, 8), &[33], &[2, 34, 65], Damaged("data without an OBJECT record, of object")),
    (second_spill, 3, (8, 8), &[33], &[2, 34], Damaged("a spill block without attributes, of object")),
    (spill_of_twice, 2, (20, 4), &[44], &[17, 0xc3], Damaged("a spill block without attributes, of object")),
    (large_odd_write, 2, (24, 8), &[0, 204_288], &[204_800, 1 << 40], Damaged("offset")),
    (compressed_odd_write, 2, (24, 8), &[0, 512], &[1024, 1536], Damaged("offset")),
    (raw_odd_write, 2, (24, 8), &[0], &[1536, 3072], Damaged("offset")),
    (raw_medium_indirects, 1, (49, 1), &[1, 8], &[0, 9, 12], Damaged("levels")),
];

fn all() -> Vec<Row> {
    [OBJECT, OTHERS, WRITE, EMBEDDED, TOGETHER].concat()
}

fn judge(stream: &Stream) -> Result<(), StreamError> {
    let mut gate = Gate::new();
    gate.feed(&stream.bytes(), &mut |_| Ok(()))?;
    gate.finish().map(drop)
}

#[test]
fn each_field_accepts_its_valid_values_and_rejects_others() {
    let names =
        ["BEGIN", "OBJECT", "FREEOBJECTS", "WRITE", "FREE", "END", "", "SPILL", "WRITE_EMBEDDED", "OBJECT_RANGE"];
    for (number, row) in all().into_iter().enumerate() {
        let (stream, record, (at, width), right, wrong, rejection) = row;
        let judged = |value: u64, big: bool| {
            let mut stream = stream();
            stream.records[record].head[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            if right.contains(&value) {
                stream.records[record].fit();
            }
            judge(&if big { stream.swapped() } else { stream })
        };
        for (big, value) in [false, true].into_iter().flat_map(|big| right.iter().map(move |value| (big, *value))) {
            let judged = judged(value, big);
            assert!(judged.is_ok(), "row {number}, {value} {big}: {}", judged.unwrap_err());
        }
        let last = stream().records.len() - 2;
        let name = names[stream().records[last].kind() as usize];
        let first = names[stream().records[1].kind() as usize];
        for (big, value) in [false, true].into_iter().flat_map(|big| wrong.iter().map(move |value| (big, *value))) {
            let Err(error) = judged(value, big) else { panic!("row {number}, {value} {big}: accepted") };
            let text = error.to_string();
            let expected = match rejection {
                Damaged(words) => {
                    matches!(error, StreamError::Damaged { .. })
                        && [name, first].iter().any(|name| text.contains(&format!(" {name} record with {words} ")))
                }
                Newer(words) => {
                    matches!(error, StreamError::Unsupported(_))
                        && text
                            == format!(
                                "ZFS stream with {words} {value}, which only a newer OpenZFS can know: carry it with --opaque"
                            )
                }
                Remedy(words) => matches!(error, StreamError::Unsupported(_)) && text.ends_with(words),
            };
            assert!(expected, "row {number}, {value} {big}: {text}");
        }
    }
}

/// A row whose unchanged stream is rejected for another reason tests nothing.
#[test]
fn every_unchanged_stream_of_the_table_is_accepted() {
    for (number, (stream, record, (at, width), _, wrong, _)) in all().into_iter().enumerate() {
        let mut value = [0; 8];
        value[..width].copy_from_slice(&stream().records[record].head[at..at + width]);
        // Some streams already have the wrong value of the row.
        let meant = wrong.contains(&u64::from_le_bytes(value));
        assert_eq!(judge(&stream()).is_err(), meant, "row {number}");
    }
    let kinds: BTreeSet<u32> = [object, free, freeobjects, range, write, spill, embedded]
        .iter()
        .flat_map(|stream| stream().records.iter().map(Rec::kind).collect::<Vec<_>>())
        .collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 7, 8, 9]);
}
