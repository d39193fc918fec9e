//! What a queue file holds inside its encryption: a manifest, one zstd frame, a trailer
//! (zsnap-queue-file(5)). Manifest and trailer are JSON in zstd skippable frames, which stock
//! zstd ignores.

use serde::{Deserialize, Serialize};

use crate::target::{Dataset, Host};
use crate::zstream::Guid;

/// The front of the payload: who sent what, and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub zsnap: u32,
    /// The host that was backed up.
    pub host: Host,
    /// What was backed up there.
    pub dataset: Dataset,
    /// When the queue file was made: seconds UTC, the sender's clock.
    pub created: u64,
    /// ZFS stream or anything else.
    pub kind: PayloadKind,
    /// 128 random bits, 32 hex digits: tells two runs with one number apart.
    pub id: String,
    /// Which life of the sender's state directory numbered this file.
    pub epoch: Epoch,
    /// Number of this file: microseconds UTC, always growing per host and dataset.
    pub seq: u64,
    /// Number of the acknowledged file before this one; `None`: the first of its epoch.
    pub prev: Option<u64>,
    /// Whether it needs the file before it.
    pub base: Base,
    /// For ZFS streams: what the first records tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zfs: Option<ZfsHead>,
}

/// The kinds of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// A ZFS send stream.
    Zfs,
    /// Bytes of any other producer.
    Opaque,
}

/// What a file builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Nothing: complete in itself.
    None,
    /// The file numbered `prev`, or for ZFS the snapshot `from`.
    Prev,
}

/// One life of a sender's state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// 128 random bits, 32 hex digits.
    pub id: String,
    /// When it began: seconds UTC.
    pub started: u64,
}

/// What the first records of a ZFS stream tell. Known before the stream is read: for a compound
/// stream there is only the name of its last snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsHead {
    /// Source file system and last snapshot: `tank/home@today`.
    pub toname: String,
    /// Base of the first sub-stream; `None`: full.
    pub from: Option<Guid>,
    /// Snapshot of a plain stream; absent for compound ones, the trailer has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Guid>,
    /// Encrypted as on the sender's disk.
    pub raw: bool,
    /// Blocks are compressed.
    pub compressed: bool,
}

/// The end of the payload: what is known only when the stream has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// Version of this format: 1.
    pub zsnap: u32,
    /// Length of the plain stream in bytes.
    pub bytes: u64,
    /// SHA-256 of the plain stream, 64 hex digits.
    pub sha256: String,
    /// For ZFS streams: number of sub-streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub substreams: Option<u64>,
    /// For ZFS streams: the last snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Guid>,
}
