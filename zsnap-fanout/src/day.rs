//! Days in UTC, which are the names of the directories of kept files, and the times by the local clock that users write.

use std::str::FromStr;
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, tz::TimeZone};
use zsnap_common::cli::units;

/// The time since which `requeue` delivers files again.
#[derive(Clone, Copy, Debug)]
pub enum Since {
    /// A time: the beginning of a day, or a time of day, by the local clock.
    At(Timestamp),
    /// The time that it was this long ago.
    Ago(Duration),
}

impl Since {
    /// Returns the time in seconds since 1970. `now` is one, too.
    pub fn seconds(self, now: u64) -> u64 {
        match self {
            Since::At(time) => u64::try_from(time.as_second()).unwrap_or(0),
            Since::Ago(time) => now.saturating_sub(time.as_secs()),
        }
    }

    /// Parses a time. Where it has no offset, it is in the time zone `zone`.
    fn parse(text: &str, zone: &TimeZone) -> Option<Since> {
        if let Ok(time) = text.parse::<Timestamp>() {
            return Some(Since::At(time));
        }
        // A text without a time of day is the beginning of the day.
        if let Ok(time) = text.parse::<DateTime>() {
            return zone.to_timestamp(time).ok().map(Since::At);
        }
        units::duration(text).ok().map(Since::Ago)
    }
}

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Since, String> {
        Since::parse(text, &TimeZone::system()).ok_or_else(|| {
            format!("\"{text}\" is not a time; write 2026-11-20, or \"2026-11-20 14:30\", or 3d for three days ago")
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_an_offset_is_local() {
        let at = |text: &str, zone: &TimeZone| Since::parse(text, zone).map(|since| since.seconds(1_000_000));
        let seconds = |text: &str| Some(text.parse::<Timestamp>().unwrap().as_second() as u64);
        let east = TimeZone::fixed(jiff::tz::offset(14));
        for (text, utc) in [
            ("2026-11-20", "2026-11-19T10:00:00Z"),
            ("2026-11-20 14:30", "2026-11-20T00:30:00Z"),
            ("2026-11-20T14:30:15", "2026-11-20T00:30:15Z"),
            ("2026-11-20T14:30Z", "2026-11-20T14:30:00Z"),
            ("2026-11-20T14:30+01:00", "2026-11-20T13:30:00Z"),
        ] {
            assert_eq!(at(text, &east), seconds(utc), "{text}");
        }
        assert_eq!(at("2026-11-20", &TimeZone::UTC), seconds("2026-11-20T00:00:00Z"));
        assert_eq!(at("2d", &east), Some(1_000_000 - 2 * 86_400));
        for wrong in ["", "yesterday", "2026-11-31", "14:30", "2026-11", "3"] {
            assert_eq!(at(wrong, &east), None, "{wrong}");
        }
    }
}
