//! The output of `status`: rows of cells, which are printed as a table, as JSON or as text for
//! Prometheus.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::escape::{escape, escape_bytes};

/// Rows of cells under named columns.
#[derive(Default)]
pub struct Report {
    /// The names of the columns, in lower case with `_`.
    pub columns: Vec<&'static str>,
    /// The rows, each with as many cells as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// The prefix of the names for Prometheus, e.g. `zsnap_queue`. A column of numbers becomes
    /// `PREFIX_COLUMN{labels}`, with the text columns as labels.
    pub metric: &'static str,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Text, shown escaped.
    Text(String),
    /// Long text, shown below the table as `FIRST CELL: TEXT`, and not for Prometheus. An empty one is not shown.
    Note(String),
    /// A count.
    Count(u64),
    /// Bytes, shown as `1.5 MiB` in the table.
    Bytes(u64),
    /// Seconds, shown as `3d 4h` in the table.
    Age(u64),
    /// Seconds since 1970, shown as `2026-11-22 04:05:25Z` in the table.
    Time(u64),
    /// Unknown or not applicable: `-` in the table, `null` in JSON, omitted for Prometheus.
    None,
}

/// The format of a printed report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table for people.
    Table,
    /// An array of objects; ages in seconds.
    Json,
    /// Prometheus' text exposition format; ages in seconds.
    Prometheus,
}

impl Form {
    /// Returns the form that the options `--prometheus` and `--json` select.
    pub fn of(prometheus: bool, json: bool) -> Form {
        match (prometheus, json) {
            (true, _) => Form::Prometheus,
            (_, true) => Form::Json,
            _ => Form::Table,
        }
    }
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Cell::Text(text) | Cell::Note(text) => escape(text),
            Cell::Count(n) => n.to_string(),
            Cell::Bytes(n) => bytes(*n),
            Cell::Age(n) => age(*n),
            Cell::Time(n) => time(*n),
            Cell::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Note(text) if text.is_empty() => Value::Null,
            Cell::Text(text) | Cell::Note(text) => Value::from(text.as_str()),
            Cell::None => Value::Null,
            Cell::Count(n) | Cell::Bytes(n) | Cell::Age(n) | Cell::Time(n) => Value::from(*n),
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Cell::Count(n) | Cell::Bytes(n) | Cell::Age(n) | Cell::Time(n) => Some(*n),
            Cell::Text(_) | Cell::Note(_) | Cell::None => None,
        }
    }
}

/// Formats a number of bytes as `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut tenths = u128::from(n) * 10 / 1024;
    let mut unit = "KiB";
    for larger in UNITS.into_iter().skip(1) {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Formats a time in seconds since 1970 for people, in UTC: `2026-11-22 04:05:25Z`. A time beyond the range of the
/// calendar is printed as the number.
pub fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or(seconds.to_string(), |time| time.strftime("%F %TZ").to_string())
}

/// How far in the future a time may be: a clock may have been set by some hours, or be a little fast. A time further
/// in the future comes from a wrong clock, or was chosen.
pub const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// Returns how many seconds ago a time was; `None` if it is in the future by more than [`AHEAD`].
pub fn ago(time: u64, now: u64) -> Option<u64> {
    (time <= now.saturating_add(AHEAD.as_secs())).then(|| now.saturating_sub(time))
}

/// Whether more than `max` has passed since `time`, in seconds since 1970. A future timestamp (see [`ago`]) counts as
/// late: how long ago it really was is unknown, and a missing alarm is worse than a false one.
pub fn is_late(time: u64, now: u64, max: Duration) -> bool {
    ago(time, now).is_none_or(|age| age > max.as_secs())
}

/// Describes since when something has been late: `since 2026-11-01 12:00:00Z, longer than --max-age`, or that the
/// time is in the future.
pub fn since(at: u64, now: u64) -> String {
    match ago(at, now) {
        Some(_) => format!("since {}, longer than --max-age", time(at)),
        None => format!("since {}, a future time: set the clock", time(at)),
    }
}

/// Formats an age with its one or two largest units, as `3d 4h`.
fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m"),
        (0, h, m) => format!("{h}h {m}m"),
        (d, h, _) => format!("{d}d {h}h"),
    }
}

impl Report {
    /// Returns the report as text.
    pub fn render(&self, form: Form) -> String {
        match form {
            Form::Table => self.table(),
            Form::Json => {
                let object = |row: &Vec<Cell>| {
                    let pairs = self.columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), cell.json()));
                    Value::Object(pairs.collect::<Map<_, _>>())
                };
                ascii(&format!("{:#}\n", Value::Array(self.rows.iter().map(object).collect())))
            }
            Form::Prometheus => self.prometheus(),
        }
    }

    fn table(&self) -> String {
        let mut lines = vec![self.columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect::<Vec<_>>()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()));
        let note = |i: usize| self.rows.iter().any(|row| matches!(row.get(i), Some(Cell::Note(_))));
        let notes: Vec<bool> = (0..self.columns.len()).map(note).collect();
        let width = |i: usize| lines.iter().filter_map(|line| line.get(i)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            let mut row = String::new();
            for (i, (cell, width)) in line.iter().zip(&widths).enumerate().filter(|(i, _)| !notes[*i]) {
                let cells = number.checked_sub(1).and_then(|n| self.rows.get(n));
                let right = cells.and_then(|cells| cells.get(i)).is_some_and(|cell| cell.number().is_some());
                // Writing to a String cannot fail.
                let _ = if right { write!(row, "{cell:>width$}  ") } else { write!(row, "{cell:<width$}  ") };
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        for row in &self.rows {
            for cell in row.iter().filter(|cell| matches!(cell, Cell::Note(text) if !text.is_empty())) {
                let about = row.first().map(Cell::shown).unwrap_or_default();
                let _ = writeln!(text, "{about}: {}", cell.shown());
            }
        }
        text
    }

    fn prometheus(&self) -> String {
        let mut text = String::new();
        for (i, column) in self.columns.iter().enumerate() {
            let name = format!("{}_{column}", self.metric);
            let numbers = self.rows.iter().filter_map(|row| row.get(i).and_then(Cell::number).map(|n| (row, n)));
            for (at, (row, number)) in numbers.enumerate() {
                if at == 0 {
                    let _ = writeln!(text, "# TYPE {name} gauge");
                }
                let label = |(column, cell): (&&str, &Cell)| match cell {
                    Cell::Text(value) => Some(format!("{column}=\"{}\"", label_value(value))),
                    _ => None,
                };
                let labels: Vec<String> = self.columns.iter().zip(row).filter_map(label).collect();
                let _ = writeln!(text, "{name}{{{}}} {number}", labels.join(","));
            }
        }
        text
    }

    /// Writes the report to standard output. A closed pipe is an error, not a panic.
    pub fn print(&self, form: Form) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(self.render(form).as_bytes())?;
        out.flush()
    }
}

/// Escapes a label's value, first for terminals and then as the exposition format requires. Different texts remain
/// different, because Prometheus would accept neither of two series with the same labels. So a backslash in `text`
/// is doubled first, to differ from that of an escape, and nothing is truncated.
fn label_value(text: &str) -> String {
    let text = text.replace('\\', r"\\");
    let whole: String = text.as_bytes().chunks(200).map(escape_bytes).collect();
    whole.replace('\\', r"\\").replace('"', "\\\"")
}

/// Returns the same JSON in printable ASCII. Other characters occur only in strings, in which an escape means the same.
pub fn ascii(json: &str) -> String {
    let mut text = String::new();
    for c in json.chars() {
        if matches!(c, ' '..='~' | '\n') {
            text.push(c);
        } else {
            let _ = c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(text, "\\u{unit:04x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            columns: vec!["dataset", "waiting", "oldest_age_seconds"],
            rows: vec![
                vec![Cell::Text("laptop/tank".into()), Cell::Bytes(1536), Cell::Age(90_061)],
                vec![Cell::Text("h/\x1b\"x".into()), Cell::Bytes(0), Cell::None],
            ],
            metric: "zsnap_queue",
        }
    }

    #[test]
    fn a_table_is_aligned_and_has_no_control_characters() {
        let text = report().render(Form::Table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "DATASET      WAITING  OLDEST AGE SECONDS");
        assert_eq!(lines[1], "laptop/tank  1.5 KiB               1d 1h");
        assert!(!text.contains('\x1b') && lines[2].trim_end().ends_with('-'), "{text}");
    }

    #[test]
    fn notes_are_printed_below_the_table() {
        let mut report = report();
        report.columns.insert(1, "remedy");
        report.rows[0].insert(1, Cell::Note("look\nhere".into()));
        report.rows[1].insert(1, Cell::Note(String::new()));
        let text = report.render(Form::Table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "DATASET      WAITING  OLDEST AGE SECONDS");
        assert_eq!(lines[3..], ["laptop/tank: look\\nhere"], "{text}");
        let value: Value = serde_json::from_str(&report.render(Form::Json)).unwrap();
        assert_eq!(value[0]["remedy"], "look\nhere");
        assert!(value[1]["remedy"].is_null());
        assert!(!report.render(Form::Prometheus).contains("remedy"));
    }

    #[test]
    fn json_is_ascii_and_keeps_all_values() {
        let mut report = report();
        report.rows[0][0] = Cell::Text("\u{9b}2J\u{7f}\u{1f600}\n".into());
        let text = report.render(Form::Json);
        assert!(text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[0]["dataset"], "\u{9b}2J\u{7f}\u{1f600}\n");
        assert_eq!(value[0]["waiting"], 1536);
        assert_eq!(value[1]["dataset"], "h/\x1b\"x");
        assert!(value[1]["oldest_age_seconds"].is_null());
    }

    #[test]
    fn prometheus_omits_unknown_values_and_escapes_labels() {
        let text = report().render(Form::Prometheus);
        assert!(text.contains("# TYPE zsnap_queue_waiting gauge\n"));
        assert!(text.contains("zsnap_queue_oldest_age_seconds{dataset=\"laptop/tank\"} 90061\n"));
        assert_eq!(text.matches("oldest_age_seconds{").count(), 1);
        assert!(text.contains("{dataset=\"h/\\\\x1b\\\"x\"} 0\n"), "{text}");
        // A name that looks like the escape of another one remains different.
        let shown = ["a\nb", "a\\nb", "a\\\\nb", "a\\\nb"].map(label_value);
        assert!((0..4).all(|i| (0..i).all(|j| shown[i] != shown[j])), "{shown:?}");
        assert!(shown.iter().all(|text| !text.contains('\n')));
        let long = |end: &str| label_value(&("\n".repeat(2000) + end));
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn a_future_time_is_late() {
        let (now, day) = (1_795_320_325, 86_400);
        let late = |time| is_late(time, now, Duration::from_secs(100));
        assert!(!late(now) && !late(now - 100) && late(now - 101) && late(0));
        // A clock may have been set by some hours.
        assert!(!late(now + day) && late(now + day + 1) && late(u64::MAX));
        assert_eq!((ago(now + day, now), ago(now + day + 1, now)), (Some(0), None));
    }

    #[test]
    fn times_sizes_and_ages_have_the_largest_unit_that_fits() {
        assert_eq!((time(1_795_320_325), time(u64::MAX)), ("2026-11-22 04:05:25Z".into(), u64::MAX.to_string()));
        for (n, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (u64::MAX, "16383.9 PiB"), (5 << 20, "5.0 MiB")]
        {
            assert_eq!(bytes(n), shown);
        }
        for (n, shown) in [(0, "0s"), (59, "59s"), (60, "1m"), (3600, "1h 0m"), (86_400, "1d 0h")] {
            assert_eq!(age(n), shown);
        }
    }
}
