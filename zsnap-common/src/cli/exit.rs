//! How the tools end: the table of exit statuses, and the only place that prints a fatal error.

use std::cmp::Ordering;
use std::fmt;
use std::process::ExitCode;

use crate::cli::cancel;
use crate::cli::log;

/// An exit status, the same in every tool (zsnap(7), EXIT STATUS; the numbers from 64 up are
/// those of sysexits.h). The greater of two is the worse one, whatever their numbers: a run in
/// which several things failed ends with the [`Ord::max`] of their statuses, in whatever order they failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is done, or there was nothing to do.
    Done = 0,
    /// The run finished, and some entries need attention.
    SomeFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The input is bad: truncated, damaged, or not what it should be.
    Data = 65,
    /// A required program failed or is missing.
    Unavailable = 69,
    /// An output file cannot be created.
    CantCreate = 73,
    /// Input or output failed.
    Io = 74,
    /// Try again later: a lock is held, a disk is full, state cannot be read.
    TryAgain = 75,
    /// An identity or a signature was refused.
    Refused = 77,
    /// The configuration, a key or a permission is wrong.
    Config = 78,
}

/// An error with its exit status, made by [`Exit::error`] or [`OrExit::or_exit`]. An error without
/// an exit status ends the tool with [`Exit::Io`].
#[derive(Debug)]
pub struct Failure {
    /// The status that the tool ends with.
    pub exit: Exit,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Exit {
    /// Returns an error with this exit status. `message` states what is wrong, with the path, and then the remedy.
    pub fn error(self, message: impl Into<String>) -> anyhow::Error {
        Failure { exit: self, message: message.into() }.into()
    }

    /// Returns an error with this exit status: `what` was being done, as in `anyhow::Context`, when `cause` occurred.
    pub fn context(self, cause: impl Into<anyhow::Error>, what: impl fmt::Display) -> anyhow::Error {
        cause.into().context(Failure { exit: self, message: what.to_string() })
    }

    /// Returns the status of the outermost [`Failure`] in the chain of `error`, or [`Exit::Io`].
    pub fn of(error: &anyhow::Error) -> Exit {
        // `anyhow` finds a context value through `downcast_ref` of the whole error, and a
        // cause through its chain.
        error
            .downcast_ref::<Failure>()
            .or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Failure>()))
            .map_or(Exit::Io, |failure| failure.exit)
    }

    /// The severity of a status: the less likely it is to resolve itself, and the more it stops, the worse.
    fn badness(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::SomeFailed => 1,
            Exit::TryAgain => 2,
            Exit::Data => 3,
            Exit::Unavailable => 4,
            Exit::CantCreate => 5,
            Exit::Io => 6,
            Exit::Refused => 7,
            Exit::Config => 8,
            Exit::Usage => 9,
        }
    }
}

impl Ord for Exit {
    fn cmp(&self, other: &Exit) -> Ordering {
        self.badness().cmp(&other.badness())
    }
}

impl PartialOrd for Exit {
    fn partial_cmp(&self, other: &Exit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Adds an exit status, and a description of what was being done, to the error of a result.
pub trait OrExit<T> {
    /// Adds `exit` to the error, and `what` in front of its message, as `anyhow::Context` does.
    fn or_exit(self, exit: Exit, what: impl fmt::Display) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit, what: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|e| exit.context(e, what))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What a signal leaves undone, as the end of a sentence: `nothing queued`. It is added to an error that a signal may
/// have caused, as in `anyhow::Context`, and [`run_tool`] prints it on a terminal.
#[derive(Debug)]
pub struct Undone(&'static str);

impl Undone {
    /// Adds `undone` to an error that a signal has caused, and returns any other error unchanged.
    pub fn after(error: anyhow::Error, undone: &'static str) -> anyhow::Error {
        match cancel::Cancelled::find(&error) {
            Some(_) => error.context(Undone(undone)),
            None => error,
        }
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The whole of a tool's `main`: starts the log, catches signals, runs `f`, reports its error on one
/// line, and returns its exit status. If a signal ended `f` ([`cancel::Cancelled`] in its error),
/// the process dies of that signal.
///
/// ```no_run
/// # use zsnap_common::cli::exit::{Exit, run_tool};
/// # fn run() -> anyhow::Result<Exit> { Ok(Exit::Done) }
/// fn main() -> std::process::ExitCode {
///     run_tool("zsnap-queue", run)
/// }
/// ```
pub fn run_tool(name: &'static str, f: impl FnOnce() -> anyhow::Result<Exit>) -> ExitCode {
    log::init(name, false);
    let result = cancel::install().or_exit(Exit::Io, "cannot catch signals").and_then(|()| f());
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            if let Some(usage) = error.chain().find_map(|cause| cause.downcast_ref::<clap::Error>()) {
                // Help and version go to standard output, with status 0. A closed standard output is not an error.
                let _ = usage.print();
                return if usage.exit_code() == 0 { Exit::Done.into() } else { Exit::Usage.into() };
            }
            if let Some(signal) = cancel::Cancelled::find(&error) {
                let undone = error.downcast_ref::<Undone>().map(|undone| format!(", {undone}")).unwrap_or_default();
                log::outcome(format_args!("{}{undone}", cancel::Cancelled(signal)));
                cancel::die_of(signal);
            } else {
                log::error(format_args!("{error:#}"));
            }
            Exit::of(&error).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_status_through_contexts() {
        let plain = anyhow::anyhow!("x");
        assert_eq!(Exit::of(&plain), Exit::Io);
        let e = Exit::Data.error("cut short").context("reading the stream").context("run");
        assert_eq!(Exit::of(&e), Exit::Data);
        let io: Result<(), std::io::Error> = Err(std::io::Error::other("disk"));
        let e = io.or_exit(Exit::CantCreate, "/x").unwrap_err();
        assert_eq!(Exit::of(&e), Exit::CantCreate);
        assert_eq!(format!("{e:#}"), "/x: disk");
    }

    #[test]
    fn the_outermost_status_of_an_error_decides() {
        let e = Exit::Data.error("inner");
        let e = Err::<(), _>(e).or_exit(Exit::TryAgain, "outer").unwrap_err();
        assert_eq!(Exit::of(&e), Exit::TryAgain);
    }

    #[test]
    fn exit_statuses_are_ordered_by_severity_and_not_by_number() {
        use Exit::{CantCreate, Config, Data, Done, Io, Refused, SomeFailed, TryAgain, Unavailable, Usage};
        let mildest_first = [Done, SomeFailed, TryAgain, Data, Unavailable, CantCreate, Io, Refused, Config, Usage];
        for pair in mildest_first.windows(2) {
            assert_eq!((pair[0].max(pair[1]), pair[1].max(pair[0])), (pair[1], pair[1]));
        }
        // A failure that resolves itself does not hide one that does not.
        assert_eq!([SomeFailed, TryAgain, Unavailable, Done].into_iter().max(), Some(Unavailable));
    }

    #[test]
    fn only_a_signal_leaves_something_undone() {
        let undone = |e: anyhow::Error| {
            let e = Undone::after(e.context("reading"), "nothing queued").context("outer");
            e.downcast_ref::<Undone>().map(ToString::to_string)
        };
        let cancelled = std::io::Error::other(cancel::Cancelled(2));
        assert_eq!(undone(cancelled.into()), Some("nothing queued".to_owned()));
        assert_eq!(undone(Exit::Io.error("disk")), None);
    }

    #[test]
    fn run_tool_returns_the_status_of_each_result() {
        assert_eq!(run_tool("zsnap-test", || Ok(Exit::SomeFailed)), ExitCode::from(1));
        assert_eq!(run_tool("zsnap-test", || Err(Exit::Data.error("cut\nshort"))), ExitCode::from(65));
        let usage = |args: &'static [&str]| {
            move || Ok(clap::Command::new("x").try_get_matches_from(args).map(|_| Exit::Done)?)
        };
        assert_eq!(run_tool("zsnap-test", usage(&["x", "--wrong"])), ExitCode::from(2));
        assert_eq!(run_tool("zsnap-test", usage(&["x", "--help"])), ExitCode::from(0));
    }
}
