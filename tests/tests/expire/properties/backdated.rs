//! Properties that hold whatever dates contradict the order in which the pool made the snapshots.

use super::*;
use zsnap_expire::backdated;
use zsnap_expire::brakes::MaxDestroy;
use zsnap_expire::judge::judge;
use zsnap_expire::policy::{Method, Policy};
use zsnap_expire::protect::Guards;

/// A back-dated snapshot: the one after which it was made, how long before that it is dated, whether it is held,
/// and whether zrep sent it.
type Extra = (Index, i64, bool, bool);

fn extras() -> impl Strategy<Value = Vec<Extra>> {
    let back = prop_oneof![1..7200_i64, 1..3 * DAY, 1..400 * DAY, 1..60_000 * DAY];
    prop::collection::vec((any::<Index>(), back, prop::bool::weighted(0.1), any::<bool>()), 0..60)
}

pub fn policies() -> impl Strategy<Value = (Policy, u64)> {
    let native = (rules(), references()).prop_map(|(rules, reference)| Method::Rules(rules, reference));
    let method = prop_oneof![3 => native, 1 => Just(Method::Spacing(zrep())), 1 => Just(Method::Dated(seed_rules()))];
    (method, 0..7_u64, any::<bool>()).prop_map(|(method, newest, tagged)| {
        let tags = if tagged { vec!["zrep".to_owned()] } else { Vec::new() };
        let policy =
            Policy { method, newest, received: true, max_destroy: MaxDestroy::NoLimit, only_reported: false, tags };
        (policy, newest)
    })
}

/// The snapshots of a scene and then the extra ones, each with its name and whether it is held.
fn made(scene: &Scene, extras: &[Extra]) -> Vec<(String, Made, bool)> {
    let truthful: Vec<_> = scene.made.iter().filter(|made| made.creation <= scene.clock.now + DAY).collect();
    let mut all: Vec<_> = truthful.iter().map(|m| (m.name.clone(), (**m).clone(), false)).collect();
    all.iter_mut().for_each(|(_, made, _)| made.createtxg *= 1000);
    for (nr, (after, back, held, sent)) in extras.iter().enumerate().filter(|_| !truthful.is_empty()) {
        let before = after.get(&truthful);
        let (creation, createtxg) = (before.creation - back, before.createtxg * 1000 + 1 + nr as u64);
        // The names are zrep's or others, and sort before or after those of the scene.
        let name = if *sent { format!("p/f@zrep_{nr:06x}") } else { format!("p/f@x{nr:02}") };
        all.push((name.clone(), Made { name, creation, createtxg, sent: *sent }, *held));
    }
    all
}

pub fn snapshots(made: &[(String, Made, bool)]) -> Vec<Snapshot<'_>> {
    let mut all = Vec::new();
    for (name, made, held) in made {
        let sent = if made.sent { Sent::Time } else { Sent::No };
        let (creation, createtxg, holds) = (made.creation, made.createtxg, u64::from(*held));
        all.push(Snapshot { name, creation, createtxg, sent, holds, ..Snapshot::default() });
    }
    all
}

/// The snapshots that a policy keeps.
pub fn stay<'a>(policy: &Policy, newest: u64, snapshots: &[Snapshot<'a>], clock: &Clock) -> Vec<Snapshot<'a>> {
    let mut all = snapshots.to_vec();
    let guards = Guards { newest, received: true, tags: &policy.tags, ..Guards::default() };
    let judged = judge(policy, &mut all, &guards, clock, false);
    // The originals are returned, since each run finds back-dated ones anew.
    snapshots.iter().zip(&judged.verdicts).filter(|(_, verdict)| verdict.keep).map(|(s, _)| s.clone()).collect()
}

pub fn names<'a>(snapshots: &[Snapshot<'a>]) -> Vec<&'a str> {
    let mut names: Vec<&str> = snapshots.iter().map(|s| s.name).collect();
    names.sort_unstable();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// The verdicts and reasons for the other snapshots are the same without the back-dated ones, and what is kept
    /// without them is kept with them.
    #[test]
    fn back_dated_snapshots_cost_no_other(scene in scenes(), extras in extras(), (policy, newest) in policies()) {
        let made = made(&scene, &extras);
        let with = snapshots(&made);
        let without = &with[..made.len() - if with.is_empty() { 0 } else { extras.len() }];
        let mut found = with.clone();
        backdated::find(&mut found, &scene.clock);
        prop_assert!(found.iter().enumerate().all(|(nr, s)| s.is_back_dated() == (nr >= without.len())));
        let (before, after) = (policy.decide(without, &scene.clock), policy.decide(&found, &scene.clock));
        prop_assert_eq!(&before[..], &after[..without.len()], "{:?}", scene.times());
        let (before, after) = (stay(&policy, newest, without, &scene.clock), stay(&policy, newest, &with, &scene.clock));
        let after = names(&after);
        let lost: Vec<&str> = names(&before).into_iter().filter(|name| !after.contains(name)).collect();
        prop_assert!(lost.is_empty(), "{lost:?} of {:?}", scene.times());
    }

    /// A back-dated snapshot is never the last one of a period.
    #[test]
    fn no_period_keeps_a_back_dated_snapshot(
        scene in scenes(), extras in extras(), rules in rules(), reference in references()
    ) {
        let made = made(&scene, &extras);
        let mut found = snapshots(&made);
        backdated::find(&mut found, &scene.clock);
        let verdicts = native::decide(&rules, reference, &found, &scene.clock);
        for (_, verdict) in found.iter().zip(&verdicts).filter(|(snapshot, _)| snapshot.is_back_dated()) {
            let of_a_period = |reason: &Reason| match reason {
                Reason::Rule(rule) => rule.period != Period::Each,
                reason => *reason != Reason::NoRule,
            };
            prop_assert!(!verdict.reasons.iter().any(of_a_period), "{verdict:?} of {:?}", scene.times());
        }
    }

    /// A second run destroys nothing, whatever the order of the listing, the order of the pool, and the holds.
    #[test]
    fn a_second_run_destroys_nothing_with_back_dated_snapshots(
        scene in scenes(), extras in extras(), (policy, newest) in policies(), seed in any::<u64>(), jumps in any::<bool>()
    ) {
        let mut made = made(&scene, &extras);
        if jumps {
            made.iter_mut().for_each(|(_, made, _)| made.createtxg = made.createtxg.wrapping_mul(seed | 1) >> 40);
        }
        let all = snapshots(&made);
        let mut other = all.clone();
        other.sort_by_key(|s| s.createtxg.wrapping_mul(seed | 1).rotate_left(17));
        let stays = stay(&policy, newest, &all, &scene.clock);
        prop_assert_eq!(names(&stays), names(&stay(&policy, newest, &other, &scene.clock)));
        prop_assert_eq!(names(&stays), names(&stay(&policy, newest, &stays, &scene.clock)), "{:?}", scene.times());
    }

    /// Run after run, what is kept of a history without the back-dated ones is kept of the same history with them.
    /// This does not hold for spacing, where each additional kept snapshot may later be the first, from which the
    /// distance of the others is measured.
    #[test]
    fn back_dated_snapshots_cost_no_other_in_later_runs(
        scene in scenes(), extras in extras(), (policy, newest) in policies(), step in 1..30_usize
    ) {
        prop_assume!(!matches!(policy.method, Method::Spacing(_)));
        let mut made = made(&scene, &extras);
        made.sort_by_key(|(_, made, _)| made.createtxg);
        let all = snapshots(&made);
        let truthful: Vec<&str> = scene.made.iter().map(|made| made.name.as_str()).collect();
        let (mut without, mut with): (Vec<Snapshot<'_>>, Vec<Snapshot<'_>>) = Default::default();
        let mut clock = Clock { now: i64::MIN, ..scene.clock.clone() };
        for more in all.chunks(step) {
            // The clock advances with the snapshots.
            clock.now = more.iter().map(|s| s.creation).fold(clock.now, i64::max);
            with.extend_from_slice(more);
            without.extend(more.iter().filter(|s| truthful.contains(&s.name)).cloned());
            with = stay(&policy, newest, &with, &clock);
            without = stay(&policy, newest, &without, &clock);
            let there = names(&with);
            let lost: Vec<&str> = names(&without).into_iter().filter(|name| !there.contains(name)).collect();
            prop_assert!(lost.is_empty(), "{lost:?} of {:?}", scene.times());
        }
    }
}
