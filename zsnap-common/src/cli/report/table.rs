//! A report as a table for people, with the notes below it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use super::{Cell, Column, Report};
use crate::cli::colour;

/// The least width of a last column whose text is folded instead of running over the edge of the terminal.
const FOLDED: usize = 20;

/// What the table is printed on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paper {
    /// The width of the terminal in characters; `None`: no terminal.
    pub width: Option<usize>,
    /// Whether states have colours.
    pub coloured: bool,
}

impl Paper {
    /// Describes standard output.
    pub(super) fn stdout() -> Paper {
        let out = io::stdout();
        let size = || rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
        let width = if out.is_terminal() { size().filter(|width| *width > 0) } else { None };
        Paper { width, coloured: colour::is_on() }
    }
}

/// A cell of the table: its text, and its width before it was coloured.
struct Shown {
    text: String,
    width: usize,
}

/// A column of the table that is shown: its index in the report, its width, and whether it is aligned to the right.
struct Place {
    at: usize,
    width: usize,
    right: bool,
}

/// Returns the report as a table. If it does not fit the width of the terminal, ages have one unit and columns are one
/// space apart, and a long text in the last column is folded.
pub(super) fn table(report: &Report, paper: Paper) -> String {
    let wide = Table::of(report, paper, false);
    match paper.width {
        Some(width) if wide.width() > width => Table::of(report, paper, true).print(Some(width)),
        _ => wide.print(None),
    }
}

struct Table<'a> {
    report: &'a Report,
    heads: Vec<&'a Column>,
    places: Vec<Place>,
    rows: Vec<Vec<Shown>>,
    /// The space between two columns.
    gap: usize,
    brief: bool,
}

impl Table<'_> {
    fn of(report: &Report, paper: Paper, brief: bool) -> Table<'_> {
        let columns = report.columns.iter().enumerate().filter(|(_, column)| !column.head.is_empty());
        let (indexes, heads): (Vec<usize>, Vec<&Column>) = columns.unzip();
        let shown = |cell: Option<&Cell>| {
            let text = cell.map(|cell| cell.shown(report.now, brief)).unwrap_or_default();
            let width = text.len();
            match cell.and_then(Cell::tone) {
                Some(tone) => Shown { text: tone.paint(&text, paper.coloured), width },
                None => Shown { text, width },
            }
        };
        let rows: Vec<Vec<Shown>> =
            report.rows.iter().map(|row| indexes.iter().map(|at| shown(row.get(*at))).collect()).collect();
        let place = |(n, at): (usize, &usize)| {
            let widths = rows.iter().filter_map(|row| row.get(n)).map(|shown| shown.width);
            let width = widths.chain([heads[n].head.len()]).max().unwrap_or(0);
            let right = report.rows.iter().any(|row| row.get(*at).is_some_and(Cell::is_number));
            Place { at: *at, width, right }
        };
        let places = indexes.iter().enumerate().map(place).collect();
        Table { report, heads, places, rows, gap: if brief { 1 } else { 2 }, brief }
    }

    fn width(&self) -> usize {
        let widths: usize = self.places.iter().map(|place| place.width + self.gap).sum();
        widths.saturating_sub(self.gap)
    }

    fn print(&self, width: Option<usize>) -> String {
        let heads = self.heads.iter().map(|column| Shown { text: column.head.into(), width: column.head.len() });
        let mut text = self.line(&heads.collect::<Vec<_>>(), width);
        for row in &self.rows {
            text += &self.line(row, width);
        }
        for row in &self.report.rows {
            let first = self.places.first().and_then(|place| row.get(place.at));
            let first = first.map(|cell| cell.shown(self.report.now, self.brief)).unwrap_or_default();
            for note in row.iter().filter(|cell| matches!(cell, Cell::Note(text) if !text.is_empty())) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{first}: {}", note.shown(self.report.now, self.brief));
            }
        }
        text
    }

    fn line(&self, cells: &[Shown], width: Option<usize>) -> String {
        let (mut line, mut used) = (String::new(), 0);
        for (n, (Shown { text, width: length }, place)) in cells.iter().zip(&self.places).enumerate() {
            let room = width.map(|width| width.saturating_sub(used)).filter(|room| *room >= FOLDED);
            match room {
                Some(room) if n + 1 == cells.len() && !place.right => line += &folded(text, room, used),
                _ => {
                    let padding = " ".repeat(place.width.saturating_sub(*length));
                    line += &if place.right { padding + text } else { format!("{text}{padding}") };
                    line += &" ".repeat(self.gap);
                }
            }
            used += place.width + self.gap;
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

/// Breaks `text` at spaces into lines of at most `room` characters; all but the first are indented by `indent`. A longer
/// word is not broken.
fn folded(text: &str, room: usize, indent: usize) -> String {
    let (mut all, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        if length > 0 && length + 1 + word.len() > room {
            all += &format!("\n{}", " ".repeat(indent));
            length = 0;
        } else if length > 0 {
            all.push(' ');
            length += 1;
        }
        all += word;
        length += word.len();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::colour::Tone;
    use crate::cli::report::{Column, Form};

    const DAY: u64 = 86_400;

    fn report(text: &str) -> Report {
        let columns = [("DATASET"), ("STATE"), ("AGE"), ("BYTES"), ("WHY")].map(|head| Column::new("", head)).to_vec();
        let bad = Cell::State("bad", &["good", "bad"], Tone::Bad);
        let cells = vec![Cell::Text("h/a".into()), bad, Cell::Ago(6 * DAY), Cell::Bytes(7), Cell::Text(text.into())];
        Report { columns, rows: vec![cells], now: 10 * DAY + 3600, ..Report::default() }
    }

    fn on(width: Option<usize>, coloured: bool, text: &str) -> Vec<String> {
        table(&report(text), Paper { width, coloured }).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_table_is_made_to_fit_a_narrow_terminal() {
        let wide = on(None, false, "one two three");
        assert_eq!(wide[1], "h/a      bad    4d 1h ago    7 B  one two three");
        assert_eq!(on(Some(48), false, "one two three"), wide);
        assert_eq!(report("one two three").render(Form::Table), wide.join("\n") + "\n");
        let narrow = on(Some(47), false, "one two three four five six seven");
        assert_eq!(
            narrow[..],
            [
                "DATASET STATE    AGE BYTES WHY",
                "h/a     bad   4d ago   7 B one two three four",
                "                           five six seven"
            ]
        );
        // A text is not folded into a column that is too narrow for it, and a word is not broken.
        assert_eq!(on(Some(40), false, "one two three").len(), 2);
        let long = "x".repeat(70);
        assert_eq!(on(Some(50), false, &format!("a {long} b"))[2].trim(), long);
    }

    #[test]
    fn colours_do_not_change_the_width() {
        let plain = on(None, false, "x");
        let coloured = on(None, true, "x");
        assert!(!plain[1].contains('\x1b'));
        assert_eq!(coloured[1].replace("\x1b[1;31mbad\x1b[0m", "bad"), plain[1]);
        assert_ne!(coloured[1], plain[1]);
    }
}
