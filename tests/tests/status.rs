//! What the operator sees: `status` and `plan` of zsnap-ingest tell every state with its remedy, and
//! change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use zsnap_message::payload::{Base, Manifest};
use zsnap_tests::scene::{Ran, Scene, manifest, name};
use zsnap_tests::stream::{Stream, Sub};

/// A file's number: that many seconds ago, in microseconds since 1970.
fn ago(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (now.as_secs() - seconds) * 1_000_000
}

fn increment(target: &str, seq: u64, prev: u64) -> Manifest {
    Manifest { prev: Some(prev), base: Base::Prev, ..manifest(target, seq) }
}

/// Delivers a file of the laptop for a command, made when its number says.
fn deliver(scene: &Scene, manifest: &Manifest) -> PathBuf {
    let manifest = &Manifest { created: manifest.seq / 1_000_000, ..manifest.clone() };
    let sealed = scene.seal(manifest, Some("laptop"), b"x");
    let target = format!("{}/{}", manifest.host, manifest.dataset);
    scene.deliver("laptop", &name(&target, manifest.seq), &sealed)
}

/// All files with what is in them, and when they were changed: without what the fake zfs notes.
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

/// Runs it, and sees that nothing was changed and nothing said beside the report.
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

/// The rows, by their first column, and the order of these.
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

/// Edits what is known of the laptop's files: they are here since `first`.
fn known_since(scene: &Scene, first: u64) {
    let path = scene.path("ingest-state/facts/laptop.json");
    let mut known: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for entry in known["files"].as_object_mut().unwrap().values_mut() {
        entry["first"] = first.into();
    }
    fs::write(path, known.to_string()).unwrap();
}

/// Each state that the files of a command can bring about.
#[test]
fn every_state_is_told_with_its_remedy() {
    let told = |scene: &Scene, state: &str, remedy: &str, status: i32| {
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
    let row = told(&scene, "new", "", 0);
    assert_eq!((&row["waiting_files"], &row["waiting_age"]), (&1.into(), &0.into()));
    assert_eq!(row["waiting_bytes"], fs::metadata(full).unwrap().len());
    assert!(row["newest"].is_null() && row["age"].is_null());
    scene.ingest(&[]).expect(0);
    let row = told(&scene, "ok", "", 0);
    assert_eq!(row["newest"], one / 1_000_000);
    assert!((300..400).contains(&row["age"].as_u64().unwrap()) && row["waiting_files"] == 0, "{row}");

    // The second of three is late.
    let last = deliver(&scene, &increment("laptop/etc", three, two));
    deliver(&scene, &increment("laptop/etc", three + 1, three));
    scene.ingest(&[]);
    let row = told(&scene, "waiting", &format!("waiting for file {two}"), 0);
    assert_eq!(row["waiting_files"], 2);
    known_since(&scene, ago(8 * 86_400) / 1_000_000);
    let row = told(&scene, "waiting", "look where that was lost", 1);
    assert!(row["waiting_age"].as_u64().unwrap() >= 8 * 86_400);
    fs::remove_file(&last).unwrap();
    fs::remove_file(last.with_file_name(name("laptop/etc", three + 1))).unwrap();

    let unsigned = scene.seal(&manifest("laptop/etc", three), None, b"x");
    let held = scene.deliver("laptop", &name("laptop/etc", three), &unsigned);
    scene.ingest(&[]).expect(1);
    told(&scene, "held", "not signed", 1);
    fs::remove_file(held).unwrap();

    let twin = Manifest { id: "f".repeat(32), ..manifest("laptop/etc", one) };
    let conflict = deliver(&scene, &twin);
    scene.ingest(&[]).expect(1);
    told(&scene, "conflict", "two machines use one identity", 1);
    fs::remove_file(conflict).unwrap();

    let flipped = scene.deliver("laptop", &name("laptop/etc", three), b"rubbish");
    scene.age("laptop");
    scene.ingest(&[]).expect(1);
    let row = told(&scene, "quarantined", "zsnap-ingest retry ", 1);
    assert_eq!((&row["quarantined"], &row["waiting_files"]), (&1.into(), &0.into()));
    let put = scene.path("spool/.zsnap-quarantine/laptop").join(flipped.file_name().unwrap());
    // A copy that NNCP has named, of the same target.
    fs::rename(&put, put.with_extension(format!("{}.7", put.extension().unwrap().display()))).unwrap();
    told(&scene, "quarantined", "etc.7 is in quarantine: nobody knows why", 1);
    fs::remove_dir_all(scene.path("spool/.zsnap-quarantine")).unwrap();

    scene.edit("ingest.toml", "cat >> ", "exit 7; cat >> ");
    let next = deliver(&scene, &increment("laptop/etc", two, one));
    scene.ingest(&[]).expect(69);
    scene.ingest(&[]).expect(0);
    let row = told(&scene, "failed", "for 2 times: sh for laptop/etc: exit status: 7", 1);
    assert_eq!(row["attempts"], 2);

    let journal = scene.path("target/../.zsnap/target.json");
    let text = fs::read_to_string(&journal).unwrap();
    let mut interrupted: Value = serde_json::from_str(&text).unwrap();
    interrupted["laptop/etc"]["before"] = interrupted["laptop/etc"].clone();
    interrupted["laptop/etc"]["applying"] = true.into();
    interrupted["laptop/etc"]["seq"] = two.into();
    fs::write(&journal, interrupted.to_string()).unwrap();
    let row = told(&scene, "broken", "zsnap-ingest adopt laptop/etc --applied", 1);
    assert_eq!(row["newest"], one / 1_000_000, "what may have been applied does not count");
    fs::write(&journal, text).unwrap();

    fs::rename(scene.path("target"), scene.path("elsewhere")).unwrap();
    told(&scene, "away", "/target", 0);
    fs::rename(scene.path("elsewhere"), scene.path("target")).unwrap();
    // The incoming directory is a drive.
    fs::rename(scene.path("spool"), scene.path("elsewhere")).unwrap();
    let row = told(&scene, "away", "incoming directory is absent", 0);
    assert_eq!(row["waiting_files"], 1);
    fs::rename(scene.path("elsewhere"), scene.path("spool")).unwrap();
    fs::remove_file(next).unwrap();
    told(&scene, "ok", "", 0);
}

/// A pool on which the laptop's dataset has two snapshots, and the file of the third.
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

/// The guid of the pool, as the state's directory is called.
fn pool_of(scene: &Scene) -> String {
    let path = String::from_utf8(scene.ingest(&["status", "--needed-file"]).expect(0).out).unwrap();
    Path::new(&path).parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn the_pool_tells_what_is_newest() {
    let (scene, _) = with_chain();
    let row = |status: i32| row(&scene, "laptop/tank/home", status);
    let fourth = Stream::plain(Sub::increment("tank/home@s4", 3, 4).created(ago(900) / 1_000_000)).bytes();
    let new = row(0);
    assert_eq!((&new["state"], &new["snapshot"]), (&"new".into(), &"s2".into()));
    assert!((1000..1100).contains(&new["age"].as_u64().unwrap()), "{new}");
    // A host that nobody configured, and a journal that was lost: the pool has them.
    scene.zfs(&["create", "backup/hosts/old"]).expect(0);
    scene.zfs(&["create", "backup/hosts/old/tank"]).expect(0);
    scene.zfs(&["snapshot", "backup/hosts/old/tank@last"]).expect(0);
    fs::remove_dir_all(scene.path("ingest-state").join(pool_of(&scene)).join("journal")).unwrap();
    let (all, _) = rows(&scene, &["status"], 0);
    assert_eq!((&all["old/tank"]["state"], &all["old/tank"]["snapshot"]), (&"ok".into(), &"last".into()));
    assert_eq!(all["laptop/tank/home"]["snapshot"], "s2");
    // One whose name only the sender can read, until a run has looked at it.
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
    // The journal comes back with the next run.
    scene.zfs(&["write", "backup/hosts/laptop/tank/home"]).expect(0);
    scene.ingest(&[]);
    let diverged = row(1);
    assert_eq!((&diverged["state"], &diverged["waiting_files"]), (&"diverged".into(), &1.into()));
    assert!(diverged["remedy"].as_str().unwrap().contains("zfs rollback"), "{diverged}");
    // It is not written by us, if it is lost once more.
    let journals = scene.path("ingest-state").join(pool_of(&scene)).join("journal");
    fs::rename(&journals, scene.path("lost")).unwrap();
    assert_eq!(row(1)["remedy"], diverged["remedy"]);
    fs::rename(scene.path("lost"), journals).unwrap();
    fs::remove_file(third).unwrap();
    scene.zfs(&["destroy", "-r", "backup/hosts/laptop/tank/home"]).expect(0);
    let gone = row(0);
    assert_eq!(gone["state"], "gone");
    assert!(gone["newest"].is_null() && gone["remedy"].as_str().unwrap().ends_with("adopt laptop/tank/home"));
    scene.ingest(&["adopt", "laptop/tank/home"]).expect(0);
    let (_, keys) = rows(&scene, &["status"], 0);
    assert_eq!(keys, ["laptop/-", "old/tank", "other/-"]);
}

#[test]
fn a_pool_that_is_away_is_no_trouble() {
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
    assert!(plan.values().all(|row| row["verdict"] == "later" && row["why"] == "its pool is absent"), "{plan:?}");
    ask_fails(&scene);
    fs::rename(scene.path("bin/unplugged"), scene.path("bin/pools")).unwrap();
    let path = String::from_utf8(ask(&scene, &["status", "--needed-file"]).expect(0).out).unwrap();
    let text = fs::read_to_string(path.strip_suffix('\n').unwrap()).unwrap();
    assert!(text.starts_with("zsnap-needed 1 "), "{text}");
    fs::remove_file(path.trim_end()).unwrap();
    ask_fails(&scene);
}

fn ask_fails(scene: &Scene) {
    let ran = scene.ingest(&["status", "--needed-file"]).expect(1);
    assert!(ran.out.is_empty() && ran.err.lines().count() == 1, "{}", ran.err);
}

#[test]
fn age_counts() {
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
    is_late(&["--max-age", "30m"], true);
    is_late(&["--max-age", "30m", "other"], false);
    is_late(&["--max-age", "2h", "laptop/etc"], false);
    is_late(&["--max-age", "2h", "laptop"], false);
    // Who asks for one expects it.
    is_late(&["--max-age", "2h", "laptop/etc", "laptop/tar"], true);
    is_late(&["laptop/tar"], false);
    is_late(&["--max-age", "2h", "nobody"], true);
    scene.ingest(&["status", "laptop/tar/"]).expect(2).says("empty component");
}

/// Without the option the configuration counts, for each host its own.
#[test]
fn age_counts_as_the_hosts_table_says() {
    let scene = Scene::new();
    deliver(&scene, &manifest("laptop/etc", ago(3600)));
    scene.ingest(&[]).expect(0);
    let late = |status: i32| rows(&scene, &["status"], status).0;
    late(0);
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\nmax-age = \"30m\"\n");
    let all = late(1);
    let remedy = all["laptop/etc"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("see whether laptop still sends it"), "{remedy}");
    assert_eq!(all["laptop/etc"]["note"], all["laptop/etc"]["remedy"]);
    rows(&scene, &["status", "--max-age", "2h"], 0);
    scene.edit("ingest.toml", "\"30m\"", "\"2h\"");
    late(0);
    // A file that is not applied for that long.
    deliver(&scene, &increment("laptop/etc", ago(60), ago(70)));
    scene.ingest(&[]);
    late(0);
    known_since(&scene, ago(3 * 3600) / 1_000_000);
    late(1);
}

#[test]
fn the_forms_are_for_people_programs_and_prometheus() {
    let (scene, _) = with_chain();
    deliver(&scene, &increment("laptop/etc", ago(1), ago(2)));
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
    // Only of some.
    let (_, keys) = rows(&scene, &["status", "other", "laptop/etc"], 0);
    assert_eq!(keys, ["laptop/etc", "other/-"]);
}

/// What `plan` says is what `run` does then, in that order.
#[test]
fn plan_tells_what_run_would_do() {
    let (scene, third) = with_chain();
    fs::remove_file(third).unwrap();
    let sub = |sub: Sub| Stream::plain(sub.created(ago(1000) / 1_000_000)).bytes();
    // A child before its parent, a chain, one behind a lost one, one without any receiver, rubbish.
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
    // By its name it would come last.
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
