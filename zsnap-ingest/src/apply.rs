//! The effects of a run: passes a verified file to its receiver, writes the journals, removes the file. The order of
//! the steps is that of ARCHITECTURE.md, "What a crash leaves": check that the snapshot exists, then write the journal;
//! after that, the caller removes the file.

use std::io::{ErrorKind, Write};

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::report;
use zsnap_common::names::target::Target;

use crate::config::CommandTable;
use crate::inbox::{File, Place};
use crate::joined::Joined;
use crate::opened::Opened;
use crate::plan::{Facts, Past};
use crate::pool::{Pool, Tree};
use crate::receive::{Ended, Unwrap};
use crate::shared::{Shared, lock};
use crate::{beside, command, inbox, journal};

/// How a `zfs receive` without a failure ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// All snapshots exist.
    All,
    /// The dataset was modified after the base: nothing more was received.
    Modified,
}

/// Receives a ZFS stream without its first `skip` substreams. `tree`, `past` and the journal are updated with what was
/// committed, even if a later substream fails.
pub fn receive(
    shared: &Shared<'_>,
    pool: &Pool<'_>,
    tree: &mut Tree,
    past: &mut Past,
    facts: &Facts,
    opened: Opened,
    skip: usize,
) -> Result<Received> {
    let target = &facts.target;
    tree.make_parents(pool.zfs, target)?;
    let name = tree.name(target);
    past.rewind(tree.snapshots(&name));
    past.learn(facts, tree.snapshots(&name));
    let mut unwrap = Unwrap::new(pool.zfs, &name, skip, shared.config.receiving(&target.host));
    let replayed = opened.replay(&format!("receiving {target}"), &mut unwrap);
    let Ended { committed, result: received, modified } = unwrap.end();
    // The receiver's own error says more than the broken pipe that results from it.
    let result = received.and(replayed);
    if let Some((sub, base)) = tree.back_dated(&name, &committed) {
        let what = format!(
            "is dated {}, before the snapshot that it builds on ({}): the clock of {} was set back, or somebody chose \
             that date; see what zsnap-expire -n makes of it",
            report::time(sub.created),
            report::time(base),
            target.host
        );
        shared.notices().oddity(&format!("{target}@{}", sub.snap), &what);
    }
    for sub in &committed {
        tree.received(&name, sub);
        past.commit(sub.from, sub.to, sub.raw);
    }
    if result.is_ok() {
        past.done(facts);
    }
    if result.is_ok() || !committed.is_empty() {
        journal::write(&journal::dataset_path(&shared.config.state, pool.guid, target), past)?;
    }
    let Err(e) = result else { return Ok(Received::All) };
    // If the pool hangs, this fails as well, but the receiver's error says more.
    let refreshed = tree.refresh(pool.zfs, &name);
    if modified {
        refreshed?;
        log::info(format!("{e:#}"));
        return Ok(Received::Modified);
    }
    Err(e)
}

/// Passes an opaque stream to its command.
pub fn run_command(
    shared: &Shared<'_>,
    table: &CommandTable,
    target: &Target,
    name: &str,
    opened: Opened,
) -> Result<()> {
    let Some(manifest) = opened.manifest().cloned() else { return Err(Exit::Data.error("no manifest")) };
    log::info(format!("applying {name} to {}", table.target.display()));
    let alone = shared.target(&table.target);
    let _alone = lock(&alone);
    let feed = |out: &mut dyn Write| opened.replay(&format!("applying {target}"), out);
    command::apply(table, target, name, &manifest, shared.config.receive_timeout, feed)
}

/// Records in the journal of a pool that the snapshots of a file that is not applied exist already.
pub fn learn(shared: &Shared<'_>, tree: &Tree, past: &mut Past, facts: &Facts) -> Result<()> {
    let (Some(pool), before, target) = (shared.pool.as_ref(), past.clone(), &facts.target) else { return Ok(()) };
    past.learn(facts, tree.snapshots(&tree.name(target)));
    past.done(facts);
    if *past == before {
        return Ok(());
    }
    journal::write(&journal::dataset_path(&shared.config.state, pool.guid, target), past)
}

/// Removes a file, if it is still the one that was opened. There is no fsync: if the file is back after a loss of
/// power, the next run finds in the journal that it was applied. Returns `false` if nobody may remove it: its file
/// system is read-only, or its directory denies it.
pub fn remove(place: &Place, file: &File, content: &Joined) -> Result<bool> {
    match inbox::remove(&place.dir, file.stored(), content) {
        Err(e) if matches!(e.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => {
            log::info(format!("{e}; it stays"));
            return Ok(false);
        }
        Ok(false) => {
            log::warn(format!("{}: changed meanwhile; not removed", place.dir.path().join(file.shown()).display()));
        }
        other => drop(other.or_exit(Exit::Io, "removing an applied file")?),
    }
    Ok(true)
}

/// Records in the journal that a stream was not passed to its command, because what was applied came after it.
pub fn passed(shared: &Shared<'_>, facts: &Facts) -> Result<()> {
    let Some(table) = shared.config.command_for(&facts.target) else { return Ok(()) };
    let alone = shared.target(&table.target);
    let _alone = lock(&alone);
    let mut all = beside::read(&table.target)?;
    if let (Some(applied), Some(number)) = (all.get_mut(&facts.target.to_string()), &facts.number) {
        applied.passed(number);
        beside::write(&table.target, &all)?;
    }
    Ok(())
}
