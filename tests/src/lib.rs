//! What the integration tests share.

use std::path::Path;

pub mod fake_zfs;
pub mod random;
pub mod scene;
pub mod stream;
pub mod torture;

/// The real streams in `data/streams`; its README says what each is.
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

/// One of [`SAMPLES`].
pub fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/streams").join(format!("{name}.zst"));
    let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    zstd::decode_all(packed.as_slice()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
