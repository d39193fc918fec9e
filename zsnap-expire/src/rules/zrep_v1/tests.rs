//! Tables worked out by hand from what zrep-expire's first version does. `seed` stands for its default
//! rules.

use jiff::tz::TimeZone;

use super::*;
use crate::calendar::tests::at;

const SEED: &str = "* * * * * +48 hours; * 20-23 * * * +15 days; * 20-23 * * 7 +4 weeks;
    * 20-23 1-7 * 7 +6 months; * 20-23 1-7 1 7 +5 years";

fn rules(text: &str) -> Vec<DatedRule> {
    text.replace("seed", SEED).split(';').map(|line| rule(line).unwrap()).collect()
}

/// Returns the columns of each row of a table, without comments.
fn rows<const N: usize>(table: &'static str) -> Vec<[&'static str; N]> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|l| l.split(" | ").map(str::trim).collect::<Vec<_>>().try_into().expect(l)).collect()
}

/// zone | rules | creation | expiration, in civil time
const EXPIRE: &str = "
    # The default rules. 22 November 2026 is a Sunday; weekday 7 is Saturday.
    UTC | seed | 2026-11-22T12:00 | 2026-11-24T12:00
    UTC | seed | 2026-11-22T19:59:59 | 2026-11-24T19:59:59
    UTC | seed | 2026-11-22T20:00 | 2026-12-07T20:00
    UTC | seed | 2026-11-22T23:59:59 | 2026-12-07T23:59:59
    UTC | seed | 2026-11-23T00:00 | 2026-11-25T00:00
    UTC | seed | 2026-11-20T23:00 | 2026-12-05T23:00
    UTC | seed | 2026-11-21T20:00 | 2026-12-19T20:00
    UTC | seed | 2026-11-14T22:30 | 2026-12-12T22:30
    UTC | seed | 2026-11-07T22:30 | 2027-05-07T22:30
    UTC | seed | 2026-11-08T22:30 | 2026-11-23T22:30
    UTC | seed | 2026-08-01T23:00 | 2027-02-01T23:00
    UTC | seed | 2026-01-03T20:00 | 2031-01-03T20:00
    UTC | seed | 2026-01-03T19:00 | 2026-01-05T19:00
    UTC | seed | 2026-01-10T20:00 | 2026-02-07T20:00
    UTC | seed | 2026-01-04T20:00 | 2026-01-19T20:00
    # The zone decides which day it is: 22:30 on Saturday in Berlin, 16:30 in New York.
    Europe/Berlin | seed | 2026-11-21T21:30Z | 2026-12-19T22:30
    America/New_York | seed | 2026-11-21T21:30Z | 2026-11-23T16:30
    America/New_York | * * 31 12 * 1 days | 2026-01-01T03:00Z | 2026-01-01T22:00
    UTC | * * 31 12 * 1 days | 2026-01-01T03:00Z | never
    # Months and years end at the end of a shorter month.
    UTC | * * * * * 1 months | 2026-01-31T10:00 | 2026-02-28T10:00
    UTC | * * * * * 1 months | 2024-01-31T10:00 | 2024-02-29T10:00
    UTC | * * * * * 1 months | 2026-12-31T10:00 | 2027-01-31T10:00
    UTC | * * * * * 6 months | 2026-08-31T10:00 | 2027-02-28T10:00
    UTC | * * * * * 13 months | 2026-12-31T10:00 | 2028-01-31T10:00
    UTC | * * * * * 1 years | 2024-02-29T10:00 | 2025-02-28T10:00
    UTC | * * * * * 4 years | 2024-02-29T10:00 | 2028-02-29T10:00
    # All units, in the singular and the plural, with and without a sign.
    UTC | * * * * * 2 weeks | 2026-11-22T12:00 | 2026-12-06T12:00
    UTC | * * * * * +90 minutes | 2026-11-22T12:00 | 2026-11-22T13:30
    UTC | * * * * * 30 seconds | 2026-11-22T12:00 | 2026-11-22T12:00:30
    UTC | * * * * * 5 microseconds | 2026-11-22T12:00 | 2026-11-22T12:00:00.000005
    UTC | * * * * * 36 Hours | 2026-11-22T12:00 | 2026-11-24T00:00
    UTC | * * * * * 1 year | 2026-11-22T12:00 | 2027-11-22T12:00
    UTC | * * * * * +1 month | 2026-11-22T12:00 | 2026-12-22T12:00
    UTC | * * * * * 1 week | 2026-11-22T12:00 | 2026-11-29T12:00
    UTC | * * * * * 1 day | 2026-11-22T12:00 | 2026-11-23T12:00
    UTC | * * * * * 1 hour | 2026-11-22T12:00 | 2026-11-22T13:00
    UTC | * * * * * 1 minute | 2026-11-22T12:00 | 2026-11-22T12:01
    UTC | * * * * * 1 second | 2026-11-22T12:00 | 2026-11-22T12:00:01
    UTC | * * * * * 0 days | 2026-11-22T12:00 | 2026-11-22T12:00
    UTC | * * * * * -1 days | 2026-11-22T12:00 | 2026-11-21T12:00
    UTC | * * * * * 19998 years | 2026-11-22T12:00 | 9999-12-31T23:59:59.999999999
    # Lengths are counted in civil time, across changes of the clock.
    Europe/Berlin | * * * * * 48 hours | 2026-03-28T12:00 | 2026-03-30T12:00
    Europe/Berlin | * * * * * 48 hours | 2026-10-24T12:00 | 2026-10-26T12:00
    Europe/Berlin | * * * * * 1 hour | 2026-03-29T01:30 | 2026-03-29T02:30
    Europe/Berlin | * * * * * 1 day | 2026-10-25T00:30Z | 2026-10-26T02:30
    Europe/Berlin | * * * * * 1 day | 2026-10-25T01:30Z | 2026-10-26T02:30
    Australia/Lord_Howe | * * * * * 1 hour | 2026-04-04T14:45Z | 2026-04-05T02:45
    # Lists and ranges include both ends.
    UTC | 0,30 * * * * 1 day | 2026-11-22T12:30:59 | 2026-11-23T12:30:59
    UTC | 0,30 * * * * 1 day | 2026-11-22T12:31 | never
    UTC | 0-10,50-59 * * * * 1 day | 2026-11-22T12:50 | 2026-11-23T12:50
    UTC | 0-10,50-59 * * * * 1 day | 2026-11-22T12:10 | 2026-11-23T12:10
    UTC | 0-10,50-59 * * * * 1 day | 2026-11-22T12:11 | never
    UTC | * 0 * * * 1 day | 2026-11-22T00:59 | 2026-11-23T00:59
    UTC | * * 31 * * 1 day | 2026-10-31T12:00 | 2026-11-01T12:00
    UTC | * * * 1,4-6,12 * 1 day | 2026-05-22T12:00 | 2026-05-23T12:00
    UTC | * * * 1,4-6,12 * 1 day | 2026-12-22T12:00 | 2026-12-23T12:00
    UTC | * * * 1,4-6,12 * 1 day | 2026-11-22T12:00 | never
    UTC | * * * * mon-fri 1 day | 2026-11-20T12:00 | 2026-11-21T12:00
    UTC | * * * * mon-fri 1 day | 2026-11-21T12:00 | never
    UTC | * * * * sun,sat 1 day | 2026-11-22T12:00 | 2026-11-23T12:00
    UTC | * * * * 1,sat 1 day | 2026-11-21T12:00 | 2026-11-22T12:00
    UTC | * * * * Sun-3 1 day | 2026-11-24T12:00 | 2026-11-25T12:00
    UTC | * 12-12 * * * 1 day | 2026-11-24T12:00 | 2026-11-25T12:00
    # Friday the 13th: both day fields must match, not one of them as in cron.
    UTC | * * 13 * 6 1 day | 2026-11-13T12:00 | 2026-11-14T12:00
    UTC | * * 13 * 6 1 day | 2026-11-20T12:00 | never
    UTC | * * 13 * 6 1 day | 2026-10-13T12:00 | never
    # Rules are tried from the bottom to the top, and the first that matches decides.
    UTC | * * * * * 1 day; * * * * * 2 days | 2026-11-22T12:00 | 2026-11-24T12:00
    UTC | * 12 * * * 5 years; * * * * * 1 day | 2026-11-22T12:00 | 2026-11-23T12:00
    UTC | * * * * * 1 day; * 12 * * * 5 years | 2026-11-22T12:00 | 2031-11-22T12:00
    UTC | * * * * * 1 day; * 12 * * * 5 years | 2026-11-22T13:00 | 2026-11-23T13:00
    UTC | * * * * * 5 years; * 12 * * * 1 hour | 2026-11-22T12:00 | 2026-11-22T13:00
    UTC | 0 12 22 11 1 1 day | 2026-11-22T12:00 | 2026-11-23T12:00
";

#[test]
fn each_snapshot_of_the_table_expires_at_the_given_time() {
    for [zone, lines, made, then] in rows(EXPIRE) {
        let clock = Clock { now: 0, zone: TimeZone::get(zone).unwrap() };
        let expires = expires(&rules(lines), clock.civil(at(&clock.zone, made)));
        let then = (then != "never").then(|| then.parse().unwrap());
        assert_eq!(expires, then, "{zone} | {lines} | {made}");
    }
}

/// zone | now | rules | snapshots: kept (+), destroyed (-), dated in the future (f), matched by no rule (?)
const STAY: &str = "
    UTC | 2026-11-22T12:00 | * * * * * 48 hours | -2026-11-20T11:59 -2026-11-20T12:00 +2026-11-20T12:00:01 +2026-11-22T12:00
    UTC | 2026-11-22T12:00 | * * * * * 48 hours | -1970-01-01T00:00 +2026-11-23T12:00 f2026-11-23T12:00:01 f2100-01-01T00:00
    UTC | 2026-11-22T12:00 | * 0-11 * * * 1 days | ?2026-11-20T12:00 -2026-11-20T11:59 ?1999-01-01T23:00 +2026-11-22T11:00
    # All five rules at once: Saturdays the 7th, 14th and 21st, and other evenings.
    UTC | 2026-11-22T12:00 | seed | +2026-11-07T21:00:00-01:00 +2026-11-07T20:00 +2026-11-14T20:00 -2026-11-06T20:00 +2026-11-08T20:00
    UTC | 2026-11-22T12:00 | seed | -2026-11-07T12:00 +2026-11-07T23:59 -2026-10-24T20:00 +2026-10-31T20:00 -2026-05-02T20:00 +2026-06-06T20:00
    UTC | 2026-11-22T12:00 | seed | +2022-01-01T20:00 -2021-01-02T20:00 -2022-01-08T20:00 -2022-01-01T19:00 -2022-01-02T20:00
    UTC | 2026-11-22T20:00 | seed | -2026-11-20T19:59 -2026-11-07T19:59 +2026-11-20T20:00 +2026-11-08T20:00 +2026-11-21T00:00
    # 48 hours of civil time are 47 or 49 hours.
    Europe/Berlin | 2026-03-30T12:00 | * * * * * 48 hours | -2026-03-28T12:00 +2026-03-28T12:01
    Europe/Berlin | 2026-10-26T12:00 | * * * * * 48 hours | -2026-10-24T12:00 +2026-10-24T12:01
    America/New_York | 2026-03-09T12:00 | * * * * * 48 hours | -2026-03-07T12:00 +2026-03-07T12:01
    America/New_York | 2026-11-02T12:00 | * * * * * 48 hours | -2026-10-31T12:00 +2026-10-31T12:01
    Australia/Lord_Howe | 2026-04-05T12:00 | * * * * * 1 day | -2026-04-04T12:00 +2026-04-04T12:01
    # An hour after the first 2:30 is over when the clock shows 3:30.
    Europe/Berlin | 2026-10-25T01:30Z | * * * * * 1 hour | +2026-10-25T00:30Z -2026-10-24T23:30Z
    Europe/Berlin | 2026-10-25T02:30Z | * * * * * 1 hour | -2026-10-25T00:30Z -2026-10-25T01:30Z +2026-10-25T01:31Z
    # 2:30 did not exist; at 3:00 it is over.
    Europe/Berlin | 2026-03-29T01:59 | * * * * * 1 hour | -2026-03-29T00:59 +2026-03-29T01:30
    Europe/Berlin | 2026-03-29T03:00 | * * * * * 1 hour | -2026-03-29T01:30 -2026-03-29T01:59
    # The end of February.
    UTC | 2026-02-28T12:00 | * * * * * 1 month | -2026-01-28T12:00 -2026-01-31T12:00 +2026-01-31T12:01 +2026-02-01T00:00
    UTC | 2026-03-01T00:00 | * * * * * 1 month | -2026-01-31T12:00 -2026-02-01T00:00 +2026-02-01T00:01
    UTC | 2028-02-28T12:00 | * * * * * 4 years | +2024-02-29T12:00 -2024-02-28T12:00
    UTC | 2028-02-29T12:00 | * * * * * 4 years | -2024-02-29T12:00 +2024-03-01T12:00
    UTC | 2100-03-01T00:00 | * * * * * 1 month | -2100-01-31T12:00 +2100-02-28T12:00
    # Snapshots that expire when they are made, or before.
    UTC | 2026-11-22T12:00 | * * * * * 0 days | -2026-11-22T12:00 +2026-11-22T12:01
    UTC | 2026-11-22T12:00 | * * * * * -1 hour | -2026-11-22T12:59 -2026-11-22T13:00 +2026-11-22T13:01 f2026-11-24T13:00
    # A rule of years below one of an hour.
    UTC | 2026-11-22T12:00 | * * * * * 1 hour; * * * * sun 5 years | +2026-11-15T12:00 -2026-11-16T12:00 -2021-11-21T12:00 +2021-11-28T12:00
";

#[test]
fn expired_snapshots_of_the_table_are_destroyed() {
    for [zone, now, lines, signed] in rows(STAY) {
        let zone = TimeZone::get(zone).unwrap();
        let clock = Clock { now: at(&zone, now), zone };
        let signed: Vec<(&str, &str)> = signed.split_whitespace().map(|text| text.split_at(1)).collect();
        let snapshot = |(_, made): &(&'static str, &'static str)| {
            let creation = at(&clock.zone, made);
            Snapshot { name: made, creation, ..Snapshot::default() }
        };
        let snapshots: Vec<Snapshot<'_>> = signed.iter().map(snapshot).collect();
        for ((sign, made), verdict) in signed.iter().zip(decide(&rules(lines), &snapshots, &clock)) {
            let shown = match (verdict.keep, &verdict.reasons[..]) {
                (true, [Reason::Expires(_)]) => "+",
                (false, [Reason::Expires(_)]) => "-",
                (true, [Reason::Future]) => "f",
                (true, [Reason::NoDate]) => "?",
                other => panic!("{other:?}"),
            };
            assert_eq!(shown, *sign, "{made} of {now} | {lines}");
        }
    }
}

/// 22 November 2026 is a Sunday.
#[test]
fn sunday_is_1_and_saturday_7() {
    let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    for (nr, name) in (1..).zip(days) {
        for text in [nr.to_string(), name.to_owned(), name.to_uppercase()] {
            let rules = rules(&format!("* * * * {text} 1 day"));
            for day in 1..=7 {
                let made = jiff::civil::date(2026, 11, 21 + day).at(12, 0, 0, 0);
                assert_eq!(expires(&rules, made).is_some(), day == nr, "{text}: {made}");
            }
        }
    }
}

#[test]
fn an_invalid_dated_rule_is_rejected_with_the_reason() {
    for (line, says) in [
        ("", "six fields"),
        ("* * * * *", "six fields"),
        ("* * * * +48 hours", "is not a number from 1 to 7"),
        ("60 * * * * 1 day", "\"60\" is not a number from 0 to 59"),
        ("* 24 * * * 1 day", "\"24\" is not a number from 0 to 23"),
        ("* * 0 * * 1 day", "\"0\" is not a number from 1 to 31"),
        ("* * 32 * * 1 day", "\"32\" is not a number from 1 to 31"),
        ("* * * 0 * 1 day", "from 1 to 12"),
        ("* * * 13 * 1 day", "from 1 to 12"),
        ("* * * jan * 1 day", "from 1 to 12"),
        ("* * * * 0 1 day", "\"0\" is not a number from 1 to 7"),
        ("* * * * 8 1 day", "from 1 to 7"),
        ("* * * * sunday 1 day", "from 1 to 7"),
        ("*/5 * * * * 1 day", "\"*/5\" is not a number"),
        ("0-10/5 * * * * 1 day", "\"10/5\" is not a number"),
        ("1,,2 * * * * 1 day", "\"\" is not a number"),
        ("-3 * * * * 1 day", "\"\" is not a number"),
        ("* 22-3 * * * 1 day", "backwards: write two ranges"),
        ("* * * * fri-mon 1 day", "backwards"),
        ("* * * * * day", "is not an expiration"),
        ("* * * * * 1", "is not an expiration"),
        ("* * * * * 1d", "is not an expiration"),
        ("* * * * * 1.5 days", "is not an expiration"),
        ("* * * * * 1 fortnight", "is not an expiration"),
        ("* * * * * 1 dayss", "is not an expiration"),
        ("* * * * * +-1 days", "is not an expiration"),
        ("* * * * * 1 day 2 hours", "is not an expiration"),
        ("* * * * * 20000 years", "is not an expiration"),
        ("* * * * * 99999999999999999999 days", "is not an expiration"),
    ] {
        let error = rule(line).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
    assert!(rule("\t*  *\t* *   *   +48   hours  ").is_ok());
}
