//! Splits the files in the spool: each file is moved into `split`, linked into the outbox of every
//! destination that receives the files of its host, and removed from `split`. The next run finishes
//! what a crash leaves in `split`.

use std::ffi::OsString;
use std::fs::File;
use std::io;

use anyhow::Result;
use zsnap_common::cli::cancel::{self, Cancelled};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::{Incoming, Unsafe, shown};
use zsnap_common::durable::listing::{Listing, is_ignored, may_hold_queue_files, report_not_a_host};
use zsnap_common::durable::notices::Notices;
use zsnap_common::durable::outbox::{Outboxes, Queued};
use zsnap_common::durable::publish::{make_dirs, sync_files};
use zsnap_common::names::stored::{name_of, stored};
use zsnap_common::names::target::Host;

use crate::drive::Drive;
use crate::since;
use crate::spool::Spool;

/// The number of files that are moved with one sync. All of them are open at the same time.
const BATCH: usize = 256;
/// How many files of a batch that cannot be distributed are reported by name.
const FAILED: usize = 20;

/// Splits all files in the spool. Call it with the spool locked. A problem of one host is reported and
/// does not affect other hosts.
pub fn split(spool: &Spool, drives: &[Drive], notices: &mut Notices) -> Result<()> {
    let boxes = spool.outboxes();
    for host in boxes.hosts_in_split().or_exit(Exit::Io, "cannot read what is to be split")? {
        let done = finish(spool, &boxes, &host, drives, notices);
        passed(notices, host.as_str(), done)?;
    }
    for name in spool.incoming.names().or_exit(Exit::Io, "--spool")? {
        cancel::check()?;
        if is_ignored(&spool.incoming, &name) {
            continue;
        }
        let text = shown(&name);
        let Some(host) = Host::of_directory(&name) else {
            report_not_a_host(&name, notices);
            continue;
        };
        match spool.incoming.inside(&name) {
            Ok(dir) if dir.owner() != spool.incoming.owner() && !may_hold_queue_files(&dir) => {
                notices.oddity(&text, "belongs to another user than the spool, and holds no queue file; ignored");
            }
            Ok(dir) if dir.owner() != spool.incoming.owner() => {
                notices.problem(&text, "belongs to another user than the spool; ignored: correct its owner");
            }
            Ok(dir) => {
                let done = take(&boxes, &dir, &host, drives, notices);
                passed(notices, host.as_str(), done)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                notices.oddity(&text, &format!("is not a directory of a host ({e}); ignored"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => notices.problem(&text, &format!("{e}; ignored: correct its owner or mode")),
        }
    }
    Ok(())
}

/// Reports an error of one host as a notice, so that only a signal ends the run.
fn passed(notices: &mut Notices, what: &str, done: Result<()>) -> Result<()> {
    match done {
        Err(e) if Cancelled::find(&e).is_some() => Err(e),
        Err(e) => {
            notices.problem(what, &format!("{e:#}; the next run tries again"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Returns the names of the destinations that receive the files of `host`. Reports it if there are none.
fn takers(host: &Host, drives: &[Drive], notices: &mut Notices) -> Vec<String> {
    let takers: Vec<_> = drives.iter().filter(|drive| drive.takes(host)).map(|drive| drive.name.clone()).collect();
    if takers.is_empty() {
        notices.problem(host.as_str(), "no drive takes its files, which stay here: see hosts in the tables [to.NAME]");
    }
    takers
}

/// Finishes what an earlier run left in `split`.
fn finish(spool: &Spool, boxes: &Outboxes, host: &Host, drives: &[Drive], notices: &mut Notices) -> Result<()> {
    let queued = boxes.in_split(host)?;
    if queued.is_empty() {
        return Ok(());
    }
    let names = [host.as_str().to_owned(), stored(host.as_str())];
    let dirs: Vec<_> = names.iter().filter_map(|name| spool.incoming.inside(name.as_ref()).ok()).collect();
    let mut left = Vec::new();
    for Queued { name, .. } in &queued {
        // On file systems where a rename is not atomic, a crash can leave both names.
        let one_name = |dir: &Incoming| -> io::Result<()> {
            let file = File::open(boxes.split_dir(host).join(name))?;
            for name in [name.to_owned(), stored(name)] {
                dir.remove_if_same(name.as_ref(), &file)?;
            }
            dir.sync()
        };
        match dirs.iter().try_for_each(one_name) {
            Err(e) => notices.problem(&format!("{host}/{name}"), &format!("{e}; the next run tries again")),
            _ => left.push(name),
        }
    }
    let takers = takers(host, drives, notices);
    if !takers.is_empty() {
        since::note(boxes, host, drives, notices, || queued.iter().map(|queued| queued.written).min());
        link(boxes, dirs.first(), host, &left, &takers, notices)?;
    }
    Ok(())
}

/// Links files in `split` into the outboxes. A file that cannot be linked is moved back to the spool
/// and reported, and does not affect other files.
fn link<S: AsRef<str>>(
    boxes: &Outboxes,
    dir: Option<&Incoming>,
    host: &Host,
    files: &[S],
    takers: &[String],
    notices: &mut Notices,
) -> Result<()> {
    for (i, (name, why)) in boxes.split(host, files, takers)?.into_iter().enumerate() {
        let back = || -> io::Result<()> {
            boxes.withdraw(host, &name, takers)?;
            let split = Incoming::open(&boxes.split_dir(host))?;
            dir.map_or(Ok(()), |dir| split.rename_into(name.as_ref(), dir, name.as_ref()))
        };
        let where_ = match back() {
            Ok(()) if dir.is_some() => "it stays in the spool".to_owned(),
            Ok(()) => "it stays in split".to_owned(),
            Err(e) => format!("it stays in split ({e})"),
        };
        match i {
            0..FAILED => {
                let what = format!("{host}/{name}");
                notices.problem(&what, &format!("{why}; {where_}, and the next run tries again"));
            }
            _ => notices.problem(&format!("{host}/..."), "more files cannot be distributed; the next run tries again"),
        }
    }
    Ok(())
}

/// Splits the files that have arrived in the directory of `host`.
fn take(boxes: &Outboxes, dir: &Incoming, host: &Host, drives: &[Drive], notices: &mut Notices) -> Result<()> {
    let listing = Listing::of(dir, Listing::MOST)?;
    listing.report_foreign(host, notices);
    let (found, others): (Vec<_>, Vec<_>) = listing.queue.into_iter().partition(|(parsed, _)| parsed.host == *host);
    for (parsed, name) in &others {
        let what = format!("{host}/{}", shown(name));
        notices.problem(&what, &format!("is a file of {}, not of {host}; ignored", parsed.host));
    }
    if listing.more > 0 {
        let text = format!("{host}: holds more than {} queue files; the next run takes what is newer", Listing::MOST);
        notices.problem_in_words(&format!("{host}/."), &text);
    }
    if found.is_empty() {
        return Ok(());
    }
    let takers = takers(host, drives, notices);
    if takers.is_empty() {
        return Ok(());
    }
    let written = |name| u64::try_from(dir.stat(name).ok()??.st_mtime).ok();
    since::note(boxes, host, drives, notices, || found.iter().filter_map(|(_, name)| written(name)).min());
    let split = boxes.split_dir(host);
    make_dirs(&split)?;
    let split = Incoming::open(&split)?;
    for batch in found.chunks(BATCH) {
        cancel::check()?;
        let opened: Vec<(&OsString, File)> =
            batch.iter().filter_map(|(_, name)| Some((name, open(dir, host, name, notices)?))).collect();
        // The program that wrote the files may not have synced them.
        let synced = sync_files(&opened.iter().map(|(_, file)| file).collect::<Vec<_>>(), &|| {});
        let mut moved = Vec::new();
        for (name, file) in &opened {
            // After a failure, sync each file alone to find the ones that cause it.
            if let Err(e) = if synced.is_ok() { Ok(()) } else { sync_files(&[file], &|| {}) } {
                notices.problem(&format!("{host}/{}", shown(name)), &format!("cannot be synced: {e}; ignored"));
                continue;
            }
            let real = name_of(name);
            match dir.rename_unsynced(name, &split, real.as_ref()) {
                Ok(()) => moved.push(real),
                Err(e) => notices.problem(&format!("{host}/{}", shown(name)), &format!("cannot be moved: {e}")),
            }
        }
        if !moved.is_empty() {
            split.sync()?;
            dir.sync()?;
            link(boxes, Some(dir), host, &moved, &takers, notices)?;
        }
        moved.iter().for_each(|name| log::info(format_args!("{name} goes to {}", takers.join(", "))));
    }
    Ok(())
}

/// Opens a regular file of the spool's owner. Anything else is reported and stays where it is.
fn open(dir: &Incoming, host: &Host, name: &OsString, notices: &mut Notices) -> Option<File> {
    let what = format!("{host}/{}", shown(name));
    match dir.open_file(name) {
        Ok(file) => return Some(file),
        Err(Unsafe::Gone) => {}
        Err(Unsafe::Not(why)) => notices.problem(
            &what,
            &format!("{why}; ignored: a queue file is a regular file of the spool's owner, with one name"),
        ),
        Err(Unsafe::Io(e)) => notices.problem(&what, &format!("{e}; ignored: correct its owner or mode")),
    }
    None
}
