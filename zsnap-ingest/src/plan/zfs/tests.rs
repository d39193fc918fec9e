//! Tests of the planner: states of a target and pending files, and their standings.

use super::*;
use crate::plan::{Facts, Head, Number};
use zsnap_common::process::zfs::Snapshot;
use zsnap_message::payload::{Base, Epoch};

/// Builds a stream over these snapshots. The first one is the base (0: none); negative numbers are raw.
fn stream(order: u64, prev: Option<u64>, snapshots: &[i64]) -> Facts {
    let guid = |n: i64| Guid(n.unsigned_abs());
    let link = |pair: &[i64]| Link {
        from: (pair[0] != 0).then_some(guid(pair[0])),
        to: guid(pair[1]),
        snap: format!("s{}", pair[1].unsigned_abs() % 1000),
        raw: pair[1] < 0,
    };
    let epoch = Epoch { id: "e".into(), started: 1 };
    let base = if snapshots[0] == 0 { Base::None } else { Base::Prev };
    Facts {
        target: "h/tank".parse().unwrap(),
        order,
        number: (order < 1000).then(|| Number { epoch, seq: order, prev, id: order.to_string(), base }),
        links: snapshots.windows(2).map(link).collect(),
    }
}

fn snapshots(guids: &[u64]) -> Vec<Snapshot> {
    let snapshot = |&g: &u64| Snapshot { name: format!("s{g}"), guid: Guid(g), createtxg: g, creation: 0 };
    guids.iter().map(snapshot).collect()
}

fn past(committed: &[u64], last_seq: Option<u64>) -> Past {
    Past { committed: committed.iter().map(|&g| Guid(g)).collect(), last_seq, ..Past::default() }
}

fn decide(there: Option<&[u64]>, files: &[Facts], past: &Past) -> Plan {
    let all = there.map(snapshots);
    let there = PoolState { name: "p/h/tank", snapshots: all.as_deref(), written: 0, parent: None };
    let pending: Vec<Pending<'_>> = files.iter().map(|facts| Pending { facts, refused_at: None }).collect();
    zfs(&there, &pending, past, false)
}

fn words(plan: &Plan) -> Vec<String> {
    let word = |standing: &Standing| match standing {
        Standing::Ready { skip, again } => format!("ready {skip}{}", if *again { " again" } else { "" }),
        Standing::Waiting { behind: Some(behind), .. } => format!("waiting {behind}"),
        standing => standing.word().to_owned(),
    };
    plan.standings.iter().map(word).collect()
}

#[test]
fn one_file() {
    let none = past(&[], None);
    let anew = Past { begun: Some(Guid(4)), ..past(&[1, 2, 3, 4, 5, 6], Some(9)) };
    type Row<'a> = (&'a str, Option<&'a [u64]>, Facts, Past, &'a str);
    let of = |order, snapshots: &[i64]| stream(order, None, snapshots);
    let rows: Vec<Row<'_>> = vec![
        ("first full", None, of(5, &[0, 1]), none.clone(), "ready 0"),
        ("full again", Some(&[1]), of(5, &[0, 1]), none.clone(), "there"),
        ("another full", Some(&[1]), of(5, &[0, 9]), none.clone(), "conflict"),
        ("a full for an empty dataset", Some(&[]), of(5, &[0, 9]), none.clone(), "waiting"),
        ("next", Some(&[1]), of(6, &[1, 2]), none.clone(), "ready 0"),
        ("overlap", Some(&[1, 2]), of(6, &[1, 2, 3]), none.clone(), "ready 1"),
        ("all there", Some(&[1, 2, 3]), of(6, &[1, 2, 3]), none.clone(), "there"),
        ("base and middle pruned", Some(&[3]), of(6, &[1, 2, 3, 4]), none.clone(), "ready 2"),
        ("full and more, begun", Some(&[1]), of(6, &[0, 1, 2]), none.clone(), "ready 1"),
        ("an older base", Some(&[1, 7]), of(6, &[1, 2]), none.clone(), "ready 0"),
        ("base to come", Some(&[1]), of(6, &[2, 3]), none.clone(), "waiting"),
        ("dataset to come", None, of(6, &[2, 3]), none.clone(), "waiting"),
        ("base was here", Some(&[1]), of(6, &[2, 3]), past(&[1, 2], Some(5)), "broken"),
        ("dataset was here", None, of(6, &[2, 3]), past(&[1, 2], Some(5)), "broken"),
        ("pruned since", Some(&[1, 4]), of(6, &[2, 3]), past(&[1, 2, 3, 4], Some(9)), "there"),
        ("received into one that is gone", Some(&[4]), of(3, &[0, 3]), anew.clone(), "conflict"),
        ("the same, an incremental", Some(&[4]), of(3, &[2, 3]), anew.clone(), "broken"),
        ("pruned since it began anew", Some(&[6]), of(5, &[4, 5]), anew.clone(), "there"),
        ("the old one is back", Some(&[1, 3]), of(2, &[1, 2]), anew, "there"),
        ("rewound pool", Some(&[1]), of(6, &[1, 2]), past(&[1, 2], Some(6)), "ready 0 again"),
        ("replayed full", None, of(5, &[0, 1]), past(&[1], Some(5)), "refused"),
        ("replayed full of the seeds", None, of(1005, &[0, 1]), past(&[1], None), "refused"),
        ("queued anew", None, of(9, &[0, 1]), past(&[1], Some(5)), "ready 0 again"),
        ("another full for a destroyed one", None, of(4, &[0, 7]), past(&[1], Some(5)), "ready 0"),
        ("a file is missing", Some(&[1]), stream(7, Some(6), &[2, 3]), past(&[1], Some(5)), "waiting"),
        ("no file is missing", Some(&[1]), stream(7, Some(5), &[2, 3]), past(&[1], Some(5)), "broken"),
    ];
    for (what, there, facts, past, word) in rows {
        let got = decide(there, &[facts], &past);
        assert_eq!(words(&got), [word], "{what}: {got:?}");
        assert_eq!(got.path.len(), usize::from(word.starts_with("ready")), "{what}");
    }
}

#[test]
fn several_files() {
    let none = past(&[], None);
    let of = |order, snapshots: &[i64]| stream(order, None, snapshots);
    type Row<'a> = (&'a str, Option<&'a [u64]>, Vec<Facts>, &'a [&'a str], &'a [usize]);
    let rows: Vec<Row<'_>> = vec![
        (
            "in any order",
            None,
            vec![of(3, &[2, 3]), of(2, &[1, 2]), of(1, &[0, 1])],
            &["ready 0", "ready 0", "ready 0"],
            &[2, 1, 0],
        ),
        ("copies", Some(&[1]), vec![of(2, &[1, 2]), of(2, &[1, 2])], &["ready 0", "superseded"], &[0]),
        (
            "after a failed run the next one begins at the same base",
            Some(&[1]),
            vec![of(2, &[1, 2]), of(3, &[1, 2, 3]), of(4, &[1, 2, 3, 4])],
            &["superseded", "superseded", "ready 0"],
            &[2],
        ),
        (
            "the way with the most snapshots",
            Some(&[1]),
            vec![of(2, &[1, 2, 3]), of(3, &[1, 3]), of(4, &[3, 4])],
            &["ready 0", "superseded", "ready 0"],
            &[0, 2],
        ),
        (
            "never into a dead end",
            Some(&[1]),
            vec![of(2, &[1, 2]), of(3, &[1, 3]), of(4, &[3, 4])],
            &["diverged", "ready 0", "ready 0"],
            &[1, 2],
        ),
        ("behind a missing one", Some(&[1]), vec![of(3, &[2, 3]), of(4, &[3, 4])], &["waiting", "waiting 0"], &[]),
        ("two fulls", None, vec![of(1, &[0, 1]), of(2, &[0, 2])], &["conflict", "ready 0"], &[1]),
        ("a name in use", Some(&[1, 2]), vec![of(3, &[2, 1002])], &["conflict"], &[]),
        (
            "a circle",
            Some(&[1]),
            vec![of(1, &[1, 2]), of(2, &[2, 3]), of(3, &[3, 2])],
            &["ready 0", "ready 0", "superseded"],
            &[0, 1],
        ),
        (
            "raw on plain",
            None,
            vec![of(1, &[0, 1]), of(2, &[1, -2]), of(3, &[-2, -3])],
            &["ready 0", "broken", "waiting 1"],
            &[0],
        ),
        ("raw on raw", None, vec![of(1, &[0, -1]), of(2, &[-1, -2])], &["ready 0", "ready 0"], &[0, 1]),
    ];
    for (what, there, files, standings, path) in rows {
        let got = decide(there, &files, &none);
        assert_eq!(words(&got), standings, "{what}: {got:?}");
        assert_eq!(got.path, path, "{what}");
    }
}

#[test]
fn raw_follows_raw() {
    let plain = Past { raw: Some(false), ..past(&[1], None) };
    assert_eq!(words(&decide(Some(&[1]), &[stream(2, None, &[1, -2])], &plain)), ["broken"]);
    let raw = Past { raw: Some(true), ..past(&[1], None) };
    assert_eq!(words(&decide(Some(&[1]), &[stream(2, None, &[1, -2])], &raw)), ["ready 0"]);
    assert_eq!(words(&decide(Some(&[1]), &[stream(2, None, &[1, 2])], &raw)), ["broken"]);
    // A new full stream may change between raw and non-raw.
    assert_eq!(words(&decide(None, &[stream(2, None, &[0, 2])], &raw)), ["ready 0"]);
}

#[test]
fn a_refused_one_is_tried_again_when_something_changed() {
    let facts = stream(2, None, &[1, 2]);
    let all = snapshots(&[1, 7]);
    let of = |facts: &Facts, written, at: u64| {
        let there = PoolState { name: "p/h/tank", snapshots: Some(&all), written, parent: None };
        let refused_at = Some(Head { newest: Guid(7), written: at });
        zfs(&there, &[Pending { facts, refused_at }], &past(&[], None), false).standings[0].word()
    };
    let tried = |written, at| of(&facts, written, at);
    assert_eq!(tried(512, 512), "diverged");
    assert_eq!(of(&stream(2, None, &[0, 1, 2]), 512, 512), "diverged");
    assert_eq!(tried(0, 512), "ready");
}

#[test]
fn a_child_waits_for_its_parent() {
    let parent = "tank".parse().unwrap();
    let there = PoolState { name: "p/h/tank/a", snapshots: None, written: 0, parent: Some(&parent) };
    let files = [stream(1, None, &[0, 1]), stream(2, None, &[1, 2])];
    let pending: Vec<Pending<'_>> = files.iter().map(|facts| Pending { facts, refused_at: None }).collect();
    let plan = zfs(&there, &pending, &past(&[], None), false);
    assert_eq!(words(&plan), ["waiting", "waiting 0"]);
    assert!(plan.path.is_empty() && plan.standings[0].why().contains("create-parents"));
}

#[test]
fn a_long_chain_is_no_deep_recursion() {
    let files: Vec<Facts> = (0..100_000).rev().map(|n| stream(1000 + n as u64, None, &[n, n + 1])).collect();
    let plan = decide(None, &files, &past(&[], None));
    assert_eq!(plan.path.len(), 100_000);
    assert_eq!(plan.path[0], 99_999);
}
