//! A run: split, under the spool's lock; then drain every drive's outbox, all at once, each under
//! its own lock, so that a slow drive holds up neither the others nor the next run.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::cli::cancel::{self, Cancelled};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::dest::{Courier, Dest, hangs};
use zsnap_common::durable::notices::Notices;
use zsnap_common::durable::outbox::{Drained, Pace};
use zsnap_common::durable::publish;
use zsnap_common::durable::tool_lock::{Taken, ToolLock};
use zsnap_common::locks::flock::{self, Lock};

use crate::cli::Options;
use crate::day::day;
use crate::drive::Drive;
use crate::kept;
use crate::seen::Seen;
use crate::split::split;
use crate::spool::Spool;

/// What stands for the spool where a drive's name may.
const THE_SPOOL: &str = "the spool";
/// How long a look at a drive may take while somebody waits for the answer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// So many failures of a drive are told one by one.
const FAILURES: usize = 3;

/// Seconds since 1970.
pub fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Distributes what lies in the spool.
pub fn run(options: &Options, drives: &[Drive], now: SystemTime) -> Result<Exit> {
    let spool = Spool::open(options.spool.as_deref())?;
    spool.all_configured(drives)?;
    let mut notices = Notices::read(spool.state("told.json"), seconds(now), false);
    let mut exit = Exit::Done;
    // All that lies in the spool was looked at.
    let mut looked = false;
    match distribute(&spool, options, drives, &mut notices) {
        Ok(None) => looked = true,
        Ok(Some((age, who))) => exit = waited(options.max_run, THE_SPOOL, age, &who),
        Err(e) if stopped(&e) => return Err(e),
        // On a full disk only what is delivered makes room.
        Err(e) => {
            let text = format!(
                "{THE_SPOOL}: {e:#}; until this is fixed no new files are taken; waiting files are still delivered"
            );
            notices.problem_in_words(THE_SPOOL, &text);
        }
    }
    let drained = drain(&spool, drives);
    for (drive, drained) in drives.iter().zip(&drained) {
        if drained.busy {
            let (age, who) = flock::holder(&spool.outboxes().lock(&drive.name));
            exit = exit.max(waited(options.max_run, &drive.name, age, &who));
        }
        tell(drive, drained, &mut notices);
    }
    // Other processes know about what they work on.
    let noted = notices.write(|what| {
        // Names of foreign files may hold a "=" as well.
        let of = |drive: &Drive| what.strip_prefix(&drive.name).is_some_and(|rest| rest.starts_with('='));
        let of_drive = drives.iter().zip(&drained).find(|(drive, _)| of(drive));
        of_drive.map_or(!looked, |(_, drained)| drained.busy)
    });
    if let Err(e) = noted {
        // It is told again: no harm.
        log::info(format_args!("{e:#}"));
    }
    cancel::check()?;
    Ok(if notices.any { exit.max(Exit::SomeFailed) } else { exit })
}

/// Takes what lies in the spool into the outboxes; or since when somebody else does, and who.
fn distribute(
    spool: &Spool,
    options: &Options,
    drives: &[Drive],
    notices: &mut Notices,
) -> Result<Option<(Duration, String)>> {
    match ToolLock::take(&spool.state("lock"), options.dotlock.as_deref())? {
        Taken::Ours(_lock) => {
            publish::sweep(&spool.state("")).or_exit(Exit::Io, "cannot clear up")?;
            split(spool, drives, notices).map(|()| None)
        }
        Taken::Busy { age, who } => Ok(Some((age, who))),
    }
}

/// Another instance is running: as it should be, unless it does not end.
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

/// One result for each drive.
fn drain(spool: &Spool, drives: &[Drive]) -> Vec<Drained> {
    let died = |_| Drained::broken(anyhow::anyhow!("its thread died, which is a defect of zsnap-fanout"));
    thread::scope(|scope| {
        let running: Vec<_> = drives.iter().map(|drive| scope.spawn(move || drain_one(spool, drive))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
    })
}

fn drain_one(spool: &Spool, drive: &Drive) -> Drained {
    let Drive { name, dest, transport, .. } = drive;
    let boxes = spool.outboxes();
    let outbox = boxes.dir(name);
    let mut drained = Drained::default();
    let before = Seen::read(&outbox);
    let mut seen = before.clone();
    let clock = || seconds(SystemTime::now());
    let (mut tried, mut here) = (clock(), false);
    let mut courier = Courier::new(dest, transport, &outbox);
    let last = courier.last();
    let work = || -> Result<()> {
        // First, for it makes room; but it is no reason to deliver nothing.
        let pruned = kept::prune(spool, drive, tried);
        publish::sweep(&outbox)?;
        // Where another run works, perhaps with a drive that hangs, this one would join it.
        let there = outbox.try_exists().or_exit(Exit::Io, outbox.display())?;
        let lock = if there { Lock::try_new(&boxes.lock(name))? } else { None };
        if lock.is_some() {
            let look = courier.look()?;
            spool.is_apart(look.real())?;
            here = matches!(dest, Dest::Dir(_)) && look.away.is_none();
            drained.away = look.away;
        } else {
            drained.busy = there;
        }
        if drained.away.is_none() && !drained.busy {
            let kept = || spool.kept(name).join(day(clock()));
            let keep = drive.keep.map(|_| &kept as &dyn Fn() -> PathBuf);
            let mut tidy = false;
            drained = boxes.drain(name, lock, Pace { at_once: dest.at_once(), keep, last }, &mut |items| {
                // Not without need: it would wake a disk that sleeps.
                if !std::mem::replace(&mut tidy, true) {
                    courier.tidy()?;
                }
                let done = courier.deliver(items);
                tried = clock();
                done
            });
        }
        pruned
    };
    if let Err(e) = work() {
        drained.broken.get_or_insert(e);
    }
    if let Some(newest) = drained.delivered.last() {
        (seen.at, seen.delivered, seen.newest) = (Some(tried), Some(tried), Some(newest.clone()));
    } else if here {
        seen.at = Some(tried);
    }
    let failed = drained.broken.iter().chain(drained.failed.iter().map(|(_, e)| e));
    let (ended, failed): (Vec<_>, Vec<_>) = failed.partition(|e| stopped(e));
    // A signal says nothing of the drive.
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

/// By a signal to this process.
fn stopped(e: &anyhow::Error) -> bool {
    Cancelled::find(e).is_some()
}

/// What the operator hears. A drive that is away is in order: `status` tells since when.
fn tell(drive: &Drive, drained: &Drained, notices: &mut Notices) {
    let Drive { name, dest, .. } = drive;
    for file in &drained.delivered {
        log::info(format_args!("{file} was delivered to {name}"));
    }
    if let Some(why) = &drained.away {
        log::info(format_args!("{name} is away: {why}"));
    }
    if let Some(e) = drained.broken.as_ref().filter(|e| !stopped(e)) {
        let text = format!("{name}: {e:#}; {}", remedy(dest, e));
        notices.problem_in_words(&format!("{name}="), &text);
    }
    let failed = drained.failed.iter().filter(|(_, e)| !stopped(e));
    let (hung, failed): (Vec<_>, Vec<_>) = failed.partition(|(_, e)| hangs(e));
    for (file, e) in hung {
        // Of the drive: with which file it hangs changes from run to run.
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

/// What to do about a failed delivery. The file is safe in the outbox.
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
