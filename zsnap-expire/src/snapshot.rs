//! What is decided about: snapshots of one dataset, or anything else with a name and a time.

use std::cmp::Ordering;

use smallvec::{SmallVec, smallvec};

use crate::reason::Reason;

/// More than this ahead of the clock, a snapshot's time is a mistake: in seconds.
pub const FUTURE: i64 = 24 * 3600;

/// What zrep says of a snapshot, by its property `TAG:sent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sent {
    /// It was not asked for: zrep has nothing to do with this snapshot.
    #[default]
    Unasked,
    /// The property is not set: zrep has not sent it.
    No,
    /// A time in seconds, which zrep sets when the other side has the snapshot.
    Time,
    /// Anything else.
    Other,
}

impl Sent {
    /// From the value that `zfs` prints, which is `-` where the property is not set.
    pub fn of(value: &str) -> Sent {
        match value {
            "-" => Sent::No,
            value if value.parse::<i64>().is_ok() => Sent::Time,
            _ => Sent::Other,
        }
    }
}

/// A snapshot. The texts are slices of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// Its whole name, `DATASET@SNAP` for ZFS.
    pub name: &'a str,
    /// When it was made: seconds since 1970, as the machine that made it saw it.
    pub creation: i64,
    /// The latest date of those that the pool made before it ([`crate::backdated`]); `i64::MIN`: none is known.
    pub floor: i64,
    /// Transaction group of this pool that made it, which orders those of a dataset whatever the
    /// clocks said. 0 where there is none.
    pub createtxg: u64,
    /// Its identity. 0 where there is none.
    pub guid: u64,
    /// Holds on it (`userrefs`).
    pub holds: u64,
    /// Clones of it, separated by commas; empty: none.
    pub clones: &'a str,
    /// `TAG:sent` of its tag.
    pub sent: Sent,
}

impl Default for Snapshot<'_> {
    fn default() -> Self {
        let (name, clones, sent) = ("", "", Sent::Unasked);
        Snapshot { name, creation: 0, floor: i64::MIN, createtxg: 0, guid: 0, holds: 0, clones, sent }
    }
}

impl Snapshot<'_> {
    /// It bears an earlier date than one that the pool made before it.
    pub fn is_back_dated(&self) -> bool {
        self.creation < self.floor
    }

    /// It is back-dated by more than a clock that is corrected explains.
    pub fn is_long_back_dated(&self) -> bool {
        self.creation < self.floor.saturating_sub(FUTURE)
    }

    /// When it counts as made, in seconds since 1970: at its date, or at the latest date of those before it.
    pub fn counts_as(&self) -> i64 {
        self.creation.max(self.floor)
    }

    /// Its time is more than a day ahead of `now` (seconds since 1970), so it tells nothing.
    pub fn is_future(&self, now: i64) -> bool {
        self.creation > now.saturating_add(FUTURE)
    }

    /// Oldest first, by the order in which the pool made them.
    pub fn by_making(&self, other: &Self) -> Ordering {
        (self.createtxg, self.creation, self.name).cmp(&(other.createtxg, other.creation, other.name))
    }

    /// Oldest first, by the time that they bear.
    pub fn by_time(&self, other: &Self) -> Ordering {
        (self.creation, self.createtxg, self.name).cmp(&(other.creation, other.createtxg, other.name))
    }
}

/// `DATASET@TAG_` and six hex digits, and anything behind them, such as `_unsent`.
pub fn is_tagged(name: &str, tag: &str) -> bool {
    let snap = name.rsplit_once('@').map(|(_, snap)| snap);
    let digits = snap.and_then(|snap| snap.strip_prefix(tag)).and_then(|rest| rest.strip_prefix('_'));
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    digits.is_some_and(|rest| rest.len() >= 6 && rest.as_bytes()[..6].iter().all(hex))
}

/// Mostly one: then it costs no allocation, which would be most of the time of a million decisions.
pub type Reasons = SmallVec<[Reason; 1]>;

/// What becomes of a snapshot, and why. All the reasons to keep it, or those to destroy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It stays.
    pub keep: bool,
    /// At least one.
    pub reasons: Reasons,
}

impl Verdict {
    /// To be given a reason; until then it stays.
    pub(crate) fn undecided() -> Verdict {
        Verdict { keep: true, reasons: Reasons::new() }
    }

    /// It goes, for one reason.
    pub fn destroy(reason: Reason) -> Verdict {
        Verdict { keep: false, reasons: smallvec![reason] }
    }

    /// It stays, for one reason.
    pub fn keep(reason: Reason) -> Verdict {
        Verdict { keep: true, reasons: smallvec![reason] }
    }

    /// It stays for this reason as well, whatever was decided before.
    pub fn also(&mut self, reason: Reason) {
        if !self.keep {
            self.keep = true;
            self.reasons.clear();
        }
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}
