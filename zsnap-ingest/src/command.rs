//! Streams that are no ZFS streams: one command per target takes them, and the journal beside
//! the target remembers what it was given (CRASH: before the command where a repeat would do
//! harm, after it always).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::Result;
use zsnap_common::cancel::Interruptible;
use zsnap_common::child::{self, Child};
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::payload::Manifest;
use zsnap_common::target::Target;

use crate::config::CommandTable;
use crate::journal::{self, Applied, TargetJournal};

/// Whether the command's target directory is there: `Err` says what is wrong with it.
pub fn check_target(target: &Path) -> Result<(), String> {
    let meta = std::fs::symlink_metadata(target).map_err(|e| format!("{}: {e}", target.display()))?;
    if !meta.is_dir() {
        return Err(format!("{} is no directory", target.display()));
    }
    let parent = target.parent().ok_or_else(|| format!("{} has no parent directory", target.display()))?;
    let above = std::fs::metadata(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    if above.dev() != meta.dev() {
        return Err(format!(
            "{} is a mount point; its journal must lie on the same file system: name a directory inside as target",
            target.display()
        ));
    }
    Ok(())
}

/// Runs the command on a stream that `feed` writes, and remembers it.
pub fn apply(
    command: &CommandTable,
    target: &Target,
    file_name: &str,
    manifest: &Manifest,
    feed: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let path = journal::target_path(&command.target)?;
    let mut all: TargetJournal = journal::read(&path)?.unwrap_or_default();
    let before = all.get(&target.to_string()).cloned();
    let mut entry = Applied::of(manifest);
    if !command.overlap {
        entry.applying = true;
        entry.before = before.clone().map(Box::new);
        all.insert(target.to_string(), entry.clone());
        journal::write(&path, &all)?;
    }
    if let Err(e) = run(command, target, file_name, feed) {
        if !command.overlap {
            // It ended with another status than 0: by contract it changed nothing.
            match before {
                Some(before) => all.insert(target.to_string(), before),
                None => all.remove(&target.to_string()),
            };
            journal::write(&path, &all)?;
        }
        return Err(e);
    }
    let directory = File::open(&command.target).or_exit(Exit::Io, command.target.display())?;
    rustix::fs::syncfs(&directory).or_exit(Exit::Io, command.target.display())?;
    entry.applying = false;
    entry.before = None;
    all.insert(target.to_string(), entry);
    journal::write(&path, &all)
}

fn run(
    table: &CommandTable,
    target: &Target,
    file_name: &str,
    feed: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let (program, args) =
        table.run.split_first().ok_or_else(|| Exit::Config.error("[[command]] run is empty; name a program"))?;
    let program = child::find(Path::new(program))?;
    let mut command = child::command(&program);
    command.args(args).stdin(Stdio::piped());
    command.env("ZSNAP_HOST", target.host.as_str()).env("ZSNAP_DATASET", target.dataset.as_str());
    command.env("ZSNAP_FILE", file_name);
    let label = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let mut child = Child::spawn(command, &label)?;
    let Some(stdin) = child.stdin() else { return Err(Exit::Io.error(format!("{label}: no stdin"))) };
    let mut stdin = Interruptible(stdin);
    if let Err(e) = feed(&mut stdin) {
        let broken = e.chain().filter_map(|c| c.downcast_ref::<std::io::Error>());
        let broken = broken.map(std::io::Error::kind).any(|kind| kind == std::io::ErrorKind::BrokenPipe);
        if !broken {
            // Killed before its stdin is closed, or it would take what it got for all.
            child.kill();
            return Err(e);
        }
        drop(stdin);
        let status = child.wait(None)?;
        let words = child.last_words();
        return Err(Exit::Unavailable.error(format!(
            "{} read only a part of the stream ({status}): {words}",
            program.display()
        )));
    }
    drop(stdin);
    let status = child.wait(None)?;
    if !status.success() {
        let words = child.last_words();
        return Err(Exit::Unavailable.error(format!("{} for {target}: {status}: {words}", program.display())));
    }
    Ok(())
}
