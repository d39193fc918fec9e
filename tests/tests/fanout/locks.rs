//! Several runs at once: a slow drive delays neither the others nor the next run, and scripts that use dotlockfile
//! are respected. A FIFO decides when the slow drive continues.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use zsnap_common::locks::flock::Lock;
use zsnap_tests::scene::{Ran, have, run};
use zsnap_tests::spooler::Spooler;
use zsnap_tests::strace::{can_trace, go_on, stopped};

/// A spooler with a drive `good`, and one that receives each file only after a line from the FIFO.
fn with_a_slow_drive() -> Spooler {
    let spooler = Spooler::with(&["good"]);
    run(Command::new("mkfifo").arg(spooler.path("fifo")), b"").expect(0);
    let dir = spooler.path("").display().to_string();
    spooler.to("slow", &format!("cmd:echo $ZSNAP_FILE >> {dir}/began; read go < {dir}/fifo; cat >> {dir}/took"), "");
    spooler.write("began", "");
    spooler
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until a condition holds.
fn wait_for(what: &str, is: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} does not come");
}

/// Lets the slow drive continue with one file.
fn go(spooler: &Spooler) {
    let say = format!("echo > {}", spooler.path("fifo").display());
    run(Command::new("timeout").args(["60", "sh", "-c", &say]), b"").expect(0);
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_slow_drive_delays_neither_the_others_nor_the_next_run() {
    let spooler = with_a_slow_drive();
    let first = spooler.put("laptop/a", 1, "1");
    let slow = start(&mut spooler.command::<&str>([]));
    wait_for("the slow drive", || lines(&spooler.path("began")).len() == 1);
    wait_for("the other drive", || spooler.on("good").len() == 1);
    // The next run delivers in order to all but that drive, and reports why with -v.
    let second = spooler.put("laptop/a", 2, "2");
    spooler.silent_run();
    assert_eq!((spooler.on("good").len(), lines(&spooler.path("began")).len()), (2, 1));
    let lock = spooler.outbox("slow").join(".lock");
    let who = format!("slow: pid {} ({}) ", slow.id(), lock.display());
    let ran = spooler.fanout(&["-v"]).expect(0).says(&format!("{who}works on it"));
    assert!(!ran.err.contains("the spool"), "{}", ran.err);
    // The first run has worked longer than allowed, which is reported until it ends.
    for _ in 0..2 {
        let ran = spooler.fanout(&["--max-run", "0s"]).expect(75);
        assert!(
            ran.err.contains(&format!("{who}has been working on it for 0 hours, longer than --max-run")),
            "{}",
            ran.err
        );
        assert_eq!(ran.err.lines().count(), 1);
    }
    let old = SystemTime::now() - Duration::from_secs(25 * 3600);
    fs::File::options().write(true).open(&lock).unwrap().set_modified(old).unwrap();
    spooler.fanout(&[]).expect(75).says("has been working on it for 25 hours");
    // The first run ends after it has delivered the file that arrived meanwhile.
    go(&spooler);
    wait_for("the second file", || lines(&spooler.path("began")).len() == 2);
    go(&spooler);
    assert_eq!(Ran::of(slow.wait_with_output().unwrap()).expect(0).err, "");
    assert_eq!(lines(&spooler.path("began")), [first, second]);
    assert_eq!(fs::read_to_string(spooler.path("took")).unwrap(), "12");
    spooler.silent_run();
    assert_eq!(lines(&spooler.path("began")).len(), 2);
}

#[test]
fn a_terminated_run_loses_no_file() {
    let spooler = with_a_slow_drive();
    let files = [1, 2].map(|n| spooler.put("laptop/a", n, n.to_string()));
    let slow = start(&mut spooler.command::<&str>([]));
    wait_for("the slow drive", || lines(&spooler.path("began")).len() == 1);
    wait_for("the other drive", || spooler.waiting("good").is_empty());
    run(Command::new("kill").arg(slow.id().to_string()), b"").expect(0);
    let ran = Ran::of(slow.wait_with_output().unwrap()).expect(128 + 15);
    assert!(!ran.err.contains("the next run"), "{}", ran.err);
    assert_eq!((spooler.waiting("slow").len(), spooler.on("good").len()), (2, 2));
    spooler.edit("read go <", ": no wait");
    spooler.silent_run();
    assert_eq!(fs::read_to_string(spooler.path("took")).unwrap(), "12");
    assert_eq!(lines(&spooler.path("began"))[1..], files);
}

#[test]
fn a_delivery_that_exceeds_its_timeout_is_given_up() {
    let spooler = with_a_slow_drive();
    spooler.put("laptop/a", 1, "1");
    let ran = spooler.fanout(&["--delivery-timeout", "10s"]).expect(1).says("slow: cmd ");
    assert!(ran.err.contains("the next run tries again"), "{}", ran.err);
    assert_eq!((spooler.on("good").len(), spooler.waiting("slow").len()), (1, 1));
}

#[test]
fn while_another_run_splits_the_spool_only_new_files_wait() {
    let spooler = Spooler::with(&["disk1"]);
    let mark = spooler.path("disk1/.zsnap-drive");
    fs::remove_file(&mark).unwrap();
    spooler.put("laptop/a", 1, "1");
    spooler.fanout(&[]).expect(1).says("zsnap-fanout init disk1");
    spooler.mark("disk1", "disk1");
    let second = spooler.put("laptop/a", 2, "2");
    let path = spooler.path("spool/.zsnap-fanout/lock");
    let lock = Lock::try_new(&path).unwrap().unwrap();
    // Files in the outboxes are delivered.
    spooler.silent_run();
    assert_eq!((spooler.on("disk1").len(), spooler.left()), (1, vec![format!("laptop/{second}")]));
    let who = format!("the spool: pid {} ({}) ", std::process::id(), path.display());
    spooler.fanout(&["-v"]).expect(0).says(&format!("{who}works on it"));
    spooler.fanout(&["--max-run", "0s"]).expect(75).says(&format!("{who}has been working on it for 0 hours"));
    drop(lock);
    spooler.silent_run();
    assert_eq!((spooler.on("disk1").len(), spooler.left().len()), (2, 0));
}

#[test]
fn a_run_that_finds_the_spool_locked_is_not_recorded_as_a_success() {
    let spooler = Spooler::with(&["disk1"]);
    let record = spooler.path("spool/.zsnap-fanout/last-success");
    spooler.silent_run();
    fs::remove_file(&record).unwrap();
    spooler.put("laptop/a", 1, "1");
    let lock = Lock::try_new(&spooler.path("spool/.zsnap-fanout/lock")).unwrap().unwrap();
    spooler.silent_run();
    assert_eq!((record.exists(), spooler.left().len()), (false, 1));
    drop(lock);
    spooler.silent_run();
    assert_eq!((record.exists(), spooler.left().len()), (true, 0));
}

/// `flock .../.lock umount` writes no pid into the lock, and may hang.
#[test]
fn a_lock_without_a_pid_has_no_named_holder_and_no_maximum_age() {
    let spooler = with_a_new_file();
    for lock in [spooler.path("spool/.zsnap-fanout/lock"), spooler.outbox("disk1").join(".lock")] {
        let file = fs::File::options().write(true).open(lock).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(72 * 3600)).unwrap();
        spooler.silent_run();
        assert_eq!(spooler.on("disk1").len(), 1);
        if spooler.left().is_empty() {
            spooler.fanout(&["-v"]).expect(0).says("disk1: somebody who noted no pid (");
        }
    }
    spooler.silent_run();
    assert_eq!(spooler.on("disk1").len(), 2);
}

#[test]
fn scripts_with_dotlockfile_and_the_split_exclude_each_other() {
    if !have("dotlockfile") || !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    let site = spooler.path("site.lock");
    let dotlockfile = |options: &[&str], lock: &Path| {
        Command::new("dotlockfile").args(options).arg(lock).status().unwrap().code().unwrap()
    };
    let name = spooler.put("laptop/a", 1, "1");
    spooler.fanout(&["--dotlock", site.to_str().unwrap(), "status"]).expect(0);
    for (lock, more) in [(spooler.path("spool/.zsnap-fanout/lock.dotlock"), None), (site, Some("dotlock"))] {
        if more.is_some() {
            let key = format!("dotlock = '{}'\nspool", lock.display());
            spooler.edit("spool =", &format!("{key} ="));
            spooler.put("laptop/a", 2, "2");
        } else {
            fs::create_dir(spooler.path("spool/.zsnap-fanout")).unwrap();
        }
        let before = spooler.on("disk1").len();
        // -p: the lock is this process's, which lives.
        assert_eq!(dotlockfile(&["-r", "0", "-p"], &lock), 0);
        spooler.silent_run();
        spooler.fanout(&["-v"]).expect(0).says(&format!(
            "the spool: pid {} ({}) works on it",
            std::process::id(),
            lock.display()
        ));
        assert_eq!((spooler.left().len(), spooler.on("disk1").len()), (1, before));
        assert_eq!(dotlockfile(&["-u"], &lock), 0);
        // Conversely, the run is stopped in the middle of the split.
        let trace = spooler.path("trace");
        let stop = "inject=renameat2:signal=SIGSTOP:when=1";
        let (host, file) = (spooler.path("spool/laptop"), trace.to_str().unwrap());
        let under = ["strace", "-f", "-P", host.to_str().unwrap(), "-e", "trace=renameat2", "-e", stop, "-o", file];
        let running = start(&mut spooler.under(&under, &[]));
        let thread = stopped(&trace);
        assert_eq!(dotlockfile(&["-r", "0", "-p"], &lock), 4);
        spooler.silent_run();
        assert_eq!(go_on(running, &thread).expect(0).err, "");
        assert_eq!((spooler.left().len(), spooler.on("disk1").len()), (0, before + 1));
        assert!(!lock.exists());
        fs::remove_file(trace).unwrap();
    }
    assert_eq!(spooler.on("disk1")[0], format!("laptop/{name}"));
}

#[test]
fn a_signal_that_stops_a_delivery_is_not_noted_for_the_drive() {
    let spooler = with_a_slow_drive();
    let file = spooler.put("laptop/a", 1, "1");
    let slow = start(&mut spooler.command::<&str>([]));
    wait_for("the slow drive", || !lines(&spooler.path("began")).is_empty());
    run(Command::new("kill").arg(slow.id().to_string()), b"").expect(0);
    let output = slow.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15));
    assert_eq!(spooler.waiting("slow"), [format!("laptop/{file}")]);
    let shown = spooler.fanout(&["status"]).expect(0);
    let shown = String::from_utf8_lossy(&shown.out).into_owned();
    assert!(shown.contains("slow") && !shown.contains("SIGTERM"), "{shown}");
}

/// A spooler with a drive that has got a file, and a new file in the spool.
fn with_a_new_file() -> Spooler {
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("laptop/a", 1, "1");
    spooler.silent_run();
    spooler.put("laptop/a", 2, "2");
    spooler
}

/// A run between the check of the drive and the delivery could rely on nothing.
#[test]
fn a_drive_is_locked_once_for_its_check_and_the_delivery() {
    if !can_trace() {
        return;
    }
    let spooler = with_a_new_file();
    let (trace, lock) = (spooler.path("trace"), spooler.outbox("disk1").join(".lock"));
    let under = ["strace", "-f", "-qq", "-P", lock.to_str().unwrap(), "-e", "trace=flock", "-o"];
    let under = [&under[..], &[trace.to_str().unwrap()]].concat();
    assert_eq!(run(&mut spooler.under(&under, &[]), b"").expect(0).err, "");
    assert_eq!(spooler.on("disk1").len(), 2);
    let trace = fs::read_to_string(&trace).unwrap();
    assert_eq!(trace.matches("LOCK_EX").count(), 1, "{trace}");
}

/// If another run hangs with the drive, this one would hang as well.
#[test]
fn a_drive_whose_lock_is_held_is_not_accessed() {
    if !can_trace() {
        return;
    }
    let spooler = with_a_new_file();
    let lock = Lock::try_new(&spooler.outbox("disk1").join(".lock")).unwrap().unwrap();
    let (trace, disk) = (spooler.path("trace"), spooler.path("disk1").display().to_string());
    let under = ["strace", "-f", "-qq", "-P", &disk, "-e", "trace=%file", "-o", trace.to_str().unwrap()];
    let accesses = || {
        assert_eq!(run(&mut spooler.under(&under, &[]), b"").expect(0).err, "");
        !fs::read_to_string(&trace).unwrap().is_empty()
    };
    assert!(!accesses(), "{}", fs::read_to_string(&trace).unwrap());
    drop(lock);
    assert!(accesses() && spooler.on("disk1").len() == 2);
}

/// Another run leaves the new file to the holder of the lock, which has already found the outbox empty.
#[test]
fn a_file_that_arrives_before_the_lock_is_released_is_delivered() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    spooler.put("laptop/a", 1, "1");
    spooler.silent_run();
    let (trace, lock) = (spooler.path("trace"), spooler.outbox("disk1").join(".lock"));
    // The lock file is truncated when the lock is acquired, and before it is released.
    let under = ["strace", "-f", "-P", lock.to_str().unwrap(), "-e", "trace=ftruncate"];
    let under = [&under[..], &["-e", "inject=ftruncate:signal=SIGSTOP:when=2", "-o", trace.to_str().unwrap()]].concat();
    let running = start(&mut spooler.under(&under, &[]));
    let thread = stopped(&trace);
    spooler.put("laptop/a", 2, "2");
    spooler.silent_run();
    assert_eq!((spooler.on("disk1").len(), spooler.waiting("disk1").len()), (1, 1));
    assert_eq!(go_on(running, &thread).expect(0).err, "");
    assert_eq!(spooler.on("disk1").len(), 2);
}

/// While a delivered file is moved to the kept ones, its name in the outbox is free.
#[test]
fn a_new_file_with_the_name_of_one_being_kept_is_not_removed() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::new();
    spooler.drive("disk1", "keep = \"14d\"");
    let name = spooler.put("laptop/a", 1, "1");
    let (trace, entry) = (spooler.path("trace"), spooler.outbox("disk1").join("laptop").join(&name));
    let under = ["strace", "-f", "-P", entry.to_str().unwrap(), "-e", "trace=renameat2"];
    let under = [&under[..], &["-e", "inject=renameat2:signal=SIGSTOP:when=1", "-o", trace.to_str().unwrap()]].concat();
    let running = start(&mut spooler.under(&under, &[]));
    let thread = stopped(&trace);
    assert!(!entry.exists());
    spooler.put_as("laptop", &name, "2");
    spooler.silent_run();
    assert!(entry.exists());
    assert_eq!(go_on(running, &thread).expect(0).err, "");
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), [format!("laptop/{name}"), format!("laptop/{name}.0")]);
}
