//! `status` and `check` of zsnap-fanout report the right numbers and change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use zsnap_tests::scene::{Ran, have, needs_root, run};
use zsnap_tests::spooler::{Spooler, tree};
use zsnap_tests::strace::{can_trace, go_on, stopped};

type Rows = BTreeMap<String, Value>;

/// Runs `status` and asserts that it changed nothing, and that standard error is empty: what is late is in the report.
#[track_caller]
fn ask(spooler: &Spooler, args: &[&str]) -> Ran {
    let before = tree(&spooler.path(""));
    let ran = spooler.fanout(&[&["status"], args].concat());
    assert_eq!(tree(&spooler.path("")), before, "{args:?}");
    assert_eq!(ran.err, "", "{args:?}");
    ran
}

#[track_caller]
fn rows(spooler: &Spooler, args: &[&str]) -> Rows {
    let ran = ask(spooler, &[args, &["--json"]].concat());
    let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    // What needs attention makes the status 1, and has a sentence.
    let bad = |row: &&Value| ["unreadable", "failed", "unknown"].contains(&row["state"].as_str().unwrap());
    assert!(rows.iter().filter(bad).all(|row| row["note"].is_string()), "{rows:?}");
    assert_eq!(ran.status, i32::from(rows.iter().any(|row| bad(&row))), "{rows:?}");
    rows.into_iter().map(|row| (row["drive"].as_str().unwrap().to_owned(), row)).collect()
}

/// Asserts that these columns of a row have these values.
#[track_caller]
fn has(rows: &Rows, drive: &str, columns: &[(&str, Value)]) {
    for (column, value) in columns {
        assert_eq!(&rows[drive][column], value, "{column} of {}", rows[drive]);
    }
}

/// Asserts an age in hours, to which a slow machine may add some seconds.
#[track_caller]
fn hours(row: &Value, column: &str, expected: u64) {
    let age = row[column].as_u64().unwrap_or_else(|| panic!("no {column}: {row}"));
    assert!((expected * 3600..expected * 3600 + 300).contains(&age), "{column} is {age}: {row}");
}

fn make_older(spooler: &Spooler, path: &str, hours: u64) {
    let file = fs::File::options().write(true).open(spooler.path("spool").join(path)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
}

fn table(spooler: &Spooler, args: &[&str]) -> String {
    String::from_utf8(ask(spooler, args).expect(1).out).unwrap()
}

/// A spooler where disk1 has all files, disk2 is away and lacks three, tape fails and lacks one of them, and one
/// file is in the spool.
fn some_states() -> Spooler {
    let spooler = Spooler::with(&["disk1", "disk2"]);
    spooler.to("tape", "cmd:case $ZSNAP_FILE in *@b) echo no tape >&2; exit 3;; esac", "");
    let files: Vec<_> = [("laptop/a", 1), ("laptop/b", 2), ("server/a", 3)]
        .map(|(target, n)| spooler.put(target, n, vec![1; 1000 * n as usize]))
        .to_vec();
    for (file, hours) in [("laptop", 5), ("laptop", 7), ("server", 3)]
        .iter()
        .zip(&files)
        .map(|((host, h), f)| (format!("{host}/{f}"), *h))
    {
        make_older(&spooler, &file, hours);
    }
    fs::rename(spooler.path("disk2"), spooler.path("shelf")).unwrap();
    spooler.fanout(&[]).expect(1).says("no tape");
    let late = spooler.put("laptop/a", 4, vec![1; 500]);
    make_older(&spooler, &format!("laptop/{late}"), 1);
    spooler
}

#[test]
fn before_the_first_run_all_drives_are_empty() {
    let spooler = Spooler::with(&["disk1"]);
    let rows = rows(&spooler, &[]);
    let null = Value::Null;
    has(&rows, "(spool)", &[("state", "empty".into()), ("waiting_files", 0.into()), ("waiting_age", null.clone())]);
    has(&rows, "disk1", &[("state", "empty".into()), ("waiting_files", 0.into()), ("newest", null.clone())]);
    has(&rows, "disk1", &[("delivered_age", null.clone()), ("seen_age", 0.into()), ("note", null)]);
    assert_eq!(rows["disk1"]["destination"], format!("dir:{}", spooler.path("disk1").display()));
    assert_eq!(rows.len(), 2);
    // --max-age expects backups.
    ask(&spooler, &["--max-age", "1d"]).expect(1);
}

#[test]
fn status_counts_waiting_and_scarce_files() {
    let spooler = some_states();
    let now = rows(&spooler, &[]);
    let columns = |state: &str, files: u64, bytes: u64, scarce: u64, scarce_bytes: u64| {
        [
            ("state", Value::from(state)),
            ("waiting_files", files.into()),
            ("waiting_bytes", bytes.into()),
            ("scarce_files", scarce.into()),
            ("scarce_bytes", scarce_bytes.into()),
        ]
    };
    // A file on fewer than two drives is scarce. b is on disk1 alone; the file in the spool is on none.
    has(&now, "(spool)", &columns("waiting", 1, 500, 2, 2500));
    has(&now, "disk1", &columns("delivered", 0, 0, 0, 0));
    has(&now, "disk2", &columns("away", 3, 6000, 1, 2000));
    has(&now, "tape", &columns("failed", 1, 2000, 1, 2000));
    hours(&now["(spool)"], "waiting_age", 1);
    hours(&now["disk2"], "waiting_age", 7);
    hours(&now["(spool)"], "scarce_age", 7);
    has(&now, "disk1", &[("waiting_age", Value::Null), ("nncp_packets", Value::Null), ("note", Value::Null)]);
    // The time in the name is when the file was made, not when it was delivered.
    has(&now, "disk1", &[("newest", 1_700_000_000.into())]);
    hours(&now["disk1"], "delivered_age", 0);
    has(&now, "disk2", &[("seen_age", Value::Null), ("delivered_age", Value::Null)]);
    let note = now["tape"]["note"].as_str().unwrap();
    assert!(note.contains("cmd failed (exit status: 3): no tape"), "{note}");
    assert!(now["disk2"]["note"].as_str().unwrap().ends_with("/disk2 is not there"));
    for (copies, scarce) in [("1", 1), ("2", 2), ("3", 4), ("9", 4)] {
        has(&rows(&spooler, &["--copies", copies]), "(spool)", &[("scarce_files", scarce.into())]);
    }
    // disk2 is back and tape works: all files are delivered, and the notes are gone.
    fs::rename(spooler.path("shelf"), spooler.path("disk2")).unwrap();
    spooler.edit("exit 3", "exit 0");
    spooler.silent_run();
    let now = rows(&spooler, &[]);
    has(&now, "(spool)", &columns("empty", 0, 0, 0, 0));
    has(&now, "disk2", &columns("delivered", 0, 0, 0, 0));
    has(&now, "tape", &columns("handed over", 0, 0, 0, 0));
    has(&now, "tape", &[("note", Value::Null), ("here", Value::Null)]);
    hours(&now["disk2"], "seen_age", 0);
}

#[test]
fn status_reports_when_a_drive_was_present_and_when_it_got_a_file() {
    let spooler = Spooler::with(&["disk1"]);
    if !have("faketime") {
        return;
    }
    let at = |time: &str, args: &[&str]| {
        let mut command = spooler.under(&["faketime", "-f", time], args);
        run(command.env("NO_FAKE_STAT", "1"), b"")
    };
    spooler.put("laptop/a", 1, "x");
    assert_eq!(at("-9h", &[]).expect(0).err, "");
    assert_eq!(at("-5h", &[]).expect(0).err, "");
    hours(&rows(&spooler, &[])["disk1"], "delivered_age", 9);
    has(&rows(&spooler, &[]), "disk1", &[("seen_age", 0.into())]);
    fs::rename(spooler.path("disk1"), spooler.path("shelf")).unwrap();
    let late = spooler.put("laptop/a", 2, "x");
    make_older(&spooler, &format!("laptop/{late}"), 2);
    spooler.silent_run();
    let now = rows(&spooler, &[]);
    hours(&now["disk1"], "delivered_age", 9);
    hours(&now["disk1"], "seen_age", 5);
    hours(&now["disk1"], "waiting_age", 2);
    // A file waits for too long, or the last delivery was too long ago.
    for (max, late) in [("10h", ""), ("8h", "nothing was delivered since "), ("1h", "1 file waits, the oldest since ")]
    {
        let ran = ask(&spooler, &["--max-age", max]).expect(i32::from(!late.is_empty()));
        assert_eq!(ran.err, "");
        let text = String::from_utf8(ran.out).unwrap();
        let note = text.lines().find(|line| line.starts_with("disk1: ")).unwrap();
        assert_eq!(note.contains(", longer than max-age"), !late.is_empty(), "{note}");
        assert!(note.contains(late) && note.contains("it was last here at 20"), "{note}");
    }
    fs::rename(spooler.path("shelf"), spooler.path("disk1")).unwrap();
    spooler.silent_run();
    ask(&spooler, &["--max-age", "1h"]).expect(0);
}

#[test]
fn an_age_of_a_future_time_is_unknown() {
    let spooler = Spooler::with(&["disk1", "disk2"]);
    spooler.put("laptop/a", 1, "x");
    spooler.silent_run();
    ask(&spooler, &["--max-age", "1d"]).expect(0);
    // The clock was a week ahead.
    let ahead = SystemTime::now() + Duration::from_secs(7 * 86_400);
    let future = ahead.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seen = tree(&spooler.outbox("disk1")).into_iter().find(|name| name.ends_with("seen.json")).unwrap();
    let path = spooler.outbox("disk1").join(seen);
    let mut seen: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    seen["delivered"] = future.into();
    fs::write(&path, seen.to_string()).unwrap();
    let now = rows(&spooler, &[]);
    has(&now, "disk1", &[("delivered_age", Value::Null), ("state", "delivered".into())]);
    assert!(now["disk1"]["note"].as_str().unwrap().starts_with("times lie in the future: set the clock"));
    has(&now, "disk2", &[("note", Value::Null)]);
    ask(&spooler, &["--max-age", "1d", "disk1"]).expect(1);
    ask(&spooler, &["--max-age", "1d", "disk2"]).expect(0);
    // The clock of the program that wrote a file was ahead as well.
    let name = spooler.put("laptop/a", 2, "x");
    let file = fs::File::options().write(true).open(spooler.path("spool/laptop").join(name)).unwrap();
    file.set_modified(ahead).unwrap();
    has(&rows(&spooler, &[]), "(spool)", &[("waiting_files", 1.into()), ("waiting_age", Value::Null)]);
    ask(&spooler, &["--max-age", "1d", "disk2"]).expect(1);
}

/// A file is on disk2 and waits for disk1; then drives are added and hosts removed.
#[test]
fn a_drive_counts_as_a_copy_only_of_files_split_to_it() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "keep = \"9d\"");
    spooler.drive("disk2", "");
    // The first run splits files in any order that are older than the run.
    for (n, hours) in [(1, 30), (2, 40), (3, 20)] {
        let name = spooler.put("laptop/a", n, "x");
        make_older(&spooler, &format!("laptop/{name}"), hours);
    }
    spooler.silent_run();
    let scarce = || rows(&spooler, &[])["(spool)"]["scarce_files"].as_u64().unwrap();
    // A file is distributed even if this cannot be noted.
    let in_the_way = spooler.outbox("disk2").join(".since.json");
    fs::rename(&in_the_way, spooler.path("note")).unwrap();
    fs::create_dir(&in_the_way).unwrap();
    let name = spooler.put("server/a", 1, "x");
    spooler.fanout(&[]).expect(1).says("server: noting what it takes: ").says("; status may count too few copies");
    assert!(["disk1", "disk2"].iter().all(|disk| spooler.on(disk).contains(&format!("server/{name}"))));
    fs::remove_dir(&in_the_way).unwrap();
    fs::rename(spooler.path("note"), in_the_way).unwrap();
    let away = |disk: &str| fs::rename(spooler.path(disk), spooler.path(format!("{disk}-away"))).unwrap();
    let back = |disk: &str| fs::rename(spooler.path(format!("{disk}-away")), spooler.path(disk)).unwrap();
    away("disk1");
    let name = spooler.put("laptop/a", 4, "x");
    make_older(&spooler, &format!("laptop/{name}"), 10);
    spooler.silent_run();
    assert_eq!(scarce(), 1);
    // A new drive does not have the file, neither before nor after it gets its first file of the host, an older one.
    spooler.drive("disk3", "");
    assert_eq!(scarce(), 1);
    let name = spooler.put("laptop/b", 5, "x");
    make_older(&spooler, &format!("laptop/{name}"), 50);
    spooler.silent_run();
    assert_eq!(spooler.on("disk3").len(), 1);
    // It is uncertain whether the older file has a second copy.
    assert_eq!(scarce(), 2);
    spooler.put("laptop/b", 6, "x");
    spooler.silent_run();
    assert_eq!((scarce(), spooler.waiting("disk1").len()), (2, 3));
    back("disk1");
    spooler.silent_run();
    assert_eq!(scarce(), 0);
    // After requeue: disk3 never had the files from before it was added, and one file of disk2 is not noted.
    spooler.fanout(&["requeue", "disk1", "--since", "2d"]).expect(0);
    assert_eq!((scarce(), spooler.waiting("disk1").len()), (6, 7));
    spooler.silent_run();
    // Only one drive gets the host's files now, so files that still wait for disk1 need not be on two drives.
    spooler.write("fanout.toml", spooler.config().split_once("[to.disk3]").unwrap().0);
    fs::remove_dir_all(spooler.outbox("disk3")).unwrap();
    away("disk1");
    let name = spooler.put("laptop/a", 7, "x");
    make_older(&spooler, &format!("laptop/{name}"), 2);
    spooler.silent_run();
    assert_eq!(scarce(), 1);
    let both = spooler.config();
    spooler.edit("[to.disk1]", "[to.disk1]\nhosts = ['server']");
    assert_eq!(scarce(), 0);
    // disk1 never gets a file that arrives meanwhile, although its hosts include the host again later.
    away("disk2");
    let name = spooler.put("laptop/a", 8, "x");
    make_older(&spooler, &format!("laptop/{name}"), 1);
    spooler.silent_run();
    spooler.write("fanout.toml", &both);
    // 7 is on disk2 and 8 on none.
    assert_eq!(scarce(), 2);
    spooler.put("laptop/a", 9, "x");
    spooler.silent_run();
    back("disk1");
    spooler.silent_run();
    assert_eq!((spooler.waiting("disk1").len(), scarce()), (0, 2));
    let now = rows(&spooler, &["--copies", "1"]);
    has(&now, "disk2", &[("waiting_files", 2.into()), ("scarce_files", 1.into())]);
}

#[test]
fn an_unreadable_directory_is_not_reported_as_empty() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("server/a", 1, "x");
    spooler.put("laptop/a", 2, "x");
    spooler.silent_run();
    ask(&spooler, &["--max-age", "9d", "disk1"]).expect(0);
    let dir = spooler.path("spool/server").display().to_string();
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &dir, "-e", "inject=getdents64:error=EIO"];
    let status = |args: &[&str]| run(&mut spooler.under(&before, args), b"");
    let text = String::from_utf8(status(&["status"]).expect(1).out).unwrap();
    assert!(text.lines().nth(1).unwrap().starts_with("(spool)      unreadable  "), "{text}");
    assert!(text.contains(&format!("\n(spool): {dir}: Input/output error (os error 5): look at the disk")), "{text}");
    status(&["status", "--max-age", "9d", "disk1"]).expect(1);
    let text = String::from_utf8(status(&["status", "--prometheus"]).expect(1).out).unwrap();
    assert!(text.contains("\nzsnap_fanout_state{destination=\"(spool)\",state=\"unreadable\"} 1\n"), "{text}");
}

/// A run may move files between any two listings of status, which must not miss one.
#[test]
fn status_counts_files_that_a_run_moves_meanwhile() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("laptop/a", 1, "x");
    fs::rename(spooler.path("disk1"), spooler.path("shelf")).unwrap();
    spooler.silent_run();
    spooler.put("laptop/a", 2, "x");
    let trace = spooler.path("trace");
    let boxes = spooler.path("spool/.zsnap-fanout");
    let paths = [spooler.path("spool/laptop"), boxes.join("split"), boxes.join("out/disk1")];
    for path in paths {
        let path = path.to_str().unwrap();
        let stop = "inject=openat:signal=SIGSTOP:when=1";
        let before = ["strace", "-f", "-P", path, "-e", "trace=openat", "-e", stop, "-o", trace.to_str().unwrap()];
        let running = spooler.under(&before, &["status", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let thread = stopped(&trace);
        fs::remove_file(&trace).unwrap();
        spooler.silent_run();
        let ran = go_on(running, &thread).expect(0);
        let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
        let waiting: u64 = rows.iter().map(|row| row["waiting_files"].as_u64().unwrap()).sum();
        assert!(waiting >= spooler.waiting("disk1").len() as u64, "{path}: {rows:?}");
        let n = 3 + spooler.waiting("disk1").len() as u64;
        spooler.put("laptop/a", n, "x");
    }
}

#[test]
fn status_prints_a_table_json_and_prometheus_metrics() {
    let spooler = some_states();
    let text = table(&spooler, &[]);
    let lines: Vec<_> = text.lines().collect();
    let heads: Vec<_> = lines[0].split_whitespace().collect();
    let known = ["DESTINATION", "STATE", "NEWEST", "DELIVERED", "WAITING", "BYTES", "AGE", "SCARCE", "NNCP"];
    assert_eq!(heads, known);
    for (drive, state) in [("(spool)", "waiting"), ("disk1", "delivered"), ("disk2", "away"), ("tape", "failed")] {
        let mut words = lines.iter().find(|line| line.starts_with(drive)).unwrap().split_whitespace();
        assert_eq!((words.next(), words.next()), (Some(drive), Some(state)), "{text}");
    }
    assert!(text.contains("h ago") && text.contains("5.8 KiB") && text.contains("7h 0m"), "{text}");
    assert!(text.contains("\ntape: ") && text.contains("no tape") && text.contains("\ndisk2: "), "{text}");

    let text = table(&spooler, &["--prometheus"]);
    for line in [
        "waiting_files{destination=\"disk2\"} 3",
        "scarce_files{destination=\"(spool)\"} 2",
        "state{destination=\"disk2\",state=\"away\"} 1",
        "state{destination=\"disk2\",state=\"failed\"} 0",
        "state{destination=\"tape\",state=\"failed\"} 1",
    ] {
        assert!(text.lines().any(|l| l == format!("zsnap_fanout_{line}")), "{line}: {text}");
    }
    assert!(!text.contains("exit status: 3"), "{text}");
    spooler.fanout(&["status", "--json", "--prometheus"]).expect(2);

    // Only the named drives and the spool are reported; the order of the columns is the same for all.
    let two = rows(&spooler, &["disk2", "tape"]);
    assert_eq!(two.keys().collect::<Vec<_>>(), ["(spool)", "disk2", "tape"]);
    assert_eq!(
        two["disk2"].as_object().unwrap().keys().collect::<Vec<_>>(),
        two["tape"].as_object().unwrap().keys().collect::<Vec<_>>()
    );
    spooler.fanout(&["status", "disk9"]).expect(2).says("no drive is called disk9");
    // The drive has just got a file, but another one waits.
    for (max, late) in [("8h", false), ("6h", true)] {
        let text = String::from_utf8(ask(&spooler, &["--max-age", max, "tape"]).expect(1).out).unwrap();
        assert_eq!(text.contains("\ntape: 1 file waits, the oldest since "), late, "{text}");
    }
    // --quiet prints only if a named drive is late.
    assert!(!ask(&spooler, &["--max-age", "1h", "--quiet"]).expect(1).out.is_empty());
    assert!(ask(&spooler, &["--max-age", "1d", "--quiet", "disk1"]).expect(0).out.is_empty());
    // A file that was not split yet concerns every drive.
    let never = spooler.put("server/a", 5, "x");
    make_older(&spooler, &format!("server/{never}"), 50);
    assert!(!ask(&spooler, &["--max-age", "1d", "--quiet", "disk1"]).expect(1).out.is_empty());
    fs::remove_file(spooler.path("spool/server").join(never)).unwrap();
    assert!(ask(&spooler, &["--quiet", "disk1", "disk2"]).expect(0).out.is_empty());
    assert!(!ask(&spooler, &["--quiet"]).expect(1).out.is_empty(), "the last delivery to tape failed");
}

#[test]
fn status_reports_an_outbox_without_a_configured_drive() {
    let spooler = some_states();
    spooler.edit("[to.disk2]", "[to.dsik2]");
    let now = rows(&spooler, &[]);
    has(&now, "disk2", &[("state", "unknown".into()), ("waiting_files", 3.into())]);
    assert!(now["disk2"]["note"].as_str().unwrap().contains("zsnap-fanout retire"));
    has(&now, "dsik2", &[("state", "away".into()), ("waiting_files", 0.into())]);
    // Without the programs of NNCP the rest is still reported.
    spooler.to("node", "nncp-file:node", "");
    let now = rows(&spooler, &["--nncp-stat-program", "/nowhere/nncp-stat"]);
    assert!(now["node"]["note"].as_str().unwrap().contains("/nowhere/nncp-stat"), "{}", now["node"]);
    // nncp-stat hangs, and a signal ends status and check; below, nothing is reported twice.
    let stat = spooler.path("nncp-stat");
    fs::write(&stat, "#!/bin/sh\nkill -TERM $PPID; sleep 1000\n").unwrap();
    fs::set_permissions(&stat, fs::Permissions::from_mode(0o755)).unwrap();
    let args = ["status", "--nncp-stat-program", stat.to_str().unwrap()];
    for verb in ["status", "check"] {
        let args = [verb, args[1], args[2]];
        assert_eq!(run(&mut spooler.under(&["timeout", "60"], &args), b"").status, 143, "{verb}");
    }
    spooler.to("file", &format!("dir:{}", spooler.path("fanout.toml").display()), "");
    fs::remove_dir_all(spooler.outbox("disk2")).unwrap();
    spooler.fanout(&[]);
    let note = rows(&spooler, &["--nncp-stat-program", "/nowhere/nncp-stat"])["file"]["note"].clone();
    assert_eq!(note.as_str().unwrap().matches("Not a directory").count(), 1, "{note}");
}

#[test]
fn check_reports_errors_that_a_run_would_have() {
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("laptop/a", 1, "x");
    let check = |status: i32, findings: &[&str]| {
        let before = spooler.left();
        let ran = spooler.fanout(&["check", "--quiet"]).expect(status);
        let text = String::from_utf8(ran.out).unwrap();
        for finding in findings {
            assert!(text.contains(finding), "{finding}: {text}");
        }
        assert_eq!(text.lines().count(), findings.len(), "{text}");
        assert_eq!(spooler.left(), before);
    };
    check(0, &[]);
    spooler.fanout(&["check"]).expect(0).prints("ok    spool\nok    disk1\n");
    // These are reported but are not errors.
    spooler.drive("disk2", "");
    fs::remove_file(spooler.path("disk2/.zsnap-drive")).unwrap();
    check(1, &["warn  disk2: away: "]);
    let remedy = "if it is mounted and new: zsnap-fanout init disk2";
    spooler.fanout(&["check"]).prints("has no .zsnap-drive").prints(remedy);
    // A drive of a rotation, which was here before. The new one is reported once, and then daily.
    spooler.fanout(&[]).expect(1).says(remedy);
    spooler.silent_run();
    fs::rename(spooler.path("disk1/.zsnap-drive"), spooler.path("mark")).unwrap();
    check(1, &["warn  disk2: away: "]);
    spooler.fanout(&["check"]).prints("ok    disk1: away: ");
    fs::rename(spooler.path("mark"), spooler.path("disk1/.zsnap-drive")).unwrap();
    fs::create_dir_all(spooler.path("spool/.zsnap-fanout/kept/disk1/2026-11-20")).unwrap();
    check(1, &["disk2: away: ", "kept/disk1 holds kept files, and without keep they stay: remove them"]);
    let good = spooler.config();
    // These are errors.
    spooler.to("node", "nncp-file:node", "nncp-config = '/nowhere.hjson'");
    let program = |name: &str| format!("{name}-program = '/nowhere/{name}'\n");
    spooler.to("exec", "nncp-exec:node:zsnap", "");
    fs::create_dir_all(spooler.path("spool/.zsnap-fanout/out/old")).unwrap();
    spooler.write("fanout.toml", &format!("{}{}", program("nncp-exec"), spooler.config()));
    check(
        78,
        &[
            "disk2: away: ",
            "kept/disk1 holds",
            "exec: ",
            "node: /nowhere.hjson: correct nncp-config: No such file",
            "spool: the drive old has an outbox, but is not in the configuration",
        ],
    );
    fs::remove_dir_all(spooler.path("spool/.zsnap-fanout")).unwrap();
    spooler.write("fanout.toml", &good.replace("disk2'", "disk1'"));
    check(78, &["fail  destinations: the drives disk1 and disk2 are both dir:", "disk2: away: "]);
    spooler.write("fanout.toml", &good.replace("/spool'", "/nowhere'").replace("/spool\"", "/nowhere\""));
    check(78, &["disk2: away: ", "spool: --spool: no directory to take files from: "]);
    spooler.write("fanout.toml", "");
    check(78, &["fail  destinations: none", "spool: no spool: specify --spool"]);
}

#[test]
fn check_reports_a_drive_that_is_not_writable_as_root() {
    needs_root();
    let spooler = Spooler::new();
    let at = spooler.path("disk1");
    fs::create_dir(&at).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&at), b"").expect(0);
    spooler.mark("disk1", "disk1");
    spooler.to("disk1", &format!("dir:{}", at.display()), "");
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(&at), b"").expect(0);
    let ran = spooler.fanout(&["check"]);
    let name = spooler.put("laptop/a", 1, "x");
    let delivery = spooler.fanout(&[]);
    run(Command::new("umount").arg(&at), b"").expect(0);
    ran.expect(78).prints("fail  disk1: ").prints("is not writable: correct its owner or mode: Read-only file system");
    delivery.expect(1).says(&format!("disk1: {name}: ")).says("Read-only file system").says("look at the drive");
    assert_eq!(spooler.waiting("disk1").len(), 1);
}
