//! What to do with the verified files of one target: pure decisions over what is there, what was
//! applied, and what the files say. In which order they came does not count. For ZFS guids
//! alone decide, as in the kernel (`plan/zfs.rs`); for opaque streams the numbers in their
//! manifests (`plan/opaque.rs`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zsnap_common::cli::report;
use zsnap_common::names::target::{Dataset, Target};
use zsnap_common::process::zfs::Snapshot;
use zsnap_common::stream::{Guid, StreamFacts};
use zsnap_message::payload::{Base, Epoch, Manifest};

mod opaque;
mod zfs;

pub use opaque::opaque;
pub use zfs::zfs;

/// What a verified file says about its place in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Which target it is for.
    pub target: Target,
    /// Its number: the manifest's, or the one in its name. Microseconds since 1970.
    pub order: u64,
    /// What the manifest says; `None`: a file of the seeds, or a plain stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<Number>,
    /// The snapshots in a ZFS stream, one link each; empty: an opaque stream.
    pub links: Vec<Link>,
}

/// A manifest's word about where a file belongs among the others of its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// Life of the sender's state that counts.
    pub epoch: Epoch,
    /// Number of this file in it.
    pub seq: u64,
    /// Number of the acknowledged file before it.
    pub prev: Option<u64>,
    /// 128 random bits in hex.
    pub id: String,
    /// Whether it needs what came before.
    pub base: Base,
}

/// One snapshot of a stream: what it is built on, and what it makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The base; `None`: a full stream.
    pub from: Option<Guid>,
    /// The snapshot.
    pub to: Guid,
    /// Its name.
    pub snap: String,
    /// Sent raw: encrypted as on the sender's disk.
    pub raw: bool,
}

impl Number {
    /// From a manifest.
    pub fn of(m: &Manifest) -> Number {
        Number { epoch: m.epoch.clone(), seq: m.seq, prev: m.prev, id: m.id.clone(), base: m.base }
    }
}

impl Facts {
    /// From a verified file. `order` is the number in its name.
    pub fn of(target: Target, order: u64, manifest: Option<&Manifest>, stream: Option<&StreamFacts>) -> Facts {
        let number = manifest.map(Number::of);
        let links = stream.map_or(&[][..], |s| &s.substreams);
        let links = links.iter().map(|s| Link { from: s.from, to: s.to, snap: s.snap.clone(), raw: s.raw }).collect();
        Facts { target, order: manifest.map_or(order, |m| m.seq), number, links }
    }
}

/// What was applied to a dataset of one pool: its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Snapshots that we saw committed, oldest first.
    pub committed: Vec<Guid>,
    /// Number of the newest file, of those with a manifest, that is there.
    pub last_seq: Option<u64>,
    /// Whether what was received was raw; `None`: not known, for nothing was received since the journal was
    /// rebuilt from the pool.
    #[serde(default)]
    pub raw: Option<bool>,
    /// The snapshot that the dataset which is there began with; `None`: not known. What is older was received
    /// into one that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Guid>,
}

/// More are forgotten: pruned so long ago that no copy of their files is under way any more.
const REMEMBERED: usize = 10_000;

/// More older files of a command are forgotten; a copy of one would be held.
const OLDER: usize = 1000;

impl Past {
    /// A snapshot was received on `from`: it is the newest now, so what the journal has behind it was rolled back.
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

    /// Before a file is applied to the dataset with these snapshots, oldest first: what is behind the newest
    /// one that is still here was rolled back, and is forgotten, lest it seem to have been pruned
    /// once something else follows it. If none is, this is another dataset, which was made by hand.
    pub fn rewind(&mut self, here: &[Snapshot]) {
        let is_here = |guid: &Guid| here.iter().any(|s| s.guid == *guid);
        if let Some(left) = self.committed.iter().rposition(is_here) {
            self.committed.truncate(left + 1);
        } else if let Some(first) = here.first().filter(|_| !self.committed.is_empty()) {
            self.committed.extend(here.iter().map(|s| s.guid));
            self.begun = Some(first.guid);
        }
    }

    /// Remembers those snapshots of a file that are here, oldest first, in case that a run ended between
    /// their commit and ours.
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

    /// The file is there, as a whole.
    pub fn done(&mut self, facts: &Facts) {
        self.last_seq = facts.number.as_ref().map(|n| n.seq).max(self.last_seq);
    }
}

/// What a command was given last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Life of the sender's state.
    pub epoch: Epoch,
    /// Number of the file.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// When it was made, by the sender's clock: seconds since 1970. Its number does not always tell: that
    /// stays ahead when the sender's clock was ahead once. `None`: applied by a version that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// The command was started and never seen to end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub applying: bool,
    /// What was applied before, for the case that this one was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Applied>>,
    /// Older files of that life which need not be applied any more, by number: they were, or a full one that
    /// was came after them. Their ids, as far as they were seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub older: BTreeMap<u64, Option<String>>,
}

fn is_false(b: &bool) -> bool {
    !b
}

impl Applied {
    /// The entry for a file that is applied after `before`.
    pub fn of(number: &Number, before: Option<Applied>) -> Applied {
        let (epoch, seq, id) = (number.epoch.clone(), number.seq, number.id.clone());
        let mut older = BTreeMap::new();
        if let Some(before) = before.filter(|before| before.epoch.id == epoch.id) {
            older = before.older;
            older.insert(before.seq, Some(before.id));
        }
        let mut applied = Applied { epoch, seq, id, created: None, applying: false, before: None, older };
        // An increment that overlaps may have been applied without the one that it builds on.
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

    /// When it was made, in seconds since 1970, as far as that is known.
    pub fn made(&self) -> u64 {
        self.created.unwrap_or(self.seq / MICROS)
    }

    /// Whether a file was applied, or a full one that was came after it.
    fn has_passed(&self, number: &Number) -> bool {
        let known = self.older.get(&number.seq).filter(|_| self.epoch.id == number.epoch.id);
        known.is_some_and(|id| id.as_ref().is_none_or(|id| *id == number.id))
    }

    /// A file that is Stale need not be applied, nor what came before it.
    pub fn passed(&mut self, number: &Number) {
        if self.epoch.id == number.epoch.id {
            let was_applied = self.older.insert(number.seq, Some(number.id.clone())).flatten().is_some();
            self.came_before(number.prev.filter(|_| number.base == Base::None || !was_applied));
        }
    }
}

/// The dataset that a stream goes to, as it is now.
pub struct There<'a> {
    /// Its name on this pool: `STORE/HOST/DATASET`.
    pub name: &'a str,
    /// `None`: the dataset is absent. Oldest first.
    pub snapshots: Option<&'a [Snapshot]>,
    /// Bytes written to it since its newest snapshot.
    pub written: u64,
    /// The dataset of the same host that must be there first, and is not.
    pub parent: Option<&'a Dataset>,
}

impl There<'_> {
    /// Tells one state of a dataset from another.
    pub fn head(&self) -> Option<Head> {
        self.snapshots.and_then(|all| all.last()).map(|last| Head { newest: last.guid, written: self.written })
    }
}

/// A dataset's state, as far as it decides whether an incremental on an older snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its newest snapshot.
    pub newest: Guid,
    /// Bytes written since.
    pub written: u64,
}

/// A file to decide on.
#[derive(Clone, Copy, Debug)]
pub struct Pending<'a> {
    /// What it says.
    pub facts: &'a Facts,
    /// The state in which the dataset refused it as changed: no use to try again before that
    /// has changed.
    pub refused_at: Option<Head>,
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply it, without its first `skip` sub-streams, which are there by then.
    Ready {
        /// How many sub-streams to leave out.
        skip: usize,
        /// It was received before, and is gone with all that followed: the pool was rewound.
        again: bool,
    },
    /// Its last snapshot is there: remove it.
    AlreadyThere,
    /// What was applied came after it: remove it.
    Stale,
    /// A Ready file holds all that it holds: it will be AlreadyThere, or Stale.
    Superseded,
    /// It stays until what it builds on comes.
    Waiting {
        /// For what.
        why: String,
        /// The pending file that brings it, by its index.
        behind: Option<usize>,
    },
    /// It stays: nothing that comes by itself will help. Says the remedy.
    Broken(String),
    /// It stays: the dataset was changed here, or went on without it. Says the remedy.
    Diverged(String),
    /// It stays: it contradicts what is here. Says the remedy.
    Conflict(String),
    /// To quarantine.
    Refused(String),
}

impl Verdict {
    /// One word for reports.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Ready { .. } => "ready",
            Verdict::AlreadyThere => "there",
            Verdict::Stale => "stale",
            Verdict::Superseded => "superseded",
            Verdict::Waiting { .. } => "waiting",
            Verdict::Broken(_) => "broken",
            Verdict::Diverged(_) => "diverged",
            Verdict::Conflict(_) => "conflict",
            Verdict::Refused(_) => "refused",
        }
    }

    /// Why, and what to do; empty where the word says all.
    pub fn why(&self) -> &str {
        match self {
            Verdict::Waiting { why, .. } => why,
            Verdict::Broken(why) | Verdict::Diverged(why) | Verdict::Conflict(why) | Verdict::Refused(why) => why,
            _ => "",
        }
    }
}

/// The verdicts on the files of one target, and the order in which the Ready ones are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One for each file, in the order in which they were given.
    pub verdicts: Vec<Verdict>,
    /// Indices of the Ready ones.
    pub path: Vec<usize>,
}

/// Microseconds in a second.
const MICROS: u64 = 1_000_000;

/// A file that is known by its number alone: which one of which target, and when it was queued by the clock
/// there.
fn numbered(seq: u64, target: &Target) -> String {
    format!("file {seq} of {target} (queued {})", report::time(seq / MICROS))
}

/// What to do when such a file does not come. `anew`: how the sender does without it.
fn if_lost(target: &Target, anew: &str) -> String {
    format!("if it is lost, send it again with zsnap-fanout requeue where it was kept, or on {}: {anew}", target.host)
}

/// The dataset of the same host that must be there first, if any is missing: the outermost one.
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
