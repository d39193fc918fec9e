//! Compares what zsnap-ingest's planner does with 20,000 random histories of backups, run by run, on a pool that
//! follows the rules of ZFS, with a reference that tries every order. Files arrive late, twice, out of order, or never;
//! queue runs fail, or only seem to have failed; runs of zsnap-ingest end at any step; snapshots are pruned on the
//! target, which is rolled back and renamed.
//!
//! The order of a run's steps is that of `zsnap-ingest/src/host.rs` and `apply.rs`; `histories` plays such histories
//! with the program itself.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use zsnap_common::names::target::Target;
use zsnap_common::process::zfs::Snapshot;
use zsnap_common::stream::Guid;
use zsnap_ingest::plan::{self, Facts, Head, Link, Number, Past, Pending, PoolState, Standing};
use zsnap_message::payload::{Base, Epoch};
use zsnap_tests::pool::{Pool, begin};
use zsnap_tests::random::{Random, moments};

const STORE: &str = "backup/hosts";

/// A dataset of a host, and what its zsnap-queue knows.
struct Source {
    target: Target,
    /// The name of the dataset on the pool.
    dataset: String,
    /// The base is a bookmark: incrementals skip the snapshots between.
    bookmarks: bool,
    /// The files have no manifest, as those of the shell scripts.
    no_manifest: bool,
    /// The guids of all snapshots that were ever made, in ascending order.
    taken: Vec<u64>,
    /// The snapshots that simplesnap still keeps.
    kept: Vec<u64>,
    seq: u64,
    acknowledged: Option<u64>,
    /// The next stream must be a full one.
    full: bool,
    /// All queue files that were made and not lost in transit.
    made: Vec<File>,
    /// The snapshots that were received on the target and not rolled back, in order.
    received: Vec<u64>,
    /// Every snapshot that was ever on the target.
    ever: BTreeSet<u64>,
    /// Something happened that the operator of the sender must know: a rollback, a rename, or a lost file.
    disturbed: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct File {
    facts: Facts,
    source: usize,
    refused_at: Option<Head>,
}

struct World {
    random: Random,
    pool: Pool,
    sources: Vec<Source>,
    on_the_way: Vec<File>,
    incoming: Vec<File>,
    quarantine: Vec<File>,
    journals: BTreeMap<usize, Past>,
    /// The content of needed-guids; `None`: a run is in progress or ended too early.
    needed: Option<BTreeSet<u64>>,
    /// The number of steps after which the run ends, unless it reaches its end.
    steps: Option<u64>,
}

/// The error that ends a run after a step.
struct Crash;

fn source(host: &str, dataset: &str, number: usize, random: &mut Random) -> Source {
    Source {
        target: format!("{host}/{dataset}").parse().unwrap(),
        dataset: format!("{STORE}/{host}/{dataset}"),
        bookmarks: random.below(4) == 0,
        no_manifest: random.below(5) == 0,
        taken: vec![],
        kept: vec![],
        seq: number as u64 * 1000,
        acknowledged: None,
        full: true,
        made: vec![],
        received: vec![],
        ever: BTreeSet::new(),
        disturbed: false,
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::seeded(seed);
        let mut pool = Pool::new("backup", 1);
        pool.create(STORE, &[]).unwrap();
        let mut sources = Vec::new();
        for host in ["a", "b", "c"] {
            // The child must wait for its parent.
            for dataset in ["tank", "tank/home", "pool2/etc"] {
                if random.below(2) == 0 {
                    let number = sources.len();
                    sources.push(source(host, dataset, number + 1, &mut random));
                }
            }
        }
        let (journals, needed) = (BTreeMap::new(), None);
        let (on_the_way, incoming, quarantine) = (vec![], vec![], vec![]);
        World { random, pool, sources, on_the_way, incoming, quarantine, journals, needed, steps: None }
    }

    fn play(&mut self) {
        if self.sources.is_empty() {
            return;
        }
        for _ in 0..self.random.below(40) + 5 {
            match self.random.below(20) {
                0..=7 => self.back_up(),
                8..=12 => self.deliver(),
                13..=16 => {
                    let whole = self.chance(2);
                    self.ingest(whole);
                }
                17 => self.expire(),
                18 if self.random.below(4) == 0 => self.disturb(),
                _ => {}
            }
        }
        while !self.on_the_way.is_empty() {
            self.deliver();
        }
        self.ingest(true);
        self.check();
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    /// Runs simplesnap and zsnap-queue over one dataset.
    fn back_up(&mut self) {
        let at = self.random.below(self.sources.len() as u64) as usize;
        let (lost, false_alarm) = (self.chance(6), self.chance(8));
        let source = &mut self.sources[at];
        let guid = at as u64 * 1_000_000 + source.taken.len() as u64 + 1;
        source.taken.push(guid);
        source.kept.push(guid);
        if source.full {
            source.kept = vec![guid];
        }
        let base = if source.full { None } else { source.kept.first().copied() };
        let chain: Vec<u64> = match (base, source.bookmarks) {
            (None, _) => vec![guid],
            (Some(base), true) => vec![base, guid],
            (Some(_), false) => source.kept.clone(),
        };
        let link = |from: Option<u64>, to: u64| Link {
            from: from.map(Guid),
            to: Guid(to),
            snap: format!("s{to}"),
            raw: false,
        };
        let mut links: Vec<Link> = chain.windows(2).map(|pair| link(Some(pair[0]), pair[1])).collect();
        if base.is_none() {
            links = vec![link(None, guid)];
        }
        if lost {
            // The snapshot stays on the source, and the next stream begins where this one did.
            return;
        }
        source.seq += 1;
        let number = Number {
            epoch: Epoch { id: "e".repeat(32), started: 1 },
            seq: source.seq,
            prev: source.acknowledged,
            id: source.seq.to_string(),
            base: if base.is_some() { Base::Prev } else { Base::None },
        };
        source.acknowledged = Some(source.seq);
        let facts = Facts {
            target: source.target.clone(),
            order: source.seq,
            number: (!source.no_manifest).then_some(number),
            links,
        };
        source.full = false;
        if !false_alarm {
            source.kept = vec![guid];
        }
        let file = File { facts, source: at, refused_at: None };
        if self.chance(25) {
            self.sources[at].disturbed = true;
            return;
        }
        self.sources[at].made.push(file.clone());
        self.on_the_way.push(file);
    }

    fn deliver(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let at = self.random.below(self.on_the_way.len() as u64) as usize;
        let file = if self.chance(5) { self.on_the_way[at].clone() } else { self.on_the_way.swap_remove(at) };
        let place = self.random.below(self.incoming.len() as u64 + 1) as usize;
        self.incoming.insert(place, file);
    }

    /// As zsnap-expire: destroys snapshots if needed-guids is complete, but neither the newest nor needed ones.
    fn expire(&mut self) {
        let Some(needed) = self.needed.clone() else { return };
        let at = self.random.below(self.sources.len() as u64) as usize;
        let name = self.sources[at].dataset.clone();
        let Some(snapshots) = self.pool.snapshots(&name).map(<[_]>::to_vec) else { return };
        for snapshot in snapshots.iter().rev().skip(1) {
            if !needed.contains(&snapshot.guid) && self.chance(2) {
                self.pool.destroy_snapshots(&name, &[&snapshot.name]).unwrap();
            }
        }
    }

    /// What an operator may do to a target; the files are sent once more.
    fn disturb(&mut self) {
        let at = self.random.below(self.sources.len() as u64) as usize;
        let name = self.sources[at].dataset.clone();
        let Some(snapshots) = self.pool.snapshots(&name).map(<[_]>::to_vec) else { return };
        let Some(newest) = snapshots.last() else { return };
        let pick = snapshots[self.random.below(snapshots.len() as u64) as usize].clone();
        match self.random.below(4) {
            // As the remedy for a broken chain says; old copies must not bring the old one back.
            3 if !name.ends_with("/tank") && self.needed.is_some() => {
                let other = self.random.number();
                self.pool.rename(&name, &format!("{name}.old{other}")).unwrap();
                let source = &mut self.sources[at];
                (source.disturbed, source.full) = (true, true);
                source.received.clear();
                self.on_the_way.extend(source.made.iter().cloned());
            }
            0 => {
                self.pool.snapshot(&format!("{name}@mine{}", self.random.below(1_000_000)), 1).unwrap();
            }
            1 => {
                self.pool.rollback(&format!("{name}@{}", pick.name), true).unwrap();
                let source = &mut self.sources[at];
                source.disturbed = true;
                if let Some(place) = source.received.iter().position(|&guid| guid == pick.guid) {
                    source.received.truncate(place + 1);
                }
                self.on_the_way.extend(source.made.iter().cloned());
            }
            _ => {
                let other = self.random.number();
                self.pool.rename(&format!("{name}@{}", newest.name), &format!("{name}@renamed{other}")).unwrap();
            }
        }
    }

    /// Runs zsnap-ingest, which may end after any step; the next run continues. Each whole run must do what the
    /// reference says.
    fn ingest(&mut self, whole: bool) {
        let want = self.reference();
        self.steps = if whole { None } else { Some(self.random.below(12)) };
        let begun = self.needed.take();
        let crashed = self.run().is_err();
        assert!(crashed || self.needed.is_some());
        assert!(!crashed || self.needed.is_none() || self.needed == begun, "complete too early");
        self.steps = None;
        for at in 0..self.sources.len() {
            self.note(at);
        }
        if whole {
            for (at, want) in want {
                let here = self.snapshots(at);
                let head = here.last().map(|s| s.guid.0);
                let count = here.len();
                let left: Vec<&File> = self.incoming.iter().filter(|file| file.source == at).collect();
                let past = self.journals.get(&at);
                assert_eq!((head, count), want, "{}: {here:?}, {past:?}, waiting {left:?}", self.sources[at].dataset);
            }
        }
    }

    /// Asserts that snapshots that were received since the last call are newer than all earlier ones.
    fn note(&mut self, at: usize) {
        let here: Vec<u64> = self.snapshots(at).iter().map(|s| s.guid.0).filter(|&guid| guid < 1 << 40).collect();
        assert_eq!(here.iter().collect::<BTreeSet<_>>().len(), here.len(), "there twice");
        assert!(here.is_sorted(), "something older came after something newer: {here:?}");
        let source = &mut self.sources[at];
        let last = source.received.last().copied().unwrap_or(0);
        for guid in here {
            if guid > last {
                source.received.push(guid);
            } else {
                assert!(source.received.contains(&guid), "something older was made again");
            }
            source.ever.insert(guid);
        }
    }

    fn step(&mut self) -> Result<(), Crash> {
        match &mut self.steps {
            Some(0) => Err(Crash),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn run(&mut self) -> Result<(), Crash> {
        self.step()?;
        self.needed = None;
        loop {
            let mut on = false;
            let mut targets: Vec<usize> = self.incoming.iter().map(|file| file.source).collect();
            targets.sort_by_key(|&at| self.sources[at].dataset.clone());
            targets.dedup();
            for target in targets {
                on |= self.target(target)?;
            }
            if !on {
                break;
            }
        }
        self.step()?;
        let bases = self.incoming.iter().flat_map(|file| &file.facts.links).filter_map(|link| link.from);
        // With a rebuilt journal it is unknown which snapshots belong to the chain and which were made by hand.
        let ends = self.journals.values().flat_map(|past| match past.raw {
            None => past.committed.clone(),
            Some(_) => past.committed.last().copied().into_iter().collect(),
        });
        self.needed = Some(bases.chain(ends).map(|guid| guid.0).collect());
        Ok(())
    }

    fn target(&mut self, at: usize) -> Result<bool, Crash> {
        let dataset = self.sources[at].dataset.clone();
        let files: Vec<File> = self.incoming.iter().filter(|file| file.source == at).cloned().collect();
        let snapshots = self.snapshots(at);
        // An absent journal is rebuilt from the pool.
        let rebuilt = Past { committed: snapshots.iter().map(|s| s.guid).collect(), ..Past::default() };
        let mut past = self.journals.get(&at).cloned().unwrap_or(rebuilt);
        let parent = plan::missing_parent(&self.sources[at].target, |parent| {
            // pool2 is in create-parents, tank is sent.
            parent.as_str() == "pool2"
                || self.pool.get(&format!("{STORE}/{}/{parent}", self.sources[at].target.host)).is_some()
        });
        let there = PoolState {
            name: &dataset,
            snapshots: self.pool.get(&dataset).map(|_| snapshots.as_slice()),
            written: self.pool.get(&dataset).map_or(0, |d| d.written()),
            parent: parent.as_ref(),
        };
        let pending: Vec<Pending<'_>> =
            files.iter().map(|file| Pending { facts: &file.facts, refused_at: file.refused_at }).collect();
        let plan = plan::zfs(&there, &pending, &past, false);
        let head = there.head();
        let mut on = false;
        for (file, standing) in files.iter().zip(&plan.standings) {
            match standing {
                Standing::AlreadyThere => {
                    past.learn(&file.facts, &snapshots);
                    past.done(&file.facts);
                    self.step()?;
                    self.journals.insert(at, past.clone());
                }
                Standing::Refused(_) => {
                    self.step()?;
                    self.quarantine.push(file.clone());
                }
                Standing::Stale => panic!("a ZFS stream is never stale"),
                _ => continue,
            }
            self.step()?;
            self.remove(file);
            on = true;
        }
        for at_file in plan.path {
            let Standing::Ready { skip, .. } = plan.standings[at_file] else { panic!("on the path and not ready") };
            let file = &files[at_file];
            on = true;
            let host = format!("{STORE}/{}", self.sources[at].target.host);
            for parent in [host.clone(), format!("{host}/pool2")] {
                if self.pool.get(&parent).is_none() && dataset.starts_with(&format!("{parent}/")) {
                    self.step()?;
                    self.pool.create(&parent, &[]).unwrap();
                }
            }
            let here = self.snapshots(at);
            past.rewind(&here);
            past.learn(&file.facts, &here);
            for link in &file.facts.links[skip..] {
                self.step()?;
                let stream = begin(link.from.map(|guid| guid.0), link.to.0);
                match self.pool.receive(&format!("{dataset}@{}", link.snap), &stream) {
                    Ok(_) => past.commit(link.from, link.to, link.raw),
                    Err(why) => {
                        let newest = head.map(|head| head.newest);
                        assert!(
                            why.contains("has been modified") && link.from != newest,
                            "zfs refuses a Ready file: {why}"
                        );
                        let place = self.incoming.iter().position(|f| f == file).unwrap();
                        self.incoming[place].refused_at = head;
                        return Ok(true);
                    }
                }
            }
            past.done(&file.facts);
            self.step()?;
            self.journals.insert(at, past.clone());
            self.step()?;
            self.remove(file);
        }
        Ok(on)
    }

    fn remove(&mut self, file: &File) {
        let place = self.incoming.iter().position(|f| f == file).unwrap();
        self.incoming.remove(place);
    }

    fn snapshots(&self, at: usize) -> Vec<Snapshot> {
        let all = self.pool.snapshots(&self.sources[at].dataset).unwrap_or_default();
        let snapshot = |s: &zsnap_tests::pool::Snapshot| Snapshot {
            name: s.name.clone(),
            guid: Guid(s.guid),
            createtxg: s.createtxg,
            creation: s.creation,
        };
        all.iter().map(snapshot).collect()
    }

    /// The newest snapshot and the number of snapshots that each dataset must have after a whole run: found by trying
    /// every order and choosing the best one that ends with the file of the highest number.
    fn reference(&self) -> Vec<(usize, (Option<u64>, usize))> {
        let mut heads = BTreeMap::new();
        let mut want = Vec::new();
        for (at, source) in self.sources.iter().enumerate() {
            let here = self.snapshots(at);
            let parent_there = |name: &str| heads.get(name).copied().unwrap_or(self.pool.get(name).is_some());
            let parent = source.dataset.rsplit_once('/').unwrap().0;
            let sent = parent.ends_with("/tank");
            let files: Vec<&File> =
                self.incoming.iter().filter(|f| f.source == at && !self.is_needless(f, &here)).collect();
            let mut start: Vec<Option<u64>> = match self.pool.get(&source.dataset) {
                None => vec![None],
                // Newer snapshots that were made by hand change nothing.
                Some(d) => {
                    let same = d.snapshots.iter().zip(&d.contents).filter(|(_, c)| **c == d.head);
                    same.map(|(s, _)| Some(s.guid)).rev().collect()
                }
            };
            if sent && !parent_there(parent) {
                start.clear();
            }
            let last = here.last().map(|s| s.guid.0);
            let best = start.iter().map(|&from| self.best(from, &files, &here)).find(|best| best.2 > 0);
            let (head, count) = best.map_or((last, 0), |(_, head, count)| (head, count));
            heads.insert(source.dataset.clone(), self.pool.get(&source.dataset).is_some() || count > 0);
            want.push((at, (head, here.len() + count)));
        }
        want
    }

    /// Whether a file is present already, was pruned on purpose, or replays a full stream.
    fn is_needless(&self, file: &File, here: &[Snapshot]) -> bool {
        let source = &self.sources[file.source];
        let to = file.facts.links.last().unwrap().to.0;
        let is_here = |guid: u64| here.iter().any(|s| s.guid.0 == guid);
        let place = source.received.iter().position(|&guid| guid == to);
        let replay = here.is_empty() && file.facts.links[0].from.is_none() && source.ever.contains(&to);
        replay
            || is_here(to)
            || place.is_some_and(|place| source.received[place + 1..].iter().any(|&guid| is_here(guid)))
    }

    /// The highest number of a file, the newest snapshot, and the number of snapshots of the best way from `head`.
    fn best(&self, head: Option<u64>, files: &[&File], here: &[Snapshot]) -> (u64, Option<u64>, usize) {
        let mut best = (0, head, 0);
        for file in files {
            let from = file.facts.links.iter().position(|link| link.from.map(|guid| guid.0) == head);
            let Some(from) = from else { continue };
            let rest = &file.facts.links[from..];
            if rest.iter().any(|link| here.iter().any(|s| s.guid == link.to)) {
                continue;
            }
            let end = Some(rest.last().unwrap().to.0);
            let (order, head, count) = self.best(end, files, here);
            let way = (order.max(file.facts.order), head, count + rest.len());
            if (way.0, way.2) > (best.0, best.2) {
                best = way;
            }
        }
        best
    }

    fn check(&mut self) {
        let before = (self.pool.clone(), self.incoming.clone());
        self.run().unwrap_or_else(|Crash| panic!("no step ends this one"));
        assert_eq!(before, (self.pool.clone(), self.incoming.clone()), "a second run changes something");
        for (at, source) in self.sources.iter().enumerate() {
            let left = || self.incoming.iter().chain(&self.quarantine);
            for file in &source.made {
                let to = file.facts.links.last().unwrap().to.0;
                assert!(left().any(|f| f.facts == file.facts) || source.ever.contains(&to), "lost: {:?}", file.facts);
            }
            if source.disturbed || source.bookmarks {
                continue;
            }
            // Nothing was disturbed, so every snapshot that was ever sent is present, and no file waits.
            let sent: BTreeSet<u64> = source.made.iter().flat_map(|f| &f.facts.links).map(|link| link.to.0).collect();
            let parent = source.dataset.rsplit_once('/').unwrap().0;
            if !parent.ends_with("/tank") || self.pool.get(parent).is_some() {
                assert_eq!(source.ever, sent, "{}", source.dataset);
                assert!(!self.incoming.iter().any(|file| file.source == at), "{} waits for nothing", source.dataset);
            }
        }
    }
}

#[test]
fn every_run_of_a_random_history_does_what_the_reference_says() {
    let seeds = match std::env::var("ZSNAP_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        // 20,000, or a million with `make torture`.
        Err(_) => (0..moments() * 100).collect(),
    };
    for seed in seeds {
        let played = catch_unwind(AssertUnwindSafe(|| World::new(seed).play()));
        if let Err(panic) = played {
            eprintln!("ZSNAP_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
