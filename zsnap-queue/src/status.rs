//! `status`: reports what was queued when, and what waits. It changes nothing and takes no lock.

use std::collections::BTreeMap;
use std::time::Duration;

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::options;
use zsnap_common::cli::report::{self, Cell, Form, Report};
use zsnap_common::durable::outbox::{Amount, Queued};
use zsnap_common::names::target::Target;

use crate::cli::{Options, StatusOptions};
use crate::delivery::{self, Destination};
use crate::flush::existing;
use crate::job;
use crate::state::State;

/// Prints the report. `now` is in seconds since 1970. The exit status is 1 if something is older than `--max-age`.
pub fn status(o: &Options, s: &StatusOptions, now: u64) -> anyhow::Result<Exit> {
    let only: Vec<Target> =
        s.targets.iter().map(|operand| job::lenient(operand, o.strip.as_deref())).collect::<anyhow::Result<_>>()?;
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let mut rows = match existing(&dir)? {
        Some(state) => gather(&state, o)?,
        None => Vec::new(),
    };
    rows.retain(|row| only.is_empty() || only.contains(&row.target));
    let late = s.max_age.map(|max| late(&rows, &only, max, now)).unwrap_or_default();
    if !late.is_empty() || !s.quiet {
        report(&rows, now).print(Form::of(s.prometheus, o.json)).or_exit(Exit::Io, "standard output")?;
    }
    late.iter().for_each(log::error);
    Ok(if late.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

struct Row {
    target: Target,
    seq: u64,
    /// When the newest file was queued, in seconds since 1970; 0 if none was.
    acknowledged: u64,
    /// The destination, whether it is configured, and what waits for it; `None` if there is none to show.
    to: Option<(String, bool, Amount)>,
}

fn gather(state: &State, o: &Options) -> anyhow::Result<Vec<Row>> {
    let boxes = state.outboxes();
    let transport = job::transport(o);
    let destinations = delivery::all(&boxes, delivery::configured(&o.to, &transport), &transport)?;
    let mut waiting: BTreeMap<String, Vec<Queued>> = BTreeMap::new();
    for destination in &destinations {
        waiting.insert(
            destination.id.clone(),
            boxes.waiting(&destination.id).or_exit(Exit::TryAgain, "cannot read the outbox")?,
        );
    }
    let mut rows = Vec::new();
    for target in state.targets()? {
        let past = state.acknowledged(&target)?;
        let split = boxes.in_split(&target.host).or_exit(Exit::TryAgain, "cannot read the outbox")?;
        let row = |to| Row { target: target.clone(), seq: past.chain.seq, acknowledged: past.at, to };
        let before = rows.len();
        for Destination { id, dest, configured, .. } in &destinations {
            let ours = |queued: &&Queued| state.is_of(&queued.parsed, &target);
            // Queued files wait even before they are linked into the outboxes.
            let to_split = split.iter().filter(|queued| {
                queued.parsed.stamp.seq() <= past.chain.seq
                    && past.destinations.contains(id)
                    && waiting[id].iter().all(|other| other.name != queued.name)
            });
            let sum: Amount = waiting[id].iter().chain(to_split).filter(ours).collect();
            if *configured || sum.files > 0 {
                rows.push(row(Some((dest.to_string(), *configured, sum))));
            }
        }
        if rows.len() == before {
            rows.push(row(None));
        }
    }
    Ok(rows)
}

/// Returns a message for each thing that is late. If nothing was ever queued, that is late too, because
/// the caller expects backups. So is a future timestamp, which has no age, and a file that waits too
/// long for a destination that is no longer configured.
fn late(rows: &[Row], only: &[Target], max: Duration, now: u64) -> Vec<String> {
    let is_late = |time: u64| report::is_late(time, now, max);
    let since = |time: u64| report::since(time, now);
    let mut lines = Vec::new();
    if rows.is_empty() && only.is_empty() {
        lines.push("nothing was ever queued".to_owned());
    }
    for target in only.iter().filter(|target| !rows.iter().any(|row| row.target == **target)) {
        lines.push(format!("{target}: nothing was ever queued"));
    }
    for (i, row) in rows.iter().enumerate() {
        // A dataset has a row for each destination, but its age is reported once.
        let first = !rows[..i].iter().any(|before| before.target == row.target);
        if first && is_late(row.acknowledged) {
            lines.push(match row.acknowledged {
                0 => format!("{}: nothing was ever queued", row.target),
                time => format!("{}: nothing was queued {}", row.target, since(time)),
            });
        }
        match &row.to {
            Some((dest, configured, Amount { files, oldest: Some(oldest), .. })) if is_late(*oldest) => {
                let gone = if *configured { "" } else { ", which is not in the configuration any more" };
                let files = if *files == 1 { "1 file waits".to_owned() } else { format!("{files} files wait") };
                lines.push(format!("{}: {files} for {dest}{gone}, the oldest {}", row.target, since(*oldest)));
            }
            _ => {}
        }
    }
    lines
}

fn report(rows: &[Row], now: u64) -> Report {
    let age = |time: u64| Cell::Age(now.saturating_sub(time));
    let cells = |row: &Row| {
        let mut cells = vec![Cell::Text(row.target.to_string())];
        match &row.to {
            Some((dest, configured, _)) => {
                cells.extend([Cell::Text(dest.clone()), Cell::Text(if *configured { "yes" } else { "no" }.into())]);
            }
            None => cells.extend([Cell::None, Cell::None]),
        }
        if row.acknowledged > 0 {
            cells.extend([Cell::Time(row.acknowledged), age(row.acknowledged), Cell::Count(row.seq)]);
        } else {
            cells.extend([Cell::None, Cell::None, Cell::None]);
        }
        match &row.to {
            Some((_, _, w)) => {
                cells.extend([Cell::Count(w.files), Cell::Bytes(w.bytes), w.oldest.map_or(Cell::None, age)]);
            }
            None => cells.extend([Cell::None, Cell::None, Cell::None]),
        }
        cells
    };
    Report {
        columns: vec![
            "dataset",
            "destination",
            "configured",
            "acknowledged",
            "age",
            "seq",
            "waiting_files",
            "waiting_bytes",
            "waiting_age",
        ],
        rows: rows.iter().map(cells).collect(),
        metric: "zsnap_queue",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(acknowledged: u64, configured: bool, oldest: Option<u64>) -> Row {
        let waiting = Amount { files: oldest.iter().count() as u64, bytes: 1, oldest };
        Row { target: "h/a".parse().unwrap(), seq: 1, acknowledged, to: Some(("dir:/x".into(), configured, waiting)) }
    }

    #[test]
    fn a_target_is_late_if_nothing_is_queued_or_a_file_waits_too_long() {
        let late = |rows: &[Row]| late(rows, &[], Duration::from_secs(100), 1000);
        let words = |rows: &[Row]| late(rows).join("; ");
        assert_eq!(words(&[row(900, true, None), row(950, true, Some(900))]), "");
        let queued = "h/a: nothing was queued since 1970-01-01 00:14:59Z, longer than --max-age";
        assert_eq!(words(&[row(899, true, None), row(899, true, None)]), queued);
        assert_eq!(
            words(&[row(950, true, Some(899))]),
            "h/a: 1 file waits for dir:/x, the oldest since 1970-01-01 00:14:59Z, longer than --max-age"
        );
        // The destination is no longer configured, or is spelled differently.
        let gone = "h/a: 1 file waits for dir:/x, which is not in the configuration any more, the oldest since ";
        assert!(words(&[row(950, false, Some(1))]).starts_with(gone));
        // The files were written while the clock was wrong.
        let future = "since 1970-01-02 03:46:40Z, a future time: set the clock";
        assert_eq!(words(&[row(100_000, true, None)]), format!("h/a: nothing was queued {future}"));
        assert!(words(&[row(950, true, Some(100_000))]).ends_with(future));
        assert_eq!(words(&[row(1100, true, Some(1100))]), "");
        assert_eq!(words(&[]), "nothing was ever queued");
        assert_eq!(words(&[row(0, true, None)]), "h/a: nothing was ever queued");
        let only = super::late(&[row(950, true, None)], &["h/b".parse().unwrap()], Duration::from_secs(100), 1000);
        assert_eq!(only, ["h/b: nothing was ever queued"]);
    }

    #[test]
    fn every_row_of_queue_status_has_every_column() {
        let mut without = row(0, true, None);
        without.to = None;
        let report = report(&[row(900, true, Some(3)), without], 1000);
        assert!(report.rows.iter().all(|row| row.len() == report.columns.len()));
    }
}
