//! Destinations of the form `dir:PATH`, where a file becomes HOST/FILE, exactly once. The directory may be on a drive
//! that is attached in rotation, and may belong to another user, so it is accessed only through its open file
//! descriptor.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags, copy_file_range};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::mark::{self, Mark};
use super::{Delivered, Item, Transport};
use crate::cli::cancel;
use crate::cli::exit::{Exit, OrExit};
use crate::cli::log;
use crate::cli::progress::Progress;
use crate::cli::report;
use crate::durable::publish::{self, NewFile, at_path, sync_files};
use crate::names::queue_name::Label;
use crate::names::target::Host;

mod compare;
#[cfg(test)]
mod tests;

pub(crate) use compare::is_same;
use compare::{There, reads_back, there};

/// The number of bytes that are copied between two checks for a signal.
const STEP: u64 = 8 << 20;
/// The maximum number of different files with one name: more must be somebody's mistake.
const COPIES: u32 = 100;
/// The maximum number of bytes written between two syncs. A sync reports no progress, so a long one would look like a
/// hang.
const SYNC_EVERY: u64 = 64 << 20;
/// The size in bytes from which on the progress of a copy is shown on a terminal.
const LARGE: u64 = 64 << 20;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A sign of progress. It shows the waiting tool that the worker does not hang, and moves the progress display.
#[derive(Clone, Copy, Debug)]
pub enum Beat<'a> {
    /// The copy of a large file begins: its name and length.
    Begin(&'a str, u64),
    /// The number of bytes copied since the last beat; 0 while files are compared or synced.
    Step(u64),
}

/// Shows beats on a terminal, as progress.
#[derive(Default)]
pub(super) struct Shown(Option<Progress>);

impl Shown {
    pub fn beat(&mut self, beat: Beat<'_>) {
        match beat {
            Beat::Begin(name, bytes) => self.0 = Some(Progress::new(name, Some(bytes))),
            Beat::Step(bytes) => self.0.iter().for_each(|progress| progress.add(bytes)),
        }
    }
}

/// What [`look`] finds out about a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Why the directory is away, if it is.
    pub away: Option<String>,
    /// The name in its mark, if it has one.
    pub name: Option<String>,
    /// Whether something is mounted there.
    pub mounted: bool,
    /// Whether fstab(5) lists a mount point there or above, and nothing is mounted there.
    pub unmounted: bool,
    /// The path without symlinks, as bytes.
    real: Option<Vec<u8>>,
}

impl Look {
    /// Returns the path without symlinks, or `None` if it does not exist.
    pub fn real(&self) -> Option<&Path> {
        self.real.as_ref().map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }
}

/// Examines a directory, and changes nothing. A directory without the mark is away.
pub fn look(path: &Path, mark: &Mark) -> io::Result<Look> {
    let away = open_root(path, mark)?.err();
    let name = open_root(path, &Mark::Unneeded)?.map_or(Ok(None), |root| mark::read(&root, path))?;
    let real = std::fs::canonicalize(path).ok();
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let above = real.as_ref().and_then(|real| device(real.parent()?));
    let mounted = above.is_some_and(|above| device(path).is_some_and(|here| here != above));
    let fstab = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
    let point = mark::mount_point(&fstab, path);
    let unmounted = point.is_some_and(|point| device(&point) == point.parent().and_then(device));
    Ok(Look { away, name, mounted, unmounted, real: real.map(|real| real.into_os_string().into_vec()) })
}

/// Delivers items, see [`super::Courier::deliver`]. All items are copied and made durable together, and only then get
/// their names.
pub fn deliver(
    path: &Path,
    items: &[Item],
    how: &Transport,
    beat: &dyn Fn(Beat<'_>),
) -> Result<Vec<Result<Delivered>>> {
    let drive = match open_root(path, &how.mark)? {
        Ok(root) => Drive { root, path, how, clones: Cell::new(true), beat },
        Err(away) => return Ok(vec![Ok(Delivered::Away(away))]),
    };
    let (mut hosts, mut lines) = (HashMap::new(), Lines::default());
    let copied: Vec<_> =
        items.iter().map(|item| lines.go(item, || drive.copy(item, drive.host(item, &mut hosts)?))).collect();
    let files: Vec<_> = copied.iter().flatten().filter_map(Copied::file).collect();
    if let Err(e) = sync_files(&files, &|| beat(Beat::Step(0))) {
        drop(copied);
        return match items {
            [_] => Ok(vec![Err(e).with_context(|| format!("writing to {}", path.display()))]),
            // Perhaps only one of them is too much for the drive.
            _ => {
                let mut lines = Lines::default();
                Ok(items.iter().map(|item| lines.go(item, || one(path, item, how, beat))).collect())
            }
        };
    }
    let mut lines = Lines::default();
    let mut results: Vec<_> = items
        .iter()
        .zip(copied)
        .map(|(item, copied)| {
            lines.go(item, || match copied? {
                Copied::Done(delivered) => Ok(delivered),
                Copied::New(new, name) => drive.name(item, new, &name),
            })
        })
        .collect();
    for (host, dir) in hosts {
        let Err(e) = rustix::fs::fsync(&dir).map_err(at_path(&path.join(host.as_str()))) else { continue };
        let of_host = items.iter().zip(&mut results).filter(|(item, _)| item.parsed.host == host);
        of_host.for_each(|(_, result)| *result = Err(io::Error::new(e.kind(), e.to_string()).into()));
    }
    Ok(results)
}

fn one(path: &Path, item: &Item, how: &Transport, beat: &dyn Fn(Beat<'_>)) -> Result<Delivered> {
    deliver(path, std::slice::from_ref(item), how, beat)?.pop().unwrap_or(Ok(Delivered::Behind))
}

/// Keeps the order: after a file has failed, later files of its host and label are not tried.
#[derive(Default)]
struct Lines(HashSet<(Host, Label)>);

impl Lines {
    fn go<T: From<Delivered>>(&mut self, item: &Item, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let line = item.line();
        if self.0.contains(&line) {
            return Ok(Delivered::Behind.into());
        }
        let done = step();
        if done.is_err() {
            self.0.insert(line);
        }
        done
    }
}

/// An item whose bytes are on the drive, but perhaps not under its name yet.
enum Copied {
    New(NewFile, String),
    Done(Delivered),
}

impl From<Delivered> for Copied {
    fn from(delivered: Delivered) -> Copied {
        Copied::Done(delivered)
    }
}

impl Copied {
    fn file(&self) -> Option<&File> {
        match self {
            Copied::New(new, _) => Some(new.file()),
            Copied::Done(_) => None,
        }
    }
}

/// An open directory that is not away.
struct Drive<'a> {
    root: File,
    path: &'a Path,
    how: &'a Transport,
    /// Whether files can be cloned from the outbox: assumed until one cannot.
    clones: Cell<bool>,
    beat: &'a dyn Fn(Beat<'_>),
}

impl Drive<'_> {
    /// Opens the directory of the item's host, and creates it if it is missing.
    fn host<'h>(&self, item: &Item, hosts: &'h mut HashMap<Host, File>) -> Result<&'h File> {
        let host = &item.parsed.host;
        if !hosts.contains_key(host) {
            let shown = self.path.join(host.as_str());
            match rustix::fs::mkdirat(&self.root, host.as_str(), Mode::from(0o700)) {
                Ok(()) => rustix::fs::fsync(&self.root).map_err(at_path(self.path))?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(at_path(&shown)(e).into()),
            }
            let flags = DIRECTORY | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&self.root, host.as_str(), flags, Mode::empty()).map_err(at_path(&shown))?;
            hosts.insert(host.clone(), File::from(fd));
        }
        Ok(&hosts[host])
    }

    /// Copies the item under a temporary name, and returns the copy with its final name. An item that is there
    /// already is not copied.
    fn copy(&self, item: &Item, dir: &File) -> Result<Copied> {
        let shown = self.path.join(item.parsed.host.as_str());
        for n in 0..COPIES {
            let name = if n == 0 { item.name.clone() } else { format!("{}.{}", item.name, n - 1) };
            match there(dir, &name, &item.file, self.beat).with_context(|| shown.join(&name).display().to_string())? {
                There::Same => return Ok(Copied::Done(Delivered::Already)),
                There::Other => {}
                There::Nothing => return Ok(Copied::New(self.whole_copy(dir, &shown, item)?, name)),
            }
        }
        Err(Exit::CantCreate.error(format!("{}: {COPIES} other files have the name {}", shown.display(), item.name)))
    }

    fn whole_copy(&self, dir: &File, shown: &Path, item: &Item) -> Result<NewFile> {
        let new = NewFile::create_at(dir.try_clone()?, shown)?;
        // A clone, where both are on one file system that supports it, takes no time and no space.
        if self.clones.get() {
            match rustix::fs::ioctl_ficlone(new.file(), &item.file) {
                Ok(()) => return Ok(new),
                Err(_) => self.clones.set(false),
            }
        }
        let bytes = item.file.metadata()?.len();
        self.has_room(bytes)?;
        if bytes >= LARGE {
            (self.beat)(Beat::Begin(&item.name, bytes));
        }
        (&item.file).seek(SeekFrom::Start(0))?;
        let (mut done, mut synced) = (0, 0);
        while done < bytes {
            cancel::check()?;
            let step = STEP.min(bytes - done);
            let copied = match copy_file_range(&item.file, None, new.file(), None, step as usize) {
                Ok(copied) => Ok(copied as u64),
                // Between file systems io::copy has other ways to copy within the kernel.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    io::copy(&mut (&item.file).take(step), &mut new.file())
                }
                Err(e) => Err(e.into()),
            };
            match copied.with_context(|| format!("copying to {}", new.path().display()))? {
                0 => return Err(Exit::Io.error(format!("{} has become shorter while it was copied", item.name))),
                copied => done += copied,
            }
            (self.beat)(Beat::Step(step));
            // With frequent syncs none takes long, even on a slow drive.
            if done - synced >= SYNC_EVERY {
                new.sync()?;
                (self.beat)(Beat::Step(0));
                synced = done;
            }
        }
        Ok(new)
    }

    /// Checks that so many bytes fit. If they do not, nothing is written, because a part would be useless.
    fn has_room(&self, bytes: u64) -> Result<()> {
        let stat = rustix::fs::fstatvfs(&self.root).map_err(at_path(self.path))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= bytes.saturating_add(self.how.min_free) {
            return Ok(());
        }
        let [bytes, free, kept] = [bytes, free, self.how.min_free].map(report::bytes);
        let kept = if self.how.min_free == 0 { String::new() } else { format!(", and {kept} stay so (min-free)") };
        let text = format!("{}: {bytes} do not fit: {free} are free{kept}", self.path.display());
        Err(io::Error::new(io::ErrorKind::StorageFull, text).into())
    }

    /// Gives a durable copy its name, after it was read back and compared if that is wanted.
    fn name(&self, item: &Item, mut new: NewFile, name: &str) -> Result<Delivered> {
        if self.how.verify && !reads_back(&new, &item.file, self.beat).or_exit(Exit::Io, new.path().display())? {
            let path = new.path().display();
            return Err(io::Error::other(format!("{path}: what is read back differs from what was written")).into());
        }
        match new.name_as(OsStr::new(name)) {
            Ok(()) => Ok(Delivered::New),
            // Another process has created this name since we looked: compare its file.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                drop(new);
                one(self.path, item, self.how, self.beat)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Removes the temporary files that killed deliveries left in the hosts' directories. An error in one of these is
/// logged and does not stop the rest.
pub fn tidy(path: &Path, mark: &Mark) -> io::Result<()> {
    let Ok(root) = open_root(path, mark)? else { return Ok(()) };
    for entry in rustix::fs::Dir::read_from(&root).map_err(at_path(path))? {
        let entry = entry.map_err(at_path(path))?;
        let Ok(Ok(host)) = entry.file_name().to_str().map(str::parse::<Host>) else { continue };
        // Not a directory, or one that we may not open: it holds no file of ours.
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let Ok(fd) = rustix::fs::openat(&root, host.as_str(), flags, Mode::empty()) else { continue };
        if let Err(e) = publish::sweep_at(&File::from(fd), &path.join(host.as_str())) {
            log::info(format_args!("clearing up: {e}"));
        }
    }
    Ok(())
}

/// Marks a directory that has no mark yet with this name.
pub fn mark(path: &Path, name: &str) -> io::Result<()> {
    match open_root(path, &Mark::Unneeded)? {
        Ok(root) => mark::write(&root, path, name),
        Err(away) => Err(io::Error::new(io::ErrorKind::NotFound, away)),
    }
}

/// Opens the directory, or returns why it is away. The directory is never created: that would fill the disk below a
/// mount point whose drive is away.
fn open_root(path: &Path, mark: &Mark) -> io::Result<Result<File, String>> {
    let root = match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(Err(format!("{} is not there", path.display()))),
        Err(e) => return Err(at_path(path)(e)),
    };
    Ok(mark.lacks(&root, path)?.map_or(Ok(root), Err))
}
