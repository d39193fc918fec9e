//! `dir:` destinations: HOST/FILE below a directory, exactly once. The directory may be a drive
//! that comes and goes, and may belong to another user: everything goes through its open fd.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Delivered, Item};
use crate::cancel;
use crate::exit::Exit;
use crate::publish::{self, NewFile, at_path};

/// What tells one drive from another, in its root: the drive's name.
const MARKER: &str = ".zsnap-drive";
/// Between two looks for a signal.
const STEP: u64 = 8 << 20;
/// So many different files of one name would be somebody's mistake.
const COPIES: u32 = 100;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const REGULAR: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

pub fn deliver(path: &Path, item: &Item<'_>, file: &File, drive: Option<&str>) -> anyhow::Result<Delivered> {
    let root = match open_root(path, drive)? {
        Ok(root) => root,
        Err(away) => return Ok(Delivered::Away(away)),
    };
    let host = item.parsed.host.as_str();
    let dir = path.join(host);
    match rustix::fs::mkdirat(&root, host, Mode::from(0o700)) {
        Ok(()) => rustix::fs::fsync(&root).map_err(at_path(path))?,
        Err(Errno::EXIST) => {}
        Err(e) => return Err(at_path(&dir)(e).into()),
    }
    let dir_fd = File::from(
        rustix::fs::openat(&root, host, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(at_path(&dir))?,
    );
    let mut copy = None;
    for n in 0..COPIES {
        let name = if n == 0 { item.name.to_owned() } else { format!("{}.{}", item.name, n - 1) };
        match there(&dir_fd, &name, file).with_context(|| dir.join(&name).display().to_string())? {
            There::Same => {
                rustix::fs::fsync(&dir_fd).map_err(at_path(&dir))?;
                return Ok(Delivered::Already);
            }
            There::Other => continue,
            There::Nothing => {}
        }
        let new = match copy.take() {
            Some(new) => new,
            None => whole_copy(&dir_fd, &dir, file)?,
        };
        match new.publish_as(OsStr::new(&name)) {
            // Another one made it since we looked: what is it?
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => copy = Some(whole_copy(&dir_fd, &dir, file)?),
            other => return Ok(other.map(|()| Delivered::New)?),
        }
    }
    Err(Exit::CantCreate.error(format!("{}: {COPIES} other files have the name {}", dir.display(), item.name)))
}

/// Removes what deliveries that were killed left in the directories of the hosts.
pub fn tidy(path: &Path, drive: Option<&str>) -> io::Result<()> {
    let Ok(root) = open_root(path, drive)? else { return Ok(()) };
    for entry in rustix::fs::Dir::read_from(&root).map_err(at_path(path))? {
        let entry = entry.map_err(at_path(path))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        // Not a directory, or not ours to read: nothing of ours is in it.
        let Ok(fd) = rustix::fs::openat(&root, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) else { continue };
        if !name.as_bytes().starts_with(b".") {
            publish::sweep_at(&File::from(fd), &path.join(name))?;
        }
    }
    Ok(())
}

/// The open directory, or why it is away. It is never made: that would fill the disk below a
/// mount point whose drive is away.
fn open_root(path: &Path, drive: Option<&str>) -> io::Result<Result<File, String>> {
    let root = match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(Err(format!("{} is not there", path.display()))),
        Err(e) => return Err(at_path(path)(e)),
    };
    Ok(match drive.and_then(|name| wrong_drive(&root, path, name)) {
        Some(why) => Err(why),
        None => Ok(root),
    })
}

/// Why the drive at `path` is not the one called `name`.
fn wrong_drive(root: &File, path: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    let read = rustix::fs::openat(root, MARKER, REGULAR, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).take(256).read_to_string(&mut text));
    match read {
        Err(e) => Some(format!("{}: {e}", path.join(MARKER).display())),
        Ok(_) if text.trim_end() == name => None,
        Ok(_) => Some(format!("{} is the drive \"{}\"", path.display(), text.trim_end().escape_default())),
    }
}

fn whole_copy(dir_fd: &File, dir: &Path, file: &File) -> anyhow::Result<NewFile> {
    let new = NewFile::create_at(dir_fd.try_clone()?, dir)?;
    let mut source = file;
    io::Seek::seek(&mut source, io::SeekFrom::Start(0))?;
    loop {
        cancel::check()?;
        // std copies in the kernel, by reflink where the file system can.
        let copied = io::copy(&mut source.take(STEP), &mut new.file());
        if copied.with_context(|| format!("copying to {}", new.path().display()))? == 0 {
            break;
        }
    }
    new.sync()?;
    Ok(new)
}

enum There {
    Nothing,
    Same,
    Other,
}

/// What has the name `name` already, compared with `file`.
fn there(dir: &File, name: &str, file: &File) -> io::Result<There> {
    let existing = match rustix::fs::openat(dir, name, REGULAR, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(There::Nothing),
        // A symlink, or no right to read it: a name that is taken.
        Err(Errno::LOOP | Errno::ACCESS | Errno::NXIO) => return Ok(There::Other),
        Err(e) => return Err(e.into()),
    };
    let stat = rustix::fs::fstat(&existing)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(There::Other);
    }
    if !same_bytes(&existing, file)? {
        return Ok(There::Other);
    }
    // Whoever wrote it may not have waited for the disk.
    rustix::fs::fsync(&existing)?;
    Ok(There::Same)
}

/// Whether two files hold the same bytes.
pub(crate) fn same_bytes(a: &File, b: &File) -> io::Result<bool> {
    let length = a.metadata()?.len();
    if length != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < length {
        cancel::check()?;
        let step = usize::try_from(length - at).map_or(left.len(), |rest| rest.min(left.len()));
        a.read_exact_at(&mut left[..step], at)?;
        b.read_exact_at(&mut right[..step], at)?;
        if left[..step] != right[..step] {
            return Ok(false);
        }
        at += step as u64;
    }
    Ok(true)
}

/// Whether `name` in `dir` is a link to `file` or holds the same bytes.
pub(crate) fn is_same(dir: &File, name: &str, file: &File) -> io::Result<bool> {
    let (a, b) = (rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?, rustix::fs::fstat(file)?);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(true);
    }
    Ok(matches!(there(dir, name, file)?, There::Same))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const NAME: &str = "bakfsfmt2-1700000000.000000001.1_h@a";

    fn source(dir: &Path, bytes: &[u8]) -> File {
        let path = dir.join("source");
        fs::write(&path, bytes).unwrap();
        File::open(path).unwrap()
    }

    fn give(to: &Path, file: &File, drive: Option<&str>) -> anyhow::Result<Delivered> {
        deliver(to, &Item { name: NAME, parsed: &NAME.parse().unwrap() }, file, drive)
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_arrives_once_and_other_bytes_get_another_name() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = source(from.path(), &[7; 100_000]);
        assert_eq!(give(to.path(), &file, None).unwrap(), Delivered::New);
        assert_eq!(give(to.path(), &file, None).unwrap(), Delivered::Already);
        let host = to.path().join("h");
        assert_eq!(fs::read(host.join(NAME)).unwrap(), [7; 100_000]);
        assert_eq!(fs::metadata(host.join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        let mut other = vec![7; 100_000];
        other[99_999] = 8;
        let other = source(from.path(), &other);
        assert_eq!(give(to.path(), &other, None).unwrap(), Delivered::New);
        assert_eq!(give(to.path(), &other, None).unwrap(), Delivered::Already);
        assert_eq!(listing(&host), [NAME.to_owned(), format!("{NAME}.0")]);
    }

    #[test]
    fn nothing_is_made_where_the_drive_is_away() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = source(from.path(), b"x");
        let away = |to: &Path, drive| matches!(give(to, &file, drive).unwrap(), Delivered::Away(_));
        assert!(away(&to.path().join("absent"), None));
        assert!(away(to.path(), Some("disk1")));
        fs::write(to.path().join(MARKER), "disk2\n").unwrap();
        assert!(away(to.path(), Some("disk1")));
        assert_eq!(listing(to.path()), [MARKER]);
        assert_eq!(give(to.path(), &file, Some("disk2")).unwrap(), Delivered::New);
    }

    #[test]
    fn no_symlink_leads_out_of_the_directory() {
        let (from, to, elsewhere) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = source(from.path(), b"x");
        std::os::unix::fs::symlink(elsewhere.path(), to.path().join("h")).unwrap();
        assert!(give(to.path(), &file, None).is_err());
        fs::remove_file(to.path().join("h")).unwrap();
        fs::create_dir(to.path().join("h")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("new"), to.path().join("h").join(NAME)).unwrap();
        assert_eq!(give(to.path(), &file, None).unwrap(), Delivered::New);
        assert_eq!(listing(&to.path().join("h")), [NAME.to_owned(), format!("{NAME}.0")]);
        assert!(listing(elsewhere.path()).is_empty());
    }

    #[test]
    fn what_killed_deliveries_left_is_removed() {
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(to.path().join("h")).unwrap();
        fs::write(to.path().join("h/.zsnap-0123"), "dead").unwrap();
        fs::write(to.path().join("h/.stfolder"), "").unwrap();
        tidy(to.path(), None).unwrap();
        assert_eq!(listing(&to.path().join("h")), [".stfolder"]);
    }
}
