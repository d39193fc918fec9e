//! A lock file in the format of dotlockfile(1), so that scripts and the tools exclude each other.
//!
//! liblockfile's algorithm (lockfile_create(3)): the pid is written to a temporary file in the
//! same directory, which is linked to the lock's name. A lock is stale if its pid is of no living
//! process, or if it has no pid and is older than five minutes. Breaking a stale one is racy
//! there. Here all zsnap processes do it under a flock ([`crate::durable::tool_lock::ToolLock`]), and what was
//! fresh after all is put back.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::cli::exit::{Exit, OrExit};

/// Age at which a lock without a pid is stale (lockfile_create(3)).
const STALE: Duration = Duration::from_secs(300);
/// liblockfile reads no more of a lock.
const MAX_PID: u64 = 16;

/// Which file it is, however it is named; with the time, as numbers of deleted files come again.
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
    /// Whether it is the same file, perhaps touched since. Only while one of them is open:
    /// its number is free otherwise.
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

/// Who holds a lock, and since when.
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
    // Only kept open, for `FileId::is`.
    _file: File,
}

enum State {
    Gone,
    Held(Holder),
    /// Kept open, so that its number is not given to another file.
    Stale(OwnedFd),
}

impl DotLock {
    /// Makes the lock file, or tells who has it. The caller holds the flock. `left`: a lock file
    /// that is known to be a dead process's.
    pub(crate) fn take(path: &Path, left: Option<FileId>) -> anyhow::Result<Result<DotLock, Holder>> {
        let (dir, name) = open_dir(path)?;
        let what = || format!("cannot make the lock file {}", path.display());
        let (temporary, file, id) = Temporary::create(dir.as_fd()).or_exit(Exit::CantCreate, what())?;
        // One try, and one more for each lock that proves stale or goes at that moment.
        for _ in 0..3 {
            let linked = rustix::fs::linkat(&dir, &temporary.name, &dir, &name, AtFlags::empty());
            // Over NFS the answer may be wrong: what is there decides.
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

    /// Which file it is.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }
}

impl Drop for DotLock {
    fn drop(&mut self) {
        // Somebody may have removed it by hand, and a script may have taken it since.
        let there = rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| FileId::of(&stat).is(self.id)) {
            let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// Opens the directory of a lock file, if nobody but root and us can do mischief in it.
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
        let what = format!("others can write to {shown}, which holds the lock file: chmod go-w, or +t");
        return Err(Exit::Config.error(what));
    }
    Ok((fd, name.to_owned()))
}

fn is_ours(stat: &Stat) -> bool {
    stat.st_uid == 0 || stat.st_uid == geteuid().as_raw()
}

/// Looks at a lock that is in our way. `path` is for messages.
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
    // Not to hang on a FIFO, nor to follow a link, that came here in this moment.
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
        // A script locked for itself (`dotlockfile -p`) and became this process by exec: take it
        // over, or it would wait for itself.
        Some(pid) if pid == rustix::process::getpid() => true,
        Some(pid) => test_kill_process(pid) == Err(Errno::SRCH),
        // Of one that is dated ahead nobody knows how old it is: it is reported, not broken.
        None => age >= STALE && age != Duration::MAX,
    };
    if stale {
        return Ok(State::Stale(file.into()));
    }
    held(pid(&text).map_or("a lock file without pid".into(), |pid| format!("pid {pid}")))
}

/// The number at the start, as atoi(3) reads it.
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

/// Removes a lock that was judged stale. A script may have done so in between and made its own:
/// that is put back.
fn break_stale(dir: impl AsFd, name: &OsStr, judged: impl AsFd) -> rustix::io::Result<()> {
    let aside = Temporary::name()?;
    match rustix::fs::renameat(&dir, name, &dir, &aside) {
        Err(Errno::NOENT) => return Ok(()),
        renamed => renamed?,
    }
    let moved = FileId::of(&rustix::fs::statat(&dir, &aside, AtFlags::SYMLINK_NOFOLLOW)?);
    if !moved.is(FileId::of(&rustix::fs::fstat(judged)?)) {
        // It exists: somebody was faster still.
        let _ = rustix::fs::linkat(&dir, &aside, &dir, name, AtFlags::empty());
    }
    rustix::fs::unlinkat(&dir, &aside, AtFlags::empty())
}

/// A file with our pid, under a name of its own; unlinked on drop.
struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    name: String,
}

impl<'a> Temporary<'a> {
    fn name() -> rustix::io::Result<String> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        // dotlockfile's own temporaries begin like this.
        Ok(format!(".lk{:016x}", u64::from_ne_bytes(random)))
    }

    fn create(dir: BorrowedFd<'a>) -> std::io::Result<(Temporary<'a>, File, FileId)> {
        let name = Self::name()?;
        // For everybody to read, whatever the umask: dotlockfile must see a living pid.
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
