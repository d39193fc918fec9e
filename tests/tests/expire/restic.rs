//! Compares the native rules with real restic: with the same histories and rules, both keep the same snapshots for
//! the same reasons. Each intended difference has a test of its own.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use serde_json::Value;
use zsnap_expire::calendar::Clock;
use zsnap_expire::reason::Reason;
use zsnap_expire::rules::native::decide;
use zsnap_expire::rules::rule::{Amount, Period, Reference, Rule};
use zsnap_expire::snapshot::Snapshot;
use zsnap_tests::random::Random;
use zsnap_tests::scene::{have, memory};

/// A restic repository in a time zone. Each history belongs to a host of its own, so that restic judges all of them
/// at once.
struct Repository {
    dir: tempfile::TempDir,
    zone: &'static str,
}

/// When restic keeps the oldest snapshot additionally.
#[derive(Clone, Copy)]
struct KeepsOldest {
    /// While a count is left, from 0.16 on. zsnap-expire does that, too.
    by_count: bool,
    /// In the time of a rule such as `--keep-within-daily`, from 0.17 on. zsnap-expire does not: that time is not over.
    by_time: bool,
}

/// The id and the time of a snapshot in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backup {
    id: String,
    seconds: i64,
}

impl Repository {
    fn new(zone: &'static str) -> Repository {
        // restic waits for the disk after each file.
        let dir = memory().map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
        let empty = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/restic");
        for name in ["data", "index", "keys", "locks", "snapshots"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::copy(empty.join("config"), dir.path().join("config")).unwrap();
        for key in fs::read_dir(empty.join("keys")).unwrap() {
            let key = key.unwrap();
            fs::copy(key.path(), dir.path().join("keys").join(key.file_name())).unwrap();
        }
        Repository { dir, zone }
    }

    fn zone(&self) -> TimeZone {
        TimeZone::get(self.zone).unwrap()
    }

    /// Runs restic in a time zone.
    fn restic(&self, zone: &str, args: &[String]) -> Output {
        let mut restic = Command::new("restic");
        restic.env("RESTIC_PASSWORD", "x").env("TZ", zone).env("HOME", self.dir.path()).current_dir(self.dir.path());
        let out = restic.args(["--repo", ".", "--no-cache"]).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out
    }

    /// Makes a snapshot; `--time` is a civil time of the zone.
    fn backup(&self, zone: &str, host: usize, civil_time: &str) {
        let args = ["backup", "--quiet", "--host", &host.to_string(), "--time", civil_time, "config"];
        self.restic(zone, &args.map(String::from));
    }

    /// Makes the snapshots of all histories, several at a time, since each takes a fifth of a second, mostly asleep.
    /// Each thread has a repository of its own with the same key, since restic waits for minutes for a lock that
    /// another process has removed. A snapshot with an ambiguous civil time is made in a zone with a fixed offset if
    /// the offset is a whole number of hours; otherwise restic decides.
    fn backups(&self, histories: &[Vec<i64>]) {
        let all: Vec<(usize, i64)> =
            histories.iter().enumerate().flat_map(|(host, h)| h.iter().map(move |t| (host, *t))).collect();
        let make = |some: &[(usize, i64)]| {
            let part = Repository::new(self.zone);
            for (host, seconds) in some {
                let at = Timestamp::from_second(*seconds).unwrap();
                let (civil, offset) = (self.zone().to_datetime(at), self.zone().to_offset(at).seconds());
                let zone = match offset % 3600 {
                    0 if self.zone().to_ambiguous_timestamp(civil).is_ambiguous() => {
                        format!("Etc/GMT{:+}", -offset / 3600)
                    }
                    _ => self.zone.to_owned(),
                };
                part.backup(&zone, *host, &civil.strftime("%Y-%m-%d %H:%M:%S").to_string());
            }
            for snapshot in fs::read_dir(part.dir.path().join("snapshots")).unwrap() {
                let snapshot = snapshot.unwrap();
                fs::copy(snapshot.path(), self.dir.path().join("snapshots").join(snapshot.file_name())).unwrap();
            }
        };
        let size = all.len().div_ceil(12);
        std::thread::scope(|scope| {
            for chunk in all.chunks(size) {
                scope.spawn(|| make(chunk));
            }
        });
    }

    /// The snapshots of each host.
    fn snapshots(&self, hosts: usize) -> Vec<Vec<Backup>> {
        let out = self.restic(self.zone, &["snapshots".into(), "--json".into()]);
        let mut all = vec![Vec::new(); hosts];
        for one in serde_json::from_slice::<Vec<Value>>(&out.stdout).unwrap() {
            all[one["hostname"].as_str().unwrap().parse::<usize>().unwrap()].push(known(&one));
        }
        all
    }

    /// Returns when this version of restic keeps the oldest snapshot additionally.
    fn keeps_oldest(&self) -> KeepsOldest {
        let out = self.restic(self.zone, &["version".into()]);
        let text = String::from_utf8(out.stdout).unwrap();
        let numbers = text.split([' ', '.', '-']).skip(1).map(str::parse);
        let numbers: Vec<u32> = numbers.map_while(Result::ok).collect();
        KeepsOldest { by_count: numbers >= vec![0, 16], by_time: numbers >= vec![0, 17] }
    }

    /// For each host, the ids of the kept snapshots with the reasons.
    fn forget(&self, rules: &[Rule], hosts: usize) -> Vec<HashMap<String, Vec<String>>> {
        let args = ["forget", "--no-lock", "--dry-run", "--json", "--group-by", "host"].map(String::from);
        let out = self.restic(self.zone, &[args.to_vec(), rules.iter().map(flag).collect()].concat());
        let mut all = vec![HashMap::new(); hosts];
        for group in serde_json::from_slice::<Vec<Value>>(&out.stdout).unwrap() {
            let host: usize = group["host"].as_str().unwrap().parse().unwrap();
            let reasons = group["reasons"].as_array().unwrap();
            for (kept, reason) in group["keep"].as_array().unwrap().iter().zip(reasons) {
                let matches: Vec<&str> =
                    reason["matches"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
                let mut matches: Vec<String> = matches.into_iter().map(kind_of_match).collect();
                matches.sort_unstable();
                all[host].insert(known(kept).id, matches);
            }
        }
        all
    }
}

fn known(snapshot: &Value) -> Backup {
    let seconds = snapshot["time"].as_str().unwrap().parse::<Timestamp>().unwrap().as_second();
    Backup { id: snapshot["id"].as_str().unwrap().to_owned(), seconds }
}

const NAMES: [(Period, &str); 6] = [
    (Period::Each, "last"),
    (Period::Hour, "hourly"),
    (Period::Day, "daily"),
    (Period::Week, "weekly"),
    (Period::Month, "monthly"),
    (Period::Year, "yearly"),
];

fn name(period: Period) -> &'static str {
    NAMES.iter().find(|(p, _)| *p == period).unwrap().1
}

/// The option of restic for a rule, such as `--keep-within-daily=15d`. Not `unlimited`: only restic 0.16 knows it.
fn flag(rule: &Rule) -> String {
    match rule.amount {
        Amount::Count(u64::MAX) => format!("--keep-{}=99999", name(rule.period)),
        Amount::Count(count) => format!("--keep-{}={count}", name(rule.period)),
        Amount::Within(age) => {
            let kind = if rule.period == Period::Each { String::new() } else { format!("-{}", name(rule.period)) };
            // restic has no unit of weeks.
            format!("--keep-within{kind}={}y{}m{}d{}h", age.years, age.months, age.days, age.hours)
        }
    }
}

/// A reason of restic without the amount: `daily within 15d`, `daily snapshot` or `oldest daily snapshot`.
fn kind_of_match(text: &str) -> String {
    let text = text.strip_prefix("oldest ").unwrap_or(text);
    text.split_once("within").map_or(text.to_owned(), |(kind, _)| format!("{kind}within"))
}

/// A reason of zsnap-expire in the form of restic's.
fn kind_of_reason(reason: &Reason, oldest: bool) -> Option<String> {
    match reason {
        Reason::Oldest(_) if !oldest => None,
        Reason::Rule(rule) | Reason::Oldest(rule) => Some(match (rule.period, rule.amount) {
            (period, Amount::Count(_)) => format!("{} snapshot", name(period)),
            (Period::Each, Amount::Within(_)) => "within".to_owned(),
            (period, Amount::Within(_)) => format!("{} within", name(period)),
        }),
        other => panic!("{other:?}"),
    }
}

fn listing(known: &[Backup]) -> Vec<Snapshot<'_>> {
    known.iter().map(|k| Snapshot { name: &k.id, creation: k.seconds, ..Snapshot::default() }).collect()
}

/// The times of the snapshots that our rules keep, with the reasons, oldest first. There are no names, because of
/// two snapshots of one second each program chooses another one. The oldest is kept additionally as by restic.
fn ours(rules: &[Rule], known: &[Backup], clock: &Clock, oldest: KeepsOldest) -> Vec<(i64, Vec<String>)> {
    let snapshots = listing(known);
    let verdicts = decide(rules, Reference::Newest, &snapshots, clock);
    let first = known.iter().map(|k| k.seconds).min();
    // The periods of the rules in whose time a snapshot lies.
    let in_time = |at: usize| {
        let covers = |rule: &&Rule| {
            let whole = Rule { period: Period::Each, amount: rule.amount };
            matches!(rule.amount, Amount::Within(_)) && decide(&[whole], Reference::Newest, &snapshots, clock)[at].keep
        };
        let rules = rules.iter().filter(|rule| rule.period != Period::Each).filter(covers);
        rules.map(|rule| format!("{} within", name(rule.period))).collect::<Vec<_>>()
    };
    let mut kept = Vec::new();
    for (at, (snapshot, verdict)) in snapshots.iter().zip(&verdicts).enumerate() {
        let mut reasons = Vec::new();
        if verdict.keep {
            reasons.extend(verdict.reasons.iter().filter_map(|r| kind_of_reason(r, oldest.by_count)));
        }
        if oldest.by_time && Some(snapshot.creation) == first {
            reasons.extend(in_time(at));
        }
        reasons.sort_unstable();
        reasons.dedup();
        if !reasons.is_empty() {
            kept.push((snapshot.creation, reasons));
        }
    }
    kept.sort_unstable();
    kept
}

/// The times of the snapshots that restic keeps, with the reasons, oldest first.
fn theirs(kept: &HashMap<String, Vec<String>>, known: &[Backup]) -> Vec<(i64, Vec<String>)> {
    let mut kept: Vec<_> = known.iter().filter_map(|k| Some((k.seconds, kept.get(&k.id)?.clone()))).collect();
    kept.sort_unstable();
    kept
}

fn clock(zone: &'static str) -> Clock {
    Clock { now: Timestamp::now().as_second(), zone: TimeZone::get(zone).unwrap() }
}

fn seconds(zone: &str, civil_time: &str) -> i64 {
    let civil: jiff::civil::DateTime = civil_time.parse().unwrap();
    civil.in_tz(zone).unwrap().timestamp().as_second()
}

/// Times that go back from `end`, where calendars are difficult, with gaps of all sizes.
fn history(random: &mut Random, zone: &str, end: &str, count: usize, (shortest, longest): (f64, f64)) -> Vec<i64> {
    let mut at = seconds(zone, end);
    let mut times = vec![at];
    while times.len() < count && at > 0 {
        let exponent = random.below(1000) as f64 / 1000.0;
        let gap = shortest * (longest / shortest).powf(exponent);
        // Some snapshots are of the same second.
        at -= if random.below(30) == 0 { 0 } else { gap as i64 };
        times.push(at);
    }
    times.retain(|t| *t > 0);
    // One is the oldest.
    while let [.., before, last] = times[..] {
        if before != last {
            break;
        }
        times.pop();
    }
    times
}

/// Whether Go and zsnap-expire count back to the same time: no end of a month intervenes, and the resulting civil
/// time exists once. The other cases have tests of their own below.
fn same_cutoff(clock: &Clock, from: i64, rule: &Rule) -> bool {
    let Amount::Within(age) = rule.amount else { return true };
    let civil = clock.civil(from);
    let months = Span::new().years(age.years).months(age.months);
    let Ok(shifted) = civil.checked_sub(months) else { return false };
    let Ok(shifted) = (shifted.day() == civil.day())
        .then_some(shifted)
        .ok_or(())
        .and_then(|s| s.checked_sub(age.days.days()).map_err(drop))
    else {
        return false;
    };
    !clock.zone.to_ambiguous_timestamp(shifted).is_ambiguous()
}

/// Random rules.
fn policy(random: &mut Random) -> Vec<Rule> {
    let mut rules = Vec::new();
    let dense = 2 + random.below(5);
    for (period, name) in NAMES {
        if random.below(dense) == 0 {
            let count = match random.below(12) {
                0 => "unlimited".to_owned(),
                1..=3 => (1 + random.below(40)).to_string(),
                _ => (1 + random.below(8)).to_string(),
            };
            rules.push(format!("{name}={count}"));
        }
        if random.below(dense) == 0 {
            let name = if period == Period::Each { "all" } else { name };
            let mut age = String::new();
            for (unit, most) in [("y", 30), ("m", 20), ("w", 9), ("d", 40), ("h", 60)] {
                if random.below(3) == 0 {
                    age += &format!("{}{unit}", random.below(most) + 1);
                }
            }
            if !age.is_empty() {
                rules.push(format!("{name}={age}"));
            }
        }
    }
    rules.iter().map(|rule| rule.parse().unwrap()).collect()
}

/// Asserts that zsnap-expire and restic agree on random rules for histories that end at these times: leap years, days
/// of 23 to 25 hours, and weeks that belong to another year.
fn assert_agreement(zone: &'static str, ends: [&str; 4]) {
    if !have("restic") {
        return;
    }
    let mut random = Random::new();
    let repository = Repository::new(zone);
    let clock = clock(zone);
    // Gaps of minutes, hours, about a day, weeks and months.
    let gaps = [(60.0, 7200.0), (60.0, 2.0 * 86_400.0), (7200.0, 1.5 * 86_400.0), (43_200.0, 300.0 * 86_400.0)];
    let made: Vec<Vec<i64>> =
        ends.iter().zip(gaps).map(|(end, gaps)| history(&mut random, zone, end, 30, gaps)).collect();
    repository.backups(&made);
    let histories = repository.snapshots(made.len());
    let oldest = repository.keeps_oldest();
    let total: usize = histories.iter().map(Vec::len).sum();
    assert_eq!(total, made.iter().map(Vec::len).sum::<usize>());
    let (mut compared, mut removed) = (0, 0);
    while compared < 500 {
        let rules = policy(&mut random);
        let newest = histories.iter().map(|h| h.iter().map(|k| k.seconds).max().unwrap());
        let same_cutoff: Vec<bool> =
            newest.map(|from| rules.iter().all(|rule| same_cutoff(&clock, from, rule))).collect();
        if rules.is_empty() || !same_cutoff.contains(&true) {
            continue;
        }
        let kept = repository.forget(&rules, histories.len());
        for ((known, kept), _) in histories.iter().zip(&kept).zip(&same_cutoff).filter(|(_, same)| **same) {
            let (ours, theirs) = (ours(&rules, known, &clock, oldest), theirs(kept, known));
            let times: Vec<String> = known.iter().map(|k| clock.civil(k.seconds).to_string()).collect();
            assert_eq!(ours, theirs, "{zone}: {} of {times:?}", rules.iter().map(flag).collect::<Vec<_>>().join(" "));
            compared += 1;
            removed += known.len() - theirs.len();
        }
    }
    // The comparison is significant: neither all nor no snapshots were kept.
    assert!(removed > 500 && removed < compared * 29, "{removed} of {compared} histories");
}

#[test]
fn native_rules_agree_with_restic_in_berlin() {
    assert_agreement("Europe/Berlin", ["2026-10-25T09:00", "2026-03-29T23:10", "2021-01-05T08:15", "2024-02-29T12:00"]);
}

#[test]
fn native_rules_agree_with_restic_in_new_york() {
    assert_agreement(
        "America/New_York",
        ["2025-11-02T07:00", "2026-03-08T20:00", "2016-01-04T00:00", "2026-11-03T04:30"],
    );
}

/// The clock changes by half an hour, in the southern hemisphere.
#[test]
fn native_rules_agree_with_restic_on_lord_howe_island() {
    assert_agreement(
        "Australia/Lord_Howe",
        ["2026-04-05T08:00", "2025-10-05T20:00", "2010-01-03T23:59", "2025-12-31T23:59"],
    );
}

/// Asserts that of snapshots at these times zsnap-expire keeps `ours_expected` and restic keeps `theirs_expected`.
fn assert_difference(
    zone: &'static str,
    civil_times: &[&str],
    rules: &[&str],
    ours_expected: &[&str],
    theirs_expected: &[&str],
) {
    let repository = Repository::new(zone);
    let made: Vec<i64> = civil_times.iter().map(|civil_time| seconds(zone, civil_time)).collect();
    repository.backups(std::slice::from_ref(&made));
    let known = &repository.snapshots(1)[0];
    let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let kept = &repository.forget(&rules, 1)[0];
    let snapshots = listing(known);
    let clock = clock(zone);
    let verdicts = decide(&rules, Reference::Newest, &snapshots, &clock);
    let times = |mut seconds: Vec<i64>| -> Vec<String> {
        seconds.sort_unstable();
        seconds.iter().map(|s| clock.civil(*s).strftime("%Y-%m-%dT%H:%M").to_string()).collect()
    };
    let ours = snapshots.iter().zip(verdicts).filter(|(_, verdict)| verdict.keep).map(|(s, _)| s.creation).collect();
    let theirs = known.iter().filter(|k| kept.contains_key(&k.id)).map(|k| k.seconds).collect();
    assert_eq!(times(ours), ours_expected, "ours");
    assert_eq!(times(theirs), theirs_expected, "restic's");
}

/// For a month before 31 March, Go computes 31 February, which is 3 March.
#[test]
fn a_month_before_the_31st_is_the_last_day_of_a_shorter_month() {
    if have("restic") {
        let all = ["2026-02-27T12:00", "2026-03-01T12:00", "2026-03-02T12:00", "2026-03-31T10:00"];
        assert_difference("Europe/Berlin", &all, &["all=1mo"], &all[1..], &all[3..]);
        let all = ["2023-02-28T13:00", "2023-03-01T11:00", "2024-02-29T12:00"];
        assert_difference("Europe/Berlin", &all, &["all=1y"], &all, &all[2..]);
    }
}

/// If the cutoff is a civil time that exists twice or never, zsnap-expire uses the earlier moment and keeps more.
#[test]
fn an_ambiguous_cutoff_is_the_earlier_moment() {
    if have("restic") {
        // 2:30 does not exist: the clock changes from 2:00 to 3:00.
        let all = ["2026-03-29T01:20", "2026-03-29T01:40", "2026-03-29T03:20", "2026-03-30T02:30"];
        assert_difference("Europe/Berlin", &all, &["all=1d"], &all[1..], &all[3..]);
        // 2:30 exists twice; restic uses the second one.
        let all = ["2026-10-25T02:40", "2026-10-26T02:30"];
        assert_difference("Europe/Berlin", &all, &["all=1d"], &all, &all[1..]);
    }
}

/// restic counts a snapshot with a future date as the newest.
#[test]
fn a_snapshot_with_a_future_date_uses_up_no_count() {
    if have("restic") {
        let all = ["2026-01-01T12:00", "2026-01-02T12:00", "2100-01-01T00:00"];
        assert_difference("Europe/Berlin", &all, &["last=1"], &all[1..], &all[2..]);
        assert_difference("Europe/Berlin", &all, &["all=12h"], &all[1..], &all[1..]);
    }
}

/// A clock that is ahead by less than a day is tolerated: its snapshot is the newest.
#[test]
fn a_snapshot_dated_less_than_a_day_ahead_counts_as_the_newest() {
    if have("restic") {
        let zone = "Etc/UTC";
        let civil_time = |hours: i64| (Timestamp::now() + hours.hours()).strftime("%Y-%m-%dT%H:%M").to_string();
        let civil_times = [civil_time(-8), civil_time(-1), civil_time(20)];
        let all: Vec<&str> = civil_times.iter().map(String::as_str).collect();
        assert_difference(zone, &all, &["all=10h"], &all[2..], &all);
    }
}

/// For restic days begin in the zone of each snapshot, for zsnap-expire in one zone.
#[test]
fn days_of_all_snapshots_begin_in_one_zone() {
    if have("restic") {
        let repository = Repository::new("Europe/Berlin");
        // These are the evening of the 1st and the morning of the 2nd in Tokyo, and both on the 1st in Berlin.
        repository.backup("Asia/Tokyo", 0, "2026-06-01 23:00:00");
        repository.backup("Asia/Tokyo", 0, "2026-06-02 05:00:00");
        let known = &repository.snapshots(1)[0];
        let rules = ["daily=3d".parse().unwrap()];
        assert_eq!(repository.forget(&rules, 1)[0].len(), 2);
        let plain = KeepsOldest { by_count: false, by_time: false };
        assert_eq!(ours(&rules, known, &clock("Europe/Berlin"), plain).len(), 1);
        assert_eq!(ours(&rules, known, &clock("Asia/Tokyo"), plain).len(), 2);
    }
}
