//! A dataset of a host: its snapshots, and the runs that queue them as simplesnap and zsnap-queue do.

use std::collections::BTreeSet;

use zsnap_tests::random::Random;
use zsnap_tests::scene;
use zsnap_tests::sealer::Sealer;
use zsnap_tests::stream::{Rec, Sub};

use super::model::File;

/// A snapshot. Its number is its place in [`Sender::snapshots`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its identity.
    pub guid: u64,
    /// Its name.
    pub name: String,
    /// The number of the first snapshot with the same content.
    pub content: usize,
}

/// How the source keeps bases.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    /// simplesnap: `-I` from the oldest; after a success all but the newest are destroyed.
    Oldest,
    /// simplesnap with createbookmarks: only a bookmark of the newest is kept, even after a failure.
    Bookmark,
    /// By hand: several are kept, and any of them is the base, with -i or -I.
    Any,
}

/// A dataset that is sent.
pub struct Sender {
    /// HOST/DATASET.
    pub target: String,
    /// All snapshots that were ever made.
    pub snapshots: Vec<Snapshot>,
    habit: Habit,
    /// The snapshots that can be a base, oldest first.
    held: Vec<usize>,
    /// The snapshots that zsnap-queue has queued.
    queued_snapshots: BTreeSet<usize>,
    seq: u64,
    prev: Option<u64>,
}

impl Sender {
    /// Creates a sender that has queued nothing yet.
    pub fn new(target: &str, random: &mut Random) -> Sender {
        let habit = [Habit::Oldest, Habit::Bookmark, Habit::Any][random.below(3) as usize];
        Sender {
            target: target.to_owned(),
            snapshots: Vec::new(),
            habit,
            held: Vec::new(),
            queued_snapshots: BTreeSet::new(),
            seq: 1_700_000_000_000_000 + random.below(1_000_000),
            prev: None,
        }
    }

    /// Makes a snapshot and returns its number.
    fn snapshot(&mut self, random: &mut Random) -> usize {
        let number = self.snapshots.len();
        // Sometimes nothing has changed.
        let content = match self.snapshots.last() {
            Some(last) if random.below(10) == 0 => last.content,
            _ => number,
        };
        self.snapshots.push(Snapshot { guid: random.number() | 1, name: format!("s{number}"), content });
        number
    }

    /// Runs a backup. Returns the file if one was queued, even if the run seems to fail at the source.
    pub fn backup(&mut self, random: &mut Random, sealer: &Sealer) -> Option<(File, Vec<u8>)> {
        if random.below(6) == 0 && self.habit != Habit::Bookmark {
            // A snapshot of another tool.
            let other = self.snapshot(random);
            self.held.push(other);
        }
        let new = self.snapshot(random);
        let base = match self.habit {
            Habit::Any if !self.held.is_empty() => Some(self.held[random.below(self.held.len() as u64) as usize]),
            _ => self.held.first().copied(),
        };
        // zsnap-queue rejects a stream whose base it has not queued. Until the operator has destroyed such bases,
        // nothing more is queued.
        if base.is_some_and(|base| !self.queued_snapshots.contains(&base)) {
            self.hold(new);
            if random.below(2) == 0 {
                self.held.retain(|held| self.queued_snapshots.contains(held));
            }
            return None;
        }
        let package = self.habit == Habit::Oldest || self.habit == Habit::Any && random.below(2) == 0;
        let between = self.held.iter().copied().filter(|held| base.is_some_and(|base| *held > base));
        let mut tos: Vec<usize> = if package { between.collect() } else { Vec::new() };
        tos.push(new);
        let (queued, succeeded) = match random.below(10) {
            0 => (false, false),
            // The stream is committed, but zsnap-queue is killed before it exits.
            1 => (true, false),
            _ => (true, true),
        };
        self.hold(new);
        if succeeded && self.habit == Habit::Oldest {
            self.held = vec![new];
        }
        if self.habit == Habit::Any && self.held.len() > 4 {
            self.held.remove(0);
        }
        queued.then(|| self.queue(base, tos, random, sealer))
    }

    /// Makes a snapshot available as a base.
    fn hold(&mut self, new: usize) {
        if self.habit == Habit::Bookmark {
            self.held.clear();
        }
        self.held.push(new);
    }

    fn queue(&mut self, base: Option<usize>, tos: Vec<usize>, random: &mut Random, sealer: &Sealer) -> (File, Vec<u8>) {
        self.queued_snapshots.extend(&tos);
        self.seq += 1 + random.below(1_000_000);
        let fs = self.target.split_once('/').unwrap().1;
        let toname = |number: usize| format!("{fs}@{}", self.snapshots[number].name);
        let mut from = base;
        let mut subs = Vec::new();
        for &to in &tos {
            let changes = from.is_none_or(|from| self.snapshots[from].content != self.snapshots[to].content);
            let guid = self.snapshots[to].guid;
            let data = if changes { Rec::file([&guid.to_le_bytes().repeat(64)[..]]) } else { Vec::new() };
            subs.push(
                Sub::increment(&toname(to), from.map_or(0, |from| self.snapshots[from].guid), guid).records(data),
            );
            from = Some(to);
        }
        let compound = tos.len() > 1 || random.below(2) == 0 && base.is_some();
        let file = File { name: scene::name(&self.target, self.seq), order: self.seq, from: base, tos };
        let sealed = sealer.zfs(&self.target, self.seq, self.prev, subs, compound);
        self.prev = Some(self.seq);
        (file, sealed)
    }
}
