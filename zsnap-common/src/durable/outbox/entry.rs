//! What lies in an outbox: `HOST/F`, or `HOST/F~N` for one more of the name F with other bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::durable::dest::dir;
use crate::durable::publish::at_path;
use crate::names::queue_name::{Entry, QueueName, Stamp, classify};

/// So many files of one name, all different, would be somebody's mistake.
const COPIES: usize = 100;
/// Longest name of a file, in bytes.
const NAME_MAX: usize = 255;

/// A queue file in one of the directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its name in the directory: see [`Queued::original`].
    pub name: String,
    /// The name that it came with, taken apart.
    pub parsed: QueueName,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was written, by the clock of this machine: seconds since 1970.
    pub written: u64,
}

impl Queued {
    /// The name that it came with.
    pub fn original(&self) -> &str {
        original(&self.name).0
    }
}

/// Whether a link failed because of its file alone: there is no name for it, or it has too many.
pub(super) fn is_of_one(e: &io::Error) -> bool {
    let no_name = [io::ErrorKind::AlreadyExists, io::Error::from(Errno::NAMETOOLONG).kind()];
    no_name.contains(&e.kind()) || e.kind() == io::ErrorKind::TooManyLinks
}

/// Hard-links `from`, which came as `name`, into the open directory `dir`.
pub(super) fn link(from: &Path, name: &str, dir: &File, shown: &Path) -> io::Result<()> {
    place(from, name, dir, shown, |to| rustix::fs::linkat(CWD, from, dir, to, AtFlags::empty())).map(drop)
}

/// Gives `from` the name `name` in the open directory `dir`, by `call`. The same file or the same
/// bytes there already: `false`. Other bytes: `NAME~N`.
///
/// # Errors
/// `AlreadyExists`: there is no free name.
pub(super) fn place(
    from: &Path,
    name: &str,
    dir: &File,
    shown: &Path,
    call: impl Fn(&str) -> rustix::io::Result<()>,
) -> io::Result<bool> {
    let path = shown.join(name);
    let taken = |why: String| io::Error::new(io::ErrorKind::AlreadyExists, format!("{}: {why}", path.display()));
    let mut n = 0;
    while n < COPIES {
        let to = if n == 0 { name.to_owned() } else { format!("{name}~{n}") };
        if n > 0 && to.len() > NAME_MAX {
            return Err(taken("another file has this name, which is too long for a number behind it".into()));
        }
        match call(&to) {
            Err(Errno::EXIST) => match dir::is_same(dir, &to, &File::open(from).map_err(at(from))?)? {
                Some(true) => return Ok(false),
                Some(false) => n += 1,
                // It was delivered meanwhile.
                None => {}
            },
            other => return other.map(|()| true).map_err(at_path(&shown.join(&to))),
        }
    }
    Err(taken(format!("{COPIES} other files have this name")))
}

/// The name that a file came with, and the N of `NAME~N`. No other name ends so: of a digest
/// there are 32 digits behind its `~`.
pub(super) fn original(entry: &str) -> (&str, usize) {
    let short = |n: &str| (1..3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    match entry.rsplit_once('~').filter(|(_, n)| short(n)) {
        Some((name, n)) => (name, n.parse().unwrap_or(0)),
        None => (entry, 0),
    }
}

/// Unlinks DIR/NAME; it may be gone already.
pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    match rustix::fs::unlinkat(CWD, &path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(at_path(&path)(e)),
    }
}

/// Whether two paths are names of one file. Neither need be there.
pub(super) fn same_file(a: &Path, b: &Path) -> io::Result<bool> {
    let id = |path: &Path| match path.symlink_metadata() {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(path)(e)),
    };
    let a = id(a)?;
    Ok(a.is_some() && a == id(b)?)
}

/// Puts the path in front of an error and keeps its kind.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn entries(dir: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    let all = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.and_then(Iterator::collect),
    };
    all.map_err(at(dir))
}

/// The names of the directories in `dir` that are not hidden, sorted.
pub(super) fn directories(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries(dir)? {
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
        }
    }
    names.sort();
    Ok(names)
}

/// Oldest first, and of one name in the order in which they came.
pub(super) fn order(queued: &Queued) -> (Stamp, (&str, usize)) {
    (queued.parsed.stamp, original(&queued.name))
}

/// The entries in `dir` that came as `name`.
pub(super) fn of_name(dir: &Path, name: &str) -> io::Result<Vec<String>> {
    let names = entries(dir)?.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|entry| original(entry).0 == name).collect())
}

/// The queue files in `dir`, oldest first.
pub(super) fn files(dir: &Path) -> io::Result<Vec<Queued>> {
    let mut queued = Vec::new();
    for entry in entries(dir)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Entry::Queue(parsed) = classify(original(&name).0.as_bytes()) else { continue };
        let metadata = match entry.metadata() {
            // Delivered meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(at(&entry.path()))?,
        };
        if metadata.is_file() {
            let written = u64::try_from(metadata.mtime()).unwrap_or(0);
            queued.push(Queued { name, parsed, bytes: metadata.len(), written });
        }
    }
    queued.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(queued)
}
