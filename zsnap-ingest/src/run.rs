//! A run: look at every host's directory, verify, plan, apply, and do with each file what its
//! verdict says (ARCHITECTURE.md has the table). One failing file stops only its own dataset.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::cancel;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::incoming::{Incoming, shown};
use zsnap_common::lock::{Taken, ToolLock};
use zsnap_common::log;
use zsnap_common::publish;
use zsnap_common::queue_name::{Entry, QueueName, classify};
use zsnap_common::target::{Host, Target};

use crate::apply::{Apply, In, Outcome};
use crate::cli::Options;
use crate::config::Config;
use crate::journal::{self, Applied, Past, TargetJournal};
use crate::told::Told;

/// Takes the lock and runs; `only`: for one host. Looks once more for what exec published while
/// the lock was held, since its own attempt found the lock busy.
pub fn locked(config: &Config, options: &Options, only: Option<&Host>) -> Result<Exit> {
    let mut only = only;
    loop {
        let Some(lock) = lock_unless_busy(&config.state, options)? else { return Ok(Exit::Done) };
        let seen = published(&config.state)?;
        let exit = run(config, only)?;
        drop(lock);
        if published(&config.state)?.is_subset(&seen) {
            return Ok(exit);
        }
        only = None;
    }
}

/// `None`: another instance is at work, which is no error as long as it is young.
fn lock_unless_busy(state: &Path, options: &Options) -> Result<Option<ToolLock>> {
    publish::make_dirs(state).or_exit(Exit::CantCreate, "--state")?;
    match ToolLock::take(&state.join("lock"), options.dotlock.as_deref())? {
        Taken::Ours(lock) => Ok(Some(lock)),
        Taken::Busy { age, who } if age < options.max_run => {
            log::info(format!("nothing done: {who} is at work"));
            Ok(None)
        }
        Taken::Busy { age, who } => {
            let hours = age.as_secs() / 3600;
            Err(Exit::TryAgain.error(format!("{who} has been at work for {hours} hours; see what it does")))
        }
    }
}

/// For what a person asked to be done now: a busy lock is an error.
pub fn take_lock(state: &Path, options: &Options) -> Result<ToolLock> {
    lock_unless_busy(state, options)?.ok_or_else(|| Exit::TryAgain.error("another zsnap-ingest is at work; try again"))
}

/// Forgets what was applied of `target`; for an interrupted command the operator may say instead
/// whether it was applied.
pub fn adopt(config: &Config, options: &Options, target: &Target, applied: bool, not_applied: bool) -> Result<Exit> {
    let _lock = take_lock(&config.state, options)?;
    if let Some(command) = config.command_for(target) {
        let path = journal::target_path(&command.target)?;
        let mut all: TargetJournal = journal::read(&path)?.unwrap_or_default();
        let entry = all.remove(&target.to_string());
        let kept = match entry {
            Some(entry) if applied => Some(Applied { applying: false, before: None, ..entry }),
            Some(entry) if not_applied => entry.before.map(|before| *before),
            _ => None,
        };
        if let Some(kept) = kept {
            all.insert(target.to_string(), kept);
        }
        journal::write(&path, &all)?;
        return Ok(Exit::Done);
    }
    if applied || not_applied {
        return Err(Exit::Usage.error(format!("no command receives {target}; --applied is for commands")));
    }
    let Some((store, zfs)) = &config.store else {
        return Err(Exit::Config.error(format!("nothing receives {target}: give --store, or a [[command]]")));
    };
    let pool = store.split('/').next().unwrap_or(store);
    let Some(guid) = zfs.pool_guid(pool)? else {
        return Err(Exit::TryAgain.error(format!("pool {pool} is not here; its journal stays")));
    };
    journal::write(&journal::dataset_path(&config.state, guid, target), &Past::default())?;
    Ok(Exit::Done)
}

/// The queue files that exec has published.
fn published(state: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    let root = match Incoming::open(&state.join("exec")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(all),
        other => other.or_exit(Exit::Io, "exec")?,
    };
    for host in root.names().or_exit(Exit::Io, "exec")? {
        let Ok(dir) = root.inside(&host) else { continue };
        let names = dir.names().or_exit(Exit::Io, "exec")?;
        all.extend(names.iter().filter(|n| is_queue(n)).map(|name| dir.path().join(name)));
    }
    Ok(all)
}

fn is_queue(name: &OsStr) -> bool {
    matches!(classify(name.as_encoded_bytes()), Entry::Queue(_))
}

/// Where queue files come from.
struct Place {
    root: PathBuf,
    /// Verified and spooled by exec: plain streams are allowed here.
    exec: bool,
}

fn run(config: &Config, only: Option<&Host>) -> Result<Exit> {
    let clock = SystemTime::now();
    let seconds = clock.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let mut told = Told::read(&config.state, seconds);
    let mut apply = Apply::new(config, clock);
    let mut failed = None;
    let exec = Place { root: config.state.join("exec"), exec: true };
    let incoming = config.incoming.iter().map(|root| Place { root: root.clone(), exec: false });
    for place in incoming.chain([exec]) {
        let root = match Incoming::open(&place.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !place.exec {
                    log::info(format!("{} is not here; nothing done", place.root.display()));
                }
                continue;
            }
            other => other.or_exit(Exit::Io, "--incoming")?,
        };
        for name in root.names().or_exit(Exit::Io, "--incoming")? {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let host: Option<Host> = name.to_str().and_then(|n| n.parse().ok());
            if only.is_some() && only != host.as_ref() {
                continue;
            }
            let Some(host) = host else {
                told.problem(&shown(&name), "is not the name of a host; left alone");
                continue;
            };
            match root.inside(&name) {
                Ok(dir) => {
                    let mut visit = Visit { root: &root, dir: &dir, host: &host, exec: place.exec, told: &mut told };
                    match visit.host(&mut apply, &mut failed) {
                        // One host never blocks another; only a signal ends the run.
                        Err(e) if cancel::Cancelled::find(&e).is_none() => {
                            log::error(format!("{host}: {e:#}"));
                            failed.get_or_insert(Exit::of(&e));
                        }
                        other => other?,
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => told.problem(&shown(&name), &format!("is no directory of its own ({e}); left alone")),
            }
        }
    }
    let any = told.any;
    told.write(only.map(Host::as_str))?;
    Ok(match failed {
        Some(exit) => exit,
        None if any => Exit::SomeFailed,
        None => Exit::Done,
    })
}

/// One host's directory.
struct Visit<'a> {
    root: &'a Incoming,
    dir: &'a Incoming,
    host: &'a Host,
    exec: bool,
    told: &'a mut Told,
}

/// A queue file of the directory.
struct File {
    queue: QueueName,
    name: OsString,
    /// What it waits for, once it was looked at.
    waits: Option<String>,
}

impl Visit<'_> {
    fn host(&mut self, apply: &mut Apply<'_>, failed: &mut Option<Exit>) -> Result<()> {
        let mut labels: BTreeMap<String, Vec<File>> = BTreeMap::new();
        for name in self.dir.names().or_exit(Exit::Io, "--incoming")? {
            match classify(name.as_encoded_bytes()) {
                Entry::Queue(queue) => {
                    labels.entry(queue.label.to_string()).or_default().push(File { queue, name, waits: None });
                }
                Entry::Transport => {}
                Entry::Foreign => self.tell(&name, "is not the name of a queue file; left alone"),
            }
        }
        // A file may wait for one of another label: a child for its parent, a copy `NAME.0` of
        // NNCP's for NAME. So all are looked at again for as long as that gets on.
        let mut labels: Vec<_> = labels.into_values().collect();
        for files in &mut labels {
            files.sort_by(|a, b| (&a.queue, &a.name).cmp(&(&b.queue, &b.name)));
        }
        loop {
            let mut progress = false;
            for files in &mut labels {
                progress |= self.label(files, apply, failed)?;
            }
            labels.retain(|files| !files.is_empty());
            if !progress || labels.is_empty() {
                break;
            }
        }
        for file in labels.iter().flatten() {
            if let Some(waits) = &file.waits {
                self.tell(&file.name, &format!("waiting {waits}"));
            }
        }
        Ok(())
    }

    /// The files of one label, in the order of their numbers. What is left in `files` afterwards
    /// waits for something. Tells whether anything was applied.
    fn label(&mut self, files: &mut Vec<File>, apply: &mut Apply<'_>, failed: &mut Option<Exit>) -> Result<bool> {
        let mut progress = false;
        let mut left = Vec::new();
        let mut rest: VecDeque<File> = std::mem::take(files).into();
        while let Some(mut file) = rest.pop_front() {
            cancel::check()?;
            let behind: Vec<&OsStr> = rest.iter().map(|f| f.name.as_os_str()).collect();
            let place = In { root: self.root, dir: self.dir, host: self.host, exec: self.exec };
            match apply.file(&place, &file.queue, &file.name, &behind)? {
                Outcome::Applied => progress = true,
                Outcome::Removed(why) => log::info(format!("{}: removed: {why}", self.key(&file.name))),
                Outcome::Waits(why) => {
                    file.waits = Some(why);
                    left.push(file);
                }
                Outcome::Stays(why) => self.tell(&file.name, &why),
                Outcome::Quarantined(why) => self.told.event(format!("{}: in quarantine: {why}", self.key(&file.name))),
                Outcome::Later(why) => {
                    log::info(format!("{}: later: {why}", self.key(&file.name)));
                    break;
                }
                Outcome::Failed(e) => {
                    log::error(format!("{}: {e:#}", self.key(&file.name)));
                    failed.get_or_insert(Exit::of(&e));
                    break;
                }
            }
        }
        *files = left;
        Ok(progress)
    }

    fn tell(&mut self, name: &OsStr, message: &str) {
        let key = self.key(name);
        self.told.problem(&key, message);
    }

    fn key(&self, name: &OsStr) -> String {
        format!("{}/{}", self.host, shown(name))
    }
}
