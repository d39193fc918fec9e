//! What strace tells.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::scene::{Ran, have, run};
use crate::torture::status;

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

/// A command under strace, which writes to the file `trace`. Only program and arguments of `run`
/// count.
pub fn under(options: &[String], trace: &Path, run: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-o"]).arg(trace).args(options);
    // cargo's: the loader would look for each library in all of these directories first.
    strace.env_remove("LD_LIBRARY_PATH");
    strace.arg(run.get_program()).args(run.get_args()).current_dir("/").stdout(Stdio::null());
    strace
}

/// Runs what [`under`] gives: the status of the command, and the trace.
pub fn traced(strace: &mut Command, trace: &Path) -> (i32, String) {
    let status = status(strace.status().unwrap());
    (status, fs::read_to_string(trace).unwrap())
}

/// Names and numbers of the calls that `ours` picks, numbered as strace's `when=` does, which
/// counts in each thread by itself.
pub fn positions(trace: &str, ours: impl Fn(&Call) -> bool) -> BTreeSet<(String, usize)> {
    let mut positions = BTreeSet::new();
    let mut counted: HashMap<(u32, String), usize> = HashMap::new();
    for call in parse(trace) {
        let number = counted.entry((call.pid, call.name.clone())).or_default();
        *number += 1;
        if ours(&call) {
            positions.insert((call.name, *number));
        }
    }
    positions
}

/// A line that tells that an injection has struck. There may be one in each thread.
pub fn hit(trace: &str) -> Option<&str> {
    trace.lines().rfind(|line| line.contains("(INJECTED)") || line.contains("killed by SIGKILL"))
}

/// Waits until a command under strace has been stopped by `inject=CALL:signal=SIGSTOP`; the thread.
pub fn stopped(trace: &Path) -> String {
    for _ in 0..6000 {
        let lines = fs::read_to_string(trace).unwrap_or_default();
        if let Some(line) = lines.lines().find(|line| line.contains("stopped by SIGSTOP")) {
            return line.split_whitespace().next().unwrap().to_owned();
        }
        sleep(Duration::from_millis(10));
    }
    panic!("nothing was stopped");
}

/// Lets it go on, however often it is stopped, to its end.
pub fn go_on(mut strace: Child, thread: &str) -> Ran {
    while strace.try_wait().unwrap().is_none() {
        run(Command::new("kill").args(["-CONT", thread]), b"");
        sleep(Duration::from_millis(10));
    }
    Ran::of(strace.wait_with_output().unwrap())
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
