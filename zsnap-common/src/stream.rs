//! ZFS send streams: one parser that checks a stream, extracts its facts, and splits a compound
//! stream into substreams. Layout: OpenZFS `include/sys/zfs_ioctl.h` (`dmu_replay_record`),
//! `lib/libzfs/libzfs_sendrecv.c` (compound streams).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::names::digest::is_hex;

mod compression;
pub mod counted;
pub mod fletcher;
pub mod gate;
mod object_type;
pub mod record;
mod rules;

pub use gate::Gate;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The identity of a snapshot, which send and receive preserve. It is never zero; in a BEGIN record,
/// zero means "no base". In JSON: 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub u64);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Guid {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        match u64::from_str_radix(&text, 16) {
            Ok(n) if is_hex(&text, 16) => Ok(Guid(n)),
            _ => Err(serde::de::Error::custom("a guid is 16 lower-case hex digits")),
        }
    }
}

/// The kind of dataset in a stream (`drr_type` of its BEGIN record).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file system (2).
    Filesystem,
    /// A volume (3).
    Volume,
}

/// A substream: one BEGIN … END of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubStream {
    /// The file system or volume on the sender, with its pool: `tank/home`.
    pub fs: String,
    /// The snapshot's name, without the `@`.
    pub snap: String,
    /// The base; `None` for a full stream.
    pub from: Option<Guid>,
    /// The snapshot that receiving this substream creates.
    pub to: Guid,
    /// Whether it is a file system or a volume.
    pub kind: Kind,
    /// Whether it is raw (`zfs send -w`): encrypted as on the sender's disk.
    pub raw: bool,
    /// Whether blocks are sent compressed (`zfs send -c`).
    pub compressed: bool,
    /// When the snapshot was made, in seconds since 1970 UTC, as the sender claims.
    pub created: u64,
}

/// The facts of a complete, valid stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    /// Whether it is compound: a wrapper around substreams (`zfs send -I`, `-p`).
    pub compound: bool,
    /// Whether the wrapper carries properties (`-p`) or holds (`-h`), which zsnap-ingest drops.
    pub properties: bool,
    /// The substreams: at least one, each the base of the next.
    pub substreams: Vec<SubStream>,
    /// The length of the stream in bytes.
    pub bytes: u64,
}

impl StreamFacts {
    /// Returns the first snapshot that is dated more than a day after `now`: for any retention by age,
    /// it would remain the newest forever.
    pub fn ahead(&self, now: SystemTime) -> Option<&SubStream> {
        let made = |s: &SubStream| UNIX_EPOCH.checked_add(Duration::from_secs(s.created));
        self.substreams.iter().find(|s| made(s).is_none_or(|made| made > now + DAY))
    }
}

/// Why a stream is not accepted. `Display` prints the fact and the remedy in one line.
#[derive(Debug)]
pub enum StreamError {
    /// The stream is truncated: the sender died, or the disk was full.
    Truncated {
        /// The number of bytes received.
        at: u64,
    },
    /// The input is not a ZFS stream.
    NotZfs,
    /// A checksum, length or field is wrong.
    Damaged {
        /// The offset of the record, in bytes.
        at: u64,
        /// What is wrong with the record.
        what: String,
    },
    /// A valid stream of a type that zsnap does not carry as a ZFS stream; the text includes the remedy.
    Unsupported(String),
    /// The function that received the parts failed.
    Sink(std::io::Error),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Truncated { at: 0 } => {
                f.write_str("there is no ZFS stream: the input is empty; send it again")
            }
            StreamError::Truncated { at } => {
                write!(f, "the ZFS stream breaks off after {at} bytes: the sender failed or was stopped; send it again")
            }
            StreamError::NotZfs => f.write_str("not a ZFS stream; carry other streams with --opaque"),
            StreamError::Damaged { at, what } => {
                write!(f, "the ZFS stream is damaged at byte {at}: {what}; send it again")
            }
            StreamError::Unsupported(why) => f.write_str(why),
            StreamError::Sink(e) => write!(f, "cannot pass the ZFS stream on: {e}"),
        }
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StreamError::Sink(e) => Some(e),
            _ => None,
        }
    }
}
