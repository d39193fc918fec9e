//! `status`: reports what each destination got, and what waits for it. It changes nothing and takes no lock.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use anyhow::Result;
use rustix::fs::{FileType, Stat};
use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::report::{self, Cell, Form, Report, ago};
use zsnap_common::durable::dest::{self, Dest};
use zsnap_common::durable::listing::Listing;
use zsnap_common::durable::outbox::{Amount, Outboxes, Queued};
use zsnap_common::names::queue_name::QueueName;
use zsnap_common::names::target::Host;

use crate::cli::{Options, StatusOptions};
use crate::drive::Drive;
use crate::nncp;
use crate::run::PATIENCE;
use crate::seen::Seen;
use crate::since::Since;
use crate::spool::Spool;

/// The name of the spool in the column of destinations.
const SPOOL: &str = "(spool)";
/// The state of the spool if it cannot be read completely.
const UNREADABLE: &str = "unreadable";

/// Prints the report. `now` is in seconds since 1970. The exit status is 1 if something is older than `--max-age`.
pub fn status(options: &Options, drives: &[Drive], asked: &StatusOptions, now: u64) -> Result<Exit> {
    if let Some(unknown) = asked.drives.iter().find(|name| !drives.iter().any(|drive| drive.name == **name)) {
        return Err(Exit::Usage.error(format!("no drive is called {unknown}")));
    }
    let spool = Spool::look(options.spool.as_deref())?;
    let mut rows = gather(&spool, options, drives, now)?;
    // Always show the spool: its files concern every destination.
    rows.retain(|row| asked.drives.is_empty() || row.drive == SPOOL || asked.drives.contains(&row.drive));
    let late: Vec<_> = asked.max_age.iter().flat_map(|max| rows.iter().flat_map(|row| row.late(*max, now))).collect();
    if !late.is_empty() || !asked.quiet {
        let form = Form::of(asked.prometheus, options.json);
        report(&rows, form, now).print(form).or_exit(Exit::Io, "standard output")?;
    }
    late.iter().for_each(log::error);
    Ok(if late.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

fn amount_cells(amount: Amount, now: u64) -> [Cell; 3] {
    [Cell::Count(amount.files), Cell::Bytes(amount.bytes), age(amount.oldest, now)]
}

fn age(time: Option<u64>, now: u64) -> Cell {
    time.and_then(|time| ago(time, now)).map_or(Cell::None, Cell::Age)
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
    /// Returns a message for each thing that is late: files that wait for too long, or no delivery for too
    /// long. No delivery at all is late too, because the caller expects backups, and so is an unreadable spool.
    fn late(&self, max: Duration, now: u64) -> Vec<String> {
        let is_late = |time: u64| report::is_late(time, now, max);
        let since = |time: u64| report::since(time, now);
        let mut lines = Vec::new();
        if self.state == UNREADABLE {
            lines.push(format!("{}: what waits there is not known: {}", self.drive, self.notes.join("; ")));
        }
        if let Some(oldest) = self.waiting.oldest.filter(|oldest| is_late(*oldest)) {
            let files = if self.waiting.files == 1 { "file waits" } else { "files wait" };
            lines.push(format!("{}: {} {files}, the oldest {}", self.drive, self.waiting.files, since(oldest)));
        }
        match self.seen.delivered {
            None if self.expects => lines.push(format!("{}: it never took a file", self.drive)),
            Some(delivered) if self.expects && is_late(delivered) => {
                lines.push(format!("{}: it took nothing {}", self.drive, since(delivered)));
            }
            _ => {}
        }
        lines
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
            ([_, ..], _) => UNREADABLE,
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
    rows.iter_mut().for_each(|row| row.note_times(now));
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
                row.notes.extend(look.away);
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
        (Dest::Dir(_), ..) => "delivered",
        // Only NNCP knows whether the files have arrived.
        (Dest::NncpFile { .. } | Dest::NncpExec { .. }, ..) => "handed to NNCP",
        _ => "handed over",
    };
    row
}

/// Returns the files that are in no outbox yet, and the reasons why some could not be listed.
fn in_spool(spool: &Spool, boxes: &Outboxes) -> Result<(Vec<Queued>, Vec<String>)> {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for name in spool.incoming.names().or_exit(Exit::Io, "--spool")? {
        if let Some(host) = name.to_str().and_then(|name| name.parse::<Host>().ok()) {
            let read = of_host(spool, &host, &mut files);
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

/// Adds the files in the directory of `host` to `files`.
fn of_host(spool: &Spool, host: &Host, files: &mut Vec<Queued>) -> io::Result<()> {
    let is = |stat: Stat, kind| FileType::from_raw_mode(stat.st_mode) == kind;
    let name: &OsStr = host.as_str().as_ref();
    // Ignore a file or a symlink here: a run reports it.
    if !spool.incoming.stat(name)?.is_some_and(|stat| is(stat, FileType::Directory)) {
        return Ok(());
    }
    let dir = spool.incoming.inside(name)?;
    for (parsed, name) in Listing::of(&dir, usize::MAX)?.queue {
        let Some(stat) = dir.stat(&name)? else { continue };
        if let (true, Ok(name)) = (is(stat, FileType::RegularFile) && parsed.host == *host, name.into_string()) {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let written = u64::try_from(stat.st_mtime).unwrap_or(0);
            files.push(Queued { name, parsed, bytes, written });
        }
    }
    Ok(())
}

/// Returns the files with fewer copies than `copies`, or than the number of destinations that receive
/// the files of their host. A destination has a file if the file was split to it and no longer waits in its outbox.
fn lacking<'a>(
    waiting: &'a [Vec<Queued>],
    in_spool: &'a [Queued],
    drives: &[Drive],
    since: &[Since],
    copies: u64,
) -> HashMap<(&'a Host, &'a str), &'a Queued> {
    let mut found: HashMap<_, (&Queued, u64)> = HashMap::new();
    for file in waiting.iter().flatten() {
        found.entry(key(file)).or_insert((file, 0));
    }
    for (waiting, since) in waiting.iter().zip(since) {
        let waits: HashSet<_> = waiting.iter().map(key).collect();
        for (key, (file, have)) in &mut found {
            *have += u64::from(since.covers(file) && !waits.contains(key));
        }
    }
    found.retain(|(host, _), (_, have)| {
        let takers = drives.iter().filter(|drive| drive.takes(host)).count() as u64;
        *have < copies.min(takers.max(1))
    });
    let found = found.into_iter().map(|(key, (file, _))| (key, file));
    found.chain(in_spool.iter().map(|file| (key(file), file))).collect()
}

fn key(file: &Queued) -> (&Host, &str) {
    (&file.parsed.host, &file.name)
}

fn report(rows: &[Row], form: Form, now: u64) -> Report {
    let text = |text: &str| if text.is_empty() { Cell::None } else { Cell::Text(text.to_owned()) };
    let number = |is: bool| Cell::Count(u64::from(is));
    let cells = |row: &Row| {
        let newest = row.seen.newest.as_ref().and_then(|name| name.parse::<QueueName>().ok());
        let mut cells = vec![text(&row.drive)];
        match form {
            // A label whose value changes would begin a new time series.
            Form::Prometheus => {
                let failed = row.seen.failed.is_some() || row.state == UNREADABLE;
                cells.extend([row.here.map_or(Cell::None, number), number(failed)]);
            }
            _ => cells.push(text(row.state)),
        }
        cells.extend([age(row.seen.at, now), newest.map_or(Cell::None, |name| Cell::Time(name.stamp.secs))]);
        cells.push(age(row.seen.delivered, now));
        cells.extend(amount_cells(row.waiting, now));
        cells.extend(amount_cells(row.scarce, now));
        cells.extend([
            row.packets.map_or(Cell::None, Cell::Count),
            text(&row.destination),
            Cell::Note(row.notes.join("; ")),
        ]);
        cells
    };
    let state: &[&str] = if form == Form::Prometheus { &["here", "failed"] } else { &["state"] };
    let columns = [
        &["drive"],
        state,
        &["seen_age", "newest", "delivered_age"],
        &["waiting_files", "waiting_bytes", "waiting_age"],
        &["scarce_files", "scarce_bytes", "scarce_age"],
        &["nncp_packets", "destination", "note"],
    ];
    Report { columns: columns.concat(), rows: rows.iter().map(cells).collect(), metric: "zsnap_fanout" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(seq: u64, written: u64) -> Queued {
        let name = format!("bakfsfmt2-{seq}.000000001.1_h@a");
        Queued { parsed: name.parse().unwrap(), name, bytes: 10, written }
    }

    fn drives() -> Vec<Drive> {
        use clap::Parser;
        let args = ["zsnap-fanout", "--to=a=dir:/a", "--to=b=dir:/b", "--to=c=dir:/c"];
        crate::drive::configured(&crate::cli::Cli::try_parse_from(args).unwrap().options, Default::default()).unwrap()
    }

    #[test]
    fn a_file_on_too_few_drives_is_scarce() {
        // File 1 waits for one of three destinations, 2 for two, 3 for all; 4 is in the spool.
        let waiting =
            [vec![queued(1, 0), queued(2, 0), queued(3, 0)], vec![queued(2, 0), queued(3, 0)], vec![queued(3, 0)]];
        let in_spool = [queued(4, 0)];
        let since = |times: [u64; 3]| times.map(|time| Since::from([("h", time)]));
        let scarce_since = |times, copies| {
            let found = lacking(&waiting, &in_spool, &drives(), &since(times), copies);
            let mut seqs: Vec<_> = found.values().map(|file| file.parsed.stamp.secs).collect();
            seqs.sort();
            seqs
        };
        let scarce = |copies| scarce_since([0; 3], copies);
        assert_eq!(scarce(1), [3, 4]);
        assert_eq!(scarce(2), [2, 3, 4]);
        assert_eq!(scarce(3), [1, 2, 3, 4]);
        // More copies than destinations.
        assert_eq!(scarce(9), scarce(3));
        // The third destination was added later than the files.
        assert_eq!((scarce_since([0, 0, 1], 1), scarce_since([0, 0, 1], 2)), (vec![2, 3, 4], vec![1, 2, 3, 4]));
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
        let ended = "since 1970-01-01 00:14:59Z, longer than --max-age";
        assert_eq!(late(row(Some(900), Some(900), true)), "");
        assert_eq!(late(row(Some(899), Some(900), true)), format!("disk: 1 file waits, the oldest {ended}"));
        assert_eq!(late(row(None, Some(899), true)), format!("disk: it took nothing {ended}"));
        assert_eq!(late(row(None, None, true)), "disk: it never took a file");
        assert_eq!(late(row(None, None, false)), "");
        assert_eq!(late(row(Some(899), None, false)), format!("disk: 1 file waits, the oldest {ended}"));
        let future = "since 1970-01-02 03:46:40Z, a future time: set the clock";
        assert_eq!(late(row(None, Some(100_000), true)), format!("disk: it took nothing {future}"));
        let unreadable = Row { state: UNREADABLE, notes: vec!["x".into()], ..row(None, None, false) };
        assert_eq!(late(unreadable), "disk: what waits there is not known: x");
    }

    #[test]
    fn every_row_of_fanout_status_has_every_column() {
        let rows = [Row::default(), Row { packets: Some(3), notes: vec!["x".into()], ..Row::default() }];
        for form in [Form::Table, Form::Json, Form::Prometheus] {
            let report = report(&rows, form, 1000);
            assert!(report.rows.iter().all(|row| row.len() == report.columns.len()));
        }
    }
}
