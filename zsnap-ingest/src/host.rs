//! Processes one host's files in one run: verifies new ones, plans each target, and does what the plan says. It
//! proceeds in steps of one file, so that all hosts get their turn (`run.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;

use anyhow::Result;
use zsnap_common::cli::cancel;
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::Unsafe;
use zsnap_common::names::target::{Host, Target};

use crate::examine::{Examined, VerifiedFile};
use crate::inbox::{Inbox, Place};
use crate::plan::{Past, Standing};
use crate::pool::Tree;
use crate::shared::Shared;

mod act;
mod planning;

use planning::Planned;

/// A step that is still to be done.
enum Todo {
    /// Examine a new file.
    Examine(usize),
    /// Plan the targets of these files, which have the same label.
    Label(Vec<usize>),
    /// Plan a target, and schedule what the plan says.
    Plan(Target),
    /// Do what a plan says with one file.
    Act(Target, usize, Standing),
    /// Plan all targets again until nothing more can be done: a child may have waited for its parent.
    Again,
}

/// A file that was examined ahead of time, by index, and the result.
type Ahead<'a> = (usize, Result<Examined<'a>, Unsafe>);

/// One host in one run.
pub struct HostRun<'a> {
    /// What the hosts of the run share.
    shared: &'a Shared<'a>,
    inbox: Inbox,
    /// What the pool contains of the host.
    tree: Tree,
    /// The journals of its datasets, as far as they were read.
    pasts: BTreeMap<Target, Past>,
    /// The verified files that are kept open until they are applied, by index.
    open_files: BTreeMap<usize, VerifiedFile<'a>>,
    /// The file that was examined while a receiver was working on another one.
    ahead: Option<Ahead<'a>>,
    todo: VecDeque<Todo>,
    /// The plans that were made since something changed that a plan depends on.
    plans: BTreeMap<Target, Planned>,
    /// Targets for which a program or disk failed: nothing more is applied to them in this run.
    stopped: BTreeSet<Target>,
    /// How many files were decrypted in this run.
    looked: u64,
    /// How many bytes of queue files were read in this run.
    bytes: u64,
}

impl<'a> HostRun<'a> {
    /// Lists the host's files without decrypting any. `is_away`: an incoming directory is configured but away, so what
    /// is known of its files is kept.
    pub fn open(shared: &'a Shared<'a>, host: Host, places: Vec<Place>, is_away: bool) -> Result<HostRun<'a>> {
        let inbox = Inbox::open(shared, host, places, is_away)?;
        let (pasts, open_files, todo, stopped) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new(), BTreeSet::new());
        let (tree, plans) = (Tree::default(), BTreeMap::new());
        let (looked, bytes, ahead) = (0, 0, None);
        let mut run = HostRun { shared, inbox, tree, pasts, open_files, ahead, todo, plans, stopped, looked, bytes };
        if !run.inbox.is_empty() {
            run.load_tree()?;
        }
        run.first_steps();
        Ok(run)
    }

    /// Reads what the pool contains of the host.
    pub fn load_tree(&mut self) -> Result<()> {
        if let Some(pool) = self.shared.pool.as_ref() {
            self.tree = pool.tree(self.inbox.host())?;
        }
        Ok(())
    }

    /// Returns the name of the host.
    pub fn host(&self) -> &Host {
        self.inbox.host()
    }

    /// Returns its files.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Returns what the pool contains of the host.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the targets for which a program or disk failed in this run.
    pub fn stopped(&self) -> &BTreeSet<Target> {
        &self.stopped
    }

    /// Schedules the first steps, label by label: all files of a label are examined before the first one is applied,
    /// because a later one may allow a better path.
    fn first_steps(&mut self) {
        let now = self.shared.seconds();
        for label in self.inbox.labels() {
            let due =
                label.iter().filter(|&&at| self.inbox.file(at).is_open() && self.inbox.file(at).entry().is_due(now));
            self.todo.extend(due.map(|&at| Todo::Examine(at)));
            self.todo.push_back(Todo::Label(label));
        }
        self.todo.push_back(Todo::Again);
    }

    /// Does one step; returns `false` if nothing remains to be done.
    ///
    /// # Errors
    /// Only a signal is an error. Any other failure concerns only the file or target where it occurs.
    pub fn step(&mut self) -> Result<bool> {
        cancel::check()?;
        let Some(todo) = self.todo.pop_front() else {
            self.ahead = None; // other hosts need its memory
            return Ok(false);
        };
        if let Todo::Examine(_) | Todo::Act(..) = todo {
            self.plans.clear();
        }
        match todo {
            Todo::Examine(at) => {
                let file = self.examine(at)?.and_then(|file| file.keep_open(self.shared));
                self.open_files.extend(file.map(|file| (at, file)));
            }
            Todo::Label(files) => {
                let facts = files.iter().filter_map(|&at| self.inbox.file(at).facts());
                let targets: BTreeSet<Target> = facts.map(|facts| facts.target.clone()).collect();
                self.plan_all(targets);
            }
            Todo::Plan(target) => self.plan(target)?,
            Todo::Act(target, at, standing) => self.act(&target, at, standing)?,
            Todo::Again => {
                let mut open = Vec::new();
                for target in self.inbox.targets() {
                    // A target whose pool cannot be listed again would be planned for ever.
                    if !self.acts(&target)?.is_empty() && !self.stopped.contains(&target) {
                        open.push(target);
                    }
                }
                if !open.is_empty() {
                    self.todo.push_back(Todo::Again);
                    self.plan_all(open);
                }
            }
        }
        Ok(true)
    }

    fn plan_all(&mut self, targets: impl IntoIterator<Item = Target, IntoIter: DoubleEndedIterator>) {
        for target in targets.into_iter().rev() {
            self.todo.push_front(Todo::Plan(target));
        }
    }

    /// Plans a target and returns what can be done now, in order.
    fn acts(&mut self, target: &Target) -> Result<Vec<(usize, Standing)>> {
        if self.shared.dry {
            return Ok(Vec::new());
        }
        if let Err(e) = self.make_plan(target) {
            if !self.stopped.contains(target) {
                self.fail(target, None, e)?;
            }
            return Ok(Vec::new());
        }
        let Some(Planned { standings, path }) = self.plans.get(target) else { return Ok(Vec::new()) };
        let needless = standings.iter().filter(|(_, standing)| standing.is_needless()).map(|(&at, _)| at);
        let path = path.iter().copied().filter(|_| !self.stopped.contains(target));
        let acts = needless.chain(path).filter(|&at| self.inbox.file(at).is_open());
        Ok(acts.filter_map(|at| Some((at, standings.get(&at)?.clone()))).collect())
    }

    fn plan(&mut self, target: Target) -> Result<()> {
        let mut acts = self.acts(&target)?;
        // A file is removed because its snapshot exists. So look at the pool now: an hour may have passed since the
        // run began.
        let removes = acts.iter().any(|(_, standing)| *standing == Standing::AlreadyThere);
        if let (true, Some(pool)) = (removes, self.shared.pool.as_ref()) {
            let name = self.tree.name(&target);
            if let Err(e) = self.tree.refresh(pool.zfs, &name) {
                return self.fail(&target, None, e);
            }
            self.plans.clear();
            acts = self.acts(&target)?;
        }
        if acts.is_empty() {
            // Files that wait are not kept open: memory and file descriptors are for files that can be applied.
            for at in self.inbox.of(&target) {
                self.open_files.remove(&at);
                self.ahead.take_if(|(ahead, _)| *ahead == at);
            }
            return Ok(());
        }
        self.todo.push_front(Todo::Plan(target.clone()));
        for (at, standing) in acts.into_iter().rev() {
            self.todo.push_front(Todo::Act(target.clone(), at, standing));
        }
        Ok(())
    }

    /// Drops the rest of the current plan, which no longer holds.
    fn plan_again(&mut self) {
        while let Some(Todo::Act(..)) = self.todo.front() {
            self.todo.pop_front();
        }
    }

    /// Reports which files stay and why, and saves what is known of them.
    pub fn finish(&mut self) -> Result<()> {
        for (at, standing) in self.standings()? {
            let key = self.inbox.key(at);
            if standing.is_reported() {
                let long = self.shared.is_long(self.inbox.file(at).entry().first);
                self.shared.notices().problem(&key, &standing.message(long));
            } else {
                log::info(format!("{key}: {}: {}", standing.word(), standing.why()));
            }
        }
        for dir in self.inbox.kept() {
            let (path, mut notices) = (dir.path().display().to_string(), self.shared.notices());
            match dir.writable() {
                Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => {
                    notices
                        .oddity(&path, "is read-only: the files that were applied stay there, and are not read again");
                }
                _ => notices.problem(&path, "the files that were applied cannot be removed: correct its owner or mode"),
            }
        }
        self.inbox.save(self.shared)
    }
}
