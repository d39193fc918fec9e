//! zsnap-expire --filter reads names and times and writes names.

use zsnap_tests::expirer::{DAY, Expirer, NOON};
use zsnap_tests::scene::{Ran, run};

/// Runs zsnap-expire --filter.
fn filter(e: &Expirer, args: &[&str], input: &str) -> Ran {
    run(e.command(&["--filter"]).args(args), input.as_bytes())
}

/// Records of names with their ages in days before [`NOON`].
fn lines(list: &[(&str, u64)]) -> String {
    list.iter().map(|(name, days)| format!("{name}\t{}\n", NOON - days * DAY)).collect()
}

/// Runs zsnap-expire --filter, which must print nothing on standard error, and returns its output.
#[track_caller]
fn prints(e: &Expirer, args: &[&str], input: &str) -> String {
    let ran = filter(e, args, input).expect(0);
    assert_eq!(ran.err, "");
    String::from_utf8(ran.out).unwrap()
}

const KEEP: &str = "--keep=daily=2";

#[test]
fn filter_prints_names_in_the_order_of_its_input() {
    let e = Expirer::new();
    let input =
        lines(&[("a@4", 4), ("b@9", 9), ("a@1", 1), ("a@0", 0), ("b@8", 8), ("a@3", 3), ("b@7", 7), ("a@2", 2)]);
    assert_eq!(prints(&e, &[KEEP], &input), "a@4\nb@9\na@3\na@2\n");
    assert_eq!(prints(&e, &[KEEP, "--invert"], &input), "a@1\na@0\nb@8\nb@7\n");
    e.scene.zfs_calls();
    let zeros = input.replace('\n', "\0");
    assert_eq!(prints(&e, &[KEEP, "-0"], &zeros), "a@4\0b@9\0a@3\0a@2\0");
    // It calls no zfs and has no lock and no state.
    assert!(e.scene.zfs_calls().is_empty());
    assert!(!e.scene.path("expire-state").exists());
    assert_eq!(prints(&e, &[KEEP], ""), "");
    assert_eq!(prints(&e, &[KEEP, "--invert"], ""), "");
    // A name may contain tabs, spaces, @ and bytes that are not UTF-8.
    assert_eq!(prints(&e, &["-k", "last=1", "-k", "1"], "x\ty @z\t100\nx\ty @a\t200\n"), "x\ty @z\n");
    let bytes = b"\xfc@1\t100\n\xfc@2\t200\n\xe4@1\t100\n\xe4@2\t200\n\xfc@3\t300\n";
    let ran = run(&mut e.command(&["--filter", "-k", "last=1", "-k", "1"]), bytes).expect(0);
    assert_eq!(ran.out, b"\xfc@1\n\xfc@2\n\xe4@1\n");
}

#[test]
fn a_filter_has_one_group_or_those_of_a_regex() {
    let e = Expirer::new();
    let names = lines(&[("etc-5", 5), ("home-4", 4), ("etc-3", 3), ("home-2", 2), ("etc-1", 1), ("home-0", 0)]);
    assert_eq!(prints(&e, &[KEEP], &names), "etc-5\nhome-4\netc-3\nhome-2\n");
    assert_eq!(prints(&e, &[KEEP, "--group", "^([a-z]*)-"], &names), "etc-5\nhome-4\n");
    assert_eq!(
        prints(&e, &[KEEP, "--group", "^[a-z]*"], &names),
        "etc-5\nhome-4\n",
        "without a capture group the whole match is the group"
    );
    // The glob of a policy matches the group, and names without a policy stay.
    e.scene.write("expire.toml", "[policy.\"etc\"]\nkeep = [\"last=1\"]\nnewest = 1\n");
    assert_eq!(prints(&e, &["--group", "^[a-z]*"], &names), "etc-5\netc-3\n");
    assert_eq!(prints(&e, &["--group", "^[a-z]*", "--invert"], &names), "home-4\nhome-2\netc-1\nhome-0\n");
    filter(&e, &["--group", "("], "").expect(2);
    // A name that does not match is in no group and stays.
    let ran = filter(&e, &["-k", "last=1", "-k", "1", "--group", "^(home)"], &names).expect(0);
    assert_eq!(ran.out, b"home-4\nhome-2\n");
    assert!(ran.err.contains("3 names do not match --group: they stay"), "{}", ran.err);
}

#[test]
fn filter_prints_nothing_if_a_record_is_malformed() {
    let e = Expirer::new();
    let good = lines(&[("a@4", 4), ("a@3", 3), ("a@2", 2), ("a@1", 1)]);
    for (bad, shown) in [
        ("a@9", "a@9"),
        ("a@9 100", "a@9 100"),
        ("a@9\t", "a@9\\t"),
        ("a@9\tx", "a@9\\tx"),
        ("\t100", "\\t100"),
        ("", ""),
        ("a@9\t1e9", "1e9"),
        ("a@9\t99999999999999999999", "99999999999999999999"),
    ] {
        for (input, number) in [(format!("{good}{bad}\n"), 5), (format!("{bad}\n{good}"), 1)] {
            let ran = filter(&e, &[KEEP], &input).expect(65).says(&format!("record {number}: ")).says(shown);
            assert_eq!(ran.out, b"", "{bad:?}");
        }
    }
    // A truncated record may lack the last digits of its time.
    for args in [&[KEEP][..], &[KEEP, "-0"], &[KEEP, "--invert"]] {
        let ran = filter(&e, args, &format!("{good}a@9\t179534")).expect(65).says("cut off");
        assert_eq!(ran.out, b"");
    }
    // A name that appears twice might be destroyed by one record although the other one keeps it.
    let ran = filter(&e, &[KEEP], &format!("{good}b\t1\na@1\t1000\n")).expect(65);
    assert_eq!((ran.out.len(), ran.err.contains("record 6: \"a@1\" came before")), (0, true), "{}", ran.err);
}

#[test]
fn newest_and_max_destroy_apply_to_each_group_of_a_filter() {
    let e = Expirer::new();
    let many: Vec<(String, u64)> = (0..30).map(|n| (format!("m@{n}"), n)).collect();
    let many: Vec<(&str, u64)> = many.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let input = lines(&many) + &lines(&[("a@3", 3), ("a@2", 2), ("a@1", 1)]);
    let ran = filter(&e, &["-k", "last=2"], &input).expect(1).says("m: nothing of it may go: 28 of 30");
    assert!(ran.err.contains("look with -v, then run once with --force"), "{}", ran.err);
    assert_eq!(ran.out, b"a@3\n");
    let kept = filter(&e, &["-k", "last=2", "--invert"], &input).expect(1).out;
    assert_eq!(String::from_utf8(kept).unwrap().lines().count(), 32);
    let forced = filter(&e, &["-k", "last=2", "--force"], &input).expect(0).says("m: --force overrides: 28 of 30");
    assert!(!forced.err.contains("a: "), "{}", forced.err);
    assert_eq!(String::from_utf8(forced.out).unwrap().lines().count(), 29);
    assert_eq!(prints(&e, &["-k", "last=2", "--max-destroy", "none"], &input).lines().count(), 29);
    // With --at the names are printed as well.
    let ran = filter(&e, &["-k", "last=2", "--at", "2100-01-01T00:00Z"], &input).expect(1);
    assert_eq!(ran.out, b"a@3\n");
    let ran = filter(&e, &["-k", "last=2", "-v"], &input).expect(1);
    assert!(
        ran.err.contains("m@5: braked: no rule keeps it") && ran.err.contains("a@1: keep: last=2; the newest"),
        "{}",
        ran.err
    );
    // The newest 2, by time and then by name, stay although no rule keeps them.
    let same = "a@y\t100\na@z\t100\na@x\t100\n";
    assert_eq!(prints(&e, &["-k", "all=1h", "--relative-to", "now"], same), "a@x\n");
    assert_eq!(prints(&e, &["-k", "all=1h", "-k", "1", "--relative-to", "now"], same), "a@y\na@x\n");
    // A snapshot with a future date stays and is not a reference.
    let input = lines(&[("a@3", 3), ("a@2", 2), ("a@1", 1)]) + "a@f\t4102444800\n";
    assert_eq!(prints(&e, &["-k", "last=1"], &input), "a@3\n");
    let input = input + "a@g\t4102444801\n";
    let ran = filter(&e, &["-k", "last=1"], &input).expect(1).says("dated in the future");
    assert_eq!(ran.out, b"");
}

#[test]
fn filter_applies_files_of_zrep_expire() {
    let e = Expirer::new();
    e.scene.write("spacing.conf", "30 days : 3 days\n");
    e.scene.write("dated.conf", "* * * * * +4 days\n");
    let names: Vec<(String, u64)> = (0..8).rev().map(|n| (format!("x@{n}"), n)).collect();
    let names: Vec<(&str, u64)> = names.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let at = ["--at", "2025-06-15T12:30Z", "-k", "1", "-c"];
    let with = |file| [&at[..], &[file]].concat();
    assert_eq!(prints_in_utc(&e, &with("spacing.conf"), &lines(&names)), "", "a name that is not zrep's was printed");
    let ignored = [&with("spacing.conf")[..], &["--zrep-ignore"]].concat();
    assert_eq!(prints_in_utc(&e, &ignored, &lines(&names)), "x@6\nx@5\nx@3\nx@2\n");
    let tagged = lines(&names).replace('@', "@zrep_00000");
    assert_eq!(
        prints_in_utc(&e, &with("spacing.conf"), &tagged),
        "x@zrep_000006\nx@zrep_000005\nx@zrep_000003\nx@zrep_000002\n"
    );
    assert_eq!(prints_in_utc(&e, &with("dated.conf"), &lines(&names)), "x@7\nx@6\nx@5\nx@4\n");
}

/// Runs zsnap-expire --filter in UTC and returns its output.
fn prints_in_utc(e: &Expirer, args: &[&str], input: &str) -> String {
    let ran = run(e.command(&[&["--filter"], args].concat()).arg("--timezone=UTC"), input.as_bytes()).expect(0);
    String::from_utf8(ran.out).unwrap()
}
