//! `dir:` destinations: HOST/FILE below a directory, exactly once. The directory may be a drive
//! that comes and goes, and may belong to another user: everything goes through its open fd.

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

/// What tells one drive from another, in its root: the drive's name.
pub const MARKER: &str = ".zsnap-drive";
/// Between two looks for a signal.
const STEP: u64 = 8 << 20;
/// So many different files of one name would be somebody's mistake.
const COPIES: u32 = 100;
/// So many bytes are written between two syncs, at most: of a sync nobody knows how far it is.
const SYNC_EVERY: u64 = 64 << 20;
/// From this size on a copy is shown on a terminal.
const LARGE: u64 = 64 << 20;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const REGULAR: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A sign of life, for who waits and for who watches.
#[derive(Clone, Copy, Debug)]
pub enum Beat<'a> {
    /// The copy of a large file is begun: its name and length.
    Begin(&'a str, u64),
    /// So many bytes of it were copied; 0 while files are compared or synced.
    Step(u64),
}

/// Shows beats on a terminal.
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

/// What is seen of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Why it is away, if it is.
    pub away: Option<String>,
    /// Something is mounted there.
    pub mounted: bool,
    /// Where it is, without symlinks: bytes of a path.
    real: Option<Vec<u8>>,
}

impl Look {
    /// Where it is, without symlinks; `None`: it is not there.
    pub fn real(&self) -> Option<&Path> {
        self.real.as_ref().map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }
}

/// Looks, and changes nothing. `drive`: it must have this mark, or is away.
pub fn look(path: &Path, drive: Option<&str>) -> io::Result<Look> {
    let away = open_root(path, drive)?.err();
    let real = std::fs::canonicalize(path).ok();
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let above = real.as_ref().and_then(|real| device(real.parent()?));
    let mounted = above.is_some_and(|above| device(path).is_some_and(|here| here != above));
    Ok(Look { away, mounted, real: real.map(|real| real.into_os_string().into_vec()) })
}

/// See [`super::Courier::deliver`]. All items are copied, made durable together, and only then get
/// their names.
pub fn deliver(
    path: &Path,
    items: &[Item],
    how: &Transport,
    beat: &dyn Fn(Beat<'_>),
) -> Result<Vec<Result<Delivered>>> {
    let drive = match open_root(path, how.drive.as_deref())? {
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
            // One of them is too much for the drive, perhaps not the others.
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

/// Keeps the order: behind a file that failed, the later ones of its host and label are not tried.
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

/// An item that is on the drive, but perhaps without its name.
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
    /// Files can be cloned from where they are, so far.
    clones: Cell<bool>,
    beat: &'a dyn Fn(Beat<'_>),
}

impl Drive<'_> {
    /// The directory of the item's host, made if need be.
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

    /// Copies the item, unless it is there, under a temporary name; with the name that it is to get.
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
        // By reference, where both lie on one file system that can: at once, and it needs no room.
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
                // From one file system to another: std knows further ways within the kernel.
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
            // No sync takes long, even on a slow drive.
            if done - synced >= SYNC_EVERY {
                new.sync()?;
                (self.beat)(Beat::Step(0));
                synced = done;
            }
        }
        Ok(new)
    }

    /// Whether so many bytes fit. Else nothing of them is written: it would be for nothing.
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

    /// Gives a durable copy its name.
    fn name(&self, item: &Item, mut new: NewFile, name: &str) -> Result<Delivered> {
        if self.how.verify && !reads_back(&new, &item.file, self.beat).or_exit(Exit::Io, new.path().display())? {
            let path = new.path().display();
            return Err(io::Error::other(format!("{path}: what is read back differs from what was written")).into());
        }
        match new.name_as(OsStr::new(name)) {
            Ok(()) => Ok(Delivered::New),
            // Another one made it since we looked: what is it?
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                drop(new);
                one(self.path, item, self.how, self.beat)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Removes what deliveries that were killed left in the directories of the hosts. What cannot be
/// removed in one of them holds up nothing.
pub fn tidy(path: &Path, drive: Option<&str>) -> io::Result<()> {
    let Ok(root) = open_root(path, drive)? else { return Ok(()) };
    for entry in rustix::fs::Dir::read_from(&root).map_err(at_path(path))? {
        let entry = entry.map_err(at_path(path))?;
        let Ok(Ok(host)) = entry.file_name().to_str().map(str::parse::<Host>) else { continue };
        // Not a directory, or not ours to read: nothing of ours is in it.
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let Ok(fd) = rustix::fs::openat(&root, host.as_str(), flags, Mode::empty()) else { continue };
        if let Err(e) = publish::sweep_at(&File::from(fd), &path.join(host.as_str())) {
            log::info(format_args!("clearing up: {e}"));
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
    let why = drive.map(|name| wrong_drive(&root, path, name)).transpose()?;
    Ok(why.flatten().map_or(Ok(root), Err))
}

/// Why the drive at `path` is not the one called `name`. Where that cannot be read something is
/// wrong, and nobody would hear of it if it passed for away.
fn wrong_drive(root: &File, path: &Path, name: &str) -> io::Result<Option<String>> {
    Ok(match mark(root, path)? {
        None => Some(format!("{} has no {MARKER}: the drive is not mounted, or was never marked", path.display())),
        Some(text) if text == name => None,
        Some(text) => Some(format!("{} is the drive \"{}\"", path.display(), text.escape_default())),
    })
}

/// The name in the mark of the drive whose open root is `root`; `None`: it has none.
pub fn mark(root: &File, path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    let read = rustix::fs::openat(root, MARKER, REGULAR, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).take(256).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            let odd =
                [Errno::LOOP, Errno::ISDIR, Errno::NXIO].iter().any(|odd| e.raw_os_error() == Some(odd.raw_os_error()));
            let remedy = if odd || e.kind() == io::ErrorKind::InvalidData {
                "what is there is no mark: remove it: "
            } else {
                ""
            };
            Err(io::Error::new(e.kind(), format!("{remedy}{}: {e}", path.join(MARKER).display())))
        }
    }
}
