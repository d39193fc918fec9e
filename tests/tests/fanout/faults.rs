//! One drive fails and the others finish: full disks, broken disks, copies that differ. The message names the drive,
//! the path, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use zsnap_tests::scene::{Ran, needs_root, run};
use zsnap_tests::spooler::Spooler;
use zsnap_tests::strace::{can_trace, parse};

/// A mounted file system, which is unmounted on drop.
struct Mount(PathBuf);

impl Mount {
    fn new(args: &[&str], from: &Path, at: &Path) -> Mount {
        needs_root();
        run(Command::new("mount").args(args).arg(from).arg(at), b"").expect(0);
        Mount(at.to_owned())
    }

    fn tmpfs(at: &Path, size: &str) -> Mount {
        Mount::new(&["-t", "tmpfs", "-o", &format!("size={size}")], "tmpfs".as_ref(), at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

fn names<const N: usize>(files: [&String; N]) -> Vec<String> {
    files.map(|name| format!("laptop/{name}")).to_vec()
}

/// Asserts that a run printed one line, which contains these texts.
#[track_caller]
fn one_line(ran: &Ran, texts: &[&str]) {
    assert!(ran.err.lines().count() == 1 && texts.iter().all(|text| ran.err.contains(text)), "{}", ran.err);
}

#[test]
fn a_full_drive_gets_what_fits_and_the_rest_in_order_later_as_root() {
    let spooler = Spooler::with(&["disk1", "disk2"]);
    fs::create_dir(spooler.path("full")).unwrap();
    let _mount = Mount::tmpfs(&spooler.path("full"), "1m");
    spooler.mark("full", "full");
    spooler.to("full", &format!("dir:{}", spooler.path("full").display()), "");
    fs::write(spooler.path("full/somebody's"), vec![1; 600 << 10]).unwrap();
    let a1 = spooler.put("laptop/a", 1, vec![1; 100 << 10]);
    let a2 = spooler.put("laptop/a", 2, vec![2; 600 << 10]);
    let b3 = spooler.put("laptop/b", 3, vec![3; 100 << 10]);
    let a4 = spooler.put("laptop/a", 4, vec![4; 1 << 10]);
    let b5 = spooler.put("laptop/b", 5, vec![5; 1 << 10]);
    let ran = spooler.fanout(&[]).expect(1);
    let path = spooler.path("full").display().to_string();
    one_line(
        &ran,
        &[&format!("full: {a2}: {path}: 600.0 KiB do not fit"), "make room there; the next run tries again"],
    );
    let mut delivered = spooler.on("full");
    delivered.retain(|path| path != "somebody's");
    // There is no partial file, and no file that follows the one that did not fit in its dataset.
    assert_eq!(delivered, names([&a1, &b3, &b5]));
    assert_eq!(spooler.waiting("full"), names([&a2, &a4]));
    for disk in ["disk1", "disk2"] {
        assert_eq!(spooler.on(disk), names([&a1, &a2, &b3, &a4, &b5]));
    }
    spooler.silent_run();
    fs::remove_file(spooler.path("full/somebody's")).unwrap();
    let ran = spooler.fanout(&["-v"]).expect(0);
    let at = |name: &str| ran.err.find(&format!("{name} was delivered to full")).unwrap();
    assert!(at(&a2) < at(&a4));
    assert_eq!(spooler.on("full"), names([&a1, &a2, &b3, &a4, &b5]));
    assert_eq!(fs::read(spooler.path("full/laptop").join(a2)).unwrap(), vec![2; 600 << 10]);
}

/// Only a delivery makes room in a full spool.
#[test]
fn a_spool_that_is_full_or_cannot_be_locked_is_still_drained_as_root() {
    let spooler = Spooler::with(&["disk1"]);
    let _mount = Mount::tmpfs(&spooler.path("spool"), "1m");
    let mark = [spooler.path("disk1/.zsnap-drive"), spooler.path("mark")];
    let away = |is: bool| fs::rename(&mark[usize::from(!is)], &mark[usize::from(is)]).unwrap();
    away(true);
    let one = spooler.put("laptop/a", 1, vec![1; 300 << 10]);
    spooler.fanout(&[]).expect(1).says("if it is mounted and new: zsnap-fanout init disk1");
    let two = spooler.put("laptop/a", 2, vec![1; 300 << 10]);
    let fill = fs::write(spooler.path("spool/somebody's"), vec![1; 1 << 20]);
    assert_eq!(fill.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    away(false);
    let ran = spooler.fanout(&[]).expect(73);
    one_line(&ran, &["the spool: ", "lock.dotlock: No space left", "until this is fixed no new files are taken"]);
    assert_eq!((spooler.on("disk1"), spooler.waiting("disk1").len()), (names([&one]), 0));
    fs::remove_file(spooler.path("spool/somebody's")).unwrap();
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), names([&one, &two]));
    // The lock file cannot be made for another reason.
    away(true);
    let three = spooler.put("laptop/a", 3, "x");
    spooler.silent_run();
    away(false);
    let four = spooler.put("laptop/a", 4, "x");
    let dotlock = ["--dotlock", "/nonexistent/x"];
    one_line(&spooler.fanout(&dotlock).expect(78), &["the spool: /nonexistent: No such file"]);
    assert_eq!(spooler.fanout(&dotlock).expect(0).err, "");
    assert_eq!(spooler.on("disk1"), names([&one, &two, &three]));
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), names([&one, &two, &three, &four]));
}

#[test]
fn a_file_that_cannot_be_kept_is_not_delivered_repeatedly() {
    let spooler = Spooler::new();
    let received = spooler.path("took").display().to_string();
    spooler.to("tape", &format!("cmd:cat >> {received}"), "keep = \"9d\"");
    fs::create_dir_all(spooler.path("spool/.zsnap-fanout/kept")).unwrap();
    fs::set_permissions(spooler.path("spool/.zsnap-fanout"), PermissionsExt::from_mode(0o700)).unwrap();
    spooler.write("spool/.zsnap-fanout/kept/tape", "");
    spooler.put("laptop/a", 1, "x");
    let path = spooler.path("spool/.zsnap-fanout/kept/tape").display().to_string();
    let ran = spooler.fanout(&[]).expect(1);
    one_line(
        &ran,
        &["tape: nothing is delivered, because delivered files cannot be kept: ", &path, "; the next run tries again"],
    );
    spooler.silent_run();
    assert_eq!((fs::exists(&received).unwrap(), spooler.waiting("tape").len()), (false, 1));
    fs::remove_file(&path).unwrap();
    spooler.silent_run();
    assert_eq!((fs::read_to_string(&received).unwrap().as_str(), spooler.waiting("tape").len()), ("x", 0));
}

/// Others write to the drive at the same time and use up the space during a copy.
#[test]
fn a_copy_that_fills_the_disk_leaves_no_partial_file_as_root() {
    let spooler = Spooler::new();
    fs::create_dir(spooler.path("full")).unwrap();
    let _mount = Mount::tmpfs(&spooler.path("full"), "2m");
    spooler.mark("full", "full");
    spooler.to("full", &format!("dir:{}", spooler.path("full").display()), "");
    spooler.to("good", "cmd:cat > /dev/null", "");
    if !can_trace() {
        return;
    }
    let name = spooler.put("laptop/a", 1, vec![1; 1 << 20]);
    // There is no room for the whole file, but fstatfs reports enough.
    // struct statfs: f_type, f_bsize, f_blocks, f_bfree, f_bavail.
    let statfs: String =
        [0x0102_1994_u64, 4096, 1 << 20, 1 << 20, 1 << 20].map(|n| format!("{:016x}", n.swap_bytes())).concat();
    let poke = format!("inject=fstatfs:poke_exit=@arg2={statfs}");
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &poke];
    fs::write(spooler.path("full/somebody's"), vec![1; 1500 << 10]).unwrap();
    let ran = run(&mut spooler.under(&before, &[]), b"").expect(1);
    let path = spooler.path("full/laptop/.zsnap-").display().to_string();
    one_line(&ran, &[&format!("full: {name}: copying to {path}"), "No space left on device", "make room there"]);
    assert_eq!((spooler.on("full"), spooler.waiting("good").len()), (vec!["somebody's".to_owned()], 0));
    fs::remove_file(spooler.path("full/somebody's")).unwrap();
    spooler.silent_run();
    assert_eq!(spooler.on("full"), names([&name]));
}

#[test]
fn min_free_of_a_drive_stays_free() {
    let spooler = Spooler::with(&["disk1"]);
    spooler.drive("disk2", "min-free = \"1000T\"");
    let name = spooler.put("laptop/a", 1, vec![1; 5000]);
    let ran = spooler.fanout(&[]).expect(1);
    let path = spooler.path("disk2").display().to_string();
    one_line(&ran, &[&format!("disk2: {name}: {path}: 4.8 KiB do not fit"), "stay so (min-free)", "make room"]);
    assert_eq!((spooler.on("disk1"), spooler.on("disk2").len()), (names([&name]), 0));
    spooler.edit("1000T", "1K");
    spooler.silent_run();
    assert_eq!(spooler.on("disk2"), names([&name]));
    // The option sets it for all drives.
    spooler.put("laptop/a", 2, "x");
    let ran = spooler.fanout(&["--min-free", "1000T"]).expect(1);
    one_line(&ran, &["disk1: ", "1000.0 TiB stay so (min-free)"]);
}

/// The medium fails under the file system: here a loop device whose file cannot grow.
#[test]
fn a_drive_with_a_failed_medium_delays_no_other_as_root() {
    let spooler = Spooler::with(&["good"]);
    for dir in ["medium", "broken"] {
        fs::create_dir(spooler.path(dir)).unwrap();
    }
    let _medium = Mount::tmpfs(&spooler.path("medium"), "4m");
    let image = spooler.path("medium/image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image), b"").expect(0);
    let mount = Mount::new(&["-o", "loop"], &image, &spooler.path("broken"));
    spooler.mark("broken", "broken");
    assert!(Command::new("sync").arg("-f").arg(spooler.path("broken")).status().unwrap().success());
    spooler.to("broken", &format!("dir:{}", spooler.path("broken").display()), "");
    let files: Vec<_> = (0..8).map(|n| spooler.put(&format!("laptop/d{n}"), n, vec![n as u8 + 1; 1 << 20])).collect();
    let ran = spooler.fanout(&[]).expect(1);
    let path = spooler.path("broken").display().to_string();
    let lines: Vec<_> = ran.err.lines().collect();
    let is_report = |line: &&str| {
        line.contains("broken: bakfsfmt2-") && line.contains(&path) && line.contains("next run tries again")
    };
    assert!(lines.iter().take(3).all(is_report) && lines.len() <= 4, "{lines:?}");
    assert_eq!(spooler.on("good").len(), 8);
    // Files that are not known to be on the disk still wait.
    let waiting = spooler.waiting("broken").len();
    assert!(waiting > 0);
    drop(mount);
    // With a working disk all of them are delivered, complete.
    drop(Command::new("umount").arg(spooler.path("medium")).output());
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&image), b"").expect(0);
    let _mount = Mount::new(&["-o", "loop"], &image, &spooler.path("broken"));
    spooler.mark("broken", "broken");
    spooler.silent_run();
    assert_eq!(spooler.waiting("broken").len(), 0);
    let mut on = spooler.on("broken");
    on.retain(|path| path.contains("laptop/"));
    assert_eq!(on.len(), waiting);
    for path in on {
        assert_eq!(
            fs::read(spooler.path("broken").join(&path)).unwrap(),
            fs::read(spooler.path("good").join(path)).unwrap()
        );
    }
    assert_eq!(files.len(), 8);
}

#[test]
fn errors_of_a_disk_are_reported_with_the_path_and_lose_no_file() {
    if !can_trace() {
        return;
    }
    let inject = |spooler: &Spooler, what: &str, only: Option<&Path>| {
        let mut before = vec!["strace".into(), "-f".into(), "-qq".into(), "-o".into(), "/dev/null".into(), "-e".into()];
        before.push(format!("inject={what}"));
        before.extend(only.iter().flat_map(|path| ["-P".to_owned(), path.display().to_string()]));
        run(&mut spooler.under(&before, &[]), b"")
    };
    for (what, on) in [
        ("copy_file_range:error=EIO", None),
        ("renameat2:error=EIO", Some("broken/laptop")),
        ("fsync:error=EIO", Some("broken/laptop")),
        ("mkdirat:error=EIO", Some("broken")),
        ("mkdirat:error=ENOSPC", Some("broken")),
        ("renameat2:error=EACCES", Some("broken/laptop")),
    ] {
        let spooler = Spooler::new();
        spooler.drive("broken", "");
        spooler.to("good", "cmd:cat > /dev/null", "");
        if what.starts_with("fsync") {
            fs::create_dir(spooler.path("broken/laptop")).unwrap();
        }
        let name = spooler.put("laptop/a", 1, "x");
        let ran = inject(&spooler, what, on.map(|dir| spooler.path(dir)).as_deref());
        assert_eq!(ran.status, 1, "{what}: {}", ran.err);
        let remedy = match what.rsplit_once('=').unwrap().1 {
            "ENOSPC" => "make room there",
            "EACCES" => "correct its owner or mode",
            _ => "look at the drive and at what the kernel says (dmesg)",
        };
        let path = spooler.path("broken").display().to_string();
        one_line(&ran, &[&format!("broken: {name}: "), &path, remedy, "the next run tries again"]);
        assert_eq!((spooler.waiting("broken"), spooler.waiting("good").len()), (names([&name]), 0), "{what}");
        assert!(!spooler.on("broken").iter().any(|path| path.contains(".zsnap-")), "{what}");
        spooler.silent_run();
        assert_eq!((spooler.on("broken"), spooler.waiting("broken").len()), (names([&name]), 0), "{what}");
    }
}

#[test]
fn files_of_a_batch_that_cannot_be_synced_are_synced_one_by_one() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    let files: Vec<_> = (0..7).map(|n| spooler.put("laptop/a", n, n.to_string())).collect();
    let trace = spooler.path("trace");
    let before =
        ["strace", "-f", "-qq", "-e", "trace=syncfs,fsync,renameat2", "-e", "inject=syncfs:error=EIO:when=1", "-o"];
    // An earlier run split the files while the drive was away.
    fs::rename(spooler.path("disk1"), spooler.path("shelf")).unwrap();
    spooler.silent_run();
    fs::rename(spooler.path("shelf"), spooler.path("disk1")).unwrap();
    let before = [&before[..], &[trace.to_str().unwrap()]].concat();
    assert_eq!(run(&mut spooler.under(&before, &[]), b"").expect(0).err, "");
    assert_eq!(spooler.on("disk1").len(), files.len());
    let mut calls = parse(&fs::read_to_string(&trace).unwrap());
    calls.retain(|call| call.name != "renameat2" || call.text.contains("fmt2-"));
    assert_eq!(calls.iter().filter(|call| call.name == "syncfs" && call.text.contains("EIO")).count(), 1);
    // An fsync of its own precedes each rename.
    let kinds: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
    let first = kinds.iter().position(|kind| *kind == "syncfs").unwrap();
    let links = kinds.iter().filter(|kind| **kind == "renameat2").count();
    assert_eq!(links, 7);
    assert!(kinds[first..].windows(2).all(|two| two[1] != "renameat2" || two[0] == "fsync"), "{kinds:?}");
}

#[test]
fn a_copy_that_reads_back_differently_is_not_published() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::new();
    spooler.drive("disk1", "verify = true");
    let name = spooler.put("laptop/a", 1, vec![7; 12 << 20]);
    // The comparing thread reads copy and original in turn, one MiB each; no other thread reads so often.
    for (when, differs) in [(21, true), (1000, false)] {
        let poke = format!("inject=pread64:poke_exit=@arg2=00:when={when}");
        let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &poke];
        let ran = run(&mut spooler.under(&before, &[]), b"").expect(i32::from(differs));
        if differs {
            let path = spooler.path("disk1/laptop/.zsnap-").display().to_string();
            one_line(
                &ran,
                &[
                    &format!("disk1: {name}: {path}"),
                    "what is read back differs from what was written",
                    "look at the drive",
                ],
            );
            assert!(spooler.on("disk1").is_empty());
            assert_eq!(spooler.waiting("disk1"), names([&name]));
        }
    }
    assert_eq!(spooler.on("disk1"), names([&name]));
}

/// Two files have the same name, which has no room for `~1`, while a drive is away.
#[test]
fn a_name_that_is_too_long_for_a_suffix_delays_no_other_file() {
    let spooler = Spooler::with(&["here", "away"]);
    fs::rename(spooler.path("away"), spooler.path("shelf")).unwrap();
    let begin = "bakfsfmt2-1700000000.000001000.1_laptop@tank@";
    let long = format!("{begin}{}", "q".repeat(254 - begin.len()));
    spooler.put_as("laptop", &long, "first");
    spooler.silent_run();
    spooler.put_as("laptop", &long, "second");
    // Files of the same dataset, of another one, and of another host.
    let label = long.split_once('_').unwrap().1;
    let later = format!("bakfsfmt2-1700000001.000000001.1_{label}");
    spooler.put_as("laptop", &later, "later");
    let others = [spooler.put("laptop/tank", 3, "3"), spooler.put("other/tank", 4, "4")];
    let ran = spooler.fanout(&[]).expect(1);
    one_line(&ran, &[&format!("laptop/{long}: "), "another file has this name", "it stays in the spool"]);
    let is_long = |name: &String| name.contains(&format!("laptop/{long}"));
    let mut expected = vec![
        format!("laptop/{}", others[0]),
        format!("laptop/{long}"),
        format!("laptop/{later}"),
        format!("other/{}", others[1]),
    ];
    expected.sort();
    assert_eq!((spooler.on("here"), spooler.waiting("away")), (expected.clone(), expected.clone()));
    assert_eq!(spooler.left(), [format!("laptop/{long}")]);
    assert_eq!(fs::read_to_string(spooler.path("here/laptop").join(&long)).unwrap(), "first");
    assert!(zsnap_tests::spooler::tree(&spooler.path("spool/.zsnap-fanout/split")).is_empty());
    spooler.silent_run();
    let late = spooler.fanout(&["status"]).expect(0);
    assert!(
        String::from_utf8_lossy(&late.out).lines().any(|line| line.starts_with("(spool)      waiting ")),
        "{late:?}"
    );
    // After the drive has got the first one, the second can be delivered.
    fs::rename(spooler.path("shelf"), spooler.path("away")).unwrap();
    spooler.silent_run();
    assert_eq!((spooler.on("away"), spooler.waiting("away").len()), (expected, 0));
    for drive in ["here", "away"] {
        // zsnap-ingest removes the file.
        fs::remove_file(spooler.path(drive).join("laptop").join(&long)).unwrap();
    }
    spooler.silent_run();
    for drive in ["here", "away"] {
        assert_eq!(spooler.on(drive).iter().filter(|name| is_long(name)).count(), 1);
        assert_eq!(fs::read_to_string(spooler.path(drive).join("laptop").join(&long)).unwrap(), "second");
    }
    assert!(spooler.left().is_empty());
}

/// One file of a batch cannot be synced.
#[test]
fn a_file_that_cannot_be_synced_stays_and_the_others_are_delivered() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    let files = [1, 2, 3].map(|n| spooler.put("laptop/a", n, n.to_string()));
    let bad = spooler.path("spool/laptop").join(&files[1]).display().to_string();
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &bad, "-e", "inject=fsync:error=EIO"];
    let ran = run(&mut spooler.under(&before, &[]), b"").expect(1);
    one_line(&ran, &[&format!("laptop/{}: cannot be synced: ", files[1]), "ignored"]);
    assert_eq!(spooler.on("disk1"), names([&files[0], &files[2]]));
    assert_eq!(spooler.left(), names([&files[1]]));
    spooler.silent_run();
    assert_eq!(spooler.on("disk1").len(), 3);
}
