//! A run: it locks, processes the files of all hosts in turn and in parallel, and then writes the notices and what
//! zsnap-expire needs to know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::report;
use zsnap_common::durable::incoming::{Incoming, shown};
use zsnap_common::durable::listing::{is_ignored, may_hold_queue_files, report_not_a_host};
use zsnap_common::durable::success;
use zsnap_common::durable::tool_lock::{self, ToolLock};
use zsnap_common::names::queue_name::{Entry, classify};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::{Host, Target};

use crate::beside;
use crate::cli::Options;
use crate::config::{CommandTable, Config};
use crate::host::HostRun;
use crate::inbox::Place;
use crate::journal::{self, TargetJournal};
use crate::leftovers;
use crate::needed;
use crate::plan::{Applied, Past};
use crate::shared::{Shared, lock};

/// Locks and runs. `only`: for one host. Runs again for files that exec published while the lock was held, because
/// exec itself found the lock busy. Returns the worst status of these runs.
pub fn locked(config: &Config, options: &Options, only: Option<&Host>) -> Result<Exit> {
    // The sender of the file, if anybody, reads the output of exec. So exec does not save the notices, and the
    // operator's own run reports them again.
    let remember = only.is_none();
    let (mut only, mut worst) = (only, Exit::Done);
    loop {
        let Some(lock) = lock_unless_busy(&config.state, options)? else { return Ok(worst) };
        let seen = published(&config.state)?;
        worst = worst.max(run(config, only, remember)?);
        drop(lock);
        if published(&config.state)?.is_subset(&seen) {
            return Ok(worst);
        }
        only = None;
    }
}

/// Returns the lock; `None`: another instance is running, which is not an error unless it runs for too long.
fn lock_unless_busy(state: &Path, options: &Options) -> Result<Option<ToolLock>> {
    tool_lock::unless_busy(state, options.dotlock.as_deref(), options.max_run)
}

/// Returns the lock for a command that a user has started: here a busy lock is an error.
pub fn take_lock(state: &Path, options: &Options) -> Result<ToolLock> {
    lock_unless_busy(state, options)?.ok_or_else(|| Exit::TryAgain.error("another zsnap-ingest is running; try again"))
}

/// Forgets what was applied of `target`, and reports it. With `applied` or `not_applied` it only settles whether an
/// interrupted command's stream was applied.
pub fn forget(config: &Config, options: &Options, target: &Target, applied: bool, not_applied: bool) -> Result<Exit> {
    let _lock = take_lock(&config.state, options)?;
    let command = config.command_for(target);
    if applied || not_applied {
        let Some(command) = command else {
            return Err(Exit::Usage.error(format!("no command receives {target}; --applied is for commands")));
        };
        settle(command, target, applied)?;
        log::outcome(match applied {
            true => format!("{target}: the interrupted file counts as applied; the next run goes on after it"),
            false => format!("{target}: the next run applies the interrupted file again"),
        });
        return Ok(Exit::Done);
    }
    let mut forgotten = Vec::new();
    if let Some(command) = command {
        let mut all = match beside::read(&command.target) {
            Err(e) if journal::is_damaged(&e) => {
                log::warn(format!("{e:#}; starting a new journal"));
                TargetJournal::new()
            }
            // It also has what other datasets have applied there.
            other => other?,
        };
        all.remove(&target.to_string());
        beside::write(&command.target, &all)?;
        forgotten.push(command.target.display().to_string());
    }
    if let Some(store) = &config.store {
        let pool = store.pool();
        match store.programs().and_then(|zfs| zfs.pool_guid(pool)) {
            Ok(Some(guid)) => {
                let path = journal::dataset_path(&config.state, guid, target);
                if command.is_none() || path.exists() {
                    journal::write(&path, &Past::default())?;
                    forgotten.push(format!("pool {pool}"));
                }
            }
            Err(e) if command.is_none() => return Err(e),
            Ok(None) if command.is_none() => {
                return Err(Exit::TryAgain.error(format!("pool {pool} is absent; its journal stays")));
            }
            Err(e) => log::warn(format!("pool {pool}: {e:#}; its journal stays")),
            Ok(None) => log::warn(format!("pool {pool} is absent; its journal stays")),
        }
    } else if command.is_none() {
        return Err(Exit::Config.error(format!("nothing receives {target}: specify --store, or a [[command]]")));
    }
    let said = writeln!(io::stdout().lock(), "{target}: forgot what was applied to {}", forgotten.join(" and "));
    said.or_exit(Exit::Io, "stdout")?;
    log::outcome(format!("{target}: the next full stream starts a new chain; queue one, if none waits"));
    Ok(Exit::Done)
}

/// Settles whether the stream that a command was processing when a run ended was applied.
fn settle(command: &CommandTable, target: &Target, applied: bool) -> Result<()> {
    let mut all = beside::read(&command.target)?;
    let Some(entry) = all.remove(&target.to_string()).filter(|entry| entry.applying) else {
        return Err(Exit::Usage.error(format!(
            "{target}: no command was interrupted; --applied and --not-applied say how that one ended"
        )));
    };
    let before = entry.before.clone().map(|before| *before);
    if let Some(kept) = if applied { Some(Applied { applying: false, before: None, ..entry }) } else { before } {
        all.insert(target.to_string(), kept);
    }
    beside::write(&command.target, &all)
}

/// Returns the paths of the queue files that exec has published.
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

/// Lists the files of all hosts. The hosts of the configuration are included even if they have no directory.
pub fn survey<'a>(shared: &'a Shared<'a>) -> Result<Vec<HostRun<'a>>> {
    let config = shared.config;
    let mut places: BTreeMap<Host, Vec<Place>> = config.hosts.keys().map(|host| (host.clone(), Vec::new())).collect();
    let (mut absent, mut unread) = (false, BTreeSet::new());
    let exec = config.state.join("exec");
    for (path, exec) in config.incoming.iter().map(|root| (root.as_path(), false)).chain([(exec.as_path(), true)]) {
        let root = match Incoming::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !exec {
                    absent = true;
                    let remedy = "create it, or attach its drive; until then nothing is received";
                    log::outcome(format!("{} is absent: {remedy}", quoted(path)));
                }
                continue;
            }
            other => other.or_exit(Exit::Io, "--incoming")?,
        };
        let root = Arc::new(root);
        let names = root.names().or_exit(Exit::Io, "--incoming")?;
        for name in &names {
            let host = Host::of_directory(name);
            let is_configured = host.as_ref().is_some_and(|host| config.hosts.contains_key(host));
            if !is_configured && is_ignored(&root, name) {
                continue;
            }
            let Some(host) = host else {
                report_not_a_host(name, &mut shared.notices());
                continue;
            };
            match root.inside(name) {
                // What lies there waits until the host is configured, and must not do so unnoticed.
                Ok(dir) if is_configured || exec || may_hold_queue_files(&dir) => {
                    places.entry(host).or_default().push(Place::new(root.clone(), dir, exec));
                }
                Ok(_) => shared.notices().oddity(&shown(name), "is not a configured host; ignored"),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if !is_configured => {
                    shared.notices().oddity(&shown(name), &format!("is not a directory of a host ({e}); ignored"));
                }
                // Nothing is known of the files in the directory: the host must not look like one that has sent none.
                Err(e) => {
                    shared.passed(&host, Exit::Io.error(format!("its directory cannot be read: {e}")))?;
                    unread.insert(host);
                }
            }
        }
    }
    places.retain(|host, _| !unread.contains(host));
    let mut hosts = Vec::new();
    for (host, places) in places {
        match HostRun::open(shared, host.clone(), places, absent) {
            Ok(run) => hosts.push(run),
            // A host never blocks another one.
            Err(e) => shared.passed(host, e)?,
        }
    }
    Ok(hosts)
}

fn run(config: &Config, only: Option<&Host>, remember: bool) -> Result<Exit> {
    if let Err(e) = leftovers::remove(config) {
        log::warn(format!("clearing up: {e}"));
    }
    let shared = Shared::new(config, SystemTime::now(), false)?;
    let mut hosts = survey(&shared)?;
    // A host that could not be listed has files of which nothing is known.
    let (complete, known) = (hosts.len(), !shared.has_failed());
    let pool = shared.pool_guid();
    let needed = |hosts: &[HostRun<'_>], complete| match pool {
        Some(pool) => needed::write(&config.state, pool, hosts, complete, shared.seconds()),
        None => Ok(()),
    };
    if hosts.iter().any(|host| !host.inbox().is_empty()) {
        needed(&hosts, false)?;
    }
    let (work, mut rest) = hosts.into_iter().partition(|host| only.is_none_or(|only| only == host.host()));
    hosts = work_off(config.jobs, work)?;
    for host in &mut hosts {
        if let Err(e) = host.finish() {
            shared.passed(host.host(), e)?;
        }
        silence(&shared, host);
    }
    hosts.append(&mut rest);
    let all_listed = hosts.iter().all(|host| host.inbox().beyond() == 0);
    needed(&hosts, known && all_listed && hosts.len() == complete)?;
    if remember {
        let unsolved = {
            let mut notices = shared.notices();
            notices.write(|_| false)?;
            notices.unsolved
        };
        success::note(&config.state, shared.exit(), unsolved);
    }
    Ok(shared.exit())
}

/// Processes the hosts in turn, one step each, on each of `jobs` threads. So a host with 10,000 bad files, or with a
/// slow receiver, delays the others by at most one step.
fn work_off<'a>(jobs: usize, hosts: Vec<HostRun<'a>>) -> Result<Vec<HostRun<'a>>> {
    let (queue, done) = (Mutex::new(VecDeque::from(hosts)), Mutex::new(VecDeque::new()));
    let work = || -> Result<()> {
        loop {
            let Some(mut host) = lock(&queue).pop_front() else { return Ok(()) };
            let to = if host.step()? { &queue } else { &done };
            lock(to).push_back(host);
        }
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        // If the system cannot create so many threads, fewer do the work, or only this one.
        let threads: Vec<_> = (0..jobs).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        if threads.is_empty() {
            return vec![work()];
        }
        let failed = || Err(Exit::Io.error("a thread failed; this is a defect of zsnap-ingest"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| failed())).collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into())
}

/// Reports a host that has sent nothing for longer than its max-age: it looks exactly like a host that has nothing to
/// send.
fn silence(shared: &Shared<'_>, host: &HostRun<'_>) {
    let name = host.host();
    let Some(max) = shared.config.hosts.get(name).and_then(|table| table.max_age) else { return };
    let (last, now) = (host.inbox().last_came(), shared.seconds());
    if report::is_late(last, now, max) {
        let message = match report::ago(last, now) {
            Some(_) => {
                format!("nothing came since {}, longer than max-age; see whether it still sends", report::time(last))
            }
            None => format!(
                "something came last at {}, which lies ahead, so nobody knows how long ago that was: set this clock if \
                 it is wrong, and see whether {name} still sends; when something comes, this is over",
                report::time(last)
            ),
        };
        shared.notices().problem(name.as_str(), &message);
    }
}
