//! zsnap-expire --filter: names and times in, names out.

use zsnap_tests::expirer::{DAY, Expirer, NOON};
use zsnap_tests::scene::{Ran, run};

fn filter(e: &Expirer, args: &[&str], input: &str) -> Ran {
    run(e.command(&["--filter"]).args(args), input.as_bytes())
}

/// Names, with their ages in days before [`NOON`].
fn lines(list: &[(&str, u64)]) -> String {
    list.iter().map(|(name, days)| format!("{name}\t{}\n", NOON - days * DAY)).collect()
}

#[track_caller]
fn prints(e: &Expirer, args: &[&str], input: &str) -> String {
    let ran = filter(e, args, input).expect(0);
    assert_eq!(ran.err, "");
    String::from_utf8(ran.out).unwrap()
}

const KEEP: &str = "--keep=daily=2";

#[test]
fn names_come_out_in_the_order_in_which_they_came() {
    let e = Expirer::new();
    let input =
        lines(&[("a@4", 4), ("b@9", 9), ("a@1", 1), ("a@0", 0), ("b@8", 8), ("a@3", 3), ("b@7", 7), ("a@2", 2)]);
    assert_eq!(prints(&e, &[KEEP], &input), "a@4\nb@9\na@3\na@2\n");
    assert_eq!(prints(&e, &[KEEP, "--invert"], &input), "a@1\na@0\nb@8\nb@7\n");
    e.scene.zfs_calls();
    let zeros = input.replace('\n', "\0");
    assert_eq!(prints(&e, &[KEEP, "-0"], &zeros), "a@4\0b@9\0a@3\0a@2\0");
    // No zfs, no lock, no state.
    assert!(e.scene.zfs_calls().is_empty());
    assert!(!e.scene.path("expire-state").exists());
    assert_eq!(prints(&e, &[KEEP], ""), "");
    assert_eq!(prints(&e, &[KEEP, "--invert"], ""), "");
    // The last newline may be missing, and tabs, spaces and @ may be in a name.
    assert_eq!(prints(&e, &["-k", "last=1", "-k", "1"], "x\ty @z\t100\nx\ty @a\t200"), "x\ty @z\n");
}

#[test]
fn one_group_or_those_that_a_regex_says() {
    let e = Expirer::new();
    let names = lines(&[("etc-5", 5), ("home-4", 4), ("etc-3", 3), ("home-2", 2), ("etc-1", 1), ("home-0", 0)]);
    assert_eq!(prints(&e, &[KEEP], &names), "etc-5\nhome-4\netc-3\nhome-2\n");
    assert_eq!(prints(&e, &[KEEP, "--group", "^([a-z]*)-"], &names), "etc-5\nhome-4\n");
    assert_eq!(prints(&e, &[KEEP, "--group", "^[a-z]*"], &names), "etc-5\nhome-4\n", "the whole without a group");
    // The group is what a policy's glob is for, and what no policy is for stays.
    e.scene.write("expire.toml", "[policy.\"etc\"]\nkeep = [\"last=1\"]\nnewest = 1\n");
    assert_eq!(prints(&e, &["--group", "^[a-z]*"], &names), "etc-5\netc-3\n");
    assert_eq!(prints(&e, &["--group", "^[a-z]*", "--invert"], &names), "home-4\nhome-2\netc-1\nhome-0\n");
    filter(&e, &["--group", "("], "").expect(2);
}

#[test]
fn a_record_that_cannot_be_read_prints_nothing() {
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
    assert_eq!(run(e.command(&["--filter", KEEP]).arg("--invert"), b"a@1\t100\na@\xff\t1\n").expect(65).out, b"");
}

#[test]
fn the_newest_and_the_brakes_hold_in_each_group() {
    let e = Expirer::new();
    let many: Vec<(String, u64)> = (0..30).map(|n| (format!("m@{n}"), n)).collect();
    let many: Vec<(&str, u64)> = many.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let input = lines(&many) + &lines(&[("a@3", 3), ("a@2", 2), ("a@1", 1)]);
    let ran = filter(&e, &["-k", "last=2"], &input).expect(1).says("m: nothing of it may go: 28 of 30");
    assert_eq!(ran.out, b"a@3\n");
    let kept = filter(&e, &["-k", "last=2", "--invert"], &input).expect(1).out;
    assert_eq!(String::from_utf8(kept).unwrap().lines().count(), 32);
    let forced = filter(&e, &["-k", "last=2", "--force"], &input).expect(0).says("m: --force overrides: 28 of 30");
    assert!(!forced.err.contains("a: "), "{}", forced.err);
    assert_eq!(String::from_utf8(forced.out).unwrap().lines().count(), 29);
    assert_eq!(prints(&e, &["-k", "last=2", "--max-destroy", "none"], &input).lines().count(), 29);
    // The newest 2 stay though no rule keeps them, by time, then by name.
    let same = "a@y\t100\na@z\t100\na@x\t100\n";
    assert_eq!(prints(&e, &["-k", "all=1h", "--relative-to", "now"], same), "a@x\n");
    assert_eq!(prints(&e, &["-k", "all=1h", "-k", "1", "--relative-to", "now"], same), "a@y\na@x\n");
    // What is dated in the future stays and is no reference.
    let input = lines(&[("a@3", 3), ("a@2", 2), ("a@1", 1)]) + "a@f\t4102444800\n";
    assert_eq!(prints(&e, &["-k", "last=1"], &input), "a@3\n");
    let input = input + "a@g\t4102444801\n";
    let ran = filter(&e, &["-k", "last=1"], &input).expect(1).says("dated in the future");
    assert_eq!(ran.out, b"");
}

#[test]
fn files_of_zrep_expire_filter_as_well() {
    let e = Expirer::new();
    e.scene.write("spacing.conf", "30 days : 3 days\n");
    e.scene.write("dated.conf", "* * * * * +4 days\n");
    let names: Vec<(String, u64)> = (0..8).rev().map(|n| (format!("x@{n}"), n)).collect();
    let names: Vec<(&str, u64)> = names.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let at = ["--at", "2025-06-15T12:30Z", "-k", "1", "-c"];
    let with = |file| [&at[..], &[file]].concat();
    assert_eq!(prints_with(&e, &with("spacing.conf"), &lines(&names)), "x@6\nx@5\nx@3\nx@2\n");
    assert_eq!(prints_with(&e, &with("dated.conf"), &lines(&names)), "x@7\nx@6\nx@5\nx@4\n");
}

fn prints_with(e: &Expirer, args: &[&str], input: &str) -> String {
    let ran = run(e.command(&[&["--filter"], args].concat()).arg("--timezone=UTC"), input.as_bytes()).expect(0);
    String::from_utf8(ran.out).unwrap()
}
