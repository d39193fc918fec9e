//! The output of `status`: rows of cells, which are printed as a table, as JSON or as text for
//! Prometheus.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::colour::Tone;
use crate::cli::escape::{escape, escape_bytes};
use table::Paper;

mod table;

/// Rows of cells under columns.
#[derive(Default)]
pub struct Report {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each with as many cells as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// The prefix of the names for Prometheus, e.g. `zsnap_queue`.
    pub metric: &'static str,
    /// The current time, in seconds since 1970, from which ages count.
    pub now: u64,
    /// When the last run that succeeded ended, in seconds since 1970: a metric.
    pub succeeded: Option<u64>,
}

/// A column, and the forms in which it is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Column {
    /// The key in JSON; empty: not in JSON.
    pub key: &'static str,
    /// The heading in the table; empty: not in the table. Notes have none.
    pub head: &'static str,
    /// For numbers, times and states: the name of the metric, without the prefix and with its unit. For text: the name
    /// of the label. Empty: not for Prometheus.
    pub metric: &'static str,
    /// What the metric counts or measures.
    pub help: &'static str,
}

impl Column {
    /// Returns a column of the table and of JSON.
    pub const fn new(key: &'static str, head: &'static str) -> Column {
        Column { key, head, metric: "", help: "" }
    }

    /// Adds the column to the output for Prometheus.
    pub const fn metric(self, metric: &'static str, help: &'static str) -> Column {
        Column { metric, help, ..self }
    }

    /// Makes a column of text a label of all metrics.
    pub const fn label(self, name: &'static str) -> Column {
        self.metric(name, "")
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Text, shown escaped.
    Text(String),
    /// Long text, shown below the table as `FIRST CELL: TEXT`, and not for Prometheus. An empty one is not shown.
    Note(String),
    /// A state, and all states that the column can have. For Prometheus, each state is a time series of 0 or 1.
    State(&'static str, &'static [&'static str], Tone),
    /// A word that has a colour as a state has, and is text otherwise.
    Word(&'static str, Tone),
    /// A count.
    Count(u64),
    /// Bytes, shown as `1.5 MiB` in the table.
    Bytes(u64),
    /// A time in seconds since 1970, shown as `2026-11-22 04:05:25Z` in the table.
    Time(u64),
    /// A time in seconds since 1970, shown as `3d 4h ago` in the table, or as `in 3d 4h`.
    Ago(u64),
    /// The time since this time (seconds since 1970), shown as `3d 4h` in the table, or as `in 3d 4h`. In JSON it is
    /// a number of seconds, or unknown if the time is a future one.
    Age(u64),
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
    /// Returns the cell of a value that may be unknown.
    pub fn known<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell) -> Cell {
        value.map_or(Cell::None, cell)
    }

    /// Returns the text in the table. If `brief`, an age has one unit.
    fn shown(&self, now: u64, brief: bool) -> String {
        let age = |seconds: u64| {
            let age = age(seconds);
            if brief { age.split(' ').next().unwrap_or_default().to_owned() } else { age }
        };
        let relative = |time: u64, after: &str| match now.checked_sub(time) {
            Some(seconds) => format!("{}{after}", age(seconds)),
            None => format!("in {}", age(time - now)),
        };
        match self {
            Cell::Text(text) | Cell::Note(text) => escape(text),
            Cell::State(word, ..) | Cell::Word(word, _) => (*word).to_owned(),
            Cell::Count(n) => n.to_string(),
            Cell::Bytes(n) => bytes(*n),
            Cell::Time(at) => time(*at),
            Cell::Ago(time) => relative(*time, " ago"),
            Cell::Age(time) => relative(*time, ""),
            Cell::None => "-".to_owned(),
        }
    }

    fn json(&self, now: u64) -> Value {
        match self {
            Cell::Note(text) if text.is_empty() => Value::Null,
            Cell::Text(text) | Cell::Note(text) => Value::from(text.as_str()),
            Cell::State(word, ..) | Cell::Word(word, _) => Value::from(*word),
            _ => self.number(now).map_or(Value::Null, Value::from),
        }
    }

    fn number(&self, now: u64) -> Option<u64> {
        match self {
            Cell::Count(n) | Cell::Bytes(n) | Cell::Time(n) | Cell::Ago(n) => Some(*n),
            Cell::Age(time) => ago(*time, now),
            Cell::Text(_) | Cell::Note(_) | Cell::State(..) | Cell::Word(..) | Cell::None => None,
        }
    }

    /// Returns what determines the colour of the cell.
    fn tone(&self) -> Option<Tone> {
        match self {
            Cell::State(_, _, tone) | Cell::Word(_, tone) => Some(*tone),
            _ => None,
        }
    }

    /// Whether the cell is aligned to the right of its column.
    fn is_number(&self) -> bool {
        matches!(self, Cell::Count(_) | Cell::Bytes(_) | Cell::Ago(_) | Cell::Age(_))
    }
}

/// Formats a number of bytes as `1.5 MiB`.
pub fn bytes(n: u64) -> String {
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

/// Describes since when something has been late: `since 2026-11-01 12:00:00Z, longer than max-age`, or that the
/// time is in the future.
pub fn since(at: u64, now: u64) -> String {
    match ago(at, now) {
        Some(_) => format!("since {}, longer than max-age", time(at)),
        None => {
            format!(
                "since {}, a future time: set the clock if it is wrong; what comes next has the right time",
                time(at)
            )
        }
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
    /// Returns the report as text, not for a terminal.
    pub fn render(&self, form: Form) -> String {
        match form {
            Form::Table => table::table(self, Paper::default()),
            Form::Json => {
                let object = |row: &Vec<Cell>| {
                    let pairs = self.columns.iter().zip(row).filter(|(column, _)| !column.key.is_empty());
                    let pairs = pairs.map(|(column, cell)| (column.key.to_owned(), cell.json(self.now)));
                    Value::Object(pairs.collect::<Map<_, _>>())
                };
                ascii(&format!("{:#}\n", Value::Array(self.rows.iter().map(object).collect())))
            }
            Form::Prometheus => self.prometheus(),
        }
    }

    fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, help: &str, samples: &BTreeSet<String>| {
            let name = format!("{}_{name}", self.metric);
            if !samples.is_empty() {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            }
            samples.iter().for_each(|sample| text.push_str(&format!("{name}{sample}\n")));
        };
        for (at, column) in self.columns.iter().enumerate().filter(|(_, column)| !column.metric.is_empty()) {
            let mut samples = BTreeSet::new();
            for row in &self.rows {
                match row.get(at) {
                    Some(Cell::State(is, all, _)) => samples.extend(
                        all.iter().map(|state| format!("{} {}", self.labels(row, Some(state)), u8::from(state == is))),
                    ),
                    Some(cell) => {
                        let sample = |number| format!("{} {number}", self.labels(row, None));
                        samples.extend(cell.number(self.now).map(sample));
                    }
                    None => {}
                }
            }
            metric(column.metric, column.help, &samples);
        }
        let succeeded = self.succeeded.map(|time| format!(" {time}")).into_iter().collect();
        let help = "When the last run ended with status 0, in seconds since 1970.";
        metric("last_success_timestamp_seconds", help, &succeeded);
        text
    }

    /// Returns the labels of a row, with that of a state if there is one.
    fn labels(&self, row: &[Cell], state: Option<&str>) -> String {
        let label = |(column, cell): (&Column, &Cell)| match cell {
            Cell::Text(value) if !column.metric.is_empty() => {
                Some(format!("{}=\"{}\"", column.metric, label_value(value)))
            }
            _ => None,
        };
        let mut labels: Vec<String> = self.columns.iter().zip(row).filter_map(label).collect();
        labels.extend(state.map(|state| format!("state=\"{state}\"")));
        format!("{{{}}}", labels.join(","))
    }

    /// Writes the report to standard output. A closed pipe is an error, not a panic.
    pub fn print(&self, form: Form) -> io::Result<()> {
        let text = match form {
            Form::Table => table::table(self, Paper::stdout()),
            Form::Json | Form::Prometheus => self.render(form),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
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
mod tests;
