//! `status`: reports what each destination got, and what waits for it. It changes nothing and takes no lock.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use anyhow::Result;
use rustix::fs::{FileType, Stat};
use zsnap_common::cli::cancel;
use zsnap_common::cli::colour::Tone;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{self, Cell, Column, Report, ago};
use zsnap_common::durable::dest::{self, Dest};
use zsnap_common::durable::listing::{Listing, is_ignored};
use zsnap_common::durable::outbox::{Amount, Outboxes, Queued};
use zsnap_common::durable::success;
use zsnap_common::names::queue_name::QueueName;
use zsnap_common::names::stored::name_of;
use zsnap_common::names::target::Host;

use crate::cli::{Options, StatusOptions};
use crate::drive::Drive;
use crate::nncp;
use crate::run::PATIENCE;
use crate::scarce::{key, lacking};
use crate::seen::Seen;
use crate::since::Since;
use crate::spool::Spool;

/// The name of the spool in the column of destinations.
const SPOOL: &str = "(spool)";
/// The states of a destination, and of the spool.
const STATES: [&str; 9] =
    ["unreadable", "empty", "waiting", "delivered", "handed to NNCP", "handed over", "away", "failed", "unknown"];
/// The states in which somebody must do something: a part of the spool cannot be read, the last delivery failed, or
/// files wait for a destination that is not configured. Each has a note.
const ATTENTION: [&str; 3] = ["unreadable", "failed", "unknown"];

/// Returns the tone of one of [`STATES`].
fn tone(state: &str) -> Tone {
    match state {
        _ if ATTENTION.contains(&state) => Tone::Bad,
        "empty" | "waiting" | "away" => Tone::Pending,
        _ => Tone::Good,
    }
}

/// Prints the report. `now` is in seconds since 1970. The exit status is 1 if a state needs attention, or something is
/// older than `--max-age`.
pub fn status(options: &Options, drives: &[Drive], asked: &StatusOptions, now: u64) -> Result<Exit> {
    if let Some(unknown) = asked.drives.iter().find(|name| !drives.iter().any(|drive| drive.name == **name)) {
        return Err(Exit::Usage.error(format!("no drive is called {unknown}")));
    }
    let spool = Spool::look(options.spool.as_deref())?;
    let mut rows = gather(&spool, options, drives, now)?;
    // Always show the spool: its files concern every destination.
    rows.retain(|row| asked.drives.is_empty() || row.drive == SPOOL || asked.drives.contains(&row.drive));
    let mut attention = false;
    for row in &mut rows {
        let late = asked.common.max_age.map_or(Vec::new(), |max| row.late(max, now));
        attention |= ATTENTION.contains(&row.state) || !late.is_empty();
        if late.is_empty() {
            row.note_times(now);
        }
        row.notes.splice(0..0, late);
    }
    let report = Report { succeeded: success::last(&spool.state("")), ..report(&rows, now) };
    asked.common.print(&report, options.json, if attention { Exit::SomeFailed } else { Exit::Done })
}

/// A row of the report: a destination, or the spool itself.
#[derive(Debug, Default)]
struct Row {
    drive: String,
    state: &'static str,
    here: Option<bool>,
    seen: Seen,
    waiting: Amount,
    scarce: Amount,
    packets: Option<u64>,
    destination: String,
    notes: Vec<String>,
    /// Whether files are expected, because this is a configured destination.
    expects: bool,
}

impl Row {
    /// Returns a note for each thing that is late: files that wait for too long, or no delivery for too long. No
    /// delivery at all is late too, because the caller expects backups.
    fn late(&self, max: Duration, now: u64) -> Vec<String> {
        let is_late = |time: u64| report::is_late(time, now, max);
        let since = |time: u64| report::since(time, now);
        let mut notes = Vec::new();
        if let Some(oldest) = self.waiting.oldest.filter(|oldest| is_late(*oldest)) {
            notes.push(format!("{}, the oldest {}", self.waiting.waits(), since(oldest)));
        }
        match self.seen.delivered {
            None if self.expects => notes.push("nothing was ever delivered".to_owned()),
            Some(delivered) if self.expects && is_late(delivered) => {
                notes.push(format!("nothing was delivered {}", since(delivered)));
            }
            _ => {}
        }
        notes
    }

    /// Adds a note if an age is unknown because its time is in the future.
    fn note_times(&mut self, now: u64) {
        let times = [self.seen.at, self.seen.delivered, self.waiting.oldest];
        if times.into_iter().flatten().any(|time| ago(time, now).is_none()) {
            self.notes.push("times lie in the future: set the clock; what comes next has the right time".into());
        }
    }
}

fn gather(spool: &Spool, options: &Options, drives: &[Drive], now: u64) -> Result<Vec<Row>> {
    let boxes = spool.outboxes();
    // Read in the direction in which files move, so that a file that moves meanwhile is not missed.
    let (in_spool, unread) = in_spool(spool, &boxes)?;
    let mut waiting = Vec::new();
    for drive in drives {
        waiting.push(boxes.waiting(&drive.name).or_exit(Exit::Io, "cannot read the outbox")?);
    }
    let since: Vec<_> = drives.iter().map(|drive| Since::read(&boxes.dir(&drive.name))).collect();
    let lacking = lacking(&waiting, &in_spool, drives, &since, options.copies);
    let mut rows = vec![Row {
        drive: SPOOL.into(),
        state: match (&unread[..], &in_spool[..]) {
            ([_, ..], _) => "unreadable",
            ([], []) => "empty",
            _ => "waiting",
        },
        notes: unread,
        waiting: in_spool.iter().collect(),
        scarce: lacking.values().copied().collect(),
        destination: spool.incoming.path().display().to_string(),
        ..Row::default()
    }];
    for (drive, files) in drives.iter().zip(&waiting) {
        let mut row = row(drive, files, &lacking, &boxes, options);
        if row.here == Some(true) {
            row.seen.at = Some(now);
        }
        rows.push(row);
        cancel::check()?;
    }
    for name in boxes.names().or_exit(Exit::Io, "cannot read the outboxes")? {
        if !drives.iter().any(|drive| drive.name == name) {
            let files = boxes.waiting(&name).or_exit(Exit::Io, "cannot read the outbox")?;
            let notes = vec!["not in the configuration: correct its name there, or zsnap-fanout retire it".to_owned()];
            let seen = Seen::read(&boxes.dir(&name));
            rows.push(Row {
                state: "unknown",
                waiting: files.iter().collect(),
                seen,
                notes,
                drive: name,
                ..Row::default()
            });
        }
    }
    Ok(rows)
}

fn row(
    drive: &Drive,
    files: &[Queued],
    lacking: &HashMap<(&Host, &str), &Queued>,
    boxes: &Outboxes,
    options: &Options,
) -> Row {
    let mut row = Row {
        drive: drive.name.clone(),
        seen: Seen::read(&boxes.dir(&drive.name)),
        waiting: files.iter().collect(),
        scarce: files.iter().filter(|file| lacking.contains_key(&key(file))).collect(),
        destination: drive.dest.to_string(),
        expects: true,
        ..Row::default()
    };
    if let Dest::Dir(_) = drive.dest {
        match dest::look(&drive.dest, &drive.transport, &boxes.dir(&drive.name), PATIENCE) {
            Ok(look) => {
                row.here = Some(look.away.is_none());
                row.notes.extend(look.away.map(|why| match row.seen.at {
                    Some(at) => format!("{why}; it was last here at {}", report::time(at)),
                    None => why,
                }));
            }
            // Show the failure even if no run has recorded it yet.
            Err(e) => {
                let _ = row.seen.failed.insert(format!("{e:#}"));
            }
        }
    }
    match nncp::packets(drive, &options.nncp_stat_program) {
        Ok(packets) => row.packets = packets,
        Err(e) => row.notes.push(format!("{e:#}")),
    }
    let failed = row.seen.failed.clone().filter(|failed| !row.notes.contains(failed));
    row.notes.extend(failed);
    row.state = match (&drive.dest, row.here, &row.seen) {
        (_, Some(false), _) => "away",
        (_, _, Seen { failed: Some(_), .. }) => "failed",
        _ if !files.is_empty() => "waiting",
        (_, _, Seen { delivered: None, .. }) => "empty",
        (dest, ..) => dest.done(),
    };
    row
}

/// Returns the files that are in no outbox yet, and the reasons why some could not be listed.
fn in_spool(spool: &Spool, boxes: &Outboxes) -> Result<(Vec<Queued>, Vec<String>)> {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for name in spool.incoming.names().or_exit(Exit::Io, "--spool")? {
        if is_ignored(&spool.incoming, &name) {
            continue;
        }
        if let Some(host) = Host::of_directory(&name) {
            let read = of_host(spool, &name, &host, &mut files);
            unread.extend(read.err().map(|e| match e.kind() {
                io::ErrorKind::PermissionDenied => format!("{e}: correct its owner or mode"),
                _ => format!("{e}: look at the disk and at what the kernel says (dmesg)"),
            }));
        }
    }
    let mut seen: HashSet<_> = files.iter().map(|file| (file.parsed.host.clone(), file.name.clone())).collect();
    for host in boxes.hosts_in_split().or_exit(Exit::Io, "cannot read what is to be split")? {
        let split = boxes.in_split(&host).or_exit(Exit::Io, "cannot read what is to be split")?;
        files.extend(split.into_iter().filter(|file| seen.insert((host.clone(), file.name.clone()))));
    }
    Ok((files, unread))
}

/// Adds the files in the directory `name`, which is that of `host`, to `files`.
fn of_host(spool: &Spool, name: &OsStr, host: &Host, files: &mut Vec<Queued>) -> io::Result<()> {
    let is = |stat: Stat, kind| FileType::from_raw_mode(stat.st_mode) == kind;
    // Ignore a file or a symlink here: a run reports it.
    if !spool.incoming.stat(name)?.is_some_and(|stat| is(stat, FileType::Directory)) {
        return Ok(());
    }
    let dir = spool.incoming.inside(name)?;
    for (parsed, name) in Listing::of(&dir, usize::MAX)?.queue {
        let Some(stat) = dir.stat(&name)? else { continue };
        if is(stat, FileType::RegularFile) && parsed.host == *host {
            let name = name_of(&name);
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let written = u64::try_from(stat.st_mtime).unwrap_or(0);
            files.push(Queued { name, parsed, bytes, written });
        }
    }
    Ok(())
}

const COLUMNS: [Column; 18] = [
    Column::new("drive", "DESTINATION").label("destination"),
    Column::new("state", "STATE").metric("state", "Whether the destination is in this state."),
    Column::new("newest", "NEWEST").metric(
        "newest_timestamp_seconds",
        "When the newest file that was delivered was queued, by its sender's clock.",
    ),
    Column::new("delivered", "DELIVERED").metric("delivered_timestamp_seconds", "When a file was last delivered."),
    Column::new("delivered_age", ""),
    Column::new("seen", "").metric("seen_timestamp_seconds", "When the destination was last present."),
    Column::new("seen_age", ""),
    Column::new("waiting_files", "WAITING").metric("waiting_files", "Files that wait for the destination."),
    Column::new("waiting_bytes", "BYTES").metric("waiting_bytes", "Size of the files that wait."),
    Column::new("waiting_oldest", "")
        .metric("waiting_oldest_timestamp_seconds", "When the oldest of the files that wait arrived."),
    Column::new("waiting_age", "AGE"),
    Column::new("scarce_files", "SCARCE").metric("scarce_files", "Files that wait and have too few copies."),
    Column::new("scarce_bytes", "").metric("scarce_bytes", "Size of the scarce files."),
    Column::new("scarce_oldest", "")
        .metric("scarce_oldest_timestamp_seconds", "When the oldest of the scarce files arrived."),
    Column::new("scarce_age", ""),
    Column::new("nncp_packets", "NNCP").metric("nncp_packets", "Packets for the node in NNCP's spool."),
    Column::new("destination", ""),
    Column::new("note", ""),
];

fn report(rows: &[Row], now: u64) -> Report {
    let cells = |row: &Row| {
        let newest = row.seen.newest.as_ref().and_then(|name| name.parse::<QueueName>().ok());
        let (waiting, scarce, seen) = (row.waiting, row.scarce, &row.seen);
        vec![
            Cell::Text(row.drive.clone()),
            Cell::State(row.state, &STATES, tone(row.state)),
            Cell::known(newest.map(|name| name.stamp.secs), Cell::Ago),
            Cell::known(seen.delivered, Cell::Ago),
            Cell::known(seen.delivered, Cell::Age),
            Cell::known(seen.at, Cell::Ago),
            Cell::known(seen.at, Cell::Age),
            Cell::Count(waiting.files),
            Cell::Bytes(waiting.bytes),
            Cell::known(waiting.oldest, Cell::Ago),
            Cell::known(waiting.oldest, Cell::Age),
            Cell::Count(scarce.files),
            Cell::Bytes(scarce.bytes),
            Cell::known(scarce.oldest, Cell::Ago),
            Cell::known(scarce.oldest, Cell::Age),
            Cell::known(row.packets, Cell::Count),
            if row.destination.is_empty() { Cell::None } else { Cell::Text(row.destination.clone()) },
            Cell::Note(row.notes.join("; ")),
        ]
    };
    Report {
        columns: COLUMNS.to_vec(),
        rows: rows.iter().map(cells).collect(),
        metric: "zsnap_fanout",
        now,
        succeeded: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(seq: u64, written: u64) -> Queued {
        let name = format!("bakfsfmt2-{seq}.000000001.1_h@a");
        Queued { parsed: name.parse().unwrap(), name, bytes: 10, written }
    }

    #[test]
    fn a_drive_is_late_if_a_file_waits_too_long_or_none_arrives() {
        let row = |waiting: Option<u64>, delivered: Option<u64>, expects| Row {
            waiting: waiting.map(|written| queued(1, written)).iter().collect(),
            seen: Seen { delivered, ..Seen::default() },
            drive: "disk".into(),
            expects,
            ..Row::default()
        };
        let late = |row: Row| row.late(Duration::from_secs(100), 1000).join("; ");
        let ended = "since 1970-01-01 00:14:59Z, longer than max-age";
        assert_eq!(late(row(Some(900), Some(900), true)), "");
        assert_eq!(late(row(Some(899), Some(900), true)), format!("1 file waits, the oldest {ended}"));
        assert_eq!(late(row(None, Some(899), true)), format!("nothing was delivered {ended}"));
        assert_eq!(late(row(None, None, true)), "nothing was ever delivered");
        assert_eq!(late(row(None, None, false)), "");
        assert_eq!(late(row(Some(899), None, false)), format!("1 file waits, the oldest {ended}"));
        let future = "since 1970-01-02 03:46:40Z, a future time: set the clock if it is wrong; what comes next has the right time";
        assert_eq!(late(row(None, Some(100_000), true)), format!("nothing was delivered {future}"));
    }

    #[test]
    fn every_row_of_fanout_status_has_every_column() {
        let rows = [Row::default(), Row { packets: Some(3), notes: vec!["x".into()], ..Row::default() }];
        let report = report(&rows, 1000);
        assert!(report.rows.iter().all(|row| row.len() == report.columns.len()));
        assert!(ATTENTION.iter().all(|state| STATES.contains(state)));
    }
}
