//! The report: a table with the reasons, JSON, or a picture.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};
use zsnap_common::cli::colour::Tone;
use zsnap_common::cli::escape::escape;
use zsnap_common::cli::report::{Cell, Column, Form, Report, ascii, time};
use zsnap_common::process::zfs::Zfs;

use crate::calendar::Clock;
use crate::cli::Options;
use crate::decided::{Decided, LeftAlone};
use crate::reason::Reason;
use crate::snapshot::{Snapshot, Verdict};
use crate::timeline;

/// Prints the report in the form that the options select.
pub fn print<'a>(
    all: &'a [Decided<'a>],
    odd: &[LeftAlone<'_>],
    zfs: &Zfs,
    clock: &Clock,
    options: &Options,
) -> io::Result<()> {
    if options.json {
        let objects = all.iter().map(|decided| object(decided, zfs)).chain(odd.iter().map(left_alone));
        let text = format!("{:#}\n", Value::Array(objects.collect()));
        return write(&ascii(&text));
    }
    let now = Timestamp::from_second(clock.now).unwrap_or_default();
    write(&format!("as of {now}, days begin in {}\n", clock.zone_name()))?;
    if options.timeline {
        write(&timeline::draw(all, clock))?;
        return write(&summary(all, odd));
    }
    let row = |(snapshot, verdict, braked): (&Snapshot<'_>, &Verdict, bool)| {
        let created = u64::try_from(snapshot.creation).map_or(Cell::None, Cell::Time);
        let word = Cell::Word(word(verdict, braked), tone(verdict, braked));
        vec![Cell::Text(snapshot.name.to_owned()), created, word, Cell::Text(reasons(snapshot, verdict).join("; "))]
    };
    let of = |decided: &'a Decided<'a>| {
        let both = decided.snapshots.iter().zip(&decided.verdicts);
        both.map(|(snapshot, verdict)| (snapshot, verdict, decided.braked.is_some()))
    };
    let rows = all.iter().flat_map(of).map(row).collect();
    let heads = ["SNAPSHOT", "CREATED", "VERDICT", "REASONS"];
    let columns = heads.map(|head| Column::new("", head)).to_vec();
    Report { columns, rows, ..Report::default() }.print(Form::Table)?;
    write(&summary(all, odd))
}

/// Returns how many snapshots stay and how many do not, and at which datasets a safety limit stops the run.
fn summary(all: &[Decided<'_>], odd: &[LeftAlone<'_>]) -> String {
    let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let snapshots: usize = all.iter().map(|decided| decided.snapshots.len()).sum();
    let doomed: usize = all.iter().map(|decided| decided.doomed().len()).sum();
    let kept = count(snapshots - doomed, "snapshot");
    let mut text = format!("{}: {kept} to keep, {doomed} to destroy\n", count(all.len(), "dataset"));
    for decided in all {
        let dataset = escape(decided.dataset);
        if let Some(why) = &decided.braked {
            text += &format!("safety limit: {dataset}: nothing is destroyed: {}\n", why.with_remedy("-n"));
        }
        if let Some(why) = &decided.would_stop {
            text += &format!(
                "safety limit: {dataset}: a run without -n destroys nothing: {why}: run it once with --force\n"
            );
        }
    }
    if !odd.is_empty() {
        text += &format!("{} left out, where nothing is destroyed: see the messages\n", count(odd.len(), "dataset"));
    }
    text
}

/// Returns what determines the colour of the word for a verdict.
fn tone(verdict: &Verdict, braked: bool) -> Tone {
    match (verdict.keep, braked) {
        (true, _) => Tone::Good,
        (false, true) => Tone::Bad,
        (false, false) => Tone::Pending,
    }
}

/// Returns the word for a verdict. `braked` is whether a safety limit stops the dataset.
pub fn word(verdict: &Verdict, braked: bool) -> &'static str {
    match (verdict.keep, braked) {
        (true, _) => "keep",
        (false, true) => "braked",
        (false, false) => "destroy",
    }
}

/// Returns the texts of the reasons, and whether the snapshot is back-dated.
pub fn reasons(snapshot: &Snapshot<'_>, verdict: &Verdict) -> Vec<String> {
    let mut reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
    if snapshot.is_back_dated() {
        // Dated rules use its own date, not the time by which it counts.
        let dated = verdict.reasons.iter().any(|reason| matches!(reason, Reason::Expires(_) | Reason::NoDate));
        reasons.push(match u64::try_from(snapshot.counts_as()) {
            Ok(then) if !dated => format!("back-dated, counts as of {}", time(then)),
            _ => "back-dated".to_owned(),
        });
    }
    reasons
}

/// Writes to standard output. If it is closed, that is an error like any other.
pub fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn object(decided: &Decided<'_>, zfs: &Zfs) -> Value {
    let of = |keep: bool| {
        let chosen = decided.snapshots.iter().zip(&decided.verdicts).filter(|(_, verdict)| verdict.keep == keep);
        let one = |(snapshot, verdict): (&Snapshot<'_>, &Verdict)| {
            json!({
                "name": snapshot.name,
                "guid": format!("{:016x}", snapshot.guid),
                "creation": snapshot.creation,
                "reasons": reasons(snapshot, verdict),
            })
        };
        chosen.map(one).collect::<Vec<_>>()
    };
    let doomed = decided.doomed();
    let snaps: Vec<&str> = doomed.iter().filter_map(|s| s.name.get(decided.dataset.len() + 1..)).collect();
    json!({
        "dataset": decided.dataset,
        "keep": of(true),
        "destroy": of(false),
        "braked": decided.braked.as_ref().map(ToString::to_string),
        "reclaim": if snaps.is_empty() { Some(0) } else { zfs.reclaim(decided.dataset, &snaps) },
    })
}

/// Returns the JSON object of a dataset that is skipped: its snapshots have no verdicts.
fn left_alone(LeftAlone { dataset, why }: &LeftAlone<'_>) -> Value {
    json!({ "dataset": dataset, "keep": [], "destroy": [], "braked": why.to_string(), "reclaim": 0 })
}
