//! Child processes: started by an absolute path, without a shell and with a clean environment. Their stderr goes to the
//! log, and one whose input is incomplete is killed before its pipe is closed.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::hung::hung;
use crate::cli::cancel;
use crate::cli::cancel::Interruptible;
use crate::cli::escape::escape_bytes;
use crate::cli::exit::{Exit, OrExit};
use crate::cli::log;
use crate::process::proc;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The number of bytes of a child's line after which it is logged in pieces.
const MAX_LINE: u64 = 4096;
/// The number of lines that [`Child::last_words`] returns.
const LAST_WORDS: usize = 3;
/// How long a killed child may take to end. One that the kernel does not let go (an unkillable
/// `zfs receive`) is left behind and never waited for again.
const DEATH: Duration = Duration::from_secs(10);
/// How long we wait for the last lines of a child that has ended while a grandchild still holds its stderr.
const LAST_GASP: Duration = Duration::from_secs(1);

/// Returns the path of a program: an absolute path as it is, a bare name from the fixed search path
/// (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin, never the environment's).
/// `Exit::Unavailable` if it is missing or not executable, `Exit::Config` for a relative path; both with the remedy.
pub fn find(program: &Path) -> anyhow::Result<PathBuf> {
    let name = program.display();
    if program.is_absolute() {
        if executable(program) {
            return Ok(program.to_owned());
        }
        let what = format!("{name} is not a program that can be run: install it, or correct its path");
        return Err(Exit::Unavailable.error(what));
    }
    if program.components().count() != 1 || program.file_name() != Some(program.as_os_str()) {
        return Err(Exit::Config.error(format!("{name}: give a program's absolute path, or its bare name")));
    }
    let found = PATH.split(':').map(|dir| Path::new(dir).join(program)).find(|path| executable(path));
    found.ok_or_else(|| {
        Exit::Unavailable.error(format!("{name} is not in {PATH}: install it, or give its absolute path"))
    })
}

fn executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Returns a command with a clean environment: PATH (fixed), LC_ALL=C, TZ=UTC, HOME=/; working directory `/`; stdin and
/// stdout /dev/null. It gets its own process group, which [`Child::kill`] kills as a whole: otherwise a process that a
/// script started could read on and mistake our closed pipe for the end of the data.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("TZ", "UTC").env("HOME", "/");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    command
}

/// Makes the command run as `user` (uid, primary gid, no other groups; HOME, USER and LOGNAME
/// set). Changes nothing if we already are that user. `Exit::Config` if the user is unknown or
/// we are not root.
pub fn run_as(command: &mut Command, user: &str) -> anyhow::Result<()> {
    let us = nix::unistd::geteuid();
    let found = nix::unistd::User::from_name(user).or_exit(Exit::Config, format_args!("cannot look up user {user}"))?;
    let found = found.ok_or_else(|| Exit::Config.error(format!("there is no user {user}: correct the name")))?;
    if found.uid == us {
        return Ok(());
    }
    if !us.is_root() {
        return Err(Exit::Config.error(format!("only root can run a program as {user}: run as root or as {user}")));
    }
    // std drops all supplementary groups when it sets a uid and no groups are specified.
    command.uid(found.uid.as_raw()).gid(found.gid.as_raw());
    command.env("HOME", &found.dir).env("USER", user).env("LOGNAME", user);
    Ok(())
}

/// A running child, whose stderr a thread passes to `log::child_line`. Drop kills it and waits for it, so that a pipe
/// to it is never closed before it is dead, and a reader that commits at EOF does not commit a part.
/// For this, the owner of a [`ChildStdin`] keeps it until its data are complete, and otherwise
/// calls [`Child::kill`], or drops the child, first.
pub struct Child {
    label: String,
    child: std::process::Child,
    /// The pidfd of the child, which is readable when the child has ended.
    exit: OwnedFd,
    /// Disconnected when the thread that logs the child's stderr has ended.
    pumping: Option<Receiver<()>>,
    said: Arc<Mutex<VecDeque<String>>>,
    /// The child has ended and was waited for, or it was left behind and is never waited for again.
    over: bool,
    left_behind: Option<u32>,
}

impl Child {
    /// Starts the command, which `label` names in the log. Sets up its stderr, but not its stdin and stdout.
    pub fn spawn(mut command: Command, label: &str) -> anyhow::Result<Child> {
        command.stderr(Stdio::piped());
        let what = format!("cannot start {}", Path::new(command.get_program()).display());
        let mut child = command.spawn().or_exit(Exit::Unavailable, &what)?;
        // The command's copies of our pipe ends must not outlive this call.
        drop(command);
        let exit = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .or_else(|e| child.kill().and_then(|()| child.wait()).map(drop).and(Err(e.into())));
        let (exit, said) = (exit.or_exit(Exit::Unavailable, &what)?, Arc::default());
        let label = label.to_owned();
        let mut child = Child { label, child, exit, pumping: None, said, over: false, left_behind: None };
        if let Some(stderr) = child.child.stderr.take() {
            let (label, said, (ended, pumping)) = (child.label.clone(), child.said.clone(), channel::<()>());
            let pumped = std::thread::Builder::new().spawn(move || {
                pump(stderr, &label, &said);
                drop(ended);
            });
            // If no thread can be created, the child is dropped, which kills it.
            pumped.or_exit(Exit::Unavailable, what)?;
            child.pumping = Some(pumping);
        }
        Ok(child)
    }

    /// Returns the process id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes the writing end of the child's stdin (if piped). Drop it only when all data are written;
    /// after an error, kill the child first.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Takes the reading end of the child's stdout (if piped).
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until the child ends. A signal to us (`cancel`) or the `timeout` kills it, which is an error.
    /// (A pipe to its stdin that was not taken is not closed before it has ended.)
    pub fn wait(&mut self, timeout: Option<Duration>) -> anyhow::Result<ExitStatus> {
        match self.wait_at_most(timeout)? {
            Some(status) => Ok(status),
            None => Err(self.give_up(&format!("did not end in {} s", timeout.unwrap_or_default().as_secs()))),
        }
    }

    /// Waits until the child ends, for as long as it makes progress: `patience` starts again whenever `done`,
    /// the bytes that it has read and written, has changed. When `patience` is over, the child is killed, and
    /// [`hangs`](crate::durable::dest::hangs) is true for the error.
    pub fn wait_while_working(
        &mut self,
        patience: Option<Duration>,
        mut done: impl FnMut() -> u64,
    ) -> anyhow::Result<ExitStatus> {
        let Some(patience) = patience else { return self.wait(None) };
        // `done` has a cost, so it is called rarely if `patience` is long.
        let pause = (patience / 8).min(Duration::from_secs(30));
        let (mut before, mut since) = (done(), Instant::now());
        loop {
            if let Some(status) = self.wait_at_most(Some(pause))? {
                return Ok(status);
            }
            let now = done();
            if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() >= patience {
                let error = self.give_up(&format!("read and wrote nothing for {} s", patience.as_secs()));
                return Err(hung(error));
            }
        }
    }

    /// Returns the status of the child, or `None` if it does not end within `time`. A signal to us (`cancel`) kills it.
    fn wait_at_most(&mut self, time: Option<Duration>) -> anyhow::Result<Option<ExitStatus>> {
        let waited = cancel::ready(self.exit.as_fd(), PollFlags::IN, time);
        match (self.try_wait().or_exit(Exit::Io, &self.label)?, waited) {
            (None, Err(e)) if e.kind() != io::ErrorKind::TimedOut => {
                self.kill();
                Err(anyhow::Error::from(e).context(self.label.clone()))
            }
            // If it has ended, that counts, even if there was a signal too.
            (status, _) => Ok(status),
        }
    }

    /// Sends SIGTERM to the child, and kills it if it does not end within 10 seconds.
    pub fn stop(&mut self) {
        if !self.over {
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.wait_for_end(DEATH);
        }
        self.kill();
    }

    /// Whether the child has ended and was waited for, or was left behind.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The process id of what was killed and did not end: the child, or another process of its group.
    pub fn left_behind(&self) -> Option<u32> {
        self.left_behind
    }

    /// Kills a child that hangs. Returns the error ([`Exit::Unavailable`]), which states `what` it did ("did not
    /// end in 5 s"), its process id, and whether it is dead or had to be left behind.
    pub fn give_up(&mut self, what: &str) -> anyhow::Error {
        self.end();
        Exit::Unavailable.error(format!("{} (pid {}) {what} and {}", self.label, self.child.id(), self.fate()))
    }

    /// Sends SIGKILL to the child and waits for it. A child that the kernel does not let go is left behind
    /// after 10 seconds, with an error in the log.
    pub fn kill(&mut self) {
        if !self.over {
            self.end();
            if self.left_behind.is_some() {
                log::error(format_args!("{} (pid {}) {}", self.label, self.child.id(), self.fate()));
            }
        }
    }

    fn fate(&self) -> String {
        match self.left_behind {
            None => "was killed".to_owned(),
            Some(pid) if pid == self.child.id() => "cannot be killed: it is left behind".to_owned(),
            Some(pid) => format!("was killed, but its process (pid {pid}) cannot be: that is left behind"),
        }
    }

    /// Sends SIGKILL to the child and waits for it. Sets `over` in any case, even if the kernel does not let it go.
    fn end(&mut self) {
        if self.over {
            return;
        }
        // The child was not waited for yet, so the pid cannot belong to another process.
        let (id, pid) = (self.child.id(), Pid::from_child(&self.child));
        let leads = rustix::process::getpgid(Some(pid)) == Ok(pid);
        if leads {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let until = Instant::now() + DEATH;
        let dead = matches!(self.wait_for_end(DEATH), Ok(Some(_)));
        self.over = true;
        self.left_behind = if dead { None } else { Some(id) };
        // The processes that it started die with it or a little later, unless the kernel does not let them go.
        while let (true, true, Some(one)) = (dead, leads, proc::group(id).first()) {
            if Instant::now() >= until {
                self.left_behind = Some(*one);
                break;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Returns the last lines of the child's stderr, escaped and joined for an error message; call after `wait`.
    pub fn last_words(&self) -> String {
        self.last_lines().join("; ")
    }

    /// Returns a colon and [`Child::last_words`] for the end of a message, or nothing if there are none.
    pub fn explanation(&self) -> String {
        let words = self.last_words();
        if words.is_empty() { words } else { format!(": {words}") }
    }

    /// Returns the last lines of the child's stderr, escaped; call after `wait`.
    pub fn last_lines(&self) -> Vec<String> {
        if let Some(pumping) = self.pumping.as_ref().filter(|_| self.over) {
            let _ = pumping.recv_timeout(LAST_GASP);
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().cloned().collect()
    }

    /// Returns the status of the child, or `None` if it does not end within `time`, even if a signal arrives.
    fn wait_for_end(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + time;
        let left = || Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        while poll(&mut [PollFd::new(&self.exit, PollFlags::IN)], left().as_ref()) == Err(Errno::INTR) {}
        self.try_wait()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        // `std::process::Child::wait` would close stdin first.
        let status = self.child.try_wait()?;
        self.over |= status.is_some();
        Ok(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The fields, including pipe ends that were not taken, are dropped after this.
        self.kill();
    }
}

/// The output and the exit status of a program.
#[derive(Debug)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub text: String,
    /// The last lines of stderr, joined; see [`Child::last_words`].
    pub words: String,
    /// Only the last line of stderr, escaped.
    pub last_line: String,
}

/// Runs a program to its end. It is killed if it prints nothing for `patience`, does not end within `patience` after
/// it has closed its stdout, or prints more than `most` bytes, and by a signal to us (`cancel`).
pub fn output(mut command: Command, label: &str, patience: Duration, most: u64) -> anyhow::Result<Output> {
    command.stdout(Stdio::piped());
    let mut child = Child::spawn(command, label)?;
    let mut bytes = Vec::new();
    let read = match child.stdout() {
        Some(stdout) => Interruptible::patient(stdout, patience).take(most + 1).read_to_end(&mut bytes),
        None => Ok(0),
    };
    let status = match read {
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            Err(child.give_up(&format!("said nothing for {} s", patience.as_secs())))
        }
        Ok(n) if n as u64 > most => Err(child.give_up(&format!("says more than {most} bytes"))),
        Err(e) => Err(e.into()),
        Ok(_) => child.wait(Some(patience)),
    }?;
    // A user property may hold any bytes: one that is not UTF-8 must not hide the rest of the output.
    let text = String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    let last_line = child.last_lines().pop().unwrap_or_default();
    Ok(Output { status, text, words: child.last_words(), last_line })
}

/// Logs the child's stderr until its end. Nothing stops it earlier, because a child must never block on its stderr.
fn pump(stderr: ChildStderr, label: &str, said: &Mutex<VecDeque<String>>) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        if !matches!(stderr.by_ref().take(MAX_LINE).read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if line.is_empty() {
            continue;
        }
        log::child_line(label, line);
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == LAST_WORDS {
            said.pop_front();
        }
        said.push_back(escape_bytes(line));
    }
}

#[cfg(test)]
mod tests;
