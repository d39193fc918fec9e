//! Kills at each system call of a run that can remove nothing: the incoming directory is read-only, as on a stick with
//! write protection. What is applied stays there, and so do bad files. The test recognises the rows of ARCHITECTURE.md,
//! "What a crash leaves", as `syscalls.rs` does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use zsnap_tests::scene::{needs_root, run};
use zsnap_tests::strace::{can_trace, hit, strike_each};
use zsnap_tests::torture::status;

use super::play::Play;
use super::syscalls::{CALLS, KILL, ours, traced};

/// A directory that is mounted on itself, so that it can be made read-only.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: PathBuf) -> Mounted {
        run(Command::new("mount").arg("--bind").args([&dir, &dir]), b"").expect(0);
        Mounted(dir)
    }

    /// `mode` is `ro` or `rw`.
    fn make(&self, mode: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,bind,{mode}")]).arg(&self.0), b"").expect(0);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0), b"");
    }
}

/// What is known of a file of the laptop.
fn known(play: &Play, file: &Path) -> Value {
    let text = std::fs::read(play.pool_state().join("facts/laptop.json")).unwrap_or_default();
    let known: Value = serde_json::from_slice(&text).unwrap_or_default();
    known["files"][format!("incoming/{}", file.file_name().unwrap().to_str().unwrap())].clone()
}

/// The rows of the table that a kill left.
fn rows(play: &Play, [zfs, opaque, bad]: &[PathBuf; 3]) -> BTreeSet<&'static str> {
    let sent = play.chains[0].len();
    let received = play.on_pool(0) == sent && play.in_journal(0, sent);
    let is_kept = |file| known(play, file)["kept"] == true;
    BTreeSet::from([
        match (received, is_kept(zfs)) {
            (false, false) => "I5",
            (true, false) => "I6 in the journal, not known to be kept",
            (true, true) if play.complete() => "I8 complete",
            (true, true) => "I8 kept",
            (false, true) => panic!("kept, but not in the journal"),
        },
        match (play.times_applied(opaque), is_kept(opaque)) {
            (0, false) => "C4",
            (_, false) => "C5 applied, not known to be kept",
            (applied, true) => {
                assert_eq!(applied, 1, "kept, but not applied");
                "C5 kept"
            }
        },
        if known(play, bad)["what"]["bad"].is_string() { "X known to be bad" } else { "X examined or not" },
    ])
}

#[test]
fn a_kill_at_each_call_recovers_where_nothing_can_be_removed_as_root() {
    needs_root();
    if !can_trace() {
        return;
    }
    let mut play = Play::new();
    play.scene.write("stdin", "");
    play.zfs(0, 1);
    play.opaque();
    play.recover("undisturbed");
    let spool = Mounted::new(play.scene.path("spool"));
    let mut seen = BTreeSet::new();
    let struck = strike_each(ours, |at| {
        spool.make("rw");
        let files = [play.zfs(0, 1), play.opaque(), play.bad()];
        spool.make("ro");
        let mut options = vec![format!("-etrace={CALLS}")];
        options.extend(at.into_iter().flat_map(|at| at.options(&play.scene.path(""), KILL)));
        let (exit, text) = traced(&play.scene, &options, play.command(&["--jobs=1"]));
        let what = format!("{at:?}: {:?}, status {exit}", hit(&text));
        assert!(at.is_some() || exit == 1, "{what}: {}", play.messages());
        play.settle(&what);
        play.check(&what);
        seen.extend(rows(&play, &files));
        // The next run needs nothing but the files, and the one after it does nothing.
        for again in [false, true] {
            let exit = status(play.command(&["-v"]).status().unwrap());
            let messages = play.messages();
            assert!(exit <= 1 && !messages.contains("panicked"), "{what}: {messages}");
            play.check(&what);
            let rows = rows(&play, &files);
            let complete = BTreeSet::from(["I8 complete", "C5 kept", "X known to be bad"]);
            assert_eq!(rows, complete, "{what}: {messages}");
            assert!(files.iter().all(|file| file.exists()), "{what}: {messages}");
            assert!(!again || exit == 0, "{what}: {messages}");
        }
        spool.make("rw");
        let retried = status(play.command(&["retry", "laptop"]).status().unwrap());
        assert_eq!(retried, 0, "{what}: {}", play.messages());
        play.recover(&what);
        text
    });
    eprintln!("{struck} calls struck");
    for row in ["I6 in the journal, not known to be kept", "C5 applied, not known to be kept", "I8 kept"] {
        assert!(seen.contains(row), "no kill left {row}: {seen:?}");
    }
}
