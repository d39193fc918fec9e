//! What NNCP still has: a file that nncp-file took is not yet on the drive.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use zsnap_common::child::{self, Child};
use zsnap_common::dest::Dest;
use zsnap_common::exit::{Exit, OrExit};

use crate::drive::Drive;

const PATIENCE: Duration = Duration::from_secs(60);

/// Packets for the drive's node in NNCP's spool, ours and others', as `nncp-stat -pkt` lists them
/// (NNCP 8.8.2: a line `tx HASH SIZE` for each). `None`: the drive is no node.
pub fn packets(drive: &Drive, program: &Path) -> Result<Option<u64>> {
    let (Dest::NncpFile { node, .. } | Dest::NncpExec { node, .. }) = &drive.dest else { return Ok(None) };
    // What an area's subscribers still lack is not in one place.
    if node.starts_with("area:") {
        return Ok(None);
    }
    let mut command = child::command(&child::find(program)?);
    if let Some(file) = &drive.transport.nncp_config {
        command.arg("-cfg").arg(file);
    }
    command.args(["-pkt", "-node", node]).stdout(Stdio::piped());
    let mut running = Child::spawn(command, "nncp-stat")?;
    let mut list = String::new();
    if let Some(mut stdout) = running.stdout() {
        stdout.read_to_string(&mut list).or_exit(Exit::Unavailable, "nncp-stat")?;
    }
    if !running.wait(Some(PATIENCE))?.success() {
        return Err(Exit::Unavailable.error(format!("nncp-stat failed: {}", running.last_words())));
    }
    let sent = |line: &&str| line.trim_start().starts_with("tx ");
    Ok(Some(list.lines().filter(sent).count() as u64))
}
