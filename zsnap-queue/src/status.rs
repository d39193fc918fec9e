//! `status`: reports what was queued when, and what waits. It changes nothing and takes no lock.

use std::collections::BTreeMap;
use std::time::Duration;

use zsnap_common::cli::colour::Tone;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::options;
use zsnap_common::cli::report::{self, Cell, Column, Report};
use zsnap_common::durable::dest::{Dest, short_names};
use zsnap_common::durable::outbox::{Amount, Queued};
use zsnap_common::durable::success;
use zsnap_common::names::target::Target;

use crate::aboard;
use crate::cli::{Options, StatusOptions};
use crate::delivery;
use crate::destination::{self, Destination};
use crate::flush::existing;
use crate::job;
use crate::state::State;

/// The states of a dataset at a destination.
const STATES: [&str; 6] = ["empty", "waiting", NOT_SENT, "delivered", "handed to NNCP", "handed over"];
/// The state at a destination for which the newest file was not queued, such as a new one.
const NOT_SENT: &str = "not sent";
/// The end of the note about files that are on a drive without their names.
const ABOARD: &str = " in the outbox on the drive: mount it, and run zsnap-queue flush before it is carried away";

/// Returns the tone of one of [`STATES`].
fn tone(state: &str) -> Tone {
    if ["empty", "waiting", NOT_SENT].contains(&state) { Tone::Pending } else { Tone::Good }
}

/// Prints the report. `now` is in seconds since 1970. The exit status is 1 if something is older than `--max-age`.
pub fn status(o: &Options, s: &StatusOptions, now: u64) -> anyhow::Result<Exit> {
    let only: Vec<Target> =
        s.targets.iter().map(|operand| job::lenient(operand, o.strip.as_deref())).collect::<anyhow::Result<_>>()?;
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let mut rows = match existing(&dir)? {
        Some(state) => gather(&state, o)?,
        None => Vec::new(),
    };
    rows.retain(|row| only.is_empty() || only.iter().any(|target| row.dataset == target.to_string()));
    let late = s.common.max_age.is_some_and(|max| note_late(&mut rows, &only, max, now));
    let report = Report { succeeded: success::last(&dir), ..report(&rows, now) };
    s.common.print(&report, o.json, if late { Exit::SomeFailed } else { Exit::Done })
}

/// A destination, as a row shows it.
#[derive(Debug)]
struct To {
    dest: Dest,
    /// Its name in the table.
    short: String,
    configured: bool,
    /// Whether the newest file was queued for it.
    sent: bool,
    waiting: Amount,
}

#[derive(Debug, Default)]
struct Row {
    /// HOST/DATASET, or `-` if nothing was ever queued.
    dataset: String,
    seq: u64,
    /// When the newest file was queued, in seconds since 1970; 0 if none was.
    queued: u64,
    /// `None` if there is no destination to show.
    to: Option<To>,
    notes: Vec<String>,
}

impl Row {
    fn state(&self) -> Option<&'static str> {
        match &self.to {
            Some(to) if to.waiting.files > 0 => Some("waiting"),
            _ if self.queued == 0 => Some("empty"),
            Some(to) if !to.sent => Some(NOT_SENT),
            Some(to) => Some(to.dest.done()),
            None => None,
        }
    }
}

fn gather(state: &State, o: &Options) -> anyhow::Result<Vec<Row>> {
    let boxes = state.outboxes();
    let transport = job::transport(o);
    let destinations = delivery::all(&boxes, destination::configured(&o.to, &transport), &transport)?;
    let short = short_names(&destinations.iter().map(|destination| &destination.dest).collect::<Vec<_>>());
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
        let dataset = target.to_string();
        let row = |to| Row { dataset: dataset.clone(), seq: past.chain.seq, queued: past.at, to, notes: Vec::new() };
        let before = rows.len();
        for (Destination { id, dest, configured, .. }, short) in destinations.iter().zip(&short) {
            let ours = |queued: &&Queued| state.is_of(&queued.parsed, &target);
            // Queued files wait even before they are linked into the outboxes.
            let to_split = split.iter().filter(|queued| {
                queued.parsed.stamp.seq() <= past.chain.seq
                    && past.destinations.contains(id)
                    && waiting[id].iter().all(|other| other.name != queued.name)
            });
            let waiting: Amount = waiting[id].iter().chain(to_split).filter(ours).collect();
            let aboard = aboard::waiting(&past.aboard, dest);
            let waiting = waiting + aboard;
            if *configured || waiting.files > 0 {
                let (dest, short, configured) = (dest.clone(), short.clone(), *configured);
                let sent = past.destinations.contains(id);
                let mut row = row(Some(To { dest: dest.clone(), short, configured, sent, waiting }));
                if !configured {
                    row.notes.push(format!(
                        "{}; flush still delivers there",
                        delivery::not_configured(waiting, &dest, &o.to)
                    ));
                }
                row.notes.extend((aboard.files > 0).then(|| format!("{}{ABOARD}", aboard.waits())));
                rows.push(row);
            }
        }
        if rows.len() == before {
            rows.push(row(None));
        }
    }
    Ok(rows)
}

/// Adds a note for each thing that is late, and returns whether there is any. If nothing was ever queued, that is late
/// too, because the caller expects backups; it gets a row. So is a future timestamp, which has no age, and a file that
/// waits too long for a destination that is no longer configured.
fn note_late(rows: &mut Vec<Row>, only: &[Target], max: Duration, now: u64) -> bool {
    let is_late = |time: u64| report::is_late(time, now, max);
    let since = |time: u64| report::since(time, now);
    let mut expected: Vec<String> = only.iter().map(Target::to_string).collect();
    if expected.is_empty() && rows.is_empty() {
        expected.push("-".to_owned());
    }
    expected.retain(|dataset| !rows.iter().any(|row| row.dataset == *dataset));
    rows.extend(expected.into_iter().map(|dataset| Row { dataset, ..Row::default() }));
    let (mut late, mut before) = (false, String::new());
    for row in rows {
        // A dataset has a row for each destination, but its age is reported once.
        let first = std::mem::replace(&mut before, row.dataset.clone()) != row.dataset;
        let mut notes = Vec::new();
        if first && is_late(row.queued) {
            notes.push(match row.queued {
                0 => "nothing was ever queued".to_owned(),
                time => format!("nothing was queued {}", since(time)),
            });
        }
        if let Some(To { dest, waiting: waiting @ Amount { oldest: Some(oldest), .. }, .. }) = &row.to {
            if is_late(*oldest) {
                notes.push(format!("{} for {dest}, the oldest {}", waiting.waits(), since(*oldest)));
            }
        }
        late |= !notes.is_empty();
        row.notes.splice(0..0, notes);
    }
    late
}

const COLUMNS: [Column; 14] = [
    Column::new("dataset", "DATASET").label("dataset"),
    Column::new("destination", "").label("destination"),
    Column::new("", "DESTINATION"),
    Column::new("state", "STATE").metric("state", "Whether the dataset is in this state at the destination."),
    Column::new("configured", ""),
    Column::new("queued", "QUEUED")
        .metric("queued_timestamp_seconds", "When the newest file of the dataset was queued, in seconds since 1970."),
    Column::new("acknowledged", ""),
    Column::new("age", ""),
    Column::new("seq", ""),
    Column::new("waiting_files", "WAITING").metric("waiting_files", "Files that wait for the destination."),
    Column::new("waiting_bytes", "BYTES").metric("waiting_bytes", "Size of the files that wait."),
    Column::new("waiting_oldest", "")
        .metric("waiting_oldest_timestamp_seconds", "When the oldest of the files that wait was queued."),
    Column::new("waiting_age", "AGE"),
    Column::new("note", ""),
];

fn report(rows: &[Row], now: u64) -> Report {
    let cells = |row: &Row| {
        let queued = |cell: fn(u64) -> Cell| if row.queued > 0 { cell(row.queued) } else { Cell::None };
        let of = |cell: &dyn Fn(&To) -> Cell| row.to.as_ref().map_or(Cell::None, cell);
        let oldest = |cell: fn(u64) -> Cell| of(&|to| Cell::known(to.waiting.oldest, cell));
        vec![
            Cell::Text(row.dataset.clone()),
            of(&|to| Cell::Text(to.dest.to_string())),
            of(&|to| Cell::Text(to.short.clone())),
            row.state().map_or(Cell::None, |state| Cell::State(state, &STATES, tone(state))),
            of(&|to| Cell::Text(if to.configured { "yes" } else { "no" }.to_owned())),
            queued(Cell::Ago),
            queued(Cell::Time),
            queued(Cell::Age),
            if row.queued > 0 { Cell::Count(row.seq) } else { Cell::None },
            of(&|to| Cell::Count(to.waiting.files)),
            of(&|to| Cell::Bytes(to.waiting.bytes)),
            oldest(Cell::Ago),
            oldest(Cell::Age),
            Cell::Note(row.notes.join("; ")),
        ]
    };
    Report {
        columns: COLUMNS.to_vec(),
        rows: rows.iter().map(cells).collect(),
        metric: "zsnap_queue",
        now,
        succeeded: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(queued: u64, configured: bool, oldest: Option<u64>) -> Row {
        let waiting = Amount { files: oldest.iter().count() as u64, bytes: 1, oldest };
        let to = To { dest: "dir:/x".parse().unwrap(), short: "x".into(), configured, sent: true, waiting };
        Row { dataset: "h/a".into(), seq: 1, queued, to: Some(to), notes: Vec::new() }
    }

    #[test]
    fn a_target_is_late_if_nothing_is_queued_or_a_file_waits_too_long() {
        let notes = |mut rows: Vec<Row>, only: &[&str]| {
            let only: Vec<Target> = only.iter().map(|target| target.parse().unwrap()).collect();
            let late = note_late(&mut rows, &only, Duration::from_secs(100), 1000);
            let notes = |row: &Row| row.notes.iter().map(|note| format!("{}: {note}", row.dataset)).collect::<Vec<_>>();
            let notes = rows.iter().flat_map(notes).collect::<Vec<_>>().join("; ");
            assert_eq!(late, !notes.is_empty());
            notes
        };
        let words = |rows: Vec<Row>| notes(rows, &[]);
        assert_eq!(words(vec![row(900, true, None), row(950, true, Some(900))]), "");
        let queued = "h/a: nothing was queued since 1970-01-01 00:14:59Z, longer than max-age";
        assert_eq!(words(vec![row(899, true, None), row(899, true, None)]), queued);
        let waits = "h/a: 1 file waits for dir:/x, the oldest since 1970-01-01 00:14:59Z, longer than max-age";
        assert_eq!(words(vec![row(950, true, Some(899))]), waits);
        // The destination is no longer configured, or is spelled differently.
        assert_eq!(words(vec![row(950, false, Some(899))]), waits);
        // The files were written while the clock was wrong.
        let future = "since 1970-01-02 03:46:40Z, a future time: set the clock if it is wrong; what comes next has the right time";
        assert_eq!(words(vec![row(100_000, true, None)]), format!("h/a: nothing was queued {future}"));
        assert!(words(vec![row(950, true, Some(100_000))]).ends_with(future));
        assert_eq!(words(vec![row(1100, true, Some(1100))]), "");
        assert_eq!(words(vec![]), "-: nothing was ever queued");
        assert_eq!(words(vec![row(0, true, None)]), "h/a: nothing was ever queued");
        assert_eq!(notes(vec![row(950, true, None)], &["h/a", "h/b"]), "h/b: nothing was ever queued");
    }

    #[test]
    fn every_row_of_queue_status_has_every_column_and_a_known_state() {
        let mut without = row(0, true, None);
        without.to = None;
        let rows = [row(900, true, Some(3)), row(900, true, None), without];
        let report = report(&rows, 1000);
        assert!(report.rows.iter().all(|row| row.len() == report.columns.len()));
        let states: Vec<_> = rows.iter().filter_map(Row::state).collect();
        assert_eq!(states, ["waiting", "delivered", "empty"]);
        assert!(states.iter().all(|state| STATES.contains(state)));
    }
}
