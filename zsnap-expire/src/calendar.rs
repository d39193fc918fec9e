//! Civil time in a configured time zone: days have 23 to 25 hours, and weeks are ISO weeks.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The current time and the time zone.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The current time, or that of `--at`, in seconds since 1970.
    pub now: i64,
    /// The time zone, which determines when days begin.
    pub zone: TimeZone,
}

impl Clock {
    /// Returns the name of the time zone for messages.
    pub fn zone_name(&self) -> &str {
        if self.zone.is_unknown() {
            return "UTC (this system names no zone)";
        }
        self.zone.iana_name().unwrap_or("the zone of TZ or /etc/localtime")
    }

    /// Returns the civil time of a time in seconds since 1970. Times outside the calendar (the years -9999
    /// to 9999) are clamped.
    pub fn civil(&self, seconds: i64) -> DateTime {
        self.zone.to_datetime(timestamp(seconds))
    }

    /// Returns the time `age` before `seconds` by the calendar: a day before 3 o'clock is 3 o'clock, and a
    /// month before 31 March is the last day of February. An ambiguous or skipped civil time is the earlier
    /// time, so that more stays: if a zone skips a whole day, a day earlier must not be the same time.
    pub fn before(&self, seconds: i64, age: &Age) -> i64 {
        let hours = i64::from(age.hours) * 3600;
        let days = Age { hours: 0, ..*age };
        if days == Age::default() {
            return seconds.saturating_sub(hours);
        }
        let then = days.span().and_then(|span| self.civil(seconds).checked_sub(span));
        let then = then.and_then(|then| self.zone.to_ambiguous_timestamp(then).earlier());
        then.map_or(i64::MIN, |then| then.as_second().saturating_sub(hours))
    }
}

fn timestamp(seconds: i64) -> Timestamp {
    let clamped = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(clamped).unwrap_or_default()
}

/// A span of calendar time: `48h`, `15d`, `4w`, `6mo` (months), `5y`, and `1y6mo`. The older `m` is a month too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Age {
    /// Years.
    pub years: i32,
    /// Months.
    pub months: i32,
    /// Days; a week counts as seven.
    pub days: i32,
    /// Hours of 3600 seconds each.
    pub hours: i32,
}

impl Age {
    fn span(&self) -> Result<Span, jiff::Error> {
        let span = Span::new().try_years(self.years).and_then(|s| s.try_months(self.months));
        span.and_then(|s| s.try_days(self.days)).and_then(|s| s.try_hours(self.hours))
    }
}

impl FromStr for Age {
    type Err = String;
    fn from_str(text: &str) -> Result<Age, String> {
        let wrong = || format!("\"{text}\" is not a length of time; write 48h, 15d, 4w, 6mo (months), 5y or 1y6mo");
        let mut age = Age::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: i32 = rest[..end].parse().map_err(|_| wrong())?;
            // With these limits no unit alone exceeds the calendar, and 7 times a number of weeks does not overflow.
            if number > 9_000 * 24 {
                return Err(wrong());
            }
            let after = &rest[end..];
            let (unit, next) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
            match unit {
                "y" if number <= 9_000 => age.years = age.years.saturating_add(number),
                "mo" | "m" if number <= 100_000 => age.months = age.months.saturating_add(number),
                "w" => age.days = age.days.saturating_add(7 * number),
                "d" => age.days = age.days.saturating_add(number),
                "h" => age.hours = age.hours.saturating_add(number),
                _ => return Err(wrong()),
            }
            rest = next;
        }
        if age == Age::default() { Err(wrong()) } else { Ok(age) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.years, "y"), (self.months, "mo")] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        match (self.days, self.days % 7) {
            (0, _) => {}
            (days, 0) if *self == (Age { days, ..Age::default() }) => write!(f, "{}w", days / 7)?,
            (days, _) => write!(f, "{days}d")?,
        }
        if self.hours > 0 {
            write!(f, "{}h", self.hours)?;
        }
        Ok(())
    }
}

/// Returns a length of time such as `7d` or `1h`, in the largest unit that divides it.
pub fn length(seconds: i64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let fits = units.iter().find(|(unit, _)| seconds > 0 && seconds % unit == 0);
    fits.map_or(format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn clock(zone: &str) -> Clock {
        Clock { now: 0, zone: TimeZone::get(zone).unwrap() }
    }

    /// Returns the seconds since 1970 of a civil time in `zone`, or of a time with an offset.
    pub fn at(zone: &TimeZone, text: &str) -> i64 {
        let timestamp = text.parse::<Timestamp>();
        timestamp.or_else(|_| zone.to_timestamp(text.parse().unwrap())).unwrap().as_second()
    }

    fn seconds(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn ages_are_parsed_and_printed() {
        // The older name of a month.
        assert_eq!("1y6m2d".parse::<Age>(), "1y6mo2d".parse());
        for text in ["48h", "15d", "4w", "6mo", "5y", "1y6mo", "2y5mo7d3h"] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
        }
        assert_eq!("14d".parse::<Age>().unwrap().to_string(), "2w");
        for text in
            ["", "0d", "1", "d", "1x", "-1d", "1d 2h", "99999999999d", "9999y", "300000d", "2147483647w", "1\u{fc}"]
        {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_age_is_counted_back_in_civil_time() {
        let berlin = clock("Europe/Berlin");
        for (at, age, before) in [
            // The clocks went forward on 2026-03-29, back on 2026-10-25.
            ("2026-03-29T10:00:00Z", "1d", "2026-03-28T11:00:00Z"),
            ("2026-10-25T11:00:00Z", "1d", "2026-10-24T10:00:00Z"),
            ("2026-03-29T10:00:00Z", "24h", "2026-03-28T10:00:00Z"),
            ("2026-03-31T10:00:00Z", "1mo", "2026-02-28T11:00:00Z"),
            ("2024-02-29T12:00:00Z", "1y", "2023-02-28T12:00:00Z"),
            ("1970-01-01T00:00:00Z", "1y", "1969-01-01T00:00:00Z"),
        ] {
            assert_eq!(berlin.before(seconds(at), &age.parse().unwrap()), seconds(before), "{at} {age}");
        }
        for (zone, at, age, before) in [
            // 2:30 was skipped, or occurred twice: the earlier time counts.
            ("Europe/Berlin", "2026-03-30T00:30:00Z", "1d", "2026-03-29T00:30:00Z"),
            ("Europe/Berlin", "2026-10-26T01:30:00Z", "1d", "2026-10-25T00:30:00Z"),
            ("America/New_York", "2026-03-09T06:30:00Z", "1d", "2026-03-08T06:30:00Z"),
            // One hour before the second 2:30 is the first 2:30: an hour is 3600 seconds.
            ("Europe/Berlin", "2026-10-25T01:30:00Z", "1h", "2026-10-25T00:30:00Z"),
            ("Europe/Berlin", "2026-10-26T01:30:00Z", "1d1h", "2026-10-24T23:30:00Z"),
            // Samoa skipped 30 December 2011: a day before the 31st is the 29th.
            ("Pacific/Apia", "2011-12-30T20:00:00Z", "1d", "2011-12-29T20:00:00Z"),
        ] {
            assert_eq!(clock(zone).before(seconds(at), &age.parse().unwrap()), seconds(before), "{zone} {at} {age}");
        }
        // An age beyond the calendar gives the earliest time, not 0.
        assert_eq!(berlin.before(0, &"9000y9000y9000y".parse().unwrap()), i64::MIN);
        assert_eq!(berlin.before(i64::MIN, &"9000y".parse().unwrap()), i64::MIN);
        let _ = berlin.civil(i64::MAX);
    }
}
