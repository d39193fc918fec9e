//! One host's files in one run: look at what is new, plan each target, act on the plan. It goes on in
//! steps of one file, so that all hosts get their turn (`run.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File as Fd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use zsnap_common::cancel::{self, Cancelled};
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::incoming::{Incoming, Unsafe, shown};
use zsnap_common::log;
use zsnap_common::queue_name::{Entry as Name, Label, QueueName, classify};
use zsnap_common::target::{Host, Target};

use crate::apply::{self, Received};
use crate::judge::{Judged, Judgement};
use crate::known::{Entry, Known, Seen, What};
use crate::opened::{No, Opened};
use crate::plan::{Facts, Past, Verdict};
use crate::pool::Tree;
use crate::shared::{Room, Shared};
use crate::{journal, quarantine};

/// A damaged file younger than this may still be arriving.
const ARRIVING: Duration = Duration::from_secs(600);
/// So many verified files of a host are kept open until they are applied; more are verified again.
const KEPT: usize = 200;

/// A directory with files of the host.
pub struct Place {
    /// The directory of all hosts.
    pub root: Incoming,
    /// The host's.
    pub dir: Incoming,
    /// Spooled by exec, which knew the sender: plain streams are allowed here.
    pub exec: bool,
}

const INCOMING: &str = "incoming/";
const EXEC: &str = "exec/";

/// A queue file.
pub struct File<'a> {
    place: usize,
    /// Its name as it is.
    pub name: OsString,
    /// Its name as it is read.
    pub queue: QueueName,
    /// What is known of it.
    pub entry: Entry,
    /// What became of it in this run.
    pub fate: Fate,
    kept: Option<Kept<'a>>,
}

/// What became of a file in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet.
    Open,
    /// Trouble that may pass: still arriving, not here, not its turn.
    Later(String),
    /// A program or a disk failed over it: not again in this run.
    Failed,
    /// Who sent it cannot be told now.
    Held(String),
    /// It is left alone, or would go to quarantine if anything were done.
    Bad(String),
    /// Applied, removed, or moved away.
    Gone,
}

impl File<'_> {
    /// What it says, if that is known.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.entry.what {
            What::Says(facts) => Some(facts),
            _ => None,
        }
    }

    /// The target that its name tells.
    pub fn named(&self) -> Option<Target> {
        match &self.queue.label {
            Label::Dataset(dataset) => Some(Target { host: self.queue.host.clone(), dataset: dataset.clone() }),
            Label::Digest(_) => None,
        }
    }
}

/// Verified in this run, and not let go of since.
struct Kept<'a> {
    opened: Opened,
    fd: Arc<Fd>,
    _room: Option<Room<'a>>,
}

/// The next step.
enum Todo {
    /// Verify a file of which nothing is known.
    Look(usize),
    /// Plan the targets of these files.
    Label(Vec<usize>),
    /// Plan a target and do what the plan says.
    Plan(Target),
    /// Part of a plan.
    Act(Target, usize, Verdict),
    /// Plan all targets again, as long as that gets on: a child may have waited for its parent.
    Again,
}

/// One host.
pub struct HostRun<'a> {
    /// Of the run.
    pub shared: &'a Shared<'a>,
    /// Its name.
    pub host: Host,
    /// What it has on the pool.
    pub tree: Tree,
    /// In the order of their labels, then of their numbers.
    pub files: Vec<File<'a>>,
    /// Known files of an incoming directory that is not here now.
    pub absent: BTreeMap<String, Entry>,
    /// Seconds since 1970 when a new file was seen last, or the host was seen first.
    pub last_came: u64,
    /// Say what would become of files, and do nothing.
    pub dry: bool,
    pub(crate) pasts: BTreeMap<Target, Past>,
    places: Vec<Place>,
    known: Known,
    todo: VecDeque<Todo>,
    /// A program failed over it: nothing more is given to it in this run.
    stopped: BTreeSet<Target>,
    looked: u64,
    kept: usize,
}

impl<'a> HostRun<'a> {
    /// Lists the host's files; nothing is decrypted. `absent`: an incoming directory is configured and not
    /// here, so what is known of its files stays known.
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
            absent: known.files.iter().filter(elsewhere).map(|(k, e)| (k.clone(), e.clone())).collect(),
            last_came: known.last_came,
            dry: false,
            pasts: BTreeMap::new(),
            places,
            known,
            todo: VecDeque::new(),
            stopped: BTreeSet::new(),
            looked: 0,
            kept: 0,
        };
        for place in 0..run.places.len() {
            run.list(place)?;
        }
        run.files.sort_by(|a, b| {
            (a.queue.label.to_string(), &a.queue, &a.name).cmp(&(b.queue.label.to_string(), &b.queue, &b.name))
        });
        if run.files.iter().any(|file| file.entry.first == now) {
            run.last_came = now;
        }
        if !run.files.is_empty() {
            run.load_tree()?;
        }
        run.first_steps();
        Ok(run)
    }

    /// Looks what the pool holds of the host.
    pub fn load_tree(&mut self) -> Result<()> {
        if let Some(pool) = self.shared.pool.as_ref() {
            self.tree = pool.tree(&self.host)?;
        }
        Ok(())
    }

    fn list(&mut self, at: usize) -> Result<()> {
        let Some(place) = self.places.get(at) else { return Ok(()) };
        for name in place.dir.names().or_exit(Exit::Io, "--incoming")? {
            match classify(name.as_encoded_bytes()) {
                Name::Queue(queue) => {
                    let Some(stat) = place.dir.stat(&name).or_exit(Exit::Io, "--incoming")? else { continue };
                    let entry = self.known.entry(&key(place, &name), Seen::of(&stat), self.shared.seconds());
                    self.files.push(File { place: at, name, queue, entry, fate: Fate::Open, kept: None });
                }
                Name::Transport => {}
                Name::Foreign => {
                    let what = format!("{}/{}", self.host, shown(&name));
                    self.shared.told().problem(&what, "is not the name of a queue file; left alone");
                }
            }
        }
        Ok(())
    }

    /// Label by label: all files of one are looked at before the first is applied, since a later
    /// one may be the better way.
    fn first_steps(&mut self) {
        let mut labels: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, file) in self.files.iter().enumerate() {
            labels.entry(file.queue.label.to_string()).or_default().push(at);
        }
        for label in labels.into_values() {
            let new = |&&at: &&usize| self.files[at].entry.what == What::New;
            self.todo.extend(label.iter().filter(new).map(|&at| Todo::Look(at)));
            self.todo.push_back(Todo::Label(label));
        }
        self.todo.push_back(Todo::Again);
    }

    /// Does one step; `false`: there is nothing more to do. Only a signal is an error; whatever else
    /// fails is the affair of the file that it fails over.
    pub fn step(&mut self) -> Result<bool> {
        cancel::check()?;
        let Some(todo) = self.todo.pop_front() else { return Ok(false) };
        match todo {
            Todo::Look(at) => {
                if let Some(kept) = self.verify(at)?
                    && self.kept < KEPT
                {
                    self.kept += 1;
                    self.files[at].kept = Some(kept);
                }
            }
            Todo::Label(files) => self.plan_all(files.into_iter()),
            Todo::Plan(target) => self.plan(target)?,
            Todo::Act(target, at, verdict) => self.act(&target, at, verdict)?,
            Todo::Again => {
                let mut on = false;
                for target in self.targets() {
                    on |= !self.acts(&target)?.is_empty();
                }
                if on {
                    self.plan_all(0..self.files.len());
                    self.todo.push_back(Todo::Again);
                }
            }
        }
        Ok(true)
    }

    /// The targets of the files that are known, parents first.
    pub fn targets(&self) -> BTreeSet<Target> {
        let here = self.files.iter().filter(|file| file.fate != Fate::Gone);
        here.filter_map(|file| file.facts().map(|facts| facts.target.clone())).collect()
    }

    fn plan_all(&mut self, files: impl Iterator<Item = usize>) {
        let targets: BTreeSet<Target> =
            files.filter_map(|at| self.files[at].facts().map(|facts| facts.target.clone())).collect();
        for target in targets.into_iter().rev() {
            self.todo.push_front(Todo::Plan(target));
        }
    }

    /// What a plan comes to, now.
    fn acts(&mut self, target: &Target) -> Result<Vec<(usize, Verdict)>> {
        if self.dry {
            return Ok(Vec::new());
        }
        let Judged { judgements, path } = match self.judge(target) {
            Ok(judged) => judged,
            Err(e) => {
                self.fail(target, None, e)?;
                return Ok(Vec::new());
            }
        };
        let open = |at: usize| self.files[at].fate == Fate::Open;
        let mut acts = Vec::new();
        for (at, judgement) in &judgements {
            if let Judgement::Is(verdict @ (Verdict::AlreadyThere | Verdict::Stale | Verdict::Refused(_))) = judgement
                && open(*at)
            {
                acts.push((*at, verdict.clone()));
            }
        }
        if !self.stopped.contains(target) {
            for at in path {
                let ready = judgements.iter().find(|(of, _)| *of == at);
                if let Some((_, Judgement::Is(verdict))) = ready
                    && open(at)
                {
                    acts.push((at, verdict.clone()));
                }
            }
        }
        Ok(acts)
    }

    fn plan(&mut self, target: Target) -> Result<()> {
        let mut acts = self.acts(&target)?;
        // What is there must be there now, not an hour ago when the run began.
        if let Some(pool) = self.shared.pool.as_ref()
            && acts.iter().any(|(_, verdict)| *verdict == Verdict::AlreadyThere)
        {
            let name = self.tree.name(&target);
            if let Err(e) = self.tree.refresh(pool.zfs, &name) {
                return self.fail(&target, None, e);
            }
            acts = self.acts(&target)?;
        }
        if !acts.is_empty() {
            self.todo.push_front(Todo::Plan(target.clone()));
        }
        for (at, verdict) in acts.into_iter().rev() {
            self.todo.push_front(Todo::Act(target.clone(), at, verdict));
        }
        Ok(())
    }

    /// The rest of the plan does not hold any more.
    fn plan_again(&mut self) {
        while let Some(Todo::Act(..)) = self.todo.front() {
            self.todo.pop_front();
        }
    }

    fn act(&mut self, target: &Target, at: usize, verdict: Verdict) -> Result<()> {
        let planned = self.files[at].facts().cloned();
        let kept = match self.files[at].kept.take() {
            Some(kept) => {
                self.kept -= 1;
                Some(kept)
            }
            None => self.verify(at)?,
        };
        let Some(facts) = planned.filter(|facts| self.files[at].facts() == Some(facts)) else {
            // Somebody changed it since it was looked at.
            self.plan_again();
            return Ok(());
        };
        let Some(kept) = kept else { return Ok(()) };
        let result = match verdict {
            Verdict::Ready { skip, again } => {
                if again {
                    log::warn(format!("{}: was received before, and is gone: was the pool rewound?", self.key(at)));
                }
                self.apply(target, at, kept, skip)
            }
            Verdict::Refused(why) => self.quarantine(at, &kept.fd, &why),
            verdict => self.remove_needless(target, at, &kept.fd, &facts, &verdict),
        };
        result.or_else(|e| {
            self.plan_again();
            self.fail(target, Some(at), e)
        })
    }

    fn apply(&mut self, target: &Target, at: usize, kept: Kept<'_>, skip: usize) -> Result<()> {
        let shared = self.shared;
        let Kept { opened, fd, _room } = kept;
        if opened.stream().is_none() {
            let Some(table) = shared.config.command_for(target) else { return Ok(()) };
            apply::run_command(shared, table, target, &self.files[at].name, opened)?;
            return self.remove(at, &fd);
        }
        let Some(pool) = shared.pool.as_ref() else { return Ok(()) };
        let Some(past) = self.pasts.get_mut(target) else { return Ok(()) };
        match apply::receive(shared, pool, &mut self.tree, past, target, opened, skip)? {
            Received::All => self.remove(at, &fd),
            Received::Modified => {
                let name = self.tree.name(target);
                self.files[at].entry.refused_at = self.tree.there(&name, None).head();
                self.plan_again();
                Ok(())
            }
        }
    }

    /// A file that brings nothing new.
    fn remove_needless(&mut self, target: &Target, at: usize, fd: &Fd, facts: &Facts, verdict: &Verdict) -> Result<()> {
        let why = if *verdict == Verdict::Stale { "something newer was applied" } else { "it is there already" };
        if let (Some(pool), Some(past)) = (self.shared.pool.as_ref(), self.pasts.get_mut(target)) {
            let before = past.clone();
            past.has(facts, self.tree.snapshots(&self.tree.name(target)));
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
        file.fate = Fate::Gone;
        if !place.dir.remove_if_same(&file.name, fd).or_exit(Exit::Io, "removing an applied file")? {
            log::warn(format!("{}: changed meanwhile; not removed", place.dir.path().join(&file.name).display()));
        }
        Ok(())
    }

    fn quarantine(&mut self, at: usize, fd: &Fd, why: &str) -> Result<()> {
        let key = self.key(at);
        let file = &mut self.files[at];
        let Some(place) = self.places.get(file.place) else { return Ok(()) };
        if self.dry {
            file.fate = Fate::Bad(why.to_owned());
            return Ok(());
        }
        if quarantine::put(&place.root, &place.dir, self.host.as_str().as_ref(), &file.name, fd, why)? {
            file.fate = Fate::Gone;
            self.shared.told().event(format!("{key}: in quarantine: {why}"));
        } else {
            file.fate = Fate::Later("it was replaced meanwhile".into());
        }
        Ok(())
    }

    /// Opens and verifies a file, and notes what it says, or does with it what its refusal means.
    fn verify(&mut self, at: usize) -> Result<Option<Kept<'a>>> {
        match self.look(at) {
            Err(e) => {
                self.failed_over(at, e)?;
                Ok(None)
            }
            ok => ok,
        }
    }

    fn look(&mut self, at: usize) -> Result<Option<Kept<'a>>> {
        let shared = self.shared;
        let file = &mut self.files[at];
        let Some(place) = self.places.get(file.place) else { return Ok(None) };
        // Need not be decrypted in every run until the drive comes.
        let named = file.named();
        if shared.config.store.is_some()
            && shared.pool.is_none()
            && named.is_some_and(|named| shared.config.command_for(&named).is_none())
        {
            file.fate = Fate::Later("its pool is not here".into());
            return Ok(None);
        }
        if self.looked >= shared.config.max_files {
            file.fate = Fate::Later("enough files of this host for one run (max-files)".into());
            return Ok(None);
        }
        self.looked += 1;
        let fd = match place.dir.open_file(&file.name) {
            Ok(fd) => Arc::new(fd),
            Err(Unsafe::Gone) => {
                file.fate = Fate::Gone;
                return Ok(None);
            }
            Err(Unsafe::Not(what)) => {
                file.fate = Fate::Bad(format!("{what}; left alone"));
                return Ok(None);
            }
            Err(Unsafe::Io(e)) => return Err(e.into()),
        };
        let seen = Seen::of(&rustix::fs::fstat(&*fd)?);
        if file.entry.seen != seen {
            file.entry = Entry { seen, first: file.entry.first, attempts: 0, what: What::New, refused_at: None };
        }
        let room = shared.room(seen.size);
        let keep = room.as_ref().map_or(0, |_| shared.config.limits.verify_buffer);
        let verified = Opened::verify(shared.config, &self.host, place.exec, &fd, keep, shared.now)
            .and_then(|opened| opened.target(&self.host, &file.queue).map(|target| (opened, target)));
        let no = match verified {
            Ok((opened, target)) => {
                let order = file.queue.stamp.seq();
                file.entry.what = What::Says(Facts::of(target, order, opened.manifest(), opened.stream()));
                return Ok(Some(Kept { opened, fd, _room: room }));
            }
            Err(no) => no,
        };
        file.entry.what = What::New;
        match no {
            // A signal must end the run, whatever it interrupted.
            No::Io(e) => cancel::check().map_err(anyhow::Error::from).and(Err(e.into())),
            No::Held(exit, why) => {
                match exit {
                    // A clock may be right the next time.
                    Exit::TryAgain => file.fate = Fate::Held(why),
                    _ => file.entry.what = What::Held(why),
                }
                Ok(None)
            }
            No::Damaged(why) => {
                let modified = fd.metadata().and_then(|m| m.modified()).or_exit(Exit::Io, "queue file")?;
                if !place.exec && shared.now.duration_since(modified).is_ok_and(|age| age < ARRIVING) {
                    file.fate = Fate::Later(format!("{why}; it may still be arriving"));
                    return Ok(None);
                }
                self.quarantine(at, &fd, &why).map_err(|e| e.context(why))?;
                Ok(None)
            }
            No::Bad(_, why) => {
                self.quarantine(at, &fd, &why).map_err(|e| e.context(why))?;
                Ok(None)
            }
        }
    }

    /// A program or a disk failed: this target is left alone in this run, others go on.
    fn fail(&mut self, target: &Target, at: Option<usize>, e: anyhow::Error) -> Result<()> {
        self.stopped.insert(target.clone());
        match at {
            Some(at) => self.failed_over(at, e),
            None if Cancelled::find(&e).is_some() => Err(e),
            None => {
                log::error(format!("{target}: {e:#}"));
                self.shared.failed(Exit::of(&e));
                Ok(())
            }
        }
    }

    fn failed_over(&mut self, at: usize, e: anyhow::Error) -> Result<()> {
        if Cancelled::find(&e).is_some() {
            return Err(e);
        }
        log::error(format!("{}: {e:#}", self.key(at)));
        self.shared.failed(Exit::of(&e));
        let file = &mut self.files[at];
        file.entry.attempts += 1;
        file.fate = Fate::Failed;
        Ok(())
    }

    /// HOST/FILE, for messages.
    pub fn key(&self, at: usize) -> String {
        format!("{}/{}", self.host, shown(&self.files[at].name))
    }

    /// Tells what stays and why, and remembers what is known.
    pub fn finish(&mut self) -> Result<()> {
        for (at, judgement) in self.judge_all()? {
            let key = self.key(at);
            let since = self.files[at].entry.first;
            match judgement {
                Judgement::Later(why) => log::info(format!("{key}: later: {why}")),
                Judgement::Held(why) => self.shared.told().problem(&key, &format!("held: {why}")),
                Judgement::Alone(why) => self.shared.told().problem(&key, &why),
                Judgement::Failed => {}
                Judgement::Is(verdict) => self.tell(&key, since, &verdict),
            }
        }
        self.write_known()
    }

    fn tell(&self, key: &str, since: u64, verdict: &Verdict) {
        let long = self.shared.seconds().saturating_sub(since) > self.shared.config.max_wait.as_secs();
        let why = verdict.why();
        let message = match verdict {
            // The one in front is told.
            Verdict::Waiting { behind: Some(_), .. } | Verdict::Ready { .. } | Verdict::Superseded => {
                log::info(format!("{key}: {} {why}", verdict.word()));
                return;
            }
            Verdict::Waiting { .. } if long => {
                format!("waiting {why}; for longer than max-wait: look where that was lost, or queue a full stream")
            }
            Verdict::Waiting { .. } => format!("waiting {why}"),
            Verdict::Broken(_) => format!("broken chain: {why}"),
            _ => format!("{}: {why}", verdict.word()),
        };
        self.shared.told().problem(key, &message);
    }

    fn write_known(&mut self) -> Result<()> {
        let here = self.files.iter().filter(|file| file.fate != Fate::Gone);
        let entries = here.filter_map(|file| Some((key(self.places.get(file.place)?, &file.name), file.entry.clone())));
        let files = entries.chain(std::mem::take(&mut self.absent)).collect();
        self.known.files = files;
        self.known.last_came = self.last_came;
        self.known.write(&self.shared.config.state, self.shared.pool.as_ref().map(|p| p.guid), &self.host)
    }
}

fn key(place: &Place, name: &OsStr) -> String {
    format!("{}{}", if place.exec { EXEC } else { INCOMING }, shown(name))
}
