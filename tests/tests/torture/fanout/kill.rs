//! Kills at random moments, repeatedly on the same state, so that every recovery starts from what the one before it
//! left.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use zsnap_tests::random::moments;
use zsnap_tests::torture::{children, over, send, status};

use super::play::{DISKS, KEEPS, Play};

/// If a run is killed alone, its orphan continues. A kill that comes too late makes the next one come earlier.
#[test]
fn killing_the_run_its_child_or_both_loses_no_file() {
    let (mut runs, mut orphans, mut more) = (0, 0, 0);
    while runs < moments() / 2 {
        let mut play = Play::new();
        for _ in 0..3 {
            play.some();
        }
        let mut length = play.recover("undisturbed");
        for moment in 0..100 {
            play.some();
            if play.random.below(8) == 0 {
                let disk = DISKS[play.random.below(2) as usize];
                play.plug(disk, false);
            }
            let (the_run, its_child) = [(true, false), (true, true), (false, true)][play.random.below(3) as usize];
            let delay = play.random.within(length);
            let mut run = play.start(&[]);
            sleep(delay);
            let victims = if its_child { children(run.id()) } else { Vec::new() };
            let late = over(&run);
            let hit = the_run && !late;
            if late {
                length = length.mul_f64(0.8);
            }
            if hit {
                orphans += u64::from(!its_child && !children(run.id()).is_empty());
                send(Signal::KILL, run.id(), false);
                runs += 1;
            }
            victims.iter().for_each(|victim| send(Signal::KILL, *victim, true));
            // If both are killed, only one delivery is interrupted.
            play.kills += u64::from(hit || !victims.is_empty());
            let status = status(run.wait().unwrap());
            let what = format!("moment {moment}: run killed {the_run}, children {victims:?}, status {status}");
            let messages = play.messages();
            let bad = !the_run && victims.is_empty() && status != 0;
            assert!([0, 1, 137].contains(&status) && !bad && !messages.contains("panicked"), "{what}: {messages}");
            play.assert_nothing_lost(&what);
            // Otherwise the next kill hits the unrecovered state.
            if play.random.below(2) == 0 {
                let took = play.recover(&what);
                length = length.mul_f64(0.9) + took.mul_f64(0.11).max(Duration::from_millis(1));
            }
        }
        more += play.end();
    }
    eprintln!("{runs} runs were killed, {orphans} left a child behind; NNCP got {more} files once more");
}

/// A drive has lost all files, and `requeue`, which is to send them again, is killed.
#[test]
fn killing_requeue_loses_no_file() {
    let (n, mut hits, mut length) = (moments().div_ceil(20), 0, Duration::from_millis(4));
    let mut play = Play::without_nncp();
    let args = ["requeue", KEEPS, "--since", "1d"];
    while hits < n {
        play.some();
        play.recover("undisturbed");
        for host in ["laptop", "other"] {
            let _ = fs::remove_dir_all(play.scene.path(KEEPS).join(host));
        }
        let delay = play.random.within(length);
        let mut requeue = play.start(&args);
        sleep(delay);
        if over(&requeue) {
            length = length.mul_f64(0.8);
        } else {
            send(Signal::KILL, requeue.id(), false);
            hits += 1;
        }
        requeue.wait().unwrap();
        if play.random.below(2) == 0 {
            play.run_undisturbed(&[], 0);
        }
        play.run_undisturbed(&args, 0);
        play.recover(&format!("kill {hits}"));
    }
}
