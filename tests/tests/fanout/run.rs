//! A run of zsnap-fanout: which drives get which files, what is ignored, and what is reported.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use zsnap_tests::scene::{Ran, have, run};
use zsnap_tests::spooler::{Spooler, tree};

/// Runs zsnap-fanout at another time; `None`: faketime is not installed.
fn at(spooler: &Spooler, time: &str, args: &[&str]) -> Option<Ran> {
    if !have("faketime") {
        return None;
    }
    let mut command = spooler.under(&["faketime", "-f", time], args);
    Some(run(command.env("TZ", "UTC").env("NO_FAKE_STAT", "1"), b""))
}

#[test]
fn every_drive_gets_every_file_and_the_spool_is_empty_afterwards() {
    let spooler = Spooler::with(&["disk1", "disk2"]);
    let digest = format!("bakfsfmt2-1700000000.000000001.7_laptop@~{}", "0f".repeat(16));
    let script_name = "backupsfmt2-1612345678.123456789_server@tank@home".to_owned();
    spooler.put_as("laptop", &digest, "digest");
    spooler.put_as("server", &script_name, "seed");
    let many: Vec<_> = (0..20).map(|n| spooler.put("laptop/a/b c", n, n.to_string())).collect();
    spooler.put("laptop/big", 1, vec![7; 3_000_001]);
    spooler.silent_run();
    assert!(spooler.left().is_empty());
    for disk in ["disk1", "disk2"] {
        assert_eq!(spooler.on(disk).len(), 23);
        for (n, name) in many.iter().enumerate() {
            assert_eq!(fs::read_to_string(spooler.path(disk).join("laptop").join(name)).unwrap(), n.to_string());
        }
        let file = spooler.path(disk).join("laptop").join(&digest);
        assert_eq!(fs::read(&file).unwrap(), b"digest");
        assert_eq!((fs::metadata(&file).unwrap().nlink(), fs::metadata(&file).unwrap().mode() & 0o777), (1, 0o600));
        assert_eq!(fs::read(spooler.path(disk).join("server").join(&script_name)).unwrap(), b"seed");
        assert!(spooler.waiting(disk).is_empty());
    }
    let one = |disk: &str| fs::metadata(spooler.path(disk).join("laptop").join(&digest)).unwrap().ino();
    assert_ne!(one("disk1"), one("disk2"), "two drives share one file");
    // No file is left in the spool; a run with nothing to do succeeds.
    assert!(!tree(&spooler.path("spool")).iter().any(|path| path.contains("fmt2-")));
    spooler.silent_run();
    let ran = spooler.fanout(&["-v"]).expect(0);
    assert!(!ran.err.contains("fmt2-"), "{}", ran.err);
}

#[test]
fn a_second_file_of_one_name_gets_a_suffix_unless_it_is_identical() {
    let spooler = Spooler::with(&["disk1", "disk2"]);
    let name = spooler.put("laptop/a", 1, "one");
    spooler.silent_run();
    // NNCP delivers it again; disk2 is away, so that all files wait for it.
    fs::rename(spooler.path("disk2/.zsnap-drive"), spooler.path("mark")).unwrap();
    for (as_name, bytes) in [(&name, "one"), (&name, "two"), (&format!("{name}.0"), "three"), (&name, "two")] {
        spooler.put_as("laptop", as_name, bytes);
        spooler.silent_run();
    }
    assert_eq!(spooler.waiting("disk2").len(), 3);
    fs::rename(spooler.path("mark"), spooler.path("disk2/.zsnap-drive")).unwrap();
    spooler.silent_run();
    for disk in ["disk1", "disk2"] {
        let on = spooler.on(disk);
        assert!(on.iter().all(|path| path.starts_with(&format!("laptop/{name}"))), "{on:?}");
        let mut bytes: Vec<_> =
            on.iter().map(|path| fs::read_to_string(spooler.path(disk).join(path)).unwrap()).collect();
        bytes.sort();
        assert_eq!(
            (bytes, on[1].strip_prefix(&on[0])),
            (["one", "three", "two"].map(str::to_owned).to_vec(), Some(".0"))
        );
    }
}

#[test]
fn a_drive_gets_only_the_files_of_its_hosts() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "hosts = [\"lap*\", \"srv\"]");
    spooler.drive("disk2", "hosts = [\"srv\"]");
    for host in ["laptop", "srv", "other"] {
        spooler.put(&format!("{host}/a"), 1, host);
    }
    let ran = spooler.fanout(&[]).expect(1).says("other: no drive takes its files, which stay here");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    let hosts =
        |disk| spooler.on(disk).iter().map(|path| path.split_once('/').unwrap().0.to_owned()).collect::<Vec<_>>();
    assert_eq!((hosts("disk1"), hosts("disk2")), (vec!["laptop".into(), "srv".into()], vec!["srv".into()]));
    assert_eq!(spooler.left().len(), 1);
    spooler.silent_run();
    spooler.edit("\"lap*\"", "\"*\"");
    spooler.silent_run();
    assert_eq!(hosts("disk1"), ["laptop", "other", "srv"]);
    assert!(spooler.left().is_empty());
}

#[test]
fn names_that_are_not_queue_files_are_ignored_and_reported_once() {
    let spooler = Spooler::with(&["disk1"]);
    let name = spooler.put("laptop/a", 1, "good");
    let at = |path: &str| spooler.path("spool").join(path);
    // Known names are not reported: those of zsnap, of NNCP, and hidden ones.
    for known in [".zsnap-0123456789abcdef", ".nncp.x", "nncpfile12345", ".hidden", "x.part"] {
        spooler.put_as("laptop", known, "temporary");
    }
    spooler.put_as("laptop", &format!("{name}x.nncp.chunk0"), "chunk");
    spooler.put_as("laptop", &format!("{name}x.nncp.meta"), "meta");
    spooler.put_as("lost+found", "#12", "");
    spooler.put_as(".stfolder", "x", "");
    spooler.silent_run();
    // Strange names are reported but need no action.
    spooler.put_as("laptop", "notes=1.txt", "mine");
    spooler.put_as("laptop", "bakfsfmt2-x_laptop@a", "misspelt");
    spooler.put_as("no@host", "x", "");
    fs::create_dir(at("laptop/directory")).unwrap();
    fs::write(at("file"), "").unwrap();
    symlink(spooler.path("disk1"), at("link")).unwrap();
    // These have names of queue files.
    let odd = |n: u64, dataset: &str| zsnap_tests::scene::name(&format!("laptop/{dataset}"), n);
    symlink("/etc/passwd", at("laptop").join(odd(2, "symlink"))).unwrap();
    fs::create_dir(at("laptop").join(odd(3, "dir"))).unwrap();
    spooler.put_as("laptop", &odd(4, "links"), "two names");
    fs::hard_link(at("laptop").join(odd(4, "links")), at("laptop/other-name")).unwrap();
    let misplaced = zsnap_tests::scene::name("server/a", 5);
    spooler.put_as("laptop", &misplaced, "of another host");
    let before = spooler.left();
    let mut ran = spooler.fanout(&[]).expect(1);
    for (what, why) in [
        ("laptop/notes=1.txt", "is not the name of a queue file; ignored"),
        ("laptop/bakfsfmt2-x_laptop@a", "is not the name"),
        ("laptop/directory", "is not the name"),
        ("laptop/other-name", "is not the name"),
        ("no@host", "is not the name of a host; ignored"),
        ("file", "is not a directory of a host"),
        ("link", "is not a directory of a host"),
        (&format!("laptop/{}", odd(2, "symlink")), "is a symbolic link; ignored"),
        (&format!("laptop/{}", odd(3, "dir")), "is not a regular file; ignored"),
        (&format!("laptop/{}", odd(4, "links")), "has 2 names (hard links); ignored"),
        (&format!("laptop/{misplaced}"), "is a file of server, not of laptop; ignored"),
    ] {
        ran = ran.says(&format!(" {what}: {why}"));
    }
    assert_eq!(ran.err.lines().count(), 11, "{}", ran.err);
    assert_eq!(spooler.left(), before);
    spooler.silent_run();
    // They are not reported again after a run that did not list the spool because another one held the lock.
    let lock = zsnap_common::locks::flock::Lock::try_new(&at(".zsnap-fanout/lock")).unwrap().unwrap();
    spooler.silent_run();
    drop(lock);
    spooler.silent_run();
    assert_eq!((spooler.left(), spooler.on("disk1")), (before, vec![format!("laptop/{name}")]));
}

#[test]
fn persistent_conditions_are_reported_when_new_and_daily() {
    let spooler = Spooler::with(&["away"]);
    spooler.to("bad", "cmd:echo no tape >&2; exit 3", "");
    fs::remove_dir_all(spooler.path("away")).unwrap();
    let name = spooler.put("laptop/a", 1, "x");
    let ran = spooler.fanout(&[]).expect(1);
    let message = format!("bad: {name}: cmd failed (exit status: 3): no tape; the next run tries again");
    assert!(ran.err.contains(&message) && ran.err.lines().count() == 1, "{}", ran.err);
    spooler.silent_run();
    // With -v everything is reported, also the drive that is away.
    spooler.fanout(&["-v"]).expect(0).says(&message).says("away is away: ").says("/away is not there");
    // Another number is not a change, another cause is. A condition that ended and came back is new.
    spooler.edit("exit 3", "exit 4");
    spooler.silent_run();
    for (from, to) in [("no tape", "dust"), ("exit 4", "kill -9 $$")] {
        spooler.edit(from, to);
        assert_eq!(spooler.fanout(&[]).expect(1).says(&format!("bad: {name}: ")).err.lines().count(), 1);
    }
    spooler.edit("kill -9 $$", "exit 4");
    spooler.fanout(&[]).expect(1).says("dust");
    spooler.edit("exit 4", "exit 0");
    spooler.silent_run();
    spooler.edit("exit 0", "exit 5");
    spooler.put("laptop/a", 2, "x");
    spooler.fanout(&[]).expect(1).says("exit status: 5");
    assert_eq!(spooler.waiting("away").len(), 2);
    if let Some(ran) = at(&spooler, "+23h", &[]) {
        assert_eq!(ran.expect(0).err, "");
        assert_eq!(at(&spooler, "+25h", &[]).unwrap().expect(1).says("exit status: 5").err.lines().count(), 1);
    }
}

#[test]
fn many_failures_of_a_drive_are_summarized() {
    let spooler = Spooler::new();
    spooler.to("bad", "cmd:exit 3", "");
    (0..10).for_each(|n| drop(spooler.put(&format!("laptop/d{n}"), n, "x")));
    let ran = spooler.fanout(&[]).expect(1).says("bad: 7 more files were not delivered; zsnap-fanout status tells");
    assert_eq!(ran.err.lines().count(), 4, "{}", ran.err);
    spooler.silent_run();
}

#[test]
fn a_new_drive_gets_only_new_files() {
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("laptop/a", 1, "x");
    spooler.silent_run();
    spooler.drive("disk2", "");
    let second = spooler.put("laptop/a", 2, "x");
    spooler.silent_run();
    assert_eq!((spooler.on("disk1").len(), spooler.on("disk2")), (2, vec![format!("laptop/{second}")]));
}

#[test]
fn a_day_or_time_of_requeue_is_local() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "keep = \"3d\"");
    let name = format!("laptop/{}", spooler.put("laptop/a", 1, "x"));
    spooler.silent_run();
    let kept = spooler.path("spool/.zsnap-fanout/kept/disk1");
    let day = fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
    fs::rename(day, kept.join("2026-11-19")).unwrap();
    let requeue = |zone: &str, since: &str, status: i32| {
        let mut command = spooler.command(["requeue", "disk1", "--since", since]);
        run(command.env("TZ", zone), b"").expect(status);
        let waiting = spooler.waiting("disk1");
        waiting.iter().for_each(|name| fs::remove_file(spooler.outbox("disk1").join(name)).unwrap());
        waiting
    };
    // Fourteen hours east of Greenwich, the 20th begins at 10:00 on the 19th.
    for (zone, since, waits) in [
        ("<+14>-14", "2026-11-20", true),
        ("<+14>-14", "2026-11-20 13:30", true),
        ("<+14>-14", "2026-11-20 14:30", false),
        ("<+14>-14", "2026-11-19T23:59Z", true),
        ("UTC", "2026-11-20", false),
        ("UTC", "2026-11-19 23:59", true),
    ] {
        let waiting = requeue(zone, since, if waits { 0 } else { 1 });
        assert_eq!(waiting, if waits { vec![name.clone()] } else { vec![] }, "{zone} {since}");
    }
}

#[test]
fn kept_files_can_be_requeued_by_day() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "keep = \"3d\"");
    spooler.drive("disk2", "");
    let Some(_) = at(&spooler, "@2026-11-18 12:00:00", &[]) else { return };
    let mut names = Vec::new();
    for day in 18..=20 {
        names.push(format!("laptop/{}", spooler.put("laptop/a", day, day.to_string())));
        let ran = at(&spooler, &format!("@2026-11-{day} 23:59:50"), &[]).unwrap().expect(0);
        assert_eq!(ran.err, "");
    }
    let kept = || tree(&spooler.path("spool/.zsnap-fanout/kept"));
    let days =
        |from: usize| (from..=20).map(|day| format!("disk1/2026-11-{day}/{}", names[day - 18])).collect::<Vec<_>>();
    assert_eq!(kept(), days(18));
    // The drive has lost all files; only those that it got since the 19th are requeued.
    for name in &names {
        fs::remove_file(spooler.path("disk1").join(name)).unwrap();
    }
    let requeue = |name, time, since| at(&spooler, time, &["requeue", name, "--since", since]).unwrap();
    requeue("disk1", "@2026-11-20 12:00:00", "2026-11-19").expect(0);
    assert_eq!(spooler.waiting("disk1"), names[1..]);
    assert_eq!(at(&spooler, "@2026-11-20 12:00:00", &[]).unwrap().expect(0).err, "");
    assert_eq!(spooler.on("disk1"), names[1..]);
    // The drive has got this file on two days.
    fs::remove_file(spooler.path("spool/.zsnap-fanout/kept/disk1/2026-11-20").join(&names[1])).unwrap();
    assert_eq!(kept(), days(18));
    // Requeued by age; the files that the drive still has are recognised.
    requeue("disk1", "@2026-11-20 12:00:00", "2d").expect(0);
    assert_eq!(spooler.waiting("disk1"), names);
    assert_eq!(at(&spooler, "@2026-11-20 12:00:00", &[]).unwrap().expect(0).err, "");
    assert_eq!((spooler.on("disk1"), spooler.waiting("disk1").len()), (names.clone(), 0));
    assert_eq!(fs::read_to_string(spooler.path("disk1").join(&names[0])).unwrap(), "18");
    for again in &names[..2] {
        fs::remove_file(spooler.path("spool/.zsnap-fanout/kept/disk1/2026-11-20").join(again)).unwrap();
    }
    // No file of these days, a drive without kept files, an invalid day, an unknown drive.
    requeue("disk1", "@2026-11-20 12:00:00", "2026-11-21")
        .expect(1)
        .says("nothing that disk1 got since 2026-11-21 00:00:00Z is kept");
    requeue("disk2", "@2026-11-20 12:00:00", "9d").expect(1).says("give keep a longer time");
    requeue("disk1", "@2026-11-20 12:00:00", "yesterday").expect(2).says("is not a time");
    requeue("disk9", "@2026-11-20 12:00:00", "1d").expect(2).says("no drive is called disk9; there are disk1, disk2");
    // Files are kept for three days before the newest and no longer. The drive's own copies stay.
    assert_eq!(at(&spooler, "@2026-11-22 12:00:00", &[]).unwrap().expect(0).err, "");
    assert_eq!(kept(), days(18));
    fs::create_dir(spooler.path("spool/.zsnap-fanout/kept/disk1/2026-11-21")).unwrap();
    at(&spooler, "@2026-11-22 12:00:00", &["-v"])
        .unwrap()
        .expect(0)
        .says("disk1: what was delivered on 2026-11-18 is no longer kept");
    assert_eq!((kept(), spooler.on("disk1").len()), (days(19), 3));
    // Without the key `keep` the kept files stay.
    spooler.edit("keep = \"3d\"", "");
    assert_eq!(at(&spooler, "@2026-12-24 00:00:00", &[]).unwrap().expect(0).err, "");
    assert_eq!(kept(), days(19));
}

#[test]
fn a_drive_is_retired_only_when_it_is_no_longer_configured() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "");
    spooler.drive("disk2", "keep = \"9d\"");
    let kept = spooler.put("laptop/a", 1, "kept");
    spooler.silent_run();
    fs::remove_file(spooler.path("disk2/.zsnap-drive")).unwrap();
    let waits = spooler.put("laptop/a", 2, "waits");
    spooler.silent_run();
    spooler.fanout(&["retire", "disk2"]).expect(78).says("disk2 is in the configuration: remove it there first");
    spooler.fanout(&["retire", "disk9"]).expect(2).says("no drive disk9 has an outbox");
    // With a misspelt name nothing is done, and the remedy is reported each time.
    spooler.edit("[to.disk2]", "[to.dsik2]");
    let late = spooler.put("laptop/a", 3, "late");
    for _ in 0..2 {
        let ran = spooler.fanout(&[]).expect(78).says("the drive disk2 has an outbox, but is not in the configuration");
        assert!(ran.err.contains("zsnap-fanout retire disk2"), "{}", ran.err);
    }
    assert_eq!((spooler.left(), spooler.on("disk1").len()), (vec![format!("laptop/{late}")], 2));
    assert!(!spooler.outbox("dsik2").exists());
    let (before, after) = (spooler.config(), "[to.dsik2]");
    spooler.write("fanout.toml", before.split_once(after).unwrap().0);
    let ran = spooler.fanout(&["retire", "disk2"]).expect(0);
    assert!(ran.err.contains("disk2 is retired; 1 files that it did not get lie in "), "{}", ran.err);
    let remedy = format!(
        "; 1 of them are the only copies here: move these, HOST/FILE, into {}, ",
        spooler.path("spool").display()
    );
    assert!(ran.err.contains(&remedy), "{}", ran.err);
    let mut retired = tree(&spooler.path("spool/.zsnap-fanout/retired/disk2"));
    retired.retain(|path| path.contains("fmt2-"));
    assert_eq!(retired.len(), 2, "{retired:?}");
    assert_eq!(retired[1], format!("laptop/{waits}"));
    assert!(retired[0].starts_with("kept/2") && retired[0].ends_with(&kept));
    // disk1 already has the file, which is recognised.
    let put_away = format!("spool/.zsnap-fanout/retired/disk2/laptop/{waits}");
    fs::rename(spooler.path(put_away), spooler.path("spool/laptop").join(&waits)).unwrap();
    spooler.silent_run();
    assert_eq!((spooler.on("disk1").len(), spooler.left().len()), (3, 0));
    // A file that also waits for another drive is not among the only copies.
    spooler.drive("disk3", "");
    fs::remove_file(spooler.path("disk1/.zsnap-drive")).unwrap();
    fs::remove_file(spooler.path("disk3/.zsnap-drive")).unwrap();
    spooler.put("laptop/a", 4, "for both");
    spooler.fanout(&[]).expect(1).says("zsnap-fanout init disk3");
    let (before, _) = spooler.config().split_once("[to.disk3]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    spooler.write("fanout.toml", &before);
    let ran = spooler.fanout(&["retire", "disk3"]).expect(0).says(": remove it when nobody needs them");
    assert!(!ran.err.contains("nowhere else"), "{}", ran.err);
}

#[test]
fn a_configuration_that_could_lose_files_is_rejected() {
    let spooler = Spooler::with(&["disk1"]);
    let name = spooler.put("laptop/a", 1, "x");
    let dest = format!("dir:{}", spooler.path("disk1").display());
    spooler.to("disk2", &dest, "");
    spooler.fanout(&[]).expect(78).says("the drives disk1 and disk2 are both dir:").says("two copies");
    spooler.write("fanout.toml", &format!("spool = '{}'\n", spooler.path("spool").display()));
    spooler.fanout(&[]).expect(78).says("no drive is configured: specify --to NAME=DEST, or a table [to.NAME]");
    spooler.fanout(&["--to", "x=-"]).expect(78).says("standard output takes no finished files");
    spooler.fanout(&["--to", "../x=dir:/mnt"]).expect(2).says("is not a name of a drive");
    spooler.write("fanout.toml", "[to.disk1]\ndest = 'dir:/x'\nhost = ['a']\n");
    spooler.fanout(&[]).expect(78).says("host");
    spooler.write("fanout.toml", "");
    spooler.fanout(&["--to", &format!("disk1={dest}")]).expect(78).says("no spool: specify --spool");
    spooler.fanout(&["--spool", "/nowhere", "--to", &format!("disk1={dest}")]).expect(78).says("/nowhere");
    assert_eq!((spooler.left(), spooler.on("disk1").len()), (vec![format!("laptop/{name}")], 0));
    // All settings are on the command line.
    let spool = spooler.path("spool");
    let to = format!("disk1={dest}");
    let mut command = spooler.command(["--to", &to, "--spool", spool.to_str().unwrap()]);
    assert_eq!(run(&mut command, b"").expect(0).err, "");
    assert_eq!(spooler.on("disk1"), [format!("laptop/{name}")]);
}

#[test]
fn the_state_is_private_and_a_writable_one_is_rejected() {
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("laptop/a", 1, "x");
    spooler.silent_run();
    let state = spooler.path("spool/.zsnap-fanout");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o770)).unwrap();
    // Waiting files may have no other copy, so the remedy must not be to remove the state.
    let (ran, state) = (spooler.fanout(&[]).expect(78), state.display());
    assert!(ran.err.contains(&format!("others can write to {state}: chmod 700 {state}")), "{}", ran.err);
    assert!(!ran.err.contains("remove"), "{}", ran.err);
}

#[test]
fn a_host_may_have_the_name_of_a_state_file() {
    let spooler = Spooler::with(&["disk1"]);
    for host in ["lock", "seen.json", "told.json", "dest.json", "kept"] {
        spooler.put(&format!("{host}/a"), 1, host);
    }
    spooler.silent_run();
    assert_eq!((spooler.on("disk1").len(), spooler.waiting("disk1").len()), (5, 0));
    spooler.put("laptop/a", 2, "x");
    spooler.silent_run();
    assert_eq!(spooler.on("disk1").len(), 6);
}

#[test]
fn a_clock_that_was_once_ahead_expires_no_kept_files() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "keep = \"14d\"");
    let kept = || tree(&spooler.path("spool/.zsnap-fanout/kept/disk1"));
    for (n, time) in ["2026-11-10", "2026-11-18", "2026-11-20", "2030-01-01", "2026-11-21"].iter().enumerate() {
        spooler.put("laptop/a", n as u64, "x");
        let Some(ran) = at(&spooler, &format!("@{time} 12:00:00"), &[]) else { return };
        assert_eq!(ran.expect(0).err, "");
        assert_eq!(kept().len(), n + 1, "{:?}", kept());
    }
    // Days are counted while the clock is right.
    assert_eq!(at(&spooler, "@2026-11-25 12:00:00", &[]).unwrap().expect(0).err, "");
    assert_eq!(kept().len(), 5);
    spooler.put("laptop/a", 9, "x");
    for time in ["@2026-11-25 12:00:00", "@2026-11-26 12:00:00"] {
        assert_eq!(at(&spooler, time, &[]).unwrap().expect(0).err, "");
    }
    assert!(!kept().iter().any(|path| path.starts_with("2026-11-10")), "{:?}", kept());
    assert_eq!(kept().len(), 5);
}
