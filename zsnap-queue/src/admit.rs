//! Decides whether a stream may be queued, and at which place in its chain. Pure: no files, no
//! processes, no clock.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;
use zsnap_common::stream::Guid;
use zsnap_message::payload::{Base, PayloadKind, ZfsHead};

/// How many snapshots of a dataset are remembered, at most, so that the state stays small. An
/// incremental whose base was forgotten has to be adopted.
const REMEMBERED: usize = 10_000;
/// How many of them, at most, are bases and last snapshots of streams. These are forgotten last,
/// because a sender continues from one of them.
const ENDS: usize = 1000;

/// What was queued for a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The number of the newest file; 0 if there is none.
    pub seq: u64,
    /// The kind of stream in the newest file.
    pub kind: Option<PayloadKind>,
    /// The snapshots that were queued, newest last.
    pub guids: Vec<Guid>,
    /// The snapshots in `guids` with which a stream began or ended, newest last.
    #[serde(default)]
    pub ends: Vec<Guid>,
    /// Whether the next incremental is accepted whatever its base.
    pub adopted: bool,
}

/// A stream to be queued.
pub enum Body {
    /// A ZFS stream, described by its first records, with or without a wrapper that carries properties.
    Zfs(ZfsHead),
    /// An opaque stream.
    Opaque { increment: bool },
}

/// The place of a queue file in its chain.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub seq: u64,
    pub prev: Option<u64>,
    pub base: Base,
    /// A problem that does not prevent queuing, for the user.
    pub warning: Option<String>,
}

/// Returns the place of `body` in the chain. `now` is in microseconds since 1970.
///
/// # Errors
/// One line: why the stream is rejected and what to do.
pub fn admit(past: &Chain, target: &Target, body: &Body, now: u64) -> Result<Place, String> {
    let running = past.seq > 0;
    let mut warning = None;
    let base = match body {
        Body::Zfs(head) => match head.from {
            None => {
                if !past.guids.is_empty() && !head.to.is_some_and(|to| past.guids.contains(&to)) {
                    warning = Some(format!(
                        "{target}: a full stream, though increments were queued before: zsnap-ingest will hold it \
                         back until the dataset that is there is renamed"
                    ));
                }
                Base::None
            }
            Some(from) if past.adopted || past.guids.contains(&from) => Base::Prev,
            Some(from) => return Err(broken_chain(target, head, from)),
        },
        Body::Opaque { increment: false } => Base::None,
        Body::Opaque { increment: true } if running && past.kind == Some(PayloadKind::Opaque) => Base::Prev,
        Body::Opaque { increment: true } => {
            return Err(format!(
                "{target}: an incremental, but no stream that it could build on was queued from here: queue one with --full"
            ));
        }
    };
    Ok(Place { seq: now.max(past.seq.saturating_add(1)), prev: running.then_some(past.seq), base, warning })
}

/// Returns the rejection of an incremental whose base was never queued, such as a snapshot that a failed
/// first send left behind: simplesnap always sends from its oldest snapshot.
fn broken_chain(target: &Target, head: &ZfsHead, from: Guid) -> String {
    let fs = head.toname.split('@').next().unwrap_or_default();
    let (guid, dataset) = (from.0, quoted(fs));
    format!(
        "{target}: the incremental builds on snapshot guid {guid} of {fs}, which was never queued from here, so nobody \
         could receive it. Find it with \"zfs list -Hd1 -t snapshot,bookmark -o guid,name {dataset} | grep {guid}\" and \
         \"zfs destroy {dataset}@SNAP\", then the next run sends from an older one or in full; or, if the receiver has it, \
         run \"zsnap-queue adopt {}\" once. Until then simplesnap stops here and skips the remaining datasets",
        quoted(&target.to_string())
    )
}

impl Chain {
    /// Returns the chain after queuing file `seq`, which builds on `base` and holds the snapshots `to`.
    /// The base is remembered too, because it may have been adopted: a caller that does not learn that
    /// this run succeeded sends from it again.
    pub fn acknowledge(&self, seq: u64, kind: PayloadKind, base: Option<Guid>, to: &[Guid]) -> Chain {
        let (between, last) = to.split_at(to.len().saturating_sub(1));
        let ends: Vec<Guid> = base.into_iter().chain(last.iter().copied()).collect();
        let new: Vec<Guid> = between.iter().copied().chain(ends.iter().copied()).collect();
        let mut ends = joined(&self.ends, &ends);
        ends.drain(..ends.len().saturating_sub(ENDS));
        let mut guids = joined(&self.guids, &new);
        let (kept, mut excess) = (set(&ends), guids.len().saturating_sub(REMEMBERED));
        guids.retain(|guid| {
            let forgotten = excess > 0 && !kept.contains(guid);
            excess -= usize::from(forgotten);
            !forgotten
        });
        Chain { seq, kind: Some(kind), guids, ends, adopted: false }
    }
}

fn set(guids: &[Guid]) -> HashSet<Guid> {
    guids.iter().copied().collect()
}

/// Returns `old` followed by `new`, each guid once: at its last place.
fn joined(old: &[Guid], new: &[Guid]) -> Vec<Guid> {
    let again = set(new);
    old.iter().filter(|guid| !again.contains(guid)).chain(new).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        "laptop/tank/home".parse().unwrap()
    }

    fn zfs(from: Option<u64>, to: u64) -> Body {
        let toname = "tank/home@b".to_owned();
        Body::Zfs(ZfsHead { toname, from: from.map(Guid), to: Some(Guid(to)), raw: false, compressed: false })
    }

    const FULL: Body = Body::Opaque { increment: false };
    const INCREMENTAL: Body = Body::Opaque { increment: true };

    fn chain(seq: u64, guids: &[u64]) -> Chain {
        let kind = (seq > 0).then_some(PayloadKind::Zfs);
        Chain { seq, kind, guids: guids.iter().copied().map(Guid).collect(), ..Chain::default() }
    }

    #[test]
    fn an_incremental_needs_a_base_that_was_queued() {
        let adopted = Chain { adopted: true, ..chain(7, &[1, 2]) };
        let opaque = Chain { kind: Some(PayloadKind::Opaque), ..chain(7, &[]) };
        let new = Chain::default();
        for (past, body, base) in [
            (&new, zfs(None, 1), Some(Base::None)),
            (&new, zfs(Some(1), 2), None),
            (&chain(7, &[1, 2]), zfs(Some(2), 3), Some(Base::Prev)),
            // After a failed run, simplesnap sends from its oldest snapshot.
            (&chain(7, &[1, 2]), zfs(Some(1), 3), Some(Base::Prev)),
            (&chain(7, &[1, 2]), zfs(Some(3), 4), None),
            (&adopted, zfs(Some(3), 4), Some(Base::Prev)),
            (&Chain { adopted: true, ..Chain::default() }, zfs(Some(3), 4), Some(Base::Prev)),
            (&new, FULL, Some(Base::None)),
            (&new, INCREMENTAL, None),
            (&adopted, INCREMENTAL, None),
            (&opaque, INCREMENTAL, Some(Base::Prev)),
            (&opaque, FULL, Some(Base::None)),
        ] {
            let place = admit(past, &target(), &body, 100);
            assert_eq!(place.as_ref().ok().map(|p| p.base), base, "{past:?}");
            if let Ok(place) = place {
                assert_eq!((place.seq, place.prev), (100, (past.seq > 0).then_some(past.seq)));
            }
        }
    }

    #[test]
    fn the_rejection_names_both_remedies_and_what_simplesnap_does() {
        let why = admit(&chain(7, &[1]), &target(), &zfs(Some(0xff), 3), 100).unwrap_err();
        for part in
            ["255", "zfs destroy tank/home@", "zsnap-queue adopt laptop/tank/home", "skips the remaining datasets"]
        {
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn numbers_grow_even_if_the_clock_goes_back() {
        let seq = |past: u64, now| admit(&chain(past, &[1]), &target(), &zfs(Some(1), 2), now).unwrap().seq;
        assert_eq!((seq(7, 100), seq(100, 100), seq(100, 3)), (100, 101, 101));
    }

    #[test]
    fn a_second_full_stream_has_a_warning() {
        let warned = |past: &Chain, to| admit(past, &target(), &zfs(None, to), 9).unwrap().warning.is_some();
        assert!(warned(&chain(7, &[1]), 2));
        // The receiver recognizes the repeated stream as already received.
        assert!(!warned(&chain(7, &[1]), 1));
        assert!(!warned(&Chain::default(), 1));
    }

    fn guids(numbers: impl IntoIterator<Item = u64>) -> Vec<Guid> {
        numbers.into_iter().map(Guid).collect()
    }

    #[test]
    fn queued_snapshots_are_remembered_once() {
        let before = Chain { adopted: true, ends: guids([1, 3]), ..chain(7, &[1, 2, 3]) };
        let next = before.acknowledge(9, PayloadKind::Zfs, Some(Guid(3)), &guids([2, 5, 4]));
        assert_eq!(next, Chain { ends: guids([1, 3, 4]), ..Chain { seq: 9, ..chain(7, &[1, 2, 5, 3, 4]) } });
        assert_eq!(next.acknowledge(10, PayloadKind::Opaque, None, &[]).guids, next.guids);
    }

    #[test]
    fn a_long_stream_evicts_neither_its_base_nor_the_ends_of_others() {
        for long in [REMEMBERED as u64 - 1, REMEMBERED as u64, 100_000] {
            let first = Chain::default().acknowledge(7, PayloadKind::Zfs, None, &guids([1]));
            let second = first.acknowledge(8, PayloadKind::Zfs, Some(Guid(1)), &guids([2]));
            let next = second.acknowledge(9, PayloadKind::Zfs, Some(Guid(2)), &guids(3..3 + long));
            assert_eq!((next.guids.len(), next.ends.len()), (REMEMBERED, 3), "{long}");
            for from in [1, 2, 2 + long, 1 + long] {
                let place = admit(&next, &target(), &zfs(Some(from), 7_000_000), 100);
                assert_eq!(place.map(|place| place.base), Ok(Base::Prev), "{long}, from {from}");
            }
            // The snapshots in between are forgotten first, beginning with the oldest.
            assert!(admit(&next, &target(), &zfs(Some(3), 7_000_000), 100).is_err(), "{long}");
        }
    }

    #[test]
    fn the_number_of_remembered_snapshots_is_limited() {
        let full = guids(1..=REMEMBERED as u64);
        let ends = full[REMEMBERED - ENDS..].to_vec();
        let mut all = Chain { guids: full, ends, ..chain(7, &[]) };
        for n in 10_001..10_011 {
            all = all.acknowledge(n, PayloadKind::Zfs, Some(Guid(n - 1)), &[Guid(n)]);
        }
        assert_eq!((all.guids.len(), all.ends.len()), (REMEMBERED, ENDS));
        assert_eq!((all.guids.first(), all.guids.last()), (Some(&Guid(11)), Some(&Guid(10_010))));
    }
}
