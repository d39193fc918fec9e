//! Applies opaque streams: one command per target receives them, and the journal beside the target records what was
//! applied (ARCHITECTURE.md, "What a crash leaves"). The journal is written before the command if a repeat would do
//! harm, and always after it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Result;
use zsnap_common::cli::cancel::Interruptible;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::names::target::Target;
use zsnap_common::process::child::{self, Child};
use zsnap_common::stream::counted::Counted;
use zsnap_message::payload::Manifest;

use crate::beside;
use crate::config::CommandTable;
use crate::plan::{Applied, Number};
use crate::receive::hung;

/// Checks that the command's target directory exists. The error says what is wrong with it.
pub fn check_target(target: &Path) -> Result<(), String> {
    let meta = std::fs::symlink_metadata(target).map_err(|e| format!("{}: {e}", target.display()))?;
    if !meta.is_dir() {
        return Err(format!("{} is not a directory", target.display()));
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

/// Runs the command on the stream that `feed` writes, and records it in the journal. A command that reads nothing for
/// `timeout`, or does not end within it after its last byte, is killed.
pub fn apply(
    command: &CommandTable,
    target: &Target,
    file_name: &str,
    manifest: &Manifest,
    timeout: Duration,
    feed: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    // The plan has read the journal as well, but without the lock that this thread holds now: other hosts may have
    // written their entries since, and these must stay.
    let mut all = beside::read(&command.target)?;
    let before = all.get(&target.to_string()).cloned();
    let mut entry = Applied::of(&Number::of(manifest), before.clone());
    entry.created = Some(manifest.created);
    if !command.overlap {
        entry.applying = true;
        entry.before = before.clone().map(Box::new);
        all.insert(target.to_string(), entry.clone());
        beside::write(&command.target, &all)?;
    }
    if let Err(Failed { error, nothing_done }) = run(command, target, file_name, timeout, feed) {
        if nothing_done && !command.overlap {
            match before {
                Some(before) => all.insert(target.to_string(), before),
                None => all.remove(&target.to_string()),
            };
            beside::write(&command.target, &all)?;
        }
        return Err(error);
    }
    sync(&command.target).or_exit(Exit::Io, command.target.display())?;
    entry.applying = false;
    entry.before = None;
    all.insert(target.to_string(), entry);
    beside::write(&command.target, &all)
}

/// Makes what the command has changed durable. The directory is closed before the journal is written, which could not
/// open its own files otherwise if the limit of open files is very low.
fn sync(target: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(target)?)?)
}

/// The failure of a command.
struct Failed {
    error: anyhow::Error,
    /// The command never read a byte of its input, or ended by itself with a status other than 0: by contract it
    /// changed nothing. Otherwise nobody knows whether it did.
    nothing_done: bool,
}

fn run(
    table: &CommandTable,
    target: &Target,
    file_name: &str,
    timeout: Duration,
    feed: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<(), Failed> {
    let nothing = |error| Failed { error, nothing_done: true };
    let (mut child, label) = start(table, target, file_name).map_err(nothing)?;
    let Some(stdin) = child.stdin() else { return Err(nothing(Exit::Io.error(format!("{label}: no stdin")))) };
    let what = format!("{label} for {target}");
    let mut counted = Counted { to: Interruptible::patient(&stdin, timeout), bytes: 0 };
    let fed = feed(&mut counted);
    let bytes = counted.bytes;
    drop(counted);
    if let Err(e) = fed {
        let is = |kind| e.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(|e| e.kind() == kind);
        let (error, status) = if is(io::ErrorKind::TimedOut) {
            (hung(&what, child.give_up(&format!("took nothing for {} s", timeout.as_secs()))), None)
        } else if is(io::ErrorKind::BrokenPipe) {
            match child.wait(Some(timeout)) {
                Err(e) => (hung(&what, e), None),
                Ok(status) if status.success() => {
                    let words = child.last_words();
                    let text = format!("{label} read only a part of the stream ({status}): {words}");
                    (Exit::Unavailable.error(text), status.code())
                }
                // Whether the command ends before or after the last write is a matter of chance, so this is reported
                // like any other failure.
                Ok(status) => (failed(&what, status, &child), status.code()),
            }
        } else {
            // The command is killed before its stdin is closed; otherwise it would take a part of the stream for all
            // of it.
            child.kill();
            (e, None)
        };
        let unread = rustix::io::ioctl_fionread(&stdin).unwrap_or(0);
        return Err(Failed { error, nothing_done: unread == bytes || status.is_some_and(|status| status != 0) });
    }
    drop(stdin);
    let ended = child.wait(Some(timeout));
    let status = ended.map_err(|e| Failed { error: hung(&what, e), nothing_done: false })?;
    if status.success() {
        return Ok(());
    }
    Err(Failed { error: failed(&what, status, &child), nothing_done: status.code().is_some() })
}

fn failed(what: &str, status: ExitStatus, child: &Child) -> anyhow::Error {
    Exit::Unavailable.error(format!("{what}: {status}: {}", child.last_words()))
}

fn start(table: &CommandTable, target: &Target, file_name: &str) -> Result<(Child, String)> {
    let (program, args) =
        table.run.split_first().ok_or_else(|| Exit::Config.error("[[command]] run is empty; name a program"))?;
    let program = child::find(Path::new(program))?;
    let mut command = child::command(&program);
    command.args(args).stdin(Stdio::piped());
    if let Some(user) = &table.user {
        child::run_as(&mut command, user)?;
    }
    command.env("ZSNAP_HOST", target.host.as_str()).env("ZSNAP_DATASET", target.dataset.as_str());
    command.env("ZSNAP_FILE", file_name);
    let label = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    Ok((Child::spawn(command, &label)?, label))
}
