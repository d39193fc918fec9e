//! zsnap-expire in place of zrep-expire, with the same files and command lines.

use zsnap_tests::expirer::{DAY, Expirer, now};

const SPACING: &str = "# MAX_AGE : MIN_INTERVAL\n\n 8 days : 1 day # comment\n 30 days : 1 week\n";
const DATED: &str = "# MIN HR DOM MON DOW EXPIRATION\n\n * * * * * +48 hours\n * * * * 7 4 weeks\n";

/// A pool where `tank/a` has `zrep_000000` to `zrep_00000b`, every 12 hours, the newest an hour old, all sent.
fn zrep() -> Expirer {
    let e = Expirer::new();
    e.scene.write("spacing.conf", SPACING);
    e.scene.write("dated.conf", DATED);
    fill(&e, "tank/a", "zrep", 12);
    e
}

/// Takes `count` snapshots with a tag of zrep, all sent.
fn fill(e: &Expirer, dataset: &str, tag: &str, count: u64) {
    fill_in_turn(e, dataset, &[tag], count);
}

/// Takes `count` snapshots of each tag in turn, all sent.
fn fill_in_turn(e: &Expirer, dataset: &str, tags: &[&str], count: u64) {
    let at = |n: u64| now() - 3600 - (count - 1 - n) * DAY / 2;
    let one = |n: u64| tags.iter().map(move |tag| (format!("{tag}_{n:06x}"), at(n)));
    let all: Vec<(String, u64)> = (0..count).flat_map(one).collect();
    e.take(dataset, all.iter().map(|(name, at)| (name.as_str(), *at)));
    for (name, _) in &all {
        let (tag, _) = name.split_once('_').unwrap();
        sent(e, &format!("{dataset}@{name}"), tag);
    }
}

fn sent(e: &Expirer, snapshot: &str, tag: &str) {
    e.scene.zfs(&["set", &format!("{tag}:sent=1700000000"), snapshot]).expect(0);
}

const ALL: &str = "zrep_000000 zrep_000001 zrep_000002 zrep_000003 zrep_000004 zrep_000005 zrep_000006 zrep_000007 \
                   zrep_000008 zrep_000009 zrep_00000a zrep_00000b";

#[test]
fn a_spacing_file_prunes_only_the_named_datasets_themselves() {
    let e = zrep();
    // Without a dataset nothing is done, and a dataset is pruned without its children.
    e.expire(&["-c", "spacing.conf"]).expect(0).says("nothing to do: name file systems, or specify --all");
    assert_eq!(e.left("tank/a"), ALL);
    e.create("tank/a/below");
    fill(&e, "tank/a/below", "zrep", 7);
    e.silent(&["-c", "spacing.conf", "tank/a"]);
    // The newest 5 stay; of the others the first, and then each one that is a day after the last kept one.
    let left =
        "zrep_000000 zrep_000002 zrep_000004 zrep_000006 zrep_000007 zrep_000008 zrep_000009 zrep_00000a zrep_00000b";
    assert_eq!(e.left("tank/a"), left);
    assert_eq!(e.left("tank/a/below").split(' ').count(), 7);
    e.silent(&["-c", "spacing.conf", "-k", "0", "-a"]);
    // -k 0 means 1.
    assert_eq!(e.left("tank/a"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006 zrep_000008 zrep_00000a zrep_00000b");
    assert_eq!(e.left("tank/a/below"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006");
}

#[test]
fn all_with_a_spacing_file_means_all_file_systems() {
    let e = zrep();
    e.scene.zfs(&["create", "-V", "8M", "tank/v"]).expect(0);
    fill(&e, "tank/v", "zrep", 7);
    e.create("backup/b");
    fill(&e, "backup/b", "zrep", 7);
    let all = [&["-c", "spacing.conf", "-a", "-k", "1"][..]].concat();
    e.silent(&all);
    assert_eq!(e.left("tank/v").split(' ').count(), 7, "a volume was pruned");
    assert_eq!(e.left("backup/b"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006");
    e.silent(&["-c", "spacing.conf", "-k", "1", "tank/v"]);
    assert_eq!(e.left("tank/v"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006");
}

#[test]
fn a_spacing_file_prunes_only_sent_snapshots_with_names_of_zrep() {
    let e = zrep();
    // -n prints the table and destroys nothing.
    let table = e.prints(0, &["-c", "spacing.conf", "-n", "tank/a"]);
    assert!(table.contains("tank/a@zrep_000001") && table.contains("less than 1d after the last one kept"), "{table}");
    assert_eq!(e.left("tank/a"), ALL);
    e.take("tank/a", [("manual", now() - 30)]);
    e.scene.zfs(&["rename", "tank/a@zrep_000003", "tank/a@zrep_000003_unsent"]).expect(0);
    e.scene.zfs(&["rename", "tank/a@zrep_000005", "tank/a@weekly-5"]).expect(0);
    e.scene.zfs(&["set", "zrep:sent=-", "tank/a@zrep_000001"]).expect(0);
    e.expire(&["-c", "spacing.conf", "-d", "-k", "1", "tank/a"]).expect(0);
    // Unsent ones, other names and the last one that was sent stay. A name may continue after the digits.
    let left =
        "zrep_000000 zrep_000001 zrep_000003_unsent weekly-5 zrep_000006 zrep_000008 zrep_00000a zrep_00000b manual";
    assert_eq!(e.left("tank/a"), left);
    e.silent(&["-c", "spacing.conf", "--zrep-ignore", "-k", "1", "tank/a"]);
    assert_eq!(e.left("tank/a"), "zrep_000000 zrep_000003_unsent weekly-5 zrep_000008 zrep_00000a manual");
}

#[test]
fn each_tag_of_zrep_is_pruned_on_its_own() {
    let e = zrep();
    e.create("tank/b");
    fill_in_turn(&e, "tank/b", &["off", "zrep"], 6);
    let last = ["-k", "1", "tank/b"];
    let with = |tags: &'static str| [&["-c", "spacing.conf", "-t", tags][..], &last].concat();
    e.silent(&with("other"));
    assert_eq!(e.left("tank/b").split(' ').count(), 12);
    e.silent(&with("off"));
    // Three that are a day apart stay, and the last one that was sent.
    assert_eq!(e.left("tank/b").matches("off").count(), 4);
    assert_eq!(e.left("tank/b").matches("zrep").count(), 6);
    e.silent(&with("off,zrep"));
    assert_eq!(e.left("tank/b").matches("zrep").count(), 4, "{}", e.left("tank/b"));
    assert_eq!(e.left("tank/b").matches("off").count(), 4);
}

#[test]
fn a_file_of_dated_rules_prunes_sent_snapshots_of_all_datasets() {
    let e = zrep();
    e.create("tank/a/below");
    fill(&e, "tank/a/below", "zrep", 12);
    e.scene.write("dated.conf", "# as shipped\n\n * * * * * +48 hours\n");
    e.scene.zfs(&["set", "zrep:sent=-", "tank/a@zrep_000001"]).expect(0);
    e.take("tank/a", [("older", 1_600_000_000), ("old", 1_700_000_000)]);
    // Without a dataset all are pruned, down to the newest of -k; a snapshot without zrep's time of sending stays.
    e.expire(&["-c", "dated.conf", "-k", "1"]).expect(0);
    let left = "zrep_000001 zrep_000008 zrep_000009 zrep_00000a zrep_00000b older old";
    assert_eq!(e.left("tank/a"), left);
    assert_eq!(e.left("tank/a/below"), "zrep_000008 zrep_000009 zrep_00000a zrep_00000b");
    // A sent snapshot with another name is pruned: the first version of zrep-expire does not compare names.
    sent(&e, "tank/a@older", "zrep");
    e.expire(&["-c", "dated.conf", "-k", "1", "tank/a"]).expect(0);
    assert_eq!(e.left("tank/a"), "zrep_000001 zrep_000008 zrep_000009 zrep_00000a zrep_00000b old");
    e.expire(&["-c", "dated.conf", "-k", "3", "--zrep-ignore"]).expect(0);
    assert_eq!(e.left("tank/a"), "zrep_000008 zrep_000009 zrep_00000a zrep_00000b old");
}

#[test]
fn errors_in_files_of_zrep_expire_are_reported_with_their_line() {
    let e = zrep();
    for (text, line, says) in [
        ("", 1, "has no rule"),
        ("# only this\n\n", 1, "has no rule"),
        ("# x\n\n1 hour : 1 minute\n1 hour\n", 4, "MAX_AGE : MIN_INTERVAL"),
        ("1 hour : 1 fortnight\n", 1, "fortnight"),
        // `6m` could mean minutes, or months as in the native rules.
        ("1 hour : 1 min\n6m : 1d\n", 2, "\"6m\" is not a length of time"),
        ("[policy.\"x\"]\nkeep = 1\n", 1, "ends in .toml"),
        ("* * * * * +48 hours\n* 25 * * * +1 days\n", 2, "\"25\" is not a number from 0 to 23"),
        ("* * * * *\n", 1, "six fields"),
        ("* * * * * +48 hours\n1 hour : 1 minute\n", 2, ""),
    ] {
        e.scene.write("wrong.conf", text);
        for args in [&["-c", "wrong.conf", "tank/a"][..], &["-c", "wrong.conf", "check"]] {
            let ran = e.expire(args).expect(78);
            let text = String::from_utf8_lossy(&ran.out) + ran.err.as_str();
            assert!(text.contains(&format!("wrong.conf:{line}: ")) && text.contains(says), "{args:?}: {text}");
        }
    }
    e.expire(&["-c", "spacing.conf", "--keep", "daily=1", "tank/a"]).expect(2).says("leave --keep RULE out");
    assert!(e.prints(0, &["-c", "spacing.conf", "check"]).contains("spacing 8d:1d 30d:7d, and the newest 5"));
    assert!(e.prints(0, &["-c", "dated.conf", "check"]).contains("2 dated rules, and the newest 5"));
    assert_eq!(e.left("tank/a"), ALL);
}
