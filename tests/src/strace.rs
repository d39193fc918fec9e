//! What strace tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// What a call does: its name and the files that it is about, without what is random in their names; and how
/// many calls of the run had done the same before.
type Deed = (String, usize);

/// Where it is done: the name of the call, the path of a file that it is about, below the temporary
/// directory, if there is one that is the same in each run; and the number among such calls, as strace's
/// `when=` counts, in each thread by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
    path: Option<String>,
    number: usize,
}

impl Place {
    /// The options of strace that strike there, and only there; `how` as in `signal=KILL`.
    pub fn options(&self, root: &Path, how: &str) -> Vec<String> {
        let path =
            self.path.iter().map(|path| format!("-P{}/{path}", root.display().to_string().trim_end_matches('/')));
        path.chain([format!("-einject={}:{how}:when={}", self.name, self.number)]).collect()
    }
}

/// What the calls in a trace do, one after the other, and where.
fn deeds(trace: &str) -> Vec<(Call, Deed, Place)> {
    let (mut done, mut counted) = (HashMap::<String, usize>::new(), HashMap::new());
    let mut count = |call: Call| {
        let paths = paths(&call);
        // strace looks at the first path of these only.
        let looks = if ["rename", "link"].contains(&call.name.as_str()) { 1 } else { usize::MAX };
        let inside: Vec<_> = paths.iter().take(looks).filter_map(|path| below_root(path)).collect();
        let same = |path: &&&str| path.split('/').all(|part| known(part) == part);
        let path = inside.iter().find(same).map(|path| (*path).to_owned());
        // Each path that it is about counts it.
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

/// The files that a call is about.
fn paths(call: &Call) -> Vec<&str> {
    // Behind the arguments stands the result.
    let text = call.text.rsplit_once(" = ").map_or(call.text.as_str(), |(arguments, _)| arguments);
    let named = text.split(['<', '>', '"']).skip(1).step_by(2);
    named.filter(|path| !path.starts_with("unfinished") && !path.starts_with("...")).collect()
}

/// A path below the temporary directory.
fn below_root(path: &str) -> Option<&str> {
    let (_, behind) = path.split_once("/zsnap-").filter(|_| path.starts_with('/'))?;
    behind.split_once('/').map(|(_, below)| below)
}

/// A part of a path without what is random.
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

/// Strikes all that the calls do which `ours` picks, a call in each run. `run` makes a run, undisturbed or
/// struck at a place, looks whether all is well, and returns the trace. Which call is at a place may differ
/// from run to run, so what was struck counts, and what was missed is tried again where an undisturbed run
/// does it then, or left to another situation where another call comes before it. How much was struck. Of calls that do the same with a file, ZSNAP_TORTURE strikes all, else the first two.
pub fn strike_each(ours: impl Fn(&Call) -> bool, mut run: impl FnMut(Option<&Place>) -> String) -> usize {
    let places = |trace: &str| -> BTreeMap<Deed, Place> {
        deeds(trace).into_iter().filter(|(call, ..)| ours(call)).map(|(_, deed, place)| (deed, place)).collect()
    };
    let mut now = places(&run(None));
    let most = if std::env::var_os("ZSNAP_TORTURE").is_some() { usize::MAX } else { 2 };
    let all = now.keys().filter(|(kind, before)| *before < most || !kind.contains(' '));
    let all: Vec<Deed> = all.cloned().collect();
    let mut struck = BTreeSet::new();
    for deed in all {
        for tries in 0.. {
            if struck.contains(&deed) {
                break;
            }
            // Not every run does it.
            let Some(at) = now.get(&deed) else { break };
            assert!(tries < 20, "{deed:?} is never struck at {at:?}");
            let trace = run(Some(at));
            let hit = hit(&trace).is_some();
            if hit {
                struck.extend(deeds(&trace).into_iter().filter(|(.., place)| place == at).map(|(_, deed, _)| deed));
            }
            // A call of another thread that is at the same place comes first, and keeps it from being made.
            if hit && tries > 0 {
                break;
            }
            if !struck.contains(&deed) {
                now = places(&run(None));
            }
        }
    }
    assert!(!struck.is_empty(), "nothing was struck");
    struck.len()
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
