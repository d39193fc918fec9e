//! Manifest and trailer: what they say, in JSON (zsnap-queue-file(5)).

use std::cmp::Ordering;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{PayloadError, malformed};
use zsnap_common::names::target::{Dataset, Host, MAX_NAME, check_component};
use zsnap_common::stream::Guid;

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

impl PayloadKind {
    /// All that this version knows.
    pub const ALL: [PayloadKind; 2] = [PayloadKind::Zfs, PayloadKind::Opaque];

    /// Its name in a manifest.
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

/// Largest manifest or trailer, in bytes of JSON.
pub const MAX_JSON: usize = 64 << 10;
/// The version of the format.
const VERSION: u32 = 1;
/// Longest name of a kind of payload.
const MAX_KIND: usize = 32;
/// Magic number of the skippable frame with the manifest.
pub(super) const MANIFEST: [u8; 4] = 0x184D_2A5A_u32.to_le_bytes();
/// Magic number of the skippable frame with the trailer.
pub(super) const TRAILER: [u8; 4] = 0x184D_2A5B_u32.to_le_bytes();

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Manifest {
    /// The skippable frame that holds it. Refuses what [`super::PayloadReader`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        frame(MANIFEST, self)
    }

    /// Whether its fields agree with each other.
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
    /// The skippable frame that holds it.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        frame(TRAILER, self)
    }

    /// Whether its fields are what they should be.
    pub(super) fn check(&self) -> Result<(), PayloadError> {
        if !is_hex(&self.sha256, 64) {
            return malformed("the trailer's sha256 is not 64 lower-case hex digits");
        }
        Ok(())
    }
}

/// A skippable frame (RFC 8878, 3.1.2): magic number, length, JSON.
pub(super) fn frame(magic: [u8; 4], what: &impl Serialize) -> Result<Vec<u8>, PayloadError> {
    let json = serde_json::to_vec(what).map_err(|e| PayloadError::Malformed(e.to_string()))?;
    let Some(length) = u32::try_from(json.len()).ok().filter(|n| *n as usize <= MAX_JSON) else {
        return malformed("manifest or trailer is longer than 64 KiB");
    };
    Ok([magic.as_slice(), &length.to_le_bytes(), &json].concat())
}

/// Checks the version before the fields, so that a later format is named and not misread.
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

/// Refuses a manifest whose kind is not known here as [`PayloadError::Newer`]: its other fields may mean
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
