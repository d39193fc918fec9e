//! Shared code of the integration tests.

use std::path::Path;

use zsnap_common::process::zfs;
use zsnap_common::stream::{Guid, Kind, SubStream};

pub mod expirer;
pub mod frozen;
pub mod hostile;
pub mod imports;
pub mod mutation;
pub mod nodes;
pub mod packets;
pub mod pool;
pub mod random;
pub mod removable;
pub mod scene;
pub mod sealed;
pub mod sealer;
pub mod sender;
pub mod spooler;
pub mod strace;
pub mod stream;
pub mod terminal;
pub mod torture;

/// The real streams in `data/streams`, which its README describes.
pub const SAMPLES: [&str; 14] = [
    "bookmark-i.zfs",
    "compressed-c.zfs",
    "embedded-e.zfs",
    "empty-incr.zfs",
    "full-props-p.zfs",
    "full.zfs",
    "incr-I-s1-s4.zfs",
    "incr-i-s1-s2.zfs",
    "largeblock-L.zfs",
    "largeblock-Lec.zfs",
    "raw-w-full.zfs",
    "raw-w-incr.zfs",
    "replication-R.zfs",
    "replication-RI.zfs",
];

/// Reads one of [`SAMPLES`], or another stream in `data/streams`.
pub fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/streams").join(format!("{name}.zst"));
    let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    zstd::decode_all(packed.as_slice()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

// Not in pool.rs, because that file is also part of the fake `zfs`.
impl From<&SubStream> for pool::Begin {
    fn from(sub: &SubStream) -> pool::Begin {
        let kind = match sub.kind {
            Kind::Filesystem => pool::Kind::Filesystem,
            Kind::Volume => pool::Kind::Volume,
        };
        let from = sub.from.map(|guid| guid.0);
        pool::Begin { from, to: sub.to.0, kind, raw: sub.raw, created: sub.created }
    }
}

impl From<&pool::Snapshot> for zfs::Snapshot {
    fn from(s: &pool::Snapshot) -> zfs::Snapshot {
        zfs::Snapshot { name: s.name.clone(), guid: Guid(s.guid), createtxg: s.createtxg, creation: s.creation }
    }
}
