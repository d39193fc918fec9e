//! Dates that contradict the order in which the pool made the snapshots: a compromised host back-dates new ones, a
//! clock was corrected, a clock was once ahead.

use zsnap_tests::expirer::{DAY, Expirer, NOON};

const HOUR: u64 = 3600;
const MIDNIGHT: u64 = NOON - 12 * HOUR;
const KEEP: [&str; 9] = ["-a", "-k", "all=48h", "-k", "daily=15d", "-k", "weekly=4w", "-k", "monthly=6mo"];

/// Names and dates of snapshots, in the order in which the pool makes them.
type Made = Vec<(String, u64)>;

fn take(e: &Expirer, made: &Made) {
    e.take("tank/a", made.iter().map(|(name, at)| (name.as_str(), *at)));
}

/// `count` snapshots, one a day at noon, the newest three days before [`NOON`].
fn good(count: u64) -> Made {
    (0..count).rev().map(|n| (format!("good{n}"), NOON - (n + 3) * DAY)).collect()
}

/// `count - 1` snapshots, each in the last second of a day that has a good one.
fn night(count: u64) -> Made {
    (1..count).rev().map(|n| (format!("night{n}"), MIDNIGHT - (n + 2) * DAY - 1)).collect()
}

/// Twelve snapshots of the last hours, one an hour.
fn today() -> Made {
    (0..12).rev().map(|n| (format!("now{n}"), NOON - n * HOUR)).collect()
}

/// The names in `left` that begin with `prefix`.
fn of(left: &str, prefix: &str) -> Vec<String> {
    left.split(' ').filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}

#[test]
fn back_dated_snapshots_displace_no_others() {
    let honest = Expirer::new();
    take(&honest, &[good(18), today()].concat());
    honest.silent(&KEEP);
    let e = Expirer::new();
    take(&e, &[good(18), night(18), today()].concat());
    let ran =
        e.expire(&KEEP).expect(0).says("tank/a: 16 of its snapshots, such as tank/a@night17, are dated more than");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    for name in ["good", "now"] {
        assert_eq!(of(&e.left("tank/a"), name), of(&honest.left("tank/a"), name), "{}", e.left("tank/a"));
    }
    assert!(of(&e.left("tank/a"), "good").len() > 12, "{}", e.left("tank/a"));
    // Those that the rules would keep of them alone stay until they are too old. Nothing more is reported.
    let left = of(&e.left("tank/a"), "night").len();
    assert!((1..17).contains(&left), "{}", e.left("tank/a"));
    e.silent(&KEEP);
    assert_eq!(of(&e.left("tank/a"), "night").len(), left);
    // While they are the newest, they are kept as well, and no fewer of the others are.
    let e = Expirer::new();
    take(&e, &[good(18), today(), night(18)].concat());
    e.expire(&KEEP).expect(0).says("are dated more than a day before ones that were made earlier: look with -n");
    let left = e.left("tank/a");
    assert_eq!(of(&left, "good"), of(&honest.left("tank/a"), "good"));
    assert_eq!(of(&left, "now"), of(&honest.left("tank/a"), "now"));
}

#[test]
fn the_reasons_name_the_date_that_a_back_dated_snapshot_counts_as() {
    let e = Expirer::new();
    take(&e, &[good(4), night(4), today()].concat());
    e.scene.zfs(&["hold", "h", "tank/a@night2"]).expect(0);
    let args = ["-n", "-a", "-k", "daily=2"];
    let table = e.prints(0, &args);
    for row in [
        "tank/a@night2  2025-06-10 23:59:59Z  keep     held; back-dated, counts as of 2025-06-12 12:00:00Z",
        "tank/a@night3  2025-06-09 23:59:59Z  destroy  no rule keeps it; back-dated, counts as of 2025-06-12 12:00:00Z",
        "tank/a@night1  2025-06-11 23:59:59Z  keep     daily=2; back-dated, counts as of 2025-06-12 12:00:00Z",
        "tank/a@good0   2025-06-12 12:00:00Z  keep     daily=2; the last one before a back-dated one that stays",
    ] {
        assert!(table.contains(row), "{row} is not in {table}");
    }
    let json: serde_json::Value = serde_json::from_str(&e.prints(0, &[&args[..], &["--json"]].concat())).unwrap();
    let goes = json[0]["destroy"].as_array().unwrap().iter().find(|s| s["name"] == "tank/a@night3").unwrap();
    assert_eq!(goes["reasons"][1], "back-dated, counts as of 2025-06-12 12:00:00Z");
}

/// A clock that was hours ahead is corrected: the snapshots that are made until that time has come again are judged
/// together, the rest of the history stays as it is, and nobody has to do anything.
#[test]
fn a_corrected_clock_costs_at_most_its_span_and_is_not_reported() {
    let history = |e: &Expirer, corrected: bool| {
        let ahead = |n: u64| (format!("ahead{n:02}"), NOON + n * HOUR);
        let right = |n: u64| (format!("right{n:02}"), NOON - 6 * HOUR + n * HOUR / 4);
        take(e, &good(25));
        if corrected {
            take(e, &(0..12).map(ahead).collect());
        }
        // One every quarter of an hour, nearly until the time that the clock once showed.
        take(e, &(0..60).map(right).collect());
        take(e, &(1..6).map(|n| (format!("later{n}"), NOON + n * DAY)).collect());
    };
    let (honest, e) = (Expirer::new(), Expirer::new());
    history(&honest, false);
    history(&e, true);
    let keep = ["-a", "-k", "daily=30d", "-k", "weekly=8w"];
    honest.expire(&[&keep[..], &["--max-destroy", "none"]].concat()).expect(0);
    e.silent(&keep);
    for name in ["good", "later"] {
        assert_eq!(of(&e.left("tank/a"), name), of(&honest.left("tank/a"), name), "{}", e.left("tank/a"));
    }
    assert_eq!(of(&e.left("tank/a"), "ahead"), ["ahead11"]);
    e.silent(&keep);
}

/// Once a future date has come, all snapshots that were made since are dated before it. They stay for as long as
/// without it.
#[test]
fn a_future_date_that_has_come_costs_no_later_snapshot() {
    let history = |ahead: bool| {
        let e = Expirer::new();
        take(&e, &(0..6).rev().map(|n| (format!("before{n}"), NOON - (80 + n) * DAY)).collect());
        if ahead {
            // These come in the order of their dates, after one that makes all of them back-dated.
            take(&e, &vec![("ahead one".into(), NOON + HOUR)]);
            take(&e, &(1..40).rev().map(|n| (format!("night{n}"), MIDNIGHT - n * DAY + DAY - 1)).collect());
        }
        let since = |n: u64| (format!("since{n:03}"), NOON - n * DAY / 4);
        take(&e, &(0..240).rev().map(since).collect());
        e
    };
    let keep = ["-a", "-k", "daily=20", "-k", "weekly=4w", "--max-destroy", "none"];
    let (honest, e) = (history(false), history(true));
    honest.silent(&keep);
    e.expire(&keep).expect(0).says("tank/a: 274 of its snapshots, such as tank/a@night39, are dated more than a day");
    let since = of(&e.left("tank/a"), "since");
    let without = of(&honest.left("tank/a"), "since");
    assert!(without.len() >= 20 && without.iter().all(|name| since.contains(name)), "{since:?}");
    assert!(since.len() < without.len() + 3, "{since:?}");
    e.silent(&keep);
    assert_eq!(of(&e.left("tank/a"), "since"), since);
}

/// Back-dated snapshots do not lower the share that --max-destroy limits.
#[test]
fn back_dated_snapshots_do_not_weaken_max_destroy() {
    let e = Expirer::new();
    take(&e, &[good(30), (0..60).map(|n| (format!("more{n}"), NOON - 3 * DAY - n - 1)).collect()].concat());
    let keep = ["-a", "-k", "daily=3", "-k", "all=1h"];
    e.expire(&keep).expect(1).says("tank/a: nothing is destroyed: 27 of 30 would be destroyed");
    // They do not displace the newest ones either.
    e.expire(&[&keep[..], &["-k", "5", "--force"]].concat()).expect(0);
    assert_eq!(of(&e.left("tank/a"), "good"), ["good4", "good3", "good2", "good1", "good0"]);
}

#[test]
fn back_dated_snapshots_displace_no_others_under_zrep_expire_rules() {
    let zrep = |made: Made| -> Made {
        made.into_iter().enumerate().map(|(n, (name, at))| (format!("zrep_{n:06x}_{name}"), at)).collect()
    };
    let (honest, e) = (Expirer::new(), Expirer::new());
    take(&honest, &zrep([good(18), today()].concat()));
    take(&e, &zrep([good(18), night(18), today()].concat()));
    let names = |e: &Expirer| -> Vec<String> {
        e.left("tank/a").split(' ').map(|name| name.rsplit('_').next().unwrap().to_owned()).collect()
    };
    let spaced = ["-c", "spacing.conf", "--zrep-ignore", "-k", "2", "tank/a"];
    for e in [&honest, &e] {
        e.scene.write("spacing.conf", "9 years : 2 days\n");
        e.scene.write("dated.conf", "* * * * * +9 years\n* 23 * * * +1 hour\n");
    }
    honest.silent(&spaced);
    e.expire(&spaced).expect(0).says("16 of its snapshots");
    let others = |e: &Expirer| names(e).into_iter().filter(|name| !name.starts_with("night")).collect::<Vec<_>>();
    let stay = others(&e);
    assert!(others(&honest).iter().all(|name| stay.contains(name)), "{stay:?}");
    // One more may stay: the last good one before the back-dated ones.
    assert!(stay.len() <= others(&honest).len() + 1, "{stay:?}");
    assert!(names(&e).len() < 18 + 17 + 12, "{:?}", names(&e));
    e.silent(&spaced);
    // Dated rules judge each snapshot by its own date, independently of the others.
    let e = Expirer::new();
    e.scene.write("dated.conf", "* * * * * +9 years\n* 23 * * * +1 hour\n");
    take(&e, &zrep([good(18), night(18), today()].concat()));
    let dated = ["-c", "dated.conf", "--zrep-ignore"];
    let table = e.prints(0, &[&dated[..], &["-n"]].concat());
    assert!(table.contains("destroy  expires 2025-06-12 00:59:59; back-dated\n"), "{table}");
    e.expire(&dated).expect(0);
    assert_eq!(e.left("tank/a").matches("good").count(), 18);
    assert!(!e.left("tank/a").contains("night"), "{}", e.left("tank/a"));
}
