//! Files that exist as a whole or not at all: written under a hidden temporary name, fsynced, linked or renamed, and
//! followed by an fsync of the directory. Every durable file of the tools is made here.
//!
//! The writer of a temporary file holds a flock on it for as long as it lives. So whoever gets the flock may remove
//! the file: its writer is dead.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::locks::flock::try_flock;
use crate::names::random::random_hex;

/// The prefix of temporary names; [`crate::names::queue_name::classify`] counts them as a transport's.
pub const TEMPORARY: &str = ".zsnap-";

/// What a temporary name may have at its end while [`Abilities`](crate::durable::abilities::Abilities) are tried.
pub(super) const TRIED: [&str; 4] = [":", ".", " ", "~"];

/// The flags to open a file for reading that somebody else may have replaced: a symlink is not followed, and a FIFO does
/// not block.
pub const REGULAR: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Returns a function that puts the path in front of an error and keeps the error's kind.
pub fn at_path<E: Into<io::Error>>(path: &Path) -> impl Fn(E) -> io::Error {
    move |e| {
        let e = e.into();
        io::Error::new(e.kind(), format!("{}: {e}", path.display()))
    }
}

/// A new file under a hidden temporary name, which is unlinked on drop. Publish it with [`NewFile::link_as`],
/// [`NewFile::name_as`] or [`NewFile::replace`].
#[derive(Debug)]
pub struct NewFile {
    dir: File,
    path: PathBuf,
    temporary: OsString,
    file: File,
    renamed: bool,
}

impl NewFile {
    /// Creates the file in `dir`: `O_EXCL`, mode 0600, flocked.
    pub fn create_in(dir: &Path) -> io::Result<NewFile> {
        NewFile::create_at(open_dir(dir)?, dir)
    }

    /// Creates the file in `dir` with this content, and fsyncs it.
    pub fn with(dir: &Path, bytes: &[u8]) -> io::Result<NewFile> {
        let new = NewFile::create_in(dir)?;
        new.file().write_all(bytes).map_err(at_path(new.path()))?;
        new.sync().map(|()| new)
    }

    /// Creates the file in the open directory `dir_fd`, for directories whose owner might replace them. `dir` is the
    /// path of the directory, for messages.
    pub fn create_at(dir_fd: File, dir: &Path) -> io::Result<NewFile> {
        loop {
            let temporary = OsString::from(format!("{TEMPORARY}{}", random_hex(8)?));
            let path = dir.join(&temporary);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                File::from(rustix::fs::openat(&dir_fd, &temporary, flags, Mode::from(0o600)).map_err(at_path(&path))?);
            let locked = try_flock(&file);
            if *locked.as_ref().unwrap_or(&false) && rustix::fs::fstat(&file)?.st_nlink == 1 {
                return Ok(NewFile { dir: dir_fd, path, temporary, file, renamed: false });
            }
            // Between the two calls a sweep took it for a dead writer's; or it cannot be locked.
            let _ = rustix::fs::unlinkat(&dir_fd, &temporary, AtFlags::empty());
            locked.map_err(|e| io::Error::new(e.kind(), format!("{}: cannot be locked: {e}", path.display())))?;
        }
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path of the file until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fsyncs the data. After an error the file must be abandoned: a second fsync may report success wrongly.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.file).map_err(at_path(&self.path))
    }

    /// Hard-links the file to `name` in its directory, then fsyncs the directory. Fails with `AlreadyExists` rather
    /// than replace a file. The temporary name stays until drop.
    pub fn link_as(&self, name: &OsStr) -> io::Result<()> {
        let to = self.path.with_file_name(name);
        rustix::fs::linkat(&self.dir, &self.temporary, &self.dir, name, AtFlags::empty()).map_err(at_path(&to))?;
        rustix::fs::fsync(&self.dir).map_err(at_path(&to))
    }

    /// Renames the file to `name` in its directory, which the caller fsyncs. Fails with `AlreadyExists` rather than
    /// replace a file. Also works on file systems without hard links (FAT).
    pub fn name_as(&mut self, name: &OsStr) -> io::Result<()> {
        let to = self.path.with_file_name(name);
        rename_new(&self.dir, &self.temporary, &self.dir, name).map_err(at_path(&to))?;
        self.renamed = true;
        Ok(())
    }

    /// Opens the file again for reading, with more flags, such as O_DIRECT.
    pub fn reopen(&self, more: OFlags) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let fd = rustix::fs::openat(&self.dir, &self.temporary, flags, Mode::empty()).map_err(at_path(&self.path))?;
        Ok(File::from(fd))
    }

    /// Renames the file over `name` in its directory, then fsyncs the directory.
    pub fn replace(mut self, name: &OsStr) -> io::Result<()> {
        let to = self.path.with_file_name(name);
        rustix::fs::renameat(&self.dir, &self.temporary, &self.dir, name).map_err(at_path(&to))?;
        self.renamed = true;
        rustix::fs::fsync(&self.dir).map_err(at_path(&to))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: the next sweep tries again.
            let _ = rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

/// Renames a file; fails with `EEXIST` rather than replace one. On file systems without such a rename (OpenZFS before
/// 2.2, NFS) the file is linked and then unlinked, and a crash may leave both names. On those without links as well
/// (exFAT by FUSE) it is renamed if the name is free, under a lock of the directory. Every zsnap tool takes that lock
/// there, and the kernel releases it after a crash, so nothing is left but one of the two names.
pub fn rename_new(
    from_dir: impl AsFd,
    from: impl AsRef<OsStr>,
    to_dir: impl AsFd,
    to: impl AsRef<OsStr>,
) -> rustix::io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    match rustix::fs::renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match rustix::fs::linkat(&from_dir, from, &to_dir, to, AtFlags::empty()) {
                Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => rename_locked(from_dir, from, to_dir, to),
                linked => linked.and_then(|()| rustix::fs::unlinkat(&from_dir, from, AtFlags::empty())),
            }
        }
        other => other,
    }
}

fn rename_locked(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A lock belongs to an open file: to_dir may be shared, and then it would keep nobody out.
    let lock = rustix::fs::openat(&to_dir, ".", flags, Mode::empty())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    match rustix::fs::statat(&to_dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(from_dir, from, to_dir, to),
        Err(e) => Err(e),
    }
}

fn open_dir(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(at_path(dir))?))
}

/// Replaces `path` so that a reader, also after a crash, sees either the old bytes or the new ones.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: no file name", path.display())));
    };
    NewFile::with(dir, bytes)?.replace(name)
}

/// f_type in statfs(2) of the local file systems of Linux: ext2 to ext4, XFS, btrfs, F2FS, ZFS, tmpfs.
pub const LINUX: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0x0102_1994];

/// Returns the kind of the file system of an open file: f_type in statfs(2).
pub fn file_system(file: impl AsFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstatfs(file)?.f_type).unwrap_or(0))
}

/// Fsyncs each file. Where there are many, a single syncfs is called if that is as good, which it is for the local
/// file systems of Linux. (With FUSE it does not reach the server; other file systems were not examined.) `each` is
/// called after each of these calls.
pub fn sync_files(files: &[&File], each: &dyn Fn()) -> io::Result<()> {
    /// From this number on syncfs is faster, even if others write to the same file system.
    const MANY: usize = 5;
    /// f_type in statfs(2): FAT, exFAT.
    const FAT: [u64; 2] = [0x4d44, 0x2011_bab0];
    if files.len() >= MANY {
        let device = |file: &&File| rustix::fs::fstat(file).map(|stat| stat.st_dev);
        let kind = file_system(files[0])?;
        let devices: Vec<_> = files.iter().map(device).collect::<Result<_, _>>()?;
        if LINUX.iter().chain(&FAT).any(|good| *good == kind) && devices.iter().all(|one| *one == devices[0]) {
            rustix::fs::syncfs(files[0])?;
            each();
            return Ok(());
        }
    }
    for file in files {
        rustix::fs::fsync(file)?;
        each();
    }
    Ok(())
}

/// Removes our temporary files in `dir` whose writers are gone. `dir` need not exist.
pub fn sweep(dir: &Path) -> io::Result<()> {
    match open_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(fd) => sweep_at(&fd, dir),
    }
}

/// Does what [`sweep`] does, in an open directory; `dir` is its path, for messages.
pub fn sweep_at(fd: &File, dir: &Path) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(fd).map_err(at_path(dir))? {
        let entry = entry.map_err(at_path(dir))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        // Not every name with this prefix is ours: a drive's mark has it, too.
        if !is_temporary(name.as_bytes()) {
            continue;
        }
        // Gone in the meantime, or not a regular file: not ours.
        let Ok(file) = rustix::fs::openat(fd, name, REGULAR, Mode::empty()).map(File::from) else { continue };
        let regular = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
        if regular && try_flock(&file).is_ok_and(|free| free) {
            match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
                // Its writer was done with it between our open and our flock; or it is somebody else's.
                Err(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                other => other.map_err(at_path(&dir.join(name)))?,
            }
        }
    }
    Ok(())
}

/// Whether a name is that of a temporary file of ours, also with an ending that was tried on it.
fn is_temporary(name: &[u8]) -> bool {
    let Some((hex, end)) = name.strip_prefix(TEMPORARY.as_bytes()).and_then(|rest| rest.split_at_checked(16)) else {
        return false;
    };
    let tried = end.is_empty() || TRIED.iter().any(|tried| tried.as_bytes() == end);
    tried && hex.iter().all(u8::is_ascii_hexdigit)
}

/// Fsyncs a directory, which makes the names in it durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    rustix::fs::fsync(open_dir(dir)?).map_err(at_path(dir))
}

/// Creates `dir` and its missing parents (0700), durably.
pub fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_dirs(parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(at_path(dir))?,
        }
        return sync_dir(parent);
    }
    DirBuilder::new().mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_complete_and_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewFile::create_in(dir.path()).unwrap();
        new.file().write_all(b"one").unwrap();
        assert_eq!(fs::metadata(new.path()).unwrap().permissions().mode() & 0o777, 0o600);
        new.sync().unwrap();
        new.link_as("f".as_ref()).unwrap();
        drop(new);
        let second = NewFile::create_in(dir.path()).unwrap();
        assert_eq!(second.link_as("f".as_ref()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(second);
        assert_eq!(names(dir.path()), ["f"]);
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"one");
        write_durably(&dir.path().join("f"), b"two").unwrap();
        assert_eq!(names(dir.path()), ["f"]);
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"two");
    }

    #[test]
    fn a_sweep_removes_only_temporary_files_of_dead_writers() {
        let dir = tempfile::tempdir().unwrap();
        let living = NewFile::create_in(dir.path()).unwrap();
        fs::write(dir.path().join(".zsnap-0123456789abcdef"), b"dead").unwrap();
        for end in TRIED {
            fs::write(dir.path().join(format!(".zsnap-0123456789abcdef{end}")), b"dead").unwrap();
        }
        fs::write(dir.path().join(".other"), b"").unwrap();
        fs::write(dir.path().join(".zsnap-drive"), b"disk1").unwrap();
        fs::create_dir(dir.path().join(".zsnap-00000000000000d0")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join(".zsnap-00000000000000f0")).unwrap();
        sweep(dir.path()).unwrap();
        let left = [".other", ".zsnap-drive", ".zsnap-00000000000000d0", ".zsnap-00000000000000f0"];
        let mut left = left.map(str::to_owned).to_vec();
        left.push(living.path().file_name().unwrap().to_str().unwrap().to_owned());
        left.sort();
        assert_eq!(names(dir.path()), left);
        sweep(&dir.path().join("absent")).unwrap();
    }

    /// Sweeps while another writer works, as other processes on the same machine do.
    #[test]
    fn a_sweep_tolerates_writers_that_end_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..2000 {
                    drop(NewFile::create_in(dir.path()).unwrap());
                }
            });
            while !writer.is_finished() {
                sweep(dir.path()).unwrap();
            }
        });
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn of_two_writers_one_gets_the_name_also_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let place = File::open(dir.path()).unwrap();
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        for round in 0..200 {
            let to = format!("to{round}");
            let rename = |from: &'static str| rename_locked(&place, from.as_ref(), &place, to.as_ref());
            let rename = &rename;
            let [a, b] = std::thread::scope(|scope| {
                ["a", "b"].map(|from| scope.spawn(move || rename(from))).map(|thread| thread.join().unwrap())
            });
            let (won, lost) = if a.is_ok() { ("a", b) } else { ("b", a) };
            assert_eq!(lost, Err(Errno::EXIST));
            assert_eq!(fs::read_to_string(dir.path().join(&to)).unwrap(), won);
            fs::rename(dir.path().join(&to), dir.path().join(won)).unwrap();
        }
        assert_eq!(names(dir.path()), ["a", "b"]);
    }

    #[test]
    fn directories_are_created_private() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        make_dirs(&deep).unwrap();
        make_dirs(&deep).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
