//! Upgrades of zsnap-fanout: spools.

use std::collections::BTreeMap;
use std::fs;

use zsnap_tests::scene::Ran;
use zsnap_tests::spooler;

use super::tree::{Tree, VERSIONS, rows};

fn fanout(tree: &Tree, args: &[&str]) -> Ran {
    tree.run("zsnap-fanout", "fanout.toml", args, b"")
}

/// Returns the name of file number `n` of a dataset of a host, followed by `end`.
fn name(n: u64, host: &str, dataset: &str, end: &str) -> String {
    format!("bakfsfmt2-179550000{n}.000000000.7_{host}@{dataset}{end}")
}

/// Returns what a drive for all hosts receives: HOST/FILE and the text.
fn everything() -> BTreeMap<String, Vec<u8>> {
    let of = |n, dataset, end, text: &str| (format!("laptop/{}", name(n, "laptop", dataset, end)), format!("{text}\n"));
    let all = [
        of(1, "etc", "", "1"),
        (format!("other/{}", name(2, "other", "etc", "")), "2\n".into()),
        of(3, "etc", "", "3"),
        // Another file with the same name.
        of(3, "etc", ".0", "3-again"),
        of(4, "var", "", "4"),
        of(5, "var", "", "5"),
        of(6, "etc", "", "6"),
        of(7, "~0123456789abcdef0123456789abcdef", "", "7"),
        ("laptop/backupsfmt2-1795500008.000000000_laptop@etc".into(), "8\n".into()),
    ];
    all.into_iter().map(|(name, text)| (name, text.into_bytes())).collect()
}

#[test]
fn each_drive_receives_the_waiting_files_and_the_new_ones() {
    for version in VERSIONS {
        let tree = Tree::unpack(version, "fanout");
        let counts: Vec<(String, u64, u64)> = rows(&fanout(&tree, &["--json", "status"]).expect(1))
            .iter()
            .map(|row| {
                let count = |key: &str| row[key].as_u64().unwrap();
                (row["drive"].as_str().unwrap().to_owned(), count("waiting_files"), count("scarce_files"))
            })
            .collect();
        let expected = [("(spool)", 3, 7), ("disk1", 1, 1), ("disk2", 5, 5), ("disk3", 6, 5)];
        assert_eq!(counts, expected.map(|(drive, waiting, scarce)| (drive.to_owned(), waiting, scarce)), "{version}");

        let retired = tree.files("spool/.zsnap-fanout/retired");
        let kept = tree.files("spool/.zsnap-fanout/kept/disk1/2026-11-24");
        assert_eq!((retired.len(), kept.len()), (6, 5));
        fs::write(tree.path("disk2/.zsnap-drive"), "disk2\n").unwrap();
        fs::create_dir(tree.path("got")).unwrap();
        ["ready", "got.log"].iter().for_each(|name| fs::write(tree.path(name), "").unwrap());
        assert_eq!(fanout(&tree, &[]).expect(0).err, "", "{version}");
        for drive in ["disk1", "disk2"] {
            assert_eq!(tree.files(drive), everything(), "{version}: {drive}");
        }
        let at_disk3: Vec<String> =
            tree.files("got").into_values().map(|text| String::from_utf8(text).unwrap()).collect();
        let log = fs::read_to_string(tree.path("got.log")).unwrap();
        let in_order: Vec<String> = [(1, "etc"), (3, "etc"), (3, "etc"), (4, "var"), (5, "var"), (6, "etc")]
            .map(|(n, dataset)| name(n, "laptop", dataset, ""))
            .into_iter()
            .chain([
                name(7, "laptop", "~0123456789abcdef0123456789abcdef", ""),
                "backupsfmt2-1795500008.000000000_laptop@etc".into(),
            ])
            .collect();
        assert_eq!(log.lines().collect::<Vec<_>>(), in_order, "{version}");
        assert_eq!(at_disk3, ["8\n", "1\n", "3\n", "3-again\n", "4\n", "5\n", "6\n", "7\n"]);
        // Foreign files stay in the spool, and so do the kept and the retired ones.
        let left: Vec<String> = tree.files("spool").into_keys().collect();
        assert_eq!(left, ["laptop/bakfsfmt2-1795500009.000000000.7_laptop@etc.nncp.meta", "laptop/nncpfile123456"]);
        assert_eq!(tree.files("spool/.zsnap-fanout/retired"), retired);
        assert_eq!(tree.files("spool/.zsnap-fanout/kept/disk1/2026-11-24"), kept);

        // A drive that lost all files receives them again.
        for host in ["laptop", "other"] {
            fs::remove_dir_all(tree.path("disk1").join(host)).unwrap();
        }
        fanout(&tree, &["requeue", "disk1", "--since", "2026-11-24"]).expect(0);
        assert_eq!(fanout(&tree, &[]).expect(0).err, "");
        assert_eq!(tree.files("disk1"), everything(), "{version}");
    }
}

#[test]
fn files_of_a_removed_drive_are_not_lost() {
    for version in VERSIONS {
        let tree = Tree::unpack(version, "fanout");
        let config = fs::read_to_string(tree.path("fanout.toml")).unwrap();
        let (without, _) = config.split_once("[to.disk3]").unwrap();
        fs::write(tree.path("fanout.toml"), without).unwrap();
        let before = spooler::tree(&tree.path("spool"));
        fanout(&tree, &[]).expect(78).says("zsnap-fanout retire disk3");
        assert_eq!(spooler::tree(&tree.path("spool")), before);
        let waiting = tree.files("spool/.zsnap-fanout/out/disk3");
        assert_eq!(waiting.len(), 6);
        assert!(waiting.contains_key(&format!("laptop/{}", name(3, "laptop", "etc", "~1"))));
        fanout(&tree, &["retire", "disk3"]).expect(0);
        let retired = tree.files("spool/.zsnap-fanout/retired/disk3");
        assert!(waiting.iter().all(|(name, text)| retired.get(name) == Some(text)), "{version}");
        assert_eq!(fanout(&tree, &[]).expect(0).err, "");
        assert_eq!(tree.files("disk1"), everything());
    }
}

#[test]
fn every_configuration_key_is_still_accepted() {
    for version in VERSIONS {
        let tree = Tree::unpack(version, "fanout");
        for config in ["fanout.toml", "to.toml", "before.toml"] {
            // The last delivery to one of the destinations failed.
            let ran = tree.run("zsnap-fanout", config, &["status"], b"");
            assert!([0, 1].contains(&ran.status) && ran.err.is_empty(), "{config}: {}", ran.err);
        }
    }
}
