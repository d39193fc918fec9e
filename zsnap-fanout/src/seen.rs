//! Records when a destination was last mounted and what was delivered to it last. Only `status` uses
//! this record: the outboxes alone determine what is delivered, so a lost or old record does no harm.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::publish::write_durably;

const NOTE: &str = ".seen.json";

/// The record of a destination. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When the destination was last found mounted or a file was last delivered.
    pub at: Option<u64>,
    /// When a file was last delivered.
    pub delivered: Option<u64>,
    /// The name of the file that was delivered last.
    pub newest: Option<String>,
    /// Why the last delivery failed, if it did.
    pub failed: Option<String>,
}

impl Seen {
    /// Reads the record in the outbox of a destination. It is empty if it cannot be read.
    pub fn read(outbox: &Path) -> Seen {
        let text = fs::read(outbox.join(NOTE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces the record in the outbox of a destination, durably.
    pub fn write(&self, outbox: &Path) -> Result<()> {
        write_durably(&outbox.join(NOTE), &serde_json::to_vec(self)?).or_exit(Exit::Io, "noting what was delivered")
    }
}
