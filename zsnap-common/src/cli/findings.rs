//! The findings of `check`. Each is one line, with its remedy.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::Access;

use crate::cli::exit::Exit;
use crate::cli::log;

/// Prints findings, and remembers whether one of them was an error.
#[derive(Debug, Default)]
pub struct Findings {
    bad: bool,
}

impl Findings {
    /// Prints the result of one check of `what`: an error, warnings, or (only if verbose) that it is good.
    pub fn add(&mut self, what: &str, result: Result<Vec<String>>) {
        match result {
            Ok(warnings) if warnings.is_empty() => log::info(format_args!("{what}: good")),
            Ok(warnings) => warnings.iter().for_each(|warning| log::warn(format_args!("{what}: {warning}"))),
            Err(e) => {
                self.bad = true;
                log::error(format_args!("{what}: {e:#}"));
            }
        }
    }

    /// Returns [`Exit::Config`] if there was an error, otherwise [`Exit::Done`].
    pub fn exit(&self) -> Exit {
        if self.bad { Exit::Config } else { Exit::Done }
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
