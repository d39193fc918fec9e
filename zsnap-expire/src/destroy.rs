//! The only place that destroys: exact names, in batches, each snapshot's guid looked at once more
//! just before. `zfs destroy` takes all of a batch or none, so a batch that fails is halved.

use std::collections::HashMap;

use anyhow::Result;
use zsnap_common::cancel::{self, Cancelled};
use zsnap_common::log;
use zsnap_common::zfs::Zfs;

use crate::snapshot::Snapshot;

/// So many at once, at most.
const BATCH: usize = 500;
/// Bytes of their names, at most: Linux takes 128 KiB in one argument.
const BYTES: usize = 100 << 10;

/// What became of the doomed snapshots of a dataset.
#[derive(Debug, Default)]
pub struct Done {
    /// Destroyed.
    pub destroyed: u64,
    /// Why others were not.
    pub failed: Vec<String>,
}

/// Destroys snapshots of one dataset, and goes on behind those that it cannot. Errors: a signal.
pub fn destroy(zfs: &Zfs, dataset: &str, doomed: &[&Snapshot<'_>]) -> Result<Done> {
    let mut done = Done::default();
    let mut rest = doomed;
    while !rest.is_empty() {
        cancel::check()?;
        let mut bytes = dataset.len();
        let fits = rest.iter().take(BATCH).take_while(|snapshot| {
            bytes += snapshot.name.len() - dataset.len();
            bytes <= BYTES
        });
        let (batch, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let there = match guids(zfs, dataset) {
            Ok(there) => there,
            Err(e) if Cancelled::find(&e).is_some() => return Err(e),
            // The others are no worse for it.
            Err(e) => {
                done.failed.push(format!("{dataset}: {e:#}"));
                break;
            }
        };
        let mut names = Vec::new();
        for snapshot in batch {
            let snap = snapshot.name.get(dataset.len() + 1..).unwrap_or_default();
            match there.get(snapshot.name) {
                // What `zfs destroy` would take for a list or a range is no name of a snapshot.
                _ if snap.is_empty() || snap.contains(['@', ',', '%']) => {
                    done.failed.push(format!("{}: is no name of a snapshot", snapshot.name));
                }
                Some(guid) if *guid == snapshot.guid => names.push(snap),
                Some(_) => done.failed.push(format!("{}: another snapshot has this name by now", snapshot.name)),
                None => gone(snapshot.name),
            }
        }
        halve(zfs, dataset, &names, &mut done)?;
    }
    Ok(done)
}

fn halve(zfs: &Zfs, dataset: &str, snaps: &[&str], done: &mut Done) -> Result<()> {
    cancel::check()?;
    match (zfs_destroy(zfs, dataset, snaps), snaps) {
        (Ok(()), _) => done.destroyed += snaps.len() as u64,
        (Err(e), [one]) => {
            let name = format!("{dataset}@{one}");
            match zfs.snapshot_guid(&name) {
                Ok(None) => gone(&name),
                _ => done.failed.push(format!("{name}: {}", cause(zfs, &name, &e))),
            }
        }
        (Err(_), _) => {
            let (first, second) = snaps.split_at(snaps.len() / 2);
            halve(zfs, dataset, first, done)?;
            halve(zfs, dataset, second, done)?;
        }
    }
    Ok(())
}

fn gone(name: &str) {
    log::info(format_args!("{name}: was destroyed meanwhile"));
}

fn zfs_destroy(zfs: &Zfs, dataset: &str, snaps: &[&str]) -> Result<()> {
    if snaps.is_empty() { Ok(()) } else { zfs.destroy(dataset, snaps) }
}

/// In the operator's words: `zfs` says "dataset is busy" of a hold.
fn cause(zfs: &Zfs, name: &str, e: &anyhow::Error) -> String {
    let holds = zfs.holds(name).unwrap_or_default();
    if !holds.is_empty() {
        return format!("is held by {}: zfs release {} {name}", holds.join(", "), holds[0]);
    }
    let clones = zfs.list("snapshot", "clones", &[name.to_owned()], Some(0)).ok().flatten().unwrap_or_default();
    match clones.trim() {
        "" | "-" => format!("{e:#}"),
        clones => format!("was cloned to {clones}: destroy or promote that first"),
    }
}

fn guids(zfs: &Zfs, dataset: &str) -> Result<HashMap<String, u64>> {
    // The dataset may be gone, and all of them with it.
    let text = zfs.list("snapshot", "name,guid", &[dataset.to_owned()], Some(1))?.unwrap_or_default();
    let guid = |line: &str| line.split_once('\t').and_then(|(name, guid)| Some((name.to_owned(), guid.parse().ok()?)));
    Ok(text.lines().filter_map(guid).collect())
}
