//! One drive fails, the others finish: full disks, broken disks, copies that differ. The message
//! names the drive, the path, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use zsnap_tests::scene::{Ran, needs_root, run};
use zsnap_tests::spooler::Spooler;
use zsnap_tests::strace::{can_trace, parse};

/// A mounted file system, unmounted on drop.
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

#[track_caller]
fn one_line(ran: &Ran, texts: &[&str]) {
    assert!(ran.err.lines().count() == 1 && texts.iter().all(|text| ran.err.contains(text)), "{}", ran.err);
}

#[test]
fn a_full_drive_takes_what_fits_and_in_order_the_rest_when_it_has_room_as_root() {
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
    let mut theirs = spooler.on("full");
    theirs.retain(|path| path != "somebody's");
    // Nothing partial, and nothing of the dataset behind the file that did not fit.
    assert_eq!(theirs, names([&a1, &b3, &b5]));
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

/// Nothing but delivering makes room there.
#[test]
fn a_spool_that_is_full_or_cannot_be_locked_is_drained_all_the_same_as_root() {
    let spooler = Spooler::with(&["disk1"]);
    let _mount = Mount::tmpfs(&spooler.path("spool"), "1m");
    let mark = [spooler.path("disk1/.zsnap-drive"), spooler.path("mark")];
    let away = |is: bool| fs::rename(&mark[usize::from(!is)], &mark[usize::from(is)]).unwrap();
    away(true);
    let one = spooler.put("laptop/a", 1, vec![1; 300 << 10]);
    spooler.silent_run();
    let two = spooler.put("laptop/a", 2, vec![1; 300 << 10]);
    let fill = fs::write(spooler.path("spool/somebody's"), vec![1; 1 << 20]);
    assert_eq!(fill.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    away(false);
    let ran = spooler.fanout(&[]).expect(1);
    one_line(&ran, &["the spool: ", "lock.dotlock: No space left", "until this is fixed no new files are taken"]);
    assert_eq!((spooler.on("disk1"), spooler.waiting("disk1").len()), (names([&one]), 0));
    fs::remove_file(spooler.path("spool/somebody's")).unwrap();
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), names([&one, &two]));
    // A lock file that cannot be made for another reason.
    away(true);
    let three = spooler.put("laptop/a", 3, "x");
    spooler.silent_run();
    away(false);
    let four = spooler.put("laptop/a", 4, "x");
    let dotlock = ["--dotlock", "/nonexistent/x"];
    one_line(&spooler.fanout(&dotlock).expect(1), &["the spool: /nonexistent: No such file"]);
    assert_eq!(spooler.fanout(&dotlock).expect(0).err, "");
    assert_eq!(spooler.on("disk1"), names([&one, &two, &three]));
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), names([&one, &two, &three, &four]));
}

#[test]
fn what_cannot_be_kept_is_not_delivered_again_and_again() {
    let spooler = Spooler::new();
    let took = spooler.path("took").display().to_string();
    spooler.to("tape", &format!("cmd:cat >> {took}"), "keep = \"9d\"");
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
    assert_eq!((fs::exists(&took).unwrap(), spooler.waiting("tape").len()), (false, 1));
    fs::remove_file(&path).unwrap();
    spooler.silent_run();
    assert_eq!((fs::read_to_string(&took).unwrap().as_str(), spooler.waiting("tape").len()), ("x", 0));
}

/// Others write to the drive at the same time: the room that was there is gone in the middle.
#[test]
fn a_copy_that_is_cut_off_by_a_full_disk_leaves_nothing_as_root() {
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
    // No room for the whole file, which fstatfs tells as if there were.
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
fn some_room_stays_free() {
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
    // For all drives at once.
    spooler.put("laptop/a", 2, "x");
    let ran = spooler.fanout(&["--min-free", "1000T"]).expect(1);
    one_line(&ran, &["disk1: ", "1000.0 TiB stay so (min-free)"]);
}

/// A disk whose medium fails under the file system: here a loop device whose file cannot grow.
#[test]
fn a_drive_that_cannot_write_any_more_holds_up_no_other_as_root() {
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
    let tells = |line: &&str| {
        line.contains("broken: bakfsfmt2-") && line.contains(&path) && line.contains("next run tries again")
    };
    assert!(lines.iter().take(3).all(tells) && lines.len() <= 4, "{lines:?}");
    assert_eq!(spooler.on("good").len(), 8);
    // What is not known to be on the disk still waits.
    let waiting = spooler.waiting("broken").len();
    assert!(waiting > 0);
    drop(mount);
    // With a disk that works: all of them, whole.
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
fn errors_of_the_disk_are_told_with_the_path_and_nothing_is_lost() {
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
fn when_a_batch_cannot_be_made_durable_each_file_is_tried_alone() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    let files: Vec<_> = (0..7).map(|n| spooler.put("laptop/a", n, n.to_string())).collect();
    let trace = spooler.path("trace");
    let before =
        ["strace", "-f", "-qq", "-e", "trace=syncfs,fsync,renameat2", "-e", "inject=syncfs:error=EIO:when=1", "-o"];
    // They were split by a run before which the drive was away.
    fs::rename(spooler.path("disk1/.zsnap-drive"), spooler.path("mark")).unwrap();
    spooler.silent_run();
    fs::rename(spooler.path("mark"), spooler.path("disk1/.zsnap-drive")).unwrap();
    let before = [&before[..], &[trace.to_str().unwrap()]].concat();
    assert_eq!(run(&mut spooler.under(&before, &[]), b"").expect(0).err, "");
    assert_eq!(spooler.on("disk1").len(), files.len());
    let mut calls = parse(&fs::read_to_string(&trace).unwrap());
    calls.retain(|call| call.name != "renameat2" || call.text.contains("fmt2-"));
    assert_eq!(calls.iter().filter(|call| call.name == "syncfs" && call.text.contains("EIO")).count(), 1);
    // Each link stands behind an fsync of its own.
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
    // The thread that compares reads the copy and the original in turns, a MiB each; no other thread reads
    // so often.
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

/// Two files of one name that has no room for `~1`, while a drive is away.
#[test]
fn a_name_that_is_too_long_to_be_numbered_holds_up_nothing_else() {
    let spooler = Spooler::with(&["here", "away"]);
    fs::rename(spooler.path("away"), spooler.path("shelf")).unwrap();
    let begin = "bakfsfmt2-1700000000.000001000.1_laptop@tank@";
    let long = format!("{begin}{}", "q".repeat(254 - begin.len()));
    spooler.put_as("laptop", &long, "first");
    spooler.silent_run();
    spooler.put_as("laptop", &long, "second");
    // Of the same dataset, of another one, of another host.
    let label = long.split_once('_').unwrap().1;
    let later = format!("bakfsfmt2-1700000001.000000001.1_{label}");
    spooler.put_as("laptop", &later, "later");
    let others = [spooler.put("laptop/tank", 3, "3"), spooler.put("other/tank", 4, "4")];
    let ran = spooler.fanout(&[]).expect(1);
    one_line(&ran, &[&format!("laptop/{long}: "), "another file has this name", "it stays in the spool"]);
    let told = |name: &String| name.contains(&format!("laptop/{long}"));
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
    // When the drive has taken the first one, there is a place for the second.
    fs::rename(spooler.path("shelf"), spooler.path("away")).unwrap();
    spooler.silent_run();
    assert_eq!((spooler.on("away"), spooler.waiting("away").len()), (expected, 0));
    for drive in ["here", "away"] {
        // As zsnap-ingest does.
        fs::remove_file(spooler.path(drive).join("laptop").join(&long)).unwrap();
    }
    spooler.silent_run();
    for drive in ["here", "away"] {
        assert_eq!(spooler.on(drive).iter().filter(|name| told(name)).count(), 1);
        assert_eq!(fs::read_to_string(spooler.path(drive).join("laptop").join(&long)).unwrap(), "second");
    }
    assert!(spooler.left().is_empty());
}

/// One file of a batch cannot be made durable.
#[test]
fn a_file_that_cannot_be_synced_stays_and_the_others_go_on() {
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
