//! Kills at random moments, repeatedly on the same state, so that every recovery starts from what the one before it
//! left.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use zsnap_tests::nodes::{Node, Nodes};
use zsnap_tests::random::{moments, rounds};
use zsnap_tests::torture::{Play, Source, children, over, send, status};

const KILLED: i32 = 128 + 9;
const TERMINATED: i32 = 128 + 15;

/// Sends `signal` at random moments of a run until half as many runs were hit as there are moments. A signal that
/// comes too late makes the next one come earlier.
fn signal_runs(source: Source, signal: Signal, group: bool) {
    for hits in rounds(moments() / 2) {
        signal_rounds(hits, Play::new(source).also_drop(), signal, group);
    }
}

fn signal_rounds(n: u64, mut play: Play, signal: Signal, group: bool) {
    let mut hits = 0;
    let mut length = play.measure();
    eprintln!("an undisturbed run takes {length:?}");
    while hits < n {
        let moment = play.random.within(length);
        let (id, mut child) = play.start();
        sleep(moment);
        if over(&child) {
            length = length.mul_f64(0.8);
        } else {
            send(signal, child.id(), group);
            hits += 1;
        }
        let status = status(child.wait().unwrap());
        if signal == Signal::KILL {
            // It is unknown whether the stream was committed.
            play.ended(id, status, &[], &[KILLED]);
        } else {
            // If the group gets the signal, the producer may end before zsnap-queue handles its own.
            let rejections = if group { [TERMINATED, 69].as_slice() } else { &[TERMINATED] };
            play.ended(id, status, rejections, &[]);
        }
        play.finals_are_whole(10);
        if let Some(took) = play.recover() {
            length = length.mul_f64(0.8) + took.mul_f64(0.2);
        }
    }
    let drop = play.scene.path("drop");
    play.settle(&[&drop]);
    assert_in_order(&drop);
}

/// Asserts that the command received the files for the first time in the order of their names.
fn assert_in_order(drop: &std::path::Path) {
    let text = fs::read_to_string(drop.join("order")).unwrap();
    let mut seen: Vec<&str> = Vec::new();
    for name in text.lines() {
        if !seen.contains(&name) {
            assert!(seen.last() < Some(&name) || seen.is_empty(), "{name} came after {:?}", seen.last());
            seen.push(name);
        }
    }
}

#[test]
fn killing_zsnap_queue_loses_no_queued_stream() {
    signal_runs(Source::Zfs, Signal::KILL, false);
}

#[test]
fn killing_zsnap_queue_with_a_producer_loses_no_queued_stream() {
    signal_runs(Source::Producer, Signal::KILL, false);
}

#[test]
fn terminating_zsnap_queue_rejects_the_stream_or_queues_it() {
    signal_runs(Source::Zfs, Signal::TERM, false);
}

#[test]
fn terminating_the_process_group_rejects_the_stream_or_queues_it() {
    signal_runs(Source::Producer, Signal::TERM, true);
}

/// Kills a child of each run at a random moment, alone or with its process group, until `n` were hit.
fn kill_children(n: u64, play: &mut Play, rejections: &[i32]) {
    let mut hits = 0;
    let mut life = Duration::from_millis(20);
    while hits < n {
        let (id, mut child) = play.start();
        while children(child.id()).is_empty() && !over(&child) {
            sleep(Duration::from_micros(200));
        }
        let born = Instant::now();
        if play.random.below(4) == 0 {
            // This child is not killed, to measure how long one lives.
            while !children(child.id()).is_empty() {
                sleep(Duration::from_micros(200));
            }
            life = life.mul_f64(0.7) + born.elapsed().mul_f64(0.3);
        } else {
            sleep(play.random.within(life));
            let group = play.random.below(2) == 0;
            let victims = children(child.id());
            if victims.is_empty() {
                life = life.mul_f64(0.8);
            }
            for victim in victims {
                send(Signal::KILL, victim, group);
                hits += 1;
            }
        }
        let status = status(child.wait().unwrap());
        play.ended(id, status, rejections, &[]);
        play.finals_are_whole(10);
        play.recover();
    }
    eprintln!("{hits} children were killed, which live {life:?}");
}

#[test]
fn killing_the_producer_rejects_its_stream() {
    for hits in rounds(moments() / 2) {
        let mut play = Play::new(Source::Producer);
        kill_children(hits, &mut play, &[69]);
        play.settle(&[]);
        assert!(play.refused() > 0);
    }
}

#[test]
fn killing_the_transport_loses_and_reorders_no_file() {
    for hits in rounds(moments() / 2) {
        let mut play = Play::new(Source::Zfs).also_drop();
        kill_children(hits, &mut play, &[]);
        assert!(play.said().contains("not delivered to cmd:"));
        let drop = play.scene.path("drop");
        play.settle(&[&drop]);
        assert_in_order(&drop);
    }
}

#[test]
fn killing_nncp_loses_no_file() {
    rounds(moments() / 2).for_each(kill_nncp);
}

fn kill_nncp(hits: u64) {
    let mut play = Play::new(Source::Zfs);
    let incoming = play.scene.path("incoming");
    let knows = [("laptop", format!("incoming: {}\n", incoming.display()))];
    let laptop = Node { name: "laptop", knows: &[("backup", String::new())], more: "" };
    let backup = Node { name: "backup", knows: &knows, more: "" };
    let Some(nodes) = Nodes::new(&play.scene.path(""), &[laptop, backup]) else { return };
    fs::create_dir(&incoming).unwrap();
    play.also_to("nncp-file:backup");
    play.args.push(format!("--nncp-config={}", nodes.config("laptop").display()));
    kill_children(hits, &mut play, &[]);
    assert!(play.said().contains("not delivered to nncp-file:"));
    play.finish();
    nodes.pass("laptop", "backup");
    nodes.toss("backup").expect(0);
    play.check(&[&incoming]);
}
