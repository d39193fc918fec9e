//! Files that are there whole or not at all (a hidden temporary, fsync, link or rename,
//! fsync of the directory). Every durable file of the tools is made here.
//!
//! A temporary is flocked by its writer for as long as it lives, so whoever gets the flock may
//! remove it: its writer is dead.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::locks::flock::try_flock;

/// What the name of a temporary begins with; [`crate::names::queue_name::classify`] takes it for a
/// transport's.
pub const TEMPORARY: &str = ".zsnap-";

/// Puts the path in front of an error and keeps its kind.
pub fn at_path(path: &Path) -> impl FnOnce(rustix::io::Errno) -> io::Error {
    move |errno| {
        let e = io::Error::from(errno);
        io::Error::new(e.kind(), format!("{}: {e}", path.display()))
    }
}

/// A new file under a hidden temporary name, unlinked on drop. Publish it with
/// [`NewFile::link_as`] or [`NewFile::replace`].
#[derive(Debug)]
pub struct NewFile {
    dir: File,
    path: PathBuf,
    temporary: OsString,
    file: File,
    renamed: bool,
}

impl NewFile {
    /// Makes it in `dir`: `O_EXCL`, 0600, flocked.
    pub fn create_in(dir: &Path) -> io::Result<NewFile> {
        NewFile::create_at(open_dir(dir)?, dir)
    }

    /// The same in the open directory `dir_fd`; `dir` is its name for messages. For directories
    /// whose owner might put something else in their place.
    pub fn create_at(dir_fd: File, dir: &Path) -> io::Result<NewFile> {
        loop {
            let mut random = [0u8; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let temporary = OsString::from(format!("{TEMPORARY}{:016x}", u64::from_ne_bytes(random)));
            let path = dir.join(&temporary);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                File::from(rustix::fs::openat(&dir_fd, &temporary, flags, Mode::from(0o600)).map_err(at_path(&path))?);
            let locked = try_flock(&file);
            if *locked.as_ref().unwrap_or(&false) && rustix::fs::fstat(&file)?.st_nlink == 1 {
                return Ok(NewFile { dir: dir_fd, path, temporary, file, renamed: false });
            }
            // Between the two calls a sweep has taken it for a dead writer's; or it cannot be locked.
            let _ = rustix::fs::unlinkat(&dir_fd, &temporary, AtFlags::empty());
            locked.map_err(|e| io::Error::new(e.kind(), format!("{}: cannot be locked: {e}", path.display())))?;
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// fsync of the data. After an error the file must be given up: a second fsync may lie.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.file).map_err(at_path(&self.path))
    }

    /// Hard-links it to `name` beside it, never replacing: `AlreadyExists`. Then fsyncs the
    /// directory. The temporary name stays until drop.
    pub fn link_as(&self, name: &OsStr) -> io::Result<()> {
        let to = self.path.with_file_name(name);
        rustix::fs::linkat(&self.dir, &self.temporary, &self.dir, name, AtFlags::empty()).map_err(at_path(&to))?;
        rustix::fs::fsync(&self.dir).map_err(at_path(&to))
    }

    /// Gives it the name `name` beside it, never replacing (`AlreadyExists`), and fsyncs the
    /// directory, also on file systems without hard links (FAT). The temporary name is gone.
    pub fn publish_as(mut self, name: &OsStr) -> io::Result<()> {
        self.name_as(name)?;
        rustix::fs::fsync(&self.dir).map_err(at_path(&self.path.with_file_name(name)))
    }

    /// The same without the fsync: for several files in one directory, which the caller fsyncs.
    pub fn name_as(&mut self, name: &OsStr) -> io::Result<()> {
        let to = self.path.with_file_name(name);
        rename_new(&self.dir, &self.temporary, &self.dir, name).map_err(at_path(&to))?;
        self.renamed = true;
        Ok(())
    }

    /// Opens it once more, for reading: `more` is O_DIRECT, say.
    pub fn reopen(&self, more: OFlags) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let fd = rustix::fs::openat(&self.dir, &self.temporary, flags, Mode::empty()).map_err(at_path(&self.path))?;
        Ok(File::from(fd))
    }

    /// Renames it over `name` beside it, then fsyncs the directory.
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
            // It cannot be helped here; the next sweep tries again.
            let _ = rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

/// Renames a file, never replacing (`EEXIST`). Where the file system knows no such rename (OpenZFS
/// before 2.2, NFS) it gets a second name first, and a crash may leave both.
pub fn rename_new(
    from_dir: impl AsFd,
    from: impl AsRef<OsStr>,
    to_dir: impl AsFd,
    to: impl AsRef<OsStr>,
) -> rustix::io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    match rustix::fs::renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::linkat(&from_dir, from, &to_dir, to, AtFlags::empty())?;
            rustix::fs::unlinkat(&from_dir, from, AtFlags::empty())
        }
        other => other,
    }
}

fn open_dir(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(at_path(dir))?))
}

/// Replaces `path` so that a reader, and a crash, see the old bytes or the new ones.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: no file name", path.display())));
    };
    let new = NewFile::create_in(dir)?;
    new.file().write_all(bytes).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", new.path().display())))?;
    new.sync()?;
    new.replace(name)
}

/// fsync of each file, or one syncfs where there are many and that is as good: the local file
/// systems of Linux. (With FUSE it does not reach the server; of others we do not know.) `each` is
/// called after each of these.
pub fn sync_files(files: &[&File], each: &dyn Fn()) -> io::Result<()> {
    /// From so many on it is faster, also when others write to the same file system.
    const MANY: usize = 5;
    /// f_type in statfs(2): ext2 to ext4, XFS, btrfs, F2FS, ZFS, tmpfs, FAT, exFAT.
    const GOOD: [u64; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0x0102_1994, 0x4d44, 0x2011_bab0];
    if files.len() >= MANY {
        let device = |file: &&File| rustix::fs::fstat(file).map(|stat| stat.st_dev);
        let kind = u64::try_from(rustix::fs::fstatfs(files[0])?.f_type).unwrap_or(0);
        let devices: Vec<_> = files.iter().map(device).collect::<Result<_, _>>()?;
        if GOOD.contains(&kind) && devices.iter().all(|one| *one == devices[0]) {
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

/// Removes our temporaries in `dir` whose writers are gone. A missing `dir` has none.
pub fn sweep(dir: &Path) -> io::Result<()> {
    match open_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(fd) => sweep_at(&fd, dir),
    }
}

/// The same in an open directory; `dir` is its name for messages.
pub fn sweep_at(fd: &File, dir: &Path) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(fd).map_err(at_path(dir))? {
        let entry = entry.map_err(at_path(dir))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        // Nothing else that begins so: a drive's mark does.
        let ours = name.as_bytes().strip_prefix(TEMPORARY.as_bytes());
        if !ours.is_some_and(|hex| hex.len() == 16 && hex.iter().all(u8::is_ascii_hexdigit)) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Gone meanwhile, or no regular file: not ours.
        let Ok(file) = rustix::fs::openat(fd, name, flags, Mode::empty()).map(File::from) else { continue };
        let regular = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
        if regular && try_flock(&file).is_ok_and(|free| free) {
            match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
                // Between our open and our flock its writer was done with it; or it is somebody else's.
                Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
                other => other.map_err(at_path(&dir.join(name)))?,
            }
        }
    }
    Ok(())
}

/// fsync of a directory: makes the names in it durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    rustix::fs::fsync(open_dir(dir)?).map_err(at_path(dir))
}

/// Makes `dir` and what is missing above it (0700), each durable.
pub fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_dirs(parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?,
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
    fn a_file_appears_whole_and_never_replaces() {
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
    fn a_sweep_takes_only_what_dead_writers_left() {
        let dir = tempfile::tempdir().unwrap();
        let living = NewFile::create_in(dir.path()).unwrap();
        fs::write(dir.path().join(".zsnap-0123456789abcdef"), b"dead").unwrap();
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

    /// As beside other processes of the same host.
    #[test]
    fn a_sweep_bears_writers_that_end_meanwhile() {
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
    fn directories_are_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        make_dirs(&deep).unwrap();
        make_dirs(&deep).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
