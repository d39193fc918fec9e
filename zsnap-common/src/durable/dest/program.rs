//! Destinations that are programs. The standard input of a child is the file itself, never a pipe: if this process
//! died, a pipe would end early, and NNCP would accept what came before as the whole. A child that runs as another
//! user can read the open file too, although that user may not enter our state directory.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Delivered, Dest, Item, Transport};
use crate::cli::exit::Exit;
use crate::names::queue_name::Label;
use crate::process::child::{self, Child};
use crate::process::proc;

/// Delivers a file. Also returns the id of a process that had to be killed and that the kernel did not end.
pub fn deliver(dest: &Dest, item: &Item, how: &Transport) -> (anyhow::Result<Delivered>, Option<u32>) {
    match start(dest, item, how) {
        Ok((running, label)) => finish(running, label, item, how),
        Err(e) => (Err(e), None),
    }
}

/// What NNCP's programs print for a node that their configuration does not have.
const NO_NODE: &str = "Invalid NODE specified";

fn start(dest: &Dest, item: &Item, how: &Transport) -> anyhow::Result<(Child, &'static str)> {
    let (mut command, label) = match dest {
        Dest::NncpFile { node, sub } => {
            let mut command = nncp(&how.nncp_file, how)?;
            let mut path = sub.as_ref().map(|sub| format!("{sub}/")).unwrap_or_default();
            if how.host_directory {
                path += &format!("{}/", item.parsed.host);
            }
            command.args(["-", &format!("{node}:{path}{}", item.name)]);
            (command, "nncp-file")
        }
        Dest::NncpExec { node, handle } => {
            let mut command = nncp(&how.nncp_exec, how)?;
            command.args([node, handle]);
            // A digest does not help the handler, which reads the dataset from the manifest.
            if let Label::Dataset(dataset) = &item.parsed.label {
                command.arg(format!("{}/{dataset}", item.parsed.host));
            }
            (command, "nncp-exec")
        }
        Dest::Command(text) => (shell(text, item), "cmd"),
        Dest::Dir(_) | Dest::Stdout => return Err(Exit::Usage.error(format!("{dest} is not a program"))),
    };
    if let Some(user) = &how.user {
        child::run_as(&mut command, user)?;
    }
    (&item.file).seek(SeekFrom::Start(0))?;
    command.stdin(Stdio::from(item.file.try_clone()?));
    Ok((Child::spawn(command, label)?, label))
}

fn finish(mut running: Child, label: &str, item: &Item, how: &Transport) -> (anyhow::Result<Delivered>, Option<u32>) {
    let (id, mut written) = (running.id(), 0);
    // The child shares our file offset, which shows how much it has read.
    let done = || {
        written = written_by(id).max(written);
        (&item.file).stream_position().unwrap_or(0).saturating_add(written)
    };
    let status = match running.wait_while_working(how.timeout, done) {
        Ok(status) => status,
        Err(e) => return (Err(e), running.left_behind()),
    };
    if status.success() {
        return (Ok(Delivered::New), None);
    }
    let words = running.explanation();
    let remedy = match words.contains(NO_NODE) {
        true => "; NNCP's configuration has no such node: correct the name, or add it to neigh there",
        false => "",
    };
    (Err(Exit::Unavailable.error(format!("{label} failed ({status}){words}{remedy}"))), None)
}

/// Returns the number of bytes that the processes now in a group have written (proc_pid_io(5)).
fn written_by(group: u32) -> u64 {
    let of = |pid: u32| {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        io.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse::<u64>().ok()
    };
    proc::group(group).into_iter().filter_map(of).sum()
}

pub fn is_equipped(dest: &Dest, how: &Transport) -> anyhow::Result<()> {
    if let Some(user) = &how.user {
        child::run_as(&mut Command::new("/"), user)?;
    }
    let program = match dest {
        Dest::NncpFile { .. } => &how.nncp_file,
        Dest::NncpExec { .. } => &how.nncp_exec,
        Dest::Dir(_) | Dest::Command(_) | Dest::Stdout => return Ok(()),
    };
    child::find(program)?;
    if let Some(file) = &how.nncp_config {
        File::open(file).with_context(|| format!("{}: correct nncp-config", file.display()))?;
    }
    Ok(())
}

fn nncp(program: &std::path::Path, how: &Transport) -> anyhow::Result<Command> {
    let mut command = child::command(&child::find(program)?);
    if let Some(file) = &how.nncp_config {
        command.arg("-cfg").arg(file);
    }
    if let Some(nice) = &how.nice {
        command.args(["-nice", nice]);
    }
    command.args(["-quiet", "-noprogress"]);
    Ok(command)
}

/// Returns the user's own command. It keeps the user's environment. Its standard output is discarded, because ours
/// may carry something else.
fn shell(text: &str, item: &Item) -> Command {
    let mut command = Command::new("/bin/sh");
    let dataset = match &item.parsed.label {
        Label::Dataset(dataset) => dataset.as_str(),
        Label::Digest(_) => "",
    };
    // It gets a process group of its own, so that all its processes are killed if the delivery is aborted.
    command.args(["-c", text]).stdout(Stdio::null()).process_group(0);
    command.env("ZSNAP_FILE", &item.name).env("ZSNAP_HOST", item.parsed.host.as_str()).env("ZSNAP_DATASET", dataset);
    command
}
