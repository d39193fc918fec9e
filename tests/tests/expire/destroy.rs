//! zsnap-expire destroys snapshots in snapshots_are_destroyed_in_batches_of_limited_number_and_length of exact names:
//! as many as it can, and only those that it decided about.

use zsnap_tests::expirer::{Expirer, NOON};
use zsnap_tests::scene::Ran;

const RULES: [&str; 4] = ["--all", "--keep=last=2", "--max-destroy", "none"];

/// The names of snapshots with these numbers.
fn names(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("s{n:04}")).collect()
}

/// Takes `count` snapshots of a dataset, `s0000` the oldest.
fn many(e: &Expirer, dataset: &str, count: u64) {
    let names = names(0..count);
    e.take(dataset, names.iter().enumerate().map(|(n, name)| (name.as_str(), NOON - (count - n as u64) * 3600)));
}

/// Runs zsnap-expire with a wrapper around `zfs`.
fn with(e: &Expirer, script: &str, more: &[&str]) -> Ran {
    let zfs = e.wrapper(script);
    e.expire(&[&RULES[..], &["--zfs", &zfs], more].concat())
}

#[test]
fn snapshots_are_destroyed_in_batches_of_limited_number_and_length() {
    let e = Expirer::new();
    many(&e, "tank/a", 1202);
    e.scene.zfs_calls();
    e.silent(&RULES);
    assert_eq!(e.left("tank/a"), "s1200 s1201");
    assert_eq!(e.destroys(), [500, 500, 200]);
    // With long names the length of one argument limits a batch.
    let long: Vec<String> = (0..452).map(|n| format!("{}{n:03}", "x".repeat(230))).collect();
    e.create("tank/b");
    e.take("tank/b", long.iter().enumerate().map(|(n, name)| (name.as_str(), NOON + n as u64)));
    e.scene.zfs_calls();
    e.silent(&RULES);
    assert_eq!(e.destroys(), [437, 13]);
    assert_eq!(e.left("tank/b").split(' ').count(), 2);
}

#[test]
fn snapshots_are_destroyed_by_exact_name_and_reported_with_v() {
    let e = Expirer::new();
    many(&e, "tank/a", 5);
    e.scene.zfs_calls();
    let ran = e.expire(&[&RULES[..], &["-v"]].concat()).expect(0).says("tank/a: 3 snapshots were destroyed");
    assert!(!ran.err.contains('%'));
    let calls = e.scene.zfs_calls();
    let destroys: Vec<_> = calls.iter().filter(|call| call[1] == "destroy").map(|call| call[1..].join(" ")).collect();
    assert_eq!(destroys, ["destroy tank/a@s0000,s0001,s0002"]);
    // The guids were compared just before.
    let at = calls.iter().position(|call| call[1] == "destroy").unwrap();
    assert_eq!(calls[at - 1][1..].join(" "), "list -Hp -t snapshot -o name,guid -d 1 tank/a");
}

/// A hold or clone that is made after the listing makes the whole batch fail.
#[test]
fn a_snapshot_that_cannot_be_destroyed_does_not_protect_its_batch() {
    let e = Expirer::new();
    e.create("tank/b");
    many(&e, "tank/a", 66);
    many(&e, "tank/b", 4);
    let late = "case \"$1 $2\" in 'destroy tank/a@'*) once && { $real hold 'to keep' tank/a@s0010; $real hold other tank/a@s0010; $real clone tank/a@s0050 tank/clone; } ;; esac";
    let ran = with(&e, late, &[]).expect(1);
    let ran = ran.says("tank/a@s0010: is held by other, 'to keep': zfs release other tank/a@s0010");
    let ran = ran.says("tank/a@s0050: was cloned to tank/clone: destroy or promote that first");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert_eq!(e.left("tank/a"), "s0010 s0050 s0064 s0065");
    assert_eq!(e.left("tank/b"), "s0002 s0003", "the next dataset was not pruned");
    let tries = e.destroys();
    assert!((20..40).contains(&tries.len()) && tries[0] == 64, "the batch was not halved: {tries:?}");
    // The next listing shows hold and clone, and the run keeps the snapshots silently.
    e.silent(&RULES);
}

#[test]
fn a_snapshot_with_a_new_guid_is_not_destroyed() {
    let e = Expirer::new();
    many(&e, "tank/a", 8);
    let replaced = "case \"$*\" in *' name,guid -d 1 tank/a') once && { $real destroy tank/a@s0003; $real snapshot tank/a@s0003; } ;; esac";
    let ran = with(&e, replaced, &[]).expect(1).says("tank/a@s0003: another snapshot has this name by now");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(e.left("tank/a"), "s0006 s0007 s0003");
}

/// A failed batch takes time and is tried again in parts.
#[test]
fn a_snapshot_replaced_while_a_batch_fails_is_not_destroyed() {
    let e = Expirer::new();
    many(&e, "tank/a", 10);
    let replaced = "[ \"$1\" = destroy ] && once && { $real hold late tank/a@s0000; $real \"$@\"; $real destroy tank/a@s0006; $real snapshot tank/a@s0006; exit 1; }";
    let ran = with(&e, replaced, &[]).expect(1);
    let ran = ran.says("tank/a@s0006: another snapshot has this name by now").says("tank/a@s0000: is held by late");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert_eq!(e.left("tank/a"), "s0000 s0008 s0009 s0006");
}

/// Every other call would fail as well; where `zfs` hangs, six calls take an hour.
#[test]
fn a_zfs_that_cannot_be_started_ends_the_run() {
    let e = Expirer::new();
    e.create("tank/b");
    many(&e, "tank/a", 8);
    many(&e, "tank/b", 8);
    let gone = "case \"$*\" in *' name,guid -d 1 tank/a') chmod -x \"$0\" ;; esac";
    let ran = with(&e, gone, &[]).expect(69);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!((e.left("tank/a").split(' ').count(), e.left("tank/b").split(' ').count()), (8, 8));
}

#[test]
fn snapshots_that_are_already_absent_are_not_an_error() {
    let e = Expirer::new();
    e.create("tank/b");
    e.create("tank/c");
    for dataset in ["tank/a", "tank/b", "tank/c"] {
        many(&e, dataset, 6);
    }
    // Destroyed before the guids are compared: one of a, and all of b with its dataset; after that: all of c.
    let script = "case \"$*\" in *' name,guid -d 1 tank/a') $real destroy tank/a@s0001 ;;
        *' name,guid -d 1 tank/b') $real destroy -r tank/b ;;
        'destroy tank/c@'*) once && { $real destroy tank/c@s0000,s0001,s0002,s0003; } ;; esac";
    let ran = with(&e, script, &[]).expect(0);
    assert_eq!(ran.err, "");
    assert_eq!((e.left("tank/a"), e.left("tank/c")), ("s0004 s0005".into(), "s0004 s0005".into()));
    e.scene.zfs(&["list", "-H", "tank/b"]).expect(1);
}

#[test]
fn failures_are_reported_and_the_other_snapshots_are_destroyed() {
    let e = Expirer::new();
    e.create("tank/b");
    e.create("tank/c");
    for dataset in ["tank/a", "tank/b", "tank/c"] {
        many(&e, dataset, 6);
    }
    // tank/a cannot be listed again; one snapshot of tank/b is in use by a send.
    let script = "case \"$*\" in *' name,guid -d 1 tank/a') echo 'pool I/O is suspended' >&2; exit 1 ;;
        'destroy tank/b@'*s0002*) echo 'cannot destroy snapshot tank/b@s0002: dataset is busy' >&2; exit 1 ;; esac";
    let ran = with(&e, script, &[]).expect(1).says("tank/a: ").says("pool I/O is suspended");
    let ran = ran.says("tank/b@s0002: ").says("dataset is busy");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert_eq!(e.left("tank/a").split(' ').count(), 6);
    assert_eq!((e.left("tank/b"), e.left("tank/c")), ("s0002 s0004 s0005".into(), "s0004 s0005".into()));
}

#[test]
fn names_that_denote_several_snapshots_are_never_passed_to_zfs() {
    let e = Expirer::new();
    many(&e, "tank/a", 6);
    // No pool has such names, but a false listing does.
    let lies = "if [ \"$1\" = list ]; then $real \"$@\" | sed 's/@s0001/@%/; s/@s0002/@s0000,s0005/'; exit; fi";
    let ran = with(&e, lies, &[]).expect(1).says("is not a name of a snapshot");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert_eq!(e.left("tank/a"), "s0001 s0002 s0004 s0005");
}

#[test]
fn a_run_with_a_full_standard_output_destroys_nothing() {
    let e = Expirer::new();
    many(&e, "tank/a", 6);
    for print in ["-v", "--json", "--timeline"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = e.command(&[&RULES[..], &[print]].concat());
        let ran = Ran::of(command.stdout(full).output().unwrap()).expect(74);
        assert!(ran.err.contains("standard output"), "{}", ran.err);
        assert_eq!(e.left("tank/a").split(' ').count(), 6);
    }
}

#[test]
fn a_signal_ends_the_run_between_two_batches() {
    let e = Expirer::new();
    many(&e, "tank/a", 1002);
    let ran = with(&e, "[ \"$1\" = destroy ] && { $real \"$@\"; kill -TERM $PPID; sleep 1000; }", &[]);
    assert_eq!(ran.status, 143, "{}", ran.err);
    assert_eq!(e.left("tank/a").split(' ').count(), 502);
}
