//! The comparison of files, byte by byte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Beat;
use crate::cli::cancel;
use crate::durable::publish::{NewFile, REGULAR};

/// The alignment in bytes of the memory that O_DIRECT reads into.
const ALIGNED: usize = 4096;

/// A contiguous piece of a file, or all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub file: &'a File,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Piece<'_> {
    /// Returns all of a file.
    pub fn whole(file: &File) -> io::Result<Piece<'_>> {
        Ok(Piece { file, start: 0, length: file.metadata()?.len() })
    }
}

/// Whether the disk, and not only the page cache, has the bytes of `source`.
pub(super) fn reads_back(new: &NewFile, source: Piece<'_>, beat: &dyn Fn(Beat<'_>)) -> io::Result<bool> {
    let copy = match new.reopen(OFlags::DIRECT) {
        // The file system does not support it. The kernel is asked to drop the file from the cache, which it mostly
        // does.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let copy = new.reopen(OFlags::empty())?;
            rustix::fs::fadvise(&copy, 0, None, Advice::DontNeed)?;
            copy
        }
        copy => copy?,
    };
    same_bytes(&copy, source, beat)
}

/// What already has a name in a directory.
pub(super) enum There {
    Nothing,
    Same,
    Other,
}

/// Compares what already has the name `name` in `dir` with `source`.
pub(super) fn there(dir: &File, name: &str, source: Piece<'_>, beat: &dyn Fn(Beat<'_>)) -> io::Result<There> {
    let existing = match rustix::fs::openat(dir, name, REGULAR, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(There::Nothing),
        // A symlink, a FIFO, or a file that we may not read: the name is taken.
        Err(Errno::LOOP | Errno::ACCESS | Errno::NXIO) => return Ok(There::Other),
        Err(e) => return Err(e.into()),
    };
    let stat = rustix::fs::fstat(&existing)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(There::Other);
    }
    if !same_bytes(&existing, source, beat)? {
        return Ok(There::Other);
    }
    // Its writer may not have waited for the disk.
    rustix::fs::fsync(&existing)?;
    Ok(There::Same)
}

/// Whether a file holds the bytes of `source`; it may be open with O_DIRECT.
fn same_bytes(a: &File, source: Piece<'_>, beat: &dyn Fn(Beat<'_>)) -> io::Result<bool> {
    const PIECE: usize = 1 << 20;
    let Piece { file: b, start: offset, length } = source;
    if length != a.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE + ALIGNED], vec![0; PIECE]);
    let start = left.as_ptr().align_offset(ALIGNED).min(ALIGNED);
    let left = &mut left[start..start + PIECE];
    let mut at = 0;
    while at < length {
        cancel::check()?;
        // O_DIRECT reads only whole blocks, and less at the end of the file.
        let read = match a.read_at(left, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(false);
        }
        b.read_exact_at(&mut right[..read], offset + at)?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
        at += read as u64;
        beat(Beat::Step(0));
    }
    Ok(true)
}

/// Whether `name` in `dir` is a link to `file` or holds the same bytes. `None`: the name no longer exists.
pub(crate) fn is_same(dir: &File, name: &str, file: &File) -> io::Result<Option<bool>> {
    let a = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    let b = rustix::fs::fstat(file)?;
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(Some(true));
    }
    Ok(match there(dir, name, Piece::whole(file)?, &|_| {})? {
        There::Nothing => None,
        There::Same => Some(true),
        There::Other => Some(false),
    })
}
