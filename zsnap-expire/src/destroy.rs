//! Destroys snapshots. No other module does. Exact names are passed to `zfs destroy` in batches, and the guids
//! are checked again just before each call. `zfs destroy` destroys all of a batch or none, so a batch that fails
//! is halved.

use std::collections::HashMap;

use anyhow::Result;
use zsnap_common::cli::cancel::{self, Cancelled};
use zsnap_common::cli::log;
use zsnap_common::names::shell::quoted;
use zsnap_common::process::zfs::Zfs;

use crate::snapshot::Snapshot;

/// The maximum number of snapshots in a batch.
const BATCH: usize = 500;
/// The maximum number of bytes of their names: Linux allows 128 KiB in one argument.
const BYTES: usize = 100 << 10;

/// The result of destroying snapshots of a dataset.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The number of snapshots that were destroyed.
    pub destroyed: u64,
    /// The number of failures, each of which was logged.
    pub failed: u64,
}

/// Destroys snapshots of one dataset, and continues after those that cannot be destroyed.
///
/// # Errors
/// A signal, or a `zfs` that hangs, because it would hang again.
pub fn destroy(zfs: &Zfs, dataset: &str, doomed: Vec<&Snapshot<'_>>) -> Result<Done> {
    let (mut destroyed, mut failures) = (0, 0);
    let mut failed = |name: &str, why: &dyn std::fmt::Display| {
        log::error(format_args!("{name}: {why}"));
        failures += 1;
    };
    // A stack: the next batch is the last element.
    let mut batches = batches(dataset, doomed);
    while let Some(mut batch) = batches.pop() {
        cancel::check()?;
        // Check again even for half of a failed batch: another snapshot may have the name by now.
        let there = match guids(zfs, dataset) {
            Ok(there) => there,
            Err(e) if Cancelled::find(&e).is_some() => return Err(e),
            // Continue with the other datasets.
            Err(e) => {
                failed(dataset, &format_args!("{e:#}"));
                break;
            }
        };
        batch.retain(|snapshot| {
            let name = snapshot.name;
            match (snap(dataset, name), there.get(name)) {
                (None, _) => failed(name, &"is not a name of a snapshot"),
                (_, None) => gone(name),
                (_, Some(guid)) if *guid != snapshot.guid => failed(name, &"another snapshot has this name by now"),
                _ => return true,
            }
            false
        });
        let names: Vec<&str> = batch.iter().filter_map(|snapshot| snap(dataset, snapshot.name)).collect();
        if names.is_empty() {
            continue;
        }
        match (zfs.destroy(dataset, &names)?, &batch[..]) {
            (None, _) => destroyed += names.len() as u64,
            (Some(why), [one]) => match zfs.snapshot_guid(one.name) {
                Ok(None) => gone(one.name),
                _ => failed(one.name, &cause(zfs, one.name, why)),
            },
            (Some(_), _) => {
                let second = batch.split_off(batch.len() / 2);
                batches.extend([second, batch]);
            }
        }
    }
    Ok(Done { destroyed, failed: failures })
}

/// Splits the snapshots, in the given order, into batches. The last batch comes first.
fn batches<'a>(dataset: &str, doomed: Vec<&'a Snapshot<'a>>) -> Vec<Vec<&'a Snapshot<'a>>> {
    let mut batches: Vec<Vec<&Snapshot<'_>>> = Vec::new();
    let mut bytes = 0;
    for snapshot in doomed {
        let more = snapshot.name.len() - dataset.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH && bytes + more <= BYTES => {
                bytes += more;
                batch.push(snapshot);
            }
            _ => {
                bytes = dataset.len() + more;
                batches.push(vec![snapshot]);
            }
        }
    }
    batches.reverse();
    batches
}

/// Returns the part of a name after the `@`, unless `zfs destroy` would read it as a list or a range.
fn snap<'a>(dataset: &str, name: &'a str) -> Option<&'a str> {
    name.get(dataset.len() + 1..).filter(|snap| !snap.is_empty() && !snap.contains(['@', ',', '%']))
}

fn gone(name: &str) {
    log::info(format_args!("{name}: was destroyed meanwhile"));
}

/// Returns the cause of a failure in terms that help: for a hold, `zfs` prints only "dataset is busy".
fn cause(zfs: &Zfs, name: &str, why: String) -> String {
    let holds = zfs.holds(name).unwrap_or_default();
    if !holds.is_empty() {
        let tags: Vec<String> = holds.iter().map(quoted).collect();
        return format!("is held by {}: zfs release {} {}", tags.join(", "), tags[0], quoted(name));
    }
    let clones = zfs.list("snapshot", "clones", &[name.to_owned()], Some(0)).ok().flatten().unwrap_or_default();
    match clones.trim() {
        "" | "-" => why,
        clones => format!("was cloned to {clones}: destroy or promote that first"),
    }
}

fn guids(zfs: &Zfs, dataset: &str) -> Result<HashMap<String, u64>> {
    // The dataset may have been destroyed with all its snapshots.
    let text = zfs.list("snapshot", "name,guid", &[dataset.to_owned()], Some(1))?.unwrap_or_default();
    let guid = |line: &str| line.split_once('\t').and_then(|(name, guid)| Some((name.to_owned(), guid.parse().ok()?)));
    Ok(text.lines().filter_map(guid).collect())
}
