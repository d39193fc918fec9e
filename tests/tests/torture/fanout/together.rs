//! Several runs at once, together with `requeue`.

use std::fs::{self, File};
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use zsnap_tests::random::{moments, rounds};
use zsnap_tests::torture::{over, send, status};

use super::play::{KEEPS, Play, TARGETS};

/// Starts two or three runs at once, and sometimes `requeue`, while files arrive.
fn start(play: &mut Play) -> Vec<Child> {
    let mut running = Vec::new();
    for _ in 0..2 + play.random.below(2) {
        play.some();
        running.push(play.start(&[]));
        sleep(play.random.within(Duration::from_millis(3)));
    }
    if play.random.below(3) == 0 {
        running.push(play.start(&["requeue", KEEPS, "--since=1d"]));
    }
    play.some();
    running
}

/// A play after an undisturbed run.
fn play() -> Play {
    let mut play = Play::new();
    play.some();
    play.recover("undisturbed");
    play
}

#[test]
fn concurrent_runs_lose_and_double_no_file() {
    rounds(moments().div_ceil(4)).for_each(run_concurrently);
}

fn run_concurrently(rounds: u64) {
    let mut play = play();
    for round in 0..rounds {
        let what = format!("round {round}");
        for mut child in start(&mut play) {
            let status = status(child.wait().unwrap());
            assert_eq!(status, 0, "{what}: {}", play.messages());
        }
        assert_eq!(play.messages(), "", "{what}");
        play.assert_nothing_lost(&what);
        if play.random.below(4) == 0 {
            play.recover(&what);
        }
    }
    assert_eq!(play.end(), 0, "NNCP got files twice although nothing was killed");
}

#[test]
fn killing_concurrent_runs_loses_no_file() {
    rounds(moments().div_ceil(4)).for_each(kill_runs);
}

fn kill_runs(n: u64) {
    let (mut play, mut hits, mut pause) = (play(), 0, Duration::from_millis(5));
    // A kill that comes too late makes the next one come earlier.
    while hits < n {
        let what = format!("after {hits} kills");
        let mut running = start(&mut play);
        for _ in 0..1 + play.random.below(2) {
            sleep(play.random.within(pause));
            let victim = &running[play.random.below(running.len() as u64) as usize];
            if over(victim) {
                pause = pause.mul_f64(0.9);
            } else {
                send(Signal::KILL, victim.id(), false);
                play.kills += 1;
                hits += 1;
            }
        }
        for child in &mut running {
            let status = status(child.wait().unwrap());
            assert!([0, 137].contains(&status), "{what}: {status}, {}", play.messages());
        }
        assert_eq!(play.messages(), "", "{what}");
        play.assert_nothing_lost(&what);
        if play.random.below(3) == 0 {
            // A run that gets the lock of a drive right after a kill may find the temporary file still locked, by the
            // process that is being killed with its run. The next delivery removes it.
            play.new_file(TARGETS[0], 100);
            play.recover(&what);
        }
    }
    let more = play.end();
    eprintln!("{hits} were killed; NNCP got {more} files once more");
}

/// While another run splits files, none of their links is delivered: if that run is killed, the next one makes all
/// links again, and NNCP would get all files twice.
#[test]
fn files_that_another_run_splits_are_not_delivered() {
    let mut play = play();
    for _ in 0..5 {
        play.new_file(TARGETS[0], 100);
    }
    let (spool, split) = (play.scene.path("spool/laptop"), play.state("split/laptop"));
    fs::create_dir_all(&split).unwrap();
    for entry in fs::read_dir(spool).unwrap().map(Result::unwrap) {
        let file = split.join(entry.file_name());
        fs::rename(entry.path(), &file).unwrap();
        for drive in play.drives() {
            let outbox = play.state("out").join(drive).join("laptop");
            fs::create_dir_all(&outbox).unwrap();
            fs::hard_link(&file, outbox.join(entry.file_name())).unwrap();
        }
    }
    let waiting = play.waiting().len();
    assert!(waiting >= 3 * 5);
    let lock = File::open(play.state("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    play.run_undisturbed(&[], 0);
    assert_eq!(play.waiting().len(), waiting, "files were delivered while another run splits them");
    drop(lock);
    play.recover("then");
    assert_eq!(play.end(), 0);
}
