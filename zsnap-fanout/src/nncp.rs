//! Counts the packets that NNCP has not sent yet: a file that was handed to NNCP has not necessarily
//! arrived at the destination.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::durable::dest::Dest;
use zsnap_common::process::child;

use crate::drive::Drive;

const PATIENCE: Duration = Duration::from_secs(60);
/// The maximum size of the output of nncp-stat in bytes: enough for a million packets.
const MOST: u64 = 128 << 20;

/// Returns the number of packets for the node in NNCP's spool, including those of other programs, as
/// `nncp-stat -pkt` lists them (NNCP 8.8.2: a line `tx HASH SIZE` for each), or `None` if the destination
/// is not a node.
pub fn packets(drive: &Drive, program: &Path) -> Result<Option<u64>> {
    let (Dest::NncpFile { node, .. } | Dest::NncpExec { node, .. }) = &drive.dest else { return Ok(None) };
    // The packets that the subscribers of an area still lack are not in one place.
    if node.starts_with("area:") {
        return Ok(None);
    }
    let mut command = child::command(&child::find(program)?);
    if let Some(file) = &drive.transport.nncp_config {
        command.arg("-cfg").arg(file);
    }
    command.args(["-pkt", "-node", node]);
    let said = child::output(command, "nncp-stat", PATIENCE, MOST)?;
    if !said.status.success() {
        return Err(Exit::Unavailable.error(format!("nncp-stat failed: {}", said.words)));
    }
    Ok(Some(said.text.lines().filter(|line| is_sent(line)).count() as u64))
}

/// Returns whether a line lists an outgoing packet. Its name is a hash in 52 characters of base32.
fn is_sent(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let hash =
        |word: &str| word.len() == 52 && word.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b));
    words.next() == Some("tx") && words.next().is_some_and(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_sent_packets_are_counted() {
        let hash = "A2".repeat(26);
        assert!(is_sent(&format!("\ttx {hash} 1.2 MiB (nice: B)")));
        for other in
            [format!("rx {hash} 1 B"), "tx".into(), "tx node".into(), format!("x tx {hash}"), format!("tx {hash}A")]
        {
            assert!(!is_sent(&other), "{other}");
        }
    }
}
