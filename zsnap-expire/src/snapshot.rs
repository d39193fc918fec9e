//! What is decided about: snapshots of one dataset, or anything else with a name and a time.

use std::cmp::Ordering;

use smallvec::{SmallVec, smallvec};

use crate::policy::Reason;

/// More than this ahead of the clock, a snapshot's time is a mistake: in seconds.
pub const FUTURE: i64 = 24 * 3600;

/// A snapshot. The texts are slices of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// Its whole name, `DATASET@SNAP` for ZFS.
    pub name: &'a str,
    /// When it was made: seconds since 1970, as the machine that made it saw it.
    pub creation: i64,
    /// Transaction group of this pool that made it, which orders those of a dataset whatever the
    /// clocks said. 0 where there is none.
    pub createtxg: u64,
    /// Its identity. 0 where there is none.
    pub guid: u64,
    /// Holds on it (`userrefs`).
    pub holds: u64,
    /// Clones of it, separated by commas; empty: none.
    pub clones: &'a str,
    /// `TAG:sent` of its tag: zrep writes the time into it when the other side has it. `None`: not asked for.
    pub sent: Option<&'a str>,
}

impl Snapshot<'_> {
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
