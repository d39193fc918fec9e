//! Records since when a destination receives the files of a host. A new destination lacks the files
//! that were split before it was configured, although none of them waits for it. Only `status` uses
//! this record: if it is absent or unclear, `status` counts fewer copies.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::notices::Notices;
use zsnap_common::durable::outbox::{Outboxes, Queued};
use zsnap_common::durable::publish::write_durably;
use zsnap_common::names::target::Host;

use crate::drive::Drive;

const NOTE: &str = ".since.json";

/// For each host whose files the destination receives, the time of the first file that was split to
/// it, in seconds since 1970.
#[derive(Debug, Default)]
pub struct Since(BTreeMap<Host, u64>);

impl Since {
    /// Reads the record in the outbox of a destination. It is empty if it cannot be read.
    pub fn read(outbox: &Path) -> Since {
        let text = fs::read(outbox.join(NOTE)).unwrap_or_default();
        Since(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// Returns whether the file was split to the destination, and so waits for it or was delivered.
    pub fn covers(&self, file: &Queued) -> bool {
        self.0.get(&file.parsed.host).is_some_and(|since| *since <= file.written)
    }
}

/// Records which destinations receive the files of `host` from now on. Call it before the files are split,
/// with the spool locked. `oldest` returns when the oldest was written. An error is reported and stops nothing.
pub fn note(boxes: &Outboxes, host: &Host, drives: &[Drive], notices: &mut Notices, oldest: impl Fn() -> Option<u64>) {
    if let Err(e) = write(boxes, host, drives, oldest) {
        notices.problem(host.as_str(), &format!("{e:#}; status may count too few copies of its files"));
    }
}

fn write(boxes: &Outboxes, host: &Host, drives: &[Drive], oldest: impl Fn() -> Option<u64>) -> Result<()> {
    for drive in drives {
        let outbox = boxes.dir(&drive.name);
        let mut since = Since::read(&outbox);
        match (drive.takes(host), since.0.contains_key(host)) {
            (true, false) => {
                // Files that wait for other destinations already were split earlier, whatever their times.
                let mut first = oldest().unwrap_or(0);
                for other in drives {
                    let waiting = boxes.waiting(&other.name).or_exit(Exit::Io, "cannot read the outbox")?;
                    let newest = waiting.iter().filter(|file| file.parsed.host == *host).map(|file| file.written).max();
                    first = first.max(newest.map_or(0, |newest| newest + 1));
                }
                since.0.insert(host.clone(), first);
                boxes.make(&drive.name, host)?;
            }
            (false, true) => drop(since.0.remove(host)),
            _ => continue,
        }
        write_durably(&outbox.join(NOTE), &serde_json::to_vec(&since.0)?).or_exit(Exit::Io, "noting what it takes")?;
    }
    Ok(())
}

#[cfg(test)]
impl<const N: usize> From<[(&str, u64); N]> for Since {
    fn from(times: [(&str, u64); N]) -> Since {
        Since(times.into_iter().map(|(host, time)| (host.parse().unwrap(), time)).collect())
    }
}
