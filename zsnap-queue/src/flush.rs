//! The subcommands `flush` and `adopt`, which work on the state without a stream.

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::options;
use zsnap_common::names::target::Target;
use zsnap_message::keys::SigningKey;

use crate::aboard::{self, Left};
use crate::cli::Options;
use crate::delivery;
use crate::destination;
use crate::host;
use crate::job;
use crate::recover::recover;
use crate::state::{self, CommitError, State};
use crate::summary;

/// Finishes what crashes left, and delivers what waits in every outbox.
pub fn flush(o: &Options) -> anyhow::Result<Exit> {
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    if !is_there(&dir)? {
        return Ok(Exit::Done);
    }
    let state = State::read(&dir);
    let (mut exit, left) = state
        .and_then(|state| state.map_or(Ok((Exit::Done, Vec::new())), |state| finish_all(&state, o)))
        .unwrap_or_else(|e| {
            // Go on: the files in the outboxes are queued, and delivering them does not need the state.
            log::error(format_args!("{e:#}"));
            (Exit::TryAgain, Vec::new())
        });
    let boxes = state::outboxes(&dir);
    let transport = job::transport(o);
    let destinations = delivery::all(&boxes, destination::configured(&o.to, &transport), &transport).or_else(|e| {
        let worst = exit.max(Exit::of(&e));
        Err(e).or_exit(worst, "nothing was delivered")
    })?;
    let outcomes = delivery::deliver(&boxes, destinations, false);
    summary::flushed(&boxes, &outcomes, &left);
    delivery::report_forgotten(&boxes, &o.to, false);
    let left: Vec<_> = left.iter().map(|left| (&left.dest, left.text.as_str())).collect();
    let told = delivery::report_left(&boxes, &outcomes, &left);
    if told || outcomes.iter().any(|o| o.reported && o.destination.configured) {
        exit = exit.max(Exit::SomeFailed);
    }
    Ok(exit)
}

/// Finishes or withdraws what crashes left of each dataset.
pub fn finish(state: &State, o: &Options) -> anyhow::Result<Exit> {
    let (exit, left) = finish_all(state, o)?;
    left.iter().for_each(Left::log);
    Ok(exit)
}

/// Does what [`finish`] does, and also returns the files that wait on drives without their places.
fn finish_all(state: &State, o: &Options) -> anyhow::Result<(Exit, Vec<Left>)> {
    let (mut exit, mut left) = (Exit::Done, Vec::new());
    for target in state.targets()? {
        let recovered = match state.try_lock(&target) {
            // The process that holds the lock has recovered the dataset.
            Ok(None) => continue,
            Ok(Some(dataset)) => recover(&dataset).and_then(|past| aboard::settle(&dataset, past, o)),
            Err(e) => Err(e),
        };
        match recovered {
            Ok(settled) => left.extend(settled.left),
            Err(e) => {
                log::error(format_args!("{target}: {e:#}"));
                exit = Exit::TryAgain;
            }
        }
    }
    Ok((exit, left))
}

/// Accepts the next incremental of each target whatever its base.
pub fn adopt(o: &Options, targets: &[OsString], now: u64) -> anyhow::Result<Exit> {
    // Only for its host: a key that cannot be used does not prevent this.
    let signer = o.signing_key.as_ref().and_then(|file| SigningKey::load(file, SystemTime::now()).ok());
    let parse = |operand: &OsString| {
        let target = job::lenient(operand, o.strip.as_deref())?;
        let of_key = signer.as_ref().and_then(|key| key.host.as_ref());
        host::check(o, of_key, &operand.to_string_lossy(), &target).map(|()| target)
    };
    let targets: Vec<_> = targets.iter().map(parse).collect::<anyhow::Result<_>>()?;
    let state = State::open(&options::state_dir(o.state.as_deref(), "queue")?, now)?;
    let mut exit = Exit::Done;
    for target in &targets {
        match adopt_one(&state, target) {
            Ok(()) => log::outcome(format_args!("{target}: the next incremental is accepted whatever its base")),
            Err(e) => {
                log::error(format_args!("{target}: {e:#}"));
                exit = exit.max(Exit::of(&e));
            }
        }
    }
    Ok(exit)
}

fn adopt_one(state: &State, target: &Target) -> anyhow::Result<()> {
    let Some(dataset) = state.try_lock(target)? else {
        return Err(Exit::TryAgain.error("another zsnap-queue works on it: run again when it has ended"));
    };
    let mut state = recover(&dataset)?;
    state.chain.adopted = true;
    dataset.commit(&state).map_err(CommitError::into_inner)
}

/// Returns the state, or `None` if nothing was ever queued.
pub fn existing(dir: &Path) -> anyhow::Result<Option<State>> {
    if is_there(dir)? { State::read(dir) } else { Ok(None) }
}

/// Returns whether the state directory exists, which must then be safe.
pub fn is_there(dir: &Path) -> anyhow::Result<bool> {
    let is_there = dir.try_exists().or_exit(Exit::TryAgain, dir.display())?;
    if is_there {
        state::safe(dir)?;
    }
    Ok(is_there)
}
