//! Dates that contradict the order in which snapshots came to the pool. Whoever makes a snapshot chooses its
//! date, by a wrong clock or on purpose; nobody chooses its createtxg.
//!
//! A snapshot that bears an earlier date than one that the pool made before it is back-dated. It counts as made
//! at the latest date of those before it, and what becomes of the others is decided as if it were not there:
//! snapshots that a host dates into the past never take the places of its older ones. What is dated more than
//! a day ahead of the clock is left out on both sides. Without createtxg nothing is back-dated.

use crate::calendar::Clock;
use crate::policy::Reason;
use crate::snapshot::{Snapshot, Verdict};

/// Sets [`Snapshot::floor`] of the snapshots of one dataset.
pub fn find(snapshots: &mut [Snapshot<'_>], clock: &Clock) {
    // Records of a filter have no order of making.
    if snapshots.iter().all(|snapshot| snapshot.createtxg == 0) {
        return;
    }
    let mut latest = i64::MIN;
    for i in by_making(snapshots, clock) {
        snapshots[i].floor = latest;
        latest = latest.max(snapshots[i].creation);
    }
}

/// Those that are not dated in the future, as indices, in the order in which the pool made them.
fn by_making(snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<usize> {
    let mut order: Vec<usize> = (0..snapshots.len()).filter(|i| !snapshots[*i].is_future(clock.now)).collect();
    order.sort_unstable_by(|a, b| snapshots[*a].by_making(&snapshots[*b]));
    order
}

/// Keeps the last one before each back-dated snapshot that stays: if it went, the later one would not be
/// back-dated any more, and could take the place of an older one in the next run.
pub fn keep_witnesses(verdicts: &mut [Verdict], snapshots: &[Snapshot<'_>], clock: &Clock) {
    if !snapshots.iter().any(Snapshot::is_back_dated) {
        return;
    }
    let mut witness = None;
    for i in by_making(snapshots, clock) {
        if !snapshots[i].is_back_dated() {
            witness = Some(i);
        } else if verdicts[i].keep {
            witness.iter().for_each(|i: &usize| verdicts[*i].also(Reason::Witness));
        }
    }
}

/// Back-dated snapshots that would go by their order, and the snapshots that contradict their dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// So many would go that are dated more than a day before earlier ones.
    pub doomed: u64,
    /// So many were made before one of them, and bear a later date.
    pub witnesses: u64,
    /// The one with the latest date of these.
    pub latest: String,
}

/// Of the snapshots that would go those that are back-dated by more than a day, and what tells so. What expires
/// by its own date alone does not count.
pub fn contradiction(verdicts: &[Verdict], snapshots: &[Snapshot<'_>], clock: &Clock) -> Option<Contradiction> {
    let goes = |i: usize| {
        let by_date = matches!(verdicts[i].reasons[..], [Reason::Expires(_)]);
        !verdicts[i].keep && !by_date && snapshots[i].is_long_back_dated()
    };
    if !(0..snapshots.len()).any(goes) {
        return None;
    }
    let (mut doomed, mut witnesses, mut latest, mut earliest) = (0, 0, None, i64::MAX);
    for i in by_making(snapshots, clock).into_iter().rev() {
        let snapshot = &snapshots[i];
        if goes(i) {
            doomed += 1;
            earliest = earliest.min(snapshot.creation);
        } else if !snapshot.is_back_dated() && snapshot.creation > earliest {
            witnesses += 1;
            latest = latest.or(Some(snapshot.name.to_owned()));
        }
    }
    Some(Contradiction { doomed, witnesses, latest: latest? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    const DAY: i64 = 86_400;

    /// In the order of their making, dated so many days after the first of January 1970; now is day 100.
    fn made(days: &[i64]) -> (Vec<Snapshot<'static>>, Clock) {
        let clock = Clock { now: 100 * DAY, zone: TimeZone::UTC };
        let one = |(day, createtxg): (&i64, u64)| Snapshot { creation: day * DAY, createtxg, ..Snapshot::default() };
        let mut all: Vec<_> = days.iter().zip(1..).map(one).collect();
        // In whichever order they are listed.
        all.reverse();
        find(&mut all, &clock);
        all.reverse();
        (all, clock)
    }

    #[test]
    fn what_counts_is_the_latest_date_so_far() {
        for (days, counts) in [
            (&[1, 2, 3, 3, 4][..], &[1, 2, 3, 3, 4][..]),
            (&[5, 1, 2, 6, 3], &[5, 5, 5, 6, 6]),
            // Up to a day ahead is believed, more is left out.
            (&[1, 101, 2, 102, 3], &[1, 101, 101, 102, 101]),
            (&[200, 1, 150, 2], &[200, 1, 150, 2]),
            (&[-3, -4], &[-3, -3]),
            (&[], &[]),
        ] {
            let (all, _) = made(days);
            let found: Vec<i64> = all.iter().map(|s| s.counts_as() / DAY).collect();
            assert_eq!(found, counts, "{days:?}");
            let back = all.iter().map(Snapshot::is_back_dated);
            assert!(back.eq(days.iter().zip(counts).map(|(day, counts)| day != counts)), "{days:?}");
        }
        // Without an order nothing contradicts it.
        let mut all = [3, 1, 2].map(|creation| Snapshot { creation, ..Snapshot::default() });
        find(&mut all, &Clock { now: 9, zone: TimeZone::UTC });
        assert!(!all.iter().any(Snapshot::is_back_dated));
    }

    #[test]
    fn the_one_before_a_back_dated_one_stays_with_it() {
        for (days, stay, with_witnesses) in [
            (&[1, 2, 5, 3][..], &[3][..], &[2, 3][..]),
            // Not the first of one date, but the last before it.
            (&[5, 5, 3, 5, 4, 2], &[4], &[3, 4]),
            (&[1, 5, 3, 6, 7], &[4], &[4]),
            (&[1, 5, 3, 200, 4], &[4], &[1, 4]),
        ] {
            let (all, clock) = made(days);
            let verdict =
                |nr| if stay.contains(&nr) { Verdict::keep(Reason::Newest) } else { Verdict::destroy(Reason::NoRule) };
            let mut verdicts: Vec<_> = (0..all.len()).map(verdict).collect();
            keep_witnesses(&mut verdicts, &all, &clock);
            let kept: Vec<usize> = (0..all.len()).filter(|nr| verdicts[*nr].keep).collect();
            assert_eq!(kept, with_witnesses, "{days:?}");
        }
    }

    #[test]
    fn who_contradicts_whom() {
        let found = |days: &[i64], goes: &[usize]| {
            let (mut all, clock) = made(days);
            let names: Vec<String> = (0..all.len()).map(|nr| nr.to_string()).collect();
            let all: Vec<_> = all.drain(..).zip(&names).map(|(s, name)| Snapshot { name, ..s }).collect();
            let verdict =
                |nr| if goes.contains(&nr) { Verdict::destroy(Reason::NoRule) } else { Verdict::keep(Reason::Newest) };
            let verdicts: Vec<_> = (0..all.len()).map(verdict).collect();
            contradiction(&verdicts, &all, &clock).map(|c| (c.doomed, c.witnesses, c.latest))
        };
        // One that was ahead, and three since.
        assert_eq!(found(&[1, 50, 10, 20, 30], &[2, 3, 4]), Some((3, 1, "1".into())));
        // Those that stay do not count, nor those that a day explains.
        assert_eq!(found(&[1, 50, 10, 20, 49], &[2, 4]), Some((1, 1, "1".into())));
        assert_eq!(found(&[1, 50, 49, 49], &[2, 3]), None);
        assert_eq!(found(&[1, 50, 10, 20, 30], &[0, 1]), None);
        // A whole history, of which each contradicts one; what came later contradicts nothing.
        assert_eq!(found(&[10, 20, 30, 40, 15, 25, 50, 60], &[4, 5]), Some((2, 3, "3".into())));
    }
}
