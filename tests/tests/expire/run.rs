//! zsnap-expire from the configuration to the last `zfs destroy`: what it keeps, destroys and prints, and its exit
//! status.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use zsnap_tests::expirer::{DAY, Expirer, NOON, now};
use zsnap_tests::scene::{program, run};

const RULES: &str = "--keep=daily=3";

#[test]
fn rules_of_the_command_line_prune_the_specified_datasets() {
    let e = Expirer::new();
    e.daily("tank/a", 8);
    e.create("tank/a/below");
    e.daily("tank/a/below", 6);
    e.create("tank/b");
    e.daily("tank/b", 6);
    // -a adds the datasets below, and no others.
    e.silent(&["-a", RULES, "tank/a"]);
    assert_eq!(e.left("tank/a"), "d2 d1 d0");
    assert_eq!(e.left("tank/a/below"), "d2 d1 d0");
    assert_eq!(e.left("tank/b"), "d5 d4 d3 d2 d1 d0");
    // A second run has nothing to do.
    e.destroys();
    e.silent(&["-a", RULES, "tank/a"]);
    assert_eq!(e.destroys(), [0; 0]);
    // All pools are pruned only with -a. Several datasets may be named.
    e.expire(&["-k", "last=4"]).expect(2).says("name some, or specify --all");
    e.silent(&["-a", "-k", "last=4"]);
    assert_eq!(e.left("tank/b"), "d3 d2 d1 d0");
    e.silent(&["-k", "last=3", "tank/b", "tank/a/below", "tank/a"]);
    assert_eq!((e.left("tank/a"), e.left("tank/b")), ("d2 d1 d0".into(), "d2 d1 d0".into()));
}

#[test]
fn the_most_specific_glob_decides_the_policy_of_a_dataset() {
    let e = Expirer::new();
    for dataset in ["tank/b", "tank/b/c", "backup/other"] {
        e.create(dataset);
        e.daily(dataset, 6);
    }
    e.daily("tank/a", 6);
    e.scene.write(
        "expire.toml",
        "[policy.\"tank/**\"]\nkeep = [\"last=4\"]\n[policy.\"tank/b\"]\nkeep = [\"last=1\"]\nnewest = 3\n\
         [policy.\"tank/b/*\"]\nkeep = [\"all=1d\"]\nrelative-to = \"now\"\n",
    );
    e.silent(&[]);
    assert_eq!(e.left("tank/a"), "d3 d2 d1 d0");
    assert_eq!(e.left("tank/b"), "d2 d1 d0", "the newest 3 were not kept");
    assert_eq!(e.left("tank/b/c"), "d1 d0", "the newest 2 were not kept");
    assert_eq!(e.left("backup/other"), "d5 d4 d3 d2 d1 d0", "a dataset without a policy was pruned");
    let output = e.prints(0, &["check"]);
    let lines = ["tank/**: last=4, and the newest 2", "tank/b: last=1, and the newest 3"];
    assert!(lines.iter().all(|line| output.contains(line)), "{output}");
    // Of two equally long globs the one with fewer wildcards decides; if that does not decide, nothing is done.
    let policy = |glob: &str, keep: &str| format!("[policy.\"{glob}\"]\nkeep = [\"{keep}\"]\n");
    e.scene.write("expire.toml", &(policy("backup/**", "last=2") + &policy("backup/*", "last=3")));
    e.silent(&["backup"]);
    assert_eq!(e.left("backup/other"), "d2 d1 d0");
    e.scene.write(
        "expire.toml",
        &(policy("*/other", "last=2") + &policy("backup*", "last=3") + &policy("tank/*", "last=1")),
    );
    e.silent(&["backup"]);
    e.scene.write(
        "expire.toml",
        &(policy("*/other", "last=2") + &policy("*/?ther", "last=2") + &policy("*/othe?", "last=2")),
    );
    e.silent(&["backup"]);
    e.scene.write("expire.toml", &(policy("*/?ther", "last=1") + &policy("*/othe?", "last=1")));
    e.expire(&["backup"]).expect(78).says("backup/other: ").says("are both for it");
}

#[test]
fn a_dry_run_prints_what_the_real_run_prints_and_does() {
    let e = Expirer::new();
    e.daily("tank/a", 7);
    e.scene.zfs(&["hold", "keep", "tank/a@d5"]).expect(0);
    let rows = |text: &str| -> Vec<String> { text.lines().skip(1).map(str::to_owned).collect() };
    let dry = e.prints(0, &["-a", RULES, "-n"]);
    assert_eq!(e.left("tank/a"), "d6 d5 d4 d3 d2 d1 d0");
    assert!(!e.scene.path("expire-state").exists(), "a dry run wrote a state");
    let real = e.prints(0, &["-a", RULES, "-v"]);
    assert_eq!(rows(&dry), rows(&real));
    assert_eq!(e.left("tank/a"), "d5 d2 d1 d0");
    assert!(dry.starts_with("as of ") && dry.lines().next().unwrap().ends_with("days begin in UTC"), "{dry}");
    let table = dry.split_once('\n').unwrap().1;
    assert_eq!(
        table,
        "SNAPSHOT   CREATED               VERDICT  REASONS\n\
         tank/a@d6  2025-06-09 12:00:00Z  destroy  no rule keeps it\n\
         tank/a@d5  2025-06-10 12:00:00Z  keep     held\n\
         tank/a@d4  2025-06-11 12:00:00Z  destroy  no rule keeps it\n\
         tank/a@d3  2025-06-12 12:00:00Z  destroy  no rule keeps it\n\
         tank/a@d2  2025-06-13 12:00:00Z  keep     daily=3\n\
         tank/a@d1  2025-06-14 12:00:00Z  keep     daily=3; one of the newest 2\n\
         tank/a@d0  2025-06-15 12:00:00Z  keep     daily=3; the newest\n\
         1 dataset: 4 snapshots to keep, 3 to destroy\n"
    );
}

#[test]
fn json_has_the_verdicts_and_reasons_of_all_snapshots() {
    let e = Expirer::new();
    e.daily("tank/a", 4);
    e.create("tank/b");
    e.daily("tank/b", 2);
    let all: serde_json::Value = serde_json::from_str(&e.prints(0, &["-a", "-k", "last=2", "--json", "-n"])).unwrap();
    let guid = |snap: &str| {
        let ran = e.scene.zfs(&["list", "-Hp", "-t", "snapshot", "-o", "guid", snap]).expect(0);
        format!("{:016x}", String::from_utf8(ran.out).unwrap().trim().parse::<u64>().unwrap())
    };
    let snap = |name: &str, ago: u64, reasons: &[&str]| {
        serde_json::json!({
            "name": name, "guid": guid(name), "creation": NOON - ago * DAY, "reasons": reasons,
        })
    };
    let expected = serde_json::json!([
        {
            "dataset": "tank/a",
            "keep": [
                snap("tank/a@d1", 1, &["last=2", "one of the newest 2"]),
                snap("tank/a@d0", 0, &["last=2", "the newest"]),
            ],
            "destroy": [snap("tank/a@d3", 3, &["no rule keeps it"]), snap("tank/a@d2", 2, &["no rule keeps it"])],
            "braked": null,
            "reclaim": 43008,
        },
        {
            "dataset": "tank/b",
            "keep": [
                snap("tank/b@d1", 1, &["last=2", "one of the newest 2"]),
                snap("tank/b@d0", 0, &["last=2", "the newest"]),
            ],
            "destroy": [],
            "braked": null,
            "reclaim": 0,
        },
    ]);
    assert_eq!(all, expected);
    assert_eq!(e.left("tank/a"), "d3 d2 d1 d0");
}

#[test]
fn the_timeline_shows_which_snapshots_stay() {
    let e = Expirer::new();
    e.daily("tank/a", 10);
    e.create("tank/longer");
    e.take("tank/longer", [("x", NOON - 5 * DAY - 60), ("y", NOON - 5 * DAY), ("z", NOON), ("f", 4_102_444_800)]);
    let timeline = e.prints(0, &["-a", "-k", "daily=2", "--timeline", "--at", "2025-06-15T12:00Z"]);
    // x and y share a cell; y stays as the last of its day. A future date is in the last cell.
    assert_eq!(
        timeline,
        "as of 2025-06-15T12:00:00Z, days begin in UTC\n\
         # stays, x goes, % both, . none; a cell is 6 hours; from 2025-06-06 12:00 to 2025-06-15 12:00\n\
         tank/a       x...x...x...x...x...x...x...x...#...#\n\
         tank/longer  ................%...................#\n\
         2 datasets: 5 snapshots to keep, 9 to destroy\n"
    );
}

#[test]
fn a_run_with_at_destroys_nothing() {
    let e = Expirer::new();
    e.daily_until("tank/a", 6, now() - 3600);
    let keep = ["-a", "--keep", "all=10d", "--relative-to", "now"];
    e.silent(&keep);
    assert_eq!(e.left("tank/a"), "d5 d4 d3 d2 d1 d0");
    let output = e.prints(0, &[&keep[..], &["--at", "2100-01-01T00:00Z"]].concat());
    assert!(output.starts_with("as of 2100-01-01T00:00:00Z"), "{output}");
    assert_eq!(output.matches(" destroy ").count(), 4, "{output}");
    assert_eq!(e.left("tank/a"), "d5 d4 d3 d2 d1 d0");
}

#[test]
fn a_failed_listing_destroys_nothing() {
    let e = Expirer::new();
    e.daily("tank/a", 6);
    e.expire(&["-a", RULES, "tank/a", "tank/none"]).expect(69).says("tank/none");
    e.expire(&["-a", RULES, "--zfs", "/nonexistent/zfs"]).expect(69);
    for script in [
        "[ \"$1\" = list ] && exit 1",
        "[ \"$1\" = list ] && { $real \"$@\"; exit 1; }",
        // `zfs list` is killed, or its output lacks the last byte.
        "[ \"$1\" = list ] && { $real \"$@\" | head -n 3; kill -9 $$; }",
        "[ \"$1\" = list ] && { $real \"$@\" | head -c -1; exit 0; }",
        "[ \"$1\" = list ] && [ \"$4\" = filesystem,volume ] && exit 1",
    ] {
        let zfs = e.wrapper(script);
        e.expire(&["-a", RULES, "--zfs", &zfs]).expect(69);
        assert_eq!(e.left("tank/a"), "d5 d4 d3 d2 d1 d0", "{script}");
    }
    for name in ["tank/a@d0", "tank/a#x"] {
        e.expire(&["-a", RULES, name]).expect(2).says("is not a dataset");
    }
}

#[test]
fn a_second_run_ends_silently_while_another_one_has_the_lock() {
    let e = Expirer::new();
    e.daily("tank/a", 6);
    let lock = e.scene.path("expire-state/lock");
    fs::create_dir(e.scene.path("expire-state")).unwrap();
    let mut holder = Command::new(program("hold-lock"));
    let holder = holder.arg(&lock).arg(e.scene.path("expire-state/lock.dotlock"));
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    holder.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    e.silent(&["-a", RULES]);
    e.expire(&["-a", RULES, "--max-run", "0s"]).expect(75).says("longer than --max-run");
    assert_eq!(e.left("tank/a"), "d5 d4 d3 d2 d1 d0");
    // A dry run needs no lock.
    e.expire(&["-a", RULES, "-n"]).expect(0);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    e.silent(&["-a", RULES]);
    assert_eq!(e.left("tank/a"), "d2 d1 d0");
}

#[test]
fn max_destroy_stops_a_dataset_unless_forced() {
    let e = Expirer::new();
    e.create("tank/b");
    e.daily("tank/a", 30);
    e.daily("tank/b", 6);
    // One dataset is stopped, the other one is pruned.
    e.expire(&["-a", RULES]).expect(1).says("tank/a: nothing is destroyed: 27 of 30 would be destroyed");
    assert_eq!((e.left("tank/a").split(' ').count(), e.left("tank/b")), (30, "d2 d1 d0".into()));
    // A dry run shows what --force would do.
    let table = e.prints(0, &[RULES, "-n", "tank"]);
    assert_eq!(table.matches(" destroy  no rule").count(), 27, "{table}");
    // It says where the real run stopped.
    let stops =
        "tank/a: a run without -n destroys nothing: 27 of 30 would be destroyed, more than --max-destroy allows";
    assert!(table.contains(stops) && table.matches("safety limit: ").count() == 1, "{table}");
    assert!(e.prints(0, &[RULES, "-n", "--timeline", "tank"]).contains(stops));
    let allowed = e.prints(0, &[RULES, "-n", "tank", "--max-destroy", "90%"]);
    assert!(!allowed.contains("safety limit") && allowed.contains("snapshots to keep, 27 to destroy"), "{allowed}");
    e.expire(&["-a", RULES, "--max-destroy", "90%"]).expect(0);
    assert_eq!(e.left("tank/a"), "d2 d1 d0");
    e.expire(&["-a", "-k", "last=2", "--max-destroy", "0"]).expect(1).says("look with -n, then run once with --force");
    let table = e.prints(1, &["-a", "-k", "last=2", "--max-destroy", "0", "-n"]);
    assert_eq!((table.matches(" braked ").count(), table.matches(" destroy  ").count()), (2, 0), "{table}");
    assert!(table.contains("safety limit: tank/b: nothing is destroyed: 1 of 3 would be destroyed"), "{table}");
    e.expire(&["-a", "-k", "last=2", "--max-destroy", "0", "--force"]).expect(0).says("--force overrides");
    assert_eq!((e.left("tank/a"), e.left("tank/b")), ("d1 d0".into(), "d1 d0".into()));
}

#[test]
fn a_wrong_clock_destroys_nothing() {
    let e = Expirer::new();
    const LATER: u64 = 4_102_444_800;
    for dataset in ["tank/b", "tank/c"] {
        e.create(dataset);
        e.daily(dataset, 6);
    }
    e.daily("tank/a", 6);
    // A single snapshot with a future date stays and is not a reference: the others count from d0.
    e.take("tank/a", [("later", LATER)]);
    e.silent(&["-k", "all=2d", "tank/a"]);
    assert_eq!(e.left("tank/a"), "d1 d0 later");
    // So does one whose date is beyond the calendar.
    e.take("tank/a", [("never", u64::MAX), ("d00", NOON + 1), ("d01", NOON + 2)]);
    e.silent(&["-k", "all=2d", "tank/a"]);
    assert_eq!(e.left("tank/a"), "d1 d0 later never d00 d01");
    e.take("tank/b", [("later", LATER), ("later2", LATER + DAY)]);
    e.expire(&["-a", RULES]).expect(1).says("tank/b: nothing is destroyed: its newest 2 are dated in the future");
    assert_eq!(e.left("tank/c"), "d2 d1 d0");
    // --force does not override this, and if it concerns most of the datasets, the whole run stops.
    e.expire(&["-a", RULES, "--force", "-n", "tank/b", "tank/c", "tank/a"]).expect(1).says("set this machine's clock");
    e.silent(&["-a", RULES, "--force", "tank/b", "tank/c", "tank/a"]);
    assert_eq!(e.left("tank/b"), "d5 d4 d3 d2 d1 d0 later later2");
    e.take("tank/c", [("later", LATER), ("later2", LATER)]);
    e.expire(&["-k", "last=1", "--force", "tank"]).expect(75).says("set this machine's clock");
    assert_eq!(e.left("tank/b"), "d5 d4 d3 d2 d1 d0 later later2");
}

#[test]
fn configuration_errors_are_reported_with_line_and_remedy() {
    let e = Expirer::new();
    for (text, line, says) in [
        ("[policy.\"x\"]\nkeep = []\n", 2, "keep is empty"),
        ("[policy.\"x\"]\nkeep = [\"daily=1d\", \"all=3\"]\n", 2, "all= takes a length of time"),
        ("[policy.\"x\"]\nnewest = 3\n", 1, "keep"),
        ("[policy.\"x\"]\nkeep = [\"last=1\"]\nmax-destroy = \"101%\"\n", 3, "50%"),
        ("[policy.\"x\"]\nkeep = [\"last=1\"]\nrelative-to = \"then\"\n", 3, "newest or now"),
        ("[policy.\"x\"]\nkeep = [\"last=1\"]\nretain = 1\n", 3, "retain"),
        ("timezone = \"Mars\"\n", 1, "Mars"),
        ("\n\nkeep = \"dayly=1\"\n", 3, "dayly=1"),
        ("nonsense = 1\n", 1, "unknown key"),
        // Options that concern one run are rejected in the file.
        ("json = false\nforce = true\n", 2, "force concerns one run: remove the key, and specify --force"),
        ("no-needed = true\n", 1, "no-needed concerns one run: remove the key, and specify --no-needed"),
        ("noop = true\n", 1, "noop concerns one run: remove the key, and specify --noop on the command line"),
        ("max_destroy = 3\n", 1, "unknown key \"max_destroy\"; did you mean \"max-destroy\"?"),
        ("[policy.\"x\"]\nkep = [\"last=1\"]\n", 2, "unknown key \"kep\"; did you mean \"keep\"?"),
        ("timezone = Europe/Berlin\n", 1, "Europe/Berlin is not in quotes: write \"Europe/Berlin\""),
    ] {
        e.scene.write("expire.toml", text);
        for args in [&["check"][..], &[], &["--filter"]] {
            let ran = e.expire(args).expect(78);
            assert!(
                ran.err.contains(&format!("expire.toml:{line}: ")) && ran.err.contains(says),
                "{text}: {}",
                ran.err
            );
        }
    }
    e.scene.write("expire.toml", "");
    e.expire(&[]).expect(78).says("no policy: specify --keep RULE");
    e.expire(&["-c", "none.toml"]).expect(78).says("none.toml");
    e.expire(&["--keep", "sometimes"]).expect(2).says("is not a rule");
    // A dataset has the name of a command.
    e.expire(&["-a", RULES, "--", "check"]).expect(69).says("check");
    e.expire(&["-a", RULES, "chekc"]).expect(69).says("did you mean the subcommand \"check\"?").says("chekc is absent");
    let ran = e.expire(&["-a", RULES, "nonsense"]).expect(69).says("nonsense is absent");
    assert!(!ran.err.contains("did you mean"), "{}", ran.err);
    assert!(e.prints(0, &["-a", RULES, "check"]).contains("**: daily=3, and the newest 2"));
    for glob in ["", "tank/", "tank/a@*"] {
        e.scene.write("expire.toml", &format!("[policy.\"{glob}\"]\nkeep = [\"last=1\"]\n"));
        e.expire(&["check"]).expect(78).prints("is for no dataset");
    }
    // A count may be a number or a string.
    e.scene.write("expire.toml", "[policy.\"**\"]\nkeep = [\"last=1\"]\nnewest = \"3\"\nmax-destroy = 7\n");
    assert!(e.prints(0, &["check"]).contains("**: last=1, and the newest 3"));
    e.scene.write("expire.toml", "");
    // An unknown zone must not be treated as UTC.
    for zone in ["Europe/Berln", "CET-1CEST"] {
        let ran = run(e.command(&["-a", RULES]).env("TZ", zone), b"").expect(78);
        assert!(
            ran.err.contains(&format!("TZ={zone} is not a known time zone")) && ran.err.contains("specify --timezone"),
            "{}",
            ran.err
        );
        run(e.command(&["-a", RULES, "--timezone=UTC"]).env("TZ", zone), b"").expect(0);
    }
    run(e.command(&["-a", RULES]).env("TZ", ""), b"").expect(0);
}

#[test]
fn check_reports_what_a_run_lacks() {
    let e = Expirer::new();
    e.scene.write("expire.toml", "[policy.\"tank/**\"]\nkeep = [\"last=1\"]\nreceived = true\n");
    e.expire(&["check"]).expect(1).prints("warn  received datasets: a run needs --needed");
    e.expire(&["check", "--no-needed"]).expect(0).prints("ok    programs\nok    state\n");
    let missing = e.scene.path("none.needed").display().to_string();
    e.expire(&["check", "--needed", &missing]).expect(78).prints(&format!("fail  needed: {missing}: no list"));
    e.expire(&["check", "--no-needed", "--zfs", "/none/zfs"]).expect(78).prints("fail  programs: /none/zfs");
    let state = e.scene.path("expire.toml/state");
    e.expire(&["check", "--no-needed", "--state", state.to_str().unwrap()]).expect(78).prints("fail  state: ");
}

#[test]
fn a_named_dataset_without_a_policy_is_reported() {
    let e = Expirer::new();
    e.scene.write("expire.toml", "[policy.\"tank/a/**\"]\nkeep = [\"last=1\"]\n");
    e.create("tank/a/b");
    e.daily("tank/a", 3);
    e.daily("tank/a/b", 3);
    // A dataset below it has a policy.
    e.silent(&["tank/a", "backup"]);
    let _ = e.scene.zfs(&["destroy", "-r", "tank/a/b"]);
    let ran = e.expire(&["tank/a", "backup"]).expect(0).says("tank/a: no policy is for it");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    e.silent(&[]);
}

#[test]
fn options_that_contradict_each_other_destroy_nothing() {
    let e = Expirer::new();
    e.daily("tank/a", 6);
    for more in [&["--invert"][..], &["-0"], &["--group", "x"], &["--filter"], &["--filter", "-n"]] {
        e.expire(&[&["-a", RULES][..], more].concat()).expect(2);
    }
    e.expire(&["--filter", RULES, "tank/a"]).expect(2).says("standard input");
    assert_eq!(e.left("tank/a").split(' ').count(), 6);
    // An option of the command line overrides the keys of the file that contradict it.
    e.scene.write("expire.toml", "needed = [\"none\"]\n[policy.\"tank/**\"]\nkeep = [\"last=2\"]\n");
    e.expire(&[]).expect(75);
    e.silent(&["--filter"]);
    e.expire(&["--no-needed"]).expect(0);
    assert_eq!(e.left("tank/a"), "d1 d0");
}

#[test]
fn keep_replaces_the_rules_but_not_the_other_settings() {
    let e = Expirer::new();
    e.daily("tank/a", 6);
    e.create("backup/b");
    e.daily("backup/b", 6);
    e.scene.write("expire.toml", "[policy.\"backup/**\"]\nkeep = [\"last=5\"]\nreceived = true\n");
    e.expire(&["-a", RULES]).expect(75).says("received datasets need the list of zsnap-ingest");
    assert_eq!(e.left("tank/a"), "d5 d4 d3 d2 d1 d0");
    e.silent(&["-a", RULES, "--no-needed"]);
    assert_eq!((e.left("tank/a"), e.left("backup/b")), ("d2 d1 d0".into(), "d2 d1 d0".into()));
    // A number replaces a number, not rules.
    e.scene.write("expire.toml", "keep = [\"all=1y\", \"1\"]\n[policy.\"tank/**\"]\nkeep = [\"last=1\"]\n");
    let table = e.prints(0, &["-n", "-k", "3", "tank/a"]);
    assert!(table.contains("all=1y; one of the newest 3") && table.contains(" 0 to destroy"), "{table}");
}
