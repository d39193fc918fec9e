//! Spacing rules of the second version of zrep-expire: up to an age, snapshots are at least a minimum
//! interval apart. A file lists windows:
//!
//! ```text
//! # MAX_AGE : MIN_INTERVAL
//!  8 days   : 1 hour
//!  1 year   : 1 week
//! ```
//!
//! From the oldest to the newest, a snapshot stays if the time since the previous one that was kept is at
//! least the interval of the narrowest window that covers the snapshot. Intervals are not aligned to the
//! calendar. Snapshots older than the largest window are destroyed.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::fmt;

use jiff::Span;
use jiff::civil::DateTime;

use crate::calendar::{Clock, length};
use crate::reason::Reason;
use crate::snapshot::{Snapshot, Verdict};

#[cfg(test)]
mod tests;

/// A window, which is a line of the file.
#[derive(Clone, Debug)]
pub struct Window {
    max_age: Span,
    /// The minimum interval in seconds.
    interval: i64,
}

/// Parses a line such as `8 days : 1 hour` that has no comment.
pub fn window(line: &str) -> Result<Window, String> {
    let (age, interval) = line.split_once(':').ok_or("write MAX_AGE : MIN_INTERVAL, as 8 days : 1 hour")?;
    let (number, unit) = amount(age)?;
    let span = Span::new();
    let max_age = match unit {
        Unit::Year => span.try_years(number),
        Unit::Month => span.try_months(number),
        // Subtracted from civil time, in which each day has 86,400 seconds.
        Unit::Fixed(seconds) => span.try_seconds(number * seconds),
    };
    let max_age = max_age.map_err(|_| format!("\"{}\" is too long", age.trim()))?;
    // Like zrep-expire, measure intervals in years and months from 1 January of the year 1.
    let (number, unit) = amount(interval)?;
    let start = DateTime::constant(1, 1, 1, 0, 0, 0, 0);
    let end = match unit {
        Unit::Year => Span::new().try_years(number).and_then(|years| start.checked_add(years)),
        Unit::Month => Span::new().try_months(number).and_then(|months| start.checked_add(months)),
        Unit::Fixed(seconds) => {
            return Ok(Window { max_age, interval: number * seconds });
        }
    };
    let end = end.map_err(|_| format!("\"{}\" is too long", interval.trim()))?;
    Ok(Window { max_age, interval: start.duration_until(end).as_secs() })
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = match (self.max_age.get_years(), self.max_age.get_months()) {
            (0, 0) => length(self.max_age.get_seconds()),
            (0, months) => format!("{months}mo"),
            (years, _) => format!("{years}y"),
        };
        write!(f, "{age}:{}", length(self.interval))
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Year,
    Month,
    /// A unit of this number of seconds.
    Fixed(i64),
}

/// Parses a length of time such as `8 days` or `8d`. `a day` is not accepted, nor is `6m`, which could be
/// minutes or months.
fn amount(text: &str) -> Result<(i64, Unit), String> {
    let text = text.trim();
    let wrong =
        || format!("\"{text}\" is not a length of time; write 5 minutes, 12 hours, 8 days, 1 week, 1 month or 5 years");
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: i64 = text[..end].parse().ok().filter(|n| *n < 1_000_000).ok_or_else(wrong)?;
    let unit = text[end..].trim().to_ascii_lowercase();
    let unit = match unit.as_str() {
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
        "mth" | "mths" | "month" | "months" => Unit::Month,
        "w" | "wk" | "wks" | "week" | "weeks" => Unit::Fixed(604_800),
        "d" | "dy" | "day" | "days" => Unit::Fixed(86_400),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Fixed(3600),
        "min" | "mins" | "minute" | "minutes" => Unit::Fixed(60),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Fixed(1),
        _ => return Err(wrong()),
    };
    Ok((number, unit))
}

/// Returns a verdict for each snapshot of one dataset, in the same order. `snapshots` does not include the newest
/// ones that always stay. `unsent` ones stay, and the next interval begins at them only if one was kept before.
/// Back-dated ones ([`crate::backdated`]) count as made at the time of the one before, and no interval begins at them.
pub fn decide<'a, S: Borrow<Snapshot<'a>>>(
    windows: &[Window],
    snapshots: &[S],
    unsent: &dyn Fn(&Snapshot<'_>) -> bool,
    clock: &Clock,
) -> Vec<Verdict> {
    let now = clock.civil(clock.now);
    // Sort the narrowest first: the one that begins latest, and of equal ones the one with the shorter interval.
    let mut windows: Vec<_> = windows.iter().map(|w| (now.saturating_sub(w.max_age), w.interval)).collect();
    windows.sort_by_key(|(from, interval)| (Reverse(*from), *interval));
    let oldest = windows.last().map_or(now, |window| window.0);
    let mut order: Vec<usize> = (0..snapshots.len()).collect();
    let key = |i: &usize| {
        let snapshot = snapshots[*i].borrow();
        (snapshot.counts_as(), snapshot.createtxg, snapshot.name)
    };
    order.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    let mut verdicts = vec![None; snapshots.len()];
    let mut last: Option<DateTime> = None;
    for i in order {
        let snapshot = snapshots[i].borrow();
        if snapshot.is_future(clock.now) {
            verdicts[i] = Some(Verdict::keep(Reason::Future));
            continue;
        }
        // Ignore seconds: zrep-expire reads the time from `zfs list`, which does not print them.
        let made = snapshot.counts_as();
        let made = clock.civil(made.saturating_sub(made.rem_euclid(60)));
        let covering = windows.iter().find(|(from, _)| made >= *from);
        let interval = covering.map_or(0, |(_, interval)| *interval);
        let verdict = if unsent(snapshot) {
            if !snapshot.is_back_dated() {
                last = last.map(|_| made);
            }
            Verdict::keep(Reason::Unsent)
        } else if made < oldest {
            Verdict::destroy(Reason::TooOld)
        } else if snapshot.is_back_dated() {
            if interval > 0 { Verdict::destroy(Reason::TooClose(interval)) } else { Verdict::keep(Reason::Spaced(0)) }
        } else if let Some(before) = last {
            if before.duration_until(made).as_secs() < interval {
                Verdict::destroy(Reason::TooClose(interval))
            } else {
                last = Some(made);
                Verdict::keep(Reason::Spaced(interval))
            }
        } else {
            last = Some(made);
            Verdict::keep(Reason::First)
        };
        verdicts[i] = Some(verdict);
    }
    verdicts.into_iter().flatten().collect()
}
