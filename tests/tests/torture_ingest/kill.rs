//! Death at random moments, again and again on the same state.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use zsnap_tests::random::moments;
use zsnap_tests::torture::{children, over, send, status};

use crate::play::Play;

/// 500, or as many as ZSNAP_TORTURE says.
#[test]
fn the_run_the_receiver_or_both_are_killed() {
    let n = if std::env::var_os("ZSNAP_TORTURE").is_some() { moments() } else { 500 };
    let mut play = Play::new();
    for of in [0, 1, 2] {
        play.zfs(of, 2);
    }
    play.opaque();
    let mut length = play.recover("undisturbed");
    let (mut runs, mut receivers) = (0, 0);
    for moment in 0..n {
        play.some();
        let mut run = play.command(&[]).spawn().unwrap();
        let (the_run, the_receiver) = [(true, false), (false, true), (true, true)][play.random.below(3) as usize];
        sleep(play.random.within(length));
        let victims = if the_receiver { children(run.id()) } else { Vec::new() };
        if the_run && !over(&run) {
            send(Signal::KILL, run.id(), false);
            runs += 1;
        }
        for victim in &victims {
            send(Signal::KILL, *victim, true);
            receivers += 1;
        }
        let status = status(run.wait().unwrap());
        let what = format!("moment {moment}: run killed {the_run}, receivers {victims:?}, status {status}");
        let said = play.said();
        assert!([0, 1, 69, 137].contains(&status) && !said.contains("panicked"), "{what}: {said}");
        play.orphans_gone();
        play.check(&what);
        // Else the next death comes on top.
        if play.random.below(2) == 0 {
            let took = play.recover(&what);
            length = length.mul_f64(0.9) + took.mul_f64(0.15).max(Duration::from_millis(1));
        }
    }
    play.recover("the end");
    eprintln!("{runs} runs and {receivers} of their children were killed in {n} runs");
    assert!(runs >= n / 10 && receivers >= n / 20, "only {runs} runs and {receivers} children of {n} were hit");
}
