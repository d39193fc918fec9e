//! What NNCP's own programs know of a node, asked as the user that will hand the files to NNCP.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Dest, Transport};
use crate::cli::exit::Exit;
use crate::cli::findings::Finding;
use crate::process::child::{self, Output};

const PATIENCE: Duration = Duration::from_secs(60);
/// The maximum size of the output of a program in bytes: enough for a million packets.
const MOST: u64 = 128 << 20;

/// Returns the output of `nncp-stat -pkt` for the node of the destination, or `None` if the destination is not a node.
///
/// # Errors
/// The program fails: NNCP does not know the node, or the user cannot read NNCP's configuration.
pub fn stat(dest: &Dest, how: &Transport, program: &Path) -> Result<Option<String>> {
    let (Dest::NncpFile { node, .. } | Dest::NncpExec { node, .. }) = dest else { return Ok(None) };
    // The packets that the subscribers of an area still lack are not in one place.
    if node.starts_with("area:") {
        return Ok(None);
    }
    let said = run(how, program, &["-pkt", "-node", node])?;
    if !said.status.success() {
        return Err(Exit::Unavailable.error(format!("nncp-stat failed: {}", said.words)));
    }
    Ok(Some(said.text))
}

/// Checks that NNCP's configuration can be read, that NNCP knows the node, and that its spool is writable: all as the
/// user that will run the programs. `program` is nncp-stat; `None`: it is beside the program that delivers.
pub fn check(dest: &Dest, how: &Transport, program: Option<&Path>) -> Vec<Finding> {
    let deliver = match dest {
        Dest::NncpFile { .. } => &how.nncp_file,
        Dest::NncpExec { .. } => &how.nncp_exec,
        Dest::Dir(_) | Dest::Command(_) | Dest::Stdout => return Vec::new(),
    };
    let beside = |name: &str| deliver.with_file_name(name);
    let program = program.map_or_else(|| beside("nncp-stat"), Path::to_owned);
    let mut findings = Vec::new();
    match stat(dest, how, &program) {
        Err(e) if child::find(&program).is_err() => {
            findings.push(Finding::Warning(format!("{e:#}: without it, nobody asks NNCP whether it knows the node")));
        }
        Err(e) => return vec![Finding::Failure(format!("{e:#}; correct the node, or nncp-config"))],
        Ok(None) => findings.push(Finding::Note("whether NNCP knows this area is not checked".to_owned())),
        Ok(Some(_)) => {}
    }
    findings.extend(spool(how, &beside("nncp-cfgmin")).err().map(Finding::from));
    findings
}

/// Checks that the user may write to NNCP's spool, or create it.
fn spool(how: &Transport, cfgmin: &Path) -> Result<()> {
    // Old versions of NNCP lack this program.
    if child::find(cfgmin).is_err() {
        return Ok(());
    }
    let said = run(how, cfgmin, &[])?;
    let path = said.text.lines().find_map(|line| line.trim_start().strip_prefix("spool:"));
    let Some(path) = path.map(|path| PathBuf::from(path.trim().trim_matches('"'))).filter(|path| path.is_absolute())
    else {
        return match said.status.success() {
            true => Ok(()),
            false => Err(Exit::Config.error(format!("nncp-cfgmin failed: {}; correct nncp-config", said.words))),
        };
    };
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(&path);
    let mut test = child::command(&child::find(Path::new("test"))?);
    test.arg("-w").arg(there).arg("-a").arg("-x").arg(there);
    if let Some(user) = &how.user {
        child::run_as(&mut test, user)?;
    }
    if child::output(test, "test", PATIENCE, MOST)?.status.success() {
        return Ok(());
    }
    let who = how.user.as_ref().map_or_else(|| "this user".to_owned(), |user| format!("the user {user}"));
    Err(Exit::Config
        .error(format!("{who} may not write to NNCP's spool {}: correct its owner or mode", there.display())))
}

fn run(how: &Transport, program: &Path, args: &[&str]) -> Result<Output> {
    let mut command: Command = child::command(&child::find(program)?);
    if let Some(file) = &how.nncp_config {
        command.arg("-cfg").arg(file);
    }
    command.args(args);
    if let Some(user) = &how.user {
        child::run_as(&mut command, user)?;
    }
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    child::output(command, &name, PATIENCE, MOST).with_context(|| name.clone())
}
