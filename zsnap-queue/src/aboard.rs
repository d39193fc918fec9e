//! `--outbox DIR`: a stream is sealed on the drive that will carry it, in `DIR/.zsnap-queue/EPOCH`, so that there is no
//! second copy. The drive may be read and changed by others, so what is queued is recorded in the state of its dataset,
//! not there. A file has its own name, `ENTRY`, until the stream is queued; then it moves to its place in a `dir:` on
//! the same file system. See the table in ARCHITECTURE.md, "What a crash leaves".

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::dest::dir;
use zsnap_common::durable::dest::{self, Courier, Delivered, Dest, Item, Transport};
use zsnap_common::durable::outbox::Amount;
use zsnap_common::durable::publish::{REGULAR, at_path, sweep_at};
use zsnap_common::locks::flock::Lock;
use zsnap_common::names::digest::sha256_hex;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;

use crate::cli::Options;
use crate::delivery;
use crate::destination::{self, Destination};
use crate::job::{self, PATIENCE};
use crate::saved::{self, Drive, Saved};
use crate::state::{Aboard, Acknowledged, CommitError, Locked};

/// The directory in the one that `--outbox` names.
const HIDDEN: &str = ".zsnap-queue";

/// The outbox of this state on a drive.
pub struct Outbox {
    /// The open directory, which is never opened by its path again.
    pub dir: File,
    /// Its path, for messages.
    pub path: PathBuf,
    /// The directory that `--outbox` named.
    pub given: PathBuf,
    pub destination: Destination,
}

/// Returns the name in the outbox of file number `seq` of a target. Every file system can store it.
pub fn entry(target: &Target, seq: u64) -> String {
    format!("{}{seq}", prefix(target))
}

fn prefix(target: &Target) -> String {
    let digest = sha256_hex(target.to_string().as_bytes());
    format!("{}-", &digest[..16])
}

/// Opens the outbox `given` on the drive of the destination, before anything of the stream is read, and removes what
/// runs left there that did not queue their streams.
///
/// # Errors
/// [`Exit::TryAgain`]: the drive is away. [`Exit::Config`]: the outbox is not on the drive.
pub fn open(
    given: &Path,
    dataset: &Locked<'_>,
    past: &Acknowledged,
    o: &Options,
    dest: &Dest,
) -> anyhow::Result<Outbox> {
    let given = std::path::absolute(given).or_exit(Exit::Usage, given.display())?;
    let boxes = dataset.state.outboxes();
    let mut destinations = destination::configured(std::slice::from_ref(dest), &job::transport(o));
    delivery::prepare(&boxes, &dataset.target.host, &destinations)?;
    let Some(destination) = destinations.pop() else { return Err(Exit::Usage.error("--outbox needs --to dir:PATH")) };
    let records = boxes.dir(&destination.id);
    // What is recorded of the drive changes only under this lock.
    let known = Saved::read(&records).is_ok_and(|saved| matches!(saved.drive, Drive::Named(_)));
    let lock = if known { None } else { Lock::try_new(&boxes.lock(&destination.id))? };
    if !known && lock.is_none() {
        return Err(
            Exit::TryAgain.error(format!("another zsnap-queue delivers to {dest}: run again when it has ended"))
        );
    }
    let transport = saved::transport(&records, &destination.transport);
    let away = saved::recognise(&records, &destination, &mut Courier::new(dest, &transport, &records))?;
    if let Some(why) = away {
        return Err(Exit::TryAgain.error(format!("{dest} is away, so nothing was read: {why}")));
    }
    let dir = open_dir(&given, &dataset.state.epoch.id, dest, true)?;
    let path = given.join(HIDDEN).join(&dataset.state.epoch.id);
    sweep_at(&dir, &path).or_exit(Exit::Io, "clearing up")?;
    let outbox = Outbox { dir, path, given, destination };
    outbox.withdraw(dataset.target, past)?;
    Ok(outbox)
}

impl Outbox {
    /// Removes the files of a target that were not queued. The caller did not get exit status 0, so it will send these
    /// streams again.
    fn withdraw(&self, target: &Target, past: &Acknowledged) -> anyhow::Result<()> {
        let prefix = prefix(target);
        for found in rustix::fs::Dir::read_from(&self.dir).map_err(at_path(&self.path))? {
            let found = found.map_err(at_path(&self.path))?;
            let Ok(name) = found.file_name().to_str() else { continue };
            if name.starts_with(&prefix) && past.aboard.iter().all(|aboard| aboard.entry != name) {
                log::info(format_args!("{} was never queued and is withdrawn", self.path.join(name).display()));
                self.remove(name)?;
            }
        }
        Ok(())
    }

    /// Removes a file from the outbox, durably.
    pub fn remove(&self, entry: &str) -> anyhow::Result<()> {
        rustix::fs::unlinkat(&self.dir, entry, AtFlags::empty()).map_err(at_path(&self.path.join(entry)))?;
        Ok(rustix::fs::fsync(&self.dir).map_err(at_path(&self.path))?)
    }
}

/// Opens `GIVEN/.zsnap-queue/EPOCH` without following a symlink of the drive, and creates it if `make` is set.
fn open_dir(given: &Path, epoch: &str, dest: &Dest, make: bool) -> anyhow::Result<File> {
    let shown = given.display();
    if let Dest::Dir(path) = dest {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).or_exit(Exit::Config, path.display());
        if device(given)? != device(path)? {
            let what = format!("{shown} is not on the file system of {dest}: name a directory there with --outbox");
            return Err(Exit::Config.error(what));
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, given, flags, Mode::empty()).map_err(at_path(given));
    let mut dir = File::from(opened.or_exit(Exit::Config, "--outbox")?);
    let mut path = given.to_owned();
    for name in [HIDDEN, epoch] {
        path.push(name);
        if make {
            match rustix::fs::mkdirat(&dir, name, Mode::from(0o700)) {
                Ok(()) => rustix::fs::fsync(&dir).map_err(at_path(&path)).or_exit(Exit::Io, "--outbox")?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(at_path(&path)(e)).or_exit(Exit::CantCreate, "--outbox"),
            }
        }
        let opened = rustix::fs::openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(at_path(&path));
        dir = opened.or_exit(Exit::Io, "--outbox")?.into();
    }
    Ok(dir)
}

/// Gives their places to the files that are queued on drives, as far as these are mounted, and records that. Returns
/// the new state. A failure is only logged: the files are durable on their drives, and the next run tries again.
pub fn settle(dataset: &Locked<'_>, past: Acknowledged, o: &Options) -> anyhow::Result<Acknowledged> {
    if past.aboard.is_empty() {
        return Ok(past);
    }
    let mut new = past.clone();
    new.aboard.retain(|aboard| match place(aboard, dataset, o) {
        Ok(None) => {
            log::info(format_args!("{} was delivered to {}", aboard.file, aboard.dest));
            false
        }
        Ok(Some(why)) => {
            log::info(format_args!("{} waits on its drive, which is away: {why}", aboard.file));
            true
        }
        Err(e) => {
            log::error(format_args!(
                "{} is queued, but is in {} on its drive still: {e:#}; the next run tries again",
                aboard.file,
                quoted(&aboard.outbox.join(HIDDEN))
            ));
            true
        }
    });
    if new != past {
        dataset.commit(&new).map_err(CommitError::into_inner)?;
    }
    Ok(new)
}

/// Gives a file its place. Returns why its drive is away, if it is.
fn place(aboard: &Aboard, dataset: &Locked<'_>, o: &Options) -> anyhow::Result<Option<String>> {
    let Dest::Dir(path) = &aboard.dest else { return Ok(None) };
    let records = dataset.state.outboxes().dir(&aboard.dest.id());
    let transport = saved::transport(&records, &job::transport(o));
    // If the drive hangs, it hangs in this call, which has a timeout.
    if let Some(why) = dest::look(&aboard.dest, &transport, &records, PATIENCE)?.away {
        return Ok(Some(why));
    }
    let dir = match open_dir(&aboard.outbox, &dataset.state.epoch.id, &aboard.dest, false) {
        Err(e) if e.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_gone) => {
            log::warn(format_args!(
                "somebody removed the outbox {}: if {} is not in {} either, queue a full stream",
                aboard.outbox.join(HIDDEN).display(),
                aboard.file,
                aboard.dest
            ));
            return Ok(None);
        }
        dir => dir?,
    };
    let file = match rustix::fs::openat(&dir, &aboard.entry, REGULAR, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // It has its place; a crash kept that from being recorded.
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(at_path(&aboard.outbox.join(HIDDEN))(e).into()),
    };
    let (name, entry) = (aboard.file.clone(), aboard.entry.clone());
    let item = Item { parsed: aboard.file.parse()?, name, entry, file };
    match dir::adopt(path, &item, &dir, &Transport { max_file: None, ..transport })? {
        Delivered::Away(why) => Ok(Some(why)),
        _ => Ok(None),
    }
}

fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}

/// Returns how much waits on drives for a destination.
pub fn waiting(all: &[Aboard], dest: &Dest) -> Amount {
    let ours = all.iter().filter(|aboard| aboard.dest == *dest);
    let one = |aboard: &Aboard| Amount { files: 1, bytes: aboard.bytes, oldest: Some(aboard.at) };
    ours.map(one).fold(Amount::default(), |sum, more| sum + more)
}
