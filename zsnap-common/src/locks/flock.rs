//! Locks with flock(2), which the kernel releases however the process ends. The site's scripts use a
//! dotlock beside it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::cli::exit::{Exit, OrExit};
use crate::cli::report;

/// A flock on a file. It is released on drop, or however the process ends; the fd is close-on-exec. The file
/// is never deleted, because two processes could then hold locks on two files of one name.
///
/// The file contains the holder's pid, and its mtime is the time since when it is held. While nobody
/// holds the lock, the file is empty, unless the last holder was killed.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// The content that the last holder left in the file.
    pub(crate) before: String,
}

/// The time after which a forked child has certainly called exec(2), even on a busy machine.
const ORPHAN: Duration = Duration::from_secs(1);

/// The process that a lock's file names.
#[derive(Debug, PartialEq)]
enum Noted {
    /// The file names no process, as with flock(1).
    Nobody,
    /// The process has ended.
    Dead,
    /// The process is alive.
    Alive(Pid),
}

fn noted(lock: &Path) -> Noted {
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    match text.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw) {
        None => Noted::Nobody,
        Some(pid) if test_kill_process(pid) == Err(Errno::SRCH) => Noted::Dead,
        Some(pid) => Noted::Alive(pid),
    }
}

/// Takes the flock of an open file; `false` if another process holds it.
pub(crate) fn try_flock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        locked => Ok(locked.map(|()| true)?),
    }
}

impl Lock {
    /// Takes the lock; `None` if another process holds it. Creates the file (0600) if needed; refuses symlinks, FIFOs
    /// and devices. Waits for up to a second if the process whose pid is in the file is dead.
    pub fn try_new(path: &Path) -> anyhow::Result<Option<Lock>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let shown = path.display();
        let file = match rustix::fs::open(path, flags | OFlags::NOCTTY, Mode::RUSR | Mode::WUSR) {
            Err(Errno::LOOP) => {
                return Err(Exit::Config.error(format!("{shown} is a symbolic link, no lock file: remove it")));
            }
            opened => opened.or_exit(Exit::CantCreate, format_args!("cannot open the lock file {shown}"))?,
        };
        let stat = rustix::fs::fstat(&file).or_exit(Exit::Io, &shown)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Exit::Config.error(format!("{shown} is not a regular file, no lock file: remove it")));
        }
        let file = File::from(file);
        let begun = Instant::now();
        while !try_flock(&file).or_exit(Exit::Io, format_args!("cannot lock {shown}"))? {
            // A child that the killed holder had just forked holds the lock until it calls exec(2).
            if noted(path) != Noted::Dead || begun.elapsed() >= ORPHAN {
                return Ok(None);
            }
            sleep(Duration::from_millis(5));
        }
        let mut before = String::new();
        let _ = (&file).take(1000).read_to_string(&mut before);
        let mut lock = Lock { file, before };
        lock.note("");
        Ok(Some(lock))
    }

    /// Writes our pid and `more` into the file. Best effort, as the content only informs: a full disk is not an error.
    pub(crate) fn note(&mut self, more: &str) {
        let _ = self.file.set_len(0).and_then(|()| self.file.rewind());
        let _ = self.file.write_all(format!("{}\n{more}", std::process::id()).as_bytes());
        let _ = self.file.set_modified(SystemTime::now());
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The next holder may be a script with flock(1), which writes no pid into the file.
        let _ = self.file.set_len(0);
        // Closing is not enough while a child of another thread is between fork and exec.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Returns how long another process has held a [`Lock`], and a text for the message: "pid 123" and the file.
/// The age is zero if the holder wrote no pid (flock(1) in a script), even if that of a dead holder is still there.
pub fn holder(lock: &Path) -> (Duration, String) {
    let (age, who) = match noted(lock) {
        Noted::Alive(pid) => {
            let since = std::fs::metadata(lock).and_then(|meta| meta.modified());
            (since.map(age).unwrap_or_default(), format!("pid {pid}"))
        }
        Noted::Nobody | Noted::Dead => (Duration::ZERO, "somebody who noted no pid".to_owned()),
    };
    (age, format!("{who} ({})", lock.display()))
}

/// Returns the age of a lock by its timestamp. For a future timestamp (by more than [`report::AHEAD`]) it is
/// `Duration::MAX`, as otherwise it would never be reported that the holder does not end.
pub(crate) fn age(since: SystemTime) -> Duration {
    match since.elapsed() {
        Ok(age) => age,
        Err(e) if e.duration() > report::AHEAD => Duration::MAX,
        Err(_) => Duration::ZERO,
    }
}

/// Returns the age of a lock as text that follows "has been running".
pub fn for_how_long(age: Duration) -> String {
    match age {
        Duration::MAX => "since a time in the future".to_owned(),
        age => format!("for {} hours", age.as_secs() / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn only_one_process_holds_a_lock_and_its_pid_is_reported() {
        let dir = dir();
        let path = dir.path().join("lock");
        let lock = Lock::try_new(&path).unwrap().unwrap();
        assert!(Lock::try_new(&path).unwrap().is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(holder(&path).1, format!("pid {} ({})", std::process::id(), path.display()));
        drop(lock);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let again = Lock::try_new(&path).unwrap().unwrap();
        assert!(holder(&path).0 < Duration::from_secs(3600));
        // A lock that was acquired while the clock was ahead must be reported.
        let ahead = SystemTime::now() + Duration::from_secs(400 * 86_400);
        File::options().write(true).open(&path).unwrap().set_modified(ahead).unwrap();
        assert_eq!(holder(&path).0, Duration::MAX);
        assert_eq!(for_how_long(Duration::MAX), "since a time in the future");
        assert_eq!(for_how_long(Duration::from_secs(7200)), "for 2 hours");
        // The last holder died, and a script acquired the lock: the dead process is not reported as the holder.
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        drop(again);
        for noted in ["".to_owned(), format!("{}\n", dead.id())] {
            std::fs::write(&path, noted).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
            assert_eq!(holder(&path), (Duration::ZERO, format!("somebody who noted no pid ({})", path.display())));
        }
    }

    #[test]
    fn a_forked_child_of_a_dead_holder_is_waited_for() {
        let dir = dir();
        let path = dir.path().join("lock");
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        std::fs::write(&path, format!("{}\n", dead.id())).unwrap();
        let child = File::open(&path).unwrap();
        assert!(try_flock(&child).unwrap());
        let began = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                began.wait();
                sleep(Duration::from_millis(30));
                rustix::fs::flock(&child, FlockOperation::Unlock).unwrap();
            });
            began.wait();
            assert!(Lock::try_new(&path).unwrap().is_some());
        });
        // A lock that is held for longer is not that of a forked child.
        std::fs::write(&path, format!("{}\n", dead.id())).unwrap();
        assert!(try_flock(&child).unwrap());
        assert!(Lock::try_new(&path).unwrap().is_none());
    }

    #[test]
    fn only_regular_files_are_locked() {
        let dir = dir();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for name in ["link", "fifo"] {
            let error = Lock::try_new(&at(name)).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Config);
            assert!(error.to_string().contains(name));
        }
        assert!(!at("target").exists());
        assert_eq!(Exit::of(&Lock::try_new(&at("none/lock")).unwrap_err()), Exit::CantCreate);
    }

    #[test]
    fn children_do_not_inherit_a_lock() {
        let dir = dir();
        let path = dir.path().join("lock");
        let lock = Lock::try_new(&path).unwrap().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let fds = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        let inherited =
            fds.filter(|fd| std::fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == path)).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(inherited, 0);
        drop(lock);
    }
}
