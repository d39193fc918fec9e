//! The status of a target: what arrived last, what waits, the worst state of its files, and what to do.

use std::time::Duration;

use zsnap_common::cli::report;

use crate::host::HostRun;
use crate::host::judge::Judgement;
use crate::known::{Entry, What};
use crate::plan::Verdict;

/// The state of a target: the worst state of its files. The variants are ordered from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No file waits.
    #[default]
    Ok,
    /// The journal lists it, but its dataset is no longer on the pool.
    Gone,
    /// The next run will process what has arrived.
    New,
    /// Its pool or directory is away.
    Away,
    /// A file waits for what it builds on.
    Waiting,
    /// A file is in quarantine, or the next run will move it there.
    Quarantined,
    /// A file is not proven to come from its host, or nothing is configured to receive it.
    Held,
    /// The dataset was changed on the target, or continued without a file.
    Diverged,
    /// A file contradicts what exists on the target.
    Conflict,
    /// The chain cannot continue: nothing that arrives by itself will help.
    Broken,
    /// A program or a disk failed while a file was processed.
    Failed,
}

impl State {
    /// Returns the state that follows from the judgement of one file.
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
            Judgement::Held(_) | Judgement::Ignored(_) => State::Held,
            Judgement::Later(_) if entry.what != What::New || host.is_away(at) => State::Away,
            Judgement::Later(_) => State::New,
            Judgement::Failed => State::Failed,
        };
        if state == State::New && entry.attempts > 0 { State::Failed } else { state }
    }

    /// Whether somebody must do something.
    pub fn needs_attention(self) -> bool {
        self > State::Waiting
    }

    /// The words for all states, in their order.
    pub const WORDS: [&str; 11] =
        ["ok", "gone", "new", "away", "waiting", "quarantined", "held", "diverged", "conflict", "broken", "failed"];

    /// Returns the state as one word, for reports.
    pub fn word(self) -> &'static str {
        State::WORDS.get(self as usize).copied().unwrap_or_default()
    }
}

/// The status of one target, or of a host that has none.
#[derive(Debug, Default)]
pub struct Chain {
    /// The worst state of its files.
    pub state: State,
    /// What to do; empty: nothing.
    pub remedy: String,
    /// When the newest snapshot or file that was received was made: seconds since 1970.
    pub newest: Option<u64>,
    /// The name of the newest snapshot.
    pub snapshot: Option<String>,
    /// For a host without targets: when a file last arrived, or the host was first seen. Seconds since 1970.
    pub came: Option<u64>,
    /// The number of files that were not applied.
    pub files: u64,
    /// The total size of these files in bytes.
    pub bytes: u64,
    /// When the oldest of these files arrived: seconds since 1970.
    pub oldest: Option<u64>,
    /// The number of files in quarantine.
    pub quarantined: u64,
    /// The highest number of failures of any of the files.
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

    /// Sets the state and remedy if the state is worse; if it is equal, only in place of an empty remedy.
    pub fn is(&mut self, state: State, remedy: impl Into<String>) {
        if state > self.state || state == self.state && self.remedy.is_empty() {
            (self.state, self.remedy) = (state, remedy.into());
        }
    }

    /// Adds a sentence to the remedy.
    pub fn also(&mut self, sentence: &str) {
        let before = if self.remedy.is_empty() { "" } else { "; " };
        self.remedy += &format!("{before}{sentence}");
    }

    /// Returns a sentence for each thing that is late: nothing new was received, or a file has waited, for longer than
    /// `max`. A target without any date is late if no file waits, unless it is away: then nobody knows how new its data
    /// is. `host` is the host that sends it.
    pub fn late(&self, host: &str, max: Duration, now: u64) -> Vec<String> {
        let late = |time: &u64| report::is_late(*time, now, max);
        let still = format!("see whether {host} still sends it");
        let newest = match self.newest.or(self.came) {
            None if self.files == 0 && self.state != State::Away => Some(format!("nothing was ever received; {still}")),
            newest => newest.filter(late).map(|time| format!("nothing new {}; {still}", report::since(time, now))),
        };
        let oldest = self.oldest.filter(late).map(|time| format!("a file has waited {}", report::since(time, now)));
        newest.into_iter().chain(oldest).collect()
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
        assert!(
            [State::Ok, State::Quarantined, State::Failed].iter().all(|s| s.word() == format!("{s:?}").to_lowercase())
        );
        assert_eq!(State::Failed as usize + 1, State::WORDS.len());
    }

    #[test]
    fn late_is_what_did_not_come_and_what_was_not_applied() {
        let late = |row: Chain| !row.late("laptop", Duration::from_secs(100), 1000).is_empty();
        assert!(!late(Chain { newest: Some(900), ..Chain::default() }));
        assert!(late(Chain { newest: Some(899), ..Chain::default() }));
        assert!(late(Chain { newest: Some(999), oldest: Some(899), files: 1, ..Chain::default() }));
        assert!(late(Chain { came: Some(899), ..Chain::default() }));
        // Nothing ever arrived; a file waits, but not for long; the target is away, so nobody can know.
        assert!(late(Chain::default()));
        assert!(!late(Chain { oldest: Some(950), files: 1, ..Chain::default() }));
        assert!(!late(Chain { state: State::Away, ..Chain::default() }));
        // A clock was ahead: nobody can know the age, and without an alarm there would be silence until that time has
        // come.
        let ahead = 1000 + 86_401;
        assert!(late(Chain { newest: Some(ahead), ..Chain::default() }));
        assert!(late(Chain { newest: Some(u64::MAX), ..Chain::default() }));
        assert!(late(Chain { newest: Some(999), oldest: Some(ahead), files: 1, ..Chain::default() }));
        assert!(late(Chain { came: Some(ahead), ..Chain::default() }));
        // Each has its sentence.
        let both = Chain { newest: Some(899), oldest: Some(ahead), files: 1, ..Chain::default() };
        let told = both.late("laptop", Duration::from_secs(100), 1000).join("; ");
        assert!(
            told.starts_with("nothing new since 1970-01-01 00:14:59Z, longer than max-age; see whether laptop"),
            "{told}"
        );
        assert!(
            told.ends_with("; a file has waited since 1970-01-02 00:16:41Z, a future time: set the clock if it is wrong; what comes next has the right time"),
            "{told}"
        );
    }
}
