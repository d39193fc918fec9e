//! Properties that hold when snapshots got future dates, by a wrong clock or on purpose, and these dates come: all
//! snapshots that were made since, with correct dates, are back-dated then.

use super::backdated::{names, policies, snapshots, stay};
use super::*;
use zsnap_expire::backdated;
use zsnap_expire::brakes::MaxDestroy;
use zsnap_expire::judge::judge;
use zsnap_expire::policy::{Method, Policy};
use zsnap_expire::protect::Guards;

const HOUR: i64 = 3600;

/// Snapshots with future dates: the correct one after which they were made, and how far ahead of it each is dated.
fn aheads() -> impl Strategy<Value = (Index, Vec<i64>)> {
    let ahead = prop_oneof![1..2 * DAY, 1..40 * DAY, 1..400 * DAY, (0..30_i64).prop_map(|days| days * DAY + DAY - 1)];
    (any::<Index>(), prop::collection::vec(ahead, 1..20))
}

/// Returns all snapshots in the order in which they were made: those before, those with future dates, those since.
/// Also returns the numbers of those before and those with future dates.
fn histories(scene: &Scene, (after, ahead): &(Index, Vec<i64>)) -> (Vec<(String, Made, bool)>, usize, usize) {
    let right: Vec<&Made> = scene.made.iter().filter(|made| made.creation <= scene.clock.now + DAY).collect();
    if right.is_empty() {
        return (Vec::new(), 0, 0);
    }
    let before = after.index(right.len());
    let (from, txg) = (right[before].creation, right[before].createtxg * 1000);
    let mut all: Vec<_> = right.iter().map(|made| (made.name.clone(), (**made).clone(), false)).collect();
    all.iter_mut().for_each(|(_, made, _)| made.createtxg *= 1000);
    let ahead = ahead.iter().zip(1..).map(|(by, nr)| {
        let name = format!("p/f@ahead{nr:02}");
        (name.clone(), Made { name, creation: from + by, createtxg: txg + nr, sent: true }, false)
    });
    let ahead: Vec<_> = ahead.collect();
    let count = ahead.len();
    all.splice(before + 1..before + 1, ahead);
    (all, before + 1, count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// A snapshot that was made since is not destroyed if a rule would keep it among those made since alone. This does
    /// not hold for spacing, which measures from the first one, nor for the oldest of these, which is not the oldest
    /// of all.
    #[test]
    fn future_dates_cost_no_snapshot_made_since(
        scene in scenes(), aheads in aheads(), (policy, newest) in policies(), later in prop_oneof![Just(0), 0..500 * DAY]
    ) {
        prop_assume!(!matches!(policy.method, Method::Spacing(_)));
        let (made, before, ahead) = histories(&scene, &aheads);
        let clock = Clock { now: scene.clock.now + later, ..scene.clock.clone() };
        let all = snapshots(&made);
        let since = &all[before + ahead..];
        let by_themselves = policy.decide(since, &clock);
        let oldest = |reason: &Reason| matches!(reason, Reason::Oldest(_));
        let by_a_rule = |verdict: &Verdict| verdict.keep && !verdict.reasons.iter().all(oldest);
        let stays = names(&stay(&policy, newest, &all, &clock)).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let kept = since.iter().zip(&by_themselves).filter(|(_, verdict)| by_a_rule(verdict)).map(|(s, _)| s.name);
        let lost: Vec<&str> = kept.filter(|name| !stays.iter().any(|stays| stays == name)).collect();
        prop_assert!(lost.is_empty(), "{lost:?} of {:?}", scene.times());
    }

    /// Run after run, while the dates come one by one, what was made since is kept as if no date had been ahead.
    #[test]
    fn future_dates_cost_no_snapshot_made_since_in_later_runs(
        scene in scenes(), aheads in aheads(), (policy, newest) in policies(), step in 1..30_usize
    ) {
        prop_assume!(!matches!(policy.method, Method::Spacing(_)));
        let (made, before, ahead) = histories(&scene, &aheads);
        let all = snapshots(&made);
        let since: Vec<&str> = all[before + ahead..].iter().map(|s| s.name).collect();
        let (mut with, mut without) = (all[..before + ahead].to_vec(), all[..before].to_vec());
        let mut clock = Clock { now: i64::MIN, ..scene.clock.clone() };
        for more in all[before + ahead..].chunks(step) {
            clock.now = more.iter().map(|s| s.creation).fold(clock.now, i64::max);
            with.extend_from_slice(more);
            without.extend_from_slice(more);
            with = stay(&policy, newest, &with, &clock);
            without = stay(&policy, newest, &without, &clock);
            let there = names(&with);
            let lost: Vec<&str> =
                names(&without).into_iter().filter(|name| since.contains(name) && !there.contains(name)).collect();
            prop_assert!(lost.is_empty(), "{lost:?} of {:?}", scene.times());
        }
    }
}

/// A host makes a snapshot every hour. Its clock is three days ahead for five hours and is then corrected;
/// zsnap-expire runs every four hours for 20 days. No safety limit stops it, the correct snapshots are kept as
/// without the wrong ones, and pruning continues.
#[test]
fn a_clock_that_was_days_ahead_and_is_corrected_needs_no_operator() {
    for rules in [
        "all=48h daily=15d weekly=4w monthly=6mo",
        "daily=15d",
        "hourly=48 daily=15 weekly=4",
        "last=30 daily=unlimited",
    ] {
        let method = Method::Rules(rules.split(' ').map(|rule| rule.parse().unwrap()).collect(), Reference::default());
        let max_destroy = MaxDestroy::Percent(50);
        let policy = Policy { method, newest: 2, received: true, max_destroy, only_reported: false, tags: Vec::new() };
        let guards = Guards { newest: 2, received: true, ..Guards::default() };
        let start: i64 = "2026-03-02T09:00:00Z".parse::<Timestamp>().unwrap().as_second();
        let listed: Vec<String> = (0..20 * 24).map(|hour| format!("p/f@{hour:03}")).collect();
        let before: Vec<String> = (3..16).rev().map(|day| format!("p/f@before{day}")).collect();
        let old = |(nr, name): (i64, _)| Snapshot {
            name,
            creation: start - (15 - nr) * DAY,
            createtxg: 1 + nr as u64,
            ..Snapshot::default()
        };
        let mut with: Vec<Snapshot<'_>> = (0..).zip(before.iter().map(String::as_str)).map(old).collect();
        let mut without = with.clone();
        let (mut reported, mut most) = (0, 0);
        for (hour, name) in (0..).zip(&listed) {
            let now = start + hour * HOUR;
            let made = Snapshot { name, creation: now, createtxg: 100 + hour as u64, ..Snapshot::default() };
            if hour < 5 {
                with.push(Snapshot { creation: now + 3 * DAY, ..made });
            } else {
                with.push(made.clone());
                without.push(made);
            }
            if hour % 4 != 0 {
                continue;
            }
            let clock = Clock { now, zone: TimeZone::UTC };
            for all in [&mut with, &mut without] as [&mut Vec<Snapshot<'_>>; 2] {
                let judged = judge(&policy, all, &guards, &clock, false);
                assert_eq!(judged.braked, None, "{rules}, hour {hour}");
                *all = kept(all, &judged.verdicts);
            }
            // The last of those before may be destroyed a day earlier, because a date less than a day ahead is
            // believed.
            let there = names(&with);
            let lost = names(&without).into_iter().filter(|name| !name.contains("before") && !there.contains(name));
            let lost: Vec<&str> = lost.collect();
            assert!(lost.is_empty(), "{rules}, hour {hour}: {lost:?}");
            backdated::find(&mut with, &clock);
            reported += usize::from(with.iter().any(Snapshot::is_long_back_dated));
            most = most.max(with.len().saturating_sub(without.len()));
        }
        assert!(reported > 0, "{rules}: nothing was back-dated");
        // At most, all snapshots of the span until the time that the clock once showed are kept, and few at the end.
        assert!(most <= 3 * 24, "{rules}: {most} more than without it");
        let more = with.len().saturating_sub(without.len());
        assert!(more <= 12, "{rules}: {more} more in the end");
    }
}
