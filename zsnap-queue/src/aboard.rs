//! `--outbox DIR`: a stream is sealed on the drive that will carry it, in `DIR/.zsnap-queue/EPOCH`, so that there is no
//! second copy. The drive may be read and changed by others, so what is queued is recorded in the state of its dataset,
//! not there. A file has its own name, `ENTRY`, until the stream is queued; then it moves to its place in a `dir:` on
//! the same file system. See the table in ARCHITECTURE.md, "What a crash leaves".

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::dest::dir::{self, Adopted};
use zsnap_common::durable::dest::{Courier, Dest, Transport};
use zsnap_common::durable::outbox::Amount;
use zsnap_common::durable::publish::{at_path, sweep_at};
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
    let dir = make_dir(&given, &dataset.state.epoch.id, dest)?;
    let path = given.join(HIDDEN).join(&dataset.state.epoch.id);
    sweep_at(&dir, &path).or_exit(Exit::Io, "clearing up")?;
    let outbox = Outbox { dir, path, given, destination };
    outbox.withdraw(dataset.target, past)?;
    Ok(outbox)
}

impl Outbox {
    /// Removes the files of a target that cannot have been queued. The caller did not get exit status 0, so it will send these
    /// streams again.
    fn withdraw(&self, target: &Target, past: &Acknowledged) -> anyhow::Result<()> {
        let prefix = prefix(target);
        for found in rustix::fs::Dir::read_from(&self.dir).map_err(at_path(&self.path))? {
            let found = found.map_err(at_path(&self.path))?;
            let Ok(name) = found.file_name().to_str() else { continue };
            let Some(seq) = name.strip_prefix(&prefix).and_then(|seq| seq.parse::<u64>().ok()) else { continue };
            if past.aboard.iter().any(|aboard| aboard.entry == name) {
                continue;
            }
            let path = self.path.join(name);
            if seq > past.chain.seq {
                log::info(format_args!("{} was never queued and is withdrawn", path.display()));
                self.remove(name)?;
            } else {
                // It may have been queued, and have come back: its move was not durable when the drive was pulled.
                log::warn(format_args!(
                    "{} may be a queued stream, and stays: if no receiver lacks a file of {target}, rm {}",
                    path.display(),
                    quoted(&path)
                ));
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

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_given(given: &Path) -> io::Result<File> {
    Ok(rustix::fs::openat(CWD, given, DIRECTORY, Mode::empty()).map_err(at_path(given))?.into())
}

/// Creates and opens `GIVEN/.zsnap-queue/EPOCH` without following a symlink of the drive.
fn make_dir(given: &Path, epoch: &str, dest: &Dest) -> anyhow::Result<File> {
    let shown = given.display();
    let mut dir = open_given(given).or_exit(Exit::Config, "--outbox")?;
    if let Dest::Dir(path) = dest {
        let root = open_given(path).or_exit(Exit::Config, dest)?;
        if !dir::is_same_mount(&dir, &root).or_exit(Exit::Io, &shown)? {
            let what = format!(
                "{shown} is not on the file system of {dest}, or is there by another mount: name a directory below that \
                 path with --outbox"
            );
            return Err(Exit::Config.error(what));
        }
    }
    let mut path = given.to_owned();
    for name in [HIDDEN, epoch] {
        path.push(name);
        match rustix::fs::mkdirat(&dir, name, Mode::from(0o700)) {
            // Also if it exists: a process that was killed may have made it just now.
            Ok(()) | Err(Errno::EXIST) => {
                rustix::fs::fsync(&dir).map_err(at_path(&path)).or_exit(Exit::Io, "--outbox")?;
            }
            Err(e) => return Err(at_path(&path)(e)).or_exit(Exit::CantCreate, "--outbox"),
        }
        let opened =
            rustix::fs::openat(&dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(at_path(&path));
        dir = opened.or_exit(Exit::Io, "--outbox")?.into();
    }
    Ok(dir)
}

/// Gives their places to the files that are queued on drives, as far as these are mounted, and records that. Returns
/// the new state. What fails is only listed: the files are durable on their drives, and the next run tries again.
pub fn settle(dataset: &Locked<'_>, past: Acknowledged, o: &Options) -> anyhow::Result<Settled> {
    let mut settled = Settled { state: past, placed: Vec::new(), left: Vec::new() };
    if settled.state.aboard.is_empty() {
        return Ok(settled);
    }
    let all = std::mem::take(&mut settled.state.aboard);
    let count = all.len();
    let mut looks = HashMap::new();
    for aboard in all {
        match place(&aboard, dataset, o, &mut looks) {
            Ok(Adopted::Placed) => {
                log::info(format_args!("{} was delivered to {}", aboard.file, aboard.dest));
                settled.placed.push(aboard.file);
                continue;
            }
            Ok(Adopted::Missing) => {
                log::warn(format_args!(
                    "{} is neither in {} nor in {}: if it was not received, queue a full stream",
                    aboard.file,
                    quoted(&aboard.outbox.join(HIDDEN)),
                    aboard.dest
                ));
                continue;
            }
            Ok(Adopted::Away(why)) => settled.left.push(Left {
                dest: aboard.dest.clone(),
                text: format!("{} waits on its drive, which is away: {why}", aboard.file),
                failed: false,
            }),
            Err(e) => settled.left.push(Left {
                dest: aboard.dest.clone(),
                text: format!(
                    "{} is queued, but is in {} on its drive still: {e:#}; the next run tries again",
                    aboard.file,
                    quoted(&aboard.outbox.join(HIDDEN))
                ),
                failed: true,
            }),
        }
        settled.state.aboard.push(aboard);
    }
    if settled.state.aboard.len() != count {
        dataset.commit(&settled.state).map_err(CommitError::into_inner)?;
    }
    Ok(settled)
}

/// What [`settle`] has done.
pub struct Settled {
    /// The state, in which the files that still wait on their drives are listed.
    pub state: Acknowledged,
    /// The names of the queue files that got their places.
    pub placed: Vec<String>,
    /// The files that did not.
    pub left: Vec<Left>,
}

impl Settled {
    /// Logs what is left, and returns the state.
    pub fn logged(self) -> Acknowledged {
        self.left.iter().for_each(Left::log);
        self.state
    }
}

/// A queued file that is on its drive without its place there.
pub struct Left {
    pub dest: Dest,
    /// Which file, and why it is left.
    pub text: String,
    /// Whether it failed to get its place although the drive is there.
    failed: bool,
}

impl Left {
    /// Prints a failure; that a drive is away only goes to syslog.
    pub fn log(&self) {
        if self.failed { log::error(&self.text) } else { log::info(&self.text) }
    }
}

/// Why a drive is away, if it is, or how looking at it failed, by the id of its destination.
type Looks = HashMap<String, Result<Option<String>, String>>;

/// Gives a file its place.
fn place(aboard: &Aboard, dataset: &Locked<'_>, o: &Options, looks: &mut Looks) -> anyhow::Result<Adopted> {
    let Dest::Dir(path) = &aboard.dest else { return Ok(Adopted::Missing) };
    let records = dataset.state.outboxes().dir(&aboard.dest.id());
    let transport = Transport { timeout: Some(PATIENCE), ..saved::transport(&records, &job::transport(o)) };
    // If the drive hangs, it hangs in this call, which has a timeout. The courier records that, so that later runs
    // leave no more processes behind.
    let look = || Courier::new(&aboard.dest, &transport, &records).look();
    match looks.entry(aboard.dest.id()).or_insert_with(|| look().map(|look| look.away).map_err(|e| format!("{e:#}"))) {
        Ok(None) => {}
        Ok(Some(why)) => return Ok(Adopted::Away(why.clone())),
        Err(e) => return Err(anyhow::Error::msg(e.clone())),
    }
    let given = open_given(&aboard.outbox)?;
    let below = [HIDDEN, &dataset.state.epoch.id];
    dir::adopt(path, (&given, &below), &aboard.entry, &aboard.file, &Transport { max_file: None, ..transport })
}

/// Returns how much waits on drives for a destination.
pub fn waiting(all: &[Aboard], dest: &Dest) -> Amount {
    let ours = all.iter().filter(|aboard| aboard.dest == *dest);
    let one = |aboard: &Aboard| Amount { files: 1, bytes: aboard.bytes, oldest: Some(aboard.at) };
    ours.map(one).fold(Amount::default(), |sum, more| sum + more)
}
