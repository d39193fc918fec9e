//! What the hosts of one run share: configuration, pool, what was told, memory, and locks for
//! what two of them must not do at once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::exit::Exit;

use crate::config::Config;
use crate::pool::Pool;
use crate::told::Told;

/// Of one run.
pub struct Shared<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The pool; `None`: it is not here, or none is configured.
    pub pool: Option<Pool<'a>>,
    /// When the run began.
    pub now: SystemTime,
    told: Mutex<Told>,
    failed: Mutex<Option<Exit>>,
    memory: AtomicU64,
    targets: Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>,
}

/// A thread that panicked has left nothing half-done behind these locks.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Shared<'a> {
    /// Looks for the pool.
    pub fn new(config: &'a Config, now: SystemTime) -> Result<Shared<'a>> {
        let told = Mutex::new(Told::read(&config.state, seconds(now)));
        let memory = AtomicU64::new(config.limits.verify_buffer);
        let pool = Pool::open(config)?;
        Ok(Shared { config, pool, now, told, failed: Mutex::new(None), memory, targets: Mutex::default() })
    }

    /// When the run began: seconds since 1970.
    pub fn seconds(&self) -> u64 {
        seconds(self.now)
    }

    /// What the operator is told.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }

    /// A program or a disk failed: the first failure is the status of the run.
    pub fn failed(&self, exit: Exit) {
        lock(&self.failed).get_or_insert(exit);
    }

    /// The status of the run.
    pub fn exit(&self) -> Exit {
        let told = if self.told().any { Exit::SomeFailed } else { Exit::Done };
        lock(&self.failed).unwrap_or(told)
    }

    /// Room in memory for a verified message of `bytes`, if there is any left. All hosts together
    /// never keep more than `--verify-buffer`.
    pub fn room(&self, bytes: u64) -> Option<Room<'_>> {
        let take = |left: u64| left.checked_sub(bytes);
        self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Room { memory: &self.memory, bytes })
    }

    /// The lock of a command's target directory: its journal is written by one at a time.
    pub fn target(&self, directory: &Path) -> Arc<Mutex<()>> {
        lock(&self.targets).entry(directory.to_owned()).or_default().clone()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Memory that was taken; given back on drop.
pub struct Room<'a> {
    memory: &'a AtomicU64,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.memory.fetch_add(self.bytes, Ordering::Relaxed);
    }
}
