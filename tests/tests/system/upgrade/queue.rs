//! Upgrades of zsnap-queue: state directories and outboxes.

use std::collections::BTreeMap;
use std::fs;

use zsnap_common::names::digest::sha256_hex;
use zsnap_tests::scene::{Ran, files};

use super::tree::{Queued, Tree, VERSIONS, rows, stream};

const CONFIG: &str = "queue.toml";

fn queue(tree: &Tree, args: &[&str], input: &[u8]) -> Ran {
    tree.run("zsnap-queue", CONFIG, args, input)
}

/// Returns how many files of each dataset wait for each destination.
fn waiting(tree: &Tree) -> BTreeMap<(String, String), u64> {
    let ran = queue(tree, &["status"], b"").expect(0);
    let mut waiting = BTreeMap::new();
    for row in rows(&ran) {
        let [dataset, to] = ["dataset", "destination"].map(|key| row[key].as_str().unwrap());
        let to = if to.starts_with("cmd:") { "cmd" } else { to.rsplit('/').next().unwrap() };
        let count = row["waiting_files"].as_u64().unwrap();
        if count > 0 {
            waiting.insert((to.to_owned(), dataset.to_owned()), count);
        }
    }
    waiting
}

fn names(tree: &Tree, dir: &str) -> Vec<String> {
    files(&tree.path(dir)).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn exactly_the_waiting_files_are_delivered_in_order() {
    for version in VERSIONS {
        let tree = Tree::unpack(version, "queue");
        let long = format!("laptop/{}", "d".repeat(220));
        let mut expected = BTreeMap::new();
        for to in ["away", "cmd"] {
            let of = [
                ("laptop/hidden", 2),
                ("laptop/src/data", 1),
                ("laptop/src/enc", 2),
                ("laptop/src/vol", 1),
                (&long, 1),
            ];
            expected.extend(of.map(|(dataset, count)| ((to.to_owned(), dataset.to_owned()), count)));
        }
        // One destination is no longer configured, and one file was not split yet. A stream that was not queued is not
        // among them.
        expected.insert(("gone".into(), "laptop/src/data".into()), 1);
        expected.insert(("here".into(), "laptop/var".into()), 1);
        assert_eq!(waiting(&tree), expected, "{version}");

        fs::create_dir(tree.path("away")).unwrap();
        fs::write(tree.path("ready"), "").unwrap();
        queue(&tree, &["flush"], b"").expect(0);
        let gone = [(("gone".to_owned(), "laptop/src/data".to_owned()), 1)];
        assert_eq!(waiting(&tree), gone.into());
        fs::create_dir(tree.path("gone")).unwrap();
        queue(&tree, &["flush"], b"").expect(0);
        assert_eq!(waiting(&tree), BTreeMap::new());

        let queued = tree.queued();
        let of = |to: &str| {
            let mut names: Vec<String> =
                queued.iter().filter(|q| q.is_for(to)).map(|q| q.text("file").to_owned()).collect();
            names.sort();
            names
        };
        let here = names(&tree, "here/laptop");
        let log = fs::read_to_string(tree.path("got.log")).unwrap();
        assert_eq!(log.lines().collect::<Vec<_>>(), of("/away"), "{version}: in the order of their numbers");
        assert_eq!((names(&tree, "away/laptop"), names(&tree, "gone/laptop")), (of("/away"), of("/gone")));
        // Including the one that was queued and not split yet.
        let var: Vec<&String> = here.iter().filter(|name| name.ends_with("_laptop@var")).collect();
        assert_eq!((here.len(), var.len()), (of("/here").len() + 1, 1));
        for (dir, prefix) in [("away/laptop", ""), ("gone/laptop", ""), ("got", "")] {
            for (name, bytes) in tree.files(dir) {
                let there = fs::read(tree.path("here/laptop").join(&name)).unwrap();
                assert!(bytes == there, "{version}: {dir}/{prefix}{name}");
            }
        }
        assert!(names(&tree, "state/outbox/split/laptop").is_empty());
        // The state of the producer was committed.
        assert!(tree.path("var.snar").exists());
        assert!(
            !fs::read_dir(tree.path("")).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().contains(".zsnap-"))
        );

        fs::write(tree.path("none.toml"), "").unwrap();
        for file in &queued {
            let path = format!("here/laptop/{}", file.text("file"));
            let mut args = vec!["--keys", "etc/backup.key", "cat", "--signer-file", "etc/laptop.cert", &path];
            if file.text("dataset") == "unsigned" {
                args.push("--unsigned");
            }
            let ran = tree.run("zsnap-ingest", "none.toml", &args, b"").expect(0);
            assert_eq!(sha256_hex(&ran.out), file.text("sha256"), "{version}: {path}");
        }
    }
}

#[test]
fn the_next_streams_continue_the_chains() {
    for version in VERSIONS {
        let tree = Tree::unpack(version, "queue");
        fs::create_dir(tree.path("away")).unwrap();
        let queued = tree.queued();
        let last = |dataset: &str| queued.iter().rfind(|q| q.text("dataset") == dataset).unwrap();
        let epoch = fs::read(tree.path("state/epoch.json")).unwrap();
        // The next stream is based on the one that was queued last.
        let continues = |ran: Ran, prev: u64| {
            let next = Queued(serde_json::from_slice(&ran.expect(0).out).unwrap());
            assert_eq!((next.text("base"), next.0["prev"].as_u64()), ("prev", Some(prev)), "{version}");
            assert!(next.seq() > prev);
            next
        };
        let of = |dataset: &str| format!("tank/simplesnap/laptop/{dataset}");
        let overlapping = queue(&tree, &[&of("src/data")], &stream("incr-I-s1-s4"));
        let next = continues(overlapping, last("src/data").seq());
        continues(queue(&tree, &[&of("src/data")], &stream("empty-incr")), next.seq());
        continues(queue(&tree, &[&of("src/enc")], &stream("raw-w-incr")), last("src/enc").seq());
        queue(&tree, &[&of("src/vol")], &stream("empty-incr")).expect(65).says("zsnap-queue adopt laptop/src/vol");
        queue(&tree, &[&of("adopted")], &stream("empty-incr")).expect(0);
        let hidden = ["--opaque", "--increment", "--overlap", "--opaque-names", "laptop/hidden"];
        let before = last("hidden");
        let next = continues(queue(&tree, &hidden, b"three\n"), before.seq());
        let label = |q: &Queued| q.text("file").split_once('_').unwrap().1.to_owned();
        assert_eq!(label(&next), label(before));
        // Producers continue from their own state. That of var must be committed first.
        fs::write(tree.path("files/c"), "c").unwrap();
        let tar = ["--", "tar", "-cf", "-", "--listed-incremental={state}", "-C", "files", "."];
        let produce =
            |config: &str, dataset: &str| tree.run("zsnap-queue", config, &[&[dataset], &tar[..]].concat(), b"");
        continues(produce("tar.toml", "laptop/etc"), last("etc").seq());
        let var = names(&tree, "state/outbox/split/laptop").into_iter().find(|name| name.ends_with("@var")).unwrap();
        let stamp: Vec<&str> = var.split(['-', '.']).collect();
        let seq: u64 = format!("{}{}", stamp[1], &stamp[2][..6]).parse().unwrap();
        continues(produce("killed.toml", "laptop/var"), seq);
        assert_eq!(fs::read(tree.path("state/epoch.json")).unwrap(), epoch, "no new epoch has begun");
        // The old files and the five new ones.
        let log = names(&tree, "away/laptop");
        assert_eq!(log.len(), queued.iter().filter(|q| q.is_for("/away")).count() + 5);
    }
}

#[test]
fn every_configuration_key_is_still_accepted() {
    for version in VERSIONS {
        let tree = Tree::unpack(version, "queue");
        for config in [CONFIG, "tar.toml", "user.toml", "killed.toml"] {
            tree.run("zsnap-queue", config, &["status"], b"").expect(0);
        }
    }
}
