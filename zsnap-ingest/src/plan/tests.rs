//! Tests of the parts that both plans use.

use super::*;

#[test]
fn a_journal_holds_what_was_committed_and_not_rolled_back() {
    let guids = |all: &[u64]| all.iter().map(|&g| Guid(g)).collect::<Vec<_>>();
    let here = |all: &[u64]| {
        let snapshot = |&g: &u64| Snapshot { name: g.to_string(), guid: Guid(g), createtxg: g, creation: 0 };
        all.iter().map(snapshot).collect::<Vec<_>>()
    };
    let past = |all: &[u64]| Past { committed: guids(all), ..Past::default() };
    let facts = |all: &[u64]| {
        let link = |pair: &[u64]| Link { from: None, to: Guid(pair[0]), snap: String::new(), raw: false };
        Facts { target: "h/t".parse().unwrap(), order: 1, number: None, links: all.windows(1).map(link).collect() }
    };
    let committed = |before: &[u64], guid| {
        let mut past = past(before);
        past.commit(Some(Guid(0)), Guid(guid), true);
        past.committed
    };
    assert_eq!(committed(&[1, 2], 3), guids(&[1, 2, 3]));
    // Received again: what followed it was rolled back as well.
    assert_eq!(committed(&[1, 2, 3], 2), guids(&[1, 2]));
    let many: Vec<u64> = (0..10_000).collect();
    assert_eq!(committed(&many, 10_000).len(), 10_000);
    let rewound = |before: &[u64], there: &[u64]| {
        let mut past = past(before);
        past.rewind(&here(there));
        past.committed
    };
    assert_eq!(rewound(&[1, 2, 3], &[2]), guids(&[1, 2]));
    assert_eq!(rewound(&[1, 2, 3], &[3, 9]), guids(&[1, 2, 3]));
    // Another dataset of the same name: what was received before is still recognized as a replay.
    assert_eq!(rewound(&[1, 2], &[8, 9]), guids(&[1, 2, 8, 9]));
    assert_eq!(rewound(&[1, 2], &[]), guids(&[1, 2]));
    let learned = |before: &[u64], file: &[u64], there: &[u64]| {
        let mut past = past(before);
        past.learn(&facts(file), &here(there));
        past.committed
    };
    assert_eq!(learned(&[1], &[2, 3], &[1, 2, 3]), guids(&[1, 2, 3]));
    assert_eq!(learned(&[1, 3], &[2], &[1, 2, 3]), guids(&[1, 2, 3]));
    assert_eq!(learned(&[1], &[2, 3], &[1, 3]), guids(&[1, 3]));
}

#[test]
fn the_outermost_missing_parent_is_named() {
    let target: Target = "h/a/b/c".parse().unwrap();
    let missing = |have: &[&str]| missing_parent(&target, |d| have.contains(&d.as_str())).map(|d| d.to_string());
    assert_eq!(missing(&["a", "a/b"]), None);
    assert_eq!(missing(&["a"]), Some("a/b".into()));
    assert_eq!(missing(&[]), Some("a".into()));
    assert_eq!(missing_parent(&"h/a".parse().unwrap(), |_| false), None);
}
