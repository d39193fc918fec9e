//! Processes one host's files in one run: verifies new ones, plans each target, and does what the plan says. It
//! proceeds in steps of one file, so that all hosts get their turn (`run.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Result;
use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::shown;
use zsnap_common::durable::listing::Listing;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::{Host, Target};

use crate::file::{Fate, File, INCOMING, Place};
use crate::known::{Entry, Known, Seen};
use crate::plan::{Past, Verdict};
use crate::pool::Tree;
use crate::shared::Shared;

mod act;
pub mod judge;

use judge::{Judged, Judgement};

/// A step that is still to be done.
enum Todo {
    /// Verify a new file.
    Look(usize),
    /// Plan the targets of these files, which have the same label.
    Label(Vec<usize>),
    /// Plan a target, and schedule what the plan says.
    Plan(Target),
    /// Do what a plan says with one file.
    Act(Target, usize, Verdict),
    /// Plan all targets again until nothing more can be done: a child may have waited for its parent.
    Again,
}

/// One host in one run.
pub struct HostRun<'a> {
    /// What the hosts of the run share.
    pub shared: &'a Shared<'a>,
    /// The name of the host.
    pub host: Host,
    /// What the pool contains of the host.
    pub tree: Tree,
    /// The files, ordered by label and then by number.
    pub files: Vec<File<'a>>,
    /// Whether an incoming directory is configured, but away.
    pub is_away: bool,
    /// What is known of files in the incoming directory that is away.
    pub absent: BTreeMap<String, Entry>,
    /// How many queue files exist beyond those that were listed: more than one run processes.
    pub beyond: u64,
    /// When a new file was last seen, or else when the host was first seen: seconds since 1970.
    pub last_came: u64,
    /// The journals of its datasets, as far as they were read.
    pub pasts: BTreeMap<Target, Past>,
    /// The directories that contain its files.
    pub places: Vec<Place>,
    /// The files, by index, whose target is not known because they are new or held.
    pub silent: BTreeSet<usize>,
    by_target: BTreeMap<Target, Vec<usize>>,
    known: Known,
    todo: VecDeque<Todo>,
    /// Targets for which a program or disk failed: nothing more is applied to them in this run.
    pub stopped: BTreeSet<Target>,
    /// How many files were decrypted in this run.
    pub looked: u64,
    /// How many bytes of queue files were read in this run.
    pub read: u64,
}

impl<'a> HostRun<'a> {
    /// Lists the host's files without decrypting any. `absent`: an incoming directory is configured but away, so what
    /// is known of its files is kept.
    pub fn open(shared: &'a Shared<'a>, host: Host, places: Vec<Place>, absent: bool) -> Result<HostRun<'a>> {
        let now = shared.seconds();
        let (config, pool) = (shared.config, shared.pool.as_ref());
        let known = Known::read(&config.state, pool.map(|p| p.guid), &host, &config.fingerprint, now);
        let elsewhere = |(key, _): &(&String, &Entry)| absent && key.starts_with(INCOMING);
        let mut run = HostRun {
            shared,
            tree: Tree::default(),
            host,
            files: Vec::new(),
            is_away: absent,
            beyond: 0,
            absent: known.files.iter().filter(elsewhere).map(|(k, e)| (k.clone(), e.clone())).collect(),
            last_came: known.last_came,
            pasts: BTreeMap::new(),
            places,
            known,
            todo: VecDeque::new(),
            stopped: BTreeSet::new(),
            looked: 0,
            read: 0,
            silent: BTreeSet::new(),
            by_target: BTreeMap::new(),
        };
        for place in 0..run.places.len() {
            run.list(place)?;
        }
        run.files.sort_by_cached_key(|file| (file.queue.label.to_string(), file.queue.clone(), file.name.clone()));
        if run.files.iter().any(|file| file.entry.first == now) {
            run.last_came = now;
        }
        if !run.files.is_empty() {
            run.load_tree()?;
        }
        run.first_steps();
        Ok(run)
    }

    /// Reads what the pool contains of the host.
    pub fn load_tree(&mut self) -> Result<()> {
        if let Some(pool) = self.shared.pool.as_ref() {
            self.tree = pool.tree(&self.host)?;
        }
        Ok(())
    }

    fn list(&mut self, at: usize) -> Result<()> {
        let Some(place) = self.places.get(at) else { return Ok(()) };
        let listing = Listing::of(&place.dir, Listing::MOST).or_exit(Exit::Io, "--incoming")?;
        listing.report_foreign(&self.host, &mut self.shared.notices());
        for (queue, name) in listing.queue {
            let Some(stat) = place.dir.stat(&name).or_exit(Exit::Io, "--incoming")? else { continue };
            let entry = self.known.entry(&place.key(&name), Seen::of(&stat), self.shared.seconds());
            self.files.push(File { place: at, name, queue, entry, fate: Fate::Open, kept: None, refused: false });
        }
        self.beyond += listing.more;
        if listing.more > 0 {
            let text = format!(
                "{}: {} holds more than {} queue files; what is newer waits until those are gone",
                self.host,
                quoted(&place.dir.path().to_string_lossy()),
                Listing::MOST
            );
            self.shared.notices().problem_in_words(&format!("{}/.", self.host), &text);
        }
        Ok(())
    }

    /// Indexes a file by its target, or as silent if its target is not known.
    pub fn note(&mut self, at: usize) {
        match self.files[at].facts().map(|facts| facts.target.clone()) {
            Some(target) => {
                self.silent.remove(&at);
                let of = self.by_target.entry(target).or_default();
                if let Err(place) = of.binary_search(&at) {
                    of.insert(place, at);
                }
            }
            None => drop(self.silent.insert(at)),
        }
    }

    /// Schedules the first steps, label by label: all files of a label are verified before the first one is applied,
    /// because a later one may allow a better path.
    fn first_steps(&mut self) {
        let mut labels: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for at in 0..self.files.len() {
            labels.entry(self.files[at].queue.label.to_string()).or_default().push(at);
            self.note(at);
        }
        for label in labels.into_values() {
            let due = |&&at: &&usize| self.files[at].entry.is_due(self.shared.seconds());
            self.todo.extend(label.iter().filter(due).map(|&at| Todo::Look(at)));
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
        let Some(todo) = self.todo.pop_front() else { return Ok(false) };
        match todo {
            Todo::Look(at) => {
                self.files[at].kept = self.verify(at)?.and_then(|kept| kept.hold(self.shared));
            }
            Todo::Label(files) => {
                let targets: BTreeSet<Target> =
                    files.iter().filter_map(|&at| self.files[at].facts()).map(|facts| facts.target.clone()).collect();
                self.plan_all(targets);
            }
            Todo::Plan(target) => self.plan(target)?,
            Todo::Act(target, at, verdict) => self.act(&target, at, verdict)?,
            Todo::Again => {
                let mut open = Vec::new();
                for target in self.targets() {
                    if !self.acts(&target)?.is_empty() {
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

    /// Returns the files that are known to be for a target, except those that are gone.
    pub fn of(&self, target: &Target) -> impl Iterator<Item = usize> + '_ {
        let all = self.by_target.get(target).map_or(&[][..], Vec::as_slice);
        let target = target.clone();
        all.iter().copied().filter(move |&at| {
            self.files[at].fate != Fate::Gone && self.files[at].facts().is_some_and(|facts| facts.target == target)
        })
    }

    /// Returns the targets of the files that remain, parents first.
    pub fn targets(&self) -> Vec<Target> {
        self.by_target.keys().filter(|target| self.of(target).next().is_some()).cloned().collect()
    }

    fn plan_all(&mut self, targets: impl IntoIterator<Item = Target, IntoIter: DoubleEndedIterator>) {
        for target in targets.into_iter().rev() {
            self.todo.push_front(Todo::Plan(target));
        }
    }

    /// Plans a target and returns what can be done now, in order.
    fn acts(&mut self, target: &Target) -> Result<Vec<(usize, Verdict)>> {
        if self.shared.dry {
            return Ok(Vec::new());
        }
        let Judged { judgements, path } = match self.judge(target) {
            Ok(judged) => judged,
            Err(_) if self.stopped.contains(target) => return Ok(Vec::new()),
            Err(e) => {
                self.fail(target, None, e)?;
                return Ok(Vec::new());
            }
        };
        let open = |at: usize| self.files[at].fate == Fate::Open;
        let mut acts = Vec::new();
        for (at, judgement) in judgements.iter().filter(|(at, _)| open(**at)) {
            if let Judgement::Is(verdict @ (Verdict::AlreadyThere | Verdict::Stale | Verdict::Refused(_))) = judgement {
                acts.push((*at, verdict.clone()));
            }
        }
        if !self.stopped.contains(target) {
            for at in path.into_iter().filter(|&at| open(at)) {
                if let Some(Judgement::Is(verdict)) = judgements.get(&at) {
                    acts.push((at, verdict.clone()));
                }
            }
        }
        Ok(acts)
    }

    fn plan(&mut self, target: Target) -> Result<()> {
        let mut acts = self.acts(&target)?;
        // A file is removed because its snapshot exists. So look at the pool now: an hour may have passed since the
        // run began.
        let removes = acts.iter().any(|(_, verdict)| *verdict == Verdict::AlreadyThere);
        if let (true, Some(pool)) = (removes, self.shared.pool.as_ref()) {
            let name = self.tree.name(&target);
            if let Err(e) = self.tree.refresh(pool.zfs, &name) {
                return self.fail(&target, None, e);
            }
            acts = self.acts(&target)?;
        }
        if acts.is_empty() {
            // Files that wait are not held open: memory and file descriptors are for files that can be applied.
            for at in self.of(&target).collect::<Vec<_>>() {
                self.files[at].kept = None;
            }
            return Ok(());
        }
        self.todo.push_front(Todo::Plan(target.clone()));
        for (at, verdict) in acts.into_iter().rev() {
            self.todo.push_front(Todo::Act(target.clone(), at, verdict));
        }
        Ok(())
    }

    /// Drops the rest of the current plan, which no longer holds.
    fn plan_again(&mut self) {
        while let Some(Todo::Act(..)) = self.todo.front() {
            self.todo.pop_front();
        }
    }

    /// Returns HOST/FILE, for messages.
    pub fn key(&self, at: usize) -> String {
        format!("{}/{}", self.host, shown(&self.files[at].name))
    }

    /// Reports which files stay and why, and saves what is known of them.
    pub fn finish(&mut self) -> Result<()> {
        for (at, judgement) in self.judge_all()? {
            let key = self.key(at);
            let since = self.files[at].entry.first;
            match judgement {
                Judgement::Later(why) => log::info(format!("{key}: later: {why}")),
                Judgement::Held(why) => self.shared.notices().problem(&key, &format!("held: {why}")),
                Judgement::Ignored(why) => self.shared.notices().problem(&key, &why),
                Judgement::Failed => {}
                Judgement::Is(verdict) => match self.remedy(since, &verdict) {
                    Some(message) => self.shared.notices().problem(&key, &message),
                    None => log::info(format!("{key}: {} {}", verdict.word(), verdict.why())),
                },
            }
        }
        self.write_known()
    }

    fn write_known(&mut self) -> Result<()> {
        let here = self.files.iter().filter(|file| file.fate != Fate::Gone);
        let entries = here.filter_map(|file| Some((self.places.get(file.place)?.key(&file.name), file.entry.clone())));
        let files = entries.chain(std::mem::take(&mut self.absent)).collect();
        self.known.files = files;
        self.known.last_came = self.last_came;
        self.known.write(&self.shared.config.state, self.shared.pool.as_ref().map(|p| p.guid), &self.host)
    }
}
