//! A directory that is not away, and the copies that are made there. It may be on any file system: names are stored in
//! a form that it can store, and a file that is too large for it is refused before it is copied.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags, copy_file_range};
use rustix::io::Errno;

use super::compare::{Piece, There, is_same, reads_back, there};
use super::{Beat, Copied, DIRECTORY};
use crate::cli::cancel;
use crate::cli::exit::{Exit, OrExit};
use crate::cli::report;
use crate::durable::abilities::{Abilities, has_name};
use crate::durable::dest::{Delivered, Item, Transport};
use crate::durable::publish::{NewFile, at_path};
use crate::names::stored::{is_at_risk, stored};
use crate::names::target::Host;

/// The number of bytes that are copied between two checks for a signal.
const STEP: u64 = 8 << 20;
/// The maximum number of different files with one name: more must be somebody's mistake.
pub(super) const COPIES: u32 = 100;
/// The maximum number of bytes written between two syncs. A sync reports no progress, so a long one would look like a
/// hang.
const SYNC_EVERY: u64 = 64 << 20;
/// The size in bytes from which on the progress of a copy is shown on a terminal.
const LARGE: u64 = 64 << 20;
/// The size in bytes that every file system can store.
const SMALL: u64 = 1 << 30;
/// The maximum length of a file name, in bytes.
const NAME_MAX: usize = 255;

/// An open directory that is not away.
pub(super) struct Drive<'a> {
    root: File,
    path: &'a Path,
    pub(super) how: &'a Transport,
    /// Whether files can be cloned from the outbox: assumed until one cannot.
    clones: Cell<bool>,
    /// What the file system is able to do, as soon as that is needed.
    abilities: Cell<Option<Abilities>>,
    pub(super) beat: &'a dyn Fn(Beat<'_>),
}

impl<'a> Drive<'a> {
    pub fn new(root: File, path: &'a Path, how: &'a Transport, beat: &'a dyn Fn(Beat<'_>)) -> Drive<'a> {
        Drive { root, path, how, clones: Cell::new(true), abilities: Cell::new(None), beat }
    }

    pub fn abilities(&self) -> io::Result<Abilities> {
        if self.abilities.get().is_none() {
            self.abilities.set(Some(Abilities::of(&self.root, self.path)?));
        }
        self.abilities.get().ok_or_else(|| io::Error::other("nothing is known of the file system"))
    }

    /// Returns the form in which the drive stores a name.
    pub fn form(&self, name: &str) -> io::Result<String> {
        if !is_at_risk(name) || self.abilities()?.names {
            return Ok(name.to_owned());
        }
        let form = stored(name);
        if form.len() > NAME_MAX {
            let text = format!(
                "{}: cannot store the name {name}, which has {} bytes without the characters that it lacks, and {NAME_MAX} \
                 are possible: use another file system there, or a shorter name of the dataset",
                self.path.display(),
                form.len()
            );
            return Err(io::Error::new(io::Error::from(Errno::NAMETOOLONG).kind(), text));
        }
        Ok(form)
    }

    /// Opens the directory of a host, and creates it if it is missing.
    pub fn host<'h>(&self, host: &Host, hosts: &'h mut HashMap<Host, File>) -> Result<&'h File> {
        if !hosts.contains_key(host) {
            let name = self.form(host.as_str())?;
            let shown = self.path.join(&name);
            match rustix::fs::mkdirat(&self.root, &name, Mode::from(0o700)) {
                // Also if it exists: a process that was killed may have made it just now.
                Ok(()) | Err(Errno::EXIST) => rustix::fs::fsync(&self.root).map_err(at_path(self.path))?,
                Err(e) => return Err(at_path(&shown)(e).into()),
            }
            let flags = DIRECTORY | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&self.root, &name, flags, Mode::empty()).map_err(at_path(&shown))?;
            if !has_name(&self.root, name.as_ref()).map_err(at_path(self.path))? {
                return Err(Exit::CantCreate.error(format!(
                    "{}: the file system ignores case, and another host has this directory: hosts whose names differ \
                     only in case need directories of their own (hosts of a table [to.NAME], or another dir:)",
                    shown.display()
                )));
            }
            hosts.insert(host.clone(), File::from(fd));
        }
        Ok(&hosts[host])
    }

    /// Copies the item under a temporary name, and returns the copy with its final name. An item that is there
    /// already is not copied.
    pub fn copy(&self, item: &Item, dir: &File) -> Result<Copied> {
        let shown = self.path.join(self.form(item.parsed.host.as_str())?);
        let whole = Piece::whole(&item.file)?;
        for n in 0..COPIES {
            let name = if n == 0 { item.name.clone() } else { format!("{}.{}", item.name, n - 1) };
            let form = self.form(&name)?;
            match there(dir, &form, whole, self.beat).with_context(|| shown.join(&form).display().to_string())? {
                There::Same => return Ok(Copied::Done(Delivered::Already)),
                There::Other => {}
                There::Nothing if self.how.max_file.is_none_or(|most| whole.length <= most) => {
                    return Ok(Copied::New(self.piece(dir, &shown, whole, &form)?, form));
                }
                There::Nothing => {
                    if let Some(delivered) = self.in_parts(dir, &shown, whole, &name)? {
                        return Ok(Copied::Done(delivered));
                    }
                }
            }
        }
        Err(Exit::CantCreate.error(format!("{}: {COPIES} other files have the name {}", shown.display(), item.name)))
    }

    /// Copies a piece of a file under a temporary name. `name` is the one that it will get.
    pub fn piece(&self, dir: &File, shown: &Path, piece: Piece<'_>, name: &str) -> Result<NewFile> {
        let Piece { file, start, length: bytes } = piece;
        self.can_store(bytes, name)?;
        let new = NewFile::create_at(dir.try_clone()?, shown)?;
        // A clone, where both are on one file system that supports it, takes no time and no space.
        if self.clones.get() && bytes == file.metadata()?.len() {
            match rustix::fs::ioctl_ficlone(new.file(), file) {
                Ok(()) => return Ok(new),
                Err(_) => self.clones.set(false),
            }
        }
        self.has_room(bytes)?;
        if bytes >= LARGE {
            (self.beat)(Beat::Begin(name, bytes));
        }
        let mut source = file;
        source.seek(SeekFrom::Start(start))?;
        let (mut done, mut synced) = (0, 0);
        while done < bytes {
            cancel::check()?;
            let step = STEP.min(bytes - done);
            let copied = match copy_file_range(file, None, new.file(), None, step as usize) {
                Ok(copied) => Ok(copied as u64),
                // Between file systems io::copy has other ways to copy within the kernel.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    io::copy(&mut source.take(step), &mut new.file())
                }
                Err(e) => Err(e.into()),
            };
            match copied.with_context(|| format!("copying to {}", new.path().display()))? {
                0 => return Err(Exit::Io.error(format!("{name} has become shorter while it was copied"))),
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

    /// Checks that the file system can store a file of this size. If it cannot, nothing is written: otherwise each run
    /// would copy as much as fits, and fail.
    fn can_store(&self, bytes: u64, name: &str) -> Result<()> {
        if bytes <= SMALL || bytes <= self.abilities()?.largest {
            return Ok(());
        }
        let [bytes, largest] = [bytes, self.abilities()?.largest].map(report::bytes);
        let text = format!(
            "{}: {name} has {bytes}, and the file system stores files of up to {largest}: set max-file = \"4GiB\" for this \
             destination, which then gets it in parts, or use ext4 or exFAT there",
            self.path.display()
        );
        Err(io::Error::new(io::ErrorKind::FileTooLarge, text).into())
    }

    /// Checks that so many bytes fit. If they do not, nothing is written, because a part would be useless.
    pub fn has_room(&self, bytes: u64) -> Result<()> {
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

    /// Gives a durable copy its name, after it was read back and compared if that is wanted. Returns `false` if another
    /// file has the name.
    pub fn name(&self, dir: &File, mut new: NewFile, name: &str, source: Piece<'_>) -> Result<bool> {
        if self.how.verify && !reads_back(&new, source, self.beat).or_exit(Exit::Io, new.path().display())? {
            let path = new.path().display();
            return Err(io::Error::other(format!("{path}: what is read back differs from what was written")).into());
        }
        match new.name_as(OsStr::new(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            named => named?,
        }
        // The abilities were tried with another name.
        if is_at_risk(name) && !has_name(dir, name.as_ref())? {
            if is_same(dir, name, new.file())? == Some(true) {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            }
            let path = new.path().with_file_name(name);
            return Err(Exit::CantCreate.error(format!(
                "{}: the file system stores it under another name: use another file system there",
                path.display()
            )));
        }
        Ok(true)
    }
}
