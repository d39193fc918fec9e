//! Upgrades of zsnap-expire: its configurations, the files of zrep-expire, and the list of what zsnap-ingest needs.

use std::collections::BTreeSet;
use std::fs;

use zsnap_tests::scene::{Ran, have, run};

use super::tree::{Tree, VERSIONS, rows};

/// Runs zsnap-expire with the clock at the time when the tree was made, because the list of what is needed must not be
/// old.
fn expire(tree: &Tree, at: &str, config: &str, args: &[&str], input: &[u8]) -> Ran {
    let clock = format!("@{at}");
    let zfs = tree.zfs_options();
    let zfs: Vec<&str> = if config == "filter.toml" { vec![] } else { zfs.iter().map(String::as_str).collect() };
    let args = [args, &zfs[..]].concat();
    run(&mut tree.command(&["faketime", "-f", &clock], "zsnap-expire", config, &args), input)
}

const NOW: &str = "2026-11-25 12:50:00";

/// Returns the names of the snapshots of a dataset, without the dataset.
fn snapshots(tree: &Tree, dataset: &str) -> Vec<String> {
    let prefix = format!("backup/{dataset}@");
    tree.zfs_list("snapshot", "name").iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// Returns the names of the snapshots that are kept according to `--json`, without their dataset.
fn kept(ran: Ran) -> BTreeSet<String> {
    let rows = rows(&ran.expect(0));
    let kept = rows.iter().flat_map(|dataset| dataset["keep"].as_array().unwrap());
    kept.map(|snapshot| snapshot["name"].as_str().unwrap().rsplit('@').next().unwrap().to_owned()).collect()
}

#[test]
fn the_rules_keep_the_same_snapshots_as_the_older_version() {
    if !have("faketime") {
        return;
    }
    for version in VERSIONS {
        let tree = Tree::with_pool(version, "expire");
        expire(&tree, NOW, "expire.toml", &["check"], b"").expect(0);
        let all = (snapshots(&tree, "hosts/laptop/daily"), snapshots(&tree, "hosts/laptop/src/data"));
        assert_eq!((all.0.len(), &all.1[..]), (40, &["s1".to_owned(), "s2".to_owned()][..]));
        expire(&tree, NOW, "expire.toml", &["-n"], b"").expect(0);
        assert_eq!(snapshots(&tree, "hosts/laptop/daily"), all.0);
        assert_eq!(expire(&tree, NOW, "expire.toml", &[], b"").expect(0).err, "", "{version}");
        let daily = ["d31", "d33", "d34", "d35", "d36", "d37", "d38", "d39"];
        assert_eq!(snapshots(&tree, "hosts/laptop/daily"), daily, "{version}");
        // The rule would destroy s1, but a waiting file needs it.
        assert_eq!(snapshots(&tree, "hosts/laptop/src/data"), ["s1", "s2"], "{version}");
        // A list that is days old is not used.
        expire(&tree, "2026-11-27 12:50:00", "expire.toml", &[], b"").expect(75).says("run zsnap-ingest first");

        for (config, expected) in [("spacing.conf", &["6", "8", "9"][..]), ("dated.conf", &["8", "9"])] {
            let args = ["--state", "zrep-state", "-k", "1", "--zrep-ignore", "--json", "-n", "backup/zrep"];
            let expected = expected.iter().map(|n| format!("zrep_00000{n}")).collect();
            assert_eq!(kept(expire(&tree, "2026-11-25 09:50:00", config, &args, b"")), expected, "{version}: {config}");
        }
    }
}

#[test]
fn an_option_for_one_run_is_rejected_as_a_configuration_key() {
    if !have("faketime") {
        return;
    }
    let lines = b"a@1\t1795000000\na@2\t1795100000\na@3\t1795200000\na@4\t1795300000\na@5\t1795400000\n";
    for version in VERSIONS {
        let tree = Tree::with_pool(version, "expire");
        let before = tree.zfs_list("snapshot", "name");
        let configs = [
            ("force.toml", &["--force"][..], &["-n"][..]),
            ("no-needed.toml", &["--no-needed"], &["-n"]),
            ("at.toml", &["--at"], &[]),
            ("filter.toml", &["--filter", "--invert"], &[]),
        ];
        for (config, keys, args) in configs {
            let mut options: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let ran = |options: &[String]| {
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                expire(&tree, NOW, config, &options, lines)
            };
            for key in keys {
                let remedy = format!("concerns one run: remove the key, and specify {key} on the command line");
                ran(&options).expect(78).says(&remedy);
                assert_eq!(tree.zfs_list("snapshot", "name"), before, "{version}");
                // The remedy: move the key from the file to the command line.
                let text = fs::read_to_string(tree.path(config)).unwrap();
                let of_key = |line: &&str| line.starts_with(&format!("{} = ", &key[2..]));
                let (moved, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(of_key);
                fs::write(tree.path(config), rest.join("\n")).unwrap();
                let value = moved[0].split_once(" = ").unwrap().1.trim_matches('"');
                options.push(if value == "true" { (*key).to_owned() } else { format!("{key}={value}") });
            }
            let out = String::from_utf8(ran(&options).expect(0).out).unwrap();
            assert!(config != "filter.toml" || out == "a@3\na@4\na@5\n", "{version}: {out}");
            assert_eq!(tree.zfs_list("snapshot", "name"), before, "{version}");
        }
    }
}
