//! Does what the plan says with a file.

use std::fs::File as Fd;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::names::target::Target;

use super::HostRun;
use crate::apply::{self, Received};
use crate::file::HeldFile;
use crate::journal;
use crate::plan::{Facts, Standing};

impl HostRun<'_> {
    /// Verifies a file if it is not held open, and does what the plan says with it.
    pub(super) fn act(&mut self, target: &Target, at: usize, standing: Standing) -> Result<()> {
        let planned = self.files[at].facts().cloned();
        let kept = match self.files[at].kept.take() {
            Some(kept) => Some(kept),
            None => self.verify(at)?,
        };
        let same = planned.filter(|facts| self.files[at].facts() == Some(facts));
        let (Some(facts), Some(kept)) = (same, kept) else {
            // Somebody has changed the file since it was planned. It is verified again only once; otherwise somebody
            // who changes it again and again could keep the run busy forever.
            if self.files[at].is_open() {
                self.files[at].settled = Some(Standing::Skipped("it was replaced meanwhile".into()));
            }
            self.plan_again();
            return Ok(());
        };
        let result = match standing {
            Standing::Ready { skip, again } => {
                if again {
                    log::warn(format!("{}: was received before, and is gone: was the pool rewound?", self.key(at)));
                }
                self.apply(&facts, at, kept, skip)
            }
            Standing::Refused(why) => self.quarantine(at, &kept.fd, &why),
            Standing::AlreadyThere => self.remove_needless(&facts, at, &kept.fd, false),
            Standing::Stale => self.remove_needless(&facts, at, &kept.fd, true),
            _ => Ok(()),
        };
        result.or_else(|e| {
            self.plan_again();
            self.fail(target, Some(at), e)
        })
    }

    /// Passes a file to its receiver.
    fn apply(&mut self, facts: &Facts, at: usize, kept: HeldFile<'_>, skip: usize) -> Result<()> {
        let target = &facts.target;
        let shared = self.shared;
        let HeldFile { opened, fd, room: _room, slot: _slot } = kept;
        if opened.stream().is_none() {
            let Some(table) = shared.config.command_for(target) else { return Ok(()) };
            apply::run_command(shared, table, target, &self.files[at].name, opened)?;
            return self.remove(at, &fd);
        }
        let Some(pool) = shared.pool.as_ref() else { return Ok(()) };
        let Some(past) = self.pasts.get_mut(target) else { return Ok(()) };
        match apply::receive(shared, pool, &mut self.tree, past, facts, opened, skip)? {
            Received::All => self.remove(at, &fd),
            Received::Modified => {
                let name = self.tree.name(target);
                self.files[at].entry.refused_at = self.tree.there(&name, None).head();
                self.files[at].refused = true;
                self.plan_again();
                Ok(())
            }
        }
    }

    /// Removes a file that contains nothing new, and records that in the journal.
    fn remove_needless(&mut self, facts: &Facts, at: usize, fd: &Fd, is_stale: bool) -> Result<()> {
        let target = &facts.target;
        let why = if is_stale { "what was applied came after it" } else { "it is there already" };
        if is_stale {
            if let Some(table) = self.shared.config.command_for(target) {
                apply::passed(self.shared, table, facts)?;
            }
        }
        if let (Some(pool), Some(past)) = (self.shared.pool.as_ref(), self.pasts.get_mut(target)) {
            let before = past.clone();
            past.learn(facts, self.tree.snapshots(&self.tree.name(target)));
            past.done(facts);
            if *past != before {
                journal::write(&journal::dataset_path(&self.shared.config.state, pool.guid, target), past)?;
            }
        }
        log::info(format!("{}: removed: {why}", self.key(at)));
        self.remove(at, fd)
    }

    fn remove(&mut self, at: usize, fd: &Fd) -> Result<()> {
        let file = &mut self.files[at];
        let Some(place) = self.places.get(file.place) else { return Ok(()) };
        file.is_gone = true;
        if !place.dir.remove_if_same(&file.name, fd).or_exit(Exit::Io, "removing an applied file")? {
            log::warn(format!("{}: changed meanwhile; not removed", place.dir.path().join(&file.name).display()));
        }
        Ok(())
    }

    /// Handles the failure of a program or disk: this target is skipped for the rest of the run; others continue.
    pub(super) fn fail(&mut self, target: &Target, at: Option<usize>, e: anyhow::Error) -> Result<()> {
        self.stopped.insert(target.clone());
        match at {
            Some(at) => self.failed_over(at, e),
            None => self.shared.passed(target, e),
        }
    }

    /// Records and reports that a program or disk failed while a file was processed.
    pub fn failed_over(&mut self, at: usize, e: anyhow::Error) -> Result<()> {
        let why = format!("{e:#}");
        self.shared.passed(self.key(at), e)?;
        let file = &mut self.files[at];
        file.entry.attempts += 1;
        file.entry.failure = Some(why);
        file.settled = file.failure().map(Standing::Failed);
        Ok(())
    }
}
