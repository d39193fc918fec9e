//! Destinations that never answer: a process that hangs is killed, or left behind if the kernel does not let it end. It
//! does not hold a lock, and it does not delay the other destinations or simplesnap.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use zsnap_common::durable::dest::Dest;
use zsnap_common::locks::flock::Lock;
use zsnap_tests::frozen::{Frozen, gone, pid_in, state};
use zsnap_tests::scene::{Scene, files, have, run, under};
use zsnap_tests::spooler::Spooler;
use zsnap_tests::strace::{can_trace, go_on, stopped};
use zsnap_tests::stream::{Stream, Sub};

/// Returns the open files of a process.
fn open_files(pid: u32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    fds.filter_map(|fd| Some(fs::read_link(fd.unwrap().path()).ok()?.display().to_string())).collect()
}

#[test]
fn a_hanging_drive_delays_neither_the_others_nor_the_run_as_root() {
    let spooler = Spooler::with(&["good"]);
    let frozen = Frozen::mount(&spooler.path(""));
    spooler.mark("frozen", "frozen");
    spooler.to("frozen", &format!("dir:{}", frozen.path().display()), "");
    frozen.freeze();
    let first = spooler.put("laptop/a", 1, "1");
    let ran = spooler.fanout(&["--delivery-timeout", "2s"]).expect(1);
    let ran =
        ran.says("frozen: dir (pid ").says("read and wrote nothing for 2 s and cannot be killed: it is left behind");
    let ran = ran.says("look at the drive and at what the kernel says (dmesg)");
    let pid = pid_in(&ran.err);
    assert_eq!(state(pid), Some('D'), "the process must be one that cannot be killed");
    assert_eq!((spooler.on("good").len(), spooler.waiting("frozen").len()), (1, 1));
    // The process does not hold a lock.
    let lock = spooler.outbox("frozen").join(".lock");
    assert!(Lock::try_new(&lock).unwrap().is_some());
    assert!(!open_files(pid).iter().any(|file| file.ends_with(".lock")), "{:?}", open_files(pid));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "zsnap-fanout\n");
    // The next run does not start another process for the drive, with any timeout.
    let second = spooler.put("laptop/a", 2, "2");
    let ran = spooler.fanout(&["--delivery-timeout", "100d"]).expect(1).says(&format!("still hangs (pid {pid})"));
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(spooler.fanout(&["--delivery-timeout", "100d"]).expect(0).err, "");
    let table = String::from_utf8(spooler.fanout(&["status"]).expect(1).out).unwrap();
    assert!(table.contains("frozen: a delivery aborted at "), "{table}");
    spooler.fanout(&["check"]).expect(78).prints(&format!("still hangs (pid {pid})"));
    assert_eq!(spooler.on("good").len(), 2);
    // The killed process does not finish its file, and the next run delivers it.
    frozen.thaw();
    gone(pid);
    spooler.silent_run();
    assert_eq!(spooler.waiting("frozen").len(), 0);
    let mut on = spooler.on("frozen");
    on.retain(|path| path.starts_with("laptop/"));
    assert_eq!(on, [format!("laptop/{first}"), format!("laptop/{second}")]);
    assert!(!spooler.outbox("frozen").join(".hang.json").exists());
}

/// simplesnap gets status 0, and the next datasets do not wait for the directory again.
#[test]
fn files_for_a_hanging_directory_wait_for_flush_as_root() {
    let scene = Scene::new();
    let frozen = Frozen::mount(&scene.path(""));
    let dest = format!("dir:{}", frozen.path().display());
    scene.edit("queue.toml", "to = [", &format!("to = [\"{dest}\", "));
    scene.mark("frozen");
    frozen.freeze();
    let queue = |dataset: &str, guid: u64, timeout: &str| {
        let stream = Stream::plain(Sub::full(&format!("{dataset}@a"), guid)).bytes();
        scene.queue(&["--delivery-timeout", timeout, &format!("laptop/{dataset}")], &stream).expect(0)
    };
    let ran = queue("tank/a", 1, "2s").says(&format!("not delivered to {dest}, the next run tries again: dir (pid "));
    let pid = pid_in(&ran.says("cannot be killed: it is left behind").err);
    assert_eq!(state(pid), Some('D'), "the process must be one that cannot be killed");
    assert_eq!(queue("tank/b", 2, "100d").err, "");
    assert_eq!(scene.spooled("laptop").len(), 2);
    scene.queue(&["--delivery-timeout=100d", "flush"], b"").expect(1).says(&format!("still hangs (pid {pid})"));
    let report = String::from_utf8(scene.queue(&["status"], b"").expect(0).out).unwrap();
    let frozen_row = |line: &&str| line.split_whitespace().nth(1) == Some("frozen") && line.contains("waiting");
    assert_eq!(report.lines().filter(frozen_row).count(), 2, "{report}");
    frozen.thaw();
    gone(pid);
    assert_eq!(scene.queue(&["flush"], b"").expect(0).err, "");
    assert_eq!(files(&frozen.path().join("laptop")).len(), 2);
    assert_eq!(queue("tank/c", 3, "1h").err, "");
    assert_eq!(files(&frozen.path().join("laptop")).len(), 3);
}

/// simplesnap waits until the stream is queued, and to look at a directory may take forever.
#[test]
fn a_stream_is_durable_before_its_directory_is_accessed() {
    if !can_trace() {
        return;
    }
    let scene = Scene::new();
    let dir = scene.path("dir").display().to_string();
    fs::create_dir(&dir).unwrap();
    scene.mark("dir");
    scene.edit("queue.toml", "to = [", &format!("to = [\"dir:{dir}\", "));
    fs::write(scene.path("stream"), Stream::plain(Sub::full("tank/a@a", 1)).bytes()).unwrap();
    let trace = scene.path("trace");
    let before = ["strace", "-f", "-P", &dir, "-e", "trace=openat", "-e", "inject=openat:signal=SIGSTOP:when=1", "-o"];
    let before = [&before[..], &[trace.to_str().unwrap()]].concat();
    let mut command = under(&before, &scene.queue_command(["--delivery-timeout=60s", "laptop/tank/a"]));
    command.stdin(fs::File::open(scene.path("stream")).unwrap());
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let thread = stopped(&trace);
    let id = format!("dir:{dir}").parse::<Dest>().unwrap().id();
    let waiting = files(&scene.path("queue-state/outbox/to").join(id).join("laptop"));
    assert_eq!(go_on(running, &thread).expect(0).err, "");
    assert_eq!((waiting.len(), files(&scene.path("dir/laptop")).len()), (1, 1));
}

/// Each sync is shorter than the timeout, and all of them together are longer.
#[test]
fn a_delivery_is_not_killed_while_a_slow_drive_syncs() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["slow"]);
    let files = [1, 2, 3, 4].map(|n| spooler.put("laptop/a", n, n.to_string()));
    // The tool does its own syncs in a run before, while the drive is away.
    fs::rename(spooler.path("slow"), spooler.path("shelf")).unwrap();
    spooler.silent_run();
    fs::rename(spooler.path("shelf"), spooler.path("slow")).unwrap();
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:delay_enter=1500000"];
    let ran = run(&mut spooler.under(&before, &["--delivery-timeout", "5s"]), b"").expect(0);
    assert_eq!((ran.err.as_str(), spooler.on("slow").len()), ("", files.len()));
}

/// The process stops on a directory of its drive and can be killed.
#[test]
fn a_hanging_delivery_is_killed_and_tried_again() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["good", "dead"]);
    let dead = spooler.path("dead").display().to_string();
    spooler.put("laptop/a", 1, "1");
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &dead, "-e", "inject=mkdirat:signal=SIGSTOP"];
    let ran = run(&mut spooler.under(&before, &["--delivery-timeout", "2s"]), b"").expect(1);
    let ran = ran.says("dead: dir (pid ").says("read and wrote nothing for 2 s and was killed");
    gone(pid_in(&ran.err));
    assert_eq!((spooler.on("good").len(), spooler.on("dead").len()), (1, 0));
    // The drive works again, so the next run delivers to it.
    spooler.silent_run();
    assert_eq!(spooler.on("dead").len(), 1);
}

/// A file on which a program hung is delivered last from then on.
#[test]
fn a_program_that_hangs_on_one_file_receives_the_others() {
    let spooler = Spooler::new();
    let dir = spooler.path("").display().to_string();
    let hangs = format!("case $ZSNAP_DATASET in a) test -e {dir}/fixed || exec sleep 1000 ;; esac");
    spooler.to("tape", &format!("cmd:{hangs}; echo $ZSNAP_FILE >> {dir}/took"), "delivery-timeout = \"1s\"");
    let bad = spooler.put("laptop/a", 1, "1");
    let good = [("laptop/b", 2), ("other/c", 3)].map(|(target, n)| spooler.put(target, n, n.to_string()));
    let took = || fs::read_to_string(spooler.path("took")).unwrap_or_default();
    spooler
        .fanout(&["-v"])
        .expect(1)
        .says(&format!("{bad} was given to tape when that hung"))
        .says("tape: cmd (pid ")
        .says("read and wrote nothing for 1 s and was killed");
    assert_eq!((took().as_str(), spooler.waiting("tape").len()), ("", 3));
    spooler.fanout(&[]).expect(0);
    assert_eq!(took(), good.map(|name| name + "\n").concat());
    spooler.write("fixed", "");
    spooler.silent_run();
    assert_eq!((took().lines().last(), spooler.waiting("tape").len()), (Some(bad.as_str()), 0));
}

/// Files on which a program hung are tried in turn, after all others.
#[test]
fn two_hanging_datasets_do_not_delay_others_and_are_reported_once() {
    let spooler = Spooler::new();
    let dir = spooler.path("").display().to_string();
    let hangs = format!("case $ZSNAP_DATASET in a|b) test -e {dir}/fixed || exec sleep 1000 ;; esac");
    let tried = format!("echo $ZSNAP_DATASET >> {dir}/tried");
    spooler.to("tape", &format!("cmd:{tried}; {hangs}; echo >> {dir}/took"), "delivery-timeout = \"1s\"");
    for (n, target) in (1..).zip(["laptop/a", "laptop/b", "laptop/c", "other/d"]) {
        spooler.put(target, n, target);
    }
    spooler.fanout(&[]).expect(1).says("tape: cmd (pid ").says("read and wrote nothing for 1 s and was killed");
    spooler.silent_run();
    // After files of other datasets were delivered, the hang is neither reported again nor forgotten.
    spooler.silent_run();
    spooler.silent_run();
    let tried = fs::read_to_string(spooler.path("tried")).unwrap();
    assert_eq!(tried.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "d", "a", "b"]);
    assert_eq!(spooler.waiting("tape").len(), 2);
    spooler.write("fixed", "");
    spooler.silent_run();
    assert_eq!((spooler.waiting("tape").len(), spooler.outbox("tape").join(".hang.json").exists()), (0, false));
}

/// Flush tries another dataset each time and reports the hang once.
#[test]
fn flush_reports_a_command_that_always_hangs_once() {
    let scene = Scene::new();
    scene.edit("queue.toml", "to = [", "to = [\"cmd:exec sleep 1000\", ");
    for (guid, dataset) in (1..).zip(["tank/a", "tank/b", "tank/c"]) {
        let stream = Stream::plain(Sub::full(&format!("{dataset}@a"), guid)).bytes();
        scene.queue(&["--delivery-timeout=1s", &format!("laptop/{dataset}")], &stream).expect(0);
    }
    let flush = || scene.queue(&["--delivery-timeout=1s", "flush"], b"");
    flush().expect(1).says("not delivered to cmd:exec sleep 1000, the next run tries again: cmd (pid ");
    for _ in 0..3 {
        assert_eq!(flush().expect(0).err, "");
    }
}

/// Flush delivers the files on which a command hung last, as zsnap-fanout does.
#[test]
fn flush_delivers_other_datasets_to_a_command_that_hangs_on_one() {
    let scene = Scene::new();
    let took = scene.path("took").display().to_string();
    let command = format!("[ $ZSNAP_DATASET != tank/a ] || exec sleep 1000; echo $ZSNAP_DATASET >> {took}");
    scene.edit("queue.toml", "to = [", &format!("to = [\"cmd:{command}\", "));
    for (guid, dataset) in (1..).zip(["tank/a", "tank/b", "tank/c"]) {
        let stream = Stream::plain(Sub::full(&format!("{dataset}@a"), guid)).bytes();
        scene.queue(&["--delivery-timeout=1s", &format!("laptop/{dataset}")], &stream).expect(0);
    }
    scene.queue(&["--delivery-timeout=1s", "flush"], b"").expect(1).says("read and wrote nothing for 1 s");
    assert_eq!(fs::read_to_string(&took).unwrap(), "tank/b\ntank/c\n");
}

/// ETIMEDOUT is a late answer, so it is an error of one file.
#[test]
fn an_etimedout_error_is_not_a_hang() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["disk1"]);
    // More than is copied at once.
    let big = spooler.put("laptop/a", 1, "");
    let file = fs::File::options().write(true).open(spooler.path("spool/laptop").join(&big)).unwrap();
    file.set_len(1100 << 20).unwrap();
    let others = [spooler.put("laptop/b", 2, "2"), spooler.put("other/c", 3, "3")];
    let path = spooler.outbox("disk1").join("laptop").join(&big).display().to_string();
    let before =
        ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &path, "-e", "inject=copy_file_range:error=ETIMEDOUT"];
    let ran = run(&mut spooler.under(&before, &[]), b"").expect(1);
    assert!(ran.err.lines().count() == 1 && ran.err.contains(&format!("disk1: {big}: ")), "{}", ran.err);
    assert_eq!(spooler.on("disk1"), [format!("laptop/{}", others[0]), format!("other/{}", others[1])]);
    fs::remove_file(path).unwrap();
    // The same error for the whole directory.
    let name = spooler.put("laptop/a", 4, "4");
    let disk = spooler.path("disk1").display().to_string();
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &disk, "-e", "inject=openat:error=ETIMEDOUT:when=1"];
    run(&mut spooler.under(&before, &[]), b"").expect(1).says(&format!("disk1: {disk}: "));
    assert!(!spooler.outbox("disk1").join(".hang.json").exists());
    spooler.silent_run();
    assert!(spooler.on("disk1").contains(&format!("laptop/{name}")));
}

/// The signal says nothing about the destination: once the process has ended, `zsnap-queue` delivers to it again.
#[test]
fn a_process_left_behind_by_a_signal_counts_until_it_ends_as_root() {
    let scene = Scene::new();
    let frozen = Frozen::mount(&scene.path(""));
    scene.edit("queue.toml", "to = [", &format!("to = [\"dir:{}\", ", frozen.path().display()));
    scene.mark("frozen");
    frozen.freeze();
    let queue = |dataset: &str| scene.queue_command(["--delivery-timeout=0", &format!("laptop/{dataset}")]);
    let stream = |dataset: &str, guid| Stream::plain(Sub::full(&format!("{dataset}@a"), guid)).bytes();
    scene.write("stream", "");
    fs::write(scene.path("stream"), stream("tank/a", 1)).unwrap();
    let mut tool = queue("tank/a").stdin(fs::File::open(scene.path("stream")).unwrap()).spawn().unwrap();
    let worker = wait_for_unkillable_child(&mut tool);
    let pid = Pid::from_raw(tool.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    tool.wait().unwrap();
    // As long as the process exists, no other one is started.
    assert_eq!(run(&mut queue("tank/b"), &stream("tank/b", 2)).expect(0).err, "");
    frozen.thaw();
    gone(worker);
    assert_eq!(run(&mut queue("tank/c"), &stream("tank/c", 3)).expect(0).err, "");
    assert_eq!(files(&frozen.path().join("laptop")).len(), 3);
}

#[test]
fn a_command_without_a_timeout_is_never_killed() {
    let spooler = Spooler::new();
    let took = spooler.path("took").display().to_string();
    let works = |name: &str| format!("cmd:cat > /dev/null; sleep 3; echo {name} >> {took}");
    spooler.to("tape", &works("tape"), "delivery-timeout = \"0\"");
    spooler.put("laptop/a", 1, "1");
    assert_eq!(spooler.fanout(&["--delivery-timeout", "1s"]).expect(0).err, "");
    spooler.edit("delivery-timeout = \"0\"", "");
    spooler.put("laptop/a", 2, "2");
    let warning =
        "ok    tape: is killed when it takes and writes nothing for 1 s: where it works on after it has taken all";
    spooler.fanout(&["--delivery-timeout", "1s", "check"]).expect(0).prints(warning);
    spooler.fanout(&["--delivery-timeout", "1s"]).expect(1).says("read and wrote nothing for 1 s and was killed");
    // The setting that the warning recommends.
    spooler.fanout(&["--delivery-timeout", "0", "check"]).expect(0).prints("ok    tape\n");
    assert_eq!(spooler.fanout(&["--delivery-timeout", "0"]).expect(0).err, "");
    assert_eq!(fs::read_to_string(&took).unwrap(), "tape\ntape\n");
    let scene = Scene::new();
    scene.edit("queue.toml", "to = [", &format!("delivery-timeout = 0\nto = [\"{}\", ", works("queue")));
    let stream = Stream::plain(Sub::full("tank/a@a", 1)).bytes();
    assert_eq!(scene.queue(&["laptop/tank/a"], &stream).expect(0).err, "");
    assert!(fs::read_to_string(&took).unwrap().ends_with("queue\n"));
    scene
        .queue(&["--delivery-timeout=1h", "check"], b"")
        .expect(0)
        .prints("is killed when it takes and writes nothing");
}

/// The program runs longer than the timeout but always reads or writes something in time.
#[test]
fn a_slow_program_that_reads_or_writes_is_not_killed() {
    let spooler = Spooler::new();
    let dir = spooler.path("").display().to_string();
    let takes = "for i in 1 2 3 4 5; do read line; sleep 1; done; cat";
    let writes = format!("for i in 1 2 3 4 5; do echo >> {dir}/log; sleep 1; done");
    spooler.to("tape", &format!("cmd:{takes} > {dir}/took; {writes}"), "delivery-timeout = \"4s\"");
    spooler.put("laptop/a", 1, "1\n2\n3\n4\n5\nrest");
    spooler.silent_run();
    assert_eq!(fs::read_to_string(spooler.path("took")).unwrap(), "rest");
    assert_eq!(spooler.waiting("tape").len(), 0);
}

/// A process of a pipeline may hang in the kernel when the command that started it does not.
#[test]
fn an_unkillable_process_of_a_pipeline_blocks_the_next_run_as_root() {
    let spooler = Spooler::new();
    let frozen = Frozen::mount(&spooler.path(""));
    let into = frozen.path().join("x").display().to_string();
    spooler.to("tape", &format!("cmd:echo >> {}; cat | cat > {into}; true", spooler.path("tried").display()), "");
    spooler.put("laptop/a", 1, "1");
    frozen.freeze();
    let ran = spooler.fanout(&["--delivery-timeout", "2s"]).expect(1);
    let (_, left) = ran.err.split_once("was killed, but its process (pid ").unwrap_or_else(|| panic!("{}", ran.err));
    let pid = left.split(')').next().unwrap().parse().unwrap();
    assert_eq!(state(pid), Some('D'), "the process must be one that cannot be killed");
    spooler.fanout(&["--delivery-timeout", "0"]).expect(1).says(&format!("still hangs (pid {pid})"));
    assert_eq!(fs::read_to_string(spooler.path("tried")).unwrap().lines().count(), 1);
    frozen.thaw();
    gone(pid);
    spooler.silent_run();
    assert_eq!(fs::read_to_string(&into).unwrap(), "1");
}

/// The first thread of the process has ended, and its state is that of the process in ps(1).
#[test]
fn an_unkillable_thread_blocks_the_next_run_as_root() {
    if !have("python3") {
        return;
    }
    let spooler = Spooler::new();
    let frozen = Frozen::mount(&spooler.path(""));
    let into = frozen.path().join("x").display().to_string();
    let program = format!("import threading; threading.Thread(target=lambda: open(\"{into}\", \"w\")).start()");
    let command = format!("cmd:echo >> {}; exec python3 -c '{program}'", spooler.path("tried").display());
    spooler.write("fanout.toml", &format!("{}[to.tape]\ndest = \"\"\"{command}\"\"\"\n", spooler.config()));
    spooler.put("laptop/a", 1, "1");
    frozen.freeze();
    let ran = spooler.fanout(&["--delivery-timeout", "2s"]).expect(1).says("cannot be killed: it is left behind");
    let pid = pid_in(&ran.err);
    assert_eq!(state(pid), Some('Z'), "the first thread of the process must have ended");
    spooler.fanout(&["--delivery-timeout", "0"]).expect(1).says(&format!("still hangs (pid {pid})"));
    assert_eq!(fs::read_to_string(spooler.path("tried")).unwrap().lines().count(), 1);
    frozen.thaw();
    while fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1) {
        sleep(Duration::from_millis(20));
    }
    spooler.silent_run();
}

/// The process that delivers ends with the tool, also if the tool is killed.
#[test]
fn a_delivery_does_not_outlive_its_tool_as_root() {
    let spooler = Spooler::new();
    let frozen = Frozen::mount(&spooler.path(""));
    spooler.mark("frozen", "frozen");
    spooler.to("frozen", &format!("dir:{}", frozen.path().display()), "");
    let name = spooler.put("laptop/a", 1, "1");
    frozen.freeze();
    let mut tool = spooler.command::<&str>([]).spawn().unwrap();
    let worker = wait_for_unkillable_child(&mut tool);
    tool.kill().unwrap();
    tool.wait().unwrap();
    frozen.thaw();
    gone(worker);
    // The process did not continue.
    assert!(!spooler.on("frozen").iter().any(|path| path.ends_with(&name)));
    spooler.silent_run();
    assert!(spooler.on("frozen").contains(&format!("laptop/{name}")));
}

/// Waits until a child of the tool hangs and cannot be killed. Every process that reads from the disk is in this state
/// for a moment, so the child must be in it for a second.
#[track_caller]
fn wait_for_unkillable_child(tool: &mut Child) -> u32 {
    let mut looks = 0;
    loop {
        assert!(tool.try_wait().unwrap().is_none(), "the tool has ended");
        let child = child_of(tool.id()).filter(|pid| state(*pid) == Some('D'));
        looks = if child.is_some() { looks + 1 } else { 0 };
        match child {
            Some(pid) if looks == 100 => return pid,
            _ => sleep(Duration::from_millis(10)),
        }
    }
}

/// Returns a child of a process.
fn child_of(parent: u32) -> Option<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let of = |pid: &str| stat(pid).rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok();
    pids.filter(|pid| of(pid) == Some(parent)).find_map(|pid| pid.parse().ok())
}
