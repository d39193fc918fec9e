//! What the file system of a directory is able to do. Sticks have FAT, exFAT or NTFS, and each kernel and FUSE driver
//! of these differs in what it lacks. So nothing is concluded from the kind of a file system: each ability is tried,
//! with a temporary file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::durable::publish::{NewFile, TRIED, at_path};

/// What is put behind a name to get another one, which every file system can store.
const SECOND: &str = "~";

/// What the file system of a directory is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Whether a file can have a second name (a hard link).
    pub links: bool,
    /// Whether a file can be renamed without replacing another one (RENAME_NOREPLACE). Where neither this nor a link
    /// is possible, [`publish::rename_new`](crate::durable::publish::rename_new) needs a lock.
    pub renames_new: bool,
    /// Whether we can change the mode of a file of ours, and so keep others out.
    pub modes: bool,
    /// Whether names that differ only in case are two names.
    pub case: bool,
    /// Whether it can store the name of every host and queue file. If not, all names are stored in the form of
    /// [`stored`](crate::names::stored::stored).
    pub names: bool,
    /// The maximum size of a file in bytes: 4 GiB less one byte on FAT.
    pub largest: u64,
}

impl Abilities {
    /// Tries all abilities in the open directory `dir`, where it creates a temporary file. `path` is the path of the
    /// directory, for messages.
    ///
    /// # Errors
    /// Nothing can be written there, or a disk failed: an ability that is merely absent is not an error.
    pub fn of(dir: &File, path: &Path) -> io::Result<Abilities> {
        let new = NewFile::create_at(dir.try_clone()?, path)?;
        let name = new.path().file_name().unwrap_or_default().to_owned();
        let failed = at_path::<Errno>(new.path());
        let links = links(dir, &name).map_err(&failed)?;
        let renames_new = renames_new(dir, &name).map_err(&failed)?;
        let mut names = true;
        for end in TRIED.into_iter().filter(|end| *end != SECOND) {
            names = names && stores(dir, &name, end).map_err(&failed)?;
        }
        Ok(Abilities {
            links,
            renames_new,
            modes: modes(new.file()).map_err(&failed)?,
            case: case(dir, &name).map_err(&failed)?,
            names,
            largest: largest(new.file()).map_err(&failed)?,
        })
    }
}

fn ending(name: &OsStr, end: &str) -> OsString {
    let mut other = name.to_owned();
    other.push(end);
    other
}

/// Returns `false` for an error that means that a file system cannot do something, or that we may not.
fn can(done: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(
            Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::NOENT
            | Errno::NOSYS
            | Errno::OPNOTSUPP
            | Errno::MLINK
            | Errno::ILSEQ,
        ) => Ok(false),
        Err(e) => Err(e),
    }
}

fn links(dir: &File, name: &OsStr) -> rustix::io::Result<bool> {
    let second = ending(name, SECOND);
    let linked = can(rustix::fs::linkat(dir, name, dir, &second, AtFlags::empty()))?;
    if linked {
        rustix::fs::unlinkat(dir, &second, AtFlags::empty())?;
    }
    Ok(linked)
}

fn renames_new(dir: &File, name: &OsStr) -> rustix::io::Result<bool> {
    let second = ending(name, SECOND);
    let renamed = can(rustix::fs::renameat_with(dir, name, dir, &second, RenameFlags::NOREPLACE))?;
    if renamed {
        rustix::fs::renameat(dir, &second, dir, name)?;
    }
    Ok(renamed)
}

/// Whether a name may end like this and is then stored as it is. FAT drops a `.` without an error.
fn stores(dir: &File, name: &OsStr, end: &str) -> rustix::io::Result<bool> {
    let second = ending(name, end);
    if !can(rustix::fs::renameat(dir, name, dir, &second))? {
        return Ok(false);
    }
    let stored = has_name(dir, &second);
    rustix::fs::renameat(dir, &second, dir, name)?;
    stored
}

/// Whether a directory lists exactly this name. An open file proves less: FAT also opens a file by a name that differs
/// in case or has a `.` at its end.
pub fn has_name(dir: &File, name: &OsStr) -> rustix::io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        if entry?.file_name().to_bytes() == name.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn modes(file: &File) -> rustix::io::Result<bool> {
    let mode = |file| rustix::fs::fstat(file).map(|stat| Mode::from_raw_mode(stat.st_mode));
    // Drivers of FAT ignore a change that they cannot store, rather than fail.
    for wanted in [Mode::from(0o640), Mode::from(0o600)] {
        if !can(rustix::fs::fchmod(file, wanted))? || mode(file)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

fn case(dir: &File, name: &OsStr) -> rustix::io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name.to_ascii_uppercase(), flags, Mode::empty()) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Returns the maximum size in bytes that an open file may have. The kernel allows no position beyond it, so nothing
/// is written to find it out. The position of the file is the beginning afterwards.
pub fn largest(file: &File) -> rustix::io::Result<u64> {
    let possible = |size: u64| match rustix::fs::seek(file, SeekFrom::Start(size)) {
        Ok(_) => Ok(true),
        Err(Errno::INVAL | Errno::OVERFLOW) => Ok(false),
        Err(e) => Err(e),
    };
    let (mut good, mut bad) = (0, 1 << 63);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if possible(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_system_of_linux_can_do_everything_and_nothing_is_left_there() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        let found = Abilities::of(&open, dir.path()).unwrap();
        assert!(found.largest > 1 << 40, "{found:?}");
        let all =
            Abilities { links: true, renames_new: true, modes: true, case: true, names: true, largest: found.largest };
        assert_eq!(found, all);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::remove_dir(dir.path()).unwrap();
        assert_eq!(Abilities::of(&open, dir.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_largest_size_is_the_last_possible_position() {
        let file = tempfile::tempfile().unwrap();
        let most = largest(&file).unwrap();
        rustix::fs::seek(&file, SeekFrom::Start(most)).unwrap();
        assert!(most == i64::MAX as u64 || rustix::fs::seek(&file, SeekFrom::Start(most + 1)).is_err());
        largest(&file).unwrap();
        assert_eq!(rustix::fs::tell(&file).unwrap(), 0);
    }

    #[test]
    fn only_a_name_that_is_listed_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        let open = File::open(dir.path()).unwrap();
        assert!(has_name(&open, "a".as_ref()).unwrap() && !has_name(&open, "A".as_ref()).unwrap());
    }
}
