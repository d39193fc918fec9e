//! ZFS send streams for tests: synthetic ones, and changed real ones.
//!
//! This module does not use the code under test. The layout and the checksum are implemented a second time, so that a
//! mistake in one implementation is detected by the other.
//!
//! ```
//! use zsnap_tests::stream::{Rec, Stream, Sub};
//!
//! // What `zfs send tank/home@a` writes, of a snapshot with the guid 1 ...
//! let full = Stream::plain(Sub::full("tank/home@a", 1)).bytes();
//! // ... and `zfs send -I @a tank/home@c`, from a big-endian machine, with other data.
//! let compound = Stream::compound(
//!     "tank/home@c",
//!     [
//!         Sub::increment("tank/home@b", 1, 2),
//!         Sub::increment("tank/home@c", 2, 3).records(Rec::file([&[7; 4096][..]])),
//!     ],
//! );
//! let compound = compound.swapped().bytes();
//!
//! // A hostile one: any field of any record changed, with all checksums right again.
//! let mut stream = Stream::parse(&full);
//! stream.records[0].set_toname("tank/../evil@a");
//! let hostile = stream.bytes();
//! # assert!(full.len() < compound.len() && hostile.len() == full.len());
//! ```

use std::io::{self, Read};

/// The length of a record.
pub const RECORD: usize = 312;
/// The magic number at offset 8 of a BEGIN.
pub const MAGIC: u64 = 0x2_f5ba_cbac;

/// Record types.
#[allow(missing_docs, reason = "the format's own names")]
pub mod kind {
    pub const BEGIN: u32 = 0;
    pub const OBJECT: u32 = 1;
    pub const FREEOBJECTS: u32 = 2;
    pub const WRITE: u32 = 3;
    pub const FREE: u32 = 4;
    pub const END: u32 = 5;
    pub const WRITE_BYREF: u32 = 6;
    pub const SPILL: u32 = 7;
    pub const WRITE_EMBEDDED: u32 = 8;
    pub const OBJECT_RANGE: u32 = 9;
    pub const REDACT: u32 = 10;
}
use kind::*;

/// Object types: `DMU_OT_PLAIN_FILE_CONTENTS` and `DMU_OT_SA`.
const FILE: u32 = 19;
const SYSTEM_ATTRIBUTES: u32 = 44;
/// Compression of blocks: none and LZ4.
const OFF: u8 = 2;
const LZ4: u8 = 15;

/// Returns the offsets and widths of all numbers in a record except its type, payload length and checksum.
fn fields(kind: u32) -> &'static [(usize, usize)] {
    match kind {
        BEGIN => &[(8, 8), (16, 8), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8)],
        OBJECT => &[(8, 8), (16, 4), (20, 4), (24, 4), (28, 4), (36, 4), (40, 8), (56, 8)],
        FREEOBJECTS => &[(8, 8), (16, 8), (24, 8)],
        WRITE => &[(8, 8), (16, 4), (24, 8), (32, 8), (40, 8), (56, 8), (64, 8), (72, 8), (80, 8), (88, 8), (96, 8)],
        FREE | REDACT => &[(8, 8), (16, 8), (24, 8), (32, 8)],
        END => &[(8, 8), (16, 8), (24, 8), (32, 8), (40, 8)],
        WRITE_BYREF => &[
            (8, 8),
            (16, 8),
            (24, 8),
            (32, 8),
            (40, 8),
            (48, 8),
            (56, 8),
            (72, 8),
            (80, 8),
            (88, 8),
            (96, 8),
            (104, 8),
        ],
        SPILL => &[(8, 8), (16, 8), (24, 8), (40, 8), (84, 4)],
        WRITE_EMBEDDED => &[(8, 8), (16, 8), (24, 8), (32, 8), (48, 4), (52, 4)],
        OBJECT_RANGE => &[(8, 8), (16, 8), (24, 8)],
        _ => &[],
    }
}

/// Returns the offset of the guid of the snapshot in a record.
fn toguid_at(kind: u32) -> usize {
    match kind {
        FREEOBJECTS | SPILL | OBJECT_RANGE => 24,
        FREE | WRITE_BYREF | WRITE_EMBEDDED | REDACT => 32,
        _ => 40,
    }
}

/// A record with its payload. Numbers are read and written in the byte order of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rec {
    /// Whether it is big-endian.
    pub big: bool,
    /// The record without its payload, [`RECORD`] bytes.
    pub head: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Rec {
    /// Makes a record with only its type.
    pub fn new(kind: u32) -> Rec {
        let mut rec = Rec { big: false, head: vec![0; RECORD], payload: Vec::new() };
        rec.set_u32(0, kind);
        rec
    }

    /// Makes a WRITE record: object 1, offset 0. In a stream it needs an OBJECT record before it.
    pub fn write(data: &[u8]) -> Rec {
        Rec::new(WRITE).with(8, 1).with(32, data.len() as u64).followed_by(data)
    }

    /// Makes a WRITE record of a raw stream: encrypted and not compressed.
    pub fn raw_write(data: &[u8]) -> Rec {
        let mut rec = Rec::write(data).with(96, data.len() as u64);
        rec.head[50] = OFF;
        rec
    }

    /// Makes the OBJECT record of a file, which `zfs send` writes before its data.
    pub fn object(number: u64, block_size: u32) -> Rec {
        let mut rec = Rec::new(OBJECT).with(8, number).followed_by(&[1; 184]);
        for (at, value) in [(16, FILE), (20, SYSTEM_ATTRIBUTES), (24, block_size), (28, 181)] {
            rec.set_u32(at, value);
        }
        rec.head[34] = 1;
        rec
    }

    /// Makes the records of a file with blocks of up to 128 KiB, all of object 1 at offset 0.
    pub fn file<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Rec> {
        std::iter::once(Rec::object(1, 131_072)).chain(blocks.into_iter().map(Rec::write)).collect()
    }

    /// Makes the OBJECT record of a file in a raw stream, with an encrypted bonus buffer of full length.
    pub fn raw_object(number: u64, block_size: u32) -> Rec {
        let mut rec = Rec::object(number, block_size).followed_by(&[2; 320]);
        rec.set_u32(36, 320);
        rec.head[48..51].copy_from_slice(&[17, 1, 1]);
        rec
    }

    /// Makes a WRITE of 128 KiB or a SPILL of 1 KiB of extended attributes, compressed to 512 bytes.
    fn packed(kind: u32, algorithm: u8) -> Rec {
        let mut rec = match kind {
            WRITE => Rec::new(WRITE).with(32, 131_072).with(96, 512),
            _ => Rec::new(SPILL).with(16, 1024).with(40, 512),
        };
        rec.head[if kind == WRITE { 50 } else { 33 }] = algorithm;
        rec.with(8, 2).followed_by(&[3; 512])
    }

    /// Makes records of each kind that a substream with the features [`Sub::EVERY`] may contain, with various payloads.
    pub fn every_kind() -> Vec<Rec> {
        let mut embedded = Rec::new(WRITE_EMBEDDED).with(8, 2).with(16, 131_072).with(24, 131_072);
        embedded.head[40] = LZ4;
        embedded.set_u32(48, 131_072);
        embedded.set_u32(52, 27);
        vec![
            Rec::object(1, 1024),
            Rec::object(2, 131_072),
            Rec::new(FREEOBJECTS).with(8, 3).with(16, 29),
            Rec::write(&[5; 1024]),
            Rec::packed(WRITE, LZ4),
            Rec::new(FREE).with(8, 1).with(16, 1024).with(24, u64::MAX),
            Rec::new(SPILL).with(8, 1).with(16, 512).followed_by(&[6; 512]),
            embedded.followed_by(&[4; 32]),
            Rec::new(FREE).with(8, 2).with(16, 262_144).with(24, 131_072),
            Rec::new(FREEOBJECTS).with(8, 32).with(16, (1 << 48) - 32),
        ]
    }

    /// Makes records of each kind that a raw substream with the features [`Sub::EVERY_RAW`] may contain.
    pub fn every_raw_kind() -> Vec<Rec> {
        vec![
            Rec::new(OBJECT_RANGE).with(16, 32),
            Rec::new(FREEOBJECTS).with(16, 1),
            Rec::raw_object(1, 512),
            Rec::raw_object(2, 131_072),
            Rec::packed(WRITE, LZ4),
            Rec::raw_write(&[5; 512]),
            Rec::new(FREE).with(8, 2).with(16, 262_144).with(24, u64::MAX),
            Rec::packed(SPILL, LZ4),
        ]
    }

    /// Sets a 64-bit field.
    pub fn with(mut self, at: usize, value: u64) -> Rec {
        self.set_u64(at, value);
        self
    }

    /// Sets the payload. The length fields are not changed.
    pub fn followed_by(mut self, payload: &[u8]) -> Rec {
        self.payload = payload.to_vec();
        self
    }

    /// Reads the next record of a stream with its payload.
    pub fn read(input: &mut impl Read, big: bool) -> io::Result<Rec> {
        let mut rec = Rec { big, head: vec![0; RECORD], payload: Vec::new() };
        input.read_exact(&mut rec.head)?;
        rec.read_payload(input)?;
        Ok(rec)
    }

    /// Reads the payload of the record.
    pub fn read_payload(&mut self, input: &mut impl Read) -> io::Result<()> {
        match self.payload_length() {
            length @ ..=0x0100_0000 => self.payload.resize(length as usize, 0),
            length => return Err(io::Error::other(format!("a payload of {length} bytes"))),
        }
        input.read_exact(&mut self.payload)
    }

    /// Returns the type.
    pub fn kind(&self) -> u32 {
        self.u32(0)
    }

    /// The number at an offset.
    pub fn u32(&self, at: usize) -> u32 {
        self.number(at, 4) as u32
    }

    /// The number at an offset.
    pub fn u64(&self, at: usize) -> u64 {
        self.number(at, 8)
    }

    /// Changes the number at an offset.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, 4, value.into());
    }

    /// Changes the number at an offset.
    pub fn set_u64(&mut self, at: usize, value: u64) {
        self.set(at, 8, value);
    }

    /// Sets the guid of the snapshot.
    pub fn set_toguid(&mut self, guid: u64) {
        self.set_u64(toguid_at(self.kind()), guid);
    }

    /// Sets the name in a BEGIN.
    pub fn set_toname(&mut self, name: &str) {
        self.head[56..].fill(0);
        self.head[56..56 + name.len()].copy_from_slice(name.as_bytes());
    }

    /// Returns the number of `width` bytes at an offset.
    pub fn number(&self, at: usize, width: usize) -> u64 {
        let digit = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let bytes = &self.head[at..at + width];
        if self.big { bytes.iter().fold(0, digit) } else { bytes.iter().rev().fold(0, digit) }
    }

    /// Sets the number of `width` bytes at an offset.
    pub fn set(&mut self, at: usize, width: usize, value: u64) {
        for n in 0..width {
            let place = if self.big { width - 1 - n } else { n };
            self.head[at + place] = (value >> (8 * n)) as u8;
        }
    }

    fn swap(&mut self) {
        let mut places = vec![(0, 4), (4, 4)];
        places.extend(fields(self.kind()));
        if self.kind() != BEGIN {
            places.extend((280..RECORD).step_by(8).map(|at| (at, 8)));
        }
        places.into_iter().for_each(|(at, width)| self.head[at..at + width].reverse());
        self.big = !self.big;
    }

    /// Makes the payload as long as the fields say, if the format permits such a length.
    pub fn fit(&mut self) {
        let length = self.payload_length();
        if length <= 16 << 20 {
            self.payload.resize(length as usize, 7);
        }
    }

    /// Returns the length of the payload according to the fields, in bytes, however large.
    pub fn payload_length(&self) -> u64 {
        let rounded = |n: u32| u64::from(n).next_multiple_of(8);
        match self.kind() {
            BEGIN => u64::from(self.u32(4)),
            OBJECT if self.u32(36) > 0 => u64::from(self.u32(36)),
            OBJECT => rounded(self.u32(28)),
            WRITE if self.head[50] > 0 => self.u64(96),
            WRITE => self.u64(32),
            SPILL if self.u64(40) > 0 => self.u64(40),
            SPILL => self.u64(16),
            WRITE_EMBEDDED => rounded(self.u32(52)),
            _ => 0,
        }
    }
}

/// A substream (BEGIN..END) to make.
#[derive(Clone, Debug)]
pub struct Sub {
    /// `fs@snap`.
    pub toname: String,
    /// The guid of the base, or 0 for a full stream.
    pub from: u64,
    /// The guid of the snapshot.
    pub to: u64,
    /// Feature bits, such as [`Sub::RAW`].
    pub features: u64,
    /// `DRR_FLAG_*`.
    pub flags: u32,
    /// 2 for a file system, 3 for a volume.
    pub objset: u32,
    /// The creation time in seconds UTC.
    pub created: u64,
    /// The payload of the BEGIN, a multiple of 4 bytes.
    pub payload: Vec<u8>,
    /// The records between BEGIN and END. Their guid is filled in.
    pub records: Vec<Rec>,
}

impl Sub {
    /// Feature of `zfs send -e`.
    pub const EMBED_DATA: u64 = 1 << 16;
    /// Feature with `-c`, `-e` or `-w`: blocks may be compressed by LZ4.
    pub const LZ4: u64 = 1 << 17;
    /// Feature of `zfs send -L`.
    pub const LARGE_BLOCKS: u64 = 1 << 19;
    /// Feature of `zfs send -c`.
    pub const COMPRESSED: u64 = 1 << 22;
    /// Feature of a file system that has dnodes of more than 512 bytes.
    pub const LARGE_DNODE: u64 = 1 << 23;
    /// Feature of `zfs send -w`, which also sets `COMPRESSED`.
    pub const RAW: u64 = 1 << 24;
    /// Feature with `-c` or `-w`: blocks may be compressed by ZSTD.
    pub const ZSTD: u64 = 1 << 25;
    /// The features that [`Rec::every_kind`] needs.
    pub const EVERY: u64 = Sub::EMBED_DATA | Sub::LZ4 | Sub::COMPRESSED;
    /// The features that [`Rec::every_raw_kind`] needs.
    pub const EVERY_RAW: u64 = Sub::RAW | Sub::LZ4 | Sub::COMPRESSED;

    /// Makes a full stream of a file system with one block of data, dated November 2023.
    pub fn full(toname: &str, to: u64) -> Sub {
        Sub::increment(toname, 0, to)
    }

    /// Makes an incremental on `from` of a file system with one block of data, dated November 2023.
    pub fn increment(toname: &str, from: u64, to: u64) -> Sub {
        Sub {
            toname: toname.to_owned(),
            from,
            to,
            features: 1 << 2,
            flags: 0xc,
            objset: 2,
            created: 1_700_000_000 + to % 1_000_000,
            payload: Vec::new(),
            records: Rec::file([&to.to_le_bytes().repeat(64)[..]]),
        }
    }

    /// Sets the records.
    pub fn records(mut self, records: impl Into<Vec<Rec>>) -> Sub {
        self.records = records.into();
        self
    }

    /// Adds features.
    pub fn features(mut self, bits: u64) -> Sub {
        self.features |= bits;
        self
    }

    /// Sets the type of the dataset.
    pub fn objset(mut self, objset: u32) -> Sub {
        self.objset = objset;
        self
    }

    /// Sets the creation time in seconds UTC.
    pub fn created(mut self, created: u64) -> Sub {
        self.created = created;
        self
    }

    /// Returns the BEGIN, the records and the END.
    pub fn into_records(self) -> Vec<Rec> {
        let mut all = vec![begin(&self.toname, 1, self.features, &self.payload)];
        all[0].set_u64(24, self.created);
        all[0].set_u32(32, self.objset);
        all[0].set_u32(36, self.flags);
        all[0].set_u64(48, self.from);
        all.extend(self.records);
        all.push(Rec::new(END));
        all.iter_mut().for_each(|rec| rec.set_u64(toguid_at(rec.kind()), self.to));
        all
    }
}

fn begin(toname: &str, header: u64, features: u64, payload: &[u8]) -> Rec {
    let mut rec = Rec::new(BEGIN).with(8, MAGIC).with(16, header | features << 2).followed_by(payload);
    rec.set_u32(4, payload.len() as u32);
    rec.set_toname(toname);
    rec
}

/// A stream as a list of records. [`Stream::bytes`] computes the checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// All records, in order.
    pub records: Vec<Rec>,
}

impl Stream {
    /// Makes a stream as `zfs send` and `zfs send -i` do.
    pub fn plain(sub: Sub) -> Stream {
        Stream { records: sub.into_records() }
    }

    /// Makes a stream as `zfs send -I` does. `toname` is the name in the wrapper.
    pub fn compound(toname: &str, subs: impl IntoIterator<Item = Sub>) -> Stream {
        Stream::with_properties(toname, &[], subs)
    }

    /// Makes a stream as `zfs send -p` does. `nvlist` is the payload of the wrapper, a multiple of 4 bytes.
    pub fn with_properties(toname: &str, nvlist: &[u8], subs: impl IntoIterator<Item = Sub>) -> Stream {
        let mut records = vec![begin(toname, 2, 0, nvlist), Rec::new(END)];
        records.extend(subs.into_iter().flat_map(Sub::into_records));
        records.push(Rec::new(END));
        Stream { records }
    }

    /// Splits a real stream into records.
    pub fn parse(mut bytes: &[u8]) -> Stream {
        let big = bytes[8] == 0;
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let mut rec = Rec { big, head: bytes[..RECORD].to_vec(), payload: Vec::new() };
            let end = RECORD + rec.payload_length() as usize;
            rec.payload = bytes[RECORD..end].to_vec();
            records.push(rec);
            bytes = &bytes[end..];
        }
        Stream { records }
    }

    /// Converts the records to the other byte order. The payloads are not changed.
    pub fn swapped(mut self) -> Stream {
        self.records.iter_mut().for_each(Rec::swap);
        self
    }

    /// Returns the stream with correct checksums. As in real streams, the two END records of a wrapper have no checksum
    /// of their own, and the last one has only its type.
    pub fn bytes(&self) -> Vec<u8> {
        self.summed(true)
    }

    /// Returns the stream with a checksum only in END, as an old sender writes it.
    pub fn bytes_without_record_checksums(&self) -> Vec<u8> {
        self.summed(false)
    }

    fn summed(&self, each_record: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sum = [0; 4];
        let (mut open, mut wrapper) = (false, false);
        for mut rec in self.records.iter().cloned() {
            if rec.kind() == BEGIN {
                sum = [0; 4];
                (open, wrapper) = (true, rec.u64(16) & 3 == 2);
            } else {
                rec.head[280..].fill(0);
                if rec.kind() == END && open {
                    (0..4).for_each(|n| rec.set_u64(8 + 8 * n, sum[n]));
                }
                fletcher4(&mut sum, &rec.head[..280], rec.big);
                if each_record && open && !wrapper {
                    (0..4).for_each(|n| rec.set_u64(280 + 8 * n, sum[n]));
                }
                open &= rec.kind() != END;
            }
            fletcher4(&mut sum, if rec.kind() == BEGIN { &rec.head } else { &rec.head[280..] }, rec.big);
            fletcher4(&mut sum, &rec.payload, rec.big);
            out.extend(rec.head);
            out.extend(rec.payload);
        }
        out
    }
}

/// The running checksum of a substream that is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum([u64; 4]);

impl Sum {
    /// Adds the next record. Returns whether its checksums, of itself and of the records before it, are correct.
    pub fn check(&mut self, rec: &Rec) -> bool {
        let stated = |at: usize| [0, 8, 16, 24].map(|n| rec.u64(at + n));
        let mut correct = rec.kind() != END || stated(8) == self.0;
        if rec.kind() != BEGIN {
            fletcher4(&mut self.0, &rec.head[..280], rec.big);
            correct &= stated(280) == [0; 4] || stated(280) == self.0;
        }
        fletcher4(&mut self.0, if rec.kind() == BEGIN { &rec.head } else { &rec.head[280..] }, rec.big);
        fletcher4(&mut self.0, &rec.payload, rec.big);
        correct
    }
}

fn fletcher4(sum: &mut [u64; 4], bytes: &[u8], big: bool) {
    for word in bytes.chunks_exact(4) {
        let digit = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let mut carry = if big { word.iter().fold(0, digit) } else { word.iter().rev().fold(0, digit) };
        for total in sum.iter_mut() {
            *total = total.wrapping_add(carry);
            carry = *total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SAMPLES, sample};

    #[test]
    fn parsing_and_writing_a_real_stream_returns_the_same_bytes() {
        for name in SAMPLES {
            let bytes = sample(name);
            let stream = Stream::parse(&bytes);
            assert!(stream.bytes() == bytes, "{name}");
            let swapped = stream.clone().swapped();
            assert!(swapped.bytes() != bytes, "{name}");
            assert!(Stream::parse(&swapped.bytes()).swapped().bytes() == bytes, "{name}");
        }
    }
}
