//! A table worked out by hand from what zrep-expire's second version does. `zrep` stands for its default
//! windows.

use jiff::tz::TimeZone;

use super::*;
use crate::calendar::tests::at;
use crate::snapshot::Sent;

const ZREP: &str = "1 hour : 1 minute; 12 hours : 5 minutes; 8 days : 1 hour; 32 days : 1 day;
    1 year : 1 week; 5 years : 1 month";

fn windows(text: &str) -> Vec<Window> {
    text.replace("zrep", ZREP).split(';').map(|line| window(line).unwrap()).collect()
}

/// zone | now | windows | snapshots: the first (*), far enough from the previous one kept (+), too
/// close (-), too old (x), not sent (u), dated in the future (f)
const TABLE: &str = "
    # The default windows. They cover 5 years, including the first moment; a month is 31 days.
    UTC | 2026-11-22T12:00 | zrep | x2021-11-22T11:59 *2021-11-22T12:00
    UTC | 2026-11-22T12:00 | zrep | x1970-01-01T00:00 x2021-11-22T11:59:59 *2026-11-22T11:59 +2026-11-22T12:00
    UTC | 2026-11-22T12:00 | zrep | *2021-12-01T00:00 -2021-12-31T23:59 +2022-01-01T00:00
    UTC | 2026-11-22T12:00 | zrep | *2022-02-01T00:00 -2022-03-03T23:59 +2022-03-04T00:00
    # Intervals are counted from the last kept snapshot, not from the previous one.
    UTC | 2026-11-22T12:00 | zrep | *2022-01-01T00:00 -2022-01-20T00:00 +2022-02-05T00:00 -2022-03-01T00:00 +2022-03-08T00:00
    UTC | 2026-11-22T12:00 | zrep | *2022-01-01T00:00 +2022-12-01T00:00 -2022-12-31T00:00
    # A week, up to a year.
    UTC | 2026-11-22T12:00 | zrep | *2025-12-01T00:00 -2025-12-07T23:59 +2025-12-08T00:00
    UTC | 2026-11-22T12:00 | zrep | *2025-11-15T12:00 -2025-11-22T11:59 +2025-11-22T12:00
    UTC | 2026-11-22T12:00 | zrep | *2025-11-15T12:01 -2025-11-22T12:00 +2025-11-22T12:01
    # A day, up to 32 days.
    UTC | 2026-11-22T12:00 | zrep | *2026-10-20T13:00 -2026-10-21T11:59 -2026-10-21T12:59 +2026-10-21T13:00
    UTC | 2026-11-22T12:00 | zrep | *2026-10-20T12:00 +2026-10-21T12:00 -2026-10-22T11:59 +2026-10-22T12:00
    # An hour, up to 8 days.
    UTC | 2026-11-22T12:00 | zrep | *2026-11-20T10:00 -2026-11-20T10:59 +2026-11-20T11:00
    UTC | 2026-11-22T12:00 | zrep | *2026-11-14T11:00 -2026-11-14T11:59 +2026-11-14T12:00
    # Five minutes, up to 12 hours.
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T01:00 -2026-11-22T01:04 +2026-11-22T01:05
    UTC | 2026-11-22T12:00 | zrep | *2026-11-21T23:55 -2026-11-21T23:59 +2026-11-22T00:00
    # A minute, up to an hour; zrep-expire gets no seconds from zfs list.
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T11:10 +2026-11-22T11:11
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T11:10:59 +2026-11-22T11:11:00
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T11:10:00 -2026-11-22T11:10:59
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T10:59 +2026-11-22T11:00
    UTC | 2026-11-22T12:00:30 | zrep | *2026-11-22T10:57 -2026-11-22T11:00:45 +2026-11-22T11:01
    UTC | 2026-11-22T12:00:30 | zrep | x2021-11-22T12:00:45 *2021-11-22T12:01
    # Two snapshots of the same second.
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T11:10 -2026-11-22T11:10 +2026-11-22T11:20 -2026-11-22T11:20
    # An unsent snapshot stays; intervals are counted from it only if one was kept before it.
    UTC | 2026-11-22T12:00 | zrep | u2026-11-20T10:00 *2026-11-20T10:10 -2026-11-20T11:09 +2026-11-20T11:10
    UTC | 2026-11-22T12:00 | zrep | *2026-11-20T10:00 u2026-11-20T10:30 -2026-11-20T11:10 +2026-11-20T11:30
    UTC | 2026-11-22T12:00 | zrep | *2026-11-20T10:00 u2026-11-20T10:01 -2026-11-20T11:00 +2026-11-20T11:01
    UTC | 2026-11-22T12:00 | zrep | u2011-01-01T00:00 x2020-01-01T00:00 u2020-01-02T00:00 *2022-01-01T00:00
    UTC | 2026-11-22T12:00 | zrep | *2026-11-20T10:00 u2026-11-20T10:20 u2026-11-20T10:40 -2026-11-20T11:39 +2026-11-20T11:40
    # A snapshot dated more than a day ahead does not count.
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T11:58 +2026-11-23T12:00 f2026-11-23T12:01 f2100-01-01T00:00
    UTC | 2026-11-22T12:00 | zrep | *2026-11-22T12:10 -2026-11-22T12:10:59 +2026-11-22T12:11
    # The order of the lines does not matter, also with two windows of one age.
    UTC | 2026-11-22T12:00 | 5 years : 1 month; 1 hour : 1 minute; 8 days : 1 hour | *2026-11-22T11:10 +2026-11-22T11:11
    UTC | 2026-11-22T12:00 | 8 days : 1 hour; 5 years : 1 month; 1 hour : 1 minute | *2026-11-20T11:10 +2026-11-20T12:10
    UTC | 2026-11-22T12:00 | 7 days : 1 hour; 1 week : 1 day | *2026-11-20T10:00 +2026-11-20T11:00
    UTC | 2026-11-22T12:00 | 1 week : 1 day; 7 days : 1 hour | *2026-11-20T10:00 +2026-11-20T11:00
    # A wider window with a shorter interval changes nothing within the narrower.
    UTC | 2026-11-22T12:00 | 1 day : 6 hours; 1 week : 1 hour | *2026-11-22T00:00 -2026-11-22T05:59 +2026-11-22T06:00
    # The spellings of lengths.
    UTC | 2026-11-22T12:00 | 7d:1d | x2026-11-15T11:59 *2026-11-15T12:00 -2026-11-16T11:59 +2026-11-16T12:00
    UTC | 2026-11-22T12:00 | 2 Weeks : 12hrs | x2026-11-08T11:59 *2026-11-08T12:00 -2026-11-08T23:59 +2026-11-09T00:00
    UTC | 2026-11-22T12:00 | 90 mins : 120 secs | x2026-11-22T10:29 *2026-11-22T10:30 -2026-11-22T10:31 +2026-11-22T10:32
    UTC | 2026-11-22T12:00 | 1 day : 0 minutes | x2026-11-21T11:59 *2026-11-21T12:00 +2026-11-21T12:00 +2026-11-21T12:01
    # Ages follow the calendar and end at the end of a shorter month.
    UTC | 2026-03-31T12:00 | 1 month : 1 day | x2026-02-28T11:59 *2026-02-28T12:00
    UTC | 2026-05-31T12:00 | 3 months : 1 day | x2026-02-28T11:59 *2026-02-28T12:00
    UTC | 2024-02-29T12:00 | 1 year : 1 day | x2023-02-28T11:59 *2023-02-28T12:00 +2023-03-01T12:00
    UTC | 2028-02-29T12:00 | 4y : 1d | x2024-02-29T11:59 *2024-02-29T12:00
    # Intervals have the length that they have from the year 1 on: a year is 365 days, two months 59, 4 years 1461.
    UTC | 2026-11-22T12:00 | 10 years : 1 year | *2019-03-01T00:00 -2020-02-28T23:59 +2020-02-29T00:00
    UTC | 2026-11-22T12:00 | 10 years : 12 months | *2019-03-01T00:00 -2020-02-28T23:59 +2020-02-29T00:00
    UTC | 2026-11-22T12:00 | 5 years : 2 months | *2026-07-01T00:00 -2026-08-28T23:59 +2026-08-29T00:00
    UTC | 2026-11-22T12:00 | 50 years : 4 years | *2001-01-01T00:00 -2004-12-31T23:59 +2005-01-01T00:00
    # Distances are of civil time: half an hour across the change is an hour and a half.
    Europe/Berlin | 2026-03-30T12:00 | 8 days : 1 hour | *2026-03-29T01:30 +2026-03-29T03:00
    Europe/Berlin | 2026-03-30T12:00 | 8 days : 1 hour | *2026-03-29T00:59Z +2026-03-29T01:00Z
    Europe/Berlin | 2026-03-29T03:30 | 2 hours : 1 minute | x2026-03-29T01:29 *2026-03-29T01:30
    America/New_York | 2026-03-30T12:00 | 32 days : 1 hour | *2026-03-08T06:59Z +2026-03-08T07:00Z
    # 2:30, and an hour later 2:30 again.
    Europe/Berlin | 2026-10-26T12:00 | 8 days : 1 hour | *2026-10-25T00:30Z -2026-10-25T01:30Z -2026-10-25T02:29Z +2026-10-25T02:30Z
    Europe/Berlin | 2026-10-26T12:00 | 8 days : 1 minute | *2026-10-25T00:45Z -2026-10-25T01:15Z -2026-10-25T01:45Z +2026-10-25T01:46Z
    Europe/Berlin | 2026-10-26T12:00 | 1 day : 1 minute | x2026-10-25T11:59 *2026-10-25T12:00
    Australia/Lord_Howe | 2026-04-06T12:00 | 8 days : 1 hour | *2026-04-04T14:30Z -2026-04-04T15:59Z +2026-04-04T16:00Z
    # A leap day is a day.
    UTC | 2024-03-10T12:00 | 32 days : 1 day | *2024-02-28T12:00 +2024-02-29T12:00 +2024-03-01T12:00 -2024-03-02T11:59
    # Other centuries.
    UTC | 1971-01-01T00:00 | 5 years : 1 day | *1969-12-31T23:00 -1970-01-01T22:59 +1970-01-01T23:00
    UTC | 2101-01-01T00:00 | 5 years : 1 day | *2100-02-28T12:00 +2100-03-01T12:00
";

/// Returns the sign of the verdict for each snapshot, in the same order.
fn signs(windows: &[Window], snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<&'static str> {
    let unsent = |snapshot: &Snapshot<'_>| snapshot.sent == Sent::No;
    let verdicts = decide(windows, snapshots, &unsent, clock);
    let sign = |verdict: &Verdict| match (verdict.keep, &verdict.reasons[..]) {
        (true, [Reason::First]) => "*",
        (true, [Reason::Spaced(_)]) => "+",
        (false, [Reason::TooClose(_)]) => "-",
        (false, [Reason::TooOld]) => "x",
        (true, [Reason::Unsent]) => "u",
        (true, [Reason::Future]) => "f",
        other => panic!("{other:?}"),
    };
    verdicts.iter().map(sign).collect()
}

#[test]
fn spacing_keeps_the_marked_snapshots_of_the_table() {
    let lines = TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let [zone, now, wide, signed] = line.split(" | ").collect::<Vec<_>>().try_into().unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let clock = Clock { now: at(&zone, now), zone };
        let windows = windows(wide);
        let (mut expected, mut snapshots, names): (Vec<&str>, Vec<Snapshot<'_>>, Vec<String>) =
            (Vec::new(), Vec::new(), (10..99).map(|nr| format!("pool/fs@zrep_0000{nr}")).collect());
        for (text, name) in signed.split_whitespace().zip(&names) {
            let (sign, made) = text.split_at(1);
            let sent = if sign == "u" { Sent::No } else { Sent::Time };
            snapshots.push(Snapshot { name, creation: at(&clock.zone, made), sent, ..Snapshot::default() });
            expected.push(sign);
        }
        assert_eq!(signs(&windows, &snapshots, &clock), expected, "{line}");
        // The result does not depend on the order of the list.
        snapshots.reverse();
        expected.reverse();
        assert_eq!(signs(&windows, &snapshots, &clock), expected, "{line}, the newest first");
    }
}

/// A back-dated snapshot is destroyed, because it counts as made at the time of the one before it, and no interval
/// begins at it.
#[test]
fn a_back_dated_snapshot_changes_no_other_spacing_verdict() {
    for (text, signed) in [
        ("30 days : 1 day", "*18T12 +19T12 -18T11 -17T11 +20T12 -19T13"),
        ("30 days : 1 day", "*18T12 -18T13 -18T11 u18T12 -19T11 +19T12"),
        ("30 days : 1 day", "u19T12 *20T12 -19T13 +21T12"),
        ("1 day : 1 hour", "x20T12 x20T11 *30T00 -20T00"),
        ("30 days : 0 days", "*18T12 +17T12 +18T13"),
    ] {
        let zone = TimeZone::UTC;
        let time = |text: &str| at(&zone, &format!("2026-11-{text}:00"));
        let made = |(text, createtxg): (&str, u64)| {
            let sent = if text.starts_with('u') { Sent::No } else { Sent::Time };
            Snapshot { creation: time(&text[1..]), createtxg, sent, ..Snapshot::default() }
        };
        let mut snapshots: Vec<_> = signed.split(' ').zip(1..).map(made).collect();
        let clock = Clock { now: time("30T00"), zone: TimeZone::UTC };
        crate::backdated::find(&mut snapshots, &clock);
        let expected: Vec<&str> = signed.split(' ').map(|text| &text[..1]).collect();
        assert_eq!(signs(&windows(text), &snapshots, &clock), expected, "{signed}");
    }
}

#[test]
fn an_invalid_window_is_rejected_with_the_reason() {
    for (line, says) in [
        ("", "write MAX_AGE : MIN_INTERVAL"),
        ("8 days 1 hour", "write MAX_AGE : MIN_INTERVAL"),
        ("8 days :", "\"\" is not a length of time"),
        (": 1 hour", "\"\" is not a length of time"),
        ("days : 1 hour", "\"days\" is not a length of time"),
        ("8 : 1 hour", "\"8\" is not a length of time"),
        ("-8 days : 1 hour", "\"-8 days\" is not a length"),
        ("8 days : 1 hour : 2", "\"1 hour : 2\" is not a length"),
        ("8 days : 1 fortnight", "\"1 fortnight\" is not a length"),
        ("1.5 days : 1 hour", "is not a length of time"),
        ("1 day 2 hours : 1 hour", "is not a length of time"),
        ("99999999999999999999 days : 1 hour", "is not a length of time"),
        ("999999 years : 1 hour", "\"999999 years\" is too long"),
        ("8 days : 999999 years", "\"999999 years\" is too long"),
        ("8 days : 999999 months", "\"999999 months\" is too long"),
    ] {
        let error = window(line).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
}
