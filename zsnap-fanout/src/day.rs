//! Days in UTC, which are the names of the directories of kept files.

use std::str::FromStr;
use std::time::Duration;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use zsnap_common::cli::units;

/// The first day whose files `requeue` delivers again.
#[derive(Clone, Copy, Debug)]
pub enum Since {
    /// A day in UTC.
    Day(Date),
    /// The day that it was this long ago.
    Ago(Duration),
}

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Since, String> {
        match text.parse() {
            Ok(day) => Ok(Since::Day(day)),
            Err(_) => {
                let wrong = |_| format!("\"{text}\" is not a day; write 2026-11-20, or 3d for three days ago");
                units::duration(text).map(Since::Ago).map_err(wrong)
            }
        }
    }
}

/// Returns the day of a time in seconds since 1970, such as `2026-11-22`. It is in UTC, so that names
/// sort by time and no change of civil time repeats a day.
pub fn day(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default();
    time.strftime("%F").to_string()
}

/// Returns when a day ends, in seconds since 1970, or `None` if `day` is not a date.
pub fn end(day: &str) -> Option<u64> {
    let next = day.parse::<Date>().ok()?.tomorrow().ok()?;
    u64::try_from(next.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second()).ok()
}
