//! The lock of a whole tool: a flock, and beside it a dotlock for the site's scripts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::exit::{Exit, OrExit};
use crate::cli::log;
use crate::durable::publish;
use crate::locks::dotlock::{DotLock, FileId};
use crate::locks::flock::{Lock, for_how_long, holder};

/// The lock of a whole tool: flock on `state_lock`, then the dotlock beside it (or at `dotlock`).
#[derive(Debug)]
pub struct ToolLock {
    // Dropped in this order: the dotlock may be touched only while the flock is held.
    _dotlock: DotLock,
    _lock: Lock,
}

/// The result of taking the lock of a tool.
#[derive(Debug)]
pub enum Acquired {
    /// The lock is ours.
    Ours(ToolLock),
    /// Another instance (flock), or a script with dotlockfile, holds the lock.
    Busy {
        /// The age of the lock: of the file that the holder wrote at its start (mtime).
        age: Duration,
        /// The holder, for messages: "pid 123" and which file.
        who: String,
    },
}

impl ToolLock {
    /// Takes the lock. Without `dotlock`, the dotlock is beside `state_lock`, with `.dotlock` appended to the name.
    ///
    /// # Errors
    /// `Exit::Config` for an unsafe dotlock directory, or something at either path that is not a regular file.
    pub fn take(state_lock: &Path, dotlock: Option<&Path>) -> anyhow::Result<Acquired> {
        let Some(mut lock) = Lock::try_new(state_lock)? else {
            let (age, who) = holder(state_lock);
            return Ok(Acquired::Busy { age, who });
        };
        // A dotlock that a former holder of the flock left behind is stale, even if its pid now belongs to another
        // process, as it may after a reboot.
        let left: Option<FileId> = lock.before.lines().nth(1).and_then(|line| line.parse().ok());
        let path = dotlock.map_or_else(|| beside(state_lock), Path::to_owned);
        Ok(match DotLock::take(&path, left)? {
            Ok(dotlock) => {
                lock.note(&format!("{}\n", dotlock.id()));
                Acquired::Ours(ToolLock { _dotlock: dotlock, _lock: lock })
            }
            Err(holder) => Acquired::Busy { age: holder.age, who: holder.who },
        })
    }
}

/// Takes the lock of a tool whose state is in the directory `state`, which is created if it is missing. Returns
/// `None` if another instance is running.
///
/// # Errors
/// [`Exit::TryAgain`] if that instance has been running for longer than `max_run`.
pub fn unless_busy(state: &Path, dotlock: Option<&Path>, max_run: Duration) -> anyhow::Result<Option<ToolLock>> {
    publish::make_dirs(state).or_exit(Exit::CantCreate, "--state")?;
    match ToolLock::take(&state.join("lock"), dotlock)? {
        Acquired::Ours(lock) => Ok(Some(lock)),
        Acquired::Busy { age, who } if age <= max_run => {
            log::info(format_args!("another instance ({who}) is running; nothing was done"));
            Ok(None)
        }
        Acquired::Busy { age, who } => Err(Exit::TryAgain.error(format!(
            "{who} has been running {}, longer than --max-run: check what it is doing, then kill it",
            for_how_long(age)
        ))),
    }
}

fn beside(lock: &Path) -> PathBuf {
    let mut path = OsString::from(lock);
    path.push(".dotlock");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_lock_of_a_tool_has_a_flock_and_a_dotlock() {
        let dir = dir();
        let path = dir.path().join("lock");
        let dotlock = dir.path().join("lock.dotlock");
        let Acquired::Ours(ours) = ToolLock::take(&path, None).unwrap() else { panic!() };
        assert_eq!(std::fs::read_to_string(&dotlock).unwrap(), format!("{}\n", std::process::id()));
        let Acquired::Busy { age, who } = ToolLock::take(&path, None).unwrap() else { panic!() };
        assert!(age < Duration::from_secs(3600));
        assert_eq!(who, format!("pid {} ({})", std::process::id(), path.display()));
        drop(ours);
        assert!(!dotlock.exists() && path.exists());
    }

    #[test]
    fn a_dotlock_of_a_dead_instance_is_stale_although_its_pid_is_reused() {
        let dir = dir();
        let path = dir.path().join("lock");
        let dotlock = dir.path().join("lock.dotlock");
        let Acquired::Ours(mut ours) = ToolLock::take(&path, None).unwrap() else { panic!() };
        // The state after a power failure: the dotlock is left, and its pid is another process's.
        std::fs::write(&dotlock, "1\n").unwrap();
        let id = FileId::of(&rustix::fs::stat(&dotlock).unwrap());
        ours._lock.note(&format!("{id}\n"));
        std::mem::forget(ours._dotlock);
        let noted = std::fs::read(&path).unwrap();
        drop(ours._lock);
        std::fs::write(&path, noted).unwrap();
        assert!(matches!(ToolLock::take(&path, None).unwrap(), Acquired::Ours(_)));

        // But a script's lock with that pid is not stale.
        std::fs::write(&dotlock, "1\n").unwrap();
        let Acquired::Busy { who, .. } = ToolLock::take(&path, None).unwrap() else { panic!() };
        assert_eq!(who, format!("pid 1 ({})", dotlock.display()));
    }
}
