//! Judges each file of a host: the verdict of the planner if everything that it needs is available, or else what
//! prevents it. It reads journals and directories, and changes nothing except that it rebuilds a lost journal.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::shown;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;

use crate::config::CommandTable;
use crate::file::{Fate, File};
use crate::host::HostRun;
use crate::journal;
use crate::known::What;
use crate::plan::{self, Head, Past, Pending, Plan, Verdict};
use crate::{beside, command, pool::Pool};

/// The judgement of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The planner has decided.
    Is(Verdict),
    /// It is held: it is not proven to come from the host, or nothing is configured to receive it. Contains the
    /// remedy.
    Held(String),
    /// It is skipped: its pool or target is away, it may still be arriving, or it was not verified yet. Contains the
    /// reason.
    Later(String),
    /// It is ignored: not a file that zsnap-ingest can use. Contains the reason.
    Ignored(String),
    /// A program or disk failed while it was processed, and that was reported.
    Failed,
}

/// The judgements of all files of one target.
#[derive(Debug, Default)]
pub struct Judged {
    /// The judgements by index of the file.
    pub judgements: BTreeMap<usize, Judgement>,
    /// The files to apply, in this order.
    pub path: Vec<usize>,
}

impl HostRun<'_> {
    /// Judges the files that are known to be for a target.
    pub fn judge(&mut self, target: &Target) -> Result<Judged> {
        let is_zfs = |&at: &usize| self.files[at].facts().is_some_and(|facts| !facts.links.is_empty());
        let (zfs, opaque): (Vec<usize>, Vec<usize>) = self.of(target).partition(is_zfs);
        let mut judged = Judged::default();
        for (files, zfs) in [(zfs, true), (opaque, false)] {
            if files.is_empty() {
                continue;
            }
            match if zfs { self.zfs(target, &files)? } else { self.opaque(target, &files) } {
                Ok(plan) => {
                    judged.path.extend(plan.path.iter().map(|&at| files[at]));
                    let index = |at: usize, verdict| match verdict {
                        Verdict::Waiting { why, behind: Some(behind) } => {
                            Verdict::Waiting { why, behind: files.get(behind).copied() }
                        }
                        Verdict::Waiting { why, behind: None } => self.behind_silent(at, why),
                        verdict => verdict,
                    };
                    let verdicts = plan.verdicts.into_iter().zip(&files);
                    let verdicts = verdicts.map(|(verdict, &at)| (at, Judgement::Is(index(at, verdict))));
                    judged.judgements.extend(verdicts);
                }
                Err(same) => judged.judgements.extend(files.iter().map(|&at| (at, same.clone()))),
            }
        }
        Ok(judged)
    }

    /// Looks for what a file waits for among the files that are held or were not verified. It is recognized by name:
    /// the number that the file builds on, and a matching target.
    fn behind_silent(&self, at: usize, why: String) -> Verdict {
        let facts = self.files.get(at).and_then(File::facts);
        let prev = facts.and_then(|facts| facts.number.as_ref()?.prev);
        let front = prev.and_then(|prev| {
            self.silent.iter().copied().find(|&front| {
                let file = &self.files[front];
                // The number is compared first, because thousands of files may wait for thousands.
                let fits = file.queue.stamp.seq() == prev && file.fate != Fate::Gone;
                fits && facts.is_some_and(|facts| file.queue.may_be(&facts.target))
            })
        });
        let Some(front) = front else { return Verdict::Waiting { why, behind: None } };
        let file = &self.files[front];
        let stands = match (&file.fate, &file.entry.what) {
            (Fate::Later(why) | Fate::Bad(why) | Fate::Doomed(why), _) => why.clone(),
            (_, What::Held(why)) => format!("held: {why}"),
            (Fate::Failed, _) => file.entry.failed_over("it"),
            _ => "the next run reads it".to_owned(),
        };
        Verdict::Waiting { why: format!("behind {}, which is here: {stands}", shown(&file.name)), behind: Some(front) }
    }

    /// Judges every file that still exists, in the order in which a run processes them.
    pub fn judge_all(&mut self) -> Result<Vec<(usize, Judgement)>> {
        // By index of the file: its position in the order (first file of its target, turn), and the judgement.
        let mut all: BTreeMap<usize, ((usize, usize), Judgement)> = BTreeMap::new();
        for target in self.targets() {
            let Judged { judgements, path } = self.judge(&target)?;
            let first = judgements.keys().next().copied().unwrap_or(0);
            let turns: HashMap<usize, usize> = path.iter().enumerate().map(|(turn, &at)| (at, turn + 1)).collect();
            for (at, judgement) in judgements {
                let turn = match judgement {
                    Judgement::Is(Verdict::AlreadyThere | Verdict::Stale | Verdict::Refused(_)) => 0,
                    _ => turns.get(&at).copied().unwrap_or(usize::MAX),
                };
                all.insert(at, ((first, turn), judgement));
            }
            if self.shared.dry && !path.is_empty() {
                self.tree.expect(&target);
            }
        }
        for (at, file) in self.files.iter().enumerate() {
            let judgement = match (&file.fate, &file.entry.what) {
                (Fate::Gone, _) => continue,
                (Fate::Failed, _) => Judgement::Failed,
                (Fate::Later(why), _) => Judgement::Later(why.clone()),
                (Fate::Bad(why), _) => Judgement::Ignored(why.clone()),
                (Fate::Doomed(why), _) => Judgement::Is(Verdict::Refused(why.clone())),
                (Fate::Open, What::Says(_)) => continue,
                (Fate::Open, What::Held(why)) => Judgement::Held(why.clone()),
                (Fate::Open, What::New) => Judgement::Later("not looked at yet".into()),
            };
            all.insert(at, ((at, 0), judgement));
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|&(_, (place, _))| place);
        Ok(all.into_iter().map(|(at, (_, judgement))| (at, judgement)).collect())
    }

    /// Returns what is reported about a file that stays; `None`: nothing need be done, or the file waits for another
    /// one that is reported. `since`: when the file was first seen, in seconds since 1970.
    pub fn remedy(&self, since: u64, verdict: &Verdict) -> Option<String> {
        let why = verdict.why();
        Some(match verdict {
            Verdict::Waiting { behind: Some(_), .. } | Verdict::Ready { .. } => return None,
            Verdict::AlreadyThere | Verdict::Stale | Verdict::Superseded => return None,
            Verdict::Waiting { .. } if self.shared.is_long(since) => {
                format!("waiting {why}; for longer than max-wait: look where that was lost, or queue a full stream")
            }
            Verdict::Waiting { .. } => format!("waiting {why}"),
            Verdict::Broken(_) => format!("broken chain: {why}"),
            _ => format!("{}: {why}", verdict.word()),
        })
    }

    /// Returns what the planner needs to know of these files. `head`: the present state of their dataset.
    fn pending(&self, files: &[usize], head: Option<Head>) -> Vec<Pending<'_>> {
        let pending = |&at: &usize| {
            let file = &self.files[at];
            // A rejected file is attempted once in a run, however often the dataset changes meanwhile.
            let refused_at = if file.refused { head } else { file.entry.refused_at };
            file.facts().map(|facts| Pending { facts, refused_at })
        };
        files.iter().filter_map(pending).collect()
    }

    fn zfs(&mut self, target: &Target, files: &[usize]) -> Result<Result<Plan, Judgement>> {
        let config = self.shared.config;
        let Some((store, _)) = &config.store else {
            return Ok(Err(Judgement::Held("a ZFS stream, and no store is configured; specify --store".into())));
        };
        if let Err(e) = target.under(store) {
            return Ok(Err(Judgement::Held(format!("{e}; a shorter store helps"))));
        }
        let Some(pool) = self.shared.pool.as_ref() else {
            return Ok(Err(Judgement::Later(format!("{store} is absent"))));
        };
        self.load_past(pool, target)?;
        let create = config.hosts.get(&target.host).map_or(&[][..], |table| &table.create_parents);
        let parent = self.tree.missing_parent(target, create);
        // A file that was not read may bring what another one waits for.
        let unread = self.beyond > 0
            || self.silent.iter().any(|&at| {
                let file = &self.files[at];
                file.fate != Fate::Gone && file.queue.may_be(target)
            });
        let name = self.tree.name(target);
        let none = Past::default();
        let past = self.pasts.get(target).unwrap_or(&none);
        let there = self.tree.there(&name, parent.as_ref());
        Ok(Ok(plan::zfs(&there, &self.pending(files, there.head()), past, unread)))
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
            Err(e) => Some(format!("{e:#}")),
        };
        let past = Past { committed: snapshots.iter().map(|s| s.guid).collect(), ..Past::default() };
        if let Some(why) = why.filter(|_| !self.shared.dry) {
            log::warn(format!("{why}; rebuilt from {} snapshots of {name}", snapshots.len()));
            journal::write(&path, &past)?;
        }
        self.pasts.insert(target.clone(), past);
        Ok(())
    }

    fn opaque(&self, target: &Target, files: &[usize]) -> Result<Plan, Judgement> {
        let Some(table) = self.shared.config.command_for(target) else {
            let why = format!("no command receives {target}; add a [[command]] that matches it");
            return Err(Judgement::Held(why));
        };
        let target_of = |table: &CommandTable| {
            command::check_target(&table.target)?;
            beside::check(&table.target, self.shared.dry)
        };
        match target_of(table) {
            Ok(()) => {}
            Err(why) if !table.target.exists() => return Err(Judgement::Later(why)),
            Err(why) => return Err(Judgement::Held(why)),
        }
        let applied = beside::read(&table.target).map_err(|e| {
            Judgement::Is(Verdict::Broken(format!(
                "{e:#}; look at the target, then: zsnap-ingest forget {}, and queue a new --full",
                quoted(&target.to_string())
            )))
        })?;
        Ok(plan::opaque(&self.pending(files, None), applied.get(&target.to_string()), table.overlap))
    }
}
