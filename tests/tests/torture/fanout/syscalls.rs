//! Kills and errors at each system call of a run (strace injects them).

use std::fs;

use zsnap_tests::strace::{Call, can_trace, hit, strike_each as for_each_call, traced, under};
use zsnap_tests::torture::walk;

use super::play::{DISKS, KEEPS, Play, TARGETS};

/// The state before each run into which strace injects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    /// Only new files: this is the first run.
    Nothing,
    /// New files in the spool.
    Spool,
    /// Files in `split` that have no link in the outbox of the second disk.
    Split,
    /// Files only in the outbox of that disk, which was away. Then the disk's thread makes nearly all calls; strace
    /// counts the calls of each thread from one.
    Outbox(&'static str),
}

/// Runs a verb under strace. Returns its status and the trace.
fn run_traced(play: &Play, options: &[String], args: &[&str]) -> (i32, String) {
    let trace = play.scene.path("trace");
    traced(under(options, &trace, &play.command(args)).stderr(play.errors()), &trace)
}

/// Puts a few files into the spool; `many` of one host are synced together, otherwise they are of two hosts.
fn new_files(play: &mut Play, many: bool) {
    for bytes in [5000, 0, 1, 100, 100].into_iter().take(if many { 5 } else { 2 }) {
        play.new_file(TARGETS[0], bytes);
    }
    if !many {
        play.new_file(TARGETS[3], 10_000);
    }
}

fn prepare(play: &mut Play, before: Before) {
    new_files(play, before == Before::Outbox(DISKS[1]));
    match before {
        Before::Nothing | Before::Spool => {}
        Before::Split => {
            let (status, trace) =
                run_traced(play, &["-etrace=linkat".into(), "-einject=linkat:signal=KILL:when=4".into()], &[]);
            assert_eq!(status, 137, "not killed: {trace}");
            assert!(!walk(play.state("split")).is_empty());
        }
        Before::Outbox(disk) => {
            play.plug(disk, false);
            play.run_undisturbed(&[], 0);
            play.plug(disk, true);
        }
    }
}

/// A play before the first run, or after an undisturbed one.
fn begin(before: Before) -> Play {
    let mut play = Play::without_nncp();
    if before != Before::Nothing {
        play.some();
        play.recover("undisturbed");
    }
    play
}

/// Injects into each call of a run that concerns the spool, the disks, threads or processes.
fn inject_each(before: Before, calls: &str, how: &str) {
    if !can_trace() {
        return;
    }
    let mut play = begin(before);
    let mut runs = 0;
    let ours = |call: &Call| {
        let process = ["clone3", "clone", "exit_group", "exit"].contains(&call.name.as_str());
        process || ["/spool", "/disk1", "/disk2"].iter().any(|dir| call.text.contains(dir))
    };
    let injected = for_each_call(ours, |at| {
        // A new play from time to time keeps the number of files to check small.
        runs += 1;
        if before == Before::Nothing || runs % 40 == 0 {
            play = begin(before);
        }
        prepare(&mut play, before);
        let what = format!("{before:?}, {at:?}, {how}");
        let mut options = vec![format!("-etrace={calls}")];
        // This is three times as fast, but cannot inject signals.
        options.extend((how != KILL).then(|| "--seccomp-bpf".to_owned()));
        options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), how)));
        let (status, trace) = run_traced(&play, &options, &[]);
        let messages = play.messages();
        let what = format!("{what}: {:?}, status {status}, {messages}", hit(&trace));
        // 127: the injection hit the loader.
        assert!([0, 1, 69, 73, 74, 75, 78, 127, 137].contains(&status) && !messages.contains("panicked"), "{what}");
        assert!(status != 137 || how == KILL, "{what}");
        assert!(at.is_some() || (status, messages.as_str()) == (0, ""), "{what}");
        match status {
            0 => assert!(play.waiting().is_empty(), "{what}: {:?} wait", play.waiting()),
            137 => {}
            _ => assert!(!messages.is_empty(), "{what}: nothing was reported"),
        }
        play.assert_nothing_lost(&what);
        if how != KILL {
            // A temporary that cannot be removed waits for the next delivery.
            play.new_file(TARGETS[0], 10);
        }
        play.recover(&what);
        trace
    });
    eprintln!("{before:?}, {how}: {injected} calls struck");
    play.end();
}

/// The calls that create, name, write and remove files, lock, and start and end threads and processes.
const CALLS: &str = "openat,ioctl,write,copy_file_range,ftruncate,utimensat,flock,fsync,syncfs,link,linkat,rename,\
    renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,clone3,clone,exit,exit_group";
/// The calls that may fail with an error of the disk.
const FAILING: &str = "openat,read,getdents64,statx,newfstatat,ioctl,write,copy_file_range,flock,fsync,\
    syncfs,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat";
/// The calls that need space.
const NEEDING_SPACE: &str = "openat,write,copy_file_range,fsync,syncfs,linkat,rename,renameat,renameat2,mkdir,mkdirat";
const KILL: &str = "signal=KILL";
const IO_ERROR: &str = "error=EIO";
const NO_SPACE: &str = "error=ENOSPC";

#[test]
fn a_kill_at_each_call_of_the_first_run_loses_no_file() {
    inject_each(Before::Nothing, CALLS, KILL);
}

#[test]
fn a_kill_at_each_call_of_the_recovery_loses_no_file() {
    inject_each(Before::Split, CALLS, KILL);
}

#[test]
fn a_kill_at_each_call_of_the_delivery_loses_no_file() {
    for disk in DISKS {
        inject_each(Before::Outbox(disk), CALLS, KILL);
    }
}

#[test]
fn an_error_at_each_call_of_a_run_loses_no_file() {
    inject_each(Before::Spool, FAILING, IO_ERROR);
    inject_each(Before::Spool, NEEDING_SPACE, NO_SPACE);
}

#[test]
fn an_error_at_each_call_of_the_recovery_loses_no_file() {
    inject_each(Before::Split, FAILING, IO_ERROR);
}

#[test]
fn an_error_at_each_call_of_the_delivery_loses_no_file() {
    for disk in DISKS {
        inject_each(Before::Outbox(disk), FAILING, IO_ERROR);
    }
    inject_each(Before::Outbox(DISKS[1]), NEEDING_SPACE, NO_SPACE);
}

#[test]
fn emfile_and_eintr_at_each_call_lose_no_file() {
    let opens = "openat";
    inject_each(Before::Spool, opens, "error=EMFILE");
    inject_each(Before::Outbox(DISKS[0]), opens, "error=EMFILE");
    inject_each(Before::Outbox(DISKS[1]), "read,pread64,write,copy_file_range", "error=EINTR");
}

/// Kills another verb at each call that concerns the spool. `after` checks what it has left.
fn kill_verb(args: &[&str], mut prepare: impl FnMut() -> Play, mut after: impl FnMut(&mut Play, &str)) {
    if !can_trace() {
        return;
    }
    let injected = for_each_call(
        |call| call.text.contains("/spool"),
        |at| {
            let mut play = prepare();
            let mut options = vec![format!("-etrace={CALLS}")];
            options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), KILL)));
            let (status, trace) = run_traced(&play, &options, args);
            let what = format!("{args:?}, {at:?}, status {status}");
            assert_eq!(status, if hit(&trace).is_some() { 137 } else { 0 }, "{what}: {trace}");
            play.messages();
            after(&mut play, &what);
            trace
        },
    );
    eprintln!("{args:?}: {injected} calls struck");
}

#[test]
fn a_kill_at_each_call_of_requeue_loses_no_file() {
    let args = ["requeue", KEEPS, "--since=1d"];
    let prepare = || {
        let mut play = begin(Before::Nothing);
        new_files(&mut play, false);
        play.recover("undisturbed");
        for host in ["laptop", "other"] {
            fs::remove_dir_all(play.scene.path(KEEPS).join(host)).unwrap();
        }
        play
    };
    kill_verb(&args, prepare, |play, what| {
        play.run_undisturbed(&[], 0);
        play.run_undisturbed(&args, 0);
        play.recover(what);
    });
}

/// The files that wait for a drive and those that are kept for it are put away together.
#[test]
fn a_kill_at_each_call_of_retire_loses_no_file() {
    let args = ["retire", KEEPS];
    let prepare = || {
        let mut play = begin(Before::Nothing);
        new_files(&mut play, false);
        play.recover("undisturbed");
        new_files(&mut play, false);
        play.plug(KEEPS, false);
        play.run_undisturbed(&[], 0);
        play.unconfigure(KEEPS);
        play
    };
    kill_verb(&args, prepare, |play, what| {
        let mut run = play.command(&args);
        let status = zsnap_tests::torture::status(run.status().unwrap());
        let messages = play.messages();
        // 2: the drive has no outbox any more.
        assert!(status == 0 || status == 2 && messages.contains("no drive"), "{what}: then {status}, {messages}");
        let retired = play.state("retired");
        let files = play.there(&retired).len();
        assert_eq!(files, 6, "{what}: another number of files is put away");
        assert!(!play.state("kept").join(KEEPS).exists(), "{what}: what was kept was not put away");
        play.run_undisturbed(&[], 0);
    });
}
