//! Units: durations and sizes on the command line and in configuration files.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Parses a duration with its unit: `7d`, `36h`, `90min`, `2w`, `30s`. A day has 24 hours. The older `m` is a
/// minute here, and a month in the rules of zsnap-expire.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration; write 7d, 36h or 90min");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let signed = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| wrong())
}

/// Parses a path, and makes it absolute. Child programs need that, because they run in `/`, wherever we were started.
pub fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|e| e.to_string())
}

/// Parses a key of a table of the configuration file as the option of the same name: a string or a whole number.
pub fn like_option<'de, D: Deserializer<'de>, T>(
    d: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a whole number")]
    enum Given {
        Text(String),
        Number(i64),
    }
    let parsed = match Given::deserialize(d)? {
        Given::Text(text) => parse(&text),
        Given::Number(number) => parse(&number.to_string()),
    };
    parsed.map(Some).map_err(serde::de::Error::custom)
}

/// Parses a size in bytes: a number, alone or with `K`, `M`, `G` or `T` (also `KiB` and so on), which are
/// powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a size; write 64MiB, 512K or 1G");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units() {
        for (text, seconds) in [
            ("0", 0),
            ("7d", 604_800),
            ("36h", 129_600),
            ("90min", 5400),
            ("90m", 5400),
            ("1h30min", 5400),
            ("2w", 1_209_600),
            ("30s", 30),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "7", "d", "-1d", "1mo", "x"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for (text, bytes) in [("0", 0), ("10", 10), ("512K", 524_288), ("64MiB", 67_108_864), ("1G", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "1.5G", "1 G", "-1", "99999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
