//! zsnap-expire in the place of zrep-expire, with its files and its command lines.

use zsnap_tests::expirer::{DAY, Expirer, now};

const SPACING: &str = "# MAX_AGE : MIN_INTERVAL\n\n 8 days : 1 day # comment\n 30 days : 1 week\n";
const DATED: &str = "# MIN HR DOM MON DOW EXPIRATION\n\n * * * * * +48 hours\n * * * * 7 4 weeks\n";

/// `tank/a` with `zrep_000000` to `zrep_00000b`, 12 hours between them, the newest an hour old, all sent.
fn zrep() -> Expirer {
    let e = Expirer::new();
    e.scene.write("spacing.conf", SPACING);
    e.scene.write("dated.conf", DATED);
    fill(&e, "tank/a", "zrep", 12);
    e
}

fn fill(e: &Expirer, dataset: &str, tag: &str, count: u64) {
    fill_in_turn(e, dataset, &[tag], count);
}

/// One of each tag, then the next.
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
fn spacing() {
    let e = zrep();
    // Nothing named, nothing done; and only the dataset itself.
    e.expire(&["-c", "spacing.conf"]).expect(0).says("nothing to do: name file systems, or specify --all");
    assert_eq!(e.left("tank/a"), ALL);
    e.create("tank/a/below");
    fill(&e, "tank/a/below", "zrep", 7);
    e.silent(&["-c", "spacing.conf", "tank/a"]);
    // The newest 5 stay; of the others the first, and then what is a day behind the last kept.
    let left =
        "zrep_000000 zrep_000002 zrep_000004 zrep_000006 zrep_000007 zrep_000008 zrep_000009 zrep_00000a zrep_00000b";
    assert_eq!(e.left("tank/a"), left);
    assert_eq!(e.left("tank/a/below").split(' ').count(), 7);
    e.silent(&["-c", "spacing.conf", "-k", "0", "-a"]);
    // -k 0 is 1.
    assert_eq!(e.left("tank/a"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006 zrep_000008 zrep_00000a zrep_00000b");
    assert_eq!(e.left("tank/a/below"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006");
}

#[test]
fn all_is_all_file_systems() {
    let e = zrep();
    e.scene.zfs(&["create", "-V", "8M", "tank/v"]).expect(0);
    fill(&e, "tank/v", "zrep", 7);
    e.create("backup/b");
    fill(&e, "backup/b", "zrep", 7);
    let all = [&["-c", "spacing.conf", "-a", "-k", "1"][..]].concat();
    e.silent(&all);
    assert_eq!(e.left("tank/v").split(' ').count(), 7, "a volume is none");
    assert_eq!(e.left("backup/b"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006");
    e.silent(&["-c", "spacing.conf", "-k", "1", "tank/v"]);
    assert_eq!(e.left("tank/v"), "zrep_000000 zrep_000002 zrep_000004 zrep_000006");
}

#[test]
fn names_and_what_zrep_says_of_them() {
    let e = zrep();
    // -n and -v tell, -n alone does nothing.
    let table = e.prints(0, &["-c", "spacing.conf", "-n", "tank/a"]);
    assert!(table.contains("tank/a@zrep_000001") && table.contains("less than 1d after the last one kept"), "{table}");
    assert_eq!(e.left("tank/a"), ALL);
    e.take("tank/a", [("manual", now() - 30)]);
    e.scene.zfs(&["rename", "tank/a@zrep_000003", "tank/a@zrep_000003_unsent"]).expect(0);
    e.scene.zfs(&["rename", "tank/a@zrep_000005", "tank/a@weekly-5"]).expect(0);
    e.scene.zfs(&["set", "zrep:sent=-", "tank/a@zrep_000001"]).expect(0);
    e.expire(&["-c", "spacing.conf", "-d", "-k", "1", "tank/a"]).expect(0);
    // Unsent ones and other names stay; a name may go on behind the digits.
    // And the last one that was sent.
    let left =
        "zrep_000000 zrep_000001 zrep_000003_unsent weekly-5 zrep_000006 zrep_000008 zrep_00000a zrep_00000b manual";
    assert_eq!(e.left("tank/a"), left);
    e.silent(&["-c", "spacing.conf", "--zrep-ignore", "-k", "1", "tank/a"]);
    assert_eq!(e.left("tank/a"), "zrep_000000 zrep_000003_unsent weekly-5 zrep_000008 zrep_00000a manual");
}

#[test]
fn each_tag_by_itself_with_its_own_word() {
    let e = zrep();
    e.create("tank/b");
    fill_in_turn(&e, "tank/b", &["off", "zrep"], 6);
    let last = ["-k", "1", "tank/b"];
    let with = |tags: &'static str| [&["-c", "spacing.conf", "-t", tags][..], &last].concat();
    e.silent(&with("other"));
    assert_eq!(e.left("tank/b").split(' ').count(), 12);
    e.silent(&with("off"));
    // Three are a day apart, and the last one that was sent.
    assert_eq!(e.left("tank/b").matches("off").count(), 4);
    assert_eq!(e.left("tank/b").matches("zrep").count(), 6);
    e.silent(&with("off,zrep"));
    assert_eq!(e.left("tank/b").matches("zrep").count(), 4, "{}", e.left("tank/b"));
    assert_eq!(e.left("tank/b").matches("off").count(), 4);
}

#[test]
fn dated_rules() {
    let e = zrep();
    e.create("tank/a/below");
    fill(&e, "tank/a/below", "zrep", 12);
    e.scene.write("dated.conf", "# as shipped\n\n * * * * * +48 hours\n");
    e.scene.zfs(&["set", "zrep:sent=-", "tank/a@zrep_000001"]).expect(0);
    e.take("tank/a", [("older", 1_600_000_000), ("old", 1_700_000_000)]);
    // No dataset: all, and no newest beyond what -k says; what has no time of zrep's stays.
    e.expire(&["-c", "dated.conf", "-k", "1"]).expect(0);
    let left = "zrep_000001 zrep_000008 zrep_000009 zrep_00000a zrep_00000b older old";
    assert_eq!(e.left("tank/a"), left);
    assert_eq!(e.left("tank/a/below"), "zrep_000008 zrep_000009 zrep_00000a zrep_00000b");
    // Of another name, but sent, is sent: the first version looks at no names.
    sent(&e, "tank/a@older", "zrep");
    e.expire(&["-c", "dated.conf", "-k", "1", "tank/a"]).expect(0);
    assert_eq!(e.left("tank/a"), "zrep_000001 zrep_000008 zrep_000009 zrep_00000a zrep_00000b old");
    e.expire(&["-c", "dated.conf", "-k", "3", "--zrep-ignore"]).expect(0);
    assert_eq!(e.left("tank/a"), "zrep_000008 zrep_000009 zrep_00000a zrep_00000b old");
}

#[test]
fn a_file_that_is_wrong_has_a_line() {
    let e = zrep();
    for (text, line, says) in [
        ("", 1, "has no rule"),
        ("# only this\n\n", 1, "has no rule"),
        ("# x\n\n1 hour : 1 minute\n1 hour\n", 4, "MAX_AGE : MIN_INTERVAL"),
        ("1 hour : 1 fortnight\n", 1, "fortnight"),
        // Minutes, or months as in the other rules?
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
