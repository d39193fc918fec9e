//! Destinations of the form `dir:PATH`, where a file becomes HOST/FILE, exactly once. The directory may be on a drive
//! that is attached in rotation, and may belong to another user, so it is accessed only through its open file
//! descriptor.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::mark::{self, Mark};
use super::{Delivered, Item, Transport};
use crate::cli::log;
use crate::cli::progress::Progress;
use crate::durable::abilities::Abilities;
use crate::durable::publish::{self, NewFile, at_path, sync_files};
use crate::names::queue_name::Label;
use crate::names::target::{Host, differ_in_case};

mod adopt;
mod compare;
mod drive;
mod parts;
#[cfg(test)]
mod tests;

pub use adopt::{Adopted, adopt, is_same_mount};
use compare::Piece;
pub(crate) use compare::is_same;
use drive::Drive;

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
    /// The path without symlinks, as bytes; see [`Look::real`].
    pub real: Option<Vec<u8>>,
}

impl Look {
    /// Returns the path without symlinks, or `None` if it does not exist.
    pub fn real(&self) -> Option<&Path> {
        self.real.as_ref().map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }
}

/// Examines a directory, and changes nothing. A directory without the mark is away.
pub fn look(path: &Path, mark: &Mark) -> io::Result<Look> {
    let (away, name) = match open_root(path, &Mark::Unneeded)? {
        Ok(root) => {
            let name = mark::read(&root, path)?;
            (mark.lacks(name.as_deref(), path), name)
        }
        Err(away) => (Some(away), None),
    };
    let real = std::fs::canonicalize(path).ok();
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let above = real.as_ref().and_then(|real| device(real.parent()?));
    let mounted = above.is_some_and(|above| device(path).is_some_and(|here| here != above));
    let fstab = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
    let point = mark::mount_point(&fstab, path);
    let unmounted = point.is_some_and(|point| device(&point) == point.parent().and_then(device));
    Ok(Look { away, name, mounted, unmounted, real: real.map(|real| real.into_os_string().into_vec()) })
}

/// What [`probe`] finds out about a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What its file system is able to do.
    pub abilities: Abilities,
    /// The hosts that have a directory in it.
    pub hosts: Vec<Host>,
}

impl Probe {
    /// Returns what is wrong if two of the hosts in the directory and of `ours`, whose files it gets, would have the same
    /// directory.
    pub fn clash(&self, ours: &[Host]) -> Option<String> {
        let (a, b) = differ_in_case(self.hosts.iter().chain(ours)).filter(|_| !self.abilities.case)?;
        Some(format!(
            "the file system ignores case, so the hosts {a} and {b} would have one directory: give them directories of \
             their own"
        ))
    }
}

/// Tries what the file system of a directory is able to do, with a temporary file. Returns `None` if the directory is
/// away.
pub fn probe(path: &Path, mark: &Mark) -> io::Result<Option<Probe>> {
    let Ok(root) = open_root(path, mark)? else { return Ok(None) };
    let mut hosts = Vec::new();
    for entry in rustix::fs::Dir::read_from(&root).map_err(at_path(path))? {
        let entry = entry.map_err(at_path(path))?;
        hosts.extend(Host::of_directory(OsStr::from_bytes(entry.file_name().to_bytes())));
    }
    hosts.sort();
    Ok(Some(Probe { abilities: Abilities::of(&root, path)?, hosts }))
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
        Ok(root) => Drive::new(root, path, how, beat),
        Err(away) => return Ok(vec![Ok(Delivered::Away(away))]),
    };
    let (mut hosts, mut lines) = (HashMap::new(), Lines::default());
    let copied: Vec<_> = items
        .iter()
        .map(|item| lines.go(item, || drive.copy(item, drive.host(&item.parsed.host, &mut hosts)?)))
        .collect();
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
                Copied::New(new, name) => {
                    match drive.name(
                        drive.host(&item.parsed.host, &mut hosts)?,
                        new,
                        &name,
                        Piece::whole(&item.file)?,
                    )? {
                        true => Ok(Delivered::New),
                        // Another process has created this name since we looked: compare its file.
                        false => one(path, item, how, beat),
                    }
                }
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

/// Removes the temporary files that killed deliveries left in the hosts' directories. An error in one of these is
/// logged and does not stop the rest.
pub fn tidy(path: &Path, mark: &Mark) -> io::Result<()> {
    let Ok(root) = open_root(path, mark)? else { return Ok(()) };
    for entry in rustix::fs::Dir::read_from(&root).map_err(at_path(path))? {
        let entry = entry.map_err(at_path(path))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if Host::of_directory(name).is_none() {
            continue;
        }
        // Not a directory, or one that we may not open: it holds no file of ours.
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let Ok(fd) = rustix::fs::openat(&root, name, flags, Mode::empty()) else { continue };
        if let Err(e) = publish::sweep_at(&File::from(fd), &path.join(name)) {
            log::info(format_args!("clearing up: {e}"));
        }
    }
    // What a trial of the abilities left.
    publish::sweep_at(&root, path)
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
    if *mark == Mark::Unneeded {
        return Ok(Ok(root));
    }
    Ok(mark.lacks(mark::read(&root, path)?.as_deref(), path).map_or(Ok(root), Err))
}
