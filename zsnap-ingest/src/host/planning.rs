//! Determines the standing of each file of a host: that of the planner if everything that it needs is available, or
//! else what prevents it. It reads journals and directories, and changes nothing except that it rebuilds a lost journal.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;

use crate::host::HostRun;
use crate::journal;
use crate::plan::{self, Past, Plan, Standing};
use crate::{beside, command, pool::Pool};

/// The plan for a target, with the indices of the host's files.
#[derive(Debug, Default)]
pub struct Planned {
    /// The standings by index of the file.
    pub standings: BTreeMap<usize, Standing>,
    /// The files to apply, in this order.
    pub path: Vec<usize>,
}

impl HostRun<'_> {
    /// Plans the files that are known to be for a target, if no plan is there that still holds.
    pub(super) fn make_plan(&mut self, target: &Target) -> Result<()> {
        if !self.plans.contains_key(target) {
            let planned = self.planned(target)?;
            self.plans.insert(target.clone(), planned);
        }
        Ok(())
    }

    fn planned(&mut self, target: &Target) -> Result<Planned> {
        let is_zfs = |&at: &usize| self.inbox.file(at).facts().is_some_and(|facts| !facts.links.is_empty());
        let (zfs, opaque): (Vec<usize>, Vec<usize>) = self.inbox.of(target).partition(is_zfs);
        let mut planned = Planned::default();
        for (files, zfs) in [(zfs, true), (opaque, false)] {
            if files.is_empty() {
                continue;
            }
            match if zfs { self.zfs(target, &files)? } else { self.opaque(target, &files)? } {
                Ok(plan) => {
                    planned.path.extend(plan.path.iter().map(|&at| files[at]));
                    let index = |at: usize, standing| match standing {
                        // Elsewhere it would have been removed.
                        standing if self.inbox.file(at).entry().kept && !standing.is_ready() => Standing::Kept,
                        Standing::Waiting { why, behind: Some(behind) } => {
                            Standing::Waiting { why, behind: files.get(behind).copied() }
                        }
                        Standing::Waiting { why, behind: None } => self.behind_silent(at, why),
                        standing => standing,
                    };
                    let standings = plan.standings.into_iter().zip(&files);
                    planned.standings.extend(standings.map(|(standing, &at)| (at, index(at, standing))));
                }
                Err(same) => planned.standings.extend(files.iter().map(|&at| (at, same.clone()))),
            }
        }
        Ok(planned)
    }

    /// Looks for what a file waits for among the files whose content is not known.
    fn behind_silent(&self, at: usize, why: String) -> Standing {
        let front = self.inbox.file(at).facts().and_then(|facts| self.inbox.silent_base(facts));
        let Some(front) = front else { return Standing::Waiting { why, behind: None } };
        let stands = match self.unplanned(front).map(|standing| standing.message(false)) {
            Some(message) if !message.is_empty() => message,
            _ => "the next run reads it".to_owned(),
        };
        let name = self.inbox.file(front).shown();
        Standing::Waiting { why: format!("behind {name}, which is here: {stands}"), behind: Some(front) }
    }

    /// Returns the standing of a file that is, by its name, for a pool that is away. Such a file need not be examined
    /// in every run until the drive returns.
    pub(super) fn away(&self, at: usize) -> Option<Standing> {
        let named = self.inbox.file(at).named().filter(|named| self.shared.config.command_for(named).is_none());
        named.and(self.shared.away())
    }

    /// Returns the standing of a file about which the plan does not decide; `None`: it decides.
    fn unplanned(&self, at: usize) -> Option<Standing> {
        let file = self.inbox.file(at);
        let standing = match file.standing()? {
            Standing::New => self.away(at).unwrap_or(Standing::New),
            standing => standing,
        };
        Some(standing.after(file.failure()))
    }

    /// Returns the standing of every file that still exists, in the order in which a run processes them.
    pub fn standings(&mut self) -> Result<Vec<(usize, Standing)>> {
        // By index of the file: its position in the order (first file of its target, turn), and the standing.
        let mut all: BTreeMap<usize, ((usize, usize), Standing)> = BTreeMap::new();
        for target in self.inbox.targets() {
            if let Err(e) = self.make_plan(&target) {
                let failed = Standing::Failed(format!("{e:#}"));
                if !self.stopped.contains(&target) {
                    self.fail(&target, None, e)?;
                }
                all.extend(self.inbox.of(&target).map(|at| (at, ((at, 0), failed.clone()))));
                continue;
            }
            let Some(Planned { standings, path }) = self.plans.get(&target) else { continue };
            let first = standings.keys().next().copied().unwrap_or(0);
            let turns: HashMap<usize, usize> = path.iter().enumerate().map(|(turn, &at)| (at, turn + 1)).collect();
            for (&at, standing) in standings {
                let last = turns.get(&at).copied().unwrap_or(usize::MAX);
                let turn = if standing.is_needless() { 0 } else { last };
                all.insert(at, ((first, turn), standing.clone().after(self.inbox.file(at).failure())));
            }
            if self.shared.dry && !path.is_empty() {
                self.tree.expect(&target);
            }
        }
        let unplanned = self.inbox.remaining().filter_map(|(at, _)| Some((at, ((at, 0), self.unplanned(at)?))));
        all.extend(unplanned);
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|&(_, (place, _))| place);
        Ok(all.into_iter().map(|(at, (_, standing))| (at, standing)).collect())
    }

    fn zfs(&mut self, target: &Target, files: &[usize]) -> Result<Result<Plan, Standing>> {
        let config = self.shared.config;
        let Some(store) = &config.store else {
            return Ok(Err(Standing::Held("a ZFS stream, and no store is configured; specify --store".into())));
        };
        if let Err(e) = target.under(&store.name) {
            return Ok(Err(Standing::Held(format!("{e}; a shorter store helps"))));
        }
        let Some(pool) = self.shared.pool.as_ref() else {
            return Ok(Err(self.shared.away().unwrap_or(Standing::New)));
        };
        self.load_past(pool, target)?;
        let create = config.hosts.get(&target.host).map_or(&[][..], |table| &table.create_parents);
        let parent = self.tree.missing_parent(target, create);
        // A file that was not read may bring what another one waits for.
        let unread = self.inbox.has_silent(target);
        let name = self.tree.name(target);
        let none = Past::default();
        let past = self.pasts.get(target).unwrap_or(&none);
        let there = self.tree.there(&name, parent.as_ref());
        Ok(Ok(plan::zfs(&there, &self.inbox.pending(files, there.head()), past, unread)))
    }

    /// Reads the journal of a target. If it is lost or damaged, it is rebuilt from the snapshots on the pool.
    fn load_past(&mut self, pool: &Pool<'_>, target: &Target) -> Result<()> {
        if self.pasts.contains_key(target) {
            return Ok(());
        }
        let path = journal::dataset_path(&self.shared.config.state, pool.guid, target);
        let name = self.tree.name(target);
        let snapshots = self.tree.snapshots(&name);
        let why = match journal::read(&path) {
            Ok(Some(past)) => {
                self.pasts.insert(target.clone(), past);
                return Ok(());
            }
            Ok(None) if snapshots.is_empty() => None,
            Ok(None) => Some(format!("{target}: no journal")),
            Err(e) if journal::is_damaged(&e) => Some(format!("{e:#}")),
            Err(e) => return Err(e),
        };
        let past = Past { committed: snapshots.iter().map(|s| s.guid).collect(), ..Past::default() };
        if let Some(why) = why.filter(|_| !self.shared.dry) {
            log::warn(format!("{why}; rebuilt from {} snapshots of {name}", snapshots.len()));
            journal::write(&path, &past)?;
        }
        self.pasts.insert(target.clone(), past);
        Ok(())
    }

    fn opaque(&self, target: &Target, files: &[usize]) -> Result<Result<Plan, Standing>> {
        let Some(table) = self.shared.config.command_for(target) else {
            let why = format!("no command receives {target}; add a [[command]] that matches it");
            return Ok(Err(Standing::Held(why)));
        };
        if let Err(why) = command::check_target(&table.target) {
            let is_away = !table.target.exists();
            return Ok(Err(if is_away { Standing::Away(why) } else { Standing::Held(why) }));
        }
        match beside::check(&table.target, self.shared.dry) {
            Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Other) => {
                return Ok(Err(Standing::Held(e.to_string())));
            }
            checked => checked.or_exit(Exit::TryAgain, "journal")?,
        }
        let applied = match beside::read(&table.target) {
            Ok(applied) => applied,
            Err(e) if journal::is_damaged(&e) => {
                return Ok(Err(Standing::Broken(format!(
                    "{e:#}; look at the target, then: zsnap-ingest forget {}, and queue a new --full",
                    quoted(&target.to_string())
                ))));
            }
            Err(e) => return Err(e),
        };
        Ok(Ok(plan::opaque(&self.inbox.pending(files, None), applied.get(&target.to_string()), table.overlap)))
    }
}
