//! Plans opaque streams. They do not contain what they build on, so the numbers in their manifests decide.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;
use zsnap_message::payload::Base;

use super::{Applied, Number, Pending, Plan, Standing, if_lost, numbered};

/// Decides about the files of one target. `past`: the journal's entry for it. `overlap`: an incremental does no harm
/// when it is applied over a newer state.
pub fn opaque(files: &[Pending<'_>], past: Option<&Applied>, overlap: bool) -> Plan {
    let number = |file: usize| files.get(file).and_then(|f| f.facts.number.as_ref());
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|&file| number(file).map(|n| (n.epoch.started, n.epoch.id.as_str(), n.seq)));
    // A sender never leaves two incrementals on the same file: it withdraws one that it did not report as queued.
    let mut twins: HashMap<(&str, u64), BTreeSet<&str>> = HashMap::new();
    for number in order.iter().filter_map(|&file| number(file)) {
        if let (Base::Prev, Some(prev)) = (number.base, number.prev) {
            twins.entry((&number.epoch.id, prev)).or_default().insert(&number.id);
        }
    }
    let pending: HashMap<(&str, u64), usize> =
        order.iter().filter_map(|&file| number(file).map(|n| ((n.epoch.id.as_str(), n.seq), file))).collect();
    let mut plan = Plan { standings: vec![Standing::Superseded; files.len()], path: Vec::new() };
    let mut past = past.cloned();
    if let Some(past) = &mut past {
        for number in order.iter().rev().filter_map(|&file| number(file)) {
            if past.has_passed(number) {
                past.passed(number);
            }
        }
    }
    let now = past.clone();
    for file in order {
        let Some(number) = number(file) else {
            plan.standings[file] = Standing::Refused("it has no manifest".into());
            continue;
        };
        let key = number.prev.map(|prev| (number.epoch.id.as_str(), prev));
        let is_twin = number.base == Base::Prev && key.and_then(|key| twins.get(&key)).is_some_and(|ids| ids.len() > 1);
        let target = &files[file].facts.target;
        let mut standing = match &past {
            Some(past) if past.applying && !overlap => Standing::Broken(format!(
                "{} was being applied when the run ended, and may have been; look at its target, then: zsnap-ingest \
                 forget {} --applied or --not-applied",
                numbered(past.seq, target),
                quoted(&target.to_string())
            )),
            _ => one(target, number, past.as_ref(), is_twin, overlap),
        };
        match &mut standing {
            Standing::Ready { .. } => {
                plan.path.push(file);
                past = Some(Applied::of(number, past.take()));
            }
            Standing::Waiting { behind, .. } => *behind = key.and_then(|key| pending.get(&key)).copied(),
            // It counts as applied only because of a file that is not applied yet, and must not be removed before
            // that.
            Standing::AlreadyThere | Standing::Stale
                if !one(target, number, now.as_ref(), is_twin, overlap).is_needless() =>
            {
                standing = Standing::Superseded;
            }
            _ => {}
        }
        plan.standings[file] = standing;
    }
    plan
}

/// Decides about one file, given that `past` was applied last. A file may be removed only if it is known to have been
/// applied, or to precede one that was: a slow clock, or a state that was set back, gives new files old numbers.
fn one(target: &Target, file: &Number, past: Option<&Applied>, is_twin: bool, overlap: bool) -> Standing {
    const READY: Standing = Standing::Ready { skip: 0, again: false };
    let full = file.base == Base::None;
    let Some(past) = past else {
        return if full { READY } else { waiting(target, file) };
    };
    if file.epoch.id != past.epoch.id {
        return match file.epoch.started.cmp(&past.epoch.started) {
            Ordering::Less => Standing::Conflict(format!(
                "the state of {} that numbered it began before the one of {}, which was applied: that was lost \
                 while the clock was slow, or two machines use one identity; to go on with this one: zsnap-ingest forget \
                 {}, or else remove the file",
                target.host,
                numbered(past.seq, target),
                quoted(&target.to_string())
            )),
            Ordering::Greater if full => READY,
            Ordering::Greater => waiting(target, file),
            Ordering::Equal => two_machines(file),
        };
    }
    match file.seq.cmp(&past.seq) {
        // It was being applied when a run ended, and its command tolerates repeats: it is applied again.
        Ordering::Equal if file.id == past.id && past.applying => READY,
        Ordering::Equal if file.id == past.id => Standing::AlreadyThere,
        Ordering::Equal => two_machines(file),
        Ordering::Less if past.has_passed(file) => Standing::Stale,
        Ordering::Less => Standing::Conflict(format!(
            "{}, which was applied, is not known to have come after it: files between them were lost, or the state \
             of {} was set back; zsnap-ingest cat writes what it holds; then remove it{}",
            numbered(past.seq, target),
            target.host,
            match full {
                true => format!(", or to go on with it: zsnap-ingest forget {}", quoted(&target.to_string())),
                false => String::new(),
            }
        )),
        Ordering::Greater if full => READY,
        Ordering::Greater if is_twin && file.prev >= Some(past.seq) => Standing::Conflict(format!(
            "another file builds on {} too: the state of {} was set back, or two machines use it; move away \
             the one that is not to be applied, or queue a new --full",
            numbered(file.prev.unwrap_or_default(), target),
            target.host
        )),
        Ordering::Greater => match file.prev {
            Some(prev) if prev == past.seq => READY,
            Some(prev) if prev < past.seq && overlap => READY,
            Some(prev) if prev < past.seq => Standing::Broken(format!(
                "it builds on {}, and {} was applied over that; queue a new --full",
                numbered(prev, target),
                numbered(past.seq, target)
            )),
            _ => waiting(target, file),
        },
    }
}

fn waiting(target: &Target, file: &Number) -> Standing {
    let full = format!("zsnap-queue --opaque --full {}", quoted(&target.to_string()));
    let why = match file.prev {
        Some(prev) => format!("for {}, which it builds on; {}", numbered(prev, target), if_lost(target, &full)),
        None => format!("for a full stream; queue one on {}: {full}", target.host),
    };
    Standing::Waiting { why, behind: None }
}

fn two_machines(file: &Number) -> Standing {
    Standing::Conflict(format!(
        "another file has the number {} too: two machines use one identity; give the second one its own host name and key",
        file.seq
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Facts;
    use zsnap_message::payload::Epoch;

    fn number(epoch: (&str, u64), seq: u64, prev: Option<u64>, base: Base) -> Number {
        Number { epoch: Epoch { id: epoch.0.into(), started: epoch.1 }, seq, prev, id: format!("{seq:032x}"), base }
    }

    fn plan(numbers: &[Number], past: Option<&Applied>, overlap: bool) -> Plan {
        let facts = |n: &Number| Facts {
            target: "h/etc".parse().unwrap(),
            order: n.seq,
            number: Some(n.clone()),
            links: Vec::new(),
        };
        let facts: Vec<Facts> = numbers.iter().map(facts).collect();
        let pending: Vec<Pending<'_>> = facts.iter().map(|facts| Pending { facts, refused_at: None }).collect();
        opaque(&pending, past, overlap)
    }

    #[test]
    fn numbers_decide() {
        let (a, b) = (("a", 100), ("b", 200));
        let full = |epoch, seq| number(epoch, seq, None, Base::None);
        let incr = |epoch, seq, prev| number(epoch, seq, Some(prev), Base::Prev);
        let other_id = Number { id: "f".repeat(32), ..full(b, 5) };
        let after = |seq, prev| Number { prev: Some(prev), ..full(b, seq) };
        let at5 = Applied::of(&full(b, 5), None);
        let over5 = Applied::of(&incr(b, 7, 5), Some(at5.clone()));
        let at7 = Applied::of(&incr(b, 7, 6), Some(at5.clone()));
        let at8 = Applied::of(&incr(b, 8, 7), Some(at7.clone()));
        let at9 = Applied::of(&after(9, 8), Some(at5.clone()));
        // Files, the last one applied, overlap; then the standings and the order.
        type Row<'a> = (&'a str, Vec<Number>, Option<&'a Applied>, bool, &'a [&'a str], &'a [usize]);
        let rows: Vec<Row<'_>> = vec![
            ("first full", vec![full(a, 1)], None, false, &["ready"], &[0]),
            ("increment before its full", vec![incr(a, 2, 1)], None, true, &["waiting"], &[]),
            ("in any order", vec![incr(a, 3, 2), full(a, 1), incr(a, 2, 1)], None, true, &["ready"; 3], &[1, 2, 0]),
            ("next", vec![incr(b, 6, 5)], Some(&at5), false, &["ready"], &[0]),
            ("one is missing between", vec![incr(b, 7, 6)], Some(&at5), true, &["waiting"], &[]),
            ("a new full", vec![full(b, 9)], Some(&at5), false, &["ready"], &[0]),
            ("the same again", vec![full(b, 5)], Some(&at5), false, &["there"], &[]),
            ("two copies", vec![full(b, 6), full(b, 6)], Some(&at5), false, &["ready", "superseded"], &[0]),
            ("the same number, another file", vec![other_id.clone()], Some(&at5), false, &["conflict"], &[]),
            ("older, and never heard of", vec![full(b, 4)], Some(&at5), false, &["conflict"], &[]),
            ("applied earlier", vec![full(b, 5)], Some(&at7), false, &["stale"], &[]),
            ("its number was applied earlier", vec![other_id.clone()], Some(&at7), false, &["conflict"], &[]),
            (
                "one on it was applied without it",
                vec![incr(b, 6, 5), incr(b, 7, 6)],
                Some(&at8),
                true,
                &["conflict", "stale"],
                &[],
            ),
            (
                "late behind a full one: one after the other, but not what a state that was set back left",
                vec![incr(b, 6, 5), incr(b, 7, 5), incr(b, 8, 7)],
                Some(&at9),
                true,
                &["conflict", "stale", "stale"],
                &[],
            ),
            ("an epoch that began earlier", vec![full(a, 9)], Some(&at5), false, &["conflict"], &[]),
            ("an older one than a pending one", vec![full(a, 1), full(a, 2)], None, false, &["ready"; 2], &[0, 1]),
            ("a newer epoch", vec![full(("c", 300), 1)], Some(&at5), false, &["ready"], &[0]),
            ("a newer epoch's increment", vec![incr(("c", 300), 2, 1)], Some(&at5), true, &["waiting"], &[]),
            ("two epochs of one second", vec![full(("c", 200), 9)], Some(&at5), true, &["conflict"], &[]),
            (
                "two with one base, and a copy",
                vec![incr(b, 6, 5), incr(b, 7, 5), incr(b, 8, 7), incr(b, 7, 5)],
                Some(&at5),
                true,
                &["conflict", "conflict", "waiting", "conflict"],
                &[],
            ),
            (
                "and a full one",
                vec![incr(b, 6, 5), incr(b, 7, 5), after(8, 7)],
                Some(&at5),
                false,
                &["conflict", "conflict", "ready"],
                &[2],
            ),
            (
                "set back after it was applied",
                vec![incr(b, 6, 5), incr(b, 8, 7)],
                Some(&over5),
                false,
                &["conflict", "ready"],
                &[1],
            ),
            ("the lower one was applied, harmless", vec![incr(b, 6, 4)], Some(&at5), true, &["ready"], &[0]),
            ("the lower one was applied", vec![incr(b, 6, 4)], Some(&at5), false, &["broken"], &[]),
        ];
        for (what, files, past, overlap, words, path) in rows {
            let got = plan(&files, past, overlap);
            assert_eq!(got.standings.iter().map(Standing::word).collect::<Vec<_>>(), words, "{what}: {got:?}");
            assert_eq!(got.path, path, "{what}");
        }
        let waits = plan(&[incr(b, 8, 7), incr(b, 7, 6)], Some(&at5), true);
        assert!(matches!(
            waits.standings[..],
            [Standing::Waiting { behind: Some(1), .. }, Standing::Waiting { behind: None, .. }]
        ));
        let applying = Applied { applying: true, ..at5 };
        let again = |file: Number, overlap| plan(&[file], Some(&applying), overlap).standings[0].word();
        assert_eq!(again(full(b, 5), true), "ready");
        assert_eq!(again(full(b, 5), false), "broken");
        assert_eq!(again(incr(b, 6, 5), false), "broken");
    }
}
