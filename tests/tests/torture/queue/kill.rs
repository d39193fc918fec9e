//! Death at random moments, again and again on the same state, so that every recovery starts
//! from what the one before it left.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use zsnap_tests::nodes::{Node, Nodes};
use zsnap_tests::random::{moments, rounds};
use zsnap_tests::torture::{Play, Source, children, over, send, status};

const KILLED: i32 = 128 + 9;
const TERMINATED: i32 = 128 + 15;

/// Sends `signal` at moments spread over a run, until half as many runs were hit as there are moments:
/// what comes too late makes the next one come earlier.
fn strike(source: Source, signal: Signal, group: bool) {
    for hits in rounds(moments() / 2) {
        strike_so_often(hits, Play::new(source).also_drop(), signal, group);
    }
}

fn strike_so_often(n: u64, mut play: Play, signal: Signal, group: bool) {
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
            // Nobody can tell whether it had been committed.
            play.ended(id, status, &[], &[KILLED]);
        } else {
            // Of a group, the producer may have ended before zsnap-queue sees its own signal.
            let refusals = if group { [TERMINATED, 69].as_slice() } else { &[TERMINATED] };
            play.ended(id, status, refusals, &[]);
        }
        play.finals_are_whole(10);
        if let Some(took) = play.recover() {
            length = length.mul_f64(0.8) + took.mul_f64(0.2);
        }
    }
    let drop = play.scene.path("drop");
    play.settle(&[&drop]);
    in_order(&drop);
}

/// What the command took for the first time came in the order of the names.
fn in_order(drop: &std::path::Path) {
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
fn zsnap_queue_is_killed() {
    strike(Source::Zfs, Signal::KILL, false);
}

#[test]
fn zsnap_queue_is_killed_with_a_producer() {
    strike(Source::Producer, Signal::KILL, false);
}

#[test]
fn zsnap_queue_is_terminated() {
    strike(Source::Zfs, Signal::TERM, false);
}

#[test]
fn the_process_group_is_terminated() {
    strike(Source::Producer, Signal::TERM, true);
}

/// Kills a child of each run somewhere in its life, alone or with all that it started, until so many were hit.
fn strike_child(n: u64, play: &mut Play, refusals: &[i32]) {
    let mut hits = 0;
    let mut life = Duration::from_millis(20);
    while hits < n {
        let (id, mut child) = play.start();
        while children(child.id()).is_empty() && !over(&child) {
            sleep(Duration::from_micros(200));
        }
        let born = Instant::now();
        if play.random.below(4) == 0 {
            // This one may live, so that we know for how long.
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
        play.ended(id, status, refusals, &[]);
        play.finals_are_whole(10);
        play.recover();
    }
    eprintln!("{hits} children were killed, which live {life:?}");
}

#[test]
fn the_producer_is_killed() {
    for hits in rounds(moments() / 2) {
        let mut play = Play::new(Source::Producer);
        strike_child(hits, &mut play, &[69]);
        play.settle(&[]);
        assert!(play.refused() > 0);
    }
}

#[test]
fn the_transport_is_killed() {
    for hits in rounds(moments() / 2) {
        let mut play = Play::new(Source::Zfs).also_drop();
        strike_child(hits, &mut play, &[]);
        assert!(play.said().contains("not delivered to cmd:"));
        let drop = play.scene.path("drop");
        play.settle(&[&drop]);
        in_order(&drop);
    }
}

#[test]
fn nncp_is_killed() {
    rounds(moments() / 2).for_each(nncp_is_killed_so_often);
}

fn nncp_is_killed_so_often(hits: u64) {
    let mut play = Play::new(Source::Zfs);
    let incoming = play.scene.path("incoming");
    let knows = [("laptop", format!("incoming: {}\n", incoming.display()))];
    let laptop = Node { name: "laptop", knows: &[("backup", String::new())], more: "" };
    let backup = Node { name: "backup", knows: &knows, more: "" };
    let Some(nodes) = Nodes::new(&play.scene.path(""), &[laptop, backup]) else { return };
    fs::create_dir(&incoming).unwrap();
    play.also_to("nncp-file:backup");
    play.args.push(format!("--nncp-config={}", nodes.config("laptop").display()));
    strike_child(hits, &mut play, &[]);
    assert!(play.said().contains("not delivered to nncp-file:"));
    play.finish();
    nodes.pass("laptop", "backup");
    nodes.toss("backup").expect(0);
    play.check(&[&incoming]);
}
