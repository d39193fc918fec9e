//! zsnap-expire never mistakes text that others choose for a record or an option: user properties with newlines and
//! tabs, which `zfs list` prints as they are, and operands that begin with a dash.

use zsnap_tests::expirer::{DAY, Expirer, NOON};
use zsnap_tests::scene::Ran;

const RULES: [&str; 2] = ["--keep=daily=15", "tank"];

/// A pool with `tank/docs`, which has a snapshot a day for 12 days, and `tank/guest`, whose owner may set user
/// properties and which has two snapshots with names like zrep's.
fn guest() -> Expirer {
    let e = Expirer::new();
    e.create("tank/docs");
    e.daily("tank/docs", 12);
    e.create("tank/guest");
    e.take("tank/guest", [("zrep_000001", NOON - 3 * DAY), ("zrep_000002", NOON - 2 * DAY), ("last", NOON)]);
    set(&e, "zrep:src-fs", "tank/guest", "tank/guest");
    e
}

fn set(e: &Expirer, property: &str, value: &str, name: &str) {
    e.scene.zfs(&["set", &format!("{property}={value}"), name]).expect(0);
}

/// Lines like those of more snapshots of `tank/docs`, each the last one of its day.
fn forged_lines() -> String {
    let midnight = NOON - 12 * 3600;
    let line = |n: u64| {
        format!("\ntank/docs@night{n}\t{}\t{}\t{}\t0\t-\t-", 900 + n, 90_000 - n, midnight - n * DAY + DAY - 1)
    };
    (0..14).map(line).collect()
}

const DOCS: &str = "d11 d10 d9 d8 d7 d6 d5 d4 d3 d2 d1 d0";

#[test]
fn a_property_with_many_lines_forges_no_snapshots() {
    for (name, property) in [
        ("tank/guest@zrep_000001", "zrep:sent"),
        ("tank/guest@zrep_000002", "zrep:sent"),
        // Properties of the file system, which its snapshots inherit.
        ("tank/guest", "zrep:sent"),
        ("tank/guest", "zrep:src-fs"),
        ("tank/guest@last", "zrep:sent"),
    ] {
        let e = guest();
        e.create("tank/other");
        e.daily("tank/other", 17);
        set(&e, property, &format!("-{}", forged_lines()), name);
        let ran = e.expire(&RULES);
        assert_eq!(e.left("tank/docs"), DOCS, "{property} of {name}");
        let ran = ran.expect(1);
        assert_eq!(e.left("tank/guest"), "zrep_000001 zrep_000002 last", "{property} of {name}");
        assert_eq!(e.left("tank/other").split(' ').count(), 15, "another dataset was not pruned");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        let says = format!(
            "tank/guest: nothing is destroyed: {property} of {name} is not one line of text: zfs inherit {property} {name}\n"
        );
        assert!(ran.err.ends_with(&says), "{}", ran.err);
        // The remedy works as it is printed.
        let remedy: Vec<&str> = ran.err.trim_end().rsplit_once(": zfs ").unwrap().1.split(' ').collect();
        e.scene.zfs(&remedy).expect(0);
        e.silent(&RULES);
        assert_eq!(e.left("tank/docs"), DOCS);
    }
}

/// Such a property stops nothing where zrep is not used.
#[test]
fn properties_of_zrep_are_not_read_where_zrep_is_not_used() {
    let e = guest();
    e.scene.zfs(&["inherit", "zrep:src-fs", "tank/guest"]).expect(0);
    set(&e, "zrep:sent", &format!("-{}", forged_lines()), "tank/guest@zrep_000001");
    e.silent(&["--keep=last=1", "tank/guest"]);
    assert_eq!((e.left("tank/docs").as_str(), e.left("tank/guest").as_str()), (DOCS, "zrep_000002 last"));
}

#[test]
fn a_value_with_a_tab_or_invalid_utf8_stops_no_other_dataset() {
    let e = guest();
    e.daily("tank/a", 17);
    set(&e, "zrep:sent", "1700000000\t-", "tank/guest@zrep_000001");
    let ran =
        e.expire(&[&RULES[..], &["-v"]].concat()).expect(1).says("tank/guest: nothing is destroyed: zrep:sent of ");
    assert_eq!((e.left("tank/a").split(' ').count(), e.left("tank/docs")), (15, DOCS.into()), "{}", ran.err);
    // A value that is not UTF-8 counts as sent, like any other word.
    set(&e, "zrep:sent", "1700000000", "tank/guest@zrep_000001");
    let zfs = e.wrapper("case \"$*\" in *zrep:sent*) $real \"$@\" | sed 's/17/\\xff\\xfe/'; exit ;; esac");
    e.silent(&["-k", "last=1", "--zfs", &zfs, "tank/guest"]);
    assert_eq!(e.left("tank/guest"), "zrep_000002 last");
}

/// A listing of values of any length could take any amount of memory: they are read one by one, with the same effect.
#[test]
fn properties_of_zrep_count_beside_a_very_long_value() {
    let e = guest();
    set(&e, "zrep:sent", "1700000000", "tank/guest@zrep_000001");
    let table = || {
        e.scene.zfs_calls();
        let table = e.prints(0, &["-n", "-k", "last=1", "-k", "1", "tank/guest"]);
        let gets = e.scene.zfs_calls().iter().filter(|call| call[1] == "get").count();
        (table.split_once('\n').unwrap().1.to_owned(), gets)
    };
    let (before, gets) = table();
    assert_eq!(gets, 0);
    assert!(before.contains("the last that zrep has sent") && before.contains("not sent by zrep"), "{before}");
    set(&e, "zrep:sent", &"x".repeat(8000), "tank/guest@last");
    assert_eq!(table(), (before, 3));
}

/// The rules of zrep-expire need the properties of all snapshots.
#[test]
fn files_of_zrep_expire_skip_a_dataset_with_a_forged_property() {
    let e = guest();
    e.scene.write("dated.conf", "* * * * * +4 days\n");
    e.scene.write("spacing.conf", "9 years : 1 week\n");
    e.daily("tank/a", 17);
    set(&e, "zrep:sent", &format!("1700000000{}", forged_lines()), "tank/guest@last");
    for n in 0..17 {
        set(&e, "zrep:sent", "1700000000", &format!("tank/a@d{n}"));
    }
    for args in
        [&["-c", "dated.conf"][..], &["-c", "spacing.conf", "-t", "zrep,off", "tank/guest", "tank/docs", "tank/a"]]
    {
        // Each run has a state of its own, so that it reports what another one has reported.
        let ran = e.expire(&[args, &["--state", &format!("state-{}", args[1])]].concat()).expect(1);
        let ran = ran.says("tank/guest: nothing is destroyed: zrep:sent of tank/guest@last is not");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        assert_eq!((e.left("tank/docs"), e.left("tank/guest")), (DOCS.into(), "zrep_000001 zrep_000002 last".into()));
    }
    assert_eq!(e.left("tank/a"), "d4 d3 d2 d1 d0");
}

/// zrep renames a snapshot after sending it, and others are made and destroyed meanwhile.
#[test]
fn a_dataset_that_changes_between_the_listings_is_listed_again() {
    let e = guest();
    set(&e, "zrep:sent", "1700000000", "tank/guest@zrep_000001");
    let changes = "case \"$*\" in 'list '*zrep:sent*) once && { $real snapshot tank/guest@new; $real destroy tank/guest@zrep_000002; } ;; esac";
    let zfs = e.wrapper(changes);
    e.silent(&["--zfs", &zfs, "-k", "last=1", "-k", "1", "tank/guest"]);
    // The last one that was sent stays; nothing was decided about the new one.
    assert_eq!(e.left("tank/guest"), "zrep_000001 last new");
}

#[test]
fn a_listing_with_lines_of_other_datasets_destroys_nothing() {
    let e = guest();
    e.daily("tank/a", 17);
    let line = |name: &str| format!("{name}\\t7\\t8\\t1700000000\\t0\\t-");
    for more in [
        line("backup/b@x"),
        line("tanker/b@x"),
        // A line of an earlier dataset, and one name twice.
        line("tank/docs@y"),
        line("tank/zzz@x") + "\\n" + &line("tank/zzz@x"),
        line("tank/zzz@x") + "\\t-",
        "tank/zzz@x\\t7\\t8\\t1700000000\\t0".into(),
        "tank/zzz\\t7\\t8\\t1700000000\\t0\\t-".into(),
        line("tank/zzz@x").replace("17", "x"),
    ] {
        let zfs = e.wrapper(&format!("case \"$*\" in *userrefs*) $real \"$@\"; printf '{more}\\n'; exit ;; esac"));
        e.expire(&[&RULES[..], &["--zfs", &zfs]].concat()).expect(69).says("zfs list: cannot read");
        assert_eq!(e.left("tank/a").split(' ').count(), 17, "{more}");
    }
}

#[test]
fn an_operand_that_is_not_a_dataset_is_never_passed_to_zfs() {
    let e = guest();
    e.daily("tank/a", 17);
    e.scene.zfs_calls();
    let refused = |args: &[&str], says: &str| -> Ran {
        let ran = e.expire(&[&["--keep=daily=3"][..], args].concat()).expect(2).says(says);
        assert!(e.scene.zfs_calls().is_empty(), "{args:?}");
        ran
    };
    for name in
        ["-r", "-", "-H", "-t", "--help", "/", "tank/", "tank,backup", "tank/../backup", "tank/a@d0", "tank#x", ""]
    {
        let ran = refused(&["--", name], "name pools or datasets, such as tank/home");
        assert!(ran.err.contains(&format!("\"{name}\"")), "{}", ran.err);
        refused(&["tank", "--", name], "name pools or datasets");
    }
    refused(&["-r"], "unexpected argument");
    for tag in ["-x", "a/b", "a b", "", "zrep,", "A", "a\nb", "a=b"] {
        refused(&[&format!("--tags={tag}"), "tank/a"], "is not a tag of zrep");
    }
    e.scene.write("expire.toml", "keep = \"daily=3\"\ntags = [\"zrep\", \"-o\"]\n");
    e.expire(&["tank/a"]).expect(78).says("expire.toml:2: ").says("is not a tag of zrep");
    assert_eq!(e.left("tank/a").split(' ').count(), 17);
    e.silent(&["-t", "zrep,off-2", "-k", "last=15", "tank/a"]);
    assert_eq!(e.left("tank/a").split(' ').count(), 15);
}
