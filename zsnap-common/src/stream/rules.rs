//! The rules for the fields of a record, one rule a line.
//!
//! Kernels up to OpenZFS 2.4 check few of these, and otherwise overwrite their memory, panic when the file is read,
//! or commit blocks that cannot be read. The rules are those of `recv_check_drr_*` in `module/zfs/dmu_recv.c` of the
//! development branch after 2.4, with the limits of the format in place of those of a pool. Rules marked "stricter"
//! go further, because the kernel's own are not enough. What depends on the receiving pool is left to the kernel, and
//! so is the content of a payload. The length of a payload is checked in `record.rs`.
//!
//! All that `zfs send` of OpenZFS 0.6.5 to 2.4 writes passes, except for what is rejected with a remedy.
//!
//! The gate rejects what that branch accepts in the following cases only, as 100,000 changed streams show:
//!
//! | rejected | why |
//! |---|---|
//! | header types, features and flags that zsnap does not know; clones; deduplicated, redacted or resumed streams; a dataset that is neither file system nor volume; a file system and a volume in one stream | `record.rs`, `gate.rs`: they need more than their own dataset and its chain, or a newer zsnap |
//! | a record in the wrong place; an END with more than its checksum and guid | `gate.rs`: streams have one form, and carry nothing else |
//! | a name that is not that of a snapshot; the guid of another snapshot (the changed streams keep both); a BEGIN with more than 1 MiB, a wrapper's with more than 64 MiB; more than 100,000 snapshots | `record.rs`, `gate.rs`: names and guids say where a stream belongs; no stream may fill the memory |
//! | a payload that does not consist of whole words of 4 bytes | the rest would be in no checksum |
//! | types of more than 8 bits | on disk they have 8, and if `DMU_OT_NEWTYPE` is set, the kernel's test ignores the others |
//! | types of dnodes and object sets, or byte-swapped like these | the kernel follows the block pointers in them |
//! | a WRITE without the OBJECT record of its object | without that, headers do not show the object's block size |
//! | data beyond the only block of an object whose block size is not a power of two | the kernel panics: "accessing past end of object" |
//! | in raw streams, a last block beyond the only block of such an object | the same panic |
//! | in raw streams, a last block beyond 2^64 bytes | it needs more levels of blocks than there can be |
//! | blocks stored or sent with the compression "inherit", "on" or "empty"; "off" in a WRITE that is not raw | nothing decompresses these: the block cannot be read again |
//! | block sizes, and compressed sizes, that are not whole sectors of 512 bytes | the kernel rounds the size of the buffer down, then fills it |
//! | in raw streams, a block whose size or offset is not that of a block of its object | the kernel encrypts it again, and panics because it has no key |
//! | in raw streams, levels that shift by 64 bits or more | the result is undefined |
//! | a spill block of an object without system attributes | its dnode has a block pointer in the place of the spill block's |
//! | an object with the checksum of a label, a gang header or an intent log | these checksums are written over the end of a block |
//! | embedded data with a decompressed size other than the block's, or a block size other than its object's | the kernel panics when the file is read |
//! | embedded data without bytes, with as many as decompressed, or without an algorithm | no sender embeds what does not shrink, and nothing decompresses it |
//! | embedded data of a type other than data | the kernel reserves these types for what is not in streams |
//! | embedded data at the offset of a spill block | it is received as data of the file, or not at all |
//!
//! Headers cannot show this: the kernel may keep the small blocks of a file from a stream without -L when a later
//! stream with -L says that they are larger. An embedded block of the larger size passes here.

use super::record::{self, Record, Type};
use super::{compression, object_type};

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// No sender writes this: the field and its value.
    Damaged(String),
    /// A correct sender may write this: the whole message, with the remedy.
    Unsupported(String),
}

/// `DN_MAX_OBJECT`: object numbers are below it.
const MAX_OBJECT: u64 = 1 << 48;
/// `SPA_MINBLOCKSIZE`: all sizes on disk are multiples of it.
const SECTOR: u64 = 512;
/// `SPA_OLD_MAXBLOCKSIZE`: larger blocks need the feature LARGE_BLOCKS.
const OLD_MAX_BLOCK: u64 = 128 << 10;
/// `DNODES_PER_BLOCK`, and the most slots of 512 bytes that a dnode may fill (`DNODE_MAX_SLOTS`).
const DNODES: usize = 32;
/// `BPE_PAYLOAD_SIZE`: the number of bytes that fit into a block pointer.
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

/// The rules for the records of one substream.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The `DMU_BACKUP_FEATURE_*` of its BEGIN record.
    features: u64,
    /// Whether its BEGIN record has `DRR_FLAG_SPILL_BLOCK`.
    spill: bool,
    /// The number of the block of dnodes that has the object of the last OBJECT record. A sender writes the data of
    /// one such block before it goes on to the next, and no data without its dnode.
    dnodes: u64,
    /// The block size of each object in this block of dnodes; 0 if it is not known.
    sizes: [u32; DNODES],
    /// A bit for each object in this block of dnodes whose bonus buffer holds system attributes.
    attributes: u32,
}

impl Rules {
    /// Creates the rules for a substream with this BEGIN record.
    pub fn new(features: u64, flags: u32) -> Rules {
        Rules { features, spill: flags & record::SPILL_BLOCK != 0, dnodes: 0, sizes: [0; DNODES], attributes: 0 }
    }

    /// Checks the next record of the substream, between BEGIN and END.
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
        // Stricter: the checksums LABEL, GANG_HEADER, ZILOG and ZILOG2 are written over the end of a block.
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
            // Stricter: the kernel shifts 64 bits by so many; a shift of 0 stands for its default, 17.
            let bits = u64::from(levels - 1) * u64::from(if shift == 0 { 17 } else { shift } - 7);
            holds(bits < 64, "levels", levels)?;
            holds(u64::from(pointers) == implied, "block pointers", pointers)?;
            // Stricter: more blocks would need more levels than the kernel has.
            holds(last.checked_mul(size.into()).is_some(), "last block", last)?;
            // Stricter: an object whose block size is not a power of two has one block.
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
        // Stricter: the object's block size must be known, to keep the data within its blocks.
        holds(self.size(object) != 0, "data without an OBJECT record, of object", object)?;
        self.within(object, offset, size)?;
        holds(in_sectors(packed), "compressed size", packed)?;
        known(compression::is_known(compressed), "compression", compressed)?;
        if self.raw() {
            // Stricter: what nothing decompresses cannot be read again.
            self.stored(compressed)?;
            // Stricter: the kernel encrypts a raw block again that is not one of its object's blocks, and panics
            // because it has no key.
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
        // Stricter: other dnodes have a block pointer in the place of the spill block's.
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
        // Stricter, from here to the end: when the file is read, the kernel decompresses as many bytes as one field
        // says into a block of the object's block size.
        holds(u64::from(plain) == size, "decompressed size", plain)?;
        holds((1..=MAX_EMBEDDED).contains(&packed), "compressed size", packed)?;
        holds(compression::is_algorithm(compressed), "compression", compressed)?;
        holds(compression::is_announced(compressed, self.features), "unannounced compression", compressed)?;
        // The offset of `DMU_SPILL_BLKID`, the last block but one.
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

    /// Checks the compression of a block in a raw stream, which is as on disk: compressed or not.
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

    /// Returns the index of an object in the last block of dnodes, if it is one of that block's.
    fn slot(&self, object: u64) -> Option<usize> {
        (object / DNODES as u64 == self.dnodes).then_some((object % DNODES as u64) as usize)
    }

    /// Returns the block size of an object; 0 if it is not known.
    fn size(&self, object: u64) -> u64 {
        self.slot(object).map_or(0, |slot| self.sizes[slot].into())
    }

    /// Checks that data is within its object: an object whose block size is not a power of two has one block, and the
    /// kernel panics on data beyond it. The sum of `offset` and `size` must not overflow.
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
    // All ones: to the end of the object.
    holds(length == u64::MAX || offset.checked_add(length).is_some(), "length", length)
}

fn freeobjects(r: &Record) -> Result<(), Breach> {
    let (first, count) = (r.u64(8), r.u64(16));

    holds(first.checked_add(count).is_some(), "objects", count)
}

fn numbered(object: u64) -> Result<(), Breach> {
    holds((1..MAX_OBJECT).contains(&object), "object", object)
}

/// Whether a size is whole sectors. Stricter for all records but OBJECT: the kernel rounds the size of a buffer down,
/// and then fills it.
fn in_sectors(size: impl Into<u64>) -> bool {
    size.into() % SECTOR == 0
}

fn typed(field: &str, code: u32) -> Result<(), Breach> {
    // On disk a type has 8 bits.
    holds(code <= 0xff, field, code)?;
    known(object_type::is_known(code), field, code)?;
    // Stricter: the kernel would follow the block pointers.
    holds(!object_type::has_block_pointers(code), field, code)
}

/// Checks a rule that no sender breaks.
fn holds(right: bool, field: &str, value: impl Into<u64>) -> Result<(), Breach> {
    if right { Ok(()) } else { Err(Breach::Damaged(format!("{field} {}", value.into()))) }
}

/// Checks a rule that a newer sender may break.
fn known(right: bool, field: &str, value: impl Into<u64>) -> Result<(), Breach> {
    if right {
        return Ok(());
    }
    Err(Breach::Unsupported(format!(
        "ZFS stream with {field} {}, which only a newer OpenZFS can know: carry it with --opaque",
        value.into()
    )))
}

/// Checks a rule that senders of today break. `remedy` says what they wrote, and what to do.
fn supported(right: bool, remedy: &str) -> Result<(), Breach> {
    if right { Ok(()) } else { Err(Breach::Unsupported(remedy.to_owned())) }
}
