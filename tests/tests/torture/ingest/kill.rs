//! Kills at random moments, repeatedly on the same state.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use zsnap_tests::random::{moments, rounds};
use zsnap_tests::torture::{children, over, send, status};

use super::play::Play;

/// Kills until half as many runs were hit as there are moments, and a quarter as many of their children. A kill that
/// comes too late makes the next one come earlier.
#[test]
fn killing_the_run_the_receiver_or_both_loses_no_file() {
    rounds(moments()).for_each(kill_runs);
}

fn kill_runs(n: u64) {
    let mut play = Play::new();
    for of in [0, 1, 2] {
        play.zfs(of, 2);
    }
    play.opaque();
    let mut length = play.recover("undisturbed");
    let (mut runs, mut receivers) = (0, 0);
    for moment in 0.. {
        if runs >= n / 2 && receivers >= n / 4 {
            break;
        }
        play.some();
        let mut run = play.command(&[]).spawn().unwrap();
        let (the_run, the_receiver) = [(true, false), (false, true), (true, true)][play.random.below(3) as usize];
        sleep(play.random.within(length));
        let victims = if the_receiver { children(run.id()) } else { Vec::new() };
        if over(&run) {
            length = length.mul_f64(0.8);
        } else if the_run {
            send(Signal::KILL, run.id(), false);
            runs += 1;
        }
        for victim in &victims {
            send(Signal::KILL, *victim, true);
            receivers += 1;
        }
        let status = status(run.wait().unwrap());
        let what = format!("moment {moment}: run killed {the_run}, receivers {victims:?}, status {status}");
        let messages = play.messages();
        assert!([0, 1, 69, 137].contains(&status) && !messages.contains("panicked"), "{what}: {messages}");
        play.wait_for_orphans();
        play.check(&what);
        // Otherwise the next kill hits the unrecovered state.
        if play.random.below(2) == 0 {
            let took = play.recover(&what);
            length = length.mul_f64(0.9) + took.mul_f64(0.15).max(Duration::from_millis(1));
        }
    }
    play.recover("the end");
    eprintln!("{runs} runs and {receivers} of their children were killed");
}
