//! The subcommands `redirect` and `drop`, for files that wait for a destination that is not in the configuration any
//! more, such as an NNCP node with a misspelt name.

use std::fs;

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::options;
use zsnap_common::durable::dest::Dest;
use zsnap_common::durable::outbox::Outboxes;
use zsnap_common::locks::flock::Lock;

use crate::cli::Options;
use crate::delivery;
use crate::destination;
use crate::flush::{existing, finish};
use crate::job;
use crate::recover::recover;
use crate::state::{CommitError, State};

/// Moves what waits for the destination `old`, which is not configured, to the outbox of `new`, which is. It can be
/// repeated after a crash at any point.
pub fn redirect(o: &Options, old: &str, new: &Dest) -> anyhow::Result<Exit> {
    let (state, boxes, from) = find(o, old)?;
    if !o.to.contains(new) {
        return Err(Exit::Config.error(format!("{new} is not in the configuration: add it to the key \"to\" first")));
    }
    let to = new.id();
    let _lock = lock(&boxes, &from)?;
    let destinations = destination::configured(std::slice::from_ref(new), &job::transport(o));
    let waiting = boxes.waiting(&from).or_exit(Exit::TryAgain, "cannot read the outbox")?;
    for queued in &waiting {
        delivery::prepare(&boxes, &queued.parsed.host, &destinations)?;
    }
    let (count, failed) = boxes.refill(&to, &boxes.dir(&from)).or_exit(Exit::Io, "filling the outbox")?;
    if let Some((file, e)) = failed.into_iter().next() {
        return Err(Exit::Io.error(format!("{file} cannot be moved: {e}; nothing was removed")));
    }
    // From here on `status` counts the newest file as sent to the new destination.
    for target in state.targets()? {
        let Some(dataset) = state.try_lock(&target)? else { return Err(busy(&target.to_string())) };
        let mut past = recover(&dataset)?;
        if past.destinations.contains(&from) {
            past.destinations.retain(|id| *id != from && *id != to);
            past.destinations.push(to.clone());
            dataset.commit(&past).map_err(CommitError::into_inner)?;
        }
    }
    remove(&boxes, &from)?;
    log::outcome(format_args!("{count} files wait for {new} now; zsnap-queue flush delivers them"));
    Ok(Exit::Done)
}

/// Removes what waits for the destination `old`, which is not configured.
pub fn discard(o: &Options, old: &str) -> anyhow::Result<Exit> {
    let (_, boxes, from) = find(o, old)?;
    let _lock = lock(&boxes, &from)?;
    let waiting = boxes.waiting(&from).or_exit(Exit::TryAgain, "cannot read the outbox")?;
    remove(&boxes, &from)?;
    log::outcome(format_args!("{} files that waited for {old} were removed", waiting.len()));
    Ok(Exit::Done)
}

/// Returns the state, its outboxes, and the name of the outbox of `old`: a destination, or the name itself, for an
/// outbox whose destination cannot be read.
fn find(o: &Options, old: &str) -> anyhow::Result<(State, Outboxes, String)> {
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let none = || Exit::Usage.error(format!("nothing waits for {old}: zsnap-queue status shows the destinations"));
    let state = existing(&dir)?.ok_or_else(none)?;
    let boxes = state.outboxes();
    let names = boxes.names().or_exit(Exit::TryAgain, "cannot read the outboxes")?;
    let id = old.parse::<Dest>().map_or_else(|_| old.to_owned(), |dest| dest.id());
    if !names.contains(&id) {
        return Err(none());
    }
    if o.to.iter().any(|dest| dest.id() == id) {
        return Err(Exit::Config.error(format!("{old} is in the configuration: remove it there first")));
    }
    // A file may not have its links yet.
    match finish(&state, o)? {
        Exit::Done => Ok((state, boxes, id)),
        _ => Err(Exit::TryAgain.error("nothing was moved or removed")),
    }
}

fn lock(boxes: &Outboxes, id: &str) -> anyhow::Result<Lock> {
    Lock::try_new(&boxes.lock(id))?.ok_or_else(|| busy("the destination"))
}

fn busy(what: &str) -> anyhow::Error {
    Exit::TryAgain.error(format!("another zsnap-queue works on {what}: run again when it has ended"))
}

fn remove(boxes: &Outboxes, id: &str) -> anyhow::Result<()> {
    let dir = boxes.dir(id);
    fs::remove_dir_all(&dir).or_exit(Exit::Io, dir.display())
}
