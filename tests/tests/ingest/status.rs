//! `status` and `plan` of zsnap-ingest report every state with its remedy and change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use zsnap_message::payload::{Base, Manifest};
use zsnap_tests::scene::{Ran, Scene, manifest, name};
use zsnap_tests::stream::{Stream, Sub};

/// The number of a file that was queued some seconds ago: a time in microseconds since 1970.
fn ago(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (now.as_secs() - seconds) * 1_000_000
}

fn incremental(target: &str, seq: u64, prev: u64) -> Manifest {
    Manifest { prev: Some(prev), base: Base::Prev, ..manifest(target, seq) }
}

/// Delivers a file of the laptop for a command, made at the time of its number.
fn deliver(scene: &Scene, manifest: &Manifest) -> PathBuf {
    let manifest = &Manifest { created: manifest.seq / 1_000_000, ..manifest.clone() };
    let sealed = scene.seal(manifest, Some("laptop"), b"x");
    let target = format!("{}/{}", manifest.host, manifest.dataset);
    scene.deliver("laptop", &name(&target, manifest.seq), &sealed)
}

/// All files and directories with content and change time, except those that the fake zfs writes.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            if path.file_name().unwrap() != "bin" {
                all.extend(everything(&path));
                all.insert(path, (Vec::new(), meta.ctime(), meta.ctime_nsec()));
            }
        } else {
            all.insert(path.clone(), (fs::read(&path).unwrap(), meta.ctime(), meta.ctime_nsec()));
        }
    }
    all
}

/// Runs zsnap-ingest and asserts that it changed nothing and printed nothing but the report.
#[track_caller]
fn ask(scene: &Scene, args: &[&str]) -> Ran {
    scene.zfs_calls();
    let before = everything(&scene.path(""));
    let ran = scene.ingest(args);
    assert!(everything(&scene.path("")) == before, "{args:?} changed something");
    assert!(scene.zfs_calls().iter().all(|call| call[1] == "list"), "{args:?}");
    assert_eq!(ran.err, "", "{args:?}");
    ran
}

/// Returns the rows by their first column, and the values of that column in order.
#[track_caller]
fn rows(scene: &Scene, args: &[&str], status: i32) -> (BTreeMap<String, Value>, Vec<String>) {
    let ran = ask(scene, &[args, &["--json"]].concat()).expect(status);
    let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    let first = if args[0] == "plan" { "file" } else { "dataset" };
    let keys: Vec<String> = rows.iter().map(|row| row[first].as_str().unwrap().to_owned()).collect();
    (keys.iter().cloned().zip(rows).collect(), keys)
}

#[track_caller]
fn row(scene: &Scene, target: &str, status: i32) -> Value {
    let (mut rows, keys) = rows(scene, &["status"], status);
    rows.remove(target).unwrap_or_else(|| panic!("no {target}: {keys:?}"))
}

/// Edits what zsnap-ingest remembers of the laptop's files: it first saw them at `first`.
fn known_since(scene: &Scene, first: u64) {
    let path = scene.path("ingest-state/facts/laptop.json");
    let mut known: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for entry in known["files"].as_object_mut().unwrap().values_mut() {
        entry["first"] = first.into();
    }
    fs::write(path, known.to_string()).unwrap();
}

/// Tests each state that the files of a command can cause.
#[test]
fn status_reports_every_state_of_a_commands_target_with_its_remedy() {
    let assert_state = |scene: &Scene, state: &str, remedy: &str, status: i32| {
        let row = row(scene, "laptop/etc", status);
        assert_eq!(row["state"], state, "{row}");
        match remedy {
            "" => assert!(row["remedy"].is_null(), "{row}"),
            says => assert!(row["remedy"].as_str().unwrap().contains(says), "{row}"),
        }
        row
    };
    let scene = Scene::new();
    let (all, _) = rows(&scene, &["status"], 0);
    assert_eq!(all["laptop/-"]["remedy"], "nothing came yet");
    assert!(all["laptop/-"]["newest"].is_null());
    let (one, two, three) = (ago(300), ago(200), ago(100));
    let full = deliver(&scene, &manifest("laptop/etc", one));
    let row = assert_state(&scene, "new", "", 0);
    assert_eq!((&row["waiting_files"], &row["waiting_age"]), (&1.into(), &0.into()));
    assert_eq!(row["waiting_bytes"], fs::metadata(full).unwrap().len());
    assert!(row["newest"].is_null() && row["age"].is_null());
    scene.ingest(&[]).expect(0);
    let row = assert_state(&scene, "ok", "", 0);
    assert_eq!(row["newest"], one / 1_000_000);
    assert!((300..400).contains(&row["age"].as_u64().unwrap()) && row["waiting_files"] == 0, "{row}");

    // The second of three files is late.
    let last = deliver(&scene, &incremental("laptop/etc", three, two));
    deliver(&scene, &incremental("laptop/etc", three + 1, three));
    scene.ingest(&[]);
    let row = assert_state(&scene, "waiting", &format!("waiting for file {two}"), 0);
    assert_eq!(row["waiting_files"], 2);
    known_since(&scene, ago(8 * 86_400) / 1_000_000);
    let row = assert_state(&scene, "waiting", "look where that was lost", 1);
    assert!(row["waiting_age"].as_u64().unwrap() >= 8 * 86_400);
    fs::remove_file(&last).unwrap();
    fs::remove_file(last.with_file_name(name("laptop/etc", three + 1))).unwrap();

    let unsigned = scene.seal(&manifest("laptop/etc", three), None, b"x");
    let held = scene.deliver("laptop", &name("laptop/etc", three), &unsigned);
    scene.ingest(&[]).expect(1);
    assert_state(&scene, "held", "not signed", 1);
    fs::remove_file(held).unwrap();

    let twin = Manifest { id: "f".repeat(32), ..manifest("laptop/etc", one) };
    let conflict = deliver(&scene, &twin);
    scene.ingest(&[]).expect(1);
    assert_state(&scene, "conflict", "two machines use one identity", 1);
    fs::remove_file(conflict).unwrap();

    let flipped = scene.deliver("laptop", &name("laptop/etc", three), b"rubbish");
    scene.age("laptop");
    scene.ingest(&[]).expect(1);
    let row = assert_state(&scene, "quarantined", "zsnap-ingest retry ", 1);
    assert_eq!((&row["quarantined"], &row["waiting_files"]), (&1.into(), &0.into()));
    let quarantined = scene.path("spool/.zsnap-quarantine/laptop").join(flipped.file_name().unwrap());
    // A second copy, as NNCP names it, belongs to the same target.
    fs::rename(&quarantined, format!("{}.7", quarantined.display())).unwrap();
    assert_state(&scene, "quarantined", "etc.7 is in quarantine: nobody knows why", 1);
    fs::remove_dir_all(scene.path("spool/.zsnap-quarantine")).unwrap();

    scene.edit("ingest.toml", "cat >> ", "exit 7; cat >> ");
    let next = deliver(&scene, &incremental("laptop/etc", two, one));
    scene.ingest(&[]).expect(69);
    scene.ingest(&[]).expect(0);
    let row = assert_state(&scene, "failed", "for 2 times: sh for laptop/etc: exit status: 7", 1);
    assert_eq!(row["attempts"], 2);

    let journal = scene.path("target/../.zsnap/target.json");
    let text = fs::read_to_string(&journal).unwrap();
    let mut interrupted: Value = serde_json::from_str(&text).unwrap();
    interrupted["laptop/etc"]["before"] = interrupted["laptop/etc"].clone();
    interrupted["laptop/etc"]["applying"] = true.into();
    interrupted["laptop/etc"]["seq"] = two.into();
    fs::write(&journal, interrupted.to_string()).unwrap();
    let row = assert_state(&scene, "broken", "zsnap-ingest forget laptop/etc --applied", 1);
    assert_eq!(row["newest"], one / 1_000_000, "a file that may have been applied counts as applied");
    fs::write(&journal, text).unwrap();

    fs::rename(scene.path("target"), scene.path("elsewhere")).unwrap();
    assert_state(&scene, "away", "/target", 0);
    fs::rename(scene.path("elsewhere"), scene.path("target")).unwrap();
    // The incoming directory may be a drive.
    fs::rename(scene.path("spool"), scene.path("elsewhere")).unwrap();
    let row = assert_state(&scene, "away", "incoming directory is absent", 0);
    assert_eq!(row["waiting_files"], 1);
    fs::rename(scene.path("elsewhere"), scene.path("spool")).unwrap();
    fs::remove_file(next).unwrap();
    assert_state(&scene, "ok", "", 0);
}

/// A scene with a pool on which the laptop's dataset has two snapshots, and the queue file of a third one.
fn with_chain() -> (Scene, PathBuf) {
    let scene = Scene::with_pool();
    let created = ago(1000) / 1_000_000;
    let sub = |sub: Sub| Stream::plain(sub.created(created)).bytes();
    scene.queue(&["laptop/tank/home"], &sub(Sub::full("tank/home@s1", 1))).expect(0);
    scene.queue(&["laptop/tank/home"], &sub(Sub::increment("tank/home@s2", 1, 2))).expect(0);
    scene.ingest(&[]).expect(0);
    scene.queue(&["laptop/tank/home"], &sub(Sub::increment("tank/home@s3", 2, 3))).expect(0);
    let third = scene.spooled("laptop")[0].clone();
    (scene, third)
}

/// The guid of the pool, which is the name of its state directory.
fn pool_of(scene: &Scene) -> String {
    let path = String::from_utf8(scene.ingest(&["status", "--needed-file"]).expect(0).out).unwrap();
    Path::new(&path).parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn status_reads_the_newest_snapshot_from_the_pool() {
    let (scene, _) = with_chain();
    let row = |status: i32| row(&scene, "laptop/tank/home", status);
    let fourth = Stream::plain(Sub::increment("tank/home@s4", 3, 4).created(ago(900) / 1_000_000)).bytes();
    let new = row(0);
    assert_eq!((&new["state"], &new["snapshot"]), (&"new".into(), &"s2".into()));
    assert!((1000..1100).contains(&new["age"].as_u64().unwrap()), "{new}");
    // The pool also has a host that is not configured, and a dataset whose journal was lost.
    scene.zfs(&["create", "backup/hosts/old"]).expect(0);
    scene.zfs(&["create", "backup/hosts/old/tank"]).expect(0);
    scene.zfs(&["snapshot", "backup/hosts/old/tank@last"]).expect(0);
    fs::remove_dir_all(scene.path("ingest-state").join(pool_of(&scene)).join("journal")).unwrap();
    let (all, _) = rows(&scene, &["status"], 0);
    assert_eq!((&all["old/tank"]["state"], &all["old/tank"]["snapshot"]), (&"ok".into(), &"last".into()));
    assert_eq!(all["laptop/tank/home"]["snapshot"], "s2");
    // Only the sender can read the name of this dataset until a run has opened the file.
    scene.queue(&["--opaque-names", "--opaque", "--full", "laptop/secret"], b"x").expect(0);
    let (mut all, keys) = rows(&scene, &["status"], 0);
    assert!(keys.iter().any(|key| key.starts_with("laptop/~") && all[key]["state"] == "new"), "{keys:?}");
    scene.ingest(&[]).expect(1);
    all = rows(&scene, &["status"], 1).0;
    assert_eq!(all["laptop/secret"]["state"], "held");
    let hidden = scene.spooled("laptop").into_iter().find(|path| path.to_string_lossy().contains('~')).unwrap();
    fs::remove_file(hidden).unwrap();
    scene.queue(&["laptop/tank/home"], &fourth).expect(0);
    let third = scene.spooled("laptop")[0].clone();
    // The next run writes the journal again.
    scene.zfs(&["write", "backup/hosts/laptop/tank/home"]).expect(0);
    scene.ingest(&[]);
    let diverged = row(1);
    assert_eq!((&diverged["state"], &diverged["waiting_files"]), (&"diverged".into(), &1.into()));
    assert!(diverged["remedy"].as_str().unwrap().contains("zfs rollback"), "{diverged}");
    // `status` does not write the journal if it is lost once more.
    let journals = scene.path("ingest-state").join(pool_of(&scene)).join("journal");
    fs::rename(&journals, scene.path("lost")).unwrap();
    assert_eq!(row(1)["remedy"], diverged["remedy"]);
    fs::rename(scene.path("lost"), journals).unwrap();
    fs::remove_file(third).unwrap();
    scene.zfs(&["destroy", "-r", "backup/hosts/laptop/tank/home"]).expect(0);
    let gone = row(0);
    assert_eq!(gone["state"], "gone");
    assert!(gone["newest"].is_null() && gone["remedy"].as_str().unwrap().ends_with("forget laptop/tank/home"));
    scene.ingest(&["forget", "laptop/tank/home"]).expect(0);
    let (_, keys) = rows(&scene, &["status"], 0);
    assert_eq!(keys, ["laptop/-", "old/tank", "other/-"]);
}

#[test]
fn a_pool_that_is_away_is_not_an_error() {
    let (scene, _) = with_chain();
    fs::rename(scene.path("bin/pools"), scene.path("bin/unplugged")).unwrap();
    let (all, keys) = rows(&scene, &["status"], 0);
    assert_eq!(keys, ["laptop/tank/home", "other/-"]);
    for row in all.values() {
        assert_eq!(row["state"], "away", "{row}");
    }
    assert_eq!(all["laptop/tank/home"]["waiting_files"], 1);
    rows(&scene, &["status", "--max-age", "1d"], 0);
    let (plan, _) = rows(&scene, &["plan"], 0);
    assert!(plan.values().all(|row| row["verdict"] == "away" && row["why"] == "backup/hosts is absent"), "{plan:?}");
    needed_file_fails(&scene);
    fs::rename(scene.path("bin/unplugged"), scene.path("bin/pools")).unwrap();
    let path = String::from_utf8(ask(&scene, &["status", "--needed-file"]).expect(0).out).unwrap();
    let text = fs::read_to_string(path.strip_suffix('\n').unwrap()).unwrap();
    assert!(text.starts_with("zsnap-needed 1 "), "{text}");
    fs::remove_file(path.trim_end()).unwrap();
    needed_file_fails(&scene);
}

/// Asserts that there is no file of needed guids to name, which one line reports.
fn needed_file_fails(scene: &Scene) {
    let ran = scene.ingest(&["status", "--needed-file"]).expect(1);
    assert!(ran.out.is_empty() && ran.err.lines().count() == 1, "{}", ran.err);
}

#[test]
fn max_age_of_status_limits_the_age_of_each_target() {
    let scene = Scene::new();
    let status = |args: &[&str], status: i32| ask(&scene, &[&["status"], args].concat()).expect(status);
    let is_late = |args: &[&str], late: bool| {
        let quiet = status(&[args, &["--quiet"]].concat(), i32::from(late));
        assert_eq!(quiet.out.is_empty(), !late, "{args:?}");
    };
    deliver(&scene, &manifest("laptop/etc", ago(3600)));
    scene.ingest(&[]).expect(0);
    is_late(&[], false);
    is_late(&["--max-age", "2h"], false);
    is_late(&["--max-age", "30min"], true);
    is_late(&["--max-age", "30min", "other"], false);
    is_late(&["--max-age", "2h", "laptop/etc"], false);
    is_late(&["--max-age", "2h", "laptop"], false);
    // A target that is named in the arguments is expected to exist.
    is_late(&["--max-age", "2h", "laptop/etc", "laptop/tar"], true);
    is_late(&["laptop/tar"], false);
    is_late(&["--max-age", "2h", "nobody"], true);
    scene.ingest(&["status", "laptop/tar/"]).expect(2).says("empty component");
}

/// Without the option the configuration of each host decides.
#[test]
fn max_age_of_a_hosts_table_limits_the_age_of_its_targets() {
    let scene = Scene::new();
    deliver(&scene, &manifest("laptop/etc", ago(3600)));
    scene.ingest(&[]).expect(0);
    let late = |status: i32| rows(&scene, &["status"], status).0;
    late(0);
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\nmax-age = \"30min\"\n");
    let all = late(1);
    let remedy = all["laptop/etc"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("see whether laptop still sends it"), "{remedy}");
    assert_eq!(all["laptop/etc"]["note"], all["laptop/etc"]["remedy"]);
    rows(&scene, &["status", "--max-age", "2h"], 0);
    scene.edit("ingest.toml", "\"30min\"", "\"2h\"");
    late(0);
    // A file that has not been applied for longer than max-age is late.
    deliver(&scene, &incremental("laptop/etc", ago(60), ago(70)));
    scene.ingest(&[]);
    late(0);
    known_since(&scene, ago(3 * 3600) / 1_000_000);
    late(1);
}

#[test]
fn status_prints_a_table_and_prometheus_metrics() {
    let (scene, _) = with_chain();
    deliver(&scene, &incremental("laptop/etc", ago(1), ago(2)));
    scene.ingest(&[]);
    let text = String::from_utf8(ask(&scene, &["status"]).expect(0).out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["DATASET", "STATE", "NEWEST", "WAITING", "BYTES", "AGE", "QUARANTINED"]);
    assert_eq!(words(1)[..4], ["laptop/etc", "waiting", "-", "1"], "{text}");
    assert_eq!(words(2)[..3], ["laptop/tank/home", "ok", "16m"], "{text}");
    assert_eq!(words(2)[3..], ["ago", "0", "0", "B", "-", "0"], "{text}");
    assert!(lines[4].starts_with("laptop/etc: waiting for file "), "{text}");
    assert!(lines[5].starts_with("other/-: nothing came ") && lines.len() == 6, "{text}");
    let text = String::from_utf8(ask(&scene, &["status", "--prometheus"]).expect(0).out).unwrap();
    for line in text.lines() {
        if line.starts_with("# HELP zsnap_ingest_") || line.starts_with("zsnap_ingest_last_success_timestamp_seconds ")
        {
            continue;
        }
        let (name, rest) = line.strip_prefix("# TYPE ").unwrap_or(line).split_once(['{', ' ']).unwrap();
        assert!(
            name.starts_with("zsnap_ingest_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{line}"
        );
        match rest.split_once("} ") {
            Some((labels, number)) => {
                assert!(labels.starts_with("dataset=\"") && labels.ends_with('"'), "{line}");
                number.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
            }
            None => assert!(line.starts_with("# TYPE ") && rest == "gauge", "{line}"),
        }
    }
    for line in [
        "zsnap_ingest_waiting_files{dataset=\"laptop/etc\"} 1",
        "zsnap_ingest_state{dataset=\"laptop/etc\",state=\"waiting\"} 1",
        "zsnap_ingest_state{dataset=\"laptop/etc\",state=\"ok\"} 0",
        "zsnap_ingest_quarantined_files{dataset=\"other/-\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.contains("zsnap_ingest_newest_timestamp_seconds{dataset=\"laptop/tank/home\"} "), "{text}");
    assert!(!text.contains("s3"), "{text}");
    scene.ingest(&["status", "--json", "--prometheus"]).expect(2);
    scene.ingest(&["status", "--needed-file", "--quiet"]).expect(2);
    // Only the named targets are listed.
    let (_, keys) = rows(&scene, &["status", "other", "laptop/etc"], 0);
    assert_eq!(keys, ["laptop/etc", "other/-"]);
}

/// `run` does what `plan` reported, in that order.
#[test]
fn plan_reports_what_run_does_next() {
    let (scene, third) = with_chain();
    fs::remove_file(third).unwrap();
    let sub = |sub: Sub| Stream::plain(sub.created(ago(1000) / 1_000_000)).bytes();
    // A child before its parent, a chain, a file behind a lost one, a file without a receiver, and rubbish.
    for (target, sent) in [
        ("laptop/tank/new/child", sub(Sub::full("tank/new/child@s1", 31))),
        ("laptop/tank/new", sub(Sub::full("tank/new@s1", 21))),
        ("laptop/tank/new", sub(Sub::increment("tank/new@s2", 21, 22))),
        ("laptop/tank/new", sub(Sub::increment("tank/new@s3", 22, 23))),
        ("laptop/tank/home", sub(Sub::increment("tank/home@s4", 3, 4))),
        ("laptop/tank/home", sub(Sub::increment("tank/home@s5", 4, 5))),
    ] {
        scene.queue(&[target], &sent).expect(0);
    }
    // By its name this file would come last.
    let full = scene.spooled("laptop").into_iter().find(|path| path.to_string_lossy().ends_with("@tank@new")).unwrap();
    fs::rename(&full, full.with_file_name(name("laptop/tank/new", ago(0) + 9_000_000))).unwrap();
    deliver(&scene, &manifest("laptop/nobody", ago(10)));
    let rubbish = name("laptop/tank/zz", ago(10));
    scene.deliver("laptop", &rubbish, b"rubbish");
    scene.deliver("other", "notes.txt", b"");
    scene.age("laptop");
    let (plan, keys) = rows(&scene, &["plan"], 1);
    let words: Vec<(&str, &str)> = keys
        .iter()
        .map(|key| (key.rsplit_once("_laptop@").unwrap().1, plan[key]["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(
        words,
        [
            ("nobody", "held"),
            ("tank@home", "waiting"),
            ("tank@home", "waiting"),
            ("tank@new", "ready"),
            ("tank@new", "ready"),
            ("tank@new", "ready"),
            ("tank@new@child", "ready"),
            ("tank@zz", "refused"),
        ]
    );
    let of = |n: usize| &plan[&keys[n]];
    assert_eq!(of(0)["why"], "no command receives laptop/nobody; add a [[command]] that matches it");
    assert!(of(1)["behind"].is_null() && of(1)["why"].as_str().unwrap().starts_with("for "), "{}", of(1));
    assert_eq!(format!("laptop/{}", of(2)["behind"].as_str().unwrap()), keys[1]);
    assert_eq!(of(3)["dataset"], "laptop/tank/new");
    assert!(keys[4] < keys[5] && keys[5] < keys[3], "{keys:?}");
    assert!(of(7)["dataset"].is_null() && of(7)["why"].is_string());
    assert_eq!(keys[7], format!("laptop/{rubbish}"));
    let size = fs::metadata(scene.path("spool").join(&keys[3])).unwrap().len();
    assert_eq!(of(3)["bytes"], size);
    assert!(of(3)["since"].as_u64().unwrap() + 60 > ago(0) / 1_000_000);
    rows(&scene, &["plan", "other"], 0);
    let table = String::from_utf8(ask(&scene, &["plan"]).expect(1).out).unwrap();
    assert!(table.lines().any(|line| line == format!("{}: {}", keys[0], of(0)["why"].as_str().unwrap())), "{table}");

    scene.ingest(&[]).expect(1);
    let received: Vec<String> = scene
        .zfs_calls()
        .into_iter()
        .filter(|call| call[1] == "receive")
        .map(|call| call.last().unwrap().clone())
        .collect();
    assert_eq!(received.len(), 4);
    let planned: Vec<String> = (3..7).map(|n| of(n)["dataset"].as_str().unwrap().to_owned()).collect();
    for (received, planned) in received.iter().zip(planned) {
        assert!(received.starts_with(&format!("backup/hosts/{planned}@")), "{received}");
    }
    assert_eq!(scene.quarantined("laptop").len(), 2);
    let (_, left) = rows(&scene, &["plan"], 1);
    assert_eq!(left, [keys[0].clone(), keys[1].clone(), keys[2].clone()]);
}

/// What `status` shows for each word of `plan`, from best to worst.
const STATES: [(&str, &str); 13] = [
    ("ready", "new"),
    ("there", "new"),
    ("stale", "new"),
    ("superseded", "new"),
    ("skipped", "new"),
    ("away", "away"),
    ("waiting", "waiting"),
    ("refused", "quarantined"),
    ("held", "held"),
    ("diverged", "diverged"),
    ("conflict", "conflict"),
    ("broken", "broken"),
    ("failed", "failed"),
];

/// Returns the words of `plan` by file, after it has seen that `status` says of each target what `plan` says of the
/// worst of its files, with the same reason.
#[track_caller]
fn agreed(scene: &Scene) -> BTreeMap<String, &'static str> {
    let (plan, _) = rows(scene, &["plan"], 1);
    let (status, _) = rows(scene, &["status"], 1);
    let rank = |word: &str| STATES.iter().position(|(of_plan, _)| *of_plan == word).unwrap();
    let mut worst: BTreeMap<String, (usize, &Value)> = BTreeMap::new();
    let mut words = BTreeMap::new();
    for (file, row) in &plan {
        let named = file.split_once("_laptop@").map(|(_, dataset)| format!("laptop/{}", dataset.replace('@', "/")));
        let dataset = row["dataset"].as_str().map_or_else(|| named.unwrap(), str::to_owned);
        let rank = rank(row["verdict"].as_str().unwrap());
        words.insert(file.clone(), STATES[rank].0);
        let known = worst.entry(dataset).or_insert((rank, row));
        if STATES[rank].1 != STATES[known.0].1 && rank > known.0 {
            *known = (rank, row);
        }
    }
    for (dataset, (rank, row)) in worst {
        let shown = &status[&dataset];
        assert_eq!(shown["state"], STATES[rank].1, "{dataset}: {row} {shown}");
        match shown["remedy"].as_str() {
            // `status` decrypts nothing, so it does not know yet what is damaged.
            None => assert!(row["why"].is_null() || STATES[rank].0 == "skipped", "{dataset}: {row} {shown}"),
            Some(remedy) => assert!(remedy.contains(row["why"].as_str().unwrap()), "{dataset}: {row} {shown}"),
        }
    }
    words
}

/// Every standing of a file, seen by `status`, by `plan` and by a run.
#[test]
fn run_plan_and_status_agree() {
    let scene = Scene::with_pool();
    let root = scene.path("").display().to_string();
    let config = fs::read_to_string(scene.path("ingest.toml")).unwrap();
    let command = |name: &str, script: &str| {
        fs::create_dir(scene.path(name)).unwrap();
        format!(
            "[[command]]\nmatch = \"laptop/{name}/*\"\nrun = [\"/bin/sh\", \"-c\", \"{script}\"]\ntarget = \"{root}{name}\"\n"
        )
    };
    scene.write("ingest.toml", &(config + &command("c", "cat > /dev/null") + &command("fail", "exit 7")));
    let start = ago(100_000);
    let of = |n: u64| start + n;
    let full = |what: &str, n: u64| deliver(&scene, &manifest(&format!("laptop/c/{what}"), of(n)));
    let next =
        |what: &str, n: u64, prev: u64| deliver(&scene, &incremental(&format!("laptop/c/{what}"), of(n), of(prev)));
    let zfs = |dataset: &str, sub: Sub| {
        let stream = Stream::plain(sub.created(ago(1000) / 1_000_000)).bytes();
        scene.queue(&["--opaque-names", &format!("laptop/tank/{dataset}")], &stream).expect(0);
        scene.spooled("laptop").into_iter().find(|path| path.to_string_lossy().contains('~')).unwrap()
    };
    // What was received before.
    let applied = [full("there", 1), full("stale", 1), full("conflict", 1), full("broken", 1)];
    let again: Vec<(PathBuf, Vec<u8>)> =
        applied[..2].iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    next("stale", 2, 1);
    next("broken", 2, 1);
    let gone = zfs("gone", Sub::full("tank/gone@s1", 11));
    let replay = (gone.clone(), fs::read(&gone).unwrap());
    assert_eq!(row(&scene, "laptop/c/there", 0)["state"], "new", "nothing was read yet");
    scene.ingest(&[]).expect(0);
    zfs("diverged", Sub::full("tank/diverged@s1", 1));
    scene.ingest(&[]).expect(0);
    zfs("diverged", Sub::increment("tank/diverged@s2", 1, 2));
    scene.ingest(&[]).expect(0);
    assert!(scene.spooled("laptop").is_empty());
    // Another dataset of that name: the old full stream contradicts it, and is a replay once it is gone.
    let old = "backup/hosts/laptop/tank/gone";
    for args in [&["destroy", "-r", old][..], &["create", old], &["snapshot", "backup/hosts/laptop/tank/gone@new"]] {
        scene.zfs(args).expect(0);
    }

    // One file or more for each standing. A run reads them while the target of most is away.
    fs::rename(scene.path("c"), scene.path("elsewhere")).unwrap();
    zfs("diverged", Sub::increment("tank/diverged@s3", 1, 3));
    for (path, bytes) in again.iter().chain([&replay]) {
        fs::write(path, bytes).unwrap();
    }
    deliver(&scene, &Manifest { id: "f".repeat(32), ..manifest("laptop/c/conflict", of(1)) });
    next("broken", 3, 1);
    let ready = full("ready", 1);
    fs::copy(&ready, format!("{}.0", ready.display())).unwrap();
    next("waiting", 2, 1);
    next("waiting", 3, 2);
    scene.deliver("laptop", &name("laptop/c/held", of(1)), &scene.seal(&manifest("laptop/c/held", of(1)), None, b"x"));
    deliver(&scene, &manifest("laptop/nobody", of(1)));
    let arriving = scene.seal(&manifest("laptop/c/arriving", of(1)), Some("laptop"), b"hello");
    scene.deliver("laptop", &name("laptop/c/arriving", of(1)), &arriving[..arriving.len() - 40]);
    deliver(&scene, &manifest("laptop/fail/etc", of(1)));
    scene.ingest(&[]).expect(69);
    let count = |words: &BTreeMap<String, &'static str>| {
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        words.values().for_each(|word| *counts.entry(word).or_default() += 1);
        counts
    };
    let away = count(&agreed(&scene));
    assert_eq!(
        away,
        BTreeMap::from([("away", 8), ("conflict", 1), ("diverged", 1), ("failed", 1), ("held", 2), ("skipped", 1)])
    );

    // Everything is here again.
    scene.zfs(&["destroy", "-r", old]).expect(0);
    fs::rename(scene.path("elsewhere"), scene.path("c")).unwrap();
    let words = agreed(&scene);
    let all: BTreeMap<&str, usize> = STATES.iter().map(|(word, _)| (*word, 1)).filter(|(w, _)| *w != "away").collect();
    assert_eq!(
        count(&words),
        BTreeMap::from([("held", 2), ("waiting", 2)]).into_iter().fold(all, |mut all, (word, n)| {
            all.insert(word, n);
            all
        })
    );
    let (plan, _) = rows(&scene, &["plan"], 1);
    let ran = scene.ingest(&[]);
    for (file, word) in &words {
        let why = plan[file]["why"].as_str().unwrap_or_default();
        let told = ran.err.contains(why);
        let stays = scene.path("spool").join(file).exists();
        match *word {
            "ready" | "there" | "stale" | "superseded" => assert!(!stays, "{file}: {word}"),
            "refused" => assert!(!stays && told && scene.quarantined("laptop").len() == 2, "{file}: {}", ran.err),
            "waiting" => assert!(stays && (told || !plan[file]["behind"].is_null()), "{file}: {}", ran.err),
            "conflict" | "broken" => assert!(stays && told, "{file}: {word}: {}", ran.err),
            // Reported by the run before.
            "held" | "diverged" | "failed" | "skipped" => assert!(stays && !told, "{file}: {word}: {}", ran.err),
            word => panic!("{file}: {word}"),
        }
    }
    let left: BTreeMap<String, &str> = words
        .into_iter()
        .filter(|(_, word)| !["ready", "there", "stale", "superseded", "refused"].contains(word))
        .collect();
    assert_eq!(agreed(&scene), left);
}
