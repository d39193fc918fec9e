//! Outboxes: a published file becomes one hard link for each destination, and each link goes
//! when its destination has the file. The file system is the only ledger.
//!
//! `SPLIT/HOST/F` is a file that not every outbox has yet; `OUT/NAME/HOST/F` is one that the
//! destination NAME has not taken yet. A file with an entry in SPLIT is never delivered: it
//! may still be withdrawn, or its other links may still be missing.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::cancel;
use crate::dest::{Delivered, Item, dir};
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
    /// Its name.
    pub name: String,
    /// That name taken apart.
    pub parsed: QueueName,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a drain did.
#[derive(Debug, Default)]
pub struct Drained {
    /// Names of the files that the destination took.
    pub delivered: Vec<String>,
    /// Names of the files that it refused, and why; later files of the same label were not tried.
    pub failed: Vec<(String, anyhow::Error)>,
    /// The destination is away.
    pub away: Option<String>,
    /// Another process drains this outbox, and will see what was there.
    pub busy: bool,
}

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

    /// Makes OUT/NAME/HOST, durably.
    pub fn make(&self, name: &str, host: &Host) -> io::Result<()> {
        publish::make_dirs(&self.dir(name).join(host.as_str()))
    }

    /// The names in OUT, sorted.
    pub fn names(&self) -> io::Result<Vec<String>> {
        directories(&self.out)
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

    /// Links SPLIT/HOST/FILE into each outbox, durably, then unlinks it from SPLIT. May be done
    /// again after a crash at any point.
    pub fn split(&self, host: &Host, file: &str, names: &[String]) -> io::Result<()> {
        let from = self.split_dir(host).join(file);
        for name in names {
            self.make(name, host)?;
            link(&from, &self.dir(name).join(host.as_str()))?;
        }
        self.unsplit(host, file)
    }

    /// Unlinks SPLIT/HOST/FILE, durably; it may be gone already.
    pub fn unsplit(&self, host: &Host, file: &str) -> io::Result<()> {
        remove(&self.split_dir(host), file)
    }

    /// Delivers what waits for `name`, oldest first, and removes each link (or moves it to
    /// KEEP/HOST) when `deliver` has succeeded. The first failure of a label stops that label;
    /// a destination that is away, or a signal, stops all.
    pub fn drain(
        &self,
        name: &str,
        keep: Option<&Path>,
        deliver: &mut dyn FnMut(&Item<'_>, &File) -> anyhow::Result<Delivered>,
    ) -> anyhow::Result<Drained> {
        let mut done = Drained::default();
        let mut tried = HashSet::new();
        let mut stopped = HashSet::new();
        // Whoever finds our lock relies on us to see the links that it has made. So we look
        // once more when the lock is released.
        loop {
            let ready = self.ready(name, &tried, &stopped)?;
            if ready.is_empty() {
                return Ok(done);
            }
            let Some(_lock) = Lock::try_new(&self.dir(name).join("lock"))? else {
                done.busy = true;
                return Ok(done);
            };
            for queued in ready {
                let label = (queued.parsed.host.clone(), queued.parsed.label.clone());
                tried.insert((queued.parsed.host.clone(), queued.name.clone()));
                if stopped.contains(&label) {
                    continue;
                }
                cancel::check()?;
                match self.deliver_one(name, keep, &queued, deliver) {
                    Ok(None) => {}
                    Ok(Some(Delivered::Away(why))) => {
                        done.away = Some(why);
                        return Ok(done);
                    }
                    Ok(Some(_)) => done.delivered.push(queued.name),
                    Err(e) => {
                        done.failed.push((queued.name, e));
                        stopped.insert(label);
                    }
                }
            }
        }
    }

    /// What waits, is not to be split any more, and was not tried yet.
    fn ready(
        &self,
        name: &str,
        tried: &HashSet<(Host, String)>,
        stopped: &HashSet<(Host, Label)>,
    ) -> io::Result<Vec<Queued>> {
        let mut ready = self.waiting(name)?;
        // The outbox is listed first: a file that is split between the two looks is then not
        // in the list, rather than in the list without its other links.
        let mut held = HashSet::new();
        ready.retain(|queued| {
            let label = (queued.parsed.host.clone(), queued.parsed.label.clone());
            if self.split_dir(&queued.parsed.host).join(&queued.name).symlink_metadata().is_ok() {
                held.insert(label.clone());
            }
            !held.contains(&label)
                && !stopped.contains(&label)
                && !tried.contains(&(queued.parsed.host.clone(), queued.name.clone()))
        });
        Ok(ready)
    }

    /// `None`: another process delivered it since the outbox was listed.
    fn deliver_one(
        &self,
        name: &str,
        keep: Option<&Path>,
        queued: &Queued,
        deliver: &mut dyn FnMut(&Item<'_>, &File) -> anyhow::Result<Delivered>,
    ) -> anyhow::Result<Option<Delivered>> {
        let host = queued.parsed.host.as_str();
        let dir = self.dir(name).join(host);
        let path = dir.join(&queued.name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(at_path(&path)(e).into()),
        };
        let delivered = deliver(&Item { name: &queued.name, parsed: &queued.parsed }, &file)?;
        if matches!(delivered, Delivered::Away(_)) {
            return Ok(Some(delivered));
        }
        match keep {
            Some(keep) => {
                let to = keep.join(host);
                publish::make_dirs(&to)?;
                let to_path = to.join(&queued.name);
                match rustix::fs::renameat_with(CWD, &path, CWD, &to_path, RenameFlags::NOREPLACE) {
                    // Kept already, by a run that died before its rename was durable.
                    Err(Errno::EXIST) => {}
                    other => other.map_err(at_path(&to_path))?,
                }
                publish::sync_dir(&to)?;
                remove(&dir, &queued.name)?;
            }
            None => remove(&dir, &queued.name)?,
        }
        Ok(Some(delivered))
    }
}

/// Hard-links `from` into `dir` under its own name, durably. The same file or the same bytes
/// there already: done. Other bytes: `NAME.N`.
fn link(from: &Path, dir: &Path) -> io::Result<()> {
    let file = File::open(from).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))?;
    let dir_fd = File::open(dir).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?;
    let base = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for n in 0..100 {
        let name = if n == 0 { base.clone() } else { format!("{base}.{}", n - 1) };
        match rustix::fs::linkat(CWD, from, &dir_fd, &name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) if dir::is_same(&dir_fd, &name, &file)? => {}
            Err(Errno::EXIST) => continue,
            Err(e) => return Err(at_path(&dir.join(&name))(e)),
        }
        return rustix::fs::fsync(&dir_fd).map_err(at_path(dir));
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{}: 100 other files have this name", dir.join(base).display()),
    ))
}

/// Unlinks DIR/NAME, durably; it may be gone already.
fn remove(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    match rustix::fs::unlinkat(CWD, &path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => publish::sync_dir(dir),
        Err(e) => Err(at_path(&path)(e)),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    let all = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.and_then(Iterator::collect),
    };
    all.map_err(|e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
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

/// Oldest first; a copy (`NAME.N`) behind its name.
fn order(queued: &Queued) -> (Stamp, &str) {
    (queued.parsed.stamp, &queued.name)
}

fn files(dir: &Path) -> io::Result<Vec<Queued>> {
    let mut queued = Vec::new();
    for entry in entries(dir)? {
        let name = entry.file_name();
        let Entry::Queue(parsed) = classify(OsStr::as_bytes(&name)) else { continue };
        // Gone meanwhile: delivered.
        let Ok(metadata) = entry.metadata() else { continue };
        if let (true, Ok(name)) = (metadata.is_file(), name.into_string()) {
            queued.push(Queued { name, parsed, bytes: metadata.len() });
        }
    }
    queued.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(queued)
}

#[cfg(test)]
mod tests;
