//! A separate process for a `dir:`. A directory on a dead file server, or a failing drive, can block a process that
//! accesses it for ever, and no signal ends that process. So the worker accesses the directory, and the tool, which
//! holds the locks, waits for the worker no longer than its timeout.
//!
//! The worker is the same program, called as `TOOL _deliver DIR OUTBOX`. It reads a JSON line for each `Request` and
//! answers with lines, the last of which is an `Answer`. It opens the files of the outbox itself and changes nothing
//! there.

use std::ffi::{CString, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::dir::{self, Beat, Look, Probe, Shown};
use super::{Delivered, Item, Mark, Transport};
use crate::cli::cancel::{self, Interruptible};
use crate::cli::exit::{Exit, OrExit};
use crate::names::target::Host;
use crate::process::child::{self, Child};
use crate::process::hung::hung;

const VERB: &str = "_deliver";
/// The program that runs, even if another version has been installed since.
const US: &str = "/proc/self/exe";
/// How long a worker may take to end when it is no longer needed.
const END: Duration = Duration::from_secs(10);

/// The first line that the worker reads.
#[derive(Serialize, Deserialize)]
struct Setup {
    /// The id of the process that the worker serves.
    parent: u32,
    mark: Mark,
    min_free: u64,
    verify: bool,
    max_file: Option<u64>,
}

/// What the worker is to do.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    Look,
    Probe,
    Mark(String),
    Require(Mark),
    Tidy,
    Deliver(Vec<Entry>),
}

/// A file of the outbox that is to be delivered.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    host: Host,
    name: String,
    entry: String,
}

impl Entry {
    pub fn of(item: &Item) -> Entry {
        Entry { host: item.parsed.host.clone(), name: item.name.clone(), entry: item.entry.clone() }
    }
}

#[derive(Serialize, Deserialize)]
enum Line {
    /// The copy of a large file begins: its name and length.
    Begin(String, u64),
    /// The number of bytes copied since the last line.
    Step(u64),
    Answer(Result<Answer, Failure>),
}

#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Look(Look),
    Probe(Option<Probe>),
    Mark,
    Tidy,
    Deliver(Vec<Result<Delivered, Failure>>),
}

/// An error, as the worker sends it to the tool.
#[derive(Serialize, Deserialize)]
pub(super) struct Failure {
    text: String,
    kind: Option<Kind>,
}

/// The kinds of causes that callers distinguish.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Full,
    Denied,
    Other,
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Failure {
        let kind = e.chain().find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
        let kind = kind.map(|kind| match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Other,
        });
        Failure { text: format!("{e:#}"), kind }
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> anyhow::Error {
        let kind = match failure.kind {
            None => return anyhow::Error::msg(failure.text),
            Some(Kind::Full) => io::ErrorKind::StorageFull,
            Some(Kind::Denied) => io::ErrorKind::PermissionDenied,
            Some(Kind::Other) => io::ErrorKind::Other,
        };
        io::Error::new(kind, failure.text).into()
    }
}

/// A worker, seen from the tool.
pub(super) struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    lines: BufReader<Interruptible<ChildStdout>>,
    patience: Option<Duration>,
}

impl Worker {
    /// Starts a worker for the directory `path` and the files in `outbox`.
    pub fn start(path: &Path, outbox: &Path, how: &Transport) -> Result<Worker> {
        let mut command = child::command(Path::new(US));
        command.arg0(std::env::args_os().next().unwrap_or_default());
        // The paths may be relative: the worker stays in the working directory of this process.
        command.current_dir("/proc/self/cwd");
        command.arg(VERB).arg(path).arg(outbox).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child::spawn(command, "dir")?;
        let (requests, stdout) = (child.stdin(), child.stdout());
        let stdout = stdout.ok_or_else(|| Exit::Io.error("a process has no standard output"))?;
        let lines = BufReader::new(match how.timeout {
            Some(patience) => Interruptible::patient(stdout, patience),
            None => Interruptible::new(stdout),
        });
        let mut worker = Worker { child, requests, lines, patience: how.timeout };
        worker.send(&Setup {
            parent: std::process::id(),
            mark: how.mark.clone(),
            min_free: how.min_free,
            verify: how.verify,
            max_file: how.max_file,
        })?;
        Ok(worker)
    }

    /// Sends a request and returns its answer. After an error that [`hangs`](super::hangs) the worker is of no more
    /// use.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        self.send(request)?;
        let mut shown = Shown::default();
        loop {
            match self.line()? {
                Line::Begin(name, bytes) => shown.beat(Beat::Begin(&name, bytes)),
                Line::Step(bytes) => shown.beat(Beat::Step(bytes)),
                Line::Answer(answer) => {
                    // A signal may have reached both processes: then it is reported, not the answer.
                    cancel::check()?;
                    return Ok(answer?);
                }
            }
        }
    }

    /// Returns the worker's process id, if it was killed and the kernel did not end it.
    pub fn left_behind(&self) -> Option<u32> {
        self.child.left_behind()
    }

    /// Lets the worker end, and kills it if it does not.
    pub fn end(&mut self) {
        self.requests = None;
        if self.child.is_over() {
            return;
        }
        // SIGTERM lets it remove its temporary files.
        if cancel::pending().is_some() {
            self.child.stop();
        } else if let Err(e) = self.child.wait(Some(END)) {
            crate::cli::log::info(format_args!("{e:#}"));
        }
    }

    fn send(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        let sent = self.requests.as_mut().map(|requests| requests.write_all(&line));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(self.died()) }
    }

    fn line(&mut self) -> Result<Line> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                let seconds = self.patience.unwrap_or_default().as_secs();
                Err(hung(self.child.give_up(&format!("read and wrote nothing for {seconds} s"))))
            }
            Err(e) => Err(e.into()),
            Ok(0) => Err(self.died()),
            Ok(_) => serde_json::from_str(&line).map_err(|_| self.died()),
        }
    }

    fn died(&mut self) -> anyhow::Error {
        // A signal may have reached both processes: then it is the cause.
        if let Err(cancelled) = cancel::check() {
            return cancelled.into();
        }
        let how = match self.child.wait(Some(END)) {
            Ok(status) => status.to_string(),
            Err(e) => return e,
        };
        Exit::Io.error(format!("the process that delivers there ended ({how}){}", self.child.explanation()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether /proc exists, which a worker needs.
pub(super) fn can_start() -> bool {
    Path::new(US).exists()
}

/// Returns the directory and the outbox, if this process was started as a worker.
pub fn asked() -> Option<(PathBuf, PathBuf)> {
    let mut args = std::env::args_os().skip(1);
    let verb: OsString = args.next()?;
    let paths = (args.next()?.into(), args.next()?.into());
    (verb == VERB && args.next().is_none()).then_some(paths)
}

/// Serves as a worker, until the input or the parent process ends.
///
/// # Errors
/// The input cannot be read or parsed, or nobody reads the answers.
pub fn serve(path: &Path, outbox: &Path) -> Result<Exit> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).or_exit(Exit::Io, "prctl")?;
    // Without this, ps(1) calls it "exe".
    let name = std::env::args_os().next().and_then(|tool| CString::new(Path::new(&tool).file_name()?.as_bytes()).ok());
    name.map_or(Ok(()), |name| rustix::thread::set_name(&name)).or_exit(Exit::Io, "prctl")?;
    let mut lines = BufReader::new(Interruptible::new(io::stdin())).lines();
    let Some(setup) = lines.next() else { return Ok(Exit::Done) };
    let setup: Setup = serde_json::from_str(&setup?)?;
    // The parent may have ended before the call of prctl.
    if rustix::process::getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()) != Some(setup.parent) {
        return Ok(Exit::Done);
    }
    let Setup { mark, min_free, verify, max_file, .. } = setup;
    let mut how = Transport { mark, min_free, verify, max_file, ..Transport::default() };
    let beat = |beat: Beat<'_>| {
        // This fails only if the parent is dead, and then this process is killed.
        let _ = say(&match beat {
            Beat::Begin(name, bytes) => Line::Begin(name.to_owned(), bytes),
            Beat::Step(bytes) => Line::Step(bytes),
        });
    };
    for line in lines {
        let answer = match serde_json::from_str(&line?)? {
            Request::Look => dir::look(path, &how.mark).map(Answer::Look).map_err(Into::into),
            Request::Probe => dir::probe(path, &how.mark).map(Answer::Probe).map_err(Into::into),
            Request::Require(mark) => {
                how.mark = mark;
                Ok(Answer::Mark)
            }
            Request::Mark(name) => dir::mark(path, &name).map(|()| Answer::Mark).map_err(Into::into),
            Request::Tidy => dir::tidy(path, &how.mark).map(|()| Answer::Tidy).map_err(Into::into),
            Request::Deliver(entries) => deliver(path, outbox, &entries, &how, &beat).map(Answer::Deliver),
        };
        say(&Line::Answer(answer.map_err(Failure::from)))?;
    }
    Ok(Exit::Done)
}

fn say(line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(io::stdout().lock().write_all(&text)?)
}

fn deliver(
    path: &Path,
    outbox: &Path,
    entries: &[Entry],
    how: &Transport,
    beat: &dyn Fn(Beat<'_>),
) -> Result<Vec<Result<Delivered, Failure>>> {
    let open = |entry: &Entry| Item::open(outbox, &entry.host, entry.entry.clone(), entry.name.clone());
    // The tool opened each of them before, so one that is missing now was removed by somebody else.
    let items = entries.iter().map(open).collect::<Result<Vec<_>>>()?;
    let results = dir::deliver(path, &items, how, beat)?;
    Ok(results.into_iter().map(|result| result.map_err(Failure::from)).collect())
}
