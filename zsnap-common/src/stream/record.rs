//! The records of a send stream. Each has 312 bytes, in the sender's byte order; some are followed by a payload.
//! Layout: OpenZFS `include/sys/zfs_ioctl.h`, `dmu_replay_record_t`; the offsets below are those of its packed C
//! structures.

use super::fletcher::Order;
use crate::names::target::{Dataset, NameError, check_component};

/// The length of every record, in bytes.
pub const RECORD: usize = 312;
/// The offset of a record's own checksum. The checksum covers the bytes before it, and is the rest of the record.
pub const SUMMED: usize = 280;
/// `DMU_BACKUP_MAGIC`, at offset 8 of every BEGIN.
pub const MAGIC: u64 = 0x0000_0002_f5ba_cbac;

/// The maximum length of a record's payload in bytes (`SPA_MAXBLOCKSIZE`): a longer one panics the receiving kernel.
pub const MAX_BLOCK: u64 = 16 << 20;

/// The types of records, numbered as in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the format's own names")]
pub enum Type {
    Begin,
    Object,
    Freeobjects,
    Write,
    Free,
    End,
    WriteByref,
    Spill,
    WriteEmbedded,
    ObjectRange,
    Redact,
}

impl Type {
    const ALL: [(Type, &str); 11] = [
        (Type::Begin, "BEGIN"),
        (Type::Object, "OBJECT"),
        (Type::Freeobjects, "FREEOBJECTS"),
        (Type::Write, "WRITE"),
        (Type::Free, "FREE"),
        (Type::End, "END"),
        (Type::WriteByref, "WRITE_BYREF"),
        (Type::Spill, "SPILL"),
        (Type::WriteEmbedded, "WRITE_EMBEDDED"),
        (Type::ObjectRange, "OBJECT_RANGE"),
        (Type::Redact, "REDACT"),
    ];

    /// Returns the name in upper case, as `zstream dump` prints it.
    pub fn name(self) -> &'static str {
        Type::ALL[self as usize].1
    }

    /// Returns words for a message: "a WRITE record", "an OBJECT record".
    pub fn a_record(self) -> String {
        let name = self.name();
        let article = if name.starts_with(['E', 'O']) { "an" } else { "a" };
        format!("{article} {name} record")
    }
}

/// One record.
pub struct Record<'a> {
    /// The bytes of the record as they came.
    pub bytes: &'a [u8; RECORD],
    /// The byte order of the stream.
    pub order: Order,
}

impl Record<'_> {
    /// Returns the 8-bit number at an offset.
    pub fn u8(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    /// Returns the 32-bit number at an offset.
    pub fn u32(&self, at: usize) -> u32 {
        let mut raw = [0; 4];
        raw.copy_from_slice(&self.bytes[at..at + 4]);
        match self.order {
            Order::Little => u32::from_le_bytes(raw),
            Order::Big => u32::from_be_bytes(raw),
        }
    }

    /// Returns the 64-bit number at an offset.
    pub fn u64(&self, at: usize) -> u64 {
        let mut raw = [0; 8];
        raw.copy_from_slice(&self.bytes[at..at + 8]);
        match self.order {
            Order::Little => u64::from_le_bytes(raw),
            Order::Big => u64::from_be_bytes(raw),
        }
    }

    /// Returns the checksum at an offset.
    pub fn checksum(&self, at: usize) -> [u64; 4] {
        [0, 8, 16, 24].map(|word| self.u64(at + word))
    }

    /// Returns the type of the record, or the bare number if that is unknown.
    pub fn kind(&self) -> Result<Type, u32> {
        let code = self.u32(0);
        Type::ALL.get(code as usize).map(|(kind, _)| *kind).ok_or(code)
    }

    /// Returns the guid of the snapshot that the record says it belongs to.
    pub fn toguid(&self, kind: Type) -> u64 {
        self.u64(match kind {
            Type::Begin | Type::Object | Type::Write | Type::End => 40,
            Type::Free | Type::WriteByref | Type::WriteEmbedded | Type::Redact => 32,
            Type::Freeobjects | Type::Spill | Type::ObjectRange => 24,
        })
    }

    /// Returns the length of the payload that follows, in bytes. That of a BEGIN record is not checked here, because
    /// its limit depends on the place of the record.
    ///
    /// # Errors
    /// The length is one that no sender writes: the text says which.
    pub fn payload(&self, kind: Type) -> Result<u64, String> {
        let length = match kind {
            Type::Begin => return Ok(u64::from(self.u32(4))),
            Type::Object => match self.u32(36) {
                0 => u64::from(self.u32(28)).next_multiple_of(8),
                raw => u64::from(raw),
            },
            Type::Write => match self.u8(50) {
                0 => block(self.u64(32))?,
                _ => compressed(self.u64(96), self.u64(32))?,
            },
            Type::Spill => match self.u64(40) {
                0 => block(self.u64(16))?,
                length => compressed(length, self.u64(16))?,
            },
            Type::WriteEmbedded => u64::from(self.u32(52)).next_multiple_of(8),
            Type::Freeobjects | Type::Free | Type::End | Type::WriteByref | Type::ObjectRange | Type::Redact => 0,
        };
        // Bytes after the last whole word are in no checksum, neither in ours nor in the kernel's.
        if length > MAX_BLOCK || length % 4 != 0 { Err(no_length(length)) } else { Ok(length) }
    }
}

fn no_length(length: u64) -> String {
    format!("a payload of {length} bytes, which no sender makes")
}

/// Checks the length of a block. The kernel panics on blocks that are too long or empty (`zio_data_buf_alloc`).
fn block(length: u64) -> Result<u64, String> {
    if (1..=MAX_BLOCK).contains(&length) { Ok(length) } else { Err(no_length(length)) }
}

fn compressed(length: u64, plain: u64) -> Result<u64, String> {
    if block(length)? > block(plain)? {
        return Err(format!("{length} bytes for a block of {plain}"));
    }
    Ok(length)
}

/// Returns the byte order of the stream that begins with this record, or `None` if it is not a ZFS stream. `bytes`
/// may be the mere start of a record: then `None` means that it cannot become the first record of a ZFS stream.
pub fn order_of_first(bytes: &[u8]) -> Option<Order> {
    let fits = |magic: [u8; 8]| {
        let kind = bytes.iter().take(4).all(|b| *b == 0);
        kind && bytes.iter().skip(8).zip(magic).all(|(b, m)| *b == m)
    };
    match (fits(MAGIC.to_le_bytes()), fits(MAGIC.to_be_bytes())) {
        (true, _) => Some(Order::Little),
        (_, true) => Some(Order::Big),
        _ => None,
    }
}

/// What a BEGIN record says.
pub struct Begin {
    /// 1: a substream; 2: a wrapper around substreams.
    pub header: u64,
    /// The features that a receiver must know (`DMU_BACKUP_FEATURE_*`).
    pub features: u64,
    /// When the snapshot was made: seconds UTC.
    pub created: u64,
    /// `dmu_objset_type_t`: 2 is a file system, 3 a volume.
    pub objset: u32,
    /// `DRR_FLAG_*`.
    pub flags: u32,
    /// The guid of the snapshot that receiving the stream creates.
    pub to: u64,
    /// The guid of its base, or 0.
    pub from: u64,
    /// The dataset on the sender.
    pub fs: String,
    /// The snapshot on the sender, without the `@`.
    pub snap: String,
}

/// `DMU_SUBSTREAM`.
pub const SUBSTREAM: u64 = 1;
/// `DMU_COMPOUNDSTREAM`.
pub const COMPOUND: u64 = 2;
/// `DMU_BACKUP_FEATURE_EMBED_DATA`.
pub const EMBED_DATA: u64 = 1 << 16;
/// `DMU_BACKUP_FEATURE_LZ4`.
pub const LZ4_FEATURE: u64 = 1 << 17;
/// `DMU_BACKUP_FEATURE_LARGE_BLOCKS`.
pub const LARGE_BLOCKS: u64 = 1 << 19;
/// `DMU_BACKUP_FEATURE_COMPRESSED`.
pub const COMPRESSED: u64 = 1 << 22;
/// `DMU_BACKUP_FEATURE_LARGE_DNODE`.
pub const LARGE_DNODE: u64 = 1 << 23;
/// `DMU_BACKUP_FEATURE_RAW`.
pub const RAW: u64 = 1 << 24;
/// `DMU_BACKUP_FEATURE_ZSTD`.
pub const ZSTD_FEATURE: u64 = 1 << 25;
/// `DRR_FLAG_SPILL_BLOCK`.
pub const SPILL_BLOCK: u32 = 1 << 3;

const CLONE: u32 = 1 << 0;
/// CLONE, CI_DATA, FREERECORDS, SPILL_BLOCK.
const KNOWN_FLAGS: u32 = 0b1111;
const DEDUP: u64 = 1 << 0 | 1 << 1;
const RESUMING: u64 = 1 << 20;
const REDACTED: u64 = 1 << 21;
/// Includes SA_SPILL, HOLDS, SWITCH_TO_LARGE_BLOCKS, LONGNAME and LARGE_MICROZAP: these say how data is laid out,
/// which is the receiving kernel's business.
const KNOWN_FEATURES: u64 = DEDUP
    | 1 << 2
    | EMBED_DATA
    | LZ4_FEATURE
    | LARGE_BLOCKS
    | RESUMING
    | REDACTED
    | COMPRESSED
    | LARGE_DNODE
    | RAW
    | ZSTD_FEATURE
    | 0b1111 << 26;

/// Why a deduplicated stream is not accepted, with the remedy.
pub const IS_DEDUPLICATED: &str = "deduplicated ZFS stream: send it without -D";
/// Why a redacted stream is not accepted, with the remedy.
pub const IS_REDACTED: &str = "redacted ZFS stream: send it without --redact";

impl Begin {
    /// Reads a BEGIN record.
    ///
    /// # Errors
    /// The name is not that of a snapshot: the text says why.
    pub fn read(record: &Record) -> Result<Begin, String> {
        let (fs, snap) = toname(&record.bytes[56..])?;
        Ok(Begin {
            header: record.u64(16) & 3,
            features: record.u64(16) >> 2,
            created: record.u64(24),
            objset: record.u32(32),
            flags: record.u32(36),
            to: record.u64(40),
            from: record.u64(48),
            fs,
            snap,
        })
    }

    /// Returns why the stream is not accepted, with the remedy; `None` if it is accepted.
    pub fn unsupported(&self) -> Option<String> {
        let unknown = self.features & !KNOWN_FEATURES;
        let why = if self.header != SUBSTREAM && self.header != COMPOUND {
            format!("ZFS stream with unknown header type {}: carry it with --opaque", self.header)
        } else if unknown != 0 {
            format!("ZFS stream with features that zsnap does not know ({unknown:#x}): carry it with --opaque")
        } else if self.flags & !KNOWN_FLAGS != 0 {
            format!(
                "ZFS stream with flags that zsnap does not know ({:#x}): carry it with --opaque",
                self.flags & !KNOWN_FLAGS
            )
        } else if self.features & DEDUP != 0 {
            IS_DEDUPLICATED.to_owned()
        } else if self.features & RESUMING != 0 {
            "resumed ZFS stream: send it from its start, without -t".to_owned()
        } else if self.features & REDACTED != 0 {
            IS_REDACTED.to_owned()
        } else if self.flags & CLONE != 0 {
            format!(
                "{} is sent as a clone, on a snapshot of another dataset: send it in full first, without -i",
                self.fs
            )
        } else {
            return None;
        };
        Some(why)
    }
}

/// Parses `fs@snap`, which ends with a NUL.
fn toname(field: &[u8]) -> Result<(String, String), String> {
    let text = field.split(|b| *b == 0).next().unwrap_or_default();
    if text.len() == field.len() {
        return Err("a name without an end".to_owned());
    }
    let name = String::from_utf8_lossy(text);
    let refused = |e: NameError| e.to_string();
    let Some((fs, snap)) = name.split_once('@') else {
        return Err(NameError::new(&name, "is not FILESYSTEM@SNAPSHOT").to_string());
    };
    let fs: Dataset = fs.parse().map_err(refused)?;
    check_component(snap).map_err(refused)?;
    Ok((fs.into(), snap.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_types_are_numbered_as_in_the_format() {
        for (number, (kind, _)) in Type::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    #[test]
    fn record_names_have_the_right_article() {
        let all = [Type::Begin, Type::Object, Type::WriteEmbedded, Type::End, Type::ObjectRange].map(Type::a_record);
        let want = ["a BEGIN", "an OBJECT", "a WRITE_EMBEDDED", "an END", "an OBJECT_RANGE"];
        assert_eq!(all, want.map(|words| format!("{words} record")));
    }

    #[test]
    fn toname_is_split_into_dataset_and_snapshot() {
        let of = |name: &str| toname(format!("{name}\0rest").as_bytes()).ok();
        assert_eq!(of("tank/a b@x:y"), Some(("tank/a b".to_owned(), "x:y".to_owned())));
        for bad in ["", "tank", "@s", "tank@", "t@a@b", "tank/../x@s", "tank@..", "tank@a/b", "tank@%", "t//a@s"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
        assert!(toname(b"tank@s").is_err());
    }

    #[test]
    fn payload_lengths_are_bounded() {
        // Type, then fields as (offset, bytes), then the length.
        type Field<'a> = (usize, &'a [u8]);
        let cases: [(u8, &[Field], Option<u64>); 19] = [
            (1, &[(28, &[181])], Some(184)),
            (1, &[(28, &[181]), (36, &[64, 1])], Some(320)),
            (1, &[(36, &[63])], None),
            (1, &[(28, &[255, 255, 255, 255])], None),
            (2, &[], Some(0)),
            (3, &[(34, &[2])], Some(131_072)),
            (3, &[(35, &[1])], Some(16 << 20)),
            (3, &[(35, &[1]), (33, &[2])], None),
            (3, &[(37, &[1])], None),
            (3, &[], None),
            (3, &[(32, &[6])], None),
            (3, &[(50, &[1]), (34, &[2]), (97, &[2])], Some(512)),
            (3, &[(50, &[1]), (37, &[1]), (97, &[2])], None),
            (3, &[(50, &[1]), (33, &[2]), (97, &[4])], None),
            (7, &[(17, &[2])], Some(512)),
            (7, &[(17, &[2]), (41, &[1])], Some(256)),
            (7, &[(17, &[2]), (41, &[3])], None),
            (8, &[(52, &[27])], Some(32)),
            (8, &[(52, &[255, 255, 255, 255])], None),
        ];
        for (number, (kind, fields, want)) in cases.into_iter().enumerate() {
            let mut bytes = [0; RECORD];
            bytes[0] = kind;
            fields.iter().for_each(|(at, value)| bytes[*at..at + value.len()].copy_from_slice(value));
            let record = Record { bytes: &bytes, order: Order::Little };
            let kind = record.kind().unwrap();
            assert_eq!(record.payload(kind).ok(), want, "case {number}");
        }
    }
}
