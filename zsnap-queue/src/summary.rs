//! What a run has done, for a user at a terminal. Without one, these lines only go to syslog.

use std::io::{self, IsTerminal};

use zsnap_common::cli::{cancel, log, report};
use zsnap_common::durable::outbox::Outboxes;
use zsnap_common::names::target::Target;

use crate::aboard::Left;
use crate::delivery::Outcome;

/// Says that a stream of `bytes` bytes was queued as a file of `sealed_bytes`, and where that was delivered.
pub fn queued(target: &Target, name: &str, bytes: u64, sealed_bytes: u64, outcomes: &[Outcome]) {
    let (bytes, sealed) = (report::bytes(bytes), report::bytes(sealed_bytes));
    log::outcome(format_args!("{target}: {bytes} queued, compressed and encrypted to {sealed}"));
    for outcome in outcomes {
        match outcome.delivered.iter().any(|delivered| delivered == name) {
            true => log::outcome(delivered(outcome)),
            false => log::outcome(format_args!("{}: waits; zsnap-queue flush tries again", outcome.destination.dest)),
        }
    }
    if cancel::pending().is_some() {
        log::outcome("interrupted, but the stream is queued; zsnap-queue flush delivers what waits");
    }
}

/// Says that a stream was written to standard output.
pub fn written(target: &Target, bytes: u64) {
    log::outcome(format_args!("{target}: {} queued to standard output", report::bytes(bytes)));
}

/// Says what `flush` has delivered, and what still waits.
pub fn flushed(boxes: &Outboxes, outcomes: &[Outcome], left: &[Left]) {
    if !io::stderr().is_terminal() {
        return;
    }
    let mut any = false;
    for outcome in outcomes {
        let waiting = boxes.waiting(&outcome.destination.id).map_or(0, |waiting| waiting.len());
        let waiting = waiting + left.iter().filter(|left| left.dest == outcome.destination.dest).count();
        any |= waiting > 0 || !outcome.delivered.is_empty();
        if !outcome.delivered.is_empty() {
            log::outcome(delivered(outcome));
        }
        if waiting > 0 {
            let dest = &outcome.destination.dest;
            log::outcome(format_args!("{dest}: {} waiting; zsnap-queue status shows more", files(waiting)));
        }
    }
    if !any {
        log::outcome("nothing waits");
    }
}

fn delivered(outcome: &Outcome) -> String {
    let dest = &outcome.destination.dest;
    format!("{dest}: {} {}", files(outcome.delivered.len()), dest.done())
}

fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_owned(),
        _ => format!("{count} files"),
    }
}
