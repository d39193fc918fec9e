//! What `check` finds: each finding is one line, with its remedy.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::Access;

use crate::cli::exit::Exit;
use crate::cli::log;

/// Whether all was good so far.
#[derive(Debug, Default)]
pub struct Findings {
    bad: bool,
}

impl Findings {
    /// Tells how something is: an error, warnings, or (if they are asked for) that it is good.
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

    /// [`Exit::Config`]: there was an error.
    pub fn exit(&self) -> Exit {
        if self.bad { Exit::Config } else { Exit::Done }
    }
}

/// The same for one that may have to be made first.
pub fn can_be_made(dir: &Path) -> Result<()> {
    writable(dir.ancestors().find(|path| path.exists()).unwrap_or(dir))
}

/// Whether we may make files in a directory.
pub fn writable(dir: &Path) -> Result<()> {
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)
        .with_context(|| format!("{} is not writable: correct its owner or mode", dir.display()))
}
