//! Snapshots and verdicts. A snapshot may also be anything else with a name and a time (`--filter`).

use std::cmp::Ordering;

use crate::reason::{Reason, Reasons};

/// How far ahead of the clock the date of a snapshot may be, in seconds. Beyond that, it is a mistake.
pub const FUTURE: i64 = 24 * 3600;

/// Whether zrep has sent a snapshot, by its property `TAG:sent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sent {
    /// The property does not count, because zrep does not use this snapshot.
    #[default]
    Unasked,
    /// The property is not set: zrep has not sent it.
    No,
    /// The property is a time in seconds, which zrep sets when the other side has the snapshot.
    Time,
    /// The property is anything else.
    Other,
}

impl Sent {
    /// Parses the value that `zfs` prints, which is `-` if the property is not set.
    pub fn of(value: &str) -> Sent {
        match value {
            "-" => Sent::No,
            value if value.parse::<i64>().is_ok() => Sent::Time,
            _ => Sent::Other,
        }
    }
}

/// A snapshot. Its strings are slices of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// The full name, `DATASET@SNAP` for ZFS.
    pub name: &'a str,
    /// The creation time in seconds since 1970, by the clock of the machine that created it.
    pub creation: i64,
    /// The latest date of those that the pool made before it ([`crate::backdated`]); `i64::MIN` if none is known.
    pub floor: i64,
    /// The transaction group in which this pool made it. It orders the snapshots of a dataset independently
    /// of clocks. 0 if there is none.
    pub createtxg: u64,
    /// The guid; 0 if there is none.
    pub guid: u64,
    /// The number of holds (`userrefs`).
    pub holds: u64,
    /// The names of its clones, separated by commas; empty if there are none.
    pub clones: &'a str,
    /// Whether zrep has sent it, by the property `TAG:sent` for the tag in its name.
    pub sent: Sent,
}

impl Default for Snapshot<'_> {
    fn default() -> Self {
        let (name, clones, sent) = ("", "", Sent::Unasked);
        Snapshot { name, creation: 0, floor: i64::MIN, createtxg: 0, guid: 0, holds: 0, clones, sent }
    }
}

impl Snapshot<'_> {
    /// Returns whether its date is earlier than that of a snapshot that the pool made before it.
    pub fn is_back_dated(&self) -> bool {
        self.creation < self.floor
    }

    /// Returns whether it is back-dated by more than a day, which a corrected clock does not explain.
    pub fn is_long_back_dated(&self) -> bool {
        self.creation < self.floor.saturating_sub(FUTURE)
    }

    /// Returns the time by which it counts, in seconds since 1970: its date or, if that is later, the latest date of
    /// those that the pool made before it.
    pub fn counts_as(&self) -> i64 {
        self.creation.max(self.floor)
    }

    /// Returns whether its date is more than a day ahead of `now` (seconds since 1970), so that it means nothing.
    pub fn is_future(&self, now: i64) -> bool {
        self.creation > now.saturating_add(FUTURE)
    }

    /// Compares by the order in which the pool made them, oldest first.
    pub fn by_txg(&self, other: &Self) -> Ordering {
        (self.createtxg, self.creation, self.name).cmp(&(other.createtxg, other.creation, other.name))
    }

    /// Compares by date, oldest first.
    pub fn by_time(&self, other: &Self) -> Ordering {
        (self.creation, self.createtxg, self.name).cmp(&(other.creation, other.createtxg, other.name))
    }
}

/// Returns whether a name is `DATASET@TAG_`, six hex digits, and anything after them, such as `_unsent`.
pub fn is_tagged(name: &str, tag: &str) -> bool {
    let snap = name.rsplit_once('@').map(|(_, snap)| snap);
    let digits = snap.and_then(|snap| snap.strip_prefix(tag)).and_then(|rest| rest.strip_prefix('_'));
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    digits.is_some_and(|rest| rest.len() >= 6 && rest.as_bytes()[..6].iter().all(hex))
}

/// Whether a snapshot stays, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it stays.
    pub keep: bool,
    /// All reasons to keep it, or if it goes, those to destroy it: at least one.
    pub reasons: Reasons,
}

impl Verdict {
    /// Creates a verdict to destroy a snapshot, for one reason.
    pub fn destroy(reason: Reason) -> Verdict {
        Verdict { keep: false, reasons: Reasons::One([reason]) }
    }

    /// Creates a verdict to keep a snapshot, for one reason.
    pub fn keep(reason: Reason) -> Verdict {
        Verdict { keep: true, reasons: Reasons::One([reason]) }
    }

    /// Adds a reason to keep the snapshot. If it was to be destroyed, this overrides it.
    pub fn also(&mut self, reason: Reason) {
        if !self.keep {
            *self = Verdict::keep(reason);
        } else if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}
