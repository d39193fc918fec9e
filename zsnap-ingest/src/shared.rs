//! What the hosts of one run share: configuration, pool, what was told, memory, and locks for
//! what two of them must not do at once.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::cli::cancel::Cancelled;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::log;
use zsnap_common::cli::report;
use zsnap_common::durable::notices::Notices;

use crate::config::Config;
use crate::pool::Pool;

/// So many verified files are held open until they are applied; more are verified again. Far below the
/// 1024 files that a process may usually open.
const HELD: usize = 200;

/// Stands behind what something failed over, where it is remembered that it was told: no name of a file, which
/// others choose, ends so.
const FAILED: &str = "/";

/// Of one run.
pub struct Shared<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The pool; `None`: it is absent, or none is configured.
    pub pool: Option<Pool<'a>>,
    /// When the run began.
    pub now: SystemTime,
    /// Say what would become of files, and do nothing: `status` and `plan`.
    pub dry: bool,
    notices: Mutex<Notices>,
    /// The worst failure that was told in this run.
    worst: Mutex<Exit>,
    has_failed: AtomicBool,
    memory: AtomicU64,
    slots: AtomicUsize,
    targets: Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>,
}

/// A thread that panicked has left nothing half-done behind these locks.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Shared<'a> {
    /// Looks for the pool.
    pub fn new(config: &'a Config, now: SystemTime, dry: bool) -> Result<Shared<'a>> {
        let notices = Mutex::new(Notices::read(config.state.join("told.json"), seconds(now), dry));
        let memory = AtomicU64::new(config.verify_buffer);
        let slots = AtomicUsize::new(HELD);
        let pool = Pool::open(config)?;
        let (worst, has_failed, targets) = (Mutex::new(Exit::Done), AtomicBool::new(false), Mutex::default());
        Ok(Shared { config, pool, now, dry, notices, worst, has_failed, memory, slots, targets })
    }

    /// When the run began: seconds since 1970.
    pub fn seconds(&self) -> u64 {
        seconds(self.now)
    }

    /// What the operator is told.
    pub fn notices(&self) -> MutexGuard<'_, Notices> {
        lock(&self.notices)
    }

    /// A program or a disk has failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// What is here `since` (seconds since 1970) is here for longer than max-wait, or nobody knows for how long.
    pub fn is_long(&self, since: u64) -> bool {
        report::is_late(since, self.seconds(), self.config.max_wait)
    }

    /// A store is configured, and not here.
    pub fn is_pool_away(&self) -> bool {
        self.config.store.is_some() && self.pool.is_none()
    }

    /// An error that is the affair of one host or file; only a signal ends the run. It is told, and counts in the
    /// status, as other problems are: when it is new, when it changes, and daily. The worst one decides.
    pub fn passed(&self, what: impl Display, e: anyhow::Error) -> Result<()> {
        if Cancelled::find(&e).is_some() {
            return Err(e);
        }
        self.has_failed.store(true, Ordering::Relaxed);
        let text = format!("{what}: {e:#}");
        // Who asks gets an answer.
        if self.dry {
            log::error(text);
        } else if !self.notices().problem_in_words(&format!("{what}{FAILED}"), &text) {
            return Ok(());
        }
        let mut worst = lock(&self.worst);
        *worst = Exit::of(&e).max(*worst);
        Ok(())
    }

    /// The status of the run.
    pub fn exit(&self) -> Exit {
        let notices = if self.notices().any { Exit::SomeFailed } else { Exit::Done };
        notices.max(*lock(&self.worst))
    }

    /// Room in memory to verify a message of `size` bytes, if there is any left, with some more so that its
    /// plain stream fits as well. All hosts together never have more than `--verify-buffer`.
    pub fn room(&self, size: u64) -> Option<Room<'_>> {
        let all = self.config.verify_buffer;
        let want = size.max(all / self.config.jobs as u64);
        let mut bytes = 0;
        let take = |left: u64| {
            bytes = want.min(left);
            left.checked_sub(bytes).filter(|_| bytes >= size)
        };
        self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Room { memory: &self.memory, bytes })
    }

    /// A place for one more verified file that is held open.
    pub fn slot(&self) -> Option<Slot<'_>> {
        self.slots.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(Slot(&self.slots))
    }

    /// The lock of a command's target directory: its journal is written by one at a time.
    pub fn target(&self, directory: &Path) -> Arc<Mutex<()>> {
        lock(&self.targets).entry(directory.to_owned()).or_default().clone()
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Memory that was taken; given back on drop.
pub struct Room<'a> {
    memory: &'a AtomicU64,
    bytes: u64,
}

impl Room<'_> {
    /// How much.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.memory.fetch_add(surplus, Ordering::Relaxed);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.memory.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// One of the files that may be held open; given back on drop.
pub struct Slot<'a>(&'a AtomicUsize);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
