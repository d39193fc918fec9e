//! Counts the packets that NNCP has not sent yet: a file that was handed to NNCP has not necessarily
//! arrived at the destination.

use std::path::Path;

use anyhow::Result;
use zsnap_common::durable::dest::nncp;

use crate::drive::Drive;

/// Returns the number of packets for the node in NNCP's spool, including those of other programs, as
/// `nncp-stat -pkt` lists them (NNCP 8.8.2: a line `tx HASH SIZE` for each), or `None` if the destination
/// is not a node.
pub fn packets(drive: &Drive, program: &Path) -> Result<Option<u64>> {
    let text = nncp::stat(&drive.dest, &drive.transport, program)?;
    Ok(text.map(|text| text.lines().filter(|line| is_sent(line)).count() as u64))
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
