//! Outboxes: a published file becomes one hard link for each destination, and each link goes
//! when its destination has the file. The file system is the only ledger.
//!
//! `SPLIT/HOST/F` is a file that not every outbox has yet; `OUT/NAME/HOST/F` is one that the
//! destination NAME has not taken yet. A file with an entry in SPLIT is never delivered: it
//! may still be withdrawn, or its other links may still be missing. `OUT/NAME/HOST/F~N` is one
//! more of the name F, with other bytes: `F.N` would not tell its name, for that may end so too.
//! What else lies in `OUT/NAME` is hidden, as no host is: its lock, notes.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::cancel;
use crate::dest::{Delivered, Item, dir};
use crate::findings::writable;
use crate::lock::Lock;
use crate::publish::{self, at_path};
use crate::queue_name::{Entry, Label, QueueName, Stamp, classify};
use crate::target::Host;

/// The directories SPLIT and OUT.
#[derive(Clone, Debug)]
pub struct Outboxes {
    split: PathBuf,
    out: PathBuf,
}

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

/// What a drain did.
#[derive(Debug, Default)]
pub struct Drained {
    /// Names of the files that the destination took.
    pub delivered: Vec<String>,
    /// Names of the files that it refused, and why; later files of the same label were not tried.
    pub failed: Vec<(String, anyhow::Error)>,
    /// Why nothing more was tried.
    pub broken: Option<anyhow::Error>,
    /// The destination is away.
    pub away: Option<String>,
    /// Another process drains this outbox, and will see what was there.
    pub busy: bool,
}

/// How an outbox is drained.
#[derive(Clone, Copy)]
pub struct Pace<'a> {
    /// So many files are delivered at once, at most.
    pub at_once: usize,
    /// Delivered files are moved to this directory, into HOST; it may be another one for each
    /// batch. `None`: they are removed.
    pub keep: Option<&'a dyn Fn() -> PathBuf>,
}

/// What [`Dest::deliver`](crate::dest::Dest::deliver) does.
pub type Deliver<'a> = dyn FnMut(&[Item]) -> anyhow::Result<Vec<anyhow::Result<Delivered>>> + 'a;

/// More bytes than this are not delivered at once: a crash makes them be delivered again.
const BYTES_AT_ONCE: u64 = 1 << 30;
/// So many files of one name, all different, would be somebody's mistake.
const COPIES: usize = 100;

impl Outboxes {
    /// Neither directory need be there.
    pub fn new(split: PathBuf, out: PathBuf) -> Outboxes {
        Outboxes { split, out }
    }

    /// SPLIT/HOST.
    pub fn split_dir(&self, host: &Host) -> PathBuf {
        self.split.join(host.as_str())
    }

    /// OUT/NAME.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// The lock of OUT/NAME.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.dir(name).join(".lock")
    }

    /// Makes OUT/NAME/HOST, durably.
    pub fn make(&self, name: &str, host: &Host) -> io::Result<()> {
        publish::make_dirs(&self.dir(name).join(host.as_str()))
    }

    /// The names in OUT, sorted.
    pub fn names(&self) -> io::Result<Vec<String>> {
        directories(&self.out)
    }

    /// The hosts that have files in SPLIT, or had.
    pub fn hosts_in_split(&self) -> io::Result<Vec<Host>> {
        Ok(directories(&self.split)?.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The files in SPLIT/HOST, oldest first.
    pub fn in_split(&self, host: &Host) -> io::Result<Vec<Queued>> {
        files(&self.split_dir(host))
    }

    /// The files that wait for the destination `name`, oldest first.
    pub fn waiting(&self, name: &str) -> io::Result<Vec<Queued>> {
        let mut all = Vec::new();
        for host in directories(&self.dir(name))? {
            all.extend(files(&self.dir(name).join(host))?);
        }
        all.sort_by(|a, b| order(a).cmp(&order(b)));
        Ok(all)
    }

    /// Links each of the files in SPLIT/HOST into each outbox, durably, then unlinks them from
    /// SPLIT. May be done again after a crash at any point.
    pub fn split<S: AsRef<str>>(&self, host: &Host, files: &[S], names: &[String]) -> io::Result<()> {
        let split = self.split_dir(host);
        for name in names {
            self.make(name, host)?;
            let dir = self.dir(name).join(host.as_str());
            let fd = File::open(&dir).map_err(at(&dir))?;
            for file in files {
                link(&split.join(file.as_ref()), file.as_ref(), &fd, &dir)?;
            }
            rustix::fs::fsync(&fd).map_err(at_path(&dir))?;
        }
        self.unsplit(host, files)
    }

    /// Unlinks files from SPLIT/HOST, durably; they may be gone already.
    pub fn unsplit<S: AsRef<str>>(&self, host: &Host, files: &[S]) -> io::Result<()> {
        let split = self.split_dir(host);
        files.iter().try_for_each(|file| remove(&split, file.as_ref()))?;
        publish::sync_dir(&split)
    }

    /// Delivers what waits for `name`, oldest first, and then removes the links. The first failure
    /// of a label stops that label; a destination that is away, or a signal, stops all.
    pub fn drain(&self, name: &str, pace: Pace<'_>, deliver: &mut Deliver<'_>) -> Drained {
        let mut done = Drained::default();
        done.broken = self.drain_into(&mut done, name, pace, deliver).err();
        done
    }

    fn drain_into(
        &self,
        done: &mut Drained,
        name: &str,
        pace: Pace<'_>,
        deliver: &mut Deliver<'_>,
    ) -> anyhow::Result<()> {
        let mut tried = HashSet::new();
        let mut stopped = HashSet::new();
        // Whoever finds our lock relies on us to see the links that it has made. So we look
        // once more when the lock is released.
        loop {
            let ready = self.ready(name, &tried, &stopped)?;
            if ready.is_empty() {
                return Ok(());
            }
            let Some(_lock) = Lock::try_new(&self.lock(name))? else {
                done.busy = true;
                return Ok(());
            };
            let mut ready = ready.into_iter().peekable();
            while ready.peek().is_some() {
                cancel::check()?;
                let (mut items, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
                while let Some(queued) = ready
                    .next_if(|q| items.is_empty() || items.len() < pace.at_once && bytes + q.bytes <= BYTES_AT_ONCE)
                {
                    tried.insert((queued.parsed.host.clone(), queued.name.clone()));
                    if !stopped.contains(&(queued.parsed.host.clone(), queued.parsed.label.clone())) {
                        bytes += queued.bytes;
                        if let Some(item) = self.open(name, &queued)? {
                            items.push(item);
                            entries.push(queued.name);
                        }
                    }
                }
                let keep = pace.keep.map(|at| at());
                for kept in items.iter().filter_map(|item| Some(keep.as_ref()?.join(item.parsed.host.as_str()))) {
                    // It would be delivered again and again.
                    let can_keep = publish::make_dirs(&kept).map_err(Into::into).and_then(|()| writable(&kept));
                    can_keep.context("nothing is delivered, for it could not be kept")?;
                }
                let mut delivered = Vec::new();
                for ((item, entry), result) in items.iter().zip(&entries).zip(deliver(&items)?) {
                    match result {
                        Ok(Delivered::New | Delivered::Already) => delivered.push((item, entry.as_str())),
                        Ok(Delivered::Away(why)) => done.away = Some(why),
                        Ok(Delivered::Behind) => {}
                        Err(e) => {
                            stopped.insert(item.line());
                            done.failed.push((item.name.clone(), e));
                        }
                    }
                }
                self.settle(name, keep.as_deref(), &delivered)?;
                done.delivered.extend(delivered.iter().map(|(item, _)| item.name.clone()));
                if done.away.is_some() {
                    return Ok(());
                }
            }
        }
    }

    /// Puts what lies in FROM/HOST into the outbox of `name` once more, durably; how many files.
    pub fn refill(&self, name: &str, from: &Path) -> io::Result<u64> {
        let mut count = 0;
        for host in directories(from)? {
            let dir = self.dir(name).join(&host);
            publish::make_dirs(&dir)?;
            let fd = File::open(&dir).map_err(at(&dir))?;
            for queued in files(&from.join(&host))? {
                link(&from.join(&host).join(&queued.name), queued.original(), &fd, &dir)?;
                count += 1;
            }
            rustix::fs::fsync(&fd).map_err(at_path(&dir))?;
        }
        Ok(count)
    }

    /// What waits, is not to be split any more, and was not tried yet.
    fn ready(
        &self,
        name: &str,
        tried: &HashSet<(Host, String)>,
        stopped: &HashSet<(Host, Label)>,
    ) -> io::Result<Vec<Queued>> {
        // The outbox is listed first: a file that is split between the two looks is then not
        // in the list, rather than in the list without its other links.
        let (mut ready, mut held) = (Vec::new(), HashSet::new());
        for queued in self.waiting(name)? {
            let label = (queued.parsed.host.clone(), queued.parsed.label.clone());
            let split = self.split_dir(&queued.parsed.host).join(queued.original());
            match split.symlink_metadata() {
                Ok(_) => drop(held.insert(label.clone())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(at(&split)(e)),
            }
            if !held.contains(&label)
                && !stopped.contains(&label)
                && !tried.contains(&(queued.parsed.host.clone(), queued.name.clone()))
            {
                ready.push(queued);
            }
        }
        Ok(ready)
    }

    /// `None`: another process delivered it since the outbox was listed.
    fn open(&self, name: &str, queued: &Queued) -> anyhow::Result<Option<Item>> {
        let path = self.dir(name).join(queued.parsed.host.as_str()).join(&queued.name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => {
                let name = queued.original().to_owned();
                Ok(Some(Item { name, parsed: queued.parsed.clone(), file: fd.into() }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(at_path(&path)(e).into()),
        }
    }

    /// Removes the links of files that were delivered, or moves them to KEEP/HOST, durably.
    fn settle(&self, name: &str, keep: Option<&Path>, delivered: &[(&Item, &str)]) -> io::Result<()> {
        let mut changed = BTreeSet::new();
        for (item, entry) in delivered {
            let host = item.parsed.host.as_str();
            let dir = self.dir(name).join(host);
            if let Some(keep) = keep {
                let (path, kept) = (dir.join(entry), keep.join(host));
                if changed.insert(kept.clone()) {
                    publish::make_dirs(&kept)?;
                }
                let fd = File::open(&kept).map_err(at(&kept))?;
                // From its rename on the name is free, and may be that of a file that has just come. Of
                // what was kept already a run has died before its rename was durable.
                if !place(&path, &item.name, &fd, &kept, |to| publish::rename_new(CWD, &path, &fd, to))? {
                    remove(&dir, entry)?;
                }
            } else {
                remove(&dir, entry)?;
            }
            changed.insert(dir);
        }
        changed.iter().try_for_each(|dir| publish::sync_dir(dir))
    }
}

/// Hard-links `from`, which came as `name`, into the open directory `dir`.
fn link(from: &Path, name: &str, dir: &File, shown: &Path) -> io::Result<()> {
    place(from, name, dir, shown, |to| rustix::fs::linkat(CWD, from, dir, to, AtFlags::empty())).map(drop)
}

/// Gives `from` the name `name` in the open directory `dir`, by `call`. The same file or the same
/// bytes there already: `false`. Other bytes: `NAME~N`.
fn place(
    from: &Path,
    name: &str,
    dir: &File,
    shown: &Path,
    call: impl Fn(&str) -> rustix::io::Result<()>,
) -> io::Result<bool> {
    let mut n = 0;
    while n < COPIES {
        let to = if n == 0 { name.to_owned() } else { format!("{name}~{n}") };
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
    let path = shown.join(name);
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{}: {COPIES} other files have this name", path.display()),
    ))
}

/// The name that a file came with, and the N of `NAME~N`. No other name ends so: of a digest
/// there are 32 digits behind its `~`.
fn original(entry: &str) -> (&str, usize) {
    let short = |n: &str| (1..3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    match entry.rsplit_once('~').filter(|(_, n)| short(n)) {
        Some((name, n)) => (name, n.parse().unwrap_or(0)),
        None => (entry, 0),
    }
}

/// Unlinks DIR/NAME; it may be gone already.
fn remove(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    match rustix::fs::unlinkat(CWD, &path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(at_path(&path)(e)),
    }
}

/// Puts the path in front of an error and keeps its kind.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn entries(dir: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    let all = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.and_then(Iterator::collect),
    };
    all.map_err(at(dir))
}

fn directories(dir: &Path) -> io::Result<Vec<String>> {
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
fn order(queued: &Queued) -> (Stamp, (&str, usize)) {
    (queued.parsed.stamp, original(&queued.name))
}

fn files(dir: &Path) -> io::Result<Vec<Queued>> {
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

#[cfg(test)]
mod tests;
