//! What to do with a verified file: pure decisions over what is there, what was applied, and
//! what the file says. For ZFS guids alone decide, as in the kernel; for opaque streams the
//! numbers in their manifests.

use zsnap_common::payload::{Base, Manifest};
use zsnap_common::target::{Dataset, Target};
use zsnap_common::zfs::Snapshot;
use zsnap_common::zstream::{Guid, StreamFacts, SubStream};

use crate::journal::{Applied, Past};

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply it, without its first `skip` sub-streams, which are there.
    Ready {
        /// How many sub-streams are there already.
        skip: usize,
    },
    /// Its last snapshot is there: remove it.
    AlreadyThere,
    /// Older than what was applied: remove it.
    Stale,
    /// A newer file holds all that it holds: remove it once that one is applied.
    Superseded,
    /// It stays until what it builds on comes.
    Waiting(String),
    /// It stays: nothing that comes by itself will help. Says the remedy.
    Broken(String),
    /// It stays: the dataset was changed here. Says the remedy.
    Diverged(String),
    /// It stays: it contradicts what is here. Says the remedy.
    Conflict(String),
    /// To quarantine.
    Refused(String),
}

/// Snapshots of the dataset that a stream goes to, as far as it is there.
pub struct There<'a> {
    /// Its name on this pool: `STORE/HOST/DATASET`.
    pub name: &'a str,
    /// `None`: the dataset is absent. Oldest first.
    pub snapshots: Option<&'a [Snapshot]>,
}

/// Decides about a ZFS stream. `seq` is its number, if it has a manifest.
pub fn zfs(there: &There<'_>, stream: &StreamFacts, seq: Option<u64>, past: &Past) -> Verdict {
    let has = |guid: Guid| there.snapshots.is_some_and(|all| all.iter().any(|s| s.guid == guid));
    let skip = stream.substreams.iter().rposition(|s| has(s.to)).map_or(0, |j| j + 1);
    let Some(next) = stream.substreams.get(skip) else { return Verdict::AlreadyThere };
    if stream.substreams.last().is_some_and(|last| followed(past, last.to, &has)) {
        return Verdict::AlreadyThere;
    }
    match (next.from, there.snapshots) {
        (None, None) => first_full(next, seq, past),
        (None, Some(_)) => Verdict::Conflict(format!(
            "a full stream for {0}, which exists; to take it: zfs rename {0} {0}.old, and the next run receives it",
            there.name
        )),
        (Some(from), Some(_)) if has(from) => Verdict::Ready { skip },
        (Some(from), _) if past.committed.contains(&from) => Verdict::Broken(format!(
            "its base {from} was received into {} and is gone; queue a stream from a snapshot that is still there, or a full one",
            there.name
        )),
        (Some(from), _) => Verdict::Waiting(format!("for its base {from}, which is not on {} yet", there.name)),
    }
}

/// Whether `guid` was committed and a later committed one is still there: it was pruned here on
/// purpose.
fn followed(past: &Past, guid: Guid, has: &impl Fn(Guid) -> bool) -> bool {
    let at = past.committed.iter().rposition(|&c| c == guid);
    at.is_some_and(|at| past.committed.iter().skip(at + 1).any(|&later| has(later)))
}

/// A full stream for an absent dataset. One that was taken before and is not newer than what was
/// taken since is a replay: it would bring back something old.
fn first_full(sub: &SubStream, seq: Option<u64>, past: &Past) -> Verdict {
    let known = past.committed.contains(&sub.to);
    let newer = matches!((seq, past.last_seq), (Some(seq), Some(last)) if seq > last);
    if known && !newer {
        return Verdict::Refused(format!(
            "a replay: snapshot {} was received before, and its dataset is gone since; zsnap-ingest adopt forgets that",
            sub.to
        ));
    }
    Verdict::Ready { skip: 0 }
}

/// The dataset of the same host that must be there first, if any is missing: the outermost one.
pub fn missing_parent(target: &Target, has: impl Fn(&Dataset) -> bool) -> Option<Dataset> {
    let mut missing = None;
    let mut at = target.dataset.parent();
    while let Some(parent) = at {
        at = parent.parent();
        if !has(&parent) {
            missing = Some(parent);
        }
    }
    missing
}

/// Decides about an opaque stream. `pending` are the manifests of the other waiting files of
/// its target.
pub fn opaque(file: &Manifest, past: Option<&Applied>, pending: &[Manifest], overlap: bool) -> Verdict {
    if let Some(past) = past.filter(|p| p.applying && !overlap) {
        return Verdict::Broken(format!(
            "file {} was being applied when the run ended, and may have been; look at its target, then: zsnap-ingest \
             adopt {}/{} --applied or --not-applied",
            past.seq, file.host, file.dataset
        ));
    }
    let full = file.base == Base::None;
    let Some(past) = past else {
        return if full { Verdict::Ready { skip: 0 } } else { waiting(file) };
    };
    if file.epoch.id != past.epoch.id {
        return match file.epoch.started.cmp(&past.epoch.started) {
            std::cmp::Ordering::Less => Verdict::Stale,
            std::cmp::Ordering::Greater if full => Verdict::Ready { skip: 0 },
            std::cmp::Ordering::Greater => waiting(file),
            std::cmp::Ordering::Equal => two_machines(file),
        };
    }
    match file.seq.cmp(&past.seq) {
        // One that was being applied, and whose command takes repeats, is applied again.
        std::cmp::Ordering::Equal if file.id == past.id && past.applying => Verdict::Ready { skip: 0 },
        std::cmp::Ordering::Equal if file.id == past.id => Verdict::AlreadyThere,
        std::cmp::Ordering::Equal => two_machines(file),
        std::cmp::Ordering::Less => Verdict::Stale,
        std::cmp::Ordering::Greater if full => Verdict::Ready { skip: 0 },
        std::cmp::Ordering::Greater => increment(file, past, pending, overlap),
    }
}

/// An increment that is newer than what was applied in its epoch.
fn increment(file: &Manifest, past: &Applied, pending: &[Manifest], overlap: bool) -> Verdict {
    let same_base = |other: &&Manifest| {
        other.epoch == file.epoch && other.base == Base::Prev && other.prev == file.prev && other.seq > file.seq
    };
    if pending.iter().any(|other| same_base(&other)) {
        return Verdict::Superseded;
    }
    match file.prev {
        Some(prev) if prev == past.seq => Verdict::Ready { skip: 0 },
        Some(prev) if prev < past.seq && overlap => Verdict::Ready { skip: 0 },
        Some(prev) if prev < past.seq => Verdict::Broken(format!(
            "it builds on file {prev}, and file {} was applied over that; queue a new --full",
            past.seq
        )),
        _ => waiting(file),
    }
}

fn waiting(file: &Manifest) -> Verdict {
    Verdict::Waiting(match file.prev {
        Some(prev) => format!("for file {prev} of the same target, which it builds on"),
        None => "for a full stream; queue one with --full".to_owned(),
    })
}

fn two_machines(file: &Manifest) -> Verdict {
    Verdict::Conflict(format!(
        "another file has the number {} too: two machines use one identity; give the second one its own host name and key",
        file.seq
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zsnap_common::payload::{Epoch, PayloadKind};
    use zsnap_common::zstream::Kind;

    fn stream(links: &[(u64, u64)]) -> StreamFacts {
        let sub = |&(from, to): &(u64, u64)| SubStream {
            fs: "tank".into(),
            snap: format!("s{to}"),
            from: (from != 0).then_some(Guid(from)),
            to: Guid(to),
            kind: Kind::Filesystem,
            raw: false,
            compressed: false,
            created: 0,
        };
        let substreams = links.iter().map(sub).collect();
        StreamFacts { compound: links.len() > 1, properties: false, substreams, bytes: 0 }
    }

    fn snapshots(guids: &[u64]) -> Vec<Snapshot> {
        guids.iter().map(|&g| Snapshot { name: format!("s{g}"), guid: Guid(g), createtxg: g, creation: 0 }).collect()
    }

    #[test]
    fn guids_decide() {
        let past =
            |committed: &[u64], last_seq| Past { committed: committed.iter().map(|&g| Guid(g)).collect(), last_seq };
        let none = past(&[], None);
        type Row<'a> = (&'a str, Option<&'a [u64]>, &'a [(u64, u64)], Option<u64>, Past, &'a str);
        let rows: &[Row<'_>] = &[
            ("first full", None, &[(0, 1)], Some(5), none.clone(), "Ready { skip: 0 }"),
            ("full again", Some(&[1]), &[(0, 1)], Some(5), none.clone(), "AlreadyThere"),
            ("another full", Some(&[1]), &[(0, 9)], Some(5), none.clone(), "Conflict"),
            ("next", Some(&[1]), &[(1, 2)], Some(6), none.clone(), "Ready { skip: 0 }"),
            ("overlap", Some(&[1, 2]), &[(1, 2), (2, 3)], Some(6), none.clone(), "Ready { skip: 1 }"),
            ("all there", Some(&[1, 2, 3]), &[(1, 2), (2, 3)], Some(6), none.clone(), "AlreadyThere"),
            ("middle pruned", Some(&[1, 3]), &[(1, 2), (2, 3), (3, 4)], Some(6), none.clone(), "Ready { skip: 2 }"),
            ("base to come", Some(&[1]), &[(2, 3)], Some(6), none.clone(), "Waiting"),
            ("dataset to come", None, &[(2, 3)], Some(6), none.clone(), "Waiting"),
            ("base was here", Some(&[1]), &[(2, 3)], Some(6), past(&[1, 2], Some(5)), "Broken"),
            ("pruned since", Some(&[1, 4]), &[(2, 3)], Some(6), past(&[1, 2, 3, 4], Some(9)), "AlreadyThere"),
            ("rewound pool", Some(&[1]), &[(1, 2)], Some(6), past(&[1, 2], Some(6)), "Ready { skip: 0 }"),
            ("replayed full", None, &[(0, 1)], Some(5), past(&[1], Some(5)), "Refused"),
            ("replayed full of the seeds", None, &[(0, 1)], None, past(&[1], None), "Refused"),
            ("queued anew", None, &[(0, 1)], Some(9), past(&[1], Some(5)), "Ready { skip: 0 }"),
            ("another full for a destroyed one", None, &[(0, 7)], Some(4), past(&[1], Some(5)), "Ready { skip: 0 }"),
        ];
        for (what, there, links, seq, past, verdict) in rows {
            let all = there.map(snapshots);
            let there = There { name: "p/h/tank", snapshots: all.as_deref() };
            let got = format!("{:?}", zfs(&there, &stream(links), *seq, past));
            assert!(got.starts_with(verdict), "{what}: {got}");
        }
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

    fn manifest(epoch: (&str, u64), seq: u64, prev: Option<u64>, base: Base) -> Manifest {
        Manifest {
            zsnap: 1,
            host: "h".parse().unwrap(),
            dataset: "etc".parse().unwrap(),
            created: 0,
            kind: PayloadKind::Opaque,
            id: format!("{seq:032x}"),
            epoch: Epoch { id: epoch.0.into(), started: epoch.1 },
            seq,
            prev,
            base,
            zfs: None,
        }
    }

    #[test]
    fn numbers_decide() {
        let (a, b) = (("a", 100), ("b", 200));
        let full = |epoch, seq| manifest(epoch, seq, None, Base::None);
        let incr = |epoch, seq, prev| manifest(epoch, seq, Some(prev), Base::Prev);
        let other_id = Manifest { id: "f".repeat(32), ..full(b, 5) };
        let at5 = Applied::of(&full(b, 5));
        type Row<'a> = (&'a str, Manifest, Option<&'a Applied>, Vec<Manifest>, bool, &'a str);
        let rows: Vec<Row<'_>> = vec![
            ("first full", full(a, 1), None, vec![], false, "Ready"),
            ("increment before its full", incr(a, 2, 1), None, vec![], true, "Waiting"),
            ("next", incr(b, 6, 5), Some(&at5), vec![], false, "Ready"),
            ("one is missing between", incr(b, 7, 6), Some(&at5), vec![], true, "Waiting"),
            ("a new full", full(b, 9), Some(&at5), vec![], false, "Ready"),
            ("the same again", full(b, 5), Some(&at5), vec![], false, "AlreadyThere"),
            ("the same number, another file", other_id, Some(&at5), vec![], false, "Conflict"),
            ("an older number", full(b, 4), Some(&at5), vec![], false, "Stale"),
            ("an older epoch", full(a, 9), Some(&at5), vec![], false, "Stale"),
            ("a newer epoch", full(("c", 300), 1), Some(&at5), vec![], false, "Ready"),
            ("a newer epoch's increment", incr(("c", 300), 2, 1), Some(&at5), vec![], true, "Waiting"),
            ("two with one base: the lower", incr(b, 6, 5), Some(&at5), vec![incr(b, 7, 5)], false, "Superseded"),
            ("two with one base: the higher", incr(b, 7, 5), Some(&at5), vec![incr(b, 6, 5)], false, "Ready"),
            ("the lower one was applied, harmless", incr(b, 6, 4), Some(&at5), vec![], true, "Ready"),
            ("the lower one was applied", incr(b, 6, 4), Some(&at5), vec![], false, "Broken"),
        ];
        for (what, file, past, pending, overlap, verdict) in rows {
            let got = format!("{:?}", opaque(&file, past, &pending, overlap));
            assert!(got.starts_with(verdict), "{what}: {got}");
        }
        let applying = Applied { applying: true, ..at5 };
        let again = |file: &Manifest, overlap| format!("{:?}", opaque(file, Some(&applying), &[], overlap));
        assert!(again(&full(b, 5), true).starts_with("Ready"));
        assert!(again(&full(b, 5), false).starts_with("Broken"));
        assert!(again(&incr(b, 6, 5), false).starts_with("Broken"));
    }
}
