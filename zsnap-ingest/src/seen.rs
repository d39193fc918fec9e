//! The identity of a queue file from one run to the next.

use std::io::{self, Read, Seek, SeekFrom};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use zsnap_common::names::digest::sha256_hex;

use crate::joined::Joined;

/// The number of bytes at the beginning and at the end of a file that [`ends`] reads.
const END: usize = 1 << 20;

/// The precision of times on FAT, in nanoseconds.
const PRECISION: i64 = 2_000_000_000;
/// FAT keeps local times: with another time zone, or when daylight saving time begins, a time moves by a multiple of a
/// quarter of an hour, at most by [`MOST_SHIFTED`]. In nanoseconds.
const QUARTER: i64 = 900_000_000_000;
const MOST_SHIFTED: i64 = 26 * 4 * QUARTER;

/// The identity of a file. The device number is not part of it: a removable drive gets another one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    inode: u64,
    /// The length in bytes.
    pub size: u64,
    /// Nanoseconds since 1970; the same in `changed`.
    modified: i64,
    changed: i64,
}

impl Seen {
    /// Returns the identity of the file with these attributes.
    pub fn of(stat: &Stat) -> Seen {
        let nanos = |secs: i64, nanos: u64| {
            secs.saturating_mul(1_000_000_000).saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX))
        };
        Seen {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Returns the identity of a queue file in several files with these identities.
    pub fn of_all(parts: impl IntoIterator<Item = Seen>) -> Seen {
        let both = |all: Seen, part: Seen| Seen {
            inode: all.inode.wrapping_add(part.inode),
            size: all.size.saturating_add(part.size),
            modified: all.modified.max(part.modified),
            changed: all.changed.max(part.changed),
        };
        parts.into_iter().reduce(both).unwrap_or(Seen { inode: 0, size: 0, modified: 0, changed: 0 })
    }

    /// Returns the identity of an open queue file.
    pub fn of_open(content: &Joined) -> io::Result<Seen> {
        let parts = content.files().map(|file| Ok(Seen::of(&rustix::fs::fstat(file)?)));
        parts.collect::<io::Result<Vec<_>>>().map(Seen::of_all)
    }

    /// Whether this may be the same file as `other` on a file system where neither inode numbers nor the time of change
    /// last, and times are rounded.
    pub fn may_be(&self, other: &Seen) -> bool {
        let apart = self.modified.saturating_sub(other.modified).saturating_abs();
        let rest = apart % QUARTER;
        self.size == other.size && apart <= MOST_SHIFTED + PRECISION && rest.min(QUARTER - rest) <= PRECISION
    }
}

/// Returns a digest of the first and the last MiB of a file of this size.
pub fn ends(mut content: impl Read + Seek, size: u64) -> io::Result<String> {
    let length = size.min(2 * END as u64);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let middle = bytes.len().min(END);
    let (first, last) = bytes.split_at_mut(middle);
    content.seek(SeekFrom::Start(0))?;
    content.read_exact(first)?;
    content.seek(SeekFrom::Start(size - last.len() as u64))?;
    content.read_exact(last)?;
    Ok(sha256_hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_recognized_after_a_mount_that_numbers_and_rounds_otherwise() {
        let seen = |inode, size, modified| Seen { inode, size, modified, changed: inode as i64 };
        let (second, file) = (1_000_000_000, seen(3, 10, 1_000_000_123_456_789));
        for (size, apart, may_be) in [
            (10, 0, true),
            (10, 2 * second - 1, true),
            (10, -2 * second, true),
            (10, 3 * second, false),
            (10, 3600 * second - 123_456_789, true),
            (10, -3600 * second - second, true),
            (10, 3605 * second, false),
            (10, 27 * 3600 * second, false),
            (11, 0, false),
        ] {
            let other = seen(7, size, file.modified + apart);
            assert_eq!((file.may_be(&other), other.may_be(&file)), (may_be, may_be), "{size} {apart}");
        }
        assert!(!seen(1, 0, i64::MIN).may_be(&seen(1, 0, i64::MAX)));
    }

    #[test]
    fn the_digest_depends_on_both_ends_and_not_on_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let of = |size: usize, changed: Option<usize>| {
            let mut bytes = vec![7; size];
            changed.into_iter().for_each(|at| bytes[at] = 8);
            fs::write(dir.path().join("f"), &bytes).unwrap();
            ends(fs::File::open(dir.path().join("f")).unwrap(), size as u64).unwrap()
        };
        for size in [1, END - 1, END, END + 1, 2 * END, 2 * END + 1, 3 * END] {
            let whole = of(size, None);
            assert_ne!(of(size, Some(0)), whole, "{size}");
            assert_ne!(of(size, Some(size - 1)), whole, "{size}");
            assert_eq!(of(size, Some(size / 2)) == whole, size > 2 * END, "{size}");
        }
        assert_eq!(of(0, None), sha256_hex(b""));
    }
}
