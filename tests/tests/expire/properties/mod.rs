//! Properties of every decision, tested on thousands of histories of up to 200 snapshots at times where calendars
//! are difficult.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use zsnap_expire::calendar::Clock;
use zsnap_expire::reason::Reason;
use zsnap_expire::rules::rule::{Amount, Period, Reference, Rule};
use zsnap_expire::rules::{native, zrep_v1, zrep_v2};
use zsnap_expire::snapshot::{Sent, Snapshot, Verdict};

mod backdated;
mod corrected;

const CASES: u32 = 1000;
const DAY: i64 = 86_400;

type Decide<'a> = &'a dyn Fn(&[Snapshot<'_>]) -> Vec<Verdict>;

/// The data of a snapshot.
#[derive(Clone, Debug)]
struct Made {
    name: String,
    creation: i64,
    createtxg: u64,
    sent: bool,
}

/// The current time and zone, and the snapshots, the oldest first.
#[derive(Clone, Debug)]
struct Scene {
    clock: Clock,
    made: Vec<Made>,
}

impl Scene {
    fn snapshots(&self) -> Vec<Snapshot<'_>> {
        let mut all = Vec::new();
        for Made { name, creation, createtxg, sent } in &self.made {
            let sent = if *sent { Sent::Time } else { Sent::No };
            all.push(Snapshot { name, creation: *creation, createtxg: *createtxg, sent, ..Snapshot::default() });
        }
        all
    }

    /// The civil times of the snapshots, for a message.
    fn times(&self) -> Vec<String> {
        self.made.iter().map(|made| self.clock.civil(made.creation).to_string()).collect()
    }
}

/// The newest snapshots of histories are near these times: changes of the clock in both hemispheres and by a whole
/// day, the end of February (2100 is not a leap year), week 53, the first and a late year.
const ENDS: [&str; 14] = [
    "2026-03-29T06:00:00Z",
    "2026-10-25T06:00:00Z",
    "2026-03-08T12:00:00Z",
    "2026-11-01T12:00:00Z",
    "2026-04-04T20:00:00Z",
    "2026-10-03T20:00:00Z",
    "2011-12-31T00:00:00Z",
    "2024-02-29T18:00:00Z",
    "2025-03-01T02:00:00Z",
    "2021-01-04T09:00:00Z",
    "2027-01-02T09:00:00Z",
    "1970-02-01T00:00:00Z",
    "2100-03-01T06:00:00Z",
    "2026-11-22T12:00:00Z",
];
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"];

/// Gaps of all sizes up to one of several lengths; with a gap of 0 two snapshots are of one second.
fn gaps() -> impl Strategy<Value = Vec<i64>> {
    let longest = select(vec![600, 7200, 2 * DAY, 30 * DAY, 500 * DAY]);
    longest.prop_flat_map(|longest| {
        let gap =
            prop_oneof![1 => Just(0), 3 => 0..=longest, 3 => 0..=longest / 20 + 1, 1 => Just(3600), 1 => Just(DAY)];
        prop::collection::vec(gap, 0..200)
    })
}

fn scenes() -> impl Strategy<Value = Scene> {
    let after = prop_oneof![Just(0), 0..2 * DAY, Just(-DAY), 0..3000 * DAY];
    let end = (select(&ENDS[..]), -2 * DAY..2 * DAY);
    (select(&ZONES[..]), end, after, gaps(), prop::collection::vec(prop::bool::weighted(0.9), 200)).prop_map(
        |(zone, (end, off), after, gaps, sent)| {
            let end = end.parse::<Timestamp>().unwrap().as_second() + off;
            let zone = TimeZone::get(zone).unwrap();
            let mut at = end;
            let count = gaps.len() as u64;
            let made = gaps.into_iter().zip(sent).zip(0..).map(|((gap, sent), nr)| {
                at -= gap;
                let createtxg = 1000 + count - nr;
                Made { name: format!("p/f@zrep_{createtxg:06x}"), creation: at, createtxg, sent }
            });
            let mut made: Vec<Made> = made.collect();
            made.reverse();
            Scene { clock: Clock { now: end + after, zone }, made }
        },
    )
}

/// Ages in hours: counted back from a later time, such an age ends later.
fn plain_ages() -> impl Strategy<Value = String> {
    (1..3000).prop_map(|n| format!("{n}h"))
}

fn ages() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => plain_ages(),
        1 => (1..100).prop_map(|n| format!("{n}d")),
        1 => (1..40).prop_map(|n| format!("{n}m")),
        1 => (1..8, 0..15).prop_map(|(y, m)| format!("{y}y{m}m3d5h")),
    ]
}

const PERIODS: [&str; 5] = ["hourly", "daily", "weekly", "monthly", "yearly"];

fn within<S: Strategy<Value = String>>(ages: impl Fn() -> S) -> impl Strategy<Value = Rule> {
    let all = ages().prop_map(|age| format!("all={age}"));
    let periods = (select(&PERIODS[..]), ages()).prop_map(|(name, age)| format!("{name}={age}"));
    prop_oneof![1 => all, 4 => periods].prop_map(|text| text.parse().unwrap())
}

fn counts() -> impl Strategy<Value = Rule> {
    let count = prop_oneof![6 => (1..20_u64).prop_map(|n| n.to_string()), 1 => Just("unlimited".to_owned())];
    let names = select(vec!["last", "hourly", "daily", "weekly", "monthly", "yearly"]);
    (names, count).prop_map(|(name, count)| format!("{name}={count}").parse().unwrap())
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(prop_oneof![within(ages), counts()], 1..5)
}

fn references() -> impl Strategy<Value = Reference> {
    prop_oneof![Just(Reference::Newest), Just(Reference::Now)]
}

fn kept<'a>(snapshots: &[Snapshot<'a>], verdicts: &[Verdict]) -> Vec<Snapshot<'a>> {
    snapshots.iter().zip(verdicts).filter(|(_, verdict)| verdict.keep).map(|(snapshot, _)| snapshot.clone()).collect()
}

/// Verdicts sorted by name, so that two orders can be compared.
fn named<'a>(snapshots: &[Snapshot<'a>], verdicts: Vec<Verdict>) -> Vec<(&'a str, Verdict)> {
    let mut all: Vec<_> = snapshots.iter().map(|s| s.name).zip(verdicts).collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

/// An independent definition of the rules: decides for each snapshot and each rule separately, from the later
/// snapshots.
fn keeps_by_definition(rules: &[Rule], reference: Reference, all: &[Snapshot<'_>], clock: &Clock) -> Vec<bool> {
    let civil = |s: &Snapshot<'_>| clock.zone.to_datetime(Timestamp::from_second(s.creation).unwrap());
    let period = |period, s: &Snapshot<'_>| {
        let date = civil(s).date();
        match period {
            Period::Each => s.name.to_owned(),
            Period::Hour => civil(s).strftime("%Y-%m-%d %H").to_string(),
            Period::Day => date.to_string(),
            // Thursday decides to which year a week belongs.
            Period::Week => date.strftime("%G week %V").to_string(),
            Period::Month => date.strftime("%Y-%m").to_string(),
            Period::Year => date.strftime("%Y").to_string(),
        }
    };
    let future = |s: &Snapshot<'_>| s.creation > clock.now + DAY;
    let mut present: Vec<_> = all.iter().filter(|s| !future(s)).collect();
    let newest = present.iter().map(|s| s.creation).max().unwrap_or(0);
    let from = if reference == Reference::Now { clock.now } else { newest };
    present.sort_by_key(|s| std::cmp::Reverse((s.creation, s.createtxg, s.name)));
    let mut keep: Vec<&str> = all.iter().filter(|s| future(s)).map(|s| s.name).collect();
    for rule in rules {
        let periods: Vec<String> = present.iter().map(|s| period(rule.period, s)).collect();
        for (nr, s) in present.iter().enumerate() {
            let later = periods[..nr].chunk_by(|a, b| a == b).count() as u64;
            let last = nr == 0 || periods[nr - 1] != periods[nr];
            let keeps = match rule.amount {
                Amount::Within(age) => s.creation > clock.before(from, &age) && last,
                Amount::Count(count) => later < count && (last || nr + 1 == present.len()),
            };
            keep.extend(keeps.then_some(s.name));
        }
    }
    all.iter().map(|s| keep.contains(&s.name)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_keep_what_their_definition_says(scene in scenes(), rules in rules(), reference in references()) {
        let snapshots = scene.snapshots();
        let verdicts = native::decide(&rules, reference, &snapshots, &scene.clock);
        let keep: Vec<bool> = verdicts.iter().map(|verdict| verdict.keep).collect();
        prop_assert_eq!(keep, keeps_by_definition(&rules, reference, &snapshots, &scene.clock), "{:?}", scene.times());
    }

    /// The order in which the pool lists snapshots does not matter, nor does that of the rules.
    #[test]
    fn the_order_of_snapshots_and_rules_does_not_matter(scene in scenes(), rules in rules(), seed in any::<u64>()) {
        let (mut snapshots, mut other) = (scene.snapshots(), scene.snapshots());
        let key = |s: &Snapshot<'_>| s.createtxg.wrapping_mul(seed | 1).rotate_left(17);
        other.sort_by_key(key);
        let clock = &scene.clock;
        let decide = |rules: &[Rule], s: &[Snapshot<'_>]| native::decide(rules, Reference::Newest, s, clock);
        prop_assert_eq!(named(&snapshots, decide(&rules, &snapshots)), named(&other, decide(&rules, &other)));
        let reversed: Vec<Rule> = rules.iter().rev().copied().collect();
        prop_assert_eq!(kept(&snapshots, &decide(&rules, &snapshots)), kept(&snapshots, &decide(&reversed, &snapshots)));
        let spaced = |s: &[Snapshot<'_>]| zrep_v2::decide(&zrep(), s, &unsent, clock);
        prop_assert_eq!(named(&snapshots, spaced(&snapshots)), named(&other, spaced(&other)));
        let seed = seed_rules();
        let dated = |s: &[Snapshot<'_>]| zrep_v1::decide(&seed, s, clock);
        prop_assert_eq!(named(&snapshots, dated(&snapshots)), named(&other, dated(&other)));
        // Without the order of the pool, as in a filter.
        snapshots.iter_mut().chain(&mut other).for_each(|s| s.createtxg = 0);
        prop_assert_eq!(named(&snapshots, decide(&rules, &snapshots)), named(&other, decide(&rules, &other)));
        prop_assert_eq!(named(&snapshots, spaced(&snapshots)), named(&other, spaced(&other)));
    }

    /// With all kinds of rules, kept snapshots are kept again, for the same reasons.
    #[test]
    fn a_second_run_destroys_nothing(scene in scenes(), rules in rules(), reference in references()) {
        let snapshots = scene.snapshots();
        let verdicts = native::decide(&rules, reference, &snapshots, &scene.clock);
        let stays = kept(&snapshots, &verdicts);
        let again = native::decide(&rules, reference, &stays, &scene.clock);
        let before: Vec<Verdict> = verdicts.into_iter().filter(|verdict| verdict.keep).collect();
        prop_assert_eq!(again, before);
        let stays = kept(&snapshots, &zrep_v2::decide(&zrep(), &snapshots, &unsent, &scene.clock));
        let again = zrep_v2::decide(&zrep(), &stays, &unsent, &scene.clock);
        prop_assert!(again.iter().all(|verdict| verdict.keep));
        let stays = kept(&snapshots, &zrep_v1::decide(&seed_rules(), &snapshots, &scene.clock));
        let again = zrep_v1::decide(&seed_rules(), &stays, &scene.clock);
        prop_assert!(again.iter().all(|verdict| verdict.keep));
    }

    /// Pruning after each snapshot keeps the same snapshots as pruning once at the end. With ages of days and more
    /// this is not quite so: a month before 30 March at 9 is before a month before 29 March at 10, so a snapshot that
    /// was destroyed by then would be kept again.
    #[test]
    fn pruning_often_keeps_the_same_as_pruning_once(
        scene in scenes(),
        rules in prop::collection::vec(prop_oneof![within(plain_ages), counts()], 1..4),
        steps in 1..40_usize,
    ) {
        let mut clock = scene.clock.clone();
        // No snapshot has a future date, which would later be in the past.
        clock.now = clock.now.max(scene.made.last().map_or(0, |made| made.creation));
        let snapshots = scene.snapshots();
        let split = snapshots.len().saturating_sub(steps);
        let mut there = snapshots[..split].to_vec();
        for snapshot in &snapshots[split..] {
            there.push(snapshot.clone());
            there = kept(&there, &native::decide(&rules, Reference::Newest, &there, &clock));
        }
        let once = kept(&snapshots, &native::decide(&rules, Reference::Newest, &snapshots, &clock));
        prop_assert!(split == snapshots.len() || there == once, "{:?}", scene.times());
    }

    /// One more rule, or a larger amount of a rule, never keeps less.
    #[test]
    fn more_rules_keep_more(
        scene in scenes(), rules in rules(), extra in prop_oneof![within(ages), counts()], reference in references()
    ) {
        let snapshots = scene.snapshots();
        let decide = |rules: &[Rule]| native::decide(rules, reference, &snapshots, &scene.clock);
        let before = decide(&rules);
        let more = decide(&[&rules[..], &[extra]].concat());
        let raised: Vec<Rule> = rules.iter().map(|rule| match rule.amount {
            Amount::Count(n) => Rule { amount: Amount::Count(n.saturating_add(1)), ..*rule },
            Amount::Within(mut age) => {
                (age.days, age.hours) = (age.days + 2, age.hours + 1);
                Rule { amount: Amount::Within(age), ..*rule }
            }
        }).collect();
        let larger = decide(&raised);
        for (nr, verdict) in before.iter().enumerate() {
            prop_assert!(!verdict.keep || more[nr].keep && larger[nr].keep, "{nr} of {:?}", scene.times());
        }
    }

    /// Relative to the newest snapshot, every policy of one rule keeps at least this one, however old it is.
    #[test]
    fn every_rule_keeps_the_newest_snapshot(scene in scenes(), rule in prop_oneof![within(ages), counts()]) {
        let snapshots = scene.snapshots();
        let newest = scene.made.iter().rposition(|made| made.creation <= scene.clock.now + DAY);
        let verdicts = native::decide(&[rule], Reference::Newest, &snapshots, &scene.clock);
        prop_assert!(newest.is_none_or(|nr| verdicts[nr].keep), "{rule} {:?}", scene.times());
        prop_assert!(verdicts.iter().all(|verdict| verdict.keep != verdict.reasons.contains(&Reason::NoRule)));
    }

    /// One more snapshot can only cost older ones, and with counts also the former oldest if the new one is older.
    #[test]
    fn one_more_snapshot_costs_only_older_ones(
        scene in scenes(), rules in rules(), at in any::<Index>(), off in -DAY..DAY
    ) {
        let snapshots = scene.snapshots();
        prop_assume!(!snapshots.is_empty());
        let beside = at.get(&snapshots);
        let creation = beside.creation + off;
        // The pool made it in the order of its date.
        let createtxg = snapshots.iter().filter(|s| s.creation <= creation).map(|s| s.createtxg).max().unwrap_or(0);
        let more = Snapshot { name: "p/f@zzz", creation, createtxg, ..Snapshot::default() };
        let future = more.is_future(scene.clock.now);
        let before = native::decide(&rules, Reference::Newest, &snapshots, &scene.clock);
        let with = [&snapshots[..], std::slice::from_ref(&more)].concat();
        let after = native::decide(&rules, Reference::Newest, &with, &scene.clock);
        let counts = rules.iter().any(|rule| matches!(rule.amount, Amount::Count(_)));
        for (nr, snapshot) in snapshots.iter().enumerate() {
            let costs = before[nr].keep && !after[nr].keep;
            let former_oldest = counts && nr == 0 && snapshot.by_time(&more).is_gt();
            prop_assert!(!costs || !future && (snapshot.by_time(&more).is_lt() || former_oldest), "{nr} of {:?}", scene.times());
        }
    }

    /// A snapshot dated 2100 is kept and changes no other verdict, wherever it is in the order of the pool.
    #[test]
    fn a_future_date_changes_no_other_verdict(
        scene in scenes(), rules in rules(), reference in references(), createtxg in 0..3000_u64
    ) {
        let mut scene = scene;
        scene.clock.now = scene.clock.now.min(4_000_000_000);
        let snapshots = scene.snapshots();
        let wrong = Snapshot { name: "p/f@zrep_ffffff", creation: 4_102_444_800, createtxg, ..Snapshot::default() };
        let with = [&[wrong], &snapshots[..]].concat();
        let (windows, dates, clock) = (zrep(), seed_rules(), &scene.clock);
        let all: [Decide<'_>; 3] = [
            &|s| native::decide(&rules, reference, s, clock),
            &|s| zrep_v2::decide(&windows, s, &unsent, clock),
            &|s| zrep_v1::decide(&dates, s, clock),
        ];
        for decide in all {
            let after = decide(&with);
            prop_assert_eq!(&after[0], &Verdict::keep(Reason::Future));
            prop_assert_eq!(&after[1..], &decide(&snapshots)[..]);
        }
    }

    /// Kept neighbours are an interval apart, and a destroyed snapshot is closer to its neighbour.
    #[test]
    fn spacing_keeps_no_two_snapshots_closer_than_the_interval(scene in scenes()) {
        let snapshots = scene.snapshots();
        let verdicts = zrep_v2::decide(&zrep(), &snapshots, &unsent, &scene.clock);
        let minute = |s: &Snapshot<'_>| scene.clock.civil(s.creation - s.creation.rem_euclid(60));
        let (mut last, mut first) = (None, None);
        for (snapshot, verdict) in snapshots.iter().zip(&verdicts).filter(|(s, _)| !s.is_future(scene.clock.now)) {
            let apart = last.map(|last| minute(snapshot).duration_since(last).as_secs());
            match verdict.reasons[..] {
                [Reason::First] => prop_assert!(first.replace(snapshot.name).is_none() && last.is_none()),
                [Reason::Spaced(interval)] => prop_assert!(apart >= Some(interval)),
                [Reason::TooClose(interval)] => prop_assert!(apart.is_some_and(|apart| apart < interval)),
                [Reason::TooOld] => prop_assert!(first.is_none()),
                [Reason::Unsent] => prop_assert!(unsent(snapshot)),
                ref other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(!unsent(snapshot) || verdict.keep);
            if verdict.keep && (last.is_some() || !unsent(snapshot)) {
                last = Some(minute(snapshot));
            }
        }
    }

    /// Dated rules judge each snapshot on its own, and an expired one stays expired.
    #[test]
    fn dated_rules_judge_each_snapshot_on_its_own(scene in scenes(), later in DAY..1000 * DAY) {
        let (rules, snapshots) = (seed_rules(), scene.snapshots());
        let verdicts = zrep_v1::decide(&rules, &snapshots, &scene.clock);
        for (snapshot, verdict) in snapshots.iter().zip(&verdicts) {
            prop_assert_eq!(&zrep_v1::decide(&rules, std::slice::from_ref(snapshot), &scene.clock)[..], std::slice::from_ref(verdict));
        }
        let clock = Clock { now: scene.clock.now + later, ..scene.clock.clone() };
        let then = zrep_v1::decide(&rules, &snapshots, &clock);
        prop_assert!(verdicts.iter().zip(then).all(|(now, then)| now.keep || !then.keep));
    }

    /// Times of any size cause no overflow, and each snapshot gets a verdict.
    #[test]
    fn times_of_any_size_get_a_verdict(
        times in prop::collection::vec(prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)], 0..20), now in any::<i64>(), rules in rules(), reference in references()
    ) {
        let clock = Clock { now, zone: TimeZone::get("Europe/Berlin").unwrap() };
        let snapshots: Vec<_> = times.iter().map(|t| Snapshot { name: "f@s", creation: *t, ..Snapshot::default() }).collect();
        prop_assert_eq!(native::decide(&rules, reference, &snapshots, &clock).len(), times.len());
        prop_assert_eq!(zrep_v2::decide(&zrep(), &snapshots, &unsent, &clock).len(), times.len());
        prop_assert_eq!(zrep_v1::decide(&seed_rules(), &snapshots, &clock).len(), times.len());
    }
}

fn unsent(snapshot: &Snapshot<'_>) -> bool {
    snapshot.sent == Sent::No
}

fn zrep() -> Vec<zrep_v2::Window> {
    let lines =
        ["1 hour:1 minute", "12 hours:5 minutes", "8 days:1 hour", "32 days:1 day", "1 year:1 week", "5 years:1 month"];
    lines.iter().map(|line| zrep_v2::window(line).unwrap()).collect()
}

fn seed_rules() -> Vec<zrep_v1::DatedRule> {
    let lines = [
        "* * * * * +48 hours",
        "* 20-23 * * * +15 days",
        "* 20-23 * * 7 +4 weeks",
        "* 20-23 1-7 * 7 +6 months",
        "* 20-23 1-7 1 7 +5 years",
    ];
    lines.iter().map(|line| zrep_v1::rule(line).unwrap()).collect()
}
