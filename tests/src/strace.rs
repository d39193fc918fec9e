//! Tests under strace: traces, and faults injected into system calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::scene::{Ran, have, run};
use crate::torture::status;

/// Whether strace is installed and permitted to trace.
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

/// Builds a command that runs `run` under strace, which writes to the file `trace`. Only the program and the arguments
/// of `run` are used.
pub fn under(options: &[String], trace: &Path, run: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-o"]).arg(trace).args(options);
    // Set by cargo: the loader would look for each library in all of these directories first.
    strace.env_remove("LD_LIBRARY_PATH");
    strace.arg(run.get_program()).args(run.get_args()).current_dir("/").stdout(Stdio::null());
    strace
}

/// Runs a command of [`under`]. Returns its status and the trace.
pub fn traced(strace: &mut Command, trace: &Path) -> (i32, String) {
    let status = status(strace.status().unwrap());
    (status, fs::read_to_string(trace).unwrap())
}

/// What a call does: its name and the files that it uses, without the random parts of their names; and the number of
/// earlier calls in the run that did the same.
type Deed = (String, usize);

/// Where a call is made: its name; the path of a file that it uses, below the temporary directory, if there is one that
/// is the same in each run; and its number among such calls, which `when=` of strace counts per thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
    path: Option<String>,
    number: usize,
}

impl Place {
    /// Returns the options of strace that inject a fault into this call only. `how` is for example `signal=KILL`.
    pub fn options(&self, root: &Path, how: &str) -> Vec<String> {
        let path =
            self.path.iter().map(|path| format!("-P{}/{path}", root.display().to_string().trim_end_matches('/')));
        path.chain([format!("-einject={}:{how}:when={}", self.name, self.number)]).collect()
    }
}

/// Returns the calls in a trace, in order, with what they do and where.
fn deeds(trace: &str) -> Vec<(Call, Deed, Place)> {
    let (mut done, mut counted) = (HashMap::<String, usize>::new(), HashMap::new());
    let mut count = |call: Call| {
        let paths = paths(&call);
        // strace considers only the first path of these.
        let looks = if ["rename", "link"].contains(&call.name.as_str()) { 1 } else { usize::MAX };
        let inside: Vec<_> = paths.iter().take(looks).filter_map(|path| below_root(path)).collect();
        let same = |path: &&&str| path.split('/').all(|part| known(part) == part);
        let path = inside.iter().find(same).map(|path| (*path).to_owned());
        // strace counts the call for each path that it uses.
        let mut number = |path: Option<&str>| {
            let counted = counted.entry((call.pid, call.name.clone(), path.map(str::to_owned))).or_insert(0);
            *counted += 1;
            *counted
        };
        let all = number(None);
        let unique: BTreeSet<_> = inside.iter().copied().collect();
        let numbers: HashMap<_, _> = unique.into_iter().map(|path| (path, number(Some(path)))).collect();
        let number = path.as_deref().map_or(all, |path| numbers[path]);
        let paths = paths.iter().map(|path| below_root(path).unwrap_or(path));
        let paths = paths.map(|path| path.split('/').map(known).collect::<Vec<_>>().join("/"));
        let kind = std::iter::once(call.name.clone()).chain(paths).collect::<Vec<_>>().join(" ");
        let before = done.entry(kind.clone()).or_default();
        *before += 1;
        let deed = (kind, *before - 1);
        let place = Place { name: call.name.clone(), path, number };
        (call, deed, place)
    };
    parse(trace).into_iter().map(&mut count).collect()
}

/// Returns the files that a call uses.
fn paths(call: &Call) -> Vec<&str> {
    // The result follows the arguments.
    let text = call.text.rsplit_once(" = ").map_or(call.text.as_str(), |(arguments, _)| arguments);
    let named = text.split(['<', '>', '"']).skip(1).step_by(2);
    named.filter(|path| !path.starts_with("unfinished") && !path.starts_with("...")).collect()
}

/// Returns a path relative to the temporary directory, if it is inside.
fn below_root(path: &str) -> Option<&str> {
    let (_, behind) = path.split_once("/zsnap-").filter(|_| path.starts_with('/'))?;
    behind.split_once('/').map(|(_, below)| below)
}

/// Returns a component of a path without its random part.
fn known(part: &str) -> String {
    let random =
        part.split_once("zsnap-").filter(|(_, id)| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()));
    match random {
        _ if part.contains("bakfsfmt2-") => "FILE".into(),
        Some((before, _)) => format!("{before}zsnap-"),
        None if part.bytes().any(|b| b.is_ascii_digit()) && !part.bytes().any(|b| b.is_ascii_alphabetic()) => {
            "N".into()
        }
        None => part.split_once(":[").map_or(part, |(kind, _)| kind).into(),
    }
}

/// Injects a fault into each call that `ours` selects, one call per run, and returns how many were hit.
///
/// `run` makes a run without a fault or with a fault at a place, checks the result, and returns the trace. Which call
/// is at a place may differ between runs, so this counts what was hit, and tries what was missed again at the place
/// that it has in a new run without a fault. If the fault hits another call again, the call is skipped. Of the calls
/// that do the same with a file, the first two are hit, or all with ZSNAP_TORTURE.
pub fn strike_each(ours: impl Fn(&Call) -> bool, mut run: impl FnMut(Option<&Place>) -> String) -> usize {
    let places = |trace: &str| -> BTreeMap<Deed, Place> {
        deeds(trace).into_iter().filter(|(call, ..)| ours(call)).map(|(_, deed, place)| (deed, place)).collect()
    };
    let mut now = places(&run(None));
    let most = if std::env::var_os("ZSNAP_TORTURE").is_some() { usize::MAX } else { 2 };
    let all = now.keys().filter(|(kind, before)| *before < most || !kind.contains(' '));
    let all: Vec<Deed> = all.cloned().collect();
    let mut done = BTreeSet::new();
    for deed in all {
        for tries in 0.. {
            if done.contains(&deed) {
                break;
            }
            // Not every run makes this call.
            let Some(at) = now.get(&deed) else { break };
            assert!(tries < 20, "{deed:?} is never hit at {at:?}");
            let trace = run(Some(at));
            let hit = hit(&trace).is_some();
            if hit {
                done.extend(deeds(&trace).into_iter().filter(|(.., place)| place == at).map(|(_, deed, _)| deed));
            }
            // A call of another thread at the same place comes first, so this one is not made.
            if hit && tries > 0 {
                break;
            }
            if !done.contains(&deed) {
                now = places(&run(None));
            }
        }
    }
    assert!(!done.is_empty(), "nothing was hit");
    done.len()
}

/// Returns a line of the trace that shows a hit. There may be one in each thread.
pub fn hit(trace: &str) -> Option<&str> {
    trace.lines().rfind(|line| line.contains("(INJECTED)") || line.contains("killed by SIGKILL"))
}

/// Waits until a command under strace has been stopped by `inject=CALL:signal=SIGSTOP`. Returns the thread.
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

/// Continues the stopped thread, however often it is stopped, until the command ends.
pub fn go_on(mut strace: Child, thread: &str) -> Ran {
    while strace.try_wait().unwrap().is_none() {
        run(Command::new("kill").args(["-CONT", thread]), b"");
        sleep(Duration::from_millis(10));
    }
    Ran::of(strace.wait_with_output().unwrap())
}

/// A system call in a trace.
#[derive(Debug)]
pub struct Call {
    /// The thread that made it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The whole line, or both lines of a call that was interrupted by others.
    pub text: String,
    /// The number of the line on which it began.
    pub began: usize,
    /// The number of the line on which it ended.
    pub ended: usize,
}

/// Returns all calls in a trace that strace wrote with -f.
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
