//! The subcommands `redirect` and `drop`, for files that wait for a destination that is not in the configuration any
//! more, such as an NNCP node with a misspelt name.

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::options;
use zsnap_common::durable::dest::Dest;
use zsnap_common::durable::outbox::Queued;
use zsnap_common::locks::flock::Lock;

use crate::cli::Options;
use crate::delivery;
use crate::destination;
use crate::flush::{existing, finish};
use crate::job;
use crate::recover::recover;
use crate::state::{CommitError, Locked, State};

/// Moves what waits for the destination `old`, which is not configured, to the outbox of `new`, which is. It can be
/// repeated after a crash at any point.
pub fn redirect(o: &Options, old: &str, new: &Dest) -> anyhow::Result<Exit> {
    let (state, from) = find(o, old)?;
    if !o.to.contains(new) || *new == Dest::Stdout {
        let remedy = "name one of the key \"to\" that keeps files";
        return Err(Exit::Config.error(format!("{new} is not in the configuration, or has no outbox: {remedy}")));
    }
    let (boxes, to) = (state.outboxes(), new.id());
    let destinations = destination::configured(std::slice::from_ref(new), &job::transport(o));
    alone(&state, &from, |waiting, datasets| {
        for queued in waiting {
            delivery::prepare(&boxes, &queued.parsed.host, &destinations)?;
        }
        let (count, failed) = boxes.refill(&to, &boxes.dir(&from)).or_exit(Exit::Io, "filling the outbox")?;
        if let Some((file, e)) = failed.into_iter().next() {
            return Err(Exit::Io.error(format!("{file} cannot be moved: {e}; nothing was removed")));
        }
        // From here on `status` counts the newest file, where it waits, as sent to the new destination.
        for dataset in datasets {
            let mut past = recover(dataset)?;
            let waits = newest_waits(dataset, past.file.as_deref(), waiting);
            if waits && past.destinations.contains(&from) {
                past.destinations.retain(|id| *id != from && *id != to);
                past.destinations.push(to.clone());
                dataset.commit(&past).map_err(CommitError::into_inner)?;
            }
        }
        log::outcome(format_args!("{count} files wait for {new} now; zsnap-queue flush delivers them"));
        Ok(())
    })
}

/// Removes what waits for the destination `old`, which is not configured.
pub fn discard(o: &Options, old: &str) -> anyhow::Result<Exit> {
    let (state, from) = find(o, old)?;
    alone(&state, &from, |waiting, datasets| {
        // Otherwise `status` would call the file delivered if the destination is configured again.
        for dataset in datasets {
            let mut past = recover(dataset)?;
            if newest_waits(dataset, past.file.as_deref(), waiting) && past.destinations.contains(&from) {
                past.destinations.retain(|id| *id != from);
                dataset.commit(&past).map_err(CommitError::into_inner)?;
            }
        }
        log::outcome(format_args!("{} files that waited for {old} were removed", waiting.len()));
        Ok(())
    })
}

/// Whether the newest file of a dataset is among those that wait.
fn newest_waits(dataset: &Locked<'_>, newest: Option<&str>, waiting: &[Queued]) -> bool {
    let is_it =
        |queued: &Queued| Some(queued.original()) == newest && dataset.state.is_of(&queued.parsed, dataset.target);
    waiting.iter().any(is_it)
}

/// Returns the state, and the name of the outbox of `old`: a destination, or the name itself, for an outbox whose
/// destination cannot be read.
fn find(o: &Options, old: &str) -> anyhow::Result<(State, String)> {
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let none = || Exit::Usage.error(format!("nothing waits for {old}: zsnap-queue status shows the destinations"));
    let state = existing(&dir)?.ok_or_else(none)?;
    let id = old.parse::<Dest>().map_or_else(|_| old.to_owned(), |dest| dest.id());
    let names = state.outboxes().names().or_exit(Exit::TryAgain, "cannot read the outboxes")?;
    if !names.contains(&id) {
        return Err(none());
    }
    if o.to.iter().any(|dest| dest.id() == id) {
        return Err(Exit::Config.error(format!("{old} is in the configuration: remove it there first")));
    }
    // A file may not have its links yet.
    if finish(&state, o)? != Exit::Done {
        return Err(Exit::TryAgain.error("nothing was moved or removed"));
    }
    for target in state.targets()? {
        let aboard = state.acknowledged(&target)?.aboard;
        if let Some(file) = aboard.iter().find(|file| file.dest.id() == id) {
            let remedy = "attach that drive, and run zsnap-queue flush first";
            let (file, outbox) = (&file.file, file.outbox.display());
            return Err(Exit::TryAgain.error(format!("{file} is on the drive, in {outbox}: {remedy}")));
        }
    }
    match state.outboxes().waiting(&id).or_exit(Exit::TryAgain, "cannot read the outbox")?.is_empty() {
        true => Err(none()),
        false => Ok((state, id)),
    }
}

/// Has `work` done with the files that wait in the outbox `from`, and then removes these files there: those that come
/// meanwhile, from a run with an older configuration, stay. Nobody else works on the datasets or the outbox.
fn alone(
    state: &State,
    from: &str,
    work: impl FnOnce(&[Queued], &[Locked<'_>]) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let boxes = state.outboxes();
    let _lock = Lock::try_new(&boxes.lock(from))?.ok_or_else(|| busy("the destination"))?;
    let targets = state.targets()?;
    let lock = |target| state.try_lock(target)?.ok_or_else(|| busy(&format!("{target}")));
    let datasets = targets.iter().map(lock).collect::<anyhow::Result<Vec<_>>>()?;
    let waiting = boxes.waiting(from).or_exit(Exit::TryAgain, "cannot read the outbox")?;
    work(&waiting, &datasets)?;
    boxes.unqueue(from, &waiting).or_exit(Exit::Io, "removing what was moved")?;
    Ok(Exit::Done)
}

fn busy(what: &str) -> anyhow::Error {
    Exit::TryAgain.error(format!("another zsnap-queue works on {what}: run again when it has ended"))
}
