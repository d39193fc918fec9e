//! What the fields of a record may say: a rule a line.
//!
//! Kernels up to OpenZFS 2.4 check few of these, and otherwise overwrite their memory, panic when
//! the file is read, or commit blocks that cannot be read. The rules are those of `recv_check_drr_*`
//! in `module/zfs/dmu_recv.c` of the development branch after 2.4, with the limits of the format in
//! place of those of a pool; those marked "stricter" go further, because the kernel's own are not
//! enough. What depends on the receiving pool stays the kernel's business, and so does what is inside
//! a payload. How long a payload may be is in `record.rs`.
//!
//! All that `zfs send` of OpenZFS 0.6.5 to 2.4 writes passes, but for what has a remedy.
//!
//! Where the gate refuses what that branch accepts, and there alone, as 100,000 changed streams show:
//!
//! | refused | why |
//! |---|---|
//! | header types, features and flags that zsnap does not know; clones; deduplicated, redacted or resumed streams; what is neither file system nor volume, or both | `gate.rs`: they need more than their own dataset and its chain, or a newer zsnap |
//! | a record where none may be; an END with more than its checksum and guid | `gate.rs`: streams have one shape, and nothing rides along |
//! | names of what is no snapshot, guids of another (the changed streams keep both); a BEGIN with more than 1 MiB, a wrapper's with more than 64 MiB; more than 100,000 snapshots | `gate.rs`: names and guids say where a stream belongs, and none may fill the memory |
//! | a payload that is not made of whole words of 4 bytes | the rest would be in no checksum |
//! | types of more than 8 bits | on disk they have 8, the kernel's test looks at 1 of the others |
//! | types of dnodes and object sets, or swapped as these | the kernel follows the block pointers in them |
//! | a WRITE without the OBJECT record of its object | headers do not show how long the object's blocks are |
//! | behind the only block of an object whose block size is not a power of two | the kernel panics: "accessing past end of object" |
//! | in raw streams, a last block behind that one | the same |
//! | in raw streams, a last block beyond 2^64 bytes | more levels of blocks than there can be |
//! | stored or sent as compressed: "inherit", "on", "empty"; "off" in a WRITE that is not raw | nothing decompresses these: the block cannot be read again |
//! | sizes of blocks, and what they shrink to, that are not whole sectors of 512 bytes | the kernel rounds the buffer down, then fills it |
//! | in raw streams, a block with another size or place than the blocks of its object have | the kernel encrypts it anew, and panics for want of the key |
//! | in raw streams, levels that shift more than 64 bits | undefined |
//! | a spill block of an object without system attributes | a block pointer is where the spill block's would be |
//! | an object with the checksum of a label, a gang header or an intent log | these are written over the end of a block |
//! | embedded: a decompressed size other than the block's, or than its object's block size | the file's reader panics the kernel |
//! | embedded: no bytes, as many as decompressed, or no algorithm | no sender embeds what does not shrink, and nothing decompresses it |
//! | embedded: a type other than data | the kernel keeps it for what is not in streams |
//! | embedded: at the offset of a spill block | received as data of the file, or not at all |
//!
//! What headers cannot show: the kernel may keep the small blocks of a file that a stream without -L
//! brought, when one with -L tells of larger ones. An embedded block of the larger size passes here.

use super::record::{self, Record, Type};
use super::{compression, object_type};

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// No sender writes that: the field and its value.
    Damaged(String),
    /// An honest sender may write that: the whole message, with the remedy.
    Unsupported(String),
}

/// `DN_MAX_OBJECT`: objects are numbered below.
const MAX_OBJECT: u64 = 1 << 48;
/// `SPA_MINBLOCKSIZE`: all sizes on disk are multiples.
const SECTOR: u64 = 512;
/// `SPA_OLD_MAXBLOCKSIZE`: larger blocks need the feature LARGE_BLOCKS.
const OLD_MAX_BLOCK: u64 = 128 << 10;
/// `DNODES_PER_BLOCK`, and the most slots of 512 bytes that a dnode may fill (`DNODE_MAX_SLOTS`).
const DNODES: usize = 32;
/// `BPE_PAYLOAD_SIZE`: what fits into a block pointer.
const MAX_EMBEDDED: u32 = 112;
/// `ZIO_CHECKSUM_FUNCTIONS`.
const CHECKSUMS: u8 = 15;
/// `DN_MAX_LEVELS`.
const MAX_LEVELS: u8 = 12;
/// `sizeof (blkptr_t)`.
const POINTER: u64 = 128;
/// `DRR_RAW_BYTESWAP`.
const SWAPPED: u8 = 1 << 1;
/// `DRR_OBJECT_SPILL`.
const SPILL: u8 = 1 << 2;

const OTHER_SIZE: &str = "a block size other than its object's,";

const LARGE_EMBEDDED: &str =
    "ZFS stream with an embedded block of more than 128 KiB, which is not supported: send with -L, or without -e";
const EMBEDDED_SPILL: &str = "ZFS stream that embeds a file's extended attributes as if they were its data, which \
                              zfs send -e does since OpenZFS 2.3 and receivers take for data: send without -e";
const REWRITTEN: &str = "ZFS stream with blocks compressed otherwise than its BEGIN record says, as older versions of \
                         zstream recompress and zstream decompress leave it: send it without them";

/// The rules within one sub-stream.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `DMU_BACKUP_FEATURE_*` in its BEGIN.
    features: u64,
    /// Its BEGIN has `DRR_FLAG_SPILL_BLOCK`.
    spill: bool,
    /// The block of dnodes that the last OBJECT record was of; a sender writes the data of one before
    /// it goes on to the next, and no data without its dnode.
    dnodes: u64,
    /// The block size of each object there, as far as it is known; otherwise 0.
    sizes: [u32; DNODES],
    /// A bit for each object there whose bonus buffer holds system attributes.
    attributes: u32,
}

impl Rules {
    /// For a sub-stream with this BEGIN.
    pub fn new(features: u64, flags: u32) -> Rules {
        Rules { features, spill: flags & record::SPILL_BLOCK != 0, dnodes: 0, sizes: [0; DNODES], attributes: 0 }
    }

    /// Judges the next record, which is one of the sub-stream between BEGIN and END.
    pub fn check(&mut self, kind: Type, r: &Record) -> Result<(), Breach> {
        match kind {
            Type::Object => self.object(r),
            Type::Freeobjects => freeobjects(r),
            Type::Write => self.write(r),
            Type::Free => free(r),
            Type::Spill => self.spill(r),
            Type::WriteEmbedded => self.write_embedded(r),
            Type::ObjectRange => self.object_range(r),
            Type::Begin | Type::End | Type::WriteByref | Type::Redact => Ok(()),
        }
    }

    fn object(&mut self, r: &Record) -> Result<(), Breach> {
        let (object, kind, bonus, size, length) = (r.u64(8), r.u32(16), r.u32(20), r.u32(24), r.u32(28));
        let (checksum, compressed, slots, flags) = (r.u8(32), r.u8(33), r.u8(34), r.u8(35));
        let (raw_length, shift, levels, pointers, last) = (r.u32(36), r.u8(48), r.u8(49), r.u8(50), r.u64(56));
        let slots = slots.max(1);
        let room = u64::from(slots) * 512 - 64 - POINTER;
        let spilled = flags & SPILL != 0;

        numbered(object)?;
        holds(object + u64::from(slots) <= MAX_OBJECT, "dnode slots up to object", object + u64::from(slots))?;
        typed("type", kind)?;
        holds(kind != object_type::NONE, "type", kind)?;
        typed("bonus type", bonus)?;
        let may_be_empty = [object_type::NONE, object_type::SA, object_type::UINT64_METADATA].contains(&bonus);
        holds(length != 0 || may_be_empty, "an empty bonus buffer of type", bonus)?;
        holds(length == 0 || bonus != object_type::NONE, "no bonus type and bonus length", length)?;
        holds(usize::from(slots) <= DNODES, "dnode slots", slots)?;
        holds(slots == 1 || self.has(record::LARGE_DNODE), "dnode slots without LARGE_DNODE", slots)?;
        holds(size != 0 && in_sectors(size), "block size", size)?;
        holds(u64::from(size) <= record::MAX_BLOCK, "block size", size)?;
        holds(self.allows(size), "block size without LARGE_BLOCKS", size)?;
        known(checksum < CHECKSUMS, "checksum", checksum)?;
        // Stricter: LABEL, GANG_HEADER, ZILOG and ZILOG2 are written over the end of a block.
        holds(!matches!(checksum, 3..=5 | 9), "checksum", checksum)?;
        known(compression::is_known(compressed), "compression", compressed)?;
        holds(u64::from(length) <= room, "bonus length", length)?;
        known(flags & !(SPILL | SWAPPED) == 0, "flags", flags)?;
        holds(!spilled || self.spill, "a spill block without SPILL_BLOCK, flags", flags)?;
        if self.raw() {
            let implied = match bonus {
                object_type::SA => 1,
                _ => (1 + (room - u64::from(length)) / POINTER).min(3),
            };
            let taken = (implied - 1 + u64::from(spilled)) * POINTER;
            holds(raw_length >= length, "raw bonus length", raw_length)?;
            holds(u64::from(raw_length) + taken <= room, "raw bonus length", raw_length)?;
            holds(shift == 0 || (12..=17).contains(&shift), "indirect block shift", shift)?;
            holds((1..=MAX_LEVELS).contains(&levels), "levels", levels)?;
            // Stricter: the kernel shifts 64 bits by that many; 0 stands for its default, 17.
            let bits = u64::from(levels - 1) * u64::from(if shift == 0 { 17 } else { shift } - 7);
            holds(bits < 64, "levels", levels)?;
            holds(u64::from(pointers) == implied, "block pointers", pointers)?;
            // Stricter: more blocks need more levels than the kernel has.
            holds(last.checked_mul(size.into()).is_some(), "last block", last)?;
            // Stricter: such an object has one block.
            holds(size.is_power_of_two() || last == 0, "last block", last)?;
        } else {
            holds(flags & SWAPPED == 0, "flags of a raw stream,", flags)?;
            holds(raw_length == 0, "raw bonus length", raw_length)?;
            holds(shift == 0, "indirect block shift", shift)?;
            holds(levels == 0, "levels", levels)?;
            holds(pointers == 0, "block pointers", pointers)?;
        }

        self.remember(object, size, bonus == object_type::SA);
        Ok(())
    }

    fn write(&self, r: &Record) -> Result<(), Breach> {
        let (object, kind, offset, size, packed) = (r.u64(8), r.u32(16), r.u64(24), r.u64(32), r.u64(96));
        let (checksum, compressed) = (r.u8(48), r.u8(50));

        numbered(object)?;
        typed("type", kind)?;
        known(checksum < CHECKSUMS, "checksum", checksum)?;
        holds(size != 0 && in_sectors(size), "block size", size)?;
        holds(self.allows(size), "block size without LARGE_BLOCKS", size)?;
        holds(offset.checked_add(size).is_some(), "offset", offset)?;
        // Stricter: the size of the object's blocks must be known, to keep the data within them.
        holds(self.size(object) != 0, "data without an OBJECT record, of object", object)?;
        self.within(object, offset, size)?;
        holds(in_sectors(packed), "compressed size", packed)?;
        known(compression::is_known(compressed), "compression", compressed)?;
        if self.raw() {
            // Stricter: what nothing decompresses cannot be read again.
            self.stored(compressed)?;
            // Stricter: a raw block that is not one of its object's the kernel encrypts anew, and panics
            // for want of the key.
            holds(self.size(object) == size, OTHER_SIZE, size)?;
            holds(offset % size == 0, "offset", offset)?;
        } else if compressed != 0 {
            supported(self.has(record::COMPRESSED), REWRITTEN)?;
            supported(compressed != compression::OFF, REWRITTEN)?;
            holds(compression::is_algorithm(compressed), "compression", compressed)?;
            supported(compression::is_announced(compressed, self.features), REWRITTEN)?;
        } else {
            holds(packed == 0, "compressed size", packed)?;
        }
        Ok(())
    }

    fn spill(&self, r: &Record) -> Result<(), Breach> {
        let (object, size, packed, kind, compressed) = (r.u64(8), r.u64(16), r.u64(40), r.u32(84), r.u8(33));

        numbered(object)?;
        typed("type", kind)?;
        // Stricter: in other dnodes a block pointer is where the spill block's would be.
        holds(self.has_attributes(object), "a spill block without attributes, of object", object)?;
        holds(size != 0 && in_sectors(size), "block size", size)?;
        holds(in_sectors(packed), "compressed size", packed)?;
        known(compression::is_known(compressed), "compression", compressed)?;
        if self.raw() {
            holds(packed != 0, "compressed size", packed)?;
            self.stored(compressed)?;
        } else {
            holds(packed == 0, "compressed size", packed)?;
            holds(compressed == 0, "compression", compressed)?;
        }
        Ok(())
    }

    fn write_embedded(&self, r: &Record) -> Result<(), Breach> {
        let (object, offset, size, plain, packed) = (r.u64(8), r.u64(16), r.u64(24), r.u32(48), r.u32(52));
        let (compressed, kind) = (r.u8(40), r.u8(41));

        holds(!self.raw(), "embedded data in a raw stream, of size", size)?;
        holds(self.has(record::EMBED_DATA), "embedded data without EMBED_DATA, of size", size)?;
        numbered(object)?;
        known(kind == 0, "embedded type", kind)?;
        known(compression::is_known(compressed), "compression", compressed)?;
        holds(offset.checked_add(size).is_some(), "offset", offset)?;
        // Stricter, down to the end: the kernel decompresses as much as one field says into a block as
        // long as its object's, when the file is read.
        holds(u64::from(plain) == size, "decompressed size", plain)?;
        holds((1..=MAX_EMBEDDED).contains(&packed), "compressed size", packed)?;
        holds(compression::is_algorithm(compressed), "compression", compressed)?;
        holds(compression::is_announced(compressed, self.features), "unannounced compression", compressed)?;
        // The offset of DMU_SPILL_BLKID, the last block but one.
        supported(offset != size.wrapping_mul(2).wrapping_neg(), EMBEDDED_SPILL)?;
        supported(self.allows(size), LARGE_EMBEDDED)?;
        holds(self.size(object) == size, OTHER_SIZE, size)?;
        self.within(object, offset, size)
    }

    fn object_range(&self, r: &Record) -> Result<(), Breach> {
        let (first, slots) = (r.u64(8), r.u64(16));

        holds(self.raw(), "a range of a raw stream, of objects from", first)?;
        holds(slots == DNODES as u64, "slots", slots)?;
        holds(first % DNODES as u64 == 0, "first object", first)?;
        holds(first <= MAX_OBJECT - DNODES as u64, "first object", first)
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn raw(&self) -> bool {
        self.has(record::RAW)
    }

    fn allows(&self, size: impl Into<u64>) -> bool {
        size.into() <= OLD_MAX_BLOCK || self.has(record::LARGE_BLOCKS)
    }

    /// Blocks in a raw stream are as on disk: compressed or not.
    fn stored(&self, compressed: u8) -> Result<(), Breach> {
        let right = compressed == compression::OFF || compression::is_algorithm(compressed);
        holds(right, "compression", compressed)?;
        holds(compression::is_announced(compressed, self.features), "unannounced compression", compressed)
    }

    fn remember(&mut self, object: u64, size: u32, attributes: bool) {
        if object / DNODES as u64 != self.dnodes {
            (self.dnodes, self.sizes, self.attributes) = (object / DNODES as u64, [0; DNODES], 0);
        }
        let slot = (object % DNODES as u64) as usize;
        self.sizes[slot] = size;
        self.attributes = self.attributes & !(1 << slot) | u32::from(attributes) << slot;
    }

    /// Where an object is among those of the last block of dnodes, if it is one of them.
    fn slot(&self, object: u64) -> Option<usize> {
        (object / DNODES as u64 == self.dnodes).then_some((object % DNODES as u64) as usize)
    }

    /// The block size of an object; 0: not known.
    fn size(&self, object: u64) -> u64 {
        self.slot(object).map_or(0, |slot| self.sizes[slot].into())
    }

    /// Whether data has a place in its object: one whose block size is not a power of two has one block,
    /// and behind it the kernel panics. The sum must not overflow.
    fn within(&self, object: u64, offset: u64, size: u64) -> Result<(), Breach> {
        let block = self.size(object);
        holds(block.is_power_of_two() || offset + size <= block, "offset", offset)
    }

    fn has_attributes(&self, object: u64) -> bool {
        self.slot(object).is_some_and(|slot| self.attributes & 1 << slot != 0)
    }
}

fn free(r: &Record) -> Result<(), Breach> {
    let (object, offset, length) = (r.u64(8), r.u64(16), r.u64(24));

    numbered(object)?;
    // All ones: to the end.
    holds(length == u64::MAX || offset.checked_add(length).is_some(), "length", length)
}

fn freeobjects(r: &Record) -> Result<(), Breach> {
    let (first, count) = (r.u64(8), r.u64(16));

    holds(first.checked_add(count).is_some(), "objects", count)
}

fn numbered(object: u64) -> Result<(), Breach> {
    holds((1..MAX_OBJECT).contains(&object), "object", object)
}

/// Stricter for all but OBJECT: the kernel rounds the size of a buffer down, and then fills it.
fn in_sectors(size: impl Into<u64>) -> bool {
    size.into() % SECTOR == 0
}

fn typed(field: &str, code: u32) -> Result<(), Breach> {
    // On disk a type has 8 bits.
    holds(code <= 0xff, field, code)?;
    known(object_type::is_known(code), field, code)?;
    // Stricter.
    holds(!object_type::has_block_pointers(code), field, code)
}

/// A rule that no sender breaks.
fn holds(right: bool, field: &str, value: impl Into<u64>) -> Result<(), Breach> {
    if right { Ok(()) } else { Err(Breach::Damaged(format!("{field} {}", value.into()))) }
}

/// A rule that senders to come may break.
fn known(right: bool, field: &str, value: impl Into<u64>) -> Result<(), Breach> {
    if right {
        return Ok(());
    }
    Err(Breach::Unsupported(format!(
        "ZFS stream with {field} {}, which only a newer OpenZFS can know: carry it with --opaque",
        value.into()
    )))
}

/// A rule that senders of today break: what they made, and the remedy.
fn supported(right: bool, remedy: &str) -> Result<(), Breach> {
    if right { Ok(()) } else { Err(Breach::Unsupported(remedy.to_owned())) }
}
