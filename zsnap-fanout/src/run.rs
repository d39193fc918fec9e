//! A run: splits the files in the spool, under the spool's lock, then drains all outboxes in parallel,
//! each under its own lock, so that a slow destination delays neither the others nor the next run.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::cli::cancel::{self, Cancelled};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::dest::{Courier, Dest, hangs};
use zsnap_common::durable::notices::Notices;
use zsnap_common::durable::outbox::{DrainOptions, Drained};
use zsnap_common::durable::publish;
use zsnap_common::durable::success;
use zsnap_common::durable::tool_lock::{Acquired, ToolLock};
use zsnap_common::locks::flock::{self, Lock};

use crate::cli::Options;
use crate::day::day;
use crate::drive::Drive;
use crate::kept;
use crate::seen::Seen;
use crate::split::split;
use crate::spool::Spool;

/// The name of the spool in messages that otherwise name a destination.
const THE_SPOOL: &str = "the spool";
/// How long the examination of a destination may take while a user waits for the answer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How many failures of a destination are reported individually.
const FAILURES: usize = 3;

/// Converts a time to seconds since 1970.
pub fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Distributes the files in the spool.
pub fn run(options: &Options, drives: &[Drive], now: SystemTime) -> Result<Exit> {
    let spool = Spool::open(options.spool.as_deref())?;
    spool.all_configured(drives)?;
    let mut notices = Notices::read(spool.state("told.json"), seconds(now), false);
    let mut exit = Exit::Done;
    // Whether all of the spool was examined.
    let mut looked = false;
    match distribute(&spool, options, drives, &mut notices) {
        Ok(None) => looked = true,
        Ok(Some((age, who))) => exit = waited(options.max_run, THE_SPOOL, age, &who),
        Err(e) if stopped(&e) => return Err(e),
        // Deliver all the same: on a full disk, only delivery frees space.
        Err(e) => {
            let text = format!(
                "{THE_SPOOL}: {e:#}; until this is fixed no new files are taken; waiting files are still delivered"
            );
            if notices.problem_in_words(THE_SPOOL, &text) {
                exit = Exit::of(&e);
            }
        }
    }
    let drained = drain(&spool, drives);
    for (drive, drained) in drives.iter().zip(&drained) {
        if drained.busy {
            let (age, who) = flock::holder(&spool.outboxes().lock(&drive.name));
            exit = exit.max(waited(options.max_run, &drive.name, age, &who));
        }
        let never_here = Seen::read(&spool.outboxes().dir(&drive.name)).at.is_none();
        tell(drive, drained, never_here, &mut notices);
    }
    // Keep the notices of what other processes are working on: they report it themselves.
    let noted = notices.write(|what| {
        // Names of ignored files may contain "=" too.
        let of = |drive: &Drive| what.strip_prefix(&drive.name).is_some_and(|rest| rest.starts_with('='));
        let of_drive = drives.iter().zip(&drained).find(|(drive, _)| of(drive));
        of_drive.map_or(!looked, |(_, drained)| drained.busy)
    });
    if let Err(e) = noted {
        // Harmless: the next run prints the notices again.
        log::info(format_args!("{e:#}"));
    }
    cancel::check()?;
    if notices.any {
        exit = exit.max(Exit::SomeFailed);
    }
    if looked && drained.iter().all(|drained| !drained.busy) {
        success::note(&spool.state(""), exit, notices.unsolved);
    }
    Ok(exit)
}

/// Splits the files in the spool into the outboxes. If another process holds the lock, returns for how
/// long it has held it and which process it is.
fn distribute(
    spool: &Spool,
    options: &Options,
    drives: &[Drive],
    notices: &mut Notices,
) -> Result<Option<(Duration, String)>> {
    match ToolLock::take(&spool.state("lock"), options.dotlock.as_deref())? {
        Acquired::Ours(_lock) => {
            publish::sweep(&spool.state("")).or_exit(Exit::Io, "cannot clear up")?;
            split(spool, drives, notices).map(|()| None)
        }
        Acquired::Busy { age, who } => Ok(Some((age, who))),
    }
}

/// Reports that another instance is running, as an error only if it has been running for too long.
fn waited(max_run: Duration, what: &str, age: Duration, who: &str) -> Exit {
    if age <= max_run {
        log::info(format_args!("{what}: {who} works on it"));
        return Exit::Done;
    }
    log::error(format_args!(
        "{what}: {who} has been working on it {}, longer than --max-run: check what it is doing, then kill it",
        flock::for_how_long(age)
    ));
    Exit::TryAgain
}

/// Drains all outboxes in parallel, and returns a result for each destination, even if its thread panics.
fn drain(spool: &Spool, drives: &[Drive]) -> Vec<Drained> {
    let died = |_| Drained::broken(anyhow::anyhow!("its thread died, which is a defect of zsnap-fanout"));
    thread::scope(|scope| {
        let running: Vec<_> = drives.iter().map(|drive| scope.spawn(move || drain_one(spool, drive))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
    })
}

/// Drains the outbox of one destination, and records for `status` how that went.
fn drain_one(spool: &Spool, drive: &Drive) -> Drained {
    let outbox = spool.outboxes().dir(&drive.name);
    let before = Seen::read(&outbox);
    let (mut seen, mut drained) = (before.clone(), Drained::default());
    if let Err(e) = try_drain(spool, drive, &outbox, &mut seen, &mut drained) {
        drained.broken.get_or_insert(e);
    }
    if let Some(newest) = drained.delivered.last() {
        let now = Some(seconds(SystemTime::now()));
        (seen.at, seen.delivered, seen.newest) = (now, now, Some(newest.clone()));
    }
    let failed = drained.broken.iter().chain(drained.failed.iter().map(|(_, e)| e));
    let (ended, failed): (Vec<_>, Vec<_>) = failed.partition(|e| stopped(e));
    // A signal to this process does not mean that the destination failed.
    if ended.is_empty() || !failed.is_empty() {
        seen.failed = failed.first().map(|e| format!("{e:#}"));
    }
    if seen != before && outbox.exists() && !drained.busy {
        if let Err(e) = seen.write(&outbox) {
            drained.broken.get_or_insert(e);
        }
    }
    drained
}

/// Drains `outbox`, unless its destination is away or another run drains it.
fn try_drain(spool: &Spool, drive: &Drive, outbox: &Path, seen: &mut Seen, drained: &mut Drained) -> Result<()> {
    let Drive { name, dest, transport, .. } = drive;
    let clock = || seconds(SystemTime::now());
    let mut courier = Courier::new(dest, transport, outbox);
    // Prune first, because that frees space. If it fails, deliver all the same.
    let pruned = kept::prune(spool, drive, clock());
    publish::sweep(outbox)?;
    // Lock before looking: if another run hangs at this destination, this one would hang too.
    let there = outbox.try_exists().or_exit(Exit::Io, outbox.display())?;
    let lock = if there { Lock::try_new(&spool.outboxes().lock(name))? } else { None };
    if lock.is_some() {
        let look = courier.look()?;
        spool.is_apart(look.real())?;
        if matches!(dest, Dest::Dir(_)) && look.away.is_none() {
            seen.at = Some(clock());
        }
        drained.unmarked = look.away.is_some() && look.real().is_some() && look.name.is_none();
        drained.away = look.away;
    } else {
        drained.busy = there;
    }
    if drained.away.is_none() && !drained.busy {
        let kept = || spool.kept(name).join(day(clock()));
        let keep = drive.keep.map(|_| &kept as &dyn Fn() -> PathBuf);
        let options = DrainOptions { at_once: dest.at_once(), keep, last: courier.last() };
        *drained = spool.outboxes().drain(name, lock, options, &mut |items| courier.deliver(items));
    }
    pruned
}

/// Returns whether the error is a signal to this process.
fn stopped(e: &anyhow::Error) -> bool {
    Cancelled::find(e).is_some()
}

/// Logs what was delivered, and prints failures as notices. A destination that is away is not an error:
/// `status` shows since when. `never_here`: it was never mounted.
fn tell(drive: &Drive, drained: &Drained, never_here: bool, notices: &mut Notices) {
    let Drive { name, dest, .. } = drive;
    for file in &drained.delivered {
        log::info(format_args!("{file} was delivered to {name}"));
    }
    if let Some(why) = &drained.away {
        log::info(format_args!("{name} is away: {why}"));
        // A drive of a rotation is often away. But one that was never here would wait for its mark for ever.
        if drained.unmarked && never_here {
            let text = format!("{name} is away: {why}; if it is mounted and new: zsnap-fanout init {name}");
            notices.problem_in_words(&format!("{name}=new"), &text);
        }
    }
    if let Some(e) = drained.broken.as_ref().filter(|e| !stopped(e)) {
        let text = format!("{name}: {e:#}; {}", remedy(dest, e));
        notices.problem_in_words(&format!("{name}="), &text);
    }
    let failed = drained.failed.iter().filter(|(_, e)| !stopped(e));
    let (hung, failed): (Vec<_>, Vec<_>) = failed.partition(|(_, e)| hangs(e));
    for (file, e) in hung {
        // A problem of the destination as a whole: the file with which it hangs differs from run to run.
        log::info(format_args!("{file} was given to {name} when that hung"));
        notices.problem_in_words(&format!("{name}=hang"), &format!("{name}: {e:#}; {}", remedy(dest, e)));
    }
    for (file, e) in failed.iter().take(FAILURES) {
        let text = format!("{name}: {file}: {e:#}; {}", remedy(dest, e));
        notices.problem_in_words(&format!("{name}={file}"), &text);
    }
    if let Some(more) = failed.len().checked_sub(FAILURES).filter(|more| *more > 0) {
        let text = format!("{name}: {more} more files were not delivered; zsnap-fanout status tells what waits");
        notices.problem_in_words(&format!("{name}=more"), &text);
    }
}

/// Returns what to do about a failed delivery. The file is still in the outbox.
fn remedy(dest: &Dest, e: &anyhow::Error) -> &'static str {
    let kind = e.chain().find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    match (dest, kind) {
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => {
            "make room there; the next run tries again"
        }
        (_, Some(io::ErrorKind::PermissionDenied)) => "correct its owner or mode; the next run tries again",
        (Dest::Dir(_), kind) if kind.is_some() || hangs(e) => {
            "look at the drive and at what the kernel says (dmesg); the next run tries again"
        }
        _ => "the next run tries again",
    }
}
