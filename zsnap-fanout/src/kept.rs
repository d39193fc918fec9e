//! Delivered files that are kept for a while, as `kept/NAME/DAY/HOST/FILE`, so that files that a
//! destination has lost can be delivered again long after the sending host has removed them. They are
//! hard links, so a file that is kept for several destinations takes space only once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::civil::Date;
use rustix::io::Errno;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::{log, report};
use zsnap_common::durable::listing::entries;
use zsnap_common::durable::outbox::Queued;
use zsnap_common::durable::publish;
use zsnap_common::locks::flock::Lock;

use crate::day::{Since, day, end};
use crate::drive::Drive;
use crate::spool::Spool;

/// Returns the days for which files are kept in the directory `kept`, sorted, with their paths.
pub fn days(kept: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut days = Vec::new();
    for entry in entries(kept).or_exit(Exit::Io, "cannot read what is kept")? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<Date>().is_ok() {
            days.push((name, entry.path()));
        }
    }
    days.sort();
    Ok(days)
}

/// Removes the kept files of days that are older than `keep`. `now` is in seconds since 1970. Without
/// `keep`, nothing is removed, so that forgetting the key in the configuration loses nothing.
///
/// The age is counted from the end of the newest day before today, so that nothing is removed because
/// the clock was once ahead or the destination was away for months.
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
            // Another run has removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.or_exit(Exit::Io, path.display())?,
        }
        log::info(format_args!("{}: what was delivered on {name} is no longer kept", drive.name));
    }
    Ok(())
}

/// Puts the files that were delivered to a destination since a time back into its outbox: all of the day, by UTC, in
/// which it falls, and of later ones. Delivery recognizes the files that the destination still has.
pub fn requeue(spool: &Spool, drive: &Drive, since: Since, now: u64) -> Result<Exit> {
    let since = since.seconds(now);
    let first = day(since);
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
            "nothing that {} got since {} is kept: give keep a longer time, or send from the machine that was backed up",
            drive.name,
            report::time(since)
        )));
    }
    log::outcome(format_args!("{}: the next run delivers {count} files again", drive.name));
    Ok(if failed.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

/// Moves the files that wait for a destination that is no longer configured, and those that are kept
/// for it, to `retired/NAME`. From there they can be recovered or removed manually.
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
    // Move the kept files into the outbox first: if a crash left them without an outbox, nothing would report them.
    if spool.kept(name).exists() {
        move_durably(&spool.kept(name), &boxes.dir(name).join("kept"))?;
    }
    let to = move_durably(&boxes.dir(name), &spool.state("retired").join(name))?;
    let line = format!("{name} is retired; {waiting} files that it did not get lie in {}", to.display());
    match (waiting, alone) {
        (0, _) => log::outcome(line),
        (_, 0) => log::warn(format_args!("{line}: remove it when nobody needs them")),
        _ => log::warn(format_args!(
            "{line}; {alone} of them are the only copies here: move these, HOST/FILE, into {}, and the other drives get them",
            spool.incoming.path().display()
        )),
    }
    Ok(Exit::Done)
}

/// Renames a directory durably to `to`, or if that exists, to `TO.1` and so on. Returns the new path.
fn move_durably(from: &Path, to: &Path) -> Result<PathBuf> {
    let parents = [from, to].map(|path| path.parent().unwrap_or(Path::new("/")));
    publish::make_dirs(parents[1]).or_exit(Exit::CantCreate, "cannot put it away")?;
    for n in 0.. {
        let mut name = to.as_os_str().to_owned();
        if n > 0 {
            name.push(format!(".{n}"));
        }
        let to = PathBuf::from(name);
        // rename(2) replaces a directory only if it is empty.
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
