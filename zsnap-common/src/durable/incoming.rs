//! Directories that belong to other users and that root reads. Everything goes through file descriptors, no symlink
//! is followed, only regular files are opened, and only what was opened is removed. The owner of the directory can
//! still change it at any moment.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use crate::durable::dest::dir::is_same;
use crate::durable::publish::{self, NewFile, REGULAR, at_path};
use crate::names::shell::quoted;

/// The maximum number of names that [`Incoming::names`] returns; they take about 100 MB. Directories of queue files,
/// which others fill, are read by [`crate::durable::listing::Listing`] instead.
const MOST: usize = 1_000_000;

/// The maximum number of bytes that [`Incoming::read_own`] reads.
const MOST_OWN: u64 = 64 << 20;

/// An open directory.
#[derive(Debug)]
pub struct Incoming {
    fd: File,
    path: PathBuf,
    owner: u32,
}

/// Why a file was not opened.
#[derive(Debug)]
pub enum Unsafe {
    /// The file no longer exists.
    Gone,
    /// It is a symlink, FIFO, device or directory, or has several names or another owner: which, for messages.
    Not(String),
    /// The system call failed.
    Io(io::Error),
}

impl Incoming {
    /// Opens a directory. Symlinks on the way to it are followed, because they are the administrator's.
    pub fn open(path: &Path) -> io::Result<Incoming> {
        Incoming::open_at(CWD, path.as_os_str(), path.to_owned(), OFlags::empty())
    }

    /// Opens a directory in this one. Fails if the name is a symlink.
    pub fn inside(&self, name: &OsStr) -> io::Result<Incoming> {
        Incoming::open_at(&self.fd, name, self.path.join(name), OFlags::NOFOLLOW)
    }

    fn open_at(at: impl std::os::fd::AsFd, name: &OsStr, path: PathBuf, more: OFlags) -> io::Result<Incoming> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
        let fd = File::from(rustix::fs::openat(at, name, flags, Mode::empty()).map_err(at_path(&path))?);
        let owner = rustix::fs::fstat(&fd)?.st_uid;
        Ok(Incoming { fd, path, owner })
    }

    /// Returns the path of the directory, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the names in the directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    /// The directory cannot be read, or holds more than a million names: names are never omitted silently.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        self.names_up_to(MOST)
    }

    fn names_up_to(&self, most: usize) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        self.each_name(|name| {
            if names.len() == most {
                let why = format!("{} holds more than {most} names: move some away", self.path.display());
                return Err(io::Error::other(why));
            }
            names.push(name.to_owned());
            Ok(())
        })?;
        names.sort();
        Ok(names)
    }

    /// Calls `each` for every name in the directory but `.` and `..`, in the order of the file system.
    ///
    /// # Errors
    /// The directory cannot be read; or the error of `each`, which ends the loop.
    pub fn each_name(&self, mut each: impl FnMut(&OsStr) -> io::Result<()>) -> io::Result<()> {
        for entry in Dir::read_from(&self.fd).map_err(at_path(&self.path))? {
            let entry = entry.map_err(at_path(&self.path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(OsStr::from_bytes(name))?;
            }
        }
        Ok(())
    }

    /// Returns the metadata of a name without following a symlink, or `None` if the name no longer exists.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(at_path(&self.path.join(name))(e)),
        }
    }

    /// Opens a regular file with one name that belongs to the directory's owner.
    pub fn open_file(&self, name: &OsStr) -> Result<File, Unsafe> {
        let path = self.path.join(name);
        // NOCTTY: a terminal must not become our controlling terminal.
        let file = match rustix::fs::openat(&self.fd, name, REGULAR | OFlags::NOCTTY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Err(Unsafe::Gone),
            Err(rustix::io::Errno::LOOP) => return Err(Unsafe::Not("is a symbolic link".into())),
            Err(rustix::io::Errno::NXIO) => return Err(Unsafe::Not("is not a regular file".into())),
            Err(e) => return Err(Unsafe::Io(at_path(&path)(e))),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| Unsafe::Io(at_path(&path)(e)))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Unsafe::Not("is not a regular file".into()));
        }
        if stat.st_nlink != 1 {
            return Err(Unsafe::Not(format!("has {} names (hard links)", stat.st_nlink)));
        }
        if stat.st_uid != self.owner {
            return Err(Unsafe::Not(format!("belongs to user {}, its directory to user {}", stat.st_uid, self.owner)));
        }
        Ok(file)
    }

    /// Reads a file of ours in a directory that only we may change, without following a symlink. Returns `None` if
    /// there is none.
    pub fn read_own(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        let mut file = match rustix::fs::openat(&self.fd, name, REGULAR, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(at_path(&path)(e)),
        };
        let mut bytes = Vec::new();
        file.by_ref().take(MOST_OWN + 1).read_to_end(&mut bytes).map_err(at_path(&path))?;
        if bytes.len() as u64 > MOST_OWN {
            let message = format!("{} holds more than {MOST_OWN} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some(bytes))
    }

    /// Removes `name` if it is still the file that was opened. Returns `false`, and removes nothing, if it is another
    /// file by now. Without [`Incoming::sync`], the name may be back after a loss of power.
    pub fn remove_if_same(&self, name: &OsStr, file: &File) -> io::Result<bool> {
        let path = self.path.join(name);
        if !self.is_same(name, file)? {
            return Ok(false);
        }
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(at_path(&path))?;
        Ok(true)
    }

    /// Removes `name`, not durably, if it has the same bytes as `file`.
    pub fn remove_if_equal(&self, name: &OsStr, file: &File) -> io::Result<()> {
        let Some(text) = name.to_str() else { return Ok(()) };
        match is_same(&self.fd, text, file).map_err(at_path(&self.path.join(name)))? {
            Some(true) => self.remove(name),
            _ => Ok(()),
        }
    }

    /// Moves `name` into `to` as `new`, durably and without replacing a file, if it is still the file that was
    /// opened. Returns `false`, and moves nothing, if it is another file by now.
    pub fn move_if_same(&self, name: &OsStr, file: &File, to: &Incoming, new: &OsStr) -> io::Result<bool> {
        if !self.is_same(name, file)? {
            return Ok(false);
        }
        self.rename_into(name, to, new).map(|()| true)
    }

    /// Moves `name` into `to` as `new`, without replacing a file, and fsyncs both directories.
    pub fn rename_into(&self, name: &OsStr, to: &Incoming, new: &OsStr) -> io::Result<()> {
        self.rename_unsynced(name, to, new)?;
        to.sync()?;
        self.sync()
    }

    /// Moves `name` into `to` as `new`, without replacing a file and without the fsyncs. After several such moves,
    /// call [`Incoming::sync`] on both directories.
    pub fn rename_unsynced(&self, name: &OsStr, to: &Incoming, new: &OsStr) -> io::Result<()> {
        publish::rename_new(&self.fd, name, &to.fd, new).map_err(at_path(&to.path.join(new)))
    }

    /// Moves `name` into `to`, a directory that only we may change, as `new`, durably, if it is still the file that was
    /// opened. Returns `false`, and moves nothing, if it is another file by now. The caller ensures that `new` is free:
    /// many file systems for removable drives have no rename that does not replace a file.
    pub fn move_to_private(&self, name: &OsStr, file: &File, to: &Incoming, new: &OsStr) -> io::Result<bool> {
        if !self.is_same(name, file)? {
            return Ok(false);
        }
        rustix::fs::renameat(&self.fd, name, &to.fd, new).map_err(at_path(&to.path.join(new)))?;
        to.sync()?;
        self.sync()?;
        Ok(true)
    }

    /// Checks that we may create and remove names in the directory.
    ///
    /// # Errors
    /// `ReadOnlyFilesystem` or `PermissionDenied` says why we may not.
    pub fn writable(&self) -> io::Result<()> {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&self.fd, ".", access, AtFlags::empty()).map_err(at_path(&self.path))
    }

    /// Whether the file system keeps the inode number, the owner and the mode of a file for as long as it exists. FAT and
    /// exFAT number files anew at each mount, and FUSE and file servers may do so at any time.
    pub fn has_lasting_inodes(&self) -> bool {
        publish::file_system(&self.fd).is_ok_and(|kind| publish::LINUX.contains(&kind))
    }

    /// Makes the names in the directory durable.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.fd).map_err(at_path(&self.path))
    }

    /// Returns the user id of the directory's owner.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    fn is_same(&self, name: &OsStr, file: &File) -> io::Result<bool> {
        let ours = rustix::fs::fstat(file)?;
        let there = self.stat(name)?;
        Ok(there.is_some_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)))
    }

    /// Removes our temporary files in the directory whose writers are gone.
    pub fn sweep(&self) -> io::Result<()> {
        publish::sweep_at(&self.fd, &self.path)
    }

    /// Creates a new file in this directory, even if something else has taken the place of the directory by now.
    pub fn new_file(&self) -> io::Result<NewFile> {
        NewFile::create_at(self.fd.try_clone()?, &self.path)
    }

    /// Removes a file of ours from the directory. A missing file is not an error.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(at_path(&self.path.join(name))(e)),
        }
    }

    /// Opens or creates a directory in this one that only we may change (0700). Fails if somebody else has created
    /// it. The error does not say to remove it, because it may hold the only copy of something.
    pub fn private_inside(&self, name: &OsStr) -> io::Result<Incoming> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from(0o700)) {
            Ok(()) => rustix::fs::fsync(&self.fd).map_err(at_path(&self.path))?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(at_path(&self.path.join(name))(e)),
        }
        self.private(name)
    }

    /// Opens an existing directory in this one. Fails if others may change it.
    pub fn private(&self, name: &OsStr) -> io::Result<Incoming> {
        let private = |stat: &Stat| {
            let (path, us) = (self.path.join(name), rustix::process::geteuid());
            let path = quoted(&path);
            let why = match stat.st_uid == us.as_raw() {
                true if stat.st_mode & 0o022 == 0 => return Ok(()),
                _ if !self.has_lasting_inodes() => {
                    format!("others can write to {path}: mount its file system with -o uid={us},gid=0,umask=022")
                }
                true => format!("others can write to {path}: chmod 700 {path}"),
                false => format!("{path} belongs to user {}: chown -R {us} {path}", stat.st_uid),
            };
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        };
        // Check it before opening, which may not be permitted; and check what was opened, which may be another
        // directory.
        let is_dir = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.stat(name)?.filter(is_dir).as_ref().map_or(Ok(()), private)?;
        let dir = self.inside(name)?;
        private(&rustix::fs::fstat(&dir.fd)?)?;
        Ok(dir)
    }
}

/// Converts a name for messages, lossily. The log makes it printable.
pub fn shown(name: &OsStr) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scene() -> (tempfile::TempDir, Incoming) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        let incoming = Incoming::open(dir.path()).unwrap();
        (dir, incoming)
    }

    #[test]
    fn only_regular_files_with_one_name_are_opened() {
        let (dir, incoming) = scene();
        assert!(incoming.open_file("file".as_ref()).is_ok());
        assert!(matches!(incoming.open_file("absent".as_ref()), Err(Unsafe::Gone)));
        symlink("file", dir.path().join("link")).unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        for name in ["link", "fifo", "dir"] {
            assert!(matches!(incoming.open_file(name.as_ref()), Err(Unsafe::Not(_))), "{name}");
        }
        fs::hard_link(dir.path().join("file"), dir.path().join("second")).unwrap();
        assert!(matches!(incoming.open_file("file".as_ref()), Err(Unsafe::Not(_))));
        assert!(incoming.inside("link".as_ref()).is_err());
    }

    #[test]
    fn names_up_to_returns_all_names_or_an_error() {
        let (dir, incoming) = scene();
        fs::write(dir.path().join("another"), b"").unwrap();
        assert_eq!(incoming.names_up_to(2).unwrap(), ["another", "file"]);
        let e = incoming.names_up_to(1).unwrap_err().to_string();
        assert_eq!(e, format!("{} holds more than 1 names: move some away", dir.path().display()));
    }

    #[test]
    fn a_file_is_removed_only_if_it_is_the_opened_one() {
        let (dir, incoming) = scene();
        let file = incoming.open_file("file".as_ref()).unwrap();
        fs::write(dir.path().join("other"), b"y").unwrap();
        fs::rename(dir.path().join("other"), dir.path().join("file")).unwrap();
        assert!(!incoming.remove_if_same("file".as_ref(), &file).unwrap());
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"y");
        let file = incoming.open_file("file".as_ref()).unwrap();
        assert!(incoming.remove_if_same("file".as_ref(), &file).unwrap());
        assert!(!dir.path().join("file").exists());
        assert!(!incoming.remove_if_same("file".as_ref(), &file).unwrap());
    }

    #[test]
    fn moving_never_replaces_a_file() {
        let (dir, incoming) = scene();
        let to = incoming.private_inside("q".as_ref()).unwrap();
        let file = incoming.open_file("file".as_ref()).unwrap();
        fs::write(dir.path().join("q/file"), b"old").unwrap();
        let e = incoming.move_if_same("file".as_ref(), &file, &to, "file".as_ref()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(dir.path().join("q/file")).unwrap();
        assert!(incoming.move_if_same("file".as_ref(), &file, &to, "file".as_ref()).unwrap());
        assert_eq!(fs::read(dir.path().join("q/file")).unwrap(), b"x");
    }

    #[test]
    fn a_new_file_stays_in_the_directory_that_was_opened() {
        let (dir, incoming) = scene();
        let elsewhere = tempfile::tempdir().unwrap();
        let inside = incoming.private_inside("q".as_ref()).unwrap();
        fs::rename(dir.path().join("q"), dir.path().join("moved")).unwrap();
        symlink(elsewhere.path(), dir.path().join("q")).unwrap();
        inside.new_file().unwrap().replace("new".as_ref()).unwrap();
        assert!(dir.path().join("moved/new").exists());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_private_directory_that_others_can_write_to_is_rejected() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, incoming) = scene();
        incoming.private_inside("q".as_ref()).unwrap();
        fs::set_permissions(dir.path().join("q"), fs::Permissions::from_mode(0o770)).unwrap();
        let e = incoming.private_inside("q".as_ref()).unwrap_err();
        let q = dir.path().join("q").display().to_string();
        assert_eq!(e.to_string(), format!("others can write to {q}: chmod 700 {q}"));
        symlink("/tmp", dir.path().join("s")).unwrap();
        assert!(incoming.private_inside("s".as_ref()).is_err());
    }
}
