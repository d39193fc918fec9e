//! Manifest and trailer: their fields, in JSON (zsnap-queue-file(5)).

use std::cmp::Ordering;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{PayloadError, malformed};
use zsnap_common::names::digest::is_hex;
use zsnap_common::names::target::{Dataset, Host, MAX_NAME, check_component};
use zsnap_common::stream::Guid;

/// The manifest, in front of the payload: who sent what, and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format: 1.
    pub zsnap: u32,
    /// The host that was backed up.
    pub host: Host,
    /// What was backed up there: DATASET of the target HOST/DATASET.
    pub dataset: Dataset,
    /// When the queue file was made: seconds UTC, the sender's clock.
    pub created: u64,
    /// Whether the stream is a ZFS stream or anything else.
    pub kind: PayloadKind,
    /// 128 random bits, 32 hex digits, which distinguish two runs with the same number.
    pub id: String,
    /// The epoch of the sender's state directory in which this file was numbered.
    pub epoch: Epoch,
    /// The number of this file: microseconds UTC, always growing per host and dataset.
    pub seq: u64,
    /// The number of the file queued before this one. `None`: this is the first one of its epoch.
    pub prev: Option<u64>,
    /// Whether this file needs the one before it.
    pub base: Base,
    /// What the first records of a ZFS stream say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zfs: Option<ZfsHead>,
}

/// The kinds of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// A ZFS send stream.
    Zfs,
    /// The bytes of any other producer.
    Opaque,
}

impl PayloadKind {
    /// All kinds that this version knows.
    pub const ALL: [PayloadKind; 2] = [PayloadKind::Zfs, PayloadKind::Opaque];

    /// Returns the name of the kind in a manifest.
    pub(super) fn name(self) -> &'static str {
        match self {
            PayloadKind::Zfs => "zfs",
            PayloadKind::Opaque => "opaque",
        }
    }
}

/// What a file builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Nothing: it is complete in itself.
    None,
    /// The file numbered `prev`, or for ZFS the snapshot `from`.
    Prev,
}

/// The lifetime of a sender's state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// 128 random bits, 32 hex digits.
    pub id: String,
    /// When it began: seconds UTC.
    pub started: u64,
}

/// What the first records of a ZFS stream say. This is known before the stream is read: for a compound stream there
/// is only the name of its last snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsHead {
    /// The source dataset and the last snapshot: `tank/home@today`.
    pub toname: String,
    /// The base of the first substream. `None`: it is a full.
    pub from: Option<Guid>,
    /// The snapshot of a stream that is not compound. For a compound stream, the trailer has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Guid>,
    /// Whether blocks are encrypted as on the sender's disk.
    pub raw: bool,
    /// Whether blocks are compressed.
    pub compressed: bool,
}

/// The trailer, at the end of the payload: what is known only after the stream was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// The version of this format: 1.
    pub zsnap: u32,
    /// The length of the uncompressed stream, in bytes.
    pub bytes: u64,
    /// The SHA-256 of the uncompressed stream, 64 hex digits.
    pub sha256: String,
    /// The number of substreams of a ZFS stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub substreams: Option<u64>,
    /// The last snapshot of a ZFS stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Guid>,
}

/// The maximum size of a manifest or trailer, in bytes of JSON.
pub const MAX_JSON: usize = 64 << 10;
/// The version of the format.
const VERSION: u32 = 1;
/// The maximum length of the name of a payload kind, in bytes.
const MAX_KIND: usize = 32;
/// The magic number of the skippable frame that holds the manifest.
pub(super) const MANIFEST: [u8; 4] = 0x184D_2A5A_u32.to_le_bytes();
/// The magic number of the skippable frame that holds the trailer.
pub(super) const TRAILER: [u8; 4] = 0x184D_2A5B_u32.to_le_bytes();

impl Manifest {
    /// Returns the skippable frame that holds the manifest. Fails for what [`super::PayloadReader`] would reject.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        frame(MANIFEST, self)
    }

    /// Checks that the fields agree with each other.
    pub(super) fn check(&self) -> Result<(), PayloadError> {
        if !is_hex(&self.id, 32) || !is_hex(&self.epoch.id, 32) {
            return malformed("the manifest has an id that is not 32 lower-case hex digits");
        }
        if self.prev.is_some_and(|prev| prev >= self.seq) {
            return malformed("the manifest's prev is not less than its seq");
        }
        match (self.kind, &self.zfs) {
            (PayloadKind::Zfs, Some(zfs)) => zfs.check(self.base),
            (PayloadKind::Opaque, None) => Ok(()),
            (PayloadKind::Zfs, None) => malformed("the manifest says zfs and does not describe the stream"),
            (PayloadKind::Opaque, Some(_)) => malformed("the manifest says opaque and describes a ZFS stream"),
        }
    }
}

impl ZfsHead {
    fn check(&self, base: Base) -> Result<(), PayloadError> {
        let named = self.toname.split_once('@').is_some_and(|(fs, snap)| {
            fs.parse::<Dataset>().is_ok() && check_component(snap).is_ok() && self.toname.len() <= MAX_NAME
        });
        if !named {
            return malformed("the manifest's toname is not a name of a snapshot");
        }
        if self.from == Some(Guid(0)) || self.to == Some(Guid(0)) {
            return malformed("the manifest has a guid of zero");
        }
        if self.from.is_some() != (base == Base::Prev) {
            return malformed("the manifest's base and its from-guid contradict each other");
        }
        Ok(())
    }
}

impl Trailer {
    /// Returns the skippable frame that holds the trailer.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        frame(TRAILER, self)
    }

    /// Checks the form of the fields.
    pub(super) fn check(&self) -> Result<(), PayloadError> {
        if !is_hex(&self.sha256, 64) {
            return malformed("the trailer's sha256 is not 64 lower-case hex digits");
        }
        Ok(())
    }
}

/// Returns a skippable frame (RFC 8878, 3.1.2): magic number, length, JSON.
pub(super) fn frame(magic: [u8; 4], what: &impl Serialize) -> Result<Vec<u8>, PayloadError> {
    let json = serde_json::to_vec(what).map_err(|e| PayloadError::Malformed(e.to_string()))?;
    let Some(length) = u32::try_from(json.len()).ok().filter(|n| *n as usize <= MAX_JSON) else {
        return malformed("manifest or trailer is longer than 64 KiB");
    };
    Ok([magic.as_slice(), &length.to_le_bytes(), &json].concat())
}

/// Parses a manifest or trailer. Checks the version before the fields, so that a newer format is reported and not
/// misread.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8], name: &str) -> Result<T, PayloadError> {
    #[derive(Deserialize)]
    struct Version {
        zsnap: u32,
    }
    let bad = |e: serde_json::Error| PayloadError::Malformed(format!("the {name} cannot be read: {e}"));
    let version = serde_json::from_slice::<Version>(json).map_err(bad)?.zsnap;
    let text = format!("the {name} is of version {version}, this program reads version {VERSION}");
    match version.cmp(&VERSION) {
        Ordering::Less => malformed(text),
        Ordering::Equal => serde_json::from_slice(json).map_err(bad),
        Ordering::Greater => Err(PayloadError::Newer(text)),
    }
}

/// Rejects a manifest whose kind is not known here as [`PayloadError::Newer`], because its other fields may mean
/// something else. What could never be the name of a kind is left to [`parse`].
pub(super) fn check_kind(json: &[u8]) -> Result<(), PayloadError> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let Ok(Kind { kind }) = serde_json::from_slice(json) else { return Ok(()) };
    let word = kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let possible = word && (1..=MAX_KIND).contains(&kind.len());
    if !possible || PayloadKind::ALL.iter().any(|known| known.name() == kind) {
        return Ok(());
    }
    Err(PayloadError::Newer(format!("its kind is \"{kind}\", which this program does not know")))
}
