//! The status of a target: what arrived last, what waits, the worst state of its files, and what to do.

use std::time::Duration;

use zsnap_common::cli::report;

use crate::known::Entry;
use crate::plan::State;

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

    /// Whether nothing new was received, or a file has waited, for longer than `max`. A target without any date is
    /// late if no file waits, unless it is away: then nobody knows how new its data is.
    pub fn is_late(&self, max: Duration, now: u64) -> bool {
        let late = |time: u64| report::is_late(time, now, max);
        let newest = self.newest.or(self.came).map_or(self.files == 0 && self.state != State::Away, late);
        newest || self.oldest.is_some_and(late)
    }

    /// Returns the first of its times (seconds since 1970) that lies ahead.
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
        assert_eq!(Chain { newest: Some(999), came: Some(ahead), ..Chain::default() }.ahead(1000), Some(ahead));
    }
}
