//! What strace tells.

use std::collections::HashMap;
use std::process::Command;

use crate::scene::have;

/// strace is here and may trace.
pub fn can_trace() -> bool {
    if !have("strace") {
        return false;
    }
    let works = Command::new("strace").args(["-f", "-qq", "-e", "trace=none", "true"]).output();
    let works = works.unwrap().status.success();
    assert!(works || std::env::var_os("CI").is_none(), "strace may not trace");
    if !works {
        eprintln!("SKIPPED: strace may not trace");
    }
    works
}

/// A system call, as strace tells it.
#[derive(Debug)]
pub struct Call {
    /// The thread that made it.
    pub pid: u32,
    /// Which one.
    pub name: String,
    /// The whole line, or both lines of a call during which others were made.
    pub text: String,
    /// Number of the line on which it began.
    pub began: usize,
    /// Number of the line on which it ended.
    pub ended: usize,
}

/// All calls in a trace that strace wrote with -f.
pub fn parse(trace: &str) -> Vec<Call> {
    let (mut calls, mut open) = (Vec::<Call>::new(), HashMap::<u32, usize>::new());
    for (number, line) in trace.lines().enumerate() {
        let (pid, text) = line.trim_start().split_once(' ').unwrap();
        let (pid, text) = (pid.parse().unwrap(), text.trim_start());
        if text.starts_with("<... ") {
            if let Some(at) = open.remove(&pid) {
                calls[at].text.push_str(text);
                calls[at].ended = number;
            }
        } else if let Some((name, _)) = text.split_once('(').filter(|_| !text.starts_with("+++")) {
            if text.ends_with("<unfinished ...>") {
                open.insert(pid, calls.len());
            }
            calls.push(Call { pid, name: name.into(), text: text.into(), began: number, ended: number });
        }
    }
    calls
}
