//! From which file on a drive gets those of a host: a drive that is new lacks what was split before
//! it, though nothing of that waits for it. For `status` only: without the note, or in doubt, it
//! counts fewer copies.

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

/// For each host that the drive takes, the time of the first file that was split to it: seconds
/// since 1970.
#[derive(Debug, Default)]
pub struct Since(BTreeMap<Host, u64>);

impl Since {
    /// From the outbox of the drive.
    pub fn read(outbox: &Path) -> Since {
        let text = fs::read(outbox.join(NOTE)).unwrap_or_default();
        Since(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// Whether the file was split to the drive: it waits there, or the drive has it.
    pub fn covers(&self, file: &Queued) -> bool {
        self.0.get(&file.parsed.host).is_some_and(|since| *since <= file.written)
    }
}

/// Notes which drives take the files of `host` from now on, before any of them is split; `oldest`
/// tells when the oldest was written. The caller has the spool's lock. An error holds up nothing.
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
                // What waits somewhere already does not come here, however new it seems to be.
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
