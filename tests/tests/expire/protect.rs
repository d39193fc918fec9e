//! The snapshots that zsnap-expire keeps whatever the policy says, and the list of those that zsnap-ingest needs.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use zsnap_message::keys::SigningKey;
use zsnap_tests::expirer::{DAY, Expirer, NOON, now};
use zsnap_tests::hostile::described;
use zsnap_tests::scene::{manifest, name, run, seal_with};
use zsnap_tests::stream::{Stream, Sub};

/// Rules that keep only the newest snapshot.
const LAST: [&str; 5] = ["-a", "-k", "last=1", "-k", "1"];

fn table(e: &Expirer, args: &[&str]) -> String {
    e.prints(0, &[&LAST[..], &["-n"], args].concat())
}

#[test]
fn the_newest_snapshot_is_the_one_that_the_pool_made_last() {
    let e = Expirer::new();
    e.daily("tank/a", 5);
    // Two that are received late are the oldest by date. As many of the others stay as without them.
    e.take("tank/a", [("late", NOON - 100 * DAY), ("later", NOON - 90 * DAY)]);
    let table = table(&e, &["-k", "2"]);
    let rows = [
        "tank/a@d1     2025-06-14 12:00:00Z  keep     one of the newest 2",
        "tank/a@late   2025-03-07 12:00:00Z  keep     last=1; one of the newest 2; back-dated",
        "tank/a@later  2025-03-17 12:00:00Z  keep     last=1; the newest; back-dated, counts as of 2025-06-15 12:00:00Z",
    ];
    assert!(rows.iter().all(|row| table.contains(row)), "{table}");
    let ran =
        e.expire(&["-a", "-k", "last=1", "-k", "2"]).expect(0).says("tank/a: 2 of its snapshots, such as tank/a@late");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(e.left("tank/a"), "d1 d0 late later");
}

#[test]
fn held_and_cloned_snapshots_are_kept() {
    let e = Expirer::new();
    e.daily("tank/a", 6);
    e.scene.zfs(&["hold", "one", "tank/a@d5"]).expect(0);
    e.scene.zfs(&["hold", "two", "tank/a@d5"]).expect(0);
    e.scene.zfs(&["clone", "tank/a@d3", "tank/clone"]).expect(0);
    e.scene.zfs(&["clone", "tank/a@d3", "tank/other"]).expect(0);
    let table = table(&e, &[]);
    assert!(table.contains("2 holds") && table.contains("cloned to tank/clone,tank/other"), "{table}");
    e.scene.zfs_calls();
    e.silent(&LAST);
    assert_eq!(e.left("tank/a"), "d5 d3 d0");
    assert_eq!(e.destroys(), [3], "zfs was asked to destroy a held or cloned snapshot");
    e.scene.zfs(&["release", "one", "tank/a@d5"]).expect(0);
    e.scene.zfs(&["release", "two", "tank/a@d5"]).expect(0);
    e.scene.zfs(&["destroy", "tank/clone"]).expect(0);
    e.silent(&LAST);
    assert_eq!(e.left("tank/a"), "d3 d0");
}

#[test]
fn snapshots_that_zrep_has_not_sent_are_kept() {
    let e = Expirer::new();
    let names = ["zrep_00000a", "zrep_00000b_unsent", "zrep_00000c", "zrep_xyz", "off_000001", "zrep_00000d", "last"];
    e.take("tank/a", names.iter().enumerate().map(|(n, name)| (*name, NOON + n as u64)));
    e.scene.zfs(&["set", "zrep:sent=1700000000", "tank/a@zrep_00000c"]).expect(0);
    e.create("tank/b");
    e.take("tank/b", [("zrep_000001", NOON), ("zrep_000002", NOON + 1)]);
    // This holds only where zrep is used, and for its tags.
    e.scene.zfs(&["set", "zrep:src-fs=tank/a", "tank/a"]).expect(0);
    e.scene.zfs(&["set", "off:src-fs=tank/a", "tank/a"]).expect(0);
    let ignored = table(&e, &["--zrep-ignore"]);
    assert_eq!(ignored.matches(" destroy ").count(), 7, "{ignored}");
    e.silent(&[&LAST[..], &["-t", "zrep,off"]].concat());
    // 00000c was sent and is the base of the next incremental.
    assert_eq!(e.left("tank/a"), "zrep_00000a zrep_00000b_unsent zrep_00000c off_000001 zrep_00000d last");
    assert!(table(&e, &[]).contains("the last that zrep has sent"));
    assert_eq!(e.left("tank/b"), "zrep_000002");
    e.scene.zfs(&["set", "zrep:sent=1700000001", "tank/a@zrep_00000d"]).expect(0);
    e.silent(&LAST);
    assert_eq!(e.left("tank/a"), "zrep_00000a zrep_00000b_unsent zrep_00000d last");
}

/// A dataset whose properties are unknown may be zrep's.
#[test]
fn a_failed_listing_of_properties_removes_no_protection() {
    let e = Expirer::new();
    e.take("tank/a", [("zrep_000001", NOON), ("zrep_000002", NOON + 1), ("last", NOON + 2)]);
    e.scene.zfs(&["set", "zrep:src-fs=tank/a", "tank/a"]).expect(0);
    let with = |script: &str| e.expire(&[&LAST[..], &["--zfs", &e.wrapper(script)]].concat());
    let truncate = "$real \"$@\" | head -c -1; exit";
    with(&format!("case \"$*\" in *zrep:src-fs*) {truncate} ;; esac")).expect(69).says("has no end");
    with("case \"$*\" in *zrep:src-fs*) exit 1 ;; esac").expect(69);
    with("case \"$*\" in *zrep:src-fs*) echo \"cannot open 'tank/a': dataset does not exist\" >&2; exit 1 ;; esac")
        .expect(0);
    // If a listing fails or is truncated, each property is read on its own.
    for how in ["exit 1", "$real \"$@\" | head -c 30; exit", "$real \"$@\" | head -n 1; exit", truncate] {
        with(&format!("case \"$*\" in list*zrep:sent*) {how} ;; esac")).expect(0);
    }
    assert_eq!(e.left("tank/a"), "zrep_000001 zrep_000002 last");
    with("case \"$*\" in *zrep:sent*) exit 1 ;; esac").expect(69);
    assert_eq!(e.left("tank/a"), "zrep_000001 zrep_000002 last");
}

#[test]
fn snapshots_of_simplesnap_are_kept_unless_they_were_received() {
    let e = Expirer::new();
    let names = ["__simplesnap_s_1__", "x", "__simplesnap_s_2__", "y"];
    for dataset in ["tank/a", "backup/b"] {
        let _ = e.scene.zfs(&["create", dataset]);
        e.take(dataset, names.iter().enumerate().map(|(n, name)| (*name, NOON + n as u64)));
    }
    e.scene.write("expire.toml", "[policy.\"backup/**\"]\nkeep = [\"last=1\"]\nnewest = 1\nreceived = true\n");
    assert!(table(&e, &["tank"]).contains("simplesnap's own"));
    e.silent(&["--no-needed"]);
    e.silent(&[&LAST[..], &["tank"]].concat());
    assert_eq!(e.left("tank/a"), "__simplesnap_s_1__ __simplesnap_s_2__ y");
    assert_eq!(e.left("backup/b"), "y");
}

/// The guid that a command prints, in the form of the list.
fn guid(e: &Expirer, program: &str, args: &[&str]) -> String {
    let ran = run(Command::new(e.scene.path(program)).args(args), b"").expect(0);
    format!("{:016x}", String::from_utf8(ran.out).unwrap().trim().parse::<u64>().unwrap())
}

/// The guid of a pool.
fn pool(e: &Expirer, name: &str) -> String {
    guid(e, "bin/zpool", &["list", "-Hp", "-o", "guid", name])
}

/// The guid of a snapshot.
fn snapshot(e: &Expirer, name: &str) -> String {
    guid(e, "bin/zfs", &["list", "-Hp", "-t", "snapshot", "-o", "guid", name])
}

/// A pool with `backup/hosts/lab/a`, which has `d5` to `d0`, and a policy for received datasets.
fn received() -> Expirer {
    let e = Expirer::new();
    for dataset in ["backup/hosts/lab", "backup/hosts/lab/a"] {
        e.create(dataset);
    }
    e.daily("backup/hosts/lab/a", 6);
    e.daily("tank/a", 6);
    e.scene.write("expire.toml", "[policy.\"backup/**\"]\nkeep = [\"last=1\"]\nnewest = 1\nreceived = true\n");
    e
}

const ALL: &str = "d5 d4 d3 d2 d1 d0";

#[test]
fn an_invalid_list_of_needed_snapshots_stops_the_run() {
    let e = received();
    let (backup, tank) = (pool(&e, "backup"), pool(&e, "tank"));
    let list =
        |pool: &str, age: u64, word: &str, rest: &str| format!("zsnap-needed 1 {pool} {} {word}\n{rest}", now() - age);
    let good = format!("{} lab/a\nend 1\n", snapshot(&e, "backup/hosts/lab/a@d4"));
    e.expire(&[]).expect(75).says("specify --needed").says("or --no-needed");
    e.expire(&["--needed", "none"]).expect(75).says("none: no list of needed snapshots: run zsnap-ingest first");
    e.expire(&["--needed", ""]).expect(75).says("run it first");
    for (text, says) in [
        (String::new(), "is not a list of needed snapshots"),
        ("zsnap-needed 2 x\n".into(), "is not a list of needed snapshots"),
        (list(&backup, 0, "running", &good), "is not complete"),
        (list(&backup, 0, "complete ", &good), "is not a list of needed snapshots"),
        (list(&backup, 0, "complete", ""), "it was cut off"),
        (list(&backup, 0, "complete", &good.replace("end 1\n", "")), "it was cut off"),
        (list(&backup, 0, "complete", &good.replace("end 1", "end 2")), "it was cut off"),
        (list(&backup, 0, "complete", &(good.clone() + "all lab\n")), "goes on behind its end"),
        (list(&backup, 0, "complete", &format!("rubbish\n{good}")), "\"rubbish\""),
        (list(&backup, 0, "complete", &format!("xyz lab/a\n{good}")), "xyz"),
        (list(&backup, 25 * 3600, "complete", &good), "is 25 hours old: run zsnap-ingest first"),
    ] {
        e.scene.write("needed", &text);
        e.scene.write("good", &list(&backup, 0, "complete", &good));
        e.expire(&["--needed", "good", "--needed", "needed"]).expect(75).says("needed ").says(says);
        for more in [&[][..], &["-n"], &["--force"], &["--at", "2100-01-01T00:00Z"]] {
            e.expire(&[&["--needed", "needed"][..], more].concat()).expect(75).says("needed ").says(says);
        }
        assert_eq!(e.left("backup/hosts/lab/a"), ALL, "{text}");
    }
    e.scene.write("needed", &list(&tank, 0, "complete", &good));
    e.expire(&["--needed", "needed"]).expect(75).says("is of the pool backup");
    // Others may write to the list, or it is not a regular file.
    std::fs::set_permissions(e.scene.path("good"), std::fs::Permissions::from_mode(0o666)).unwrap();
    e.expire(&["--needed", "good"]).expect(75).says("may be changed by others");
    run(Command::new("mkfifo").arg(e.scene.path("fifo")), b"").expect(0);
    e.expire(&["--needed", "fifo"]).expect(75).says("is not a regular file");
    assert_eq!(e.left("backup/hosts/lab/a"), ALL);
    // No list is needed where nothing was received.
    e.expire(&["tank"]).expect(0);
    // A list is valid until it is a day old, also with --at.
    e.scene.write("needed", &list(&backup, 23 * 3600, "complete", &good));
    e.expire(&["--needed", "needed", "--at", "2100-01-01T00:00Z"]).expect(0);
    e.silent(&["--needed", "needed"]);
    assert_eq!(e.left("backup/hosts/lab/a"), "d4 d0");
    e.silent(&["--no-needed"]);
    assert_eq!(e.left("backup/hosts/lab/a"), "d0");
}

#[test]
fn a_line_all_of_the_list_keeps_a_whole_dataset() {
    let e = received();
    e.create("backup/hosts/lab/b");
    e.daily("backup/hosts/lab/b", 6);
    let list = |line: &str| {
        e.scene.write("needed", &format!("zsnap-needed 1 {} {} complete\n{line}\nend 1\n", pool(&e, "backup"), now()));
        e.expire(&["--needed", "needed"]).expect(0);
        (e.left("backup/hosts/lab/a"), e.left("backup/hosts/lab/b"))
    };
    assert_eq!(list("all lab"), (ALL.into(), ALL.into()));
    assert_eq!(list("all lab/a"), (ALL.into(), "d0".into()));
    let table = e.prints(0, &["--needed", "needed", "-n"]);
    assert_eq!(table.matches("zsnap-ingest needs it").count(), 6, "{table}");
    assert_eq!(list("all lab/other"), ("d0".into(), "d0".into()));
}

#[test]
fn a_list_applies_although_no_policy_is_for_received_datasets() {
    let e = received();
    e.scene.write("expire.toml", "");
    let text = |pool: &str| {
        format!("zsnap-needed 1 {pool} {} complete\n{} lab/a\nend 1\n", now(), snapshot(&e, "backup/hosts/lab/a@d3"))
    };
    e.scene.write("needed", &text(&pool(&e, "tank")));
    let args = [&LAST[..], &["--needed", "needed", "backup"]].concat();
    e.expire(&args).expect(75).says("is of the pool");
    // Of several lists all those of the pool count; that of a drive that is away may be old.
    let old = format!("zsnap-needed 1 {:016x} 1000 complete\nend 0\n", 77);
    e.scene.write("of-another", &old);
    e.scene.write("of-backup", &text(&pool(&e, "backup")));
    let more = text(&pool(&e, "backup"))
        .replace(&snapshot(&e, "backup/hosts/lab/a@d3"), &snapshot(&e, "backup/hosts/lab/a@d4"));
    e.scene.write("of-backup-too", &more);
    e.silent(&[&args[..], &["--needed", "of-another", "--needed", "of-backup", "--needed", "of-backup-too"]].concat());
    assert_eq!(e.left("backup/hosts/lab/a"), "d4 d3 d0");
}

#[test]
fn each_pool_has_its_own_list_with_or_without_received() {
    let e = received();
    let list = |of: &str, snap: &str| {
        let text = format!("zsnap-needed 1 {} {} complete\n{} x\nend 1\n", pool(&e, of), now(), snapshot(&e, snap));
        e.scene.write(of, &text);
    };
    list("backup", "backup/hosts/lab/a@d4");
    list("tank", "tank/a@d3");
    // Each pool with received datasets needs a list.
    e.scene.write("both.toml", "[policy.\"**\"]\nkeep = [\"last=1\"]\nreceived = true\n");
    e.expire(&["-c", "both.toml", "--needed", "backup"]).expect(75).says("is of the pool tank");
    e.silent(&[&LAST[..], &["--needed", "backup", "--needed", "tank"]].concat());
    assert_eq!((e.left("backup/hosts/lab/a"), e.left("tank/a")), ("d4 d0".into(), "d3 d0".into()));
}

const SEQ: u64 = 1_700_000_000_000_000;
const HOME: &str = "backup/hosts/laptop/tank/home";

/// Queues file number `seq` of laptop/tank/home: snapshot `to` on `from` (0: none).
fn put(e: &Expirer, seq: u64, from: u64, to: u64) {
    let toname = format!("tank/home@s{to}");
    let sub = if from == 0 { Sub::full(&toname, to) } else { Sub::increment(&toname, from, to) };
    let stream = Stream::plain(sub).bytes();
    let (mut manifest, trailer) = described("laptop/tank/home", SEQ + seq, &stream);
    manifest.prev = (seq > 0).then(|| SEQ + seq - 1);
    let key = SigningKey::load(&e.scene.path("laptop.key"), std::time::SystemTime::now()).unwrap();
    let sealed = seal_with(&manifest, trailer, Some(&key), &e.scene.path("backup.cert"), &stream);
    e.scene.deliver("laptop", &name("laptop/tank/home", SEQ + seq), &sealed);
}

#[test]
fn the_base_of_the_next_incremental_is_kept() {
    let e = Expirer::new();
    e.scene.write("expire.toml", "[policy.\"backup/**\"]\nkeep = [\"last=1\"]\nnewest = 1\nreceived = true\n");
    let needed = || {
        let ran = e.scene.ingest(&["status", "--needed-file"]).expect(0);
        String::from_utf8(ran.out).unwrap().trim().to_owned()
    };
    for n in 0..4 {
        put(&e, n, n, n + 1);
    }
    e.scene.ingest(&[]).expect(0);
    assert_eq!(e.left(HOME), "s1 s2 s3 s4");
    // s6 arrives before s5 and waits, and a snapshot is made by hand.
    put(&e, 5, 5, 6);
    e.scene.ingest(&[]);
    assert_eq!(e.scene.spooled("laptop").len(), 1);
    e.scene.zfs(&["snapshot", &format!("{HOME}@ours")]).expect(0);
    e.expire(&["--needed", &needed()]).expect(0);
    assert_eq!(e.left(HOME), "s4 ours", "s4, on which the chain continues, was destroyed");
    e.scene.zfs(&["destroy", &format!("{HOME}@ours")]).expect(0);
    put(&e, 4, 4, 5);
    e.scene.ingest(&[]).expect(0);
    assert_eq!(e.left(HOME), "s4 s5 s6");
    assert!(e.scene.spooled("laptop").is_empty());
    e.expire(&["--needed", &needed()]).expect(0);
    assert_eq!(e.left(HOME), "s6");
    put(&e, 6, 6, 7);
    put(&e, 7, 7, 8);
    e.scene.ingest(&[]).expect(0);
    assert_eq!(e.left(HOME), "s6 s7 s8");
    // A file that cannot be verified: all snapshots of its dataset are kept.
    let unsigned = e.scene.seal(&manifest("laptop/tank/home", SEQ + 8), None, b"");
    e.scene.deliver("laptop", &name("laptop/tank/home", SEQ + 8), &unsigned);
    e.scene.ingest(&[]);
    e.expire(&["--needed", &needed()]).expect(0);
    assert_eq!(e.left(HOME), "s6 s7 s8");
}
