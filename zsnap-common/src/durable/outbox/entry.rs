//! The files in an outbox: `HOST/F`, or `HOST/F~N` for another file with the name F and with other bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::durable::dest::dir;
use crate::durable::listing::entries;
use crate::durable::publish::at_path;
use crate::names::queue_name::{Entry, QueueName, Stamp, classify, is_others};

/// The maximum number of different files with one name: more must be somebody's mistake.
const COPIES: usize = 100;
/// The maximum length of a file name, in bytes.
const NAME_MAX: usize = 255;

/// A queue file in an outbox or in SPLIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The name in the directory, see [`Queued::original`].
    pub name: String,
    /// The original name, parsed.
    pub parsed: QueueName,
    /// The length in bytes.
    pub bytes: u64,
    /// When the file was written, by the clock of this machine: seconds since 1970.
    pub written: u64,
}

impl Queued {
    /// Returns the original name: that in the directory, without `~N`.
    pub fn original(&self) -> &str {
        original(&self.name).0
    }
}

/// Whether a link failed because of its file alone: no name is possible for it, or it has too many links.
pub(super) fn is_of_one(e: &io::Error) -> bool {
    let no_name = [io::ErrorKind::AlreadyExists, io::Error::from(Errno::NAMETOOLONG).kind()];
    no_name.contains(&e.kind()) || e.kind() == io::ErrorKind::TooManyLinks
}

/// Hard-links `from`, whose original name is `name`, into the open directory `dir`.
pub(super) fn link(from: &Path, name: &str, dir: &File, shown: &Path) -> io::Result<()> {
    place(from, name, dir, shown, |to| rustix::fs::linkat(CWD, from, dir, to, AtFlags::empty())).map(drop)
}

/// Gives `from` the name `name` in the open directory `dir` by `call`, or `NAME~N` if files with other bytes have the
/// name. Returns `false`, and does nothing, if the same file or the same bytes are there already.
///
/// # Errors
/// `AlreadyExists`: no name is free.
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
            Err(Errno::EXIST) => match dir::is_same(dir, &to, &File::open(from).map_err(at_path(from))?)? {
                Some(true) => return Ok(false),
                Some(false) => n += 1,
                // It was delivered in the meantime, so the name is free.
                None => {}
            },
            other => return other.map(|()| true).map_err(at_path(&shown.join(&to))),
        }
    }
    Err(taken(format!("{COPIES} other files have this name")))
}

/// Returns the original name of an entry, and the N of `NAME~N`, or 0. No original name ends like that: the `~` of a
/// digest is followed by 32 digits.
pub(super) fn original(entry: &str) -> (&str, usize) {
    let short = |n: &str| (1..3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    match entry.rsplit_once('~').filter(|(_, n)| short(n)) {
        Some((name, n)) => (name, n.parse().unwrap_or(0)),
        None => (entry, 0),
    }
}

/// Unlinks DIR/NAME. A missing file is not an error.
pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    match rustix::fs::unlinkat(CWD, &path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(at_path(&path)(e)),
    }
}

/// Whether two paths are names of one file. Neither needs to exist.
pub(super) fn same_file(a: &Path, b: &Path) -> io::Result<bool> {
    let id = |path: &Path| match path.symlink_metadata() {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at_path(path)(e)),
    };
    let a = id(a)?;
    Ok(a.is_some() && a == id(b)?)
}

/// Returns the names of the directories in `dir` that belong to nobody else, sorted.
pub(super) fn directories(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries(dir)? {
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string().ok().filter(|name| !is_others(name.as_bytes())));
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the sort key: oldest first, and files with one name in the order in which they were queued.
pub(super) fn order(queued: &Queued) -> (Stamp, (&str, usize)) {
    (queued.parsed.stamp, original(&queued.name))
}

/// Returns the entries in `dir` whose original name is `name`.
pub(super) fn of_name(dir: &Path, name: &str) -> io::Result<Vec<String>> {
    let names = entries(dir)?.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|entry| original(entry).0 == name).collect())
}

/// Returns the queue files in `dir`, oldest first.
pub(super) fn files(dir: &Path) -> io::Result<Vec<Queued>> {
    let mut queued = Vec::new();
    for entry in entries(dir)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Entry::Queue(parsed) = classify(original(&name).0.as_bytes()) else { continue };
        let metadata = match entry.metadata() {
            // Delivered in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(at_path(&entry.path()))?,
        };
        if metadata.is_file() {
            let written = u64::try_from(metadata.mtime()).unwrap_or(0);
            queued.push(Queued { name, parsed, bytes: metadata.len(), written });
        }
    }
    queued.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(queued)
}
