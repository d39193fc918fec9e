//! The findings of `check`: each is one line on standard output, `ok`, `warn` or `fail`, with its remedy.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use rustix::fs::Access;

use crate::cli::cancel;
use crate::cli::colour::{self, Tone};
use crate::cli::escape::escape;
use crate::cli::exit::{Exit, OrExit};

/// The options of `check`, the same in every tool.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Print only warnings and failures
    #[arg(long)]
    pub quiet: bool,
}

/// The result of one check of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It works; the text says under which condition, or in which state it is.
    Note(String),
    /// A run would work, but somebody should look at it.
    Warning(String),
    /// A run would fail because of it.
    Failure(String),
}

impl From<anyhow::Error> for Finding {
    fn from(e: anyhow::Error) -> Finding {
        Finding::Failure(format!("{e:#}"))
    }
}

/// Returns the failure as the only finding, or none.
pub fn failure<T>(result: Result<T>) -> Vec<Finding> {
    warnings(result.map(|_| Vec::new()))
}

/// Returns the warnings, or the failure.
pub fn warnings(result: Result<Vec<String>>) -> Vec<Finding> {
    match result {
        Ok(warnings) => warnings.into_iter().map(Finding::Warning).collect(),
        Err(e) => vec![e.into()],
    }
}

/// Returns the errors of the parts of something that failed as a whole; if no part fails alone, that of the whole.
pub fn of_parts<T>(whole: anyhow::Error, parts: impl IntoIterator<Item = Result<T>>) -> Vec<anyhow::Error> {
    let found: Vec<_> = parts.into_iter().filter_map(Result::err).collect();
    if found.is_empty() { vec![whole] } else { found }
}

/// Prints findings as they come, and remembers the worst.
#[derive(Debug)]
pub struct Findings {
    quiet: bool,
    worst: Exit,
    written: io::Result<()>,
}

impl Findings {
    /// Begins a check.
    pub fn new(options: CheckOptions) -> Findings {
        Findings { quiet: options.quiet, worst: Exit::Done, written: Ok(()) }
    }

    /// Prints the findings about `what`, one line each; `ok` if there are none.
    pub fn add(&mut self, what: &str, findings: impl IntoIterator<Item = Finding>) {
        let mut any = false;
        for finding in findings {
            any = true;
            let (tone, exit, text) = match finding {
                Finding::Note(text) => (Tone::Good, Exit::Done, text),
                Finding::Warning(text) => (Tone::Pending, Exit::SomeFailed, text),
                Finding::Failure(text) => (Tone::Bad, Exit::Config, text),
            };
            self.worst = self.worst.max(exit);
            self.line(tone, &format!("{what}: {text}"));
        }
        if !any {
            self.line(Tone::Good, what);
        }
    }

    fn line(&mut self, tone: Tone, text: &str) {
        let level = match tone {
            Tone::Good => "ok  ",
            Tone::Pending => "warn",
            Tone::Bad => "fail",
        };
        if self.written.is_ok() && !(self.quiet && tone == Tone::Good) {
            let (level, mut out) = (tone.paint(level, colour::is_on()), io::stdout().lock());
            self.written = writeln!(out, "{level}  {}", escape(text)).and_then(|()| out.flush());
        }
    }

    /// Returns [`Exit::Config`] after a failure, [`Exit::SomeFailed`] after a warning, otherwise [`Exit::Done`].
    ///
    /// # Errors
    /// A signal came, or standard output cannot be written.
    pub fn exit(self) -> Result<Exit> {
        cancel::check()?;
        self.written.or_exit(Exit::Io, "standard output")?;
        Ok(self.worst)
    }
}

/// Checks that we may create files in a directory, which may have to be created first.
pub fn can_be_made(dir: &Path) -> Result<()> {
    writable(dir.ancestors().find(|path| path.exists()).unwrap_or(dir))
}

/// Checks that we may create files in an existing directory.
pub fn writable(dir: &Path) -> Result<()> {
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)
        .with_context(|| format!("{} is not writable: correct its owner or mode", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_each_counts() {
        let exit = |findings: Vec<Finding>| {
            let mut all = Findings::new(CheckOptions { quiet: true });
            all.add("x", findings);
            all.add("y", []);
            all.exit().unwrap()
        };
        let warned = || warnings(Ok(vec!["old".into()]));
        let failed = || vec![anyhow::anyhow!("inner").context("outer").into()];
        let of = |parts: Vec<Result<()>>| of_parts(anyhow::anyhow!("whole"), parts).remove(0).to_string();
        assert_eq!(of(vec![Ok(())]), "whole");
        assert_eq!(of(vec![Ok(()), Err(anyhow::anyhow!("part"))]), "part");
        assert_eq!(failed(), [Finding::Failure("outer: inner".into())]);
        assert_eq!(exit(vec![]), Exit::Done);
        assert_eq!(exit(vec![Finding::Note("away".into())]), Exit::Done);
        assert_eq!(exit(warned()), Exit::SomeFailed);
        assert_eq!(exit([failed(), warned()].concat()), Exit::Config);
    }
}
