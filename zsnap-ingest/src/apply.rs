//! One file: open, verify, decide, apply, remove. The order of the steps is that of
//! ARCHITECTURE.md, "What a crash leaves": the snapshot is seen, then the journal is written, then the file goes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use zsnap_common::cancel::{self, Cancelled};
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::incoming::{Incoming, Unsafe, shown};
use zsnap_common::log;
use zsnap_common::payload::{Base, Manifest};
use zsnap_common::queue_name::{Label, QueueName};
use zsnap_common::target::{Dataset, Host, Target};
use zsnap_common::zfs::Zfs;
use zsnap_common::zstream::Guid;

use crate::config::{CommandTable, Config};
use crate::journal::{self, Past, TargetJournal};
use crate::opened::{No, Opened};
use crate::plan::{self, There, Verdict};
use crate::receive::Unwrap;
use crate::{command, quarantine};

/// A damaged file younger than this may still be arriving.
const ARRIVING: Duration = Duration::from_secs(600);

/// What became of a file.
pub enum Outcome {
    /// Applied and removed.
    Applied,
    /// Not needed (any more), removed.
    Removed(String),
    /// It stays until another one comes.
    Waits(String),
    /// It stays, and says what to do.
    Stays(String),
    /// Moved to quarantine.
    Quarantined(String),
    /// It stays: the pool, a target or the rest of the file is not here yet.
    Later(String),
    /// It stays: a program or a disk failed.
    Failed(anyhow::Error),
}

/// It stays: who sent it is not proven, or nobody receives it.
fn held(why: String) -> Outcome {
    Outcome::Stays(format!("held: {why}"))
}

/// Where a file lies and who is said to have sent it.
pub struct In<'a> {
    /// The directory of all hosts.
    pub root: &'a Incoming,
    /// The host's.
    pub dir: &'a Incoming,
    /// Its name.
    pub host: &'a Host,
    /// Spooled by exec, which knew the sender.
    pub exec: bool,
}

/// Applies files; knows the pool as it is.
pub struct Apply<'a> {
    config: &'a Config,
    now: SystemTime,
    pool: Option<Pool<'a>>,
}

/// The pool that the store lies on.
struct Pool<'a> {
    guid: Guid,
    store: &'a str,
    zfs: &'a Zfs,
    datasets: BTreeSet<String>,
}

impl<'a> Apply<'a> {
    /// Nothing is looked at yet: a run without ZFS streams needs no `zfs`.
    pub fn new(config: &'a Config, now: SystemTime) -> Apply<'a> {
        Apply { config, now, pool: None }
    }

    /// Whether nothing can come of a file with this name, because its pool is not here: then it
    /// need not be decrypted in every run until the drive comes.
    fn away(&mut self, host: &Host, queue: &QueueName) -> Result<bool> {
        let Label::Dataset(dataset) = &queue.label else { return Ok(false) };
        let target = Target { host: host.clone(), dataset: dataset.clone() };
        if self.config.store.is_none() || self.config.command_for(&target).is_some() {
            return Ok(false);
        }
        Ok(pool_of(self.config, &mut self.pool)?.is_none())
    }

    /// Does all for one file. `behind` are the later files of the same label. Only a signal is an
    /// error; whatever else fails is this file's affair.
    pub fn file(&mut self, place: &In<'_>, queue: &QueueName, name: &OsStr, behind: &[&OsStr]) -> Result<Outcome> {
        match self.decide(place, queue, name, behind) {
            Err(e) if Cancelled::find(&e).is_none() => Ok(Outcome::Failed(e)),
            other => other,
        }
    }

    fn decide(&mut self, place: &In<'_>, queue: &QueueName, name: &OsStr, behind: &[&OsStr]) -> Result<Outcome> {
        if self.away(place.host, queue)? {
            return Ok(Outcome::Later("its pool is not here".into()));
        }
        let file = match place.dir.open_file(name) {
            Ok(file) => file,
            Err(Unsafe::Gone) => return Ok(Outcome::Removed("somebody else took it".into())),
            Err(Unsafe::Not(what)) => return Ok(Outcome::Stays(format!("{what}; left alone"))),
            Err(Unsafe::Io(e)) => return Err(e.into()),
        };
        let opened = Opened::verify(self.config, place.host, place.exec, &file, self.now)
            .and_then(|opened| opened.target(place.host, queue).map(|target| (opened, target)));
        let (opened, target) = match opened {
            Ok(both) => both,
            Err(no) => return self.refuse(place, name, &file, no),
        };
        let done = if opened.stream().is_some() {
            self.zfs(opened, &target)?
        } else {
            self.opaque(place, opened, &target, name, behind)?
        };
        let outcome = match done {
            Done::Applied => Outcome::Applied,
            Done::Is(outcome) => return Ok(outcome),
            Done::Verdict(verdict) => match verdict {
                Verdict::AlreadyThere => Outcome::Removed("it is there already".into()),
                Verdict::Stale => Outcome::Removed("something newer was applied".into()),
                Verdict::Superseded => {
                    return Ok(Outcome::Waits("until a newer file that holds it all is applied".into()));
                }
                Verdict::Waiting(why) => return Ok(Outcome::Waits(why)),
                Verdict::Broken(why) => return Ok(Outcome::Stays(format!("broken chain: {why}"))),
                Verdict::Diverged(why) | Verdict::Conflict(why) => return Ok(Outcome::Stays(why)),
                Verdict::Refused(why) => return self.refuse(place, name, &file, No::Bad(Exit::Data, why)),
                Verdict::Ready { .. } => return Err(Exit::Io.error("decided, but not applied")),
            },
        };
        if !place.dir.remove_if_same(name, &file).or_exit(Exit::Io, "removing an applied file")? {
            log::warn(format!("{}: changed meanwhile; not removed", place.dir.path().join(name).display()));
        }
        Ok(outcome)
    }

    fn refuse(&self, place: &In<'_>, name: &OsStr, file: &File, no: No) -> Result<Outcome> {
        let why = match no {
            No::Held(_, why) => return Ok(held(why)),
            No::Io(e) => {
                // A signal must end the run, whatever it interrupted.
                cancel::check()?;
                return Err(e.into());
            }
            No::Damaged(why) => {
                let modified = file.metadata().and_then(|m| m.modified()).or_exit(Exit::Io, "queue file")?;
                if !place.exec && self.now.duration_since(modified).is_ok_and(|age| age < ARRIVING) {
                    return Ok(Outcome::Later(format!("{why}; it may still be arriving")));
                }
                why
            }
            No::Bad(_, why) => why,
        };
        let host = place.host.as_str().as_ref();
        match quarantine::put(place.root, place.dir, host, name, file, &why) {
            Ok(true) => Ok(Outcome::Quarantined(why)),
            Ok(false) => Ok(Outcome::Later("it was replaced meanwhile".into())),
            Err(e) => Err(e.context(why)),
        }
    }

    fn zfs(&mut self, opened: Opened<'_>, target: &Target) -> Result<Done> {
        let Some(stream) = opened.stream() else { return Err(Exit::Data.error("no stream")) };
        let Some((store, _)) = &self.config.store else {
            return Ok(Done::Is(held("a ZFS stream, and no store is configured; give --store".into())));
        };
        let name = match target.under(store) {
            Ok(name) => name,
            Err(e) => return Ok(Done::Is(held(format!("{e}; a shorter store helps")))),
        };
        let Some(pool) = pool_of(self.config, &mut self.pool)? else {
            return Ok(Done::Is(Outcome::Later(format!("{store} is not here"))));
        };
        let create_parents = self.config.hosts.get(&target.host).map_or(&[][..], |table| &table.create_parents);
        if let Some(missing) = pool.parent(target, create_parents)? {
            let host = &target.host;
            return Ok(Done::Verdict(Verdict::Waiting(format!(
                "for its parent {host}/{missing}; if {host} never sends that, add it to create-parents in [hosts.{host}]"
            ))));
        }
        let snapshots = match pool.datasets.contains(&name) {
            true => Some(pool.zfs.snapshots(&name)?.remove(&name).unwrap_or_default()),
            false => None,
        };
        let journal = journal::dataset_path(&self.config.state, pool.guid, target);
        let mut past: Past = match journal::read(&journal) {
            Ok(past) => past.unwrap_or_default(),
            Err(e) => {
                log::warn(format!("{e:#}; rebuilt from the pool"));
                Past { committed: snapshots.iter().flatten().map(|s| s.guid).collect(), last_seq: None }
            }
        };
        let seq = opened.manifest().map(|m| m.seq);
        let there = There { name: &name, snapshots: snapshots.as_deref() };
        let verdict = plan::zfs(&there, stream, seq, &past);
        let Verdict::Ready { skip } = verdict else { return Ok(Done::Verdict(verdict)) };
        let mut unwrap = Unwrap::new(pool.zfs, &name, skip, self.config.receiving(&target.host));
        let replayed = opened.replay(&mut unwrap);
        let (committed, received) = unwrap.end();
        if !committed.is_empty() {
            pool.datasets.insert(name.clone());
            past.committed.extend(committed);
        }
        // The receiver's own error says more than the broken pipe that it leaves behind.
        let result = received.and(replayed);
        if result.is_ok() {
            past.last_seq = seq.max(past.last_seq);
        }
        journal::write(&journal, &past)?;
        match result {
            Ok(()) => Ok(Done::Applied),
            Err(e) if format!("{e:#}").contains("has been modified") => Ok(Done::Verdict(Verdict::Diverged(format!(
                "{name} was changed since its last snapshot; to undo that: zfs rollback {name}@{}",
                snapshots.iter().flatten().last().map_or("", |s| s.name.as_str())
            )))),
            Err(e) => Err(e),
        }
    }

    fn opaque(
        &mut self,
        place: &In<'_>,
        opened: Opened<'_>,
        target: &Target,
        name: &OsStr,
        behind: &[&OsStr],
    ) -> Result<Done> {
        let Some(manifest) = opened.manifest().cloned() else { return Err(Exit::Data.error("no manifest")) };
        let Some(command) = self.config.command_for(target) else {
            return Ok(Done::Is(held(format!("no command receives {target}; add a [[command]] that matches it"))));
        };
        match command::check_target(&command.target) {
            Ok(()) => {}
            Err(e) if !command.target.exists() => return Ok(Done::Is(Outcome::Later(e))),
            Err(e) => return Ok(Done::Is(held(e))),
        }
        let path = journal::target_path(&command.target)?;
        let journal: TargetJournal = match journal::read(&path) {
            Ok(journal) => journal.unwrap_or_default(),
            Err(e) => {
                let remedy = format!("{e:#}; look at the target, remove that file, and queue a new --full");
                return Ok(Done::Verdict(Verdict::Broken(remedy)));
            }
        };
        let past = journal.get(&target.to_string());
        let decide = |pending: &[Manifest]| plan::opaque(&manifest, past, pending, command.overlap);
        let mut verdict = decide(&[]);
        if matches!(verdict, Verdict::Ready { .. }) && manifest.base == Base::Prev && !behind.is_empty() {
            verdict = decide(&self.manifests(place, behind));
        }
        match verdict {
            Verdict::Ready { .. } => {
                let timeout = self.config.receive_timeout;
                apply_command(command, target, name, &manifest, timeout, opened).map(|()| Done::Applied)
            }
            verdict => Ok(Done::Verdict(verdict)),
        }
    }

    /// The manifests of the files that wait behind one, as far as they verify.
    fn manifests(&self, place: &In<'_>, names: &[&OsStr]) -> Vec<Manifest> {
        let manifest = |name: &&OsStr| {
            let file = place.dir.open_file(name).ok()?;
            let opened = Opened::verify(self.config, place.host, place.exec, &file, self.now).ok()?;
            opened.manifest().cloned()
        };
        names.iter().filter_map(manifest).collect()
    }
}

/// What the two ways of applying a file come to.
enum Done {
    Applied,
    Verdict(Verdict),
    Is(Outcome),
}

fn apply_command(
    command: &CommandTable,
    target: &Target,
    name: &OsStr,
    manifest: &Manifest,
    timeout: Duration,
    opened: Opened<'_>,
) -> Result<()> {
    log::info(format!("applying {} to {}", shown(name), command.target.display()));
    command::apply(command, target, &shown(name), manifest, timeout, |out| opened.replay(out))
}

/// The pool, looked at when the first ZFS stream needs it. `None`: it is not here.
fn pool_of<'p, 'a>(config: &'a Config, pool: &'p mut Option<Pool<'a>>) -> Result<Option<&'p mut Pool<'a>>> {
    if pool.is_none() {
        let Some((store, zfs)) = &config.store else { return Ok(None) };
        let Some(datasets) = zfs.datasets(store)? else { return Ok(None) };
        let datasets = datasets.into_keys().collect();
        let Some(guid) = zfs.pool_guid(store.split('/').next().unwrap_or(store))? else { return Ok(None) };
        *pool = Some(Pool { guid, store, zfs, datasets });
    }
    Ok(pool.as_mut())
}

impl Pool<'_> {
    /// Makes the host's own file system and the parents that the configuration lists. Returns the
    /// parent that is missing and not listed.
    fn parent(&mut self, target: &Target, create: &[Dataset]) -> Result<Option<Dataset>> {
        let root = format!("{}/{}", self.store, target.host);
        if !self.datasets.contains(&root) {
            self.zfs.create_parent(&root)?;
            self.datasets.insert(root.clone());
        }
        loop {
            let there = |dataset: &Dataset| self.datasets.contains(&format!("{root}/{dataset}"));
            let Some(missing) = plan::missing_parent(target, there) else { return Ok(None) };
            if !create.contains(&missing) {
                return Ok(Some(missing));
            }
            let name = format!("{root}/{missing}");
            self.zfs.create_parent(&name)?;
            self.datasets.insert(name);
        }
    }
}
