//! Dated rules of the first version of zrep-expire: the time at which a snapshot was created determines
//! when it expires. A rule has five fields like those of cron, and a length of time:
//!
//! ```text
//! # MIN HR     DOM  MON  DOW  EXPIRATION
//!   *   *      *    *    *    +48 hours
//!   *   20-23  1-7  *    7    +6 months
//! ```
//!
//! All five fields must match, including both days (unlike cron). 1 is Sunday and 7 is Saturday (unlike
//! cron). The last rule that matches applies.

use jiff::Span;
use jiff::civil::DateTime;

use crate::calendar::Clock;
use crate::reason::Reason;
use crate::snapshot::{Snapshot, Verdict};

#[cfg(test)]
mod tests;

/// A rule, which is a line of the file.
#[derive(Clone, Debug)]
pub struct DatedRule {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
    lives: Span,
}

/// A field of a rule: `*`, or a list of numbers and ranges such as `1,3-5`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Any,
    Of(Vec<(i64, i64)>),
}

impl Field {
    fn matches(&self, value: i8) -> bool {
        match self {
            Field::Any => true,
            Field::Of(ranges) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&i64::from(value))),
        }
    }
}

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn field(text: &str, names: &[&str], range: (i64, i64)) -> Result<Field, String> {
    if text == "*" {
        return Ok(Field::Any);
    }
    let number = |text: &str| {
        let named = names.iter().position(|name| *name == text.to_ascii_lowercase()).map(|at| at as i64 + 1);
        let number = named.or_else(|| text.parse().ok()).filter(|n| (range.0..=range.1).contains(n));
        number.ok_or_else(|| format!("\"{text}\" is not a number from {} to {}", range.0, range.1))
    };
    let one = |part: &str| match part.split_once('-') {
        Some((from, to)) => match (number(from)?, number(to)?) {
            (from, to) if from > to => Err(format!("\"{part}\" goes backwards: write two ranges")),
            range => Ok(range),
        },
        None => number(part).map(|n| (n, n)),
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(Field::Of)
}

/// Parses a line that has no comment.
pub fn rule(line: &str) -> Result<DatedRule, String> {
    let mut rest = line.trim();
    let mut fields = Vec::new();
    while fields.len() < 5 {
        let (field, behind) = rest
            .split_once(char::is_whitespace)
            .ok_or("write six fields: minute, hour, day of the month, month, day of the week, and +48 hours")?;
        fields.push(field);
        rest = behind.trim_start();
    }
    Ok(DatedRule {
        minute: field(fields[0], &[], (0, 59))?,
        hour: field(fields[1], &[], (0, 23))?,
        day: field(fields[2], &[], (1, 31))?,
        month: field(fields[3], &[], (1, 12))?,
        weekday: field(fields[4], &WEEKDAYS, (1, 7))?,
        lives: lives(rest)?,
    })
}

/// Parses the lifetime of a snapshot, such as `+48 hours`.
fn lives(text: &str) -> Result<Span, String> {
    let wrong = || format!("\"{text}\" is not an expiration; write +48 hours, 15 days, 4 weeks, 6 months or 5 years");
    let mut words = text.split_whitespace();
    let (Some(number), Some(unit), None) = (words.next(), words.next(), words.next()) else { return Err(wrong()) };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let span = Span::new();
    let unit = unit.to_ascii_lowercase();
    let span = match unit.strip_suffix('s').unwrap_or(&unit) {
        "year" => span.try_years(number),
        "month" => span.try_months(number),
        "week" => span.try_weeks(number),
        "day" => span.try_days(number),
        "hour" => span.try_hours(number),
        "minute" => span.try_minutes(number),
        "second" => span.try_seconds(number),
        "microsecond" => span.try_microseconds(number),
        _ => return Err(wrong()),
    };
    span.map_err(|_| wrong())
}

/// Returns a verdict for each snapshot, in the same order. A snapshot that no rule matches stays.
pub fn decide(rules: &[DatedRule], snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<Verdict> {
    let now = clock.civil(clock.now);
    let verdict = |snapshot: &Snapshot<'_>| {
        if snapshot.is_future(clock.now) {
            return Verdict::keep(Reason::Future);
        }
        match expires(rules, clock.civil(snapshot.creation)) {
            None => Verdict::keep(Reason::NoDate),
            Some(then) if then <= now => Verdict::destroy(Reason::Expires(then)),
            Some(then) => Verdict::keep(Reason::Expires(then)),
        }
    };
    snapshots.iter().map(verdict).collect()
}

/// Returns when a snapshot that was created at `made` expires, both in civil time. Months and years are those
/// of the calendar: a day that the resulting month does not have becomes its last day.
fn expires(rules: &[DatedRule], made: DateTime) -> Option<DateTime> {
    let weekday = made.weekday().to_sunday_one_offset();
    let matches = |rule: &&DatedRule| {
        rule.minute.matches(made.minute())
            && rule.hour.matches(made.hour())
            && rule.day.matches(made.day())
            && rule.month.matches(made.month())
            && rule.weekday.matches(weekday)
    };
    let rule = rules.iter().rev().find(matches)?;
    Some(made.saturating_add(rule.lives))
}
