//! A lock file in the format of dotlockfile(1), so that scripts and the tools exclude each other.
//!
//! This is liblockfile's algorithm (lockfile_create(3)): the pid is written to a temporary file in the
//! same directory, which is linked to the lock's name. A lock is stale if no process has its pid,
//! or if it has no pid and is older than five minutes. In liblockfile, breaking a stale lock is racy.
//! Here, all zsnap processes do it under a flock ([`crate::durable::tool_lock::ToolLock`]), and a lock that
//! proves fresh is put back.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::cli::exit::{Exit, OrExit};
use crate::names::random::random_hex;
use crate::names::shell::quoted;

/// The age at which a lock without a pid is stale (lockfile_create(3)).
const STALE: Duration = Duration::from_secs(300);
/// The number of bytes of a lock file that are read, as in liblockfile.
const MAX_PID: u64 = 16;

/// The identity of a file, whatever its name. It includes the mtime, because inode numbers are reused after deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    dev: u64,
    ino: u64,
    mtime: i64,
    nanos: u64,
}

impl FileId {
    // The types of `Stat` differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn of(stat: &Stat) -> FileId {
        FileId {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            mtime: stat.st_mtime as i64,
            nanos: stat.st_mtime_nsec as u64,
        }
    }
}

impl FileId {
    /// Whether it is the same file, even if its mtime has changed. Valid only while one of the two is open,
    /// as otherwise the inode number may have been reused.
    fn is(self, other: FileId) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.dev, self.ino, self.mtime, self.nanos)
    }
}

impl FromStr for FileId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<FileId, Self::Err> {
        let mut words = text.split(' ');
        let mut next = || words.next().unwrap_or_default();
        Ok(FileId { dev: next().parse()?, ino: next().parse()?, mtime: next().parse()?, nanos: next().parse()? })
    }
}

/// Who holds a lock, and for how long.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) age: Duration,
    pub(crate) who: String,
}

/// Our lock file, removed on drop.
#[derive(Debug)]
pub(crate) struct DotLock {
    dir: OwnedFd,
    name: OsString,
    id: FileId,
    // Not used, but kept open for `FileId::is`.
    _file: File,
}

enum State {
    Gone,
    Held(Holder),
    /// A stale lock file, kept open so that its inode number is not reused.
    Stale(OwnedFd),
}

impl DotLock {
    /// Creates the lock file, or returns the holder. The caller holds the flock. `left` is a lock file
    /// that is known to belong to a dead process.
    pub(crate) fn take(path: &Path, left: Option<FileId>) -> anyhow::Result<Result<DotLock, Holder>> {
        let (dir, name) = open_dir(path)?;
        let what = || format!("cannot make the lock file {}", path.display());
        let (temporary, file, id) = Temporary::create(dir.as_fd()).or_exit(Exit::CantCreate, what())?;
        // Up to two more tries, if a lock proves stale or is removed at this moment.
        for _ in 0..3 {
            let linked = rustix::fs::linkat(&dir, &temporary.name, &dir, &name, AtFlags::empty());
            // Over NFS the result may be wrong, so the file at the lock's name decides.
            let there = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileId::of(&stat));
            if there.is_ok_and(|there| there.is(id)) {
                drop(temporary);
                return Ok(Ok(DotLock { dir, name, id, _file: file }));
            }
            match judge(dir.as_fd(), &name, path, left)? {
                State::Held(holder) => return Ok(Err(holder)),
                State::Stale(stale) => break_stale(dir.as_fd(), &name, stale.as_fd()).or_exit(Exit::Io, what())?,
                State::Gone if linked != Err(Errno::EXIST) => linked.or_exit(Exit::CantCreate, what())?,
                State::Gone => {}
            }
        }
        let who = format!("several others, in turn ({})", path.display());
        Ok(Err(Holder { age: Duration::ZERO, who }))
    }

    /// Returns the identity of the lock file.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }
}

impl Drop for DotLock {
    fn drop(&mut self) {
        // Somebody may have removed the file by hand, and a script may have created its own since.
        let there = rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| FileId::of(&stat).is(self.id)) {
            let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// Opens the directory of a lock file, if only root and we can replace files in it.
fn open_dir(path: &Path) -> anyhow::Result<(OwnedFd, OsString)> {
    let Some(name) = path.file_name() else {
        return Err(Exit::Config.error(format!("{} is not a name of a lock file", path.display())));
    };
    let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let shown = dir.display();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).or_exit(Exit::Config, &shown)?;
    let stat = rustix::fs::fstat(&fd).or_exit(Exit::Config, &shown)?;
    if !is_ours(&stat) {
        let what = format!(
            "{shown} belongs to uid {}: keep the lock file in a directory of root or of the running user",
            stat.st_uid
        );
        return Err(Exit::Config.error(what));
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX) {
        let what =
            format!("others can write to the directory of the lock file: chmod go-w {}, or chmod +t", quoted(dir));
        return Err(Exit::Config.error(what));
    }
    Ok((fd, name.to_owned()))
}

fn is_ours(stat: &Stat) -> bool {
    stat.st_uid == 0 || stat.st_uid == geteuid().as_raw()
}

/// Decides whether an existing lock is held, stale or gone. `path` is for messages.
fn judge(dir: impl AsFd, name: &OsStr, path: &Path, left: Option<FileId>) -> anyhow::Result<State> {
    let shown = path.display();
    let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(State::Gone),
        stat => stat.or_exit(Exit::Config, &shown)?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Exit::Config.error(format!("{shown} is not a regular file, no lock file: remove it")));
    }
    let age = age(&stat);
    let held = |who: String| Ok(State::Held(Holder { age, who: format!("{who} ({shown})") }));
    if !is_ours(&stat) {
        return held(format!("a lock file of uid {}", stat.st_uid));
    }
    // These flags keep us from hanging on a FIFO, or following a link, that has just replaced the file.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(State::Gone),
        Err(Errno::ACCESS) => return held("a lock file that we may not read".into()),
        file => file.or_exit(Exit::Config, &shown)?,
    };
    let id = FileId::of(&rustix::fs::fstat(&file).or_exit(Exit::Io, &shown)?);
    if id != FileId::of(&stat) {
        return Ok(State::Gone);
    }
    if left == Some(id) {
        return Ok(State::Stale(file));
    }
    let file = File::from(file);
    let mut text = Vec::new();
    (&file).take(MAX_PID).read_to_end(&mut text).or_exit(Exit::Io, &shown)?;
    let stale = match pid(&text) {
        // A script took the lock for itself (`dotlockfile -p`) and became this process by exec: we take
        // the lock over, or the process would wait for itself.
        Some(pid) if pid == rustix::process::getpid() => true,
        Some(pid) => test_kill_process(pid) == Err(Errno::SRCH),
        // The age of a lock with a future timestamp is unknown: it is reported, not broken.
        None => age >= STALE && age != Duration::MAX,
    };
    if stale {
        return Ok(State::Stale(file.into()));
    }
    held(pid(&text).map_or("a lock file without pid".into(), |pid| format!("pid {pid}")))
}

/// Parses the number at the start, like atoi(3).
fn pid(text: &[u8]) -> Option<Pid> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    Pid::from_raw(std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?)
}

// Any integer type of `Stat` fits.
#[allow(clippy::unnecessary_cast)]
fn age(stat: &Stat) -> Duration {
    let since = Duration::from_secs(u64::try_from(stat.st_mtime as i64).unwrap_or(0));
    crate::locks::flock::age(SystemTime::UNIX_EPOCH + since)
}

/// Removes a lock that was judged stale. If a script has meanwhile replaced it with its own lock,
/// that one is put back.
fn break_stale(dir: impl AsFd, name: &OsStr, judged: impl AsFd) -> io::Result<()> {
    let aside = Temporary::name()?;
    match rustix::fs::renameat(&dir, name, &dir, &aside) {
        Err(Errno::NOENT) => return Ok(()),
        renamed => renamed?,
    }
    let moved = FileId::of(&rustix::fs::statat(&dir, &aside, AtFlags::SYMLINK_NOFOLLOW)?);
    if !moved.is(FileId::of(&rustix::fs::fstat(judged)?)) {
        // If this fails with EEXIST, another process already has the lock.
        let _ = rustix::fs::linkat(&dir, &aside, &dir, name, AtFlags::empty());
    }
    Ok(rustix::fs::unlinkat(&dir, &aside, AtFlags::empty())?)
}

/// A file with our pid under a temporary name, which is unlinked on drop.
struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    name: String,
}

impl<'a> Temporary<'a> {
    fn name() -> io::Result<String> {
        // The names of dotlockfile's temporary files begin with this.
        Ok(format!(".lk{}", random_hex(8)?))
    }

    fn create(dir: BorrowedFd<'a>) -> io::Result<(Temporary<'a>, File, FileId)> {
        let name = Self::name()?;
        // Readable by everybody, whatever the umask: dotlockfile must be able to read a living pid.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &name, flags, mode)?;
        let temporary = Temporary { dir, name };
        rustix::fs::fchmod(&file, mode)?;
        let mut file = File::from(file);
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        let id = FileId::of(&rustix::fs::fstat(&file)?);
        Ok((temporary, file, id))
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests;
