//! Protects the snapshots that no policy may destroy, each with its reason.

use std::collections::HashSet;

use crate::calendar::Clock;
use crate::reason::Reason;
use crate::snapshot::{Sent, Snapshot, Verdict, is_tagged};

/// The prefix of the names of simplesnap's snapshots.
const SIMPLESNAP: &str = "__simplesnap_";

/// What is protected. Held and cloned snapshots and the newest one always are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guards<'a> {
    /// How many of the newest snapshots stay. The newest one always does.
    pub newest: u64,
    /// Whether the dataset was received: there, simplesnap does not destroy its own snapshots.
    pub received: bool,
    /// The tags of zrep.
    pub tags: &'a [String],
    /// The guids of the snapshots that files or chains need.
    pub needed: Option<&'a HashSet<u64>>,
    /// Whether all snapshots are needed, because the dataset has files whose needs are not known.
    pub all_needed: bool,
}

/// Changes the verdicts on snapshots that must stay. `verdicts` and `snapshots` are in the same order.
pub fn protect(verdicts: &mut [Verdict], snapshots: &[Snapshot<'_>], guards: &Guards<'_>, clock: &Clock) {
    let order = newest_first(snapshots, clock);
    let truthful = || order.iter().filter(|i| !snapshots[**i].is_back_dated());
    if let Some(newest) = order.first() {
        verdicts[*newest].also(Reason::Newest);
    }
    // The newest that are not back-dated stay too, as many as if back-dated ones did not exist.
    let newest = usize::try_from(guards.newest.max(1)).unwrap_or(usize::MAX);
    for i in order.iter().take(newest).skip(1).chain(truthful().take(newest)) {
        if Some(i) != order.first() {
            verdicts[*i].also(Reason::Among(guards.newest.max(1)));
        }
    }
    for tag in guards.tags {
        let sent = |i: &&usize| snapshots[**i].sent == Sent::Time && is_tagged(snapshots[**i].name, tag);
        let last = order.iter().find(sent).into_iter().chain(truthful().find(sent));
        last.for_each(|i| verdicts[*i].also(Reason::LastSent));
    }
    for (verdict, snapshot) in verdicts.iter_mut().zip(snapshots) {
        if snapshot.is_future(clock.now) {
            verdict.also(Reason::Future);
        }
        if snapshot.holds > 0 {
            verdict.also(Reason::Held(snapshot.holds));
        }
        if !snapshot.clones.is_empty() {
            verdict.also(Reason::Cloned(snapshot.clones.to_owned()));
        }
        if snapshot.sent == Sent::No {
            verdict.also(Reason::Unsent);
        }
        if !guards.received && of_simplesnap(snapshot.name) {
            verdict.also(Reason::Simplesnap);
        }
        if guards.all_needed || guards.needed.is_some_and(|guids| guids.contains(&snapshot.guid)) {
            verdict.also(Reason::Needed);
        }
    }
}

/// Returns the indices of the snapshots that are not dated in the future, newest first.
pub fn newest_first(snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<usize> {
    let mut order: Vec<usize> = (0..snapshots.len()).filter(|i| !snapshots[*i].is_future(clock.now)).collect();
    order.sort_unstable_by(|a, b| snapshots[*b].by_txg(&snapshots[*a]));
    order
}

fn of_simplesnap(name: &str) -> bool {
    name.rsplit_once('@').is_some_and(|(_, snap)| snap.starts_with(SIMPLESNAP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn protected<'a>(snapshots: &[Snapshot<'a>], guards: &Guards<'_>) -> Vec<(&'a str, Vec<Reason>)> {
        let clock = Clock { now: 1_000_000, zone: TimeZone::UTC };
        let mut verdicts = vec![Verdict::destroy(Reason::NoRule); snapshots.len()];
        protect(&mut verdicts, snapshots, guards, &clock);
        let kept = snapshots.iter().zip(verdicts).filter(|(_, v)| v.keep);
        kept.map(|(s, v)| (s.name, v.reasons.to_vec())).collect()
    }

    fn snap(name: &str, createtxg: u64) -> Snapshot<'_> {
        Snapshot { name, createtxg, creation: 1000 - createtxg as i64, guid: createtxg, ..Snapshot::default() }
    }

    #[test]
    fn the_newest_snapshot_is_that_of_the_pool_and_not_of_the_clock() {
        let all = [snap("a@1", 1), snap("a@2", 2), snap("a@3", 3), Snapshot { creation: 2_000_000, ..snap("a@4", 4) }];
        let newest = Guards { newest: 2, ..Guards::default() };
        let (future, newest_of, among) = (vec![Reason::Future], vec![Reason::Newest], vec![Reason::Among(2)]);
        assert_eq!(protected(&all, &newest), [("a@2", among), ("a@3", newest_of.clone()), ("a@4", future.clone())]);
        // The newest one always stays.
        assert_eq!(protected(&all, &Guards::default()), [("a@3", newest_of), ("a@4", future)]);
    }

    #[test]
    fn back_dated_snapshots_remove_no_protection_from_others() {
        let tags = ["zrep".to_owned()];
        let guards = Guards { newest: 2, tags: &tags, ..Guards::default() };
        let good = |name, txg: u64| Snapshot { creation: txg as i64, sent: Sent::Time, ..snap(name, txg) };
        let back = |name, txg| Snapshot { creation: 1, floor: 9, ..good(name, txg) };
        let all = [
            good("a@zrep_00000a", 7),
            good("a@zrep_00000b", 8),
            good("a@c", 9),
            back("a@zrep_00000d", 10),
            back("a@e", 11),
        ];
        let among = Reason::Among(2);
        assert_eq!(
            protected(&all, &guards),
            [
                ("a@zrep_00000b", vec![among.clone(), Reason::LastSent]),
                ("a@c", vec![among.clone()]),
                ("a@zrep_00000d", vec![among, Reason::LastSent]),
                ("a@e", vec![Reason::Newest]),
            ]
        );
    }

    #[test]
    fn each_reason_protects_a_snapshot() {
        let older = |s: Snapshot<'static>| [s, snap("a@newest", 99)];
        let first = |s: Snapshot<'static>, guards: &Guards<'_>| {
            let kept = protected(&older(s), guards);
            (kept.len() == 2).then(|| kept[0].1.clone())
        };
        let none = Guards::default();
        let received = Guards { received: true, ..none };
        assert_eq!(first(snap("a@x", 1), &none), None);
        assert_eq!(first(Snapshot { holds: 2, ..snap("a@x", 1) }, &none), Some(vec![Reason::Held(2)]));
        let cloned = Snapshot { clones: "a/b", ..snap("a@x", 1) };
        assert_eq!(first(cloned, &received), Some(vec![Reason::Cloned("a/b".into())]));
        assert_eq!(first(Snapshot { sent: Sent::No, ..snap("a@x", 1) }, &none), Some(vec![Reason::Unsent]));
        assert_eq!(first(Snapshot { sent: Sent::Time, ..snap("a@x", 1) }, &none), None);
        let tags = ["zrep".to_owned()];
        let zrep = Guards { tags: &tags, ..none };
        let sent = |name| Snapshot { sent: Sent::Time, ..snap(name, 1) };
        assert_eq!(first(sent("a@zrep_000001"), &zrep), Some(vec![Reason::LastSent]));
        assert_eq!(first(sent("a@off_000001"), &zrep), None);
        assert_eq!(first(snap("a@__simplesnap_s_2026", 1), &none), Some(vec![Reason::Simplesnap]));
        assert_eq!(first(snap("a@__simplesnap_s_2026", 1), &received), None);
        assert_eq!(first(snap("__simplesnap_/a@x", 1), &none), None);
        let guids = HashSet::from([1]);
        let needed = Guards { needed: Some(&guids), ..received };
        assert_eq!(first(snap("a@x", 1), &needed), Some(vec![Reason::Needed]));
        assert_eq!(first(snap("a@x", 2), &needed), None);
        assert_eq!(first(snap("a@x", 2), &Guards { all_needed: true, ..none }), Some(vec![Reason::Needed]));
    }
}
