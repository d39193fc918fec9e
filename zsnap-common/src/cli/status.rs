//! What `status` has in common in all tools: its options, and how it ends.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::cli::exit::{Exit, OrExit};
use crate::cli::report::{Form, Report};
use crate::cli::units::duration;

/// The options of `status`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ReportOptions {
    /// Print metrics for Prometheus
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Exit 1 also if the newest backup, or a file that waits, is older than TIME, or dated in the future
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_age: Option<Duration>,
    /// Print only if the exit status is not 0
    #[arg(long)]
    pub quiet: bool,
}

impl ReportOptions {
    /// Prints the report, unless nothing needs attention and `--quiet` is set. Returns `exit`.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self, report: &Report, json: bool, exit: Exit) -> Result<Exit> {
        if exit != Exit::Done || !self.quiet {
            report.print(Form::of(self.prometheus, json)).or_exit(Exit::Io, "standard output")?;
        }
        Ok(exit)
    }
}
