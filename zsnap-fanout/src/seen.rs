//! When a drive was last here and what it got last: for `status` only. What is delivered is told
//! by the outboxes alone, so a lost or old note does no harm.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::publish::write_durably;

const NOTE: &str = ".seen.json";

/// Times in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The drive was here, or took a file.
    pub at: Option<u64>,
    /// It took a file.
    pub delivered: Option<u64>,
    /// That file.
    pub newest: Option<String>,
    /// Why the last delivery failed, if it did.
    pub failed: Option<String>,
}

impl Seen {
    /// From the outbox of the drive.
    pub fn read(outbox: &Path) -> Seen {
        let text = fs::read(outbox.join(NOTE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces the note in the outbox of the drive.
    pub fn write(&self, outbox: &Path) -> Result<()> {
        write_durably(&outbox.join(NOTE), &serde_json::to_vec(self)?).or_exit(Exit::Io, "noting what was delivered")
    }
}
