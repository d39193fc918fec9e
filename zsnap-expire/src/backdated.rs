//! Detects and handles dates that contradict the order in which the pool made the snapshots. The machine that
//! creates a snapshot sets its date, with a wrong clock or deliberately, but not its createtxg.
//!
//! A snapshot is back-dated if its date is earlier than that of a snapshot that the pool made before it. It counts
//! as made at the latest date of those before it, and the others are decided on as if it did not exist, so that
//! snapshots that a host dates into the past never displace its older ones. But its date may be correct, and the
//! date of the earlier one ahead. Therefore the policy also decides on the back-dated ones separately, and those that
//! it keeps stay. Snapshots dated more than a day ahead of the clock are excluded from both decisions. Without
//! createtxg, nothing is back-dated.

use crate::calendar::Clock;
use crate::reason::Reason;
use crate::snapshot::{Snapshot, Verdict};

/// Sets [`Snapshot::floor`] of all snapshots of one dataset.
pub fn find(snapshots: &mut [Snapshot<'_>], clock: &Clock) {
    // The records of --filter have no createtxg.
    if snapshots.iter().all(|snapshot| snapshot.createtxg == 0) {
        return;
    }
    let mut latest = i64::MIN;
    for i in by_txg(snapshots, clock) {
        snapshots[i].floor = latest;
        latest = latest.max(snapshots[i].creation);
    }
}

/// Returns the indices of the snapshots that are not dated in the future, in the order in which the pool made them.
fn by_txg(snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<usize> {
    let mut order: Vec<usize> = (0..snapshots.len()).filter(|i| !snapshots[*i].is_future(clock.now)).collect();
    order.sort_unstable_by(|a, b| snapshots[*a].by_txg(&snapshots[*b]));
    order
}

/// Returns the indices of the snapshots that are not dated in the future, in layers. Within a layer, the dates agree
/// with the order in which the pool made them. The first layer has those that are not back-dated. A back-dated one
/// is in the first layer that has no later date before it.
fn layers(snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<Vec<usize>> {
    let mut layers: Vec<Vec<usize>> = Vec::new();
    for i in by_txg(snapshots, clock) {
        let is_later =
            |layer: &Vec<usize>| layer.last().is_some_and(|j| snapshots[*j].creation > snapshots[i].creation);
        // The last date of each layer is earlier than that of the layer before, so a binary search is possible.
        let at = layers.partition_point(is_later);
        match layers.get_mut(at) {
            Some(layer) => layer.push(i),
            None => layers.push(vec![i]),
        }
    }
    layers
}

/// Returns how many snapshots of `layer` the pool made before snapshot `this`.
fn made_before(layer: &[usize], snapshots: &[Snapshot<'_>], this: usize) -> usize {
    layer.partition_point(|i| snapshots[*i].by_txg(&snapshots[this]).is_lt())
}

/// Keeps the back-dated snapshots that the policy would keep if the earlier ones with later dates did not exist. The
/// dates do not show which of the two are wrong, so neither may displace the other. `verdicts` are those of the policy
/// alone; only those of back-dated ones change. `decide` is the policy. It gets a layer, followed by the snapshots of
/// the first layer that stay and whose dates agree with it, and the number of snapshots in the layer itself.
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
        // With these, the snapshots of the layer age relative to the newest one like any other.
        let agrees = |i: &&usize| {
            let next = layer.get(made_before(&layer, snapshots, **i));
            next.is_none_or(|next| snapshots[**i].creation <= snapshots[*next].creation)
        };
        let believed = |i: &usize| Snapshot { floor: i64::MIN, ..snapshots[*i].clone() };
        let history: Vec<Snapshot<'_>> = layer.iter().chain(stay.iter().filter(agrees)).map(believed).collect();
        for (i, own) in layer.iter().zip(decide(&history, layer.len())).filter(|(_, own)| own.keep) {
            own.reasons.iter().for_each(|reason| verdicts[*i].also(reason.clone()));
        }
    }
}

/// Keeps, for each back-dated snapshot that stays, two witnesses: the last one before it that is not back-dated, and
/// the last one before it in the layer above its own. Without them, the next run would no longer see that its date
/// is too early, or would move it up a layer, and it could displace an older one.
pub fn keep_witnesses(verdicts: &mut [Verdict], snapshots: &[Snapshot<'_>], clock: &Clock) {
    if !snapshots.iter().any(Snapshot::is_back_dated) {
        return;
    }
    let layers = layers(snapshots, clock);
    // Begin with the last layer, because witnesses need witnesses too.
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

    /// Creates snapshots with these dates, in days since 1970, in the order of making. The current time is day 100.
    fn made(days: &[i64]) -> (Vec<Snapshot<'static>>, Clock) {
        let clock = Clock { now: 100 * DAY, zone: TimeZone::UTC };
        let one = |(day, createtxg): (&i64, u64)| Snapshot { creation: day * DAY, createtxg, ..Snapshot::default() };
        let mut all: Vec<_> = days.iter().zip(1..).map(one).collect();
        // The order of the list does not matter.
        all.reverse();
        find(&mut all, &clock);
        all.reverse();
        (all, clock)
    }

    #[test]
    fn a_snapshot_counts_as_of_the_latest_date_so_far() {
        for (days, counts) in [
            (&[1, 2, 3, 3, 4][..], &[1, 2, 3, 3, 4][..]),
            (&[5, 1, 2, 6, 3], &[5, 5, 5, 6, 6]),
            // A date up to a day ahead counts; one further ahead is excluded.
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
        // Without createtxg, nothing is back-dated.
        let mut all = [3, 1, 2].map(|creation| Snapshot { creation, ..Snapshot::default() });
        find(&mut all, &Clock { now: 9, zone: TimeZone::UTC });
        assert!(!all.iter().any(Snapshot::is_back_dated));
    }

    #[test]
    fn in_each_layer_dates_agree_with_the_order_of_the_pool() {
        for (days, expected) in [
            (&[1, 2, 2, 3][..], &[&[0, 1, 2, 3][..]][..]),
            (&[5, 1, 2, 6, 3], &[&[0, 3], &[1, 2, 4]]),
            // Some of those that were ahead are back-dated relative to others.
            (&[1, 9, 4, 6, 3, 5, 10], &[&[0, 1, 6], &[2, 3], &[4, 5]]),
            (&[3, 2, 1], &[&[0], &[1], &[2]]),
            (&[200, 3, 2], &[&[1], &[2]]),
            (&[], &[]),
        ] {
            let (all, clock) = made(days);
            assert_eq!(layers(&all, &clock), expected, "{days:?}");
        }
    }

    /// Tests which back-dated snapshots stay under a policy that keeps the last one of each ten days.
    #[test]
    fn snapshots_that_the_policy_keeps_of_a_layer_stay() {
        let decide = |all: &[Snapshot<'_>], _| -> Vec<Verdict> {
            let ten = |s: &Snapshot<'_>| s.creation / DAY / 10;
            let last = |s: &Snapshot<'_>| !all.iter().any(|t| ten(t) == ten(s) && t.by_time(s).is_gt());
            let verdict = |s| if last(s) { Verdict::keep(Reason::Newest) } else { Verdict::destroy(Reason::NoRule) };
            all.iter().map(verdict).collect()
        };
        for (days, stay) in [
            // The date of one that was ahead has passed: those made since are judged by their own dates.
            (&[1, 50, 10, 15, 20, 25, 51][..], &[3, 5][..]),
            // A snapshot that was made later counts, one that was made before does not.
            (&[1, 55, 50, 52], &[3]),
            (&[1, 55, 50, 52, 58], &[]),
            (&[1, 50, 44, 60, 47, 49], &[5]),
            // One that was made between them counts too, if its date is between theirs.
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
    fn the_snapshot_before_a_kept_back_dated_one_is_kept() {
        for (days, stay, with_witnesses) in [
            (&[1, 2, 5, 3][..], &[3][..], &[2, 3][..]),
            // Of those with the same date, the last one before it stays, not the first.
            (&[5, 5, 3, 5, 4, 2], &[4], &[3, 4]),
            (&[1, 5, 3, 6, 7], &[4], &[4]),
            (&[1, 5, 3, 200, 4], &[4], &[1, 4]),
            // The witness in the layer above, and the witness of that one.
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
