//! How a target stands: what came last, what waits, the worst state of its files, and what to do.

use std::time::Duration;

use zsnap_common::cli::report;

use crate::host::HostRun;
use crate::host::judge::Judgement;
use crate::known::{Entry, What};
use crate::plan::Verdict;

/// How a target stands: the worst of what is to be said of it, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing waits.
    #[default]
    Ok,
    /// It was received, and is not on the pool any more.
    Gone,
    /// The next run will take what is here.
    New,
    /// Its pool, directory or drive is absent.
    Away,
    /// For what a file builds on.
    Waiting,
    /// A file is in quarantine, or will be.
    Quarantined,
    /// Not proven, or nobody receives it.
    Held,
    /// The dataset was changed here.
    Diverged,
    /// A file contradicts what is here.
    Conflict,
    /// Nothing that comes by itself will help.
    Broken,
    /// A program or a disk failed over it.
    Failed,
}

impl State {
    /// Of a file.
    pub fn of(host: &HostRun<'_>, at: usize, judgement: &Judgement) -> State {
        let entry = &host.files[at].entry;
        let state = match judgement {
            Judgement::Is(verdict) => match verdict {
                Verdict::Waiting { .. } => State::Waiting,
                Verdict::Broken(_) => State::Broken,
                Verdict::Diverged(_) => State::Diverged,
                Verdict::Conflict(_) => State::Conflict,
                Verdict::Refused(_) => State::Quarantined,
                Verdict::Ready { .. } | Verdict::AlreadyThere | Verdict::Stale | Verdict::Superseded => State::New,
            },
            Judgement::Held(_) | Judgement::Alone(_) => State::Held,
            Judgement::Later(_) if entry.what != What::New || host.is_away(at) => State::Away,
            Judgement::Later(_) => State::New,
            Judgement::Failed => State::Failed,
        };
        if state == State::New && entry.attempts > 0 { State::Failed } else { state }
    }

    /// Somebody must do something.
    pub fn needs_attention(self) -> bool {
        self > State::Waiting
    }

    /// One word for reports.
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// One target, or a host of which nothing is here.
#[derive(Debug, Default)]
pub struct Chain {
    /// The worst state of its files.
    pub state: State,
    /// What to do; empty: nothing.
    pub remedy: String,
    /// When the newest that was received was made: seconds since 1970.
    pub newest: Option<u64>,
    /// The name of that snapshot.
    pub snapshot: Option<String>,
    /// Of a host without any: when something came last, or it was seen first.
    pub came: Option<u64>,
    /// Files that were not applied.
    pub files: u64,
    /// Of all of them.
    pub bytes: u64,
    /// When the oldest of them came: seconds since 1970.
    pub oldest: Option<u64>,
    /// Files in quarantine.
    pub quarantined: u64,
    /// How often one of the files failed, at most.
    pub attempts: u32,
}

impl Chain {
    /// Counts a file that was not applied.
    pub fn waits(&mut self, entry: &Entry) {
        self.files += 1;
        self.bytes += entry.seen.size;
        self.oldest = Some(self.oldest.map_or(entry.first, |oldest| oldest.min(entry.first)));
        self.attempts = self.attempts.max(entry.attempts);
    }

    /// The worst counts, and of equals the first that has something to say.
    pub fn is(&mut self, state: State, remedy: impl Into<String>) {
        if state > self.state || state == self.state && self.remedy.is_empty() {
            (self.state, self.remedy) = (state, remedy.into());
        }
    }

    /// Of what is away nobody knows how new it is; of what never came but lies here, how long it does.
    pub fn is_late(&self, max: Duration, now: u64) -> bool {
        let late = |time: u64| report::is_late(time, now, max);
        let newest = self.newest.or(self.came).map_or(self.files == 0 && self.state != State::Away, late);
        newest || self.oldest.is_some_and(late)
    }

    /// The first of its times that lies ahead: seconds since 1970.
    pub fn ahead(&self, now: u64) -> Option<u64> {
        let times = [self.newest, self.came, self.oldest];
        times.into_iter().flatten().find(|&time| report::ago(time, now).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_of_equals_the_first() {
        let mut row = Chain::default();
        row.is(State::Waiting, "");
        row.is(State::Waiting, "for a base");
        row.is(State::Waiting, "for another");
        row.is(State::New, "");
        assert_eq!((row.state, row.remedy.as_str()), (State::Waiting, "for a base"));
        row.is(State::Broken, "gone");
        assert_eq!((row.state, row.remedy.as_str()), (State::Broken, "gone"));
        assert_eq!(State::Quarantined.word(), "quarantined");
    }

    #[test]
    fn late_is_what_did_not_come_and_what_was_not_applied() {
        let late = |row: Chain| row.is_late(Duration::from_secs(100), 1000);
        assert!(!late(Chain { newest: Some(900), ..Chain::default() }));
        assert!(late(Chain { newest: Some(899), ..Chain::default() }));
        assert!(late(Chain { newest: Some(999), oldest: Some(899), files: 1, ..Chain::default() }));
        assert!(late(Chain { came: Some(899), ..Chain::default() }));
        // Never came; lies here for a short time; nobody can know.
        assert!(late(Chain::default()));
        assert!(!late(Chain { oldest: Some(950), files: 1, ..Chain::default() }));
        assert!(!late(Chain { state: State::Away, ..Chain::default() }));
        // A clock was ahead: nobody can know either, and silence would last until that time has come.
        let ahead = 1000 + 86_401;
        assert!(late(Chain { newest: Some(ahead), ..Chain::default() }));
        assert!(late(Chain { newest: Some(u64::MAX), ..Chain::default() }));
        assert!(late(Chain { newest: Some(999), oldest: Some(ahead), files: 1, ..Chain::default() }));
        assert!(late(Chain { came: Some(ahead), ..Chain::default() }));
        assert_eq!(Chain { newest: Some(999), came: Some(ahead), ..Chain::default() }.ahead(1000), Some(ahead));
    }
}
