//! ZFS send streams for tests: made from nothing, or real ones changed.
//!
//! Nothing here uses the code under test: layout and checksum are written down a second time, so
//! that a mistake in one shows against the other.
//!
//! ```
//! use zsnap_tests::stream::{Rec, Stream, Sub};
//!
//! // What `zfs send tank/home@a` writes, of a snapshot with the guid 1 ...
//! let full = Stream::plain(Sub::full("tank/home@a", 1)).bytes();
//! // ... and `zfs send -I @a tank/home@c`, from a big-endian machine, with data of our own.
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

/// Length of a record.
pub const RECORD: usize = 312;
/// How a BEGIN can be told, at its offset 8.
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

/// Types: `DMU_OT_PLAIN_FILE_CONTENTS` and `DMU_OT_SA`.
const FILE: u32 = 19;
const SYSTEM_ATTRIBUTES: u32 = 44;
/// How blocks are compressed: not, or by LZ4.
const OFF: u8 = 2;
const LZ4: u8 = 15;

/// Offsets and widths of all numbers in a record, but its type, payload length and checksum.
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

/// Where a record names its snapshot.
fn toguid_at(kind: u32) -> usize {
    match kind {
        FREEOBJECTS | SPILL | OBJECT_RANGE => 24,
        FREE | WRITE_BYREF | WRITE_EMBEDDED | REDACT => 32,
        _ => 40,
    }
}

/// A record with its payload. Numbers are read and written in its own byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rec {
    /// Most significant byte first.
    pub big: bool,
    /// The record itself, [`RECORD`] bytes.
    pub head: Vec<u8>,
    /// What follows it.
    pub payload: Vec<u8>,
}

impl Rec {
    /// A record of nothing but its type.
    pub fn new(kind: u32) -> Rec {
        let mut rec = Rec { big: false, head: vec![0; RECORD], payload: Vec::new() };
        rec.set_u32(0, kind);
        rec
    }

    /// A block of data: object 1, offset 0. In a stream it needs an OBJECT record before it.
    pub fn write(data: &[u8]) -> Rec {
        Rec::new(WRITE).with(8, 1).with(32, data.len() as u64).followed_by(data)
    }

    /// The same in a raw stream: encrypted and not compressed.
    pub fn raw_write(data: &[u8]) -> Rec {
        let mut rec = Rec::write(data).with(96, data.len() as u64);
        rec.head[50] = OFF;
        rec
    }

    /// A file, as `zfs send` tells of it before its data.
    pub fn object(number: u64, block_size: u32) -> Rec {
        let mut rec = Rec::new(OBJECT).with(8, number).followed_by(&[1; 184]);
        for (at, value) in [(16, FILE), (20, SYSTEM_ATTRIBUTES), (24, block_size), (28, 181)] {
            rec.set_u32(at, value);
        }
        rec.head[34] = 1;
        rec
    }

    /// A file of blocks of up to 128 KiB, written over one another: object 1, offset 0.
    pub fn file<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Rec> {
        std::iter::once(Rec::object(1, 131_072)).chain(blocks.into_iter().map(Rec::write)).collect()
    }

    /// [`Rec::object`] in a raw stream: an encrypted bonus buffer of full length.
    pub fn raw_object(number: u64, block_size: u32) -> Rec {
        let mut rec = Rec::object(number, block_size).followed_by(&[2; 320]);
        rec.set_u32(36, 320);
        rec.head[48..51].copy_from_slice(&[17, 1, 1]);
        rec
    }

    /// Compressed blocks of 128 KiB and of 1 KiB of extended attributes, in 512 bytes each.
    fn packed(kind: u32, algorithm: u8) -> Rec {
        let mut rec = match kind {
            WRITE => Rec::new(WRITE).with(32, 131_072).with(96, 512),
            _ => Rec::new(SPILL).with(16, 1024).with(40, 512),
        };
        rec.head[if kind == WRITE { 50 } else { 33 }] = algorithm;
        rec.with(8, 2).followed_by(&[3; 512])
    }

    /// One of each kind of record that may be in a sub-stream with the features [`Sub::EVERY`],
    /// payloads of all sorts.
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

    /// The same of a raw sub-stream, with the features [`Sub::EVERY_RAW`].
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

    /// The same, with a 64-bit field set.
    pub fn with(mut self, at: usize, value: u64) -> Rec {
        self.set_u64(at, value);
        self
    }

    /// The same, with a payload; length fields are left alone.
    pub fn followed_by(mut self, payload: &[u8]) -> Rec {
        self.payload = payload.to_vec();
        self
    }

    /// The next one of a stream, with its payload.
    pub fn read(input: &mut impl Read, big: bool) -> io::Result<Rec> {
        let mut rec = Rec { big, head: vec![0; RECORD], payload: Vec::new() };
        input.read_exact(&mut rec.head)?;
        rec.read_payload(input)?;
        Ok(rec)
    }

    /// Reads the payload that belongs to it.
    pub fn read_payload(&mut self, input: &mut impl Read) -> io::Result<()> {
        match self.payload_length() {
            length @ ..=0x0100_0000 => self.payload.resize(length as usize, 0),
            length => return Err(io::Error::other(format!("a payload of {length} bytes"))),
        }
        input.read_exact(&mut self.payload)
    }

    /// The type.
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

    /// Changes the snapshot that it says it belongs to.
    pub fn set_toguid(&mut self, guid: u64) {
        self.set_u64(toguid_at(self.kind()), guid);
    }

    /// Changes the name in a BEGIN.
    pub fn set_toname(&mut self, name: &str) {
        self.head[56..].fill(0);
        self.head[56..56 + name.len()].copy_from_slice(name.as_bytes());
    }

    /// The number at an offset, of that many bytes.
    pub fn number(&self, at: usize, width: usize) -> u64 {
        let digit = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let bytes = &self.head[at..at + width];
        if self.big { bytes.iter().fold(0, digit) } else { bytes.iter().rev().fold(0, digit) }
    }

    /// Changes the number at an offset, of that many bytes.
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

    /// Makes the payload as long as the fields say, if that is not beyond what any stream holds.
    pub fn fit(&mut self) {
        let length = self.payload_length();
        if length <= 16 << 20 {
            self.payload.resize(length as usize, 7);
        }
    }

    /// The length of the payload that its fields ask for, in bytes, however long.
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

/// A BEGIN..END to be made.
#[derive(Clone, Debug)]
pub struct Sub {
    /// `fs@snap`.
    pub toname: String,
    /// The base's guid; 0: full.
    pub from: u64,
    /// The snapshot's guid.
    pub to: u64,
    /// Feature bits: [`Sub::RAW`], [`Sub::COMPRESSED`].
    pub features: u64,
    /// `DRR_FLAG_*`.
    pub flags: u32,
    /// 2 file system, 3 volume.
    pub objset: u32,
    /// Seconds UTC.
    pub created: u64,
    /// Payload of the BEGIN, a multiple of 4 bytes.
    pub payload: Vec<u8>,
    /// What is between BEGIN and END; their guid is filled in.
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
    /// Feature of a file system with dnodes of more than 512 bytes.
    pub const LARGE_DNODE: u64 = 1 << 23;
    /// Feature of `zfs send -w`, which sets `COMPRESSED` too.
    pub const RAW: u64 = 1 << 24;
    /// Feature with `-c` or `-w`: blocks may be compressed by ZSTD.
    pub const ZSTD: u64 = 1 << 25;
    /// What [`Rec::every_kind`] needs.
    pub const EVERY: u64 = Sub::EMBED_DATA | Sub::LZ4 | Sub::COMPRESSED;
    /// What [`Rec::every_raw_kind`] needs.
    pub const EVERY_RAW: u64 = Sub::RAW | Sub::LZ4 | Sub::COMPRESSED;

    /// A full stream of a file system with one block of data, made in November 2023.
    pub fn full(toname: &str, to: u64) -> Sub {
        Sub::increment(toname, 0, to)
    }

    /// The same, based on `from`.
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

    /// Other records.
    pub fn records(mut self, records: impl Into<Vec<Rec>>) -> Sub {
        self.records = records.into();
        self
    }

    /// More features.
    pub fn features(mut self, bits: u64) -> Sub {
        self.features |= bits;
        self
    }

    /// Another type of dataset.
    pub fn objset(mut self, objset: u32) -> Sub {
        self.objset = objset;
        self
    }

    /// Another time of creation, in seconds UTC.
    pub fn created(mut self, created: u64) -> Sub {
        self.created = created;
        self
    }

    /// Its BEGIN, records and END.
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

/// A stream as its records. Checksums are made by [`Stream::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// All records, in order.
    pub records: Vec<Rec>,
}

impl Stream {
    /// As `zfs send` and `zfs send -i` make them.
    pub fn plain(sub: Sub) -> Stream {
        Stream { records: sub.into_records() }
    }

    /// As `zfs send -I` makes them; `toname` is the wrapper's.
    pub fn compound(toname: &str, subs: impl IntoIterator<Item = Sub>) -> Stream {
        Stream::with_properties(toname, &[], subs)
    }

    /// As `zfs send -p` makes them: `nvlist` is the wrapper's payload, a multiple of 4 bytes.
    pub fn with_properties(toname: &str, nvlist: &[u8], subs: impl IntoIterator<Item = Sub>) -> Stream {
        let mut records = vec![begin(toname, 2, 0, nvlist), Rec::new(END)];
        records.extend(subs.into_iter().flat_map(Sub::into_records));
        records.push(Rec::new(END));
        Stream { records }
    }

    /// Takes a real stream apart.
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

    /// In the other byte order; the payloads stay.
    pub fn swapped(mut self) -> Stream {
        self.records.iter_mut().for_each(Rec::swap);
        self
    }

    /// The stream, with the checksums that belong in it. As in real streams, a wrapper's two END
    /// records have none of their own, and its bare END says nothing at all.
    pub fn bytes(&self) -> Vec<u8> {
        self.summed(true)
    }

    /// The same without checksums in the records, as an old sender makes it; only END has one.
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

/// The checksum of a BEGIN..END that is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum([u64; 4]);

impl Sum {
    /// Takes the next record; whether what it says about those before it, and itself, is right.
    pub fn check(&mut self, rec: &Rec) -> bool {
        let said = |at: usize| [0, 8, 16, 24].map(|n| rec.u64(at + n));
        let mut right = rec.kind() != END || said(8) == self.0;
        if rec.kind() != BEGIN {
            fletcher4(&mut self.0, &rec.head[..280], rec.big);
            right &= said(280) == [0; 4] || said(280) == self.0;
        }
        fletcher4(&mut self.0, if rec.kind() == BEGIN { &rec.head } else { &rec.head[280..] }, rec.big);
        fletcher4(&mut self.0, &rec.payload, rec.big);
        right
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
    fn a_real_stream_taken_apart_and_put_together_is_the_same() {
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
