//! Decides what to do with the verified files of one target: pure functions of the snapshots on the target, of the
//! journal, and of what the files say. The order in which the files arrived does not matter. For ZFS streams only
//! guids decide, as in the kernel (`plan/zfs.rs`); for opaque streams, the numbers in their manifests
//! (`plan/opaque.rs`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zsnap_common::cli::report;
use zsnap_common::names::target::{Dataset, Target};
use zsnap_common::process::zfs::Snapshot;
use zsnap_common::stream::{Guid, StreamFacts};
use zsnap_message::payload::{Base, Epoch, Manifest};

mod opaque;
mod standing;
mod zfs;

pub use opaque::opaque;
pub use standing::{Standing, State};
pub use zfs::zfs;

/// What a verified file says about its place in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The target that the file is for.
    pub target: Target,
    /// The number of the file: the one in its manifest, or else the one in its name. Microseconds since 1970.
    pub order: u64,
    /// The place in the chain that the manifest states; `None`: a file without a manifest, or a bare stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<Number>,
    /// One link for each snapshot of a ZFS stream; empty: an opaque stream.
    pub links: Vec<Link>,
}

/// What a manifest says about the place of its file among the others of its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// The epoch of the sender that numbered the file.
    pub epoch: Epoch,
    /// The number of this file in the epoch.
    pub seq: u64,
    /// The number of the file that was queued before it; `None`: the first of its epoch.
    pub prev: Option<u64>,
    /// The id of this file: 128 random bits in hex.
    pub id: String,
    /// Whether the file builds on an earlier one.
    pub base: Base,
}

/// One snapshot of a stream, and its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The guid of the base; `None`: a full stream.
    pub from: Option<Guid>,
    /// The guid of the snapshot.
    pub to: Guid,
    /// The name of the snapshot.
    pub snap: String,
    /// Whether it was sent raw: encrypted as on the sender's disk.
    pub raw: bool,
}

impl Number {
    /// Extracts the place in the chain from a manifest.
    pub fn of(m: &Manifest) -> Number {
        Number { epoch: m.epoch.clone(), seq: m.seq, prev: m.prev, id: m.id.clone(), base: m.base }
    }
}

impl Facts {
    /// Collects the facts of a verified file. `order` is the number in its name.
    pub fn of(target: Target, order: u64, manifest: Option<&Manifest>, stream: Option<&StreamFacts>) -> Facts {
        let number = manifest.map(Number::of);
        let links = stream.map_or(&[][..], |s| &s.substreams);
        let links = links.iter().map(|s| Link { from: s.from, to: s.to, snap: s.snap.clone(), raw: s.raw }).collect();
        Facts { target, order: manifest.map_or(order, |m| m.seq), number, links }
    }
}

/// The journal of a dataset on one pool: what was received into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The guids of the snapshots that were seen to be committed, oldest first.
    pub committed: Vec<Guid>,
    /// The highest number of a file that was received as a whole; files without a manifest do not count.
    pub last_seq: Option<u64>,
    /// Whether what was received was raw; `None`: unknown, because nothing was received since the journal was rebuilt
    /// from the pool.
    #[serde(default)]
    pub raw: Option<bool>,
    /// The snapshot that the present dataset began with; `None`: unknown. Snapshots that precede it in the journal
    /// were received into a dataset that no longer exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Guid>,
}

/// The most snapshots that a journal holds. Older ones are forgotten: they were pruned so long ago that no copy of
/// their files is in transit any more.
const REMEMBERED: usize = 10_000;

/// The most older files of a command that are remembered. A copy of a forgotten one is a Conflict.
const OLDER: usize = 1000;

impl Past {
    /// Records that a snapshot was received on `from`. It is the newest now, so whatever follows it in the journal was
    /// rolled back.
    pub fn commit(&mut self, from: Option<Guid>, guid: Guid, raw: bool) {
        if from.is_none() {
            self.begun = Some(guid);
        }
        if let Some(at) = self.committed.iter().position(|&known| known == guid) {
            self.committed.truncate(at);
        }
        self.committed.push(guid);
        let surplus = self.committed.len().saturating_sub(REMEMBERED);
        self.committed.drain(..surplus);
        self.raw = Some(raw);
    }

    /// Prepares the journal for applying a file to the dataset that has these snapshots, oldest first. What follows
    /// the newest snapshot that still exists was rolled back, and is forgotten; otherwise it would seem to have been
    /// pruned once another snapshot follows. If none of the journal exists, this is another dataset, made by hand.
    pub fn rewind(&mut self, here: &[Snapshot]) {
        let is_here = |guid: &Guid| here.iter().any(|s| s.guid == *guid);
        if let Some(left) = self.committed.iter().rposition(is_here) {
            self.committed.truncate(left + 1);
        } else if let Some(first) = here.first().filter(|_| !self.committed.is_empty()) {
            self.committed.extend(here.iter().map(|s| s.guid));
            self.begun = Some(first.guid);
        }
    }

    /// Records those snapshots of a file that exist on the target (`here`, oldest first), in case a run ended after
    /// their commit but before it wrote the journal.
    pub fn learn(&mut self, facts: &Facts, here: &[Snapshot]) {
        let place = |guid: Guid| here.iter().position(|s| s.guid == guid);
        for link in &facts.links {
            let Some(at) = place(link.to).filter(|_| !self.committed.contains(&link.to)) else { continue };
            let later = self.committed.iter().position(|&known| place(known).is_some_and(|known| known > at));
            self.committed.insert(later.unwrap_or(self.committed.len()), link.to);
            self.raw = Some(link.raw);
            if link.from.is_none() {
                self.begun = Some(link.to);
            }
        }
    }

    /// Records that the file was received as a whole.
    pub fn done(&mut self, facts: &Facts) {
        self.last_seq = facts.number.as_ref().map(|n| n.seq).max(self.last_seq);
    }
}

/// The journal's entry for a target of a command: the last file that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The epoch of the sender.
    pub epoch: Epoch,
    /// The number of the file.
    pub seq: u64,
    /// The id of the file: 128 random bits in hex.
    pub id: String,
    /// When the file was made, by the sender's clock: seconds since 1970. The number does not always show it: it stays
    /// ahead after the sender's clock was ahead once. `None`: applied by a version that did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// The command was started, and was not seen to end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub applying: bool,
    /// The previous entry, which becomes valid again if this file was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Applied>>,
    /// Older files of the same epoch that need not be applied any more, by number: each was applied, or a full one
    /// that was applied came after it. The value is the id, if it is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub older: BTreeMap<u64, Option<String>>,
}

fn is_false(b: &bool) -> bool {
    !b
}

impl Applied {
    /// Returns the entry for a file that is applied after `before`.
    pub fn of(number: &Number, before: Option<Applied>) -> Applied {
        let (epoch, seq, id) = (number.epoch.clone(), number.seq, number.id.clone());
        let mut older = BTreeMap::new();
        if let Some(before) = before.filter(|before| before.epoch.id == epoch.id) {
            older = before.older;
            older.insert(before.seq, Some(before.id));
        }
        let mut applied = Applied { epoch, seq, id, created: None, applying: false, before: None, older };
        // With `overlap`, an incremental may have been applied although the file that it builds on was not.
        applied.came_before(number.prev.filter(|_| number.base == Base::None));
        applied
    }

    fn came_before(&mut self, prev: Option<u64>) {
        if let Some(prev) = prev {
            self.older.entry(prev).or_default();
        }
        while self.older.len() > OLDER {
            self.older.pop_first();
        }
    }

    /// Returns when the file was made, in seconds since 1970, estimated from its number if it was not recorded.
    pub fn made(&self) -> u64 {
        self.created.unwrap_or(self.seq / MICROS)
    }

    /// Whether the file was applied, or a full one that was applied came after it.
    fn has_passed(&self, number: &Number) -> bool {
        let known = self.older.get(&number.seq).filter(|_| self.epoch.id == number.epoch.id);
        known.is_some_and(|id| id.as_ref().is_none_or(|id| *id == number.id))
    }

    /// Records that a Stale file need not be applied any more. The file before it need not be applied either, except
    /// when the Stale file is an incremental that was applied itself: with `overlap`, its base may still be missing.
    pub fn passed(&mut self, number: &Number) {
        if self.epoch.id == number.epoch.id {
            let was_applied = self.older.insert(number.seq, Some(number.id.clone())).flatten().is_some();
            self.came_before(number.prev.filter(|_| number.base == Base::None || !was_applied));
        }
    }
}

/// The dataset that a stream is received into, in its present state.
pub struct PoolState<'a> {
    /// The name of the dataset on this pool: `STORE/HOST/DATASET`.
    pub name: &'a str,
    /// The snapshots, oldest first; `None`: the dataset is absent.
    pub snapshots: Option<&'a [Snapshot]>,
    /// Bytes written to the dataset since its newest snapshot.
    pub written: u64,
    /// The parent dataset, of the same host, that is missing and must be received first.
    pub parent: Option<&'a Dataset>,
}

impl PoolState<'_> {
    /// Returns what distinguishes this state of the dataset from a later one; `None`: it has no snapshot.
    pub fn head(&self) -> Option<Head> {
        self.snapshots.and_then(|all| all.last()).map(|last| Head { newest: last.guid, written: self.written })
    }
}

/// The part of a dataset's state that decides whether `zfs receive` accepts an incremental on an older snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The guid of the newest snapshot.
    pub newest: Guid,
    /// Bytes written since that snapshot.
    pub written: u64,
}

/// A file that the plan decides about.
#[derive(Clone, Copy, Debug)]
pub struct Pending<'a> {
    /// What the file says about its place in a chain.
    pub facts: &'a Facts,
    /// The state in which `zfs receive` rejected the file because the dataset was modified: it is not attempted again
    /// before the state has changed.
    pub refused_at: Option<Head>,
}

/// The plan for one target: the standings of its files, and the order in which the Ready ones are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One standing for each file, in the order of the input.
    pub standings: Vec<Standing>,
    /// The indices of the Ready files, in the order in which they are applied.
    pub path: Vec<usize>,
}

/// Microseconds in a second.
const MICROS: u64 = 1_000_000;

/// Describes a file of which only the number is known: its target, and when it was queued by the sender's clock.
fn numbered(seq: u64, target: &Target) -> String {
    format!("file {seq} of {target} (queued {})", report::time(seq / MICROS))
}

/// Returns what to do if such a file is lost. `anew`: how the sender continues the chain without it.
fn if_lost(target: &Target, anew: &str) -> String {
    format!("if it is lost, send it again with zsnap-fanout requeue where it was kept, or on {}: {anew}", target.host)
}

/// Returns the outermost parent dataset that is missing and must be received first, if any.
pub fn missing_parent(target: &Target, has: impl Fn(&Dataset) -> bool) -> Option<Dataset> {
    let mut missing = None;
    let mut at = target.dataset.parent();
    while let Some(parent) = at {
        at = parent.parent();
        if !has(&parent) {
            missing = Some(parent);
        }
    }
    missing
}

#[cfg(test)]
mod tests;
