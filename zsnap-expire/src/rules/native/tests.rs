//! Tables of what each rule keeps, worked out by hand. `tests/tests/expire/properties` and real restic test the rest.

use jiff::tz::TimeZone;

use super::*;
use crate::calendar::tests::at;

/// zone | now, or "newest" if ages count from the newest | rules | snapshots: kept by a rule (+), kept by
/// a rule as the oldest (o), destroyed (-), dated in the future (f)
const TABLE: &str = "
    # A snapshot exactly as old as the age is too old, relative to the newest and to now.
    UTC | newest | all=24h | -2026-11-19T12:00 -2026-11-20T12:00 +2026-11-20T12:00:01 +2026-11-21T12:00
    UTC | 2026-11-22T12:00 | all=24h | -2026-11-20T12:00 -2026-11-21T12:00 +2026-11-21T12:00:01
    UTC | 2026-11-22T12:00 | daily=2d | -2026-11-20T12:00 -2026-11-20T13:00 +2026-11-20T14:00 +2026-11-21T12:00
    UTC | 2026-11-22T12:00 | all=1h yearly=1y | -2024-11-21T12:00 +2025-12-31T12:00 -2026-11-20T11:00 +2026-11-20T14:00
    # The last of each period up to the count, and the oldest while a count is left.
    UTC | newest | last=2 | -2026-11-20T12:00 +2026-11-21T12:00 +2026-11-21T12:00
    UTC | newest | hourly=2 | -2026-11-20T11:10 -2026-11-20T12:00 +2026-11-20T12:59 -2026-11-20T13:00 +2026-11-20T13:01
    UTC | newest | hourly=3 | o2026-11-20T12:00 +2026-11-20T12:59 -2026-11-20T13:00 +2026-11-20T13:01
    UTC | newest | daily=2 | -2026-11-20T00:00 +2026-11-20T23:59:59 -2026-11-21T00:00 +2026-11-21T12:00
    UTC | newest | daily=3 | o2026-11-20T00:00 -2026-11-20T12:00 +2026-11-20T23:59:59 +2026-11-21T12:00
    UTC | newest | daily=unlimited | o2000-01-01T00:00 +2000-01-01T01:00 +2026-11-20T12:00 +2026-11-21T12:00
    UTC | newest | weekly=2 | -2026-11-14T12:00 +2026-11-15T23:59 -2026-11-16T00:00 +2026-11-22T12:00
    UTC | newest | monthly=2 | -2026-09-30T12:00 -2026-10-01T12:00 +2026-10-31T23:59 +2026-11-01T00:00
    UTC | newest | yearly=1 | -2025-12-31T23:59 -2026-01-01T00:00 +2026-12-31T23:59
    # Ages keep no oldest. Rules are independent: one snapshot can be the last of a day and of a week.
    UTC | newest | daily=30d | -2026-11-20T00:00 +2026-11-20T12:00 +2026-11-21T12:00
    UTC | newest | daily=1 weekly=2 | -2026-11-14T12:00 +2026-11-15T12:00 -2026-11-21T12:00 +2026-11-22T12:00
    # Week 53 of 2026 ends on Sunday, 3 January 2027; 29 December 2025 is of week 1 of 2026.
    UTC | newest | weekly=9 | +2026-12-27T12:00 -2026-12-28T12:00 -2026-12-31T12:00 +2027-01-03T12:00 +2027-01-04T12:00
    UTC | newest | weekly=9 | +2025-12-28T12:00 -2025-12-29T12:00 -2026-01-01T12:00 +2026-01-04T12:00
    # Days are those of the zone.
    Europe/Berlin | newest | daily=9 | +2026-11-20T22:59Z -2026-11-20T23:00Z +2026-11-21T22:59Z
    America/New_York | newest | daily=9 | o2026-11-20T22:59Z -2026-11-20T23:00Z +2026-11-21T04:59Z +2026-11-21T05:00Z
    Europe/Berlin | newest | hourly=9 | o2026-10-25T00:10Z -2026-10-25T01:10Z +2026-10-25T01:59Z +2026-10-25T02:00Z
    # A snapshot dated more than a day ahead uses up no count.
    UTC | 2026-11-22T12:00 | last=1 | -2026-11-21T12:00 +2026-11-23T12:00 f2026-11-23T12:00:01 f2100-01-01T00:00
";

#[test]
fn each_row_of_the_table_keeps_the_marked_snapshots() {
    for line in TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [zone, now, rules, signed] = line.split(" | ").collect::<Vec<_>>().try_into().unwrap();
        let rules: Vec<Rule> = rules.split(' ').map(|rule| rule.parse().unwrap()).collect();
        let zone = TimeZone::get(zone).unwrap();
        let (now, reference) = match now {
            "newest" => (at(&zone, "2099-01-01T00:00"), Reference::Newest),
            now => (at(&zone, now), Reference::Now),
        };
        let clock = Clock { now, zone };
        let signed: Vec<(&str, &str)> = signed.split_whitespace().map(|text| text.split_at(1)).collect();
        let made = signed.iter().map(|(_, made)| at(&clock.zone, made));
        let snapshots: Vec<_> = made
            .zip(1..)
            .map(|(creation, createtxg)| Snapshot { creation, createtxg, ..Snapshot::default() })
            .collect();
        let sign = |verdict: &Verdict| match (verdict.keep, &verdict.reasons[..]) {
            (true, [Reason::Future]) => "f",
            (true, [Reason::Oldest(_), ..]) => "o",
            (true, [Reason::Rule(_), ..]) => "+",
            (false, [Reason::NoRule]) => "-",
            other => panic!("{other:?}"),
        };
        let decided = decide(&rules, reference, &snapshots, &clock);
        let decided: Vec<_> = decided.iter().map(sign).zip(signed.iter().map(|(_, made)| *made)).collect();
        assert_eq!(decided, signed, "{line}");
    }
}

/// rules | snapshots in the order of the pool: kept by a rule (+), destroyed (-), each with the day of November
/// 2026 and the hour in UTC
const BACK_DATED: &str = "
    # A back-dated snapshot is never the last of a period and uses up no count.
    daily=9 | +20T12 +21T12 -20T23:59 -19T23
    daily=2 | -19T12 +20T12 -19T13 -20T11 +21T12
    weekly=9d | +10T12 -17T12 -15T23 +17T13 -16T12
    daily=2 | -18T12 +19T12 +20T12 -18T23 -19T23 -17T23
    # The oldest is a snapshot that is not back-dated.
    daily=9 | +20T12 -01T00 -02T00 +21T12
    # Under all= and last= a back-dated one stays as long as the one that was made before it.
    all=24h | -20T11 -01T00 +20T13 +01T00 +21T12 +19T00
    last=2 | -20T11 -01T00 +20T13 +01T00 +21T12 +19T00
    last=9 | +20T11 +01T00 +20T13
    # Ages count from the latest date.
    all=10h | -20T01 +20T12 +20T07 +20T06
";

#[test]
fn a_back_dated_snapshot_changes_no_other_native_verdict() {
    for line in BACK_DATED.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (rules, signed) = line.split_once(" | ").unwrap();
        let rules: Vec<Rule> = rules.split(' ').map(|rule| rule.parse().unwrap()).collect();
        let zone = TimeZone::UTC;
        let time = |text: &str| at(&zone, &format!("2026-11-{text}{}", if text.contains(':') { "" } else { ":00" }));
        let made =
            |(text, createtxg): (&str, u64)| Snapshot { creation: time(&text[1..]), createtxg, ..Snapshot::default() };
        let mut snapshots: Vec<_> = signed.split(' ').zip(1..).map(made).collect();
        let clock = Clock { now: time("30T00"), zone: TimeZone::UTC };
        crate::backdated::find(&mut snapshots, &clock);
        let verdicts = decide(&rules, Reference::Newest, &snapshots, &clock);
        let signs: String = verdicts.iter().map(|verdict| if verdict.keep { '+' } else { '-' }).collect();
        let expected: String = signed.split(' ').map(|text| &text[..1]).collect();
        assert_eq!(signs, expected, "{line}");
    }
}

#[test]
fn native_rules_are_parsed_and_printed() {
    for text in
        ["all=48h", "last=10", "hourly=24", "daily=15d", "weekly=4w", "monthly=6mo", "yearly=5y", "yearly=1y6mo"]
    {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
    }
    for text in ["hourly=unlimited", "daily=unlimited", "weekly=unlimited", "monthly=1", "yearly=unlimited"] {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
    }
    for (text, says) in [
        ("daily", "is not a rule"),
        ("=3", "is not a rule"),
        ("Daily=3", "is not a rule"),
        ("fortnightly=3", "is not a rule"),
        ("all=3", "all= takes a length of time"),
        ("all=unlimited", "all= takes a length of time"),
        ("last=3d", "last= takes a count"),
        ("daily=0", "is not a length of time"),
        ("daily=-1", "is not a length of time"),
        ("daily=", "is not a length of time"),
        ("daily=3x", "is not a length of time"),
        ("daily=0d", "is not a length of time"),
    ] {
        let error = text.parse::<Rule>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}
