//! The inbox of a host: its queue files, and what is known of each. Only the methods here change that, so that the
//! indices by target always agree with it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::durable::listing::{GONE, Listing};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::{Host, Target};

use crate::known::{Entry, Knowledge, Known};
use crate::plan::{Facts, Head, Pending, Standing};
use crate::seen::Seen;
use crate::shared::Shared;

mod file;
mod removal;
mod stored;

pub use file::{File, Place};
pub use removal::remove;
pub use stored::Stored;

/// The prefix of the keys of files in the incoming directory.
pub const INCOMING: &str = "incoming/";

/// The queue files of one host.
pub struct Inbox {
    host: Host,
    /// The directories that contain its files.
    places: Vec<Place>,
    /// The files, ordered by label and then by number.
    files: Vec<File>,
    /// The files that are known to be for each target, by index, ascending.
    by_target: BTreeMap<Target, Vec<usize>>,
    /// The files whose target is not known because they are new or held, by number and index.
    silent: BTreeSet<(u64, usize)>,
    known: Known,
    /// What is known of files in the incoming directory that is away.
    absent: BTreeMap<String, Entry>,
    is_away: bool,
    beyond: u64,
}

impl Inbox {
    /// Lists the host's files without reading any. `is_away`: an incoming directory is configured but away, so what is
    /// known of its files is kept.
    pub fn open(shared: &Shared<'_>, host: Host, places: Vec<Place>, is_away: bool) -> Result<Inbox> {
        let now = shared.seconds();
        let config = shared.config;
        let known = Known::read(&config.state, shared.pool_guid(), &host, &config.fingerprint, now);
        let (files, by_target, silent, absent) = (Vec::new(), BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut inbox = Inbox { host, places, files, by_target, silent, known, absent, is_away, beyond: 0 };
        for place in 0..inbox.places.len() {
            inbox.list(shared, place)?;
        }
        if is_away {
            inbox.absent = inbox.known.take_all(INCOMING); // what is left: no present file took it
        }
        inbox.files.sort_by_cached_key(|file| (file.queue.label.to_string(), file.queue.clone(), file.stored.key()));
        if inbox.files.iter().any(|file| file.entry.first == now) {
            inbox.known.last_came = now;
        }
        (0..inbox.files.len()).for_each(|at| inbox.index(at));
        Ok(inbox)
    }

    fn list(&mut self, shared: &Shared<'_>, at: usize) -> Result<()> {
        let Some(place) = self.places.get(at) else { return Ok(()) };
        let listing = Listing::of(&place.dir, Listing::MOST).or_exit(Exit::Io, "--incoming")?;
        listing.report_foreign(&self.host, &mut shared.notices());
        let is_writable = place.dir.writable().is_ok();
        let mut all = stored::together(listing.queue);
        if let Err(e) = removal::finish(&place.dir, &listing.gone, &mut all, shared.dry) {
            let what = format!("{}/{GONE}", self.host);
            shared
                .notices()
                .problem(&what, &format!("what was applied cannot be removed: {e}; the next run tries again"));
        }
        for (queue, stored) in all {
            let stats = stored.files().iter().map(|name| place.dir.stat(name)).collect::<Result<Vec<_>, _>>();
            let stats: Vec<_> = stats.or_exit(Exit::Io, "--incoming")?.into_iter().flatten().collect();
            if stats.is_empty() {
                continue;
            }
            // The other parts still need what they build on.
            let is_broken = stats.len() < stored.files().len();
            let (key, seen) = (place.key(&stored), Seen::of_all(stats.iter().map(Seen::of)));
            // The parts of a file may arrive one by one.
            let first = self.known.first(&key).filter(|_| matches!(stored, Stored::Parts(_)));
            let is_of = |entry: &Entry| entry.is_of(&seen, place.is_lasting, || place.ends(&stored));
            let mut entry = self.known.take(&key, seen, shared.seconds(), is_of);
            entry.first = first.unwrap_or(entry.first);
            // What could not be removed can be removed now.
            entry.kept &= !is_writable;
            let mut file = File::new(at, stored, queue, entry);
            if is_broken {
                file.settled = Some(Standing::part_gone());
            }
            self.files.push(file);
        }
        self.beyond += listing.more;
        if listing.more > 0 {
            let text = format!(
                "{}: {} holds more than {} queue files; what is newer waits until those are gone",
                self.host,
                quoted(place.dir.path()),
                Listing::MOST
            );
            shared.notices().problem_in_words(&format!("{}/.", self.host), &text);
        }
        Ok(())
    }

    /// Indexes a file by its target, or as silent if its target is not known.
    fn index(&mut self, at: usize) {
        let silent = (self.files[at].queue.stamp.seq(), at);
        match self.files[at].facts().map(|facts| facts.target.clone()) {
            Some(target) => {
                self.silent.remove(&silent);
                let of = self.by_target.entry(target).or_default();
                if let Err(place) = of.binary_search(&at) {
                    of.insert(place, at);
                }
            }
            // Nothing can wait for a file that is never applied.
            None if matches!(self.files[at].entry.what, Knowledge::Bad(_)) => drop(self.silent.remove(&silent)),
            None => drop(self.silent.insert(silent)),
        }
    }

    /// Returns the name of the host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether no file was listed.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether an incoming directory is configured, but away.
    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// Returns how many queue files exist beyond those that were listed: more than one run processes.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Returns when a new file was last seen, or else when the host was first seen: seconds since 1970.
    pub fn last_came(&self) -> u64 {
        self.known.last_came
    }

    /// Returns what is known of the files in the incoming directory that is away, by key.
    pub fn absent(&self) -> &BTreeMap<String, Entry> {
        &self.absent
    }

    /// Returns the file with this index.
    pub fn file(&self, at: usize) -> &File {
        &self.files[at]
    }

    /// Returns the directory of a file.
    pub fn place(&self, at: usize) -> &Place {
        &self.places[self.files[at].place]
    }

    /// Returns HOST/FILE, for messages.
    pub fn key(&self, at: usize) -> String {
        format!("{}/{}", self.host, self.files[at].shown())
    }

    /// Returns the files that still exist, with their indices.
    pub fn remaining(&self) -> impl Iterator<Item = (usize, &File)> {
        self.files.iter().enumerate().filter(|(_, file)| !file.is_gone)
    }

    /// Returns the indices of all files, grouped by label.
    pub fn labels(&self) -> Vec<Vec<usize>> {
        let mut labels: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, file) in self.files.iter().enumerate() {
            labels.entry(file.queue.label.to_string()).or_default().push(at);
        }
        labels.into_values().collect()
    }

    /// Returns the files that are known to be for a target, except those that are gone.
    pub fn of(&self, target: &Target) -> impl Iterator<Item = usize> + '_ {
        let all = self.by_target.get(target).map_or(&[][..], Vec::as_slice);
        let target = target.clone();
        let is_of = move |file: &File| file.facts().is_some_and(|facts| facts.target == target);
        all.iter().copied().filter(move |&at| !self.files[at].is_gone && is_of(&self.files[at]))
    }

    /// Returns the targets of the files that remain, parents first.
    pub fn targets(&self) -> Vec<Target> {
        self.by_target.keys().filter(|target| self.of(target).next().is_some()).cloned().collect()
    }

    /// Whether a file whose content is not known may be for a target.
    pub fn has_silent(&self, target: &Target) -> bool {
        let fits = |&(_, at): &(u64, usize)| !self.files[at].is_gone && self.files[at].queue.may_be(target);
        self.beyond > 0 || self.silent.iter().any(fits)
    }

    /// Looks for the file that another one builds on among those whose content is not known. It is recognized by name:
    /// the number, and a matching target.
    pub fn silent_base(&self, facts: &Facts) -> Option<usize> {
        let prev = facts.number.as_ref()?.prev?;
        let fits = |file: &File| !file.is_gone && file.queue.may_be(&facts.target);
        self.silent.range((prev, 0)..=(prev, usize::MAX)).map(|(_, at)| *at).find(|&at| fits(&self.files[at]))
    }

    /// Returns what the planner needs to know of these files. `head`: the present state of their dataset.
    pub fn pending(&self, files: &[usize], head: Option<Head>) -> Vec<Pending<'_>> {
        let pending = |&at: &usize| {
            let file = &self.files[at];
            // A rejected file is attempted once in a run, however often the dataset changes meanwhile.
            let refused_at = if file.was_refused { head } else { file.entry.refused_at };
            file.facts().map(|facts| Pending { facts, refused_at })
        };
        files.iter().filter_map(pending).collect()
    }

    /// Notes that a file was opened. If another one has its name by now, what was known of it is forgotten. `ends`: the
    /// digest of its ends, if its file system does not keep inode numbers.
    pub fn opened(&mut self, at: usize, seen: Seen, ends: Option<String>) {
        let file = &mut self.files[at];
        let is_same = file.entry.is_of(&seen, self.places[file.place].is_lasting, || ends.clone());
        if !is_same {
            file.entry = Entry::new(seen, file.entry.first);
        }
        (file.entry.seen, file.entry.ends) = (seen, ends);
        if !is_same {
            self.index(at);
        }
    }

    /// Records the result of examining a file. `again`: when to examine it again although neither it nor the
    /// configuration has changed, in seconds since 1970.
    pub fn learn(&mut self, at: usize, knowledge: Knowledge, again: Option<u64>) {
        let file = &mut self.files[at];
        (file.entry.what, file.entry.again) = (knowledge, again);
        self.index(at);
    }

    /// Gives a file its standing for the rest of the run, whatever the plan says.
    pub fn settle(&mut self, at: usize, standing: Standing) {
        self.files[at].settled = Some(standing);
    }

    /// Records that a program or disk failed while a file was processed, and why.
    pub fn failed(&mut self, at: usize, why: String) {
        let file = &mut self.files[at];
        file.entry.attempts += 1;
        // If it was kept, the pool needs it again.
        (file.entry.failure, file.entry.kept) = (Some(why), false);
        file.settled = file.failure().map(Standing::Failed);
    }

    /// Records that a file was applied, or need not be, and cannot be removed.
    pub fn keep(&mut self, at: usize) {
        let file = &mut self.files[at];
        (file.entry.kept, file.entry.attempts, file.entry.failure) = (true, 0, None);
        file.settled = Some(Standing::Kept);
    }

    /// Returns the directories of the host with files that were applied and cannot be removed.
    pub fn kept(&self) -> impl Iterator<Item = &Incoming> {
        let has_kept = |at: usize| self.remaining().any(|(_, file)| file.place == at && file.entry.kept);
        self.places.iter().enumerate().filter(move |(at, _)| has_kept(*at)).map(|(_, place)| &place.dir)
    }

    /// Records that `zfs receive` rejected a file because the dataset was modified. `head`: the state of the dataset.
    pub fn refused(&mut self, at: usize, head: Option<Head>) {
        let file = &mut self.files[at];
        (file.entry.refused_at, file.entry.kept) = (head, false);
        file.was_refused = true;
    }

    /// Records that a file was applied, removed, or moved to quarantine, or that it no longer exists.
    pub fn gone(&mut self, at: usize) {
        self.files[at].is_gone = true;
    }

    /// Saves what is known of the files that remain.
    pub fn save(&self, shared: &Shared<'_>) -> Result<()> {
        let here = self.remaining().map(|(at, file)| (self.place(at).key(&file.stored), &file.entry));
        let files = here.chain(self.absent.iter().map(|(key, entry)| (key.clone(), entry))).collect();
        self.known.save(&files, &shared.config.state, shared.pool_guid(), &self.host)
    }
}
