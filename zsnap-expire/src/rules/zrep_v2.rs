//! Spacing, as the second version of zrep-expire has it: up to an age, snapshots are at least so far
//! apart. The windows of a file:
//!
//! ```text
//! # MAX_AGE : MIN_INTERVAL
//!  8 days   : 1 hour
//!  1 year   : 1 week
//! ```
//!
//! From the oldest to the newest, a snapshot stays if it is at least the interval of the narrowest
//! window that covers it later than the one that was kept before it: no calendar, no slots. What is
//! older than the largest window goes.

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

/// A line of the file.
#[derive(Clone, Debug)]
pub struct Window {
    max_age: Span,
    /// Seconds.
    interval: i64,
}

/// `8 days : 1 hour`, without its comment.
pub fn window(line: &str) -> Result<Window, String> {
    let (age, interval) = line.split_once(':').ok_or("write MAX_AGE : MIN_INTERVAL, as 8 days : 1 hour")?;
    let (number, unit) = amount(age)?;
    let span = Span::new();
    let max_age = match unit {
        Unit::Year => span.try_years(number),
        Unit::Month => span.try_months(number),
        // By the clock on the wall, on which each day has as many.
        Unit::Fixed(seconds) => span.try_seconds(number * seconds),
    };
    let max_age = max_age.map_err(|_| format!("\"{}\" is too long", age.trim()))?;
    // As from 1 January of the year 1, which is where zrep-expire measures it.
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
            (0, months) => format!("{months}months"),
            (years, _) => format!("{years}y"),
        };
        write!(f, "{age}:{}", length(self.interval))
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Year,
    Month,
    /// So many seconds.
    Fixed(i64),
}

/// `8 days`, `8d`; `a day` is not understood, nor `6m`, which elsewhere is six months.
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

/// For each snapshot of one dataset, in the order given; the newest ones that stay in any case are
/// not among them. `unsent` stay, and count as kept before the next one only if another was. Back-dated ones
/// ([`crate::backdated`]) are no interval behind the one that was made before them, and none is measured from them.
pub fn decide<'a, S: Borrow<Snapshot<'a>>>(
    windows: &[Window],
    snapshots: &[S],
    unsent: &dyn Fn(&Snapshot<'_>) -> bool,
    clock: &Clock,
) -> Vec<Verdict> {
    let now = clock.civil(clock.now);
    // The narrowest first: that with the latest beginning, of two such that with the shorter interval.
    let mut windows: Vec<_> = windows.iter().map(|w| (now.saturating_sub(w.max_age), w.interval)).collect();
    windows.sort_by_key(|(from, interval)| (Reverse(*from), *interval));
    let oldest = windows.last().map_or(now, |window| window.0);
    let mut order: Vec<usize> = (0..snapshots.len()).collect();
    let key = |i: &usize| {
        let snapshot = snapshots[*i].borrow();
        (snapshot.counts_as(), snapshot.createtxg, snapshot.name)
    };
    order.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    let mut verdicts = vec![Verdict::undecided(); snapshots.len()];
    let mut last: Option<DateTime> = None;
    for i in order {
        let snapshot = snapshots[i].borrow();
        if snapshot.is_future(clock.now) {
            verdicts[i] = Verdict::keep(Reason::Future);
            continue;
        }
        // `zfs list`, from which zrep-expire reads the time, shows no seconds.
        let made = snapshot.counts_as();
        let made = clock.civil(made.saturating_sub(made.rem_euclid(60)));
        let covering = windows.iter().find(|(from, _)| made >= *from);
        let interval = covering.map_or(0, |(_, interval)| *interval);
        verdicts[i] = if unsent(snapshot) {
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
    }
    verdicts
}
