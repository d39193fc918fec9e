//! Death and errors at each system call of a run (strace injects them).

use std::fs;

use zsnap_tests::strace::{Call, can_trace, hit, strike_each as each, traced, under};
use zsnap_tests::torture::walk;

use super::play::{DISKS, KEEPS, Play, TARGETS};

/// What is there before each run that is struck.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    /// Nothing but new files: the first run.
    Nothing,
    /// New files in the spool.
    Spool,
    /// Files in `split` that have no link in the outbox of the second disk.
    Split,
    /// Files in the outbox of that disk only, which was away. Its thread makes the calls then, and
    /// hardly another one: strace counts those of each thread from one.
    Outbox(&'static str),
}

/// A run, or another verb, under strace: its status and the trace.
fn strike(play: &Play, options: &[String], args: &[&str]) -> (i32, String) {
    let trace = play.scene.path("trace");
    traced(under(options, &trace, &play.command(args)).stderr(play.errors()), &trace)
}

/// A few, of one host or of two; `many` are synced together.
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
                strike(play, &["-etrace=linkat".into(), "-einject=linkat:signal=KILL:when=4".into()], &[]);
            assert_eq!(status, 137, "not killed: {trace}");
            assert!(!walk(play.state("split")).is_empty());
        }
        Before::Outbox(disk) => {
            play.plug(disk, false);
            play.done(&[], 0);
            play.plug(disk, true);
        }
    }
}

/// A play that is at the beginning.
fn begin(before: Before) -> Play {
    let mut play = Play::without_nncp();
    if before != Before::Nothing {
        play.some();
        play.recover("undisturbed");
    }
    play
}

/// Strikes all that a run does with the spool and the disks, and with threads and processes.
fn strike_each(before: Before, calls: &str, how: &str) {
    if !can_trace() {
        return;
    }
    let mut play = begin(before);
    let mut runs = 0;
    let ours = |call: &Call| {
        let process = ["clone3", "clone", "exit_group", "exit"].contains(&call.name.as_str());
        process || ["/spool", "/disk1", "/disk2"].iter().any(|dir| call.text.contains(dir))
    };
    let struck = each(ours, |at| {
        // Now and then, so that there are few files to be looked at.
        runs += 1;
        if before == Before::Nothing || runs % 40 == 0 {
            play = begin(before);
        }
        prepare(&mut play, before);
        let what = format!("{before:?}, {at:?}, {how}");
        let mut options = vec![format!("-etrace={calls}")];
        // Three times as fast, but no signal can be injected.
        options.extend((how != DEATH).then(|| "--seccomp-bpf".to_owned()));
        options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), how)));
        let (status, trace) = strike(&play, &options, &[]);
        let said = play.said();
        let what = format!("{what}: {:?}, status {status}, {said}", hit(&trace));
        // 127: what struck the loader.
        assert!([0, 1, 69, 73, 74, 75, 78, 127, 137].contains(&status) && !said.contains("panicked"), "{what}");
        assert!(status != 137 || how == DEATH, "{what}");
        assert!(at.is_some() || (status, said.as_str()) == (0, ""), "{what}");
        match status {
            0 => assert!(play.waiting().is_empty(), "{what}: {:?} wait", play.waiting()),
            137 => {}
            _ => assert!(!said.is_empty(), "{what}: nothing was said"),
        }
        play.nothing_lost(&what);
        if how != DEATH {
            // A temporary that cannot be removed waits for the next delivery.
            play.new_file(TARGETS[0], 10);
        }
        play.recover(&what);
        trace
    });
    eprintln!("{before:?}, {how}: {struck} calls struck");
    play.end();
}

/// What makes, names, fills and removes files, locks, and starts and ends threads and processes.
const CALLS: &str = "openat,ioctl,write,copy_file_range,ftruncate,utimensat,flock,fsync,syncfs,link,linkat,rename,\
    renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,clone3,clone,exit,exit_group";
/// What may fail with an error of the disk.
const FAILING: &str = "openat,read,getdents64,statx,newfstatat,ioctl,write,copy_file_range,flock,fsync,\
    syncfs,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat";
/// What needs room.
const NEEDY: &str = "openat,write,copy_file_range,fsync,syncfs,linkat,rename,renameat,renameat2,mkdir,mkdirat";
const DEATH: &str = "signal=KILL";
const BROKEN: &str = "error=EIO";
const NO_SPACE: &str = "error=ENOSPC";

#[test]
fn death_in_the_first_run() {
    strike_each(Before::Nothing, CALLS, DEATH);
}

#[test]
fn death_in_the_recovery() {
    strike_each(Before::Split, CALLS, DEATH);
}

#[test]
fn death_in_the_delivery() {
    for disk in DISKS {
        strike_each(Before::Outbox(disk), CALLS, DEATH);
    }
}

#[test]
fn errors_in_a_run() {
    strike_each(Before::Spool, FAILING, BROKEN);
    strike_each(Before::Spool, NEEDY, NO_SPACE);
}

#[test]
fn errors_in_the_recovery() {
    strike_each(Before::Split, FAILING, BROKEN);
}

#[test]
fn errors_in_the_delivery() {
    for disk in DISKS {
        strike_each(Before::Outbox(disk), FAILING, BROKEN);
    }
    strike_each(Before::Outbox(DISKS[1]), NEEDY, NO_SPACE);
}

#[test]
fn too_many_open_files_and_interruptions() {
    let opens = "openat";
    strike_each(Before::Spool, opens, "error=EMFILE");
    strike_each(Before::Outbox(DISKS[0]), opens, "error=EMFILE");
    strike_each(Before::Outbox(DISKS[1]), "read,pread64,write,copy_file_range", "error=EINTR");
}

/// Death at each call of another verb that has to do with the spool: as often as there is one.
/// `after` looks at what it has left.
fn strike_verb(args: &[&str], mut prepare: impl FnMut() -> Play, mut after: impl FnMut(&mut Play, &str)) {
    if !can_trace() {
        return;
    }
    let struck = each(
        |call| call.text.contains("/spool"),
        |at| {
            let mut play = prepare();
            let mut options = vec![format!("-etrace={CALLS}")];
            options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), DEATH)));
            let (status, trace) = strike(&play, &options, args);
            let what = format!("{args:?}, {at:?}, status {status}");
            assert_eq!(status, if hit(&trace).is_some() { 137 } else { 0 }, "{what}: {trace}");
            play.said();
            after(&mut play, &what);
            trace
        },
    );
    eprintln!("{args:?}: {struck} calls struck");
}

#[test]
fn death_in_requeue() {
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
    strike_verb(&args, prepare, |play, what| {
        play.done(&[], 0);
        play.done(&args, 0);
        play.recover(what);
    });
}

/// What waits for a drive, and what is kept for it, is put away together.
#[test]
fn death_in_retire() {
    let args = ["retire", KEEPS];
    let prepare = || {
        let mut play = begin(Before::Nothing);
        new_files(&mut play, false);
        play.recover("undisturbed");
        new_files(&mut play, false);
        play.plug(KEEPS, false);
        play.done(&[], 0);
        play.unconfigure(KEEPS);
        play
    };
    strike_verb(&args, prepare, |play, what| {
        let mut run = play.command(&args);
        let status = zsnap_tests::torture::status(run.status().unwrap());
        let said = play.said();
        // 2: it has no outbox any more.
        assert!(status == 0 || status == 2 && said.contains("no drive"), "{what}: then {status}, {said}");
        let retired = play.state("retired");
        let files = play.there(&retired).len();
        assert_eq!(files, 6, "{what}: only so many files are put away");
        assert!(!play.state("kept").join(KEEPS).exists(), "{what}: what was kept was not put away");
        play.done(&[], 0);
    });
}
