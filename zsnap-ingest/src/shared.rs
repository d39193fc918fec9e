//! What the hosts of one run share: configuration, pool, notices, memory, and the locks around what two of them must
//! not do at the same time.

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
use zsnap_common::stream::Guid;

use crate::config::Config;
use crate::plan::Standing;
use crate::pool::Pool;

/// The most verified files that are kept open until they are applied; others are verified again. This is far below the
/// usual limit of 1024 open files per process.
const MAX_OPEN: usize = 200;

/// Appended to the subject of a notice about a failure. It keeps the subject distinct from those of other notices:
/// file names, which others choose, cannot contain it.
const FAILED: &str = "/";

/// The shared state of one run.
pub struct Shared<'a> {
    /// The configuration of the run.
    pub config: &'a Config,
    /// The pool of the store; `None`: it is away or cannot be read, or no store is configured.
    pub pool: Option<Pool<'a>>,
    /// Why the pool cannot be read, if so.
    pool_failure: Option<String>,
    /// The time when the run began.
    pub now: SystemTime,
    /// Only report what would happen to each file, and change nothing: `status` and `plan`.
    pub dry: bool,
    notices: Mutex<Notices>,
    /// The worst failure that was reported in this run.
    worst: Mutex<Exit>,
    has_failed: AtomicBool,
    memory: AtomicU64,
    slots: AtomicUsize,
    targets: Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>,
}

/// Locks a mutex even if a thread panicked while it held it: none of the data behind these locks can be left
/// half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Shared<'a> {
    /// Creates the shared state, and looks for the pool. If that fails, it is reported, and what commands receive is
    /// processed all the same.
    ///
    /// # Errors
    /// The pool cannot be read, and no command is configured; or a signal came.
    pub fn new(config: &'a Config, now: SystemTime, dry: bool) -> Result<Shared<'a>> {
        let notices = Mutex::new(Notices::read(config.state.join("told.json"), seconds(now), dry));
        let memory = AtomicU64::new(config.verify_buffer);
        let slots = AtomicUsize::new(MAX_OPEN);
        let (pool, failure) = match Pool::open(config) {
            Ok(pool) => (pool, None),
            Err(e) if config.commands.is_empty() => return Err(e),
            Err(e) => (None, Some(e)),
        };
        let pool_failure = failure.as_ref().map(|e| format!("{e:#}"));
        let (worst, has_failed, targets) = (Mutex::new(Exit::Done), AtomicBool::new(false), Mutex::default());
        let shared =
            Shared { config, pool, pool_failure, now, dry, notices, worst, has_failed, memory, slots, targets };
        if let (Some(e), Some(store)) = (failure, &config.store) {
            shared.passed(&store.name, e)?;
        }
        Ok(shared)
    }

    /// Returns the time when the run began, in seconds since 1970.
    pub fn seconds(&self) -> u64 {
        seconds(self.now)
    }

    /// Locks the notices of the run.
    pub fn notices(&self) -> MutexGuard<'_, Notices> {
        lock(&self.notices)
    }

    /// Whether a program or a disk has failed in this run.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Whether a file that was first seen at `since` (seconds since 1970) has waited for longer than max-wait, or its
    /// age is unknown because that time lies ahead.
    pub fn is_long(&self, since: u64) -> bool {
        report::is_late(since, self.seconds(), self.config.max_wait)
    }

    /// Returns the identity of the pool of the store; `None`: it is away, or no store is configured.
    pub fn pool_guid(&self) -> Option<Guid> {
        self.pool.as_ref().map(|pool| pool.guid)
    }

    /// Returns the standing of a ZFS stream while the store is away or cannot be read; `None`: it is there, or none is
    /// configured.
    pub fn away(&self) -> Option<Standing> {
        let store = self.config.store.as_ref().filter(|_| self.pool.is_none())?;
        Some(match &self.pool_failure {
            Some(why) => Standing::Failed(format!("{}: {why}", store.name)),
            None => Standing::Away(format!("{} is absent", store.name)),
        })
    }

    /// Reports an error that concerns only one host or file, so that the run continues. Like other notices, it is
    /// reported, and counts in the exit status, when it is new, when it changes, and daily. The worst error determines
    /// the status.
    ///
    /// # Errors
    /// Returns the error if a signal caused it: only that ends the run.
    pub fn passed(&self, what: impl Display, e: anyhow::Error) -> Result<()> {
        if Cancelled::find(&e).is_some() {
            return Err(e);
        }
        self.has_failed.store(true, Ordering::Relaxed);
        let text = format!("{what}: {e:#}");
        // `status` and `plan` always report it, because the user has asked.
        if self.dry {
            log::error(text);
        } else if !self.notices().problem_in_words(&format!("{what}{FAILED}"), &text) {
            return Ok(());
        }
        let mut worst = lock(&self.worst);
        *worst = Exit::of(&e).max(*worst);
        Ok(())
    }

    /// Returns the exit status of the run.
    pub fn exit(&self) -> Exit {
        let notices = if self.notices().any { Exit::SomeFailed } else { Exit::Done };
        notices.max(*lock(&self.worst))
    }

    /// Reserves memory to verify a message of `size` bytes, if enough is left, and up to the share of one job, if
    /// possible, so that the uncompressed stream fits too. All hosts together never reserve more than
    /// `--verify-buffer`.
    pub fn room(&self, size: u64) -> Option<MemoryReservation<'_>> {
        let all = self.config.verify_buffer;
        let want = size.max(all / self.config.jobs as u64);
        let mut bytes = 0;
        let take = |left: u64| {
            bytes = want.min(left);
            left.checked_sub(bytes).filter(|_| bytes >= size)
        };
        self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(MemoryReservation { memory: &self.memory, bytes })
    }

    /// Whether [`Shared::room`] has memory for a message of `size` bytes now.
    pub fn has_room(&self, size: u64) -> bool {
        self.memory.load(Ordering::Relaxed) >= size
    }

    /// Reserves slots for a verified queue file of so many files that is kept open, if that many are left.
    pub fn slots(&self, files: usize) -> Option<OpenSlots<'_>> {
        self.slots.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(files)).ok()?;
        Some(OpenSlots(&self.slots, files))
    }

    /// Returns the lock of a command's target directory, so that only one thread at a time writes its journal.
    pub fn target(&self, directory: &Path) -> Arc<Mutex<()>> {
        lock(&self.targets).entry(directory.to_owned()).or_default().clone()
    }
}

/// Converts a time to seconds since 1970; earlier times become 0.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Reserved memory, which is released on drop.
pub struct MemoryReservation<'a> {
    memory: &'a AtomicU64,
    bytes: u64,
}

impl MemoryReservation<'_> {
    /// Returns the number of reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Releases what exceeds `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.memory.fetch_add(surplus, Ordering::Relaxed);
    }
}

impl Drop for MemoryReservation<'_> {
    fn drop(&mut self) {
        self.memory.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A number of the files that may be kept open, which are released on drop.
pub struct OpenSlots<'a>(&'a AtomicUsize, usize);

impl Drop for OpenSlots<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(self.1, Ordering::Relaxed);
    }
}
