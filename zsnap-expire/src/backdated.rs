//! Dates that contradict the order in which snapshots came to the pool. Whoever makes a snapshot chooses its
//! date, by a wrong clock or on purpose; nobody chooses its createtxg.
//!
//! A snapshot that bears an earlier date than one that the pool made before it is back-dated. It counts as made
//! at the latest date of those before it, and what becomes of the others is decided as if it were not there:
//! snapshots that a host dates into the past never take the places of its older ones. But perhaps its date is right,
//! and that of the one before it was ahead: so the policy is asked about the back-dated ones by themselves, too, and
//! what it keeps of these stays. What is dated more than a day ahead of the clock is left out on both sides.
//! Without createtxg nothing is back-dated.

use crate::calendar::Clock;
use crate::reason::Reason;
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

/// Those that are not dated in the future, as indices, in layers: in each the dates agree with the order in which
/// the pool made them. The first layer has those that are not back-dated; a back-dated one is in the first layer
/// that has no later date before it.
fn layers(snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<Vec<usize>> {
    let mut layers: Vec<Vec<usize>> = Vec::new();
    for i in by_making(snapshots, clock) {
        let is_later =
            |layer: &Vec<usize>| layer.last().is_some_and(|j| snapshots[*j].creation > snapshots[i].creation);
        // The last dates of the layers fall from each layer to the next.
        let at = layers.partition_point(is_later);
        match layers.get_mut(at) {
            Some(layer) => layer.push(i),
            None => layers.push(vec![i]),
        }
    }
    layers
}

/// How many of `layer` the pool made before this one.
fn made_before(layer: &[usize], snapshots: &[Snapshot<'_>], this: usize) -> usize {
    layer.partition_point(|i| snapshots[*i].by_making(&snapshots[this]).is_lt())
}

/// Keeps the back-dated ones that the policy would keep if those with later dates that were made before them were
/// not there. No date tells whether they were dated back or the others ahead, so none may cost the other its
/// place. `verdicts` are what the policy alone says, and no other one changes. `decide` is the policy, which is given
/// a layer, of so many, and behind it those of the first layer that stay and whose dates agree with it.
pub fn keep_by_themselves(
    verdicts: &mut [Verdict],
    snapshots: &[Snapshot<'_>],
    clock: &Clock,
    decide: impl Fn(&[Snapshot<'_>], usize) -> Vec<Verdict>,
) {
    if !snapshots.iter().any(Snapshot::is_back_dated) {
        return;
    }
    let mut layers = layers(snapshots, clock).into_iter();
    let stay: Vec<usize> = layers.next().unwrap_or_default().into_iter().filter(|i| verdicts[*i].keep).collect();
    for layer in layers {
        // With these they grow old like any other.
        let agrees = |i: &&usize| {
            let next = layer.get(made_before(&layer, snapshots, **i));
            next.is_none_or(|next| snapshots[**i].creation <= snapshots[*next].creation)
        };
        let believed = |i: &usize| Snapshot { floor: i64::MIN, ..snapshots[*i].clone() };
        let history: Vec<Snapshot<'_>> = layer.iter().chain(stay.iter().filter(agrees)).map(believed).collect();
        for (i, own) in layer.iter().zip(decide(&history, layer.len())).filter(|(_, own)| own.keep) {
            own.reasons.into_iter().for_each(|reason| verdicts[*i].also(reason));
        }
    }
}

/// Keeps, for each back-dated snapshot that stays, the last one before it that is not back-dated, and the last one
/// of the layer above its own: if these went, it would count for more in the next run, and could take the
/// place of an older one.
pub fn keep_witnesses(verdicts: &mut [Verdict], snapshots: &[Snapshot<'_>], clock: &Clock) {
    if !snapshots.iter().any(Snapshot::is_back_dated) {
        return;
    }
    let layers = layers(snapshots, clock);
    // Those of the lowest layer first: the witnesses have witnesses.
    for (nr, layer) in layers.iter().enumerate().skip(1).rev() {
        for i in layer {
            if !verdicts[*i].keep {
                continue;
            }
            for above in [&layers[nr - 1], &layers[0]] {
                let witness = above[..made_before(above, snapshots, *i)].last();
                witness.into_iter().for_each(|i| verdicts[*i].also(Reason::Witness));
            }
        }
    }
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
    fn in_each_layer_dates_agree_with_the_order() {
        for (days, expected) in [
            (&[1, 2, 2, 3][..], &[&[0, 1, 2, 3][..]][..]),
            (&[5, 1, 2, 6, 3], &[&[0, 3], &[1, 2, 4]]),
            // Of those that were ahead some were dated before others.
            (&[1, 9, 4, 6, 3, 5, 10], &[&[0, 1, 6], &[2, 3], &[4, 5]]),
            (&[3, 2, 1], &[&[0], &[1], &[2]]),
            (&[200, 3, 2], &[&[1], &[2]]),
            (&[], &[]),
        ] {
            let (all, clock) = made(days);
            assert_eq!(layers(&all, &clock), expected, "{days:?}");
        }
    }

    /// By a policy that keeps the last one of each ten days: which of the back-dated ones stay.
    #[test]
    fn what_the_policy_keeps_of_a_layer_stays() {
        let decide = |all: &[Snapshot<'_>], _| -> Vec<Verdict> {
            let ten = |s: &Snapshot<'_>| s.creation / DAY / 10;
            let last = |s: &Snapshot<'_>| !all.iter().any(|t| ten(t) == ten(s) && t.by_time(s).is_gt());
            let verdict = |s| if last(s) { Verdict::keep(Reason::Newest) } else { Verdict::destroy(Reason::NoRule) };
            all.iter().map(verdict).collect()
        };
        for (days, stay) in [
            // The time of one that was ahead has come: those since.
            (&[1, 50, 10, 15, 20, 25, 51][..], &[3, 5][..]),
            // One that came later counts, one that was made before does not.
            (&[1, 55, 50, 52], &[3]),
            (&[1, 55, 50, 52, 58], &[]),
            (&[1, 50, 44, 60, 47, 49], &[5]),
            // So does one that came between them, if its date lies between theirs.
            (&[1, 34, 31, 36, 60, 41, 61], &[5]),
            (&[1, 34, 31, 36, 60, 32, 61], &[5]),
            (&[1, 50, 39, 12, 17, 35], &[2, 4, 5]),
            (&[1, 2, 3], &[]),
        ] {
            let (all, clock) = made(days);
            let verdict = |s: &Snapshot<'_>| match s.is_back_dated() {
                true => Verdict::destroy(Reason::NoRule),
                false => Verdict::keep(Reason::Newest),
            };
            let mut verdicts: Vec<_> = all.iter().map(verdict).collect();
            keep_by_themselves(&mut verdicts, &all, &clock, decide);
            let kept = (0..all.len()).filter(|nr| verdicts[*nr].keep && all[*nr].is_back_dated());
            assert_eq!(kept.collect::<Vec<_>>(), stay, "{days:?}");
        }
    }

    #[test]
    fn the_one_before_a_back_dated_one_stays_with_it() {
        for (days, stay, with_witnesses) in [
            (&[1, 2, 5, 3][..], &[3][..], &[2, 3][..]),
            // Not the first of one date, but the last before it.
            (&[5, 5, 3, 5, 4, 2], &[4], &[3, 4]),
            (&[1, 5, 3, 6, 7], &[4], &[4]),
            (&[1, 5, 3, 200, 4], &[4], &[1, 4]),
            // That of the layer above, and its own.
            (&[1, 9, 4, 6, 10, 3], &[5], &[1, 3, 4, 5]),
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
}
