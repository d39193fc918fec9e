//! Plans ZFS streams: finds the best path through the pending files, from the newest snapshot on the target.

use std::collections::hash_map::Entry::Vacant;
use std::collections::{HashMap, HashSet};

use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;
use zsnap_common::stream::Guid;

use super::{Link, Past, Pending, Plan, PoolState, Standing, if_lost, numbered};

/// Decides about the files of one dataset. `unread`: more files may be for this dataset, but were not read yet.
///
/// Of all paths that start at the newest snapshot on the target, it chooses the one that leads to the file with the
/// highest number, and among these the one with the most snapshots: a snapshot that is passed over can never be
/// received later, and a dead end would leave the rest of the chain without its base.
pub fn zfs(there: &PoolState<'_>, files: &[Pending<'_>], past: &Past, unread: bool) -> Plan {
    let world = World::new(there, files, past);
    let path = world.path();
    let mut after = world.here.clone();
    let mut raw = past.raw;
    for &(file, skip) in &path {
        after.extend(world.links(file).iter().map(|link| link.to));
        raw = world.links(file).get(skip).map_or(raw, |link| Some(link.raw));
    }
    let world = After { world, after, raw, unread, taken: !path.is_empty() };
    let mut standings: Vec<Standing> = (0..files.len()).map(|file| world.standing(file)).collect();
    for &(file, skip) in &path {
        let again = world.world.links(file).iter().skip(skip).any(|link| world.world.committed.contains_key(&link.to));
        standings[file] = Standing::Ready { skip, again };
    }
    let mut path: Vec<usize> = path.into_iter().map(|(file, _)| file).collect();
    if let (Some(parent), Some(&first)) = (there.parent, path.first()) {
        let host = &files[first].facts.target.host;
        for &file in &path {
            standings[file] = Standing::Waiting {
                why: format!(
                    "for its parent {host}/{parent}; if {host} never sends that, add it to create-parents in {}",
                    host.table()
                ),
                behind: (file != first).then_some(first),
            };
        }
        path.clear();
    }
    Plan { standings, path }
}

/// A position in a chain: the newest snapshot (`None`: the dataset is absent), and whether it was received raw
/// (`None`: unknown). Raw and non-raw streams cannot follow each other.
type At = (Option<Guid>, Option<bool>);

/// A step of a path: the file, and how many of its substreams to skip.
type Step = (usize, usize);

/// The value of a path. The greater one is better; fields compare in this order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// The highest number of a file on the path.
    order: u64,
    /// How many snapshots the path brings.
    snapshots: usize,
    /// How many snapshots the first step of the path brings.
    gain: usize,
}

struct World<'a> {
    there: &'a PoolState<'a>,
    files: &'a [Pending<'a>],
    past: &'a Past,
    /// The snapshots of the dataset.
    here: HashSet<Guid>,
    /// The snapshots of the dataset, by name.
    names: HashMap<&'a str, Guid>,
    /// The position of each snapshot in the journal.
    committed: HashMap<Guid, usize>,
    /// The position in the journal of the newest snapshot that still exists.
    left: Option<usize>,
    /// The steps that build on each snapshot; `None`: full streams.
    on: HashMap<Option<Guid>, Vec<Step>>,
    /// The file that brings each snapshot.
    by: HashMap<Guid, usize>,
}

impl<'a> World<'a> {
    fn new(there: &'a PoolState<'a>, files: &'a [Pending<'a>], past: &'a Past) -> World<'a> {
        let here: HashSet<Guid> = there.snapshots.iter().copied().flatten().map(|s| s.guid).collect();
        let committed: HashMap<Guid, usize> = past.committed.iter().enumerate().map(|(at, &guid)| (guid, at)).collect();
        let names = there.snapshots.iter().copied().flatten().map(|s| (s.name.as_str(), s.guid)).collect();
        let left = past.committed.iter().rposition(|guid| here.contains(guid));
        let mut world =
            World { there, files, past, here, names, committed, left, on: HashMap::new(), by: HashMap::new() };
        for (file, pending) in files.iter().enumerate() {
            if world.is_there(file) {
                continue;
            }
            // Only `zfs receive` can find out whether the dataset was modified. Once it has rejected a file, it is not
            // called again for it before something else has changed.
            let refused = pending.refused_at.is_some() && pending.refused_at == there.head();
            for (at, link) in world.links(file).iter().enumerate() {
                world.by.entry(link.to).or_insert(file);
                if !refused {
                    world.on.entry(link.from).or_default().push((file, at));
                }
            }
        }
        world
    }

    fn links(&self, file: usize) -> &'a [Link] {
        self.files.get(file).map_or(&[], |file| &file.facts.links)
    }

    fn last(&self, file: usize) -> Option<Guid> {
        self.links(file).last().map(|link| link.to)
    }

    /// Whether the last snapshot of a file exists, or was received into this dataset and pruned: a later one exists.
    fn is_there(&self, file: usize) -> bool {
        self.last(file).is_some_and(|to| {
            self.here.contains(&to)
                || self
                    .committed
                    .get(&to)
                    .is_some_and(|&at| self.left.is_some_and(|left| left > at && !self.is_gone(at, left)))
        })
    }

    /// Whether the snapshot at position `at` of the journal was received into an earlier dataset of this name, which
    /// no longer exists.
    fn is_gone(&self, at: usize, left: usize) -> bool {
        let begun = self.past.begun.and_then(|guid| self.committed.get(&guid));
        begun.is_some_and(|&begun| at < begun && begun <= left)
    }

    /// Whether a full stream for an absent dataset was received before and is not newer than what was received since:
    /// it would bring back an old state.
    fn is_replay(&self, file: usize) -> bool {
        let known = self.last(file).is_some_and(|to| self.committed.contains_key(&to));
        let seq = self.files.get(file).and_then(|f| f.facts.number.as_ref()).map(|n| n.seq);
        known && !matches!((seq, self.past.last_seq), (Some(seq), Some(last)) if seq > last)
    }

    /// Returns a link whose snapshot has the name of another snapshot on the target.
    fn name_taken<'l>(&self, links: &'l [Link]) -> Option<&'l Link> {
        links.iter().find(|link| self.names.get(link.snap.as_str()).is_some_and(|&guid| guid != link.to))
    }

    /// Returns the position that a step leads to from `at`, if the step is possible.
    fn end(&self, at: At, (file, skip): Step) -> Option<At> {
        let rest = self.links(file).get(skip..)?;
        let first = rest.first()?;
        let mixed = first.from.is_some() && at.1.is_some_and(|raw| raw != first.raw);
        let comes_back = rest.iter().any(|link| self.here.contains(&link.to));
        if mixed || comes_back || self.name_taken(rest).is_some() || (first.from.is_none() && self.is_replay(file)) {
            return None;
        }
        rest.last().map(|last| (Some(last.to), Some(last.raw)))
    }

    /// Returns the steps to apply, in order.
    fn path(&self) -> Vec<Step> {
        let Some(snapshots) = self.there.snapshots else { return self.way_from((None, None)) };
        let mut path = Vec::new();
        for (back, snapshot) in snapshots.iter().rev().enumerate() {
            path = self.way_from((Some(snapshot.guid), self.past.raw));
            if back > 0 {
                // This is not the newest snapshot. `zfs receive` accepts the stream only if nothing was written since,
                // for example if the newest snapshot was made by hand on the target. Only `zfs receive` can find out,
                // so one step at a time.
                path.truncate(1);
            }
            if !path.is_empty() {
                break;
            }
        }
        path
    }

    fn way_from(&self, mut at: At) -> Vec<Step> {
        let ways = self.ways(at);
        let mut path = Vec::new();
        while let Some(&Some((_, Some(step)))) = ways.get(&at) {
            let Some(end) = self.end(at, step) else { break };
            path.push(step);
            at = end;
        }
        path
    }

    /// Finds the best path from `start` and from every position that can be reached from it. The search is depth-first
    /// without recursion, because a chain can have 100,000 files. A position whose search has not finished is `None`:
    /// a path back to it would be a cycle, which no honest sender makes.
    fn ways(&self, start: At) -> HashMap<At, Option<(Way, Option<Step>)>> {
        let mut ways: HashMap<At, Option<(Way, Option<Step>)>> = HashMap::new();
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            let steps = self.on.get(&at.0).map_or(&[][..], Vec::as_slice);
            if let Vacant(new) = ways.entry(at) {
                new.insert(None);
                let ends = steps.iter().filter_map(|&step| self.end(at, step));
                stack.extend(ends.filter(|end| !ways.contains_key(end)));
                continue;
            }
            stack.pop();
            if ways.get(&at) != Some(&None) {
                continue;
            }
            let mut best = (Way::default(), None);
            for &step in steps {
                let Some(Some((rest, _))) = self.end(at, step).and_then(|end| ways.get(&end)) else { continue };
                let (file, skip) = step;
                let order = self.files.get(file).map_or(0, |file| file.facts.order);
                let gain = self.links(file).len() - skip;
                let way = Way { order: rest.order.max(order), snapshots: rest.snapshots + gain, gain };
                if best.1.is_none() || way > best.0 {
                    best = (way, Some(step));
                }
            }
            ways.insert(at, Some(best));
        }
        ways
    }
}

/// The state of the dataset after all Ready files are applied.
struct After<'a> {
    world: World<'a>,
    after: HashSet<Guid>,
    raw: Option<bool>,
    unread: bool,
    /// Whether any file is applied.
    taken: bool,
}

impl After<'_> {
    /// Decides about a file that is not on the path.
    fn standing(&self, file: usize) -> Standing {
        let world = &self.world;
        if world.is_there(file) {
            return Standing::AlreadyThere;
        }
        if world.last(file).is_some_and(|to| self.after.contains(&to)) {
            return Standing::Superseded;
        }
        let links = world.links(file);
        let skip = links.iter().rposition(|link| self.after.contains(&link.to)).map_or(0, |j| j + 1);
        let (name, target) = (world.there.name, &world.files[file].facts.target);
        let is_incremental = links.get(skip).is_some_and(|link| link.from.is_some());
        let taken = world.name_taken(links.get(skip..).unwrap_or_default()).filter(|_| is_incremental);
        if let Some(Link { snap, to, .. }) = taken {
            return Standing::Conflict(format!(
                "{name}@{snap} is another snapshot than its {to}; to make room: zfs rename {} {}",
                quoted(&format!("{name}@{snap}")),
                quoted(&format!("{name}@{snap}.old"))
            ));
        }
        match links.get(skip) {
            None => Standing::AlreadyThere,
            Some(Link { from: None, to, .. }) => match world.there.snapshots {
                None if world.is_replay(file) => Standing::Refused(format!(
                    "a replay: snapshot {to} was received before, and its dataset is gone since; to take it all the \
                     same: zsnap-ingest forget {}; zsnap-ingest retry {}",
                    quoted(&target.to_string()),
                    quoted(target.host.as_str())
                )),
                Some([]) => Standing::Waiting {
                    why: format!(
                        "for {name}, which is there without a snapshot: a receive that still goes on, or something made \
                         by hand; if it stays so: {}",
                        aside(name)
                    ),
                    behind: None,
                },
                _ => Standing::Conflict(format!(
                    "a full stream for {name}, which has other snapshots; to take it: {}, and the next run receives it",
                    aside(name)
                )),
            },
            Some(link @ Link { from: Some(from), .. }) if self.after.contains(from) => self.aside(link, *from),
            Some(Link { from: Some(from), .. }) => self.without_base(file, *from),
        }
    }

    /// Decides about a file whose base exists but which cannot be applied.
    fn aside(&self, link: &Link, from: Guid) -> Standing {
        let name = self.world.there.name;
        if self.raw.is_some_and(|raw| raw != link.raw) {
            let (this, that) = if link.raw { ("raw", "plain") } else { ("plain", "raw") };
            return Standing::Broken(format!(
                "a {this} stream on {name}, which was received {that}; send it always raw or never: {}, and queue a full \
                 stream",
                aside(name)
            ));
        }
        let snapshots = self.world.there.snapshots.unwrap_or_default();
        let at = snapshots.iter().position(|s| s.guid == from);
        let base = at.and_then(|at| snapshots.get(at)).map_or_else(|| from.to_string(), |s| s.name.clone());
        let behind = at.map_or(&[][..], |at| &snapshots[at + 1..]);
        // What follows the base was received, or is about to be: a rollback would lose a newer backup.
        if self.taken || behind.iter().any(|s| self.world.committed.contains_key(&s.guid)) {
            return Standing::Diverged(format!(
                "{name} went on from its base @{base} without it; if what is sent now builds on it: {}, and queue a full \
                 stream",
                aside(name)
            ));
        }
        Standing::Diverged(match behind.first() {
            None => {
                let rollback = quoted(&format!("{name}@{base}"));
                format!("{name} was changed since its base @{base}; to undo that: zfs rollback {rollback}")
            }
            Some(first) => format!(
                "{name} was changed since its base @{base}, and has @{} behind that; to keep both: {}, and queue a full \
                 stream",
                first.name,
                aside(name)
            ),
        })
    }

    /// Decides about a file whose base does not exist.
    fn without_base(&self, file: usize, from: Guid) -> Standing {
        let world = &self.world;
        let name = world.there.name;
        if let Some(&behind) = world.by.get(&from).filter(|&&other| other != file) {
            return Standing::Waiting { why: format!("for its base {from}"), behind: Some(behind) };
        }
        let waiting = |why| Standing::Waiting { why, behind: None };
        if self.unread {
            return waiting(format!("for its base {from}, which a file that was not read yet may bring"));
        }
        if world.committed.contains_key(&from) {
            return Standing::Broken(format!(
                "its base {from} was received into {name} and is gone; queue a stream from a snapshot that is still \
                 there, or a full one"
            ));
        }
        let facts = world.files[file].facts;
        match (facts.number.as_ref().and_then(|n| n.prev), world.past.last_seq) {
            (Some(prev), Some(last)) if prev <= last => Standing::Broken(format!(
                "its base {from} never came to {name}, and {}, the one before it, is there: nothing more will come; queue a \
                 full stream, or remove the file if the chain went on without it",
                numbered(prev, &facts.target)
            )),
            (Some(prev), _) => waiting(format!(
                "for its base {from}: {} has not come; {}",
                numbered(prev, &facts.target),
                if_lost(&facts.target, &self.send_anew(&facts.target))
            )),
            (None, _) => waiting(format!("for its base {from}, which is not on {name} yet")),
        }
    }

    /// Returns the commands with which the sender continues the chain if a file is lost. They do not name the newest
    /// snapshot, because the message would change, and be reported again, with each new snapshot.
    fn send_anew(&self, target: &Target) -> String {
        let (snapshot, to) = (quoted(&format!("{}@NEW", target.dataset)), quoted(&target.to_string()));
        match self.world.there.snapshots {
            Some([_, ..]) => format!(
                "zfs send -i @HERE {snapshot} | zsnap-queue {to}, where @HERE is the newest snapshot of it here, which \
                 zsnap-ingest status names"
            ),
            _ => format!("zfs send {snapshot} | zsnap-queue {to}"),
        }
    }
}

/// Returns the command that makes room for a full stream without destroying anything.
fn aside(name: &str) -> String {
    format!("zfs rename {} {}", quoted(name), quoted(&format!("{name}.old")))
}

#[cfg(test)]
mod tests;
