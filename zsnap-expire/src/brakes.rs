//! Safety limits: a decision that looks like a mistake, such as a wrong clock or a mistyped policy, is
//! not carried out at all.

use std::fmt;

use crate::calendar::Clock;
use crate::snapshot::{Snapshot, Verdict};

/// How many snapshots of a dataset may be destroyed at once (`--max-destroy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxDestroy {
    /// This number of snapshots.
    Count(u64),
    /// This percentage, for a dataset with more than [`SMALL`] snapshots.
    Percent(u64),
    /// Any number.
    NoLimit,
}

/// Up to this number of snapshots, a percentage is not a meaningful limit and is not applied.
pub const SMALL: u64 = 20;

impl std::str::FromStr for MaxDestroy {
    type Err = String;
    fn from_str(text: &str) -> Result<MaxDestroy, String> {
        let wrong = || format!("\"{text}\" is neither a number, nor a share such as 50%, nor none");
        match (text, text.strip_suffix('%')) {
            ("none", _) => Ok(MaxDestroy::NoLimit),
            (_, Some(share)) => {
                let share = share.parse().ok().filter(|share| *share <= 100);
                share.map(MaxDestroy::Percent).ok_or_else(wrong)
            }
            (_, None) => text.parse().map(MaxDestroy::Count).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for MaxDestroy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxDestroy::Count(count) => write!(f, "at most {count} go at once"),
            MaxDestroy::Percent(share) => write!(f, "at most {share}% go at once"),
            MaxDestroy::NoLimit => f.write_str("any number goes at once"),
        }
    }
}

/// Why nothing of a dataset is destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Braked {
    /// All of its newest snapshots, of this number, are dated in the future.
    Future(u64),
    /// The first number of snapshots, out of the second, would be destroyed, which exceeds the limit. Back-dated
    /// ones do not count for a percentage.
    TooMany(u64, u64),
    /// All snapshots would be destroyed.
    All,
}

impl Braked {
    /// Returns whether `--force` may override it.
    pub fn can_be_forced(&self) -> bool {
        matches!(self, Braked::TooMany(..))
    }

    /// Returns the message with what to do. `look` is the option that shows the reasons.
    pub fn with_remedy(&self, look: &str) -> String {
        match self {
            Braked::TooMany(..) => format!("{self}: look with {look}, then run once with --force"),
            Braked::Future(_) => format!("{self}: set this machine's clock"),
            Braked::All => format!("{self}: correct the policy"),
        }
    }
}

impl fmt::Display for Braked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Braked::Future(n) => {
                write!(f, "its newest {n} are dated in the future")
            }
            Braked::TooMany(n, all) => write!(f, "{n} of {all} would be destroyed, more than --max-destroy allows"),
            Braked::All => f.write_str("all would be destroyed"),
        }
    }
}

/// Checks whether a decision may be carried out. `newest` is as in [`crate::protect::Guards`].
pub fn brakes(
    verdicts: &[Verdict],
    snapshots: &[Snapshot<'_>],
    newest: u64,
    most: MaxDestroy,
    clock: &Clock,
) -> Result<(), Braked> {
    let doomed = verdicts.iter().filter(|verdict| !verdict.keep).count();
    if doomed == 0 {
        return Ok(());
    }
    if doomed == snapshots.len() {
        return Err(Braked::All);
    }
    if let Some(n) = newest_in_future(snapshots, newest, clock) {
        return Err(Braked::Future(n));
    }
    // Back-dated snapshots do not count: otherwise a large number of them could hide how many of the others
    // go, and a clock that was corrected could exceed the limit.
    let truthful = verdicts.iter().zip(snapshots).filter(|(_, snapshot)| !snapshot.is_back_dated());
    let (mut all, mut of_these) = (0_u64, 0_u64);
    truthful.for_each(|(verdict, _)| {
        all += 1;
        of_these += u64::from(!verdict.keep);
    });
    let too_many = match most {
        MaxDestroy::Count(count) => (doomed as u64 > count).then_some((doomed as u64, snapshots.len() as u64)),
        MaxDestroy::Percent(share) => (all > SMALL && of_these * 100 > all * share).then_some((of_these, all)),
        MaxDestroy::NoLimit => None,
    };
    too_many.map_or(Ok(()), |(n, all)| Err(Braked::TooMany(n, all)))
}

/// Returns the number of the newest snapshots (`newest`, or all if there are fewer) if all of these are dated in
/// the future.
pub fn newest_in_future(snapshots: &[Snapshot<'_>], newest: u64, clock: &Clock) -> Option<u64> {
    if !snapshots.iter().any(|snapshot| snapshot.is_future(clock.now)) {
        return None;
    }
    let mut order: Vec<&Snapshot<'_>> = snapshots.iter().collect();
    order.sort_unstable_by(|a, b| b.by_txg(a));
    order.truncate(usize::try_from(newest.max(1)).unwrap_or(usize::MAX));
    let all = !order.is_empty() && order.iter().all(|snapshot| snapshot.is_future(clock.now));
    all.then_some(order.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;
    use jiff::tz::TimeZone;

    /// Decides on `all` snapshots, of which the oldest `doomed` would be destroyed and the newest `future` are dated in
    /// 2100.
    fn braked(all: usize, doomed: usize, future: usize, most: &str) -> Option<Braked> {
        let clock = Clock { now: 1_700_000_000, zone: TimeZone::UTC };
        let creation = |i| if i + future >= all { 4_102_444_800 } else { i as i64 };
        let snapshots: Vec<_> =
            (0..all).map(|i| Snapshot { createtxg: i as u64, creation: creation(i), ..Snapshot::default() }).collect();
        let verdict = |i| if i < doomed { Verdict::destroy(Reason::NoRule) } else { Verdict::keep(Reason::Newest) };
        let verdicts: Vec<_> = (0..all).map(verdict).collect();
        brakes(&verdicts, &snapshots, 2, most.parse().unwrap(), &clock).err()
    }

    #[test]
    fn a_decision_beyond_a_safety_limit_is_stopped() {
        for (all, doomed, future, most, why) in [
            (100, 50, 0, "50%", None),
            (100, 51, 0, "50%", Some(Braked::TooMany(51, 100))),
            (20, 19, 0, "50%", None),
            (21, 11, 0, "50%", Some(Braked::TooMany(11, 21))),
            (100, 99, 0, "none", None),
            (100, 5, 0, "5", None),
            (10, 6, 0, "5", Some(Braked::TooMany(6, 10))),
            (3, 3, 0, "none", Some(Braked::All)),
            (30, 1, 1, "50%", None),
            (30, 1, 2, "50%", Some(Braked::Future(2))),
            (30, 0, 30, "50%", None),
            (0, 0, 0, "0", None),
            (30, 1, 0, "0", Some(Braked::TooMany(1, 30))),
        ] {
            assert_eq!(braked(all, doomed, future, most), why, "{doomed} of {all}, {future} in the future, {most}");
        }
    }

    #[test]
    fn back_dated_snapshots_do_not_count_in_a_share() {
        let clock = Clock { now: 1_700_000_000, zone: TimeZone::UTC };
        // Decides on `good` snapshots, of which the first `doomed` would be destroyed, and then `back` snapshots that
        // are back-dated by `back_by` seconds and would be destroyed if `back_doomed`.
        let brake = |good: u64, doomed: u64, back: u64, most: &str, back_by: i64, back_doomed: bool| {
            let made = |n: u64| Snapshot { createtxg: n, creation: 1_000_000 + n as i64, ..Snapshot::default() };
            let mut snapshots: Vec<_> = (1..=good).map(made).collect();
            snapshots.extend((1..=back).map(|n| Snapshot { creation: 1_000_000 - back_by, ..made(good + n) }));
            crate::backdated::find(&mut snapshots, &clock);
            let verdict = |n: u64| match n <= doomed || n > good && back_doomed {
                true => Verdict::destroy(Reason::NoRule),
                false => Verdict::keep(Reason::Newest),
            };
            let verdicts: Vec<_> = (1..=good + back).map(verdict).collect();
            brakes(&verdicts, &snapshots, 1, most.parse().unwrap(), &clock).err()
        };
        assert_eq!(brake(30, 27, 1000, "50%", 1, false), Some(Braked::TooMany(27, 30)));
        assert_eq!(brake(30, 15, 1000, "50%", 1, true), None);
        assert_eq!(brake(30, 2, 30, "none", 90_000, true), None);
        assert_eq!(brake(30, 2, 31, "none", 90_000, true), None);
        // A count limits all snapshots that would be destroyed, including back-dated ones.
        assert_eq!(brake(30, 2, 9, "10", 1, true), Some(Braked::TooMany(11, 39)));
    }

    #[test]
    fn max_destroy_is_a_number_or_a_share() {
        assert_eq!("none".parse(), Ok(MaxDestroy::NoLimit));
        assert_eq!("100%".parse(), Ok(MaxDestroy::Percent(100)));
        for text in ["", "101%", "%", "-1", "x"] {
            assert!(text.parse::<MaxDestroy>().is_err(), "{text}");
        }
    }
}
