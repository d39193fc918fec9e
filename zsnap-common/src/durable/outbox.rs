//! Outboxes: a published file becomes one hard link for each destination, and each link is removed when its
//! destination has the file. There is no record but the file system.
//!
//! `SPLIT/HOST/F` is a file that some outbox does not have yet; `OUT/NAME/HOST/F` is one that the destination NAME
//! does not have yet. A file with an entry in SPLIT is never delivered: it may still be withdrawn, or its other links
//! may still be missing. `OUT/NAME/HOST/F~N` is another file with the name F and with other bytes. (`F.N` would be
//! ambiguous, because a name may itself end like this.) Everything else in `OUT/NAME` is hidden, as no host's name
//! is: the lock and notes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable::publish::{self, at_path};
use crate::names::target::Host;

mod amount;
mod drain;
mod entry;

pub use amount::Amount;
pub use drain::{Deliver, DrainOptions, Drained};
pub use entry::Queued;

use entry::{directories, files, is_of_one, link, of_name, order, remove, same_file};

/// The directories SPLIT and OUT.
#[derive(Clone, Debug)]
pub struct Outboxes {
    split: PathBuf,
    out: PathBuf,
}

/// A file for which a step failed: its name, and the error.
pub type Failed = (String, io::Error);

impl Outboxes {
    /// Creates the outboxes of two directories, which need not exist.
    pub fn new(split: PathBuf, out: PathBuf) -> Outboxes {
        Outboxes { split, out }
    }

    /// Returns the path of SPLIT/HOST.
    pub fn split_dir(&self, host: &Host) -> PathBuf {
        self.split.join(host.as_str())
    }

    /// Returns the path of OUT/NAME.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Returns the path of the lock of OUT/NAME.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.dir(name).join(".lock")
    }

    /// Creates OUT/NAME/HOST, durably.
    pub fn make(&self, name: &str, host: &Host) -> io::Result<()> {
        publish::make_dirs(&self.dir(name).join(host.as_str()))
    }

    /// Returns the names in OUT, sorted.
    pub fn names(&self) -> io::Result<Vec<String>> {
        directories(&self.out)
    }

    /// Returns the hosts that have files in SPLIT, or had some.
    pub fn hosts_in_split(&self) -> io::Result<Vec<Host>> {
        Ok(directories(&self.split)?.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Returns the files in SPLIT/HOST, oldest first.
    pub fn in_split(&self, host: &Host) -> io::Result<Vec<Queued>> {
        files(&self.split_dir(host))
    }

    /// Returns the files that wait for the destination `name`, oldest first.
    pub fn waiting(&self, name: &str) -> io::Result<Vec<Queued>> {
        let mut all = Vec::new();
        for host in directories(&self.dir(name))? {
            all.extend(files(&self.dir(name).join(host))?);
        }
        all.sort_by(|a, b| order(a).cmp(&order(b)));
        Ok(all)
    }

    /// Links each of the files in SPLIT/HOST into each outbox, durably, then unlinks them from SPLIT. This can be
    /// repeated after a crash at any point.
    ///
    /// Returns the files that could not be linked into some outbox. They stay in SPLIT and do not delay the others.
    ///
    /// # Errors
    /// A failure that concerns all files: a directory cannot be created or synced, the disk is full or not writable,
    /// or a signal arrived.
    pub fn split<S: AsRef<str>>(&self, host: &Host, files: &[S], names: &[String]) -> io::Result<Vec<Failed>> {
        let split = self.split_dir(host);
        let mut failed: Vec<Failed> = Vec::new();
        let mut linked: Vec<&str> = files.iter().map(AsRef::as_ref).collect();
        for name in names {
            self.make(name, host)?;
            let dir = self.dir(name).join(host.as_str());
            let fd = File::open(&dir).map_err(at_path(&dir))?;
            let mut done = Vec::new();
            for file in linked {
                match link(&split.join(file), file, &fd, &dir) {
                    Ok(()) => done.push(file),
                    Err(e) if is_of_one(&e) => failed.push((file.to_owned(), e)),
                    Err(e) => return Err(e),
                }
            }
            linked = done;
            rustix::fs::fsync(&fd).map_err(at_path(&dir))?;
        }
        self.unsplit(host, &linked)?;
        Ok(failed)
    }

    /// Unlinks files from SPLIT/HOST, durably. Missing files are not an error.
    pub fn unsplit<S: AsRef<str>>(&self, host: &Host, files: &[S]) -> io::Result<()> {
        let split = self.split_dir(host);
        files.iter().try_for_each(|file| remove(&split, file.as_ref()))?;
        publish::sync_dir(&split)
    }

    /// Unlinks these files from the outbox of `name`, durably. Missing files are not an error.
    pub fn unqueue(&self, name: &str, files: &[Queued]) -> io::Result<()> {
        let dir = |queued: &Queued| self.dir(name).join(queued.parsed.host.as_str());
        files.iter().try_for_each(|queued| remove(&dir(queued), &queued.name))?;
        let dirs: BTreeSet<_> = files.iter().map(dir).collect();
        dirs.iter().try_for_each(|dir| publish::sync_dir(dir))
    }

    /// Removes the links of SPLIT/HOST/FILE, which stays itself, from each outbox, durably. Nothing delivers them
    /// meanwhile, because the file is in SPLIT.
    pub fn withdraw(&self, host: &Host, file: &str, names: &[String]) -> io::Result<()> {
        let split = self.split_dir(host).join(file);
        for name in names {
            let dir = self.dir(name).join(host.as_str());
            for name in of_name(&dir, file)? {
                if same_file(&split, &dir.join(&name))? {
                    remove(&dir, &name)?;
                    publish::sync_dir(&dir)?;
                }
            }
        }
        Ok(())
    }

    /// Links the files in FROM/HOST into the outbox of `name` again, durably. Returns how many these were, and those
    /// that could not be linked.
    ///
    /// # Errors
    /// The same as those of [`Outboxes::split`].
    pub fn refill(&self, name: &str, from: &Path) -> io::Result<(u64, Vec<Failed>)> {
        let (mut count, mut failed) = (0, Vec::new());
        for host in directories(from)? {
            let dir = self.dir(name).join(&host);
            publish::make_dirs(&dir)?;
            let fd = File::open(&dir).map_err(at_path(&dir))?;
            for queued in files(&from.join(&host))? {
                match link(&from.join(&host).join(&queued.name), queued.original(), &fd, &dir) {
                    Ok(()) => count += 1,
                    Err(e) if is_of_one(&e) => failed.push((format!("{host}/{}", queued.name), e)),
                    Err(e) => return Err(e),
                }
            }
            rustix::fs::fsync(&fd).map_err(at_path(&dir))?;
        }
        Ok((count, failed))
    }
}

#[cfg(test)]
mod tests;
