//! Upgrades of zsnap-ingest: incoming directories, states, journals and quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zsnap_common::names::digest::sha256_hex;
use zsnap_tests::scene::Ran;
use zsnap_tests::spooler;

use super::tree::{Tree, VERSIONS, rows, stream};

fn ingest(tree: &Tree, args: &[&str], input: &[u8]) -> Ran {
    let zfs = tree.zfs_options();
    let zfs: Vec<&str> = zfs.iter().map(String::as_str).collect();
    tree.run("zsnap-ingest", "ingest.toml", &[&zfs[..], args].concat(), input)
}

/// Returns the state directory of the pool.
fn of_pool(tree: &Tree) -> PathBuf {
    let all = fs::read_dir(tree.path("state")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.join("facts").exists()).collect::<Vec<_>>().remove(0)
}

fn facts(tree: &Tree, host: &str) -> Value {
    serde_json::from_slice(&fs::read(of_pool(tree).join(format!("facts/{host}.json"))).unwrap()).unwrap()
}

/// Writes the inodes of the unpacked files into the facts, which identify a file by its inode.
fn with_its_inodes(tree: &Tree) {
    for host in ["laptop", "stranger"] {
        let mut all = facts(tree, host);
        for (key, entry) in all["files"].as_object_mut().unwrap() {
            let (place, name) = key.split_once('/').unwrap();
            let dir = if place == "exec" { "state/exec" } else { place };
            let Ok(meta) = fs::metadata(tree.path(dir).join(host).join(name)) else { continue };
            let nanos = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
            entry["seen"] = json!({
                "inode": meta.ino(),
                "size": meta.size(),
                "modified": nanos(meta.mtime(), meta.mtime_nsec()),
                "changed": nanos(meta.ctime(), meta.ctime_nsec()),
            });
        }
        let path = of_pool(tree).join(format!("facts/{host}.json"));
        fs::write(path, serde_json::to_vec(&all).unwrap()).unwrap();
    }
}

fn text(tree: &Tree, path: impl AsRef<Path>) -> String {
    fs::read_to_string(tree.path(path)).unwrap()
}

/// Returns the datasets of the files in the incoming directory, and the names of foreign files.
fn left(tree: &Tree) -> BTreeSet<String> {
    let label = |path: String| path.split_once('_').map_or(path.clone(), |(_, label)| label.to_owned());
    tree.files("incoming").into_keys().map(label).collect()
}

/// Returns dataset, state, number of waiting files and number of files in quarantine.
fn status(tree: &Tree) -> Vec<(String, String, u64, u64)> {
    let ran = ingest(tree, &["--json", "status"], b"").expect(1);
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let count = |key: &str| row[key].as_u64().unwrap();
        let mut dataset = text("dataset");
        dataset.truncate(20);
        (dataset, text("state"), count("waiting_files"), count("quarantined"))
    };
    rows(&ran).iter().map(row).collect()
}

const STAYS: [&str; 7] = [
    "laptop@db",
    "laptop@elsewhere",
    "laptop@etc.nncp.chunk0",
    "laptop@photos",
    "laptop@unsigned",
    "laptop/nncpfile123456",
    "stranger@photos",
];

#[test]
fn every_waiting_file_gets_the_same_verdict_and_is_applied() {
    for version in VERSIONS {
        let tree = Tree::with_pool(version, "ingest");
        with_its_inodes(&tree);
        let (known, stranger) = (facts(&tree, "laptop"), facts(&tree, "stranger"));
        let quarantine = |tree: &Tree| tree.files("incoming/.zsnap-quarantine");
        let bad = quarantine(&tree);
        assert_eq!(bad.len(), 6);
        let counts: Vec<(String, u64, u64)> =
            status(&tree).into_iter().map(|(name, _, waiting, quarantined)| (name, waiting, quarantined)).collect();
        let expected = [
            ("laptop/cut", 0, 1),
            ("laptop/db", 1, 0),
            ("laptop/elsewhere", 1, 0),
            ("laptop/etc", 3, 0),
            ("laptop/other", 0, 2),
            ("laptop/photos", 1, 0),
            ("laptop/src/data", 2, 0),
            ("laptop/src/enc", 2, 0),
            ("laptop/src/vol", 1, 0),
            ("laptop/unsigned", 1, 0),
        ];
        let expected = expected.map(|(name, waiting, quarantined)| (name.to_owned(), waiting, quarantined));
        assert_eq!(counts[..10], expected, "{version}");
        let rest: Vec<u64> = counts[10..].iter().map(|(_, waiting, _)| *waiting).collect();
        assert_eq!(rest, [2, 1, 1, 2, 1], "two hidden names, push, seeds, stranger: {counts:?}");

        let mut verdicts: BTreeMap<String, u64> = BTreeMap::new();
        let mut held = Vec::new();
        for row in rows(&ingest(&tree, &["--json", "plan"], b"").expect(1)) {
            let verdict = row["verdict"].as_str().unwrap();
            *verdicts.entry(verdict.to_owned()).or_default() += 1;
            if verdict != "ready" {
                held.push(format!("{verdict} {}", row["file"].as_str().unwrap().split_once('_').unwrap().1));
            }
        }
        held.sort();
        let not_ready = [
            "broken laptop@db",
            "failed laptop@src@data",
            "held laptop@elsewhere",
            "held laptop@photos",
            "held laptop@unsigned",
            "held stranger@photos",
            "superseded laptop@etc.0",
        ];
        assert_eq!((held, verdicts["ready"]), (not_ready.map(str::to_owned).to_vec(), 12), "{version}");

        let applied = tree.files("incoming/laptop");
        let (again, bytes) = applied.iter().find(|(name, _)| name.ends_with("laptop@etc")).unwrap();
        ingest(&tree, &[], b"").expect(1);
        let snapshots = [
            "laptop/src/data@s1",
            "laptop/src/data@s2",
            "laptop/src/data@s3",
            "laptop/src/data@s4",
            "laptop/src/data@s5",
            "laptop/src/enc@e1",
            "laptop/src/enc@e2",
            "laptop/src/vol@s1",
            "push/tank/plain@s1",
            "seeds/tank/a@s1",
            "seeds/tank/a@s2",
        ];
        let snapshots = snapshots.map(|name| format!("backup/hosts/{name}"));
        assert_eq!(tree.zfs_list("snapshot", "name"), snapshots, "{version}");
        let outputs = [text(&tree, "target/etc/all"), text(&tree, "target/etc/hidden"), text(&tree, "target/db/all")];
        assert_eq!(outputs, ["etc 1\netc 2\netc 3\n", "hidden 1\nhidden 2\nlong\n", "db 1\n"], "{version}");
        assert_eq!(left(&tree), STAYS.map(str::to_owned).into(), "{version}");
        assert_eq!(tree.files("state/exec"), BTreeMap::new());
        assert_eq!(quarantine(&tree), bad);
        // The times since which a file waits, and when the last one came, are kept.
        for (before, after) in [(&known, facts(&tree, "laptop")), (&stranger, facts(&tree, "stranger"))] {
            for (key, entry) in after["files"].as_object().unwrap() {
                assert_eq!(entry["first"], before["files"][key]["first"], "{version}: {key}");
            }
            assert!(after["last_came"].as_u64() >= before["last_came"].as_u64());
        }
        let needed = fs::read_to_string(of_pool(&tree).join("needed-guids")).unwrap();
        assert!(needed.lines().next().unwrap().ends_with(" complete"), "{needed}");
        for line in ["all laptop/elsewhere", "all laptop/unsigned", "all stranger/photos"] {
            assert!(needed.lines().any(|l| l == line), "{version}: {line} is missing: {needed}");
        }
        let journal: Value =
            serde_json::from_slice(&fs::read(of_pool(&tree).join("journal/laptop/src@data.json")).unwrap()).unwrap();
        let guid = |text: &String| json!(format!("{:016x}", text.parse::<u64>().unwrap()));
        let on_pool: Vec<Value> = tree.zfs_list("snapshot", "guid")[..5].iter().map(guid).collect();
        assert_eq!(journal["committed"], json!(on_pool), "{version}");

        let states: Vec<(String, String)> = status(&tree)
            .into_iter()
            .map(|(name, state, ..)| (name, state))
            .filter(|(_, state)| state != "ok")
            .collect();
        let state_of = |name: &str| states.iter().find(|(n, _)| n == name).map_or("ok", |(_, state)| state.as_str());
        let reported =
            ["laptop/cut", "laptop/other", "laptop/db", "laptop/photos", "laptop/unsigned", "stranger/photos"];
        let expected = ["quarantined", "quarantined", "broken", "held", "held", "held"];
        assert_eq!(reported.map(state_of), expected, "{version}");
        assert_eq!(states.len() - reported.len(), 1, "and laptop/elsewhere: {states:?}");

        // A file that was applied arrives again.
        let copy = tree.path("incoming/laptop").join(again);
        fs::write(&copy, bytes).unwrap();
        ingest(&tree, &[], b"").expect(0);
        assert!(!copy.exists());
        assert_eq!(text(&tree, "target/etc/all"), outputs[0]);
        // The operator decides about the interrupted command.
        ingest(&tree, &["adopt", "--not-applied", "laptop/db"], b"").expect(0);
        ingest(&tree, &[], b"").expect(0);
        assert_eq!(text(&tree, "target/db/all"), "db 1\ndb 2\n", "{version}");
        // Files that are tried again are quarantined again, each for the same reason.
        ingest(&tree, &["retry", "--all"], b"").expect(0);
        assert_eq!(quarantine(&tree), BTreeMap::new());
        ingest(&tree, &[], b"").expect(1);
        let again = quarantine(&tree);
        assert_eq!(again.keys().collect::<Vec<_>>(), bad.keys().collect::<Vec<_>>(), "{version}");
        let whys = |all: &BTreeMap<String, Vec<u8>>| -> Vec<Value> {
            let all = all.iter().filter(|(name, _)| name.ends_with(".why.json"));
            all.map(|(_, text)| serde_json::from_slice::<Value>(text).unwrap()["why"].clone()).collect()
        };
        assert_eq!(whys(&again), whys(&bad), "{version}");
        assert_eq!(tree.zfs_list("snapshot", "name"), snapshots);
    }
}

#[test]
fn every_file_can_be_opened_and_has_its_manifest() {
    for version in VERSIONS {
        let tree = Tree::with_pool(version, "ingest");
        let mut count = 0;
        for queued in tree.queued() {
            let path = format!("incoming/laptop/{}", queued.text("file"));
            // Most of the files that were applied, quarantined or received by exec are not in the directory.
            if tree.path(&path).exists() && queued.text("dataset") != "elsewhere" {
                let plain = ingest(&tree, &["cat", &path], b"").expect(0).out;
                assert_eq!(sha256_hex(&plain), queued.text("sha256"), "{version}: {path}");
                let report = String::from_utf8(ingest(&tree, &["verify", &path], b"").expect(0).out).unwrap();
                let expected = [
                    format!("seq: {}\n", queued.seq()),
                    format!("target: laptop/{}\n", queued.text("dataset")),
                    format!("kind: {}\n", queued.text("kind")),
                ];
                assert!(expected.iter().all(|line| report.contains(line)), "{version}: {path}: {report}");
                count += 1;
            }
        }
        assert_eq!(count, 11, "{version}");
        for (path, _) in tree.files("incoming/seeds") {
            let base = if path.starts_with("bakfs") { "full" } else { "incr-i-s1-s2" };
            let plain = ingest(&tree, &["cat", &format!("incoming/seeds/{path}")], b"").expect(0).out;
            assert!(plain == stream(base), "{version}: {path}");
        }
        let path = spooler::tree(&tree.path("state/exec/laptop")).remove(0);
        assert_eq!(ingest(&tree, &["cat", &format!("state/exec/laptop/{path}")], b"").expect(0).out, b"etc 2\n");
        // Untrusted files are still rejected.
        let path = |end: &str| {
            let name = tree.files("incoming/laptop").into_keys().find(|name| name.ends_with(end)).unwrap();
            format!("incoming/laptop/{name}")
        };
        ingest(&tree, &["verify", &path("@unsigned")], b"").expect(77).says("not signed");
        ingest(&tree, &["verify", &path("@elsewhere")], b"").expect(75).says("none of our keys");
    }
}

#[test]
fn exec_continues_a_chain_of_the_older_version() {
    for version in VERSIONS {
        let tree = Tree::with_pool(version, "ingest");
        let zfs = tree.zfs_options();
        let mut args: Vec<&str> = zfs.iter().map(String::as_str).collect();
        args.extend(["exec", "--"]);
        let mut exec = tree.command(&[], "zsnap-ingest", "ingest.toml", &args);
        zsnap_tests::scene::run(exec.env("NNCP_SENDER", "PUSHNODE").arg("push/tank/plain"), &stream("incr-i-s1-s2"))
            .expect(0);
        // s1 was received by exec of the older version.
        let names = tree.zfs_list("snapshot", "name");
        let of_push: Vec<&String> = names.iter().filter(|name| name.contains("push")).collect();
        assert_eq!(of_push, ["backup/hosts/push/tank/plain@s1", "backup/hosts/push/tank/plain@s2"], "{version}");
    }
}

#[test]
fn every_configuration_key_is_still_accepted() {
    for version in VERSIONS {
        let tree = Tree::with_pool(version, "ingest");
        for config in ["ingest.toml", "push.toml"] {
            let zfs = tree.zfs_options();
            let zfs: Vec<&str> = zfs.iter().map(String::as_str).collect();
            tree.run("zsnap-ingest", config, &[&zfs[..], &["status"]].concat(), b"").expect(1);
        }
    }
}
