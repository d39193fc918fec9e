//! Kills and errors at each system call of a run (strace injects them), and the rows of ARCHITECTURE.md, "What a
//! crash leaves": the test recognises the row that each kill leaves, and all rows must occur, each with the recovery
//! that is promised.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use zsnap_tests::scene::{Scene, files};
use zsnap_tests::strace::{self, Call, can_trace, hit, strike_each as each, under};

use super::play::{Play, TARGETS};

/// The calls that create, name, write and remove files, and start programs.
pub(super) const CALLS: &str =
    "openat,write,fsync,syncfs,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,clone3,clone,vfork,pipe2";
/// The calls that make changes durable.
const NAMES: &str = "fsync,syncfs,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat";
pub(super) const KILL: &str = "signal=KILL";
const IO_ERROR: &str = "error=EIO";
const NO_SPACE: &str = "error=ENOSPC";

/// The files of a run, one of each kind.
struct Files {
    /// Two snapshots in one file.
    package: PathBuf,
    /// A first stream, for which parent datasets are created.
    first: PathBuf,
    opaque: PathBuf,
    bad: PathBuf,
}

/// Delivers the files of a run.
fn deliver(play: &mut Play) -> Files {
    play.other_anew();
    Files { package: play.zfs(0, 2), first: play.zfs(2, 1), opaque: play.opaque(), bad: play.bad() }
}

/// Traces a command with strace, but not the programs that it starts. Returns its status and the trace.
pub(super) fn traced(scene: &Scene, options: &[String], command: Command) -> (i32, String) {
    let trace = scene.path("trace");
    let mut strace = under(&[options, &["-bexecve".to_owned()]].concat(), &trace, &command);
    strace.stdin(fs::File::open(scene.path("stdin")).unwrap()).env_remove("NNCP_SENDER");
    strace::traced(strace.stderr(fs::File::create(scene.path("stderr")).unwrap()), &trace)
}

/// Whether a call concerns the run's files or starts a program.
pub(super) fn ours(call: &Call) -> bool {
    let starts = ["clone3", "clone", "vfork", "pipe2"].contains(&call.name.as_str());
    starts || ["/ingest-state", "/spool", "/.zsnap", "/target"].iter().any(|dir| call.text.contains(dir))
}

/// The rows of the table that a kill left.
fn rows(play: &Play, files: &Files) -> BTreeSet<&'static str> {
    let mut rows = BTreeSet::new();
    let sent = play.chains[0].len();
    let (there, complete) = (play.on_pool(0), play.complete());
    rows.insert(match (files.package.exists(), sent - there) {
        (true, 2) if complete => "I0 nothing",
        (true, 2) => "I1 needed-guids is running",
        (true, 1) => "I4 one of two snapshots",
        (true, _) if !play.in_journal(0, sent) => "I5 received, not in the journal",
        (true, _) => "I6 in the journal, the file is there",
        (false, _) if !complete => "I7 the file is gone",
        (false, _) => "I8 complete",
    });
    let there = |dataset: &str| play.scene.zfs(&["list", "-Hp", "-o", "name", dataset]).status == 0;
    if there("backup/hosts/other") && !there(&format!("backup/hosts/{}", TARGETS[2])) && files.first.exists() {
        rows.insert("I3 a parent without a child");
    }
    let applying = play.command_journal()["applying"] == true;
    match (files.opaque.exists(), applying, play.times_applied(&files.opaque)) {
        (true, true, 0) => drop(rows.insert("C4 said, not applied")),
        (true, true, 1) => drop(rows.insert("C4 applied, not said")),
        (true, false, 1) => drop(rows.insert("C5 in the journal, the file is there")),
        (false, false, 1) => drop(rows.insert("C5 the file is gone")),
        _ => {}
    }
    let name = files.bad.file_name().unwrap().to_string_lossy().to_string();
    let reason = play.scene.path("spool/.zsnap-quarantine/laptop").join(format!("{name}.why.json"));
    if reason.exists() {
        rows.insert(if files.bad.exists() { "X a reason without its file" } else { "X in quarantine" });
    }
    rows
}

const ROWS: [&str; 13] = [
    "I0 nothing",
    "I1 needed-guids is running",
    "I3 a parent without a child",
    "I4 one of two snapshots",
    "I5 received, not in the journal",
    "I6 in the journal, the file is there",
    "I7 the file is gone",
    "I8 complete",
    "C4 said, not applied",
    "C4 applied, not said",
    "C5 in the journal, the file is there",
    "C5 the file is gone",
    "X a reason without its file",
];

/// Injects into each call in turn, in a run of its own. Returns the rows that occurred.
fn inject_each(calls: &str, how: &str) -> BTreeSet<&'static str> {
    if !can_trace() {
        return ROWS.into();
    }
    let mut play = Play::new();
    play.scene.write("stdin", "");
    play.zfs(0, 1);
    play.opaque();
    play.recover("undisturbed");
    play.bad();
    play.zfs(2, 1);
    play.recover("undisturbed");
    let mut seen = BTreeSet::new();
    let injected = each(ours, |at| {
        let files = deliver(&mut play);
        let mut options = vec![format!("-etrace={calls}")];
        options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), how)));
        let (status, text) = traced(&play.scene, &options, play.command(&["--jobs=1"]));
        let what = format!("{at:?}, {how}: {:?}, status {status}", hit(&text));
        let messages = play.messages();
        assert!(at.is_some() || status == 1, "{what}: {messages}");
        assert!(![101, 134, 139].contains(&status) && !messages.contains("panicked"), "{what}: {messages}");
        play.wait_for_orphans();
        play.check(&what);
        if how == KILL && at.is_some() {
            seen.extend(rows(&play, &files));
        }
        play.recover(&what);
        text
    });
    eprintln!("{how}: {injected} calls struck");
    seen
}

#[test]
fn a_kill_at_each_call_recovers_and_leaves_every_row_of_the_table() {
    let seen = inject_each(CALLS, KILL);
    let missing: Vec<_> = ROWS.iter().filter(|row| !seen.contains(*row)).collect();
    assert!(missing.is_empty(), "no kill left {missing:?}");
}

#[test]
fn an_io_error_at_each_call_loses_no_file() {
    inject_each(NAMES, IO_ERROR);
}

#[test]
fn a_full_disk_at_each_call_loses_no_file() {
    inject_each("fsync,linkat,renameat,renameat2,mkdir,mkdirat", NO_SPACE);
}

/// Otherwise, after a power failure, the journal could say that a stream was applied which is lost.
#[test]
fn what_a_command_has_changed_is_synced_before_the_journal_says_that_it_was_applied() {
    if !can_trace() {
        return;
    }
    let mut play = Play::new();
    play.scene.write("stdin", "");
    play.opaque();
    let options = ["-etrace=syncfs,renameat".to_owned()];
    let (status, trace) = traced(&play.scene, &options, play.command(&["--jobs=1"]));
    assert_eq!(status, 0, "{}", play.messages());
    let calls = strace::parse(&trace);
    let of = |name: &str, text: &str| calls.iter().filter(|c| c.name == name && c.text.contains(text)).collect();
    // The first one says that the command is about to run.
    let journal: Vec<&Call> = of("renameat", "\"target.json\"");
    let synced: Vec<&Call> = of("syncfs", &format!("<{}>", play.scene.path("target").display()));
    let ([applying, applied], [synced]) = (&journal[..], &synced[..]) else { panic!("{trace}") };
    assert!(applying.ended < synced.began && synced.ended < applied.began, "{trace}");
}

/// The pool itself knows what it holds, so a journal can be rebuilt.
#[test]
fn a_lost_or_damaged_journal_is_rebuilt() {
    let mut play = Play::new();
    for damage in [None, Some("{")] {
        play.zfs(0, 2);
        play.recover("undisturbed");
        let journal = play.pool_state().join("journal/laptop/tank@home.json");
        match damage {
            Some(text) => fs::write(journal, text).unwrap(),
            None => fs::remove_file(journal).unwrap(),
        }
        play.zfs(0, 1);
        play.again();
        play.recover("without its journal");
        assert!(play.messages().contains("rebuilt from"), "{}", play.messages());
    }
}

/// From the link on, exec is responsible for the file; before it nothing is left, and NNCP still has the file.
#[test]
fn a_kill_at_each_call_of_exec_loses_no_file() {
    if !can_trace() {
        return;
    }
    let mut play = Play::new();
    play.zfs(0, 1);
    play.recover("undisturbed");
    let args = ["exec", "--jobs=1", "--host=laptop", TARGETS[0]];
    let packet = |play: &mut Play| fs::write(play.scene.path("stdin"), play.sealed(0, 1)).unwrap();
    let published = |play: &Play| files(&play.scene.path("ingest-state/exec/laptop")).len();
    packet(&mut play);
    assert_eq!(traced(&play.scene, &["-etrace=none".into()], play.command(&args)).0, 0, "{}", play.messages());
    let mut rows = BTreeSet::new();
    let injected = each(ours, |at| {
        packet(&mut play);
        let mut options = vec![format!("-etrace={CALLS}")];
        options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), KILL)));
        let (status, text) = traced(&play.scene, &options, play.command(&args));
        let what = format!("exec, {at:?}, status {status}");
        assert!(at.is_some() || status == 0, "{what}: {}", play.messages());
        play.wait_for_orphans();
        play.check(&what);
        let there = play.on_pool(0) == play.chains[0].len();
        rows.insert(match (published(&play), there) {
            (0, false) => "E nothing",
            (0, true) => "E gone",
            (1, false) => "E published",
            (_, _) => "E published and received",
        });
        assert!(status != 0 || there, "{what}: status 0, but not received");
        // NNCP delivers a file again if exec failed.
        if status != 0 {
            let (again, _) = traced(&play.scene, &["-etrace=none".into()], play.command(&args));
            assert_eq!(again, 0, "{what}: {}", play.messages());
        }
        play.recover(&what);
        assert_eq!(published(&play), 0, "{what}: left in exec");
        text
    });
    eprintln!("exec: {injected} calls struck");
    for row in ["E nothing", "E published", "E published and received"] {
        assert!(rows.contains(row), "no kill left {row}");
    }
}
