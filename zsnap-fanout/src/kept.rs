//! Delivered files that are kept for a while, `kept/NAME/DAY/HOST/FILE`: what a drive has lost can
//! be sent to it again, long after its sender has forgotten it. They are hard links, so several
//! drives keep a file for the price of one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::civil::Date;
use rustix::io::Errno;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::outbox::Queued;
use zsnap_common::durable::publish;
use zsnap_common::locks::flock::Lock;

use crate::day::{Since, day, end};
use crate::drive::Drive;
use crate::spool::Spool;

/// What is kept for a drive: names of days, sorted.
pub fn days(kept: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(kept) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.or_exit(Exit::Io, kept.display())?,
    };
    let mut days = Vec::new();
    for entry in entries {
        let entry = entry.or_exit(Exit::Io, kept.display())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<Date>().is_ok() {
            days.push((name, entry.path()));
        }
    }
    days.sort();
    Ok(days)
}

/// Removes the days that are older than the drive keeps; `now` in seconds since 1970. Without
/// `keep` none is: who has forgotten the key in the configuration loses nothing.
///
/// It counts back from the end of the newest day before this one: a clock that was once ahead, or
/// months without the drive, remove nothing.
pub fn prune(spool: &Spool, drive: &Drive, now: u64) -> Result<()> {
    let Some(keep) = drive.keep else { return Ok(()) };
    let days = days(&spool.kept(&drive.name))?;
    let today = day(now);
    let Some(end) = days.iter().rev().find(|(name, _)| *name < today).and_then(|(name, _)| end(name)) else {
        return Ok(());
    };
    let first = day(end.min(now).saturating_sub(keep.as_secs()));
    for (name, path) in days.into_iter().filter(|(name, _)| *name < first) {
        match fs::remove_dir_all(&path) {
            // Another run was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.or_exit(Exit::Io, path.display())?,
        }
        log::info(format_args!("{}: what was delivered on {name} is no longer kept", drive.name));
    }
    Ok(())
}

/// Puts what was delivered to a drive since a day into its outbox again. Files that it still has
/// are recognised when they are delivered.
pub fn requeue(spool: &Spool, drive: &Drive, since: Since, now: u64) -> Result<Exit> {
    let first = match since {
        Since::Day(day) => day.to_string(),
        Since::Ago(time) => day(now.saturating_sub(time.as_secs())),
    };
    let boxes = spool.outboxes();
    let (mut count, mut failed) = (0, Vec::new());
    for (_, path) in days(&spool.kept(&drive.name))?.into_iter().filter(|(name, _)| *name >= first) {
        let (linked, not) = boxes.refill(&drive.name, &path).or_exit(Exit::Io, "cannot put files into the outbox")?;
        count += linked;
        failed.extend(not);
    }
    for (file, e) in &failed {
        log::error(format_args!("{}: {file}: cannot be put into the outbox: {e}", drive.name));
    }
    if count == 0 && failed.is_empty() {
        return Err(Exit::SomeFailed.error(format!(
            "nothing that {} got since {first} is kept: give keep a longer time, or send from the machine that was backed up",
            drive.name
        )));
    }
    log::info(format_args!("{}: {count} files are sent again by the next run", drive.name));
    Ok(if failed.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

/// Puts what waits for a drive that is no longer configured, and what is kept for it, into
/// `retired/NAME`: from there it can still be rescued, or removed by hand.
pub fn retire(spool: &Spool, name: &str) -> Result<Exit> {
    let boxes = spool.outboxes();
    if !boxes.names().or_exit(Exit::Io, "cannot read the outboxes")?.iter().any(|outbox| outbox == name) {
        return Err(Exit::Usage.error(format!("no drive {name} has an outbox")));
    }
    let Some(_lock) = Lock::try_new(&boxes.lock(name))? else {
        return Err(Exit::TryAgain.error(format!("a zsnap-fanout works on {name}: run again when it has ended")));
    };
    let waiting = boxes.waiting(name).or_exit(Exit::Io, "cannot read the outbox")?;
    let nowhere_else = |file: &&Queued| {
        let path = boxes.dir(name).join(file.parsed.host.as_str()).join(&file.name);
        fs::symlink_metadata(path).is_ok_and(|meta| meta.nlink() == 1)
    };
    let (alone, waiting) = (waiting.iter().filter(nowhere_else).count(), waiting.len());
    // First, and into the outbox: without one, nobody would look for the rest after a crash.
    if spool.kept(name).exists() {
        move_durably(&spool.kept(name), &boxes.dir(name).join("kept"))?;
    }
    let to = move_durably(&boxes.dir(name), &spool.state("retired").join(name))?;
    let line = format!("{name} is retired; {waiting} files that it did not get lie in {}", to.display());
    match (waiting, alone) {
        (0, _) => log::info(line),
        (_, 0) => log::warn(format_args!("{line}: remove it when nobody needs them")),
        _ => log::warn(format_args!(
            "{line}; {alone} of them are the only copies here: move these, HOST/FILE, into {}, and the other drives get them",
            spool.incoming.path().display()
        )),
    }
    Ok(Exit::Done)
}

/// Renames a directory: to `TO`, or if that is taken to `TO.1` and so on.
fn move_durably(from: &Path, to: &Path) -> Result<PathBuf> {
    let parents = [from, to].map(|path| path.parent().unwrap_or(Path::new("/")));
    publish::make_dirs(parents[1]).or_exit(Exit::CantCreate, "cannot put it away")?;
    for n in 0.. {
        let mut name = to.as_os_str().to_owned();
        if n > 0 {
            name.push(format!(".{n}"));
        }
        let to = PathBuf::from(name);
        // It replaces an empty directory at most.
        match rustix::fs::rename(from, &to) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(e) => return Err(e).or_exit(Exit::Io, to.display()),
            Ok(()) => {
                parents.iter().try_for_each(|dir| publish::sync_dir(dir)).or_exit(Exit::Io, to.display())?;
                return Ok(to);
            }
        }
    }
    Err(Exit::CantCreate.error(format!("{}: no free name", to.display())))
}
