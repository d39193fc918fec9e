//! The tools and the real dotlockfile(1) respect each other's locks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use zsnap_common::cli::exit::Exit;
use zsnap_common::durable::tool_lock::{Acquired, ToolLock};

const HOLD_LOCK: &str = env!("CARGO_BIN_EXE_hold-lock");

/// Whether dotlockfile is installed. Without it a test prints that it is skipped, but fails in CI.
fn dotlockfile_is_installed() -> bool {
    let installed = Command::new("dotlockfile").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !installed {
        assert!(std::env::var_os("CI").is_none(), "dotlockfile is missing: install liblockfile-bin");
        eprintln!("SKIPPED: dotlockfile is missing: install liblockfile-bin");
    }
    installed
}

struct Place {
    _dir: tempfile::TempDir,
    state: PathBuf,
    lock: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let at = |name| dir.path().join(name);
    Place { state: at("state"), lock: at("site.lock"), _dir: dir }
}

impl Place {
    fn take(&self) -> Acquired {
        ToolLock::take(&self.state, Some(&self.lock)).unwrap()
    }

    /// Takes the lock in another process with this umask. Returns the process and the line that it printed.
    fn hold(&self, umask: &str) -> (Child, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", HOLD_LOCK]);
        command.arg(&self.state).arg(&self.lock).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line)
    }

    /// Runs dotlockfile; with `-p` the lock belongs to this process. Returns the status: 0 if the lock was taken, 4 if
    /// another process holds it.
    fn dotlockfile(&self, options: &[&str]) -> i32 {
        let mut command = Command::new("dotlockfile");
        command.args(options).arg(&self.lock);
        command.status().unwrap().code().unwrap()
    }

    fn make_older(&self, secs: u64) {
        let file = fs::File::options().write(true).open(&self.lock).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
    }
}

#[test]
fn dotlockfile_respects_the_lock_of_a_tool() {
    if !dotlockfile_is_installed() {
        return;
    }
    for umask in ["022", "077"] {
        let place = place();
        let (mut child, line) = place.hold(umask);
        assert_eq!(line, "held\n");
        let mode = fs::metadata(&place.lock).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644, "another user's dotlockfile must see the living pid");
        // The lock is older than five minutes, but its process is alive.
        place.make_older(1000);
        assert_eq!(place.dotlockfile(&["-r", "0", "-p"]), 4);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert_eq!(place.dotlockfile(&["-r", "0", "-p"]), 0);
        assert_eq!(place.dotlockfile(&["-u"]), 0);
    }
}

#[test]
fn a_tool_respects_the_lock_of_dotlockfile() {
    if !dotlockfile_is_installed() {
        return;
    }
    let place = place();
    assert_eq!(place.dotlockfile(&["-r", "0", "-p"]), 0);
    let pid = std::process::id();
    assert_eq!(place.hold("022").1, format!("busy: pid {pid} ({})\n", place.lock.display()));
    place.make_older(1000);
    assert_eq!(place.hold("022").1, format!("busy: pid {pid} ({})\n", place.lock.display()));
    assert_eq!(place.dotlockfile(&["-u"]), 0);
    assert_eq!(place.hold("022").1, "held\n");
}

#[test]
fn a_tool_and_dotlockfile_break_stale_locks_of_each_other() {
    if !dotlockfile_is_installed() {
        return;
    }
    let place = place();
    // The lock of a script whose shell has ended.
    let script = r#"dotlockfile -r 0 -p "$0""#;
    assert!(Command::new("/bin/sh").args(["-c", &format!("{script}; :")]).arg(&place.lock).status().unwrap().success());
    assert!(place.lock.exists());
    assert!(matches!(place.take(), Acquired::Ours(_)));
    // A lock without a pid (dotlockfile without -p), which is no longer touched.
    assert_eq!(place.dotlockfile(&["-r", "0"]), 0);
    assert!(matches!(place.take(), Acquired::Busy { .. }));
    place.make_older(1000);
    assert!(matches!(place.take(), Acquired::Ours(_)));
    // The lock of a tool that was killed.
    let (mut child, line) = place.hold("022");
    assert_eq!(line, "held\n");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.lock.exists());
    assert_eq!(place.dotlockfile(&["-r", "0", "-p"]), 0);
    assert_eq!(place.dotlockfile(&["-u"]), 0);
}

#[test]
fn a_fifo_in_place_of_the_lock_is_an_error_and_does_not_hang() {
    let place = place();
    assert!(Command::new("mkfifo").arg(&place.lock).status().unwrap().success());
    let error = ToolLock::take(&place.state, Some(&place.lock)).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Config);
    assert!(error.to_string().contains(place.lock.to_str().unwrap()));
}

#[test]
fn a_lock_owned_by_nobody_is_not_broken_as_root() {
    zsnap_tests::scene::needs_root();
    let place = place();
    fs::set_permissions(place.lock.parent().unwrap(), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(&place.lock, "").unwrap();
    place.make_older(1000);
    std::os::unix::fs::chown(&place.lock, Some(65534), Some(65534)).unwrap();
    let Acquired::Busy { who, age } = place.take() else { panic!() };
    assert!(who.starts_with("a lock file of uid 65534") && age >= Duration::from_secs(1000));
    assert!(place.lock.exists());
}

#[test]
fn twenty_tools_never_hold_the_lock_at_the_same_time() {
    let place = place();
    assert!(race(&place, 20, 0) > 0, "no tool ever got the lock");
    assert!(!place.lock.exists());
}

/// In such a race dotlockfile can unlink the fresh lock of another process, because it considers a lock that disappears
/// while it looks at it as stale. So a script and a tool may hold the lock at the same time. Two tools never do, and no
/// tool fails or hangs.
#[test]
fn two_tools_never_hold_the_lock_in_a_race_with_dotlockfile() {
    if dotlockfile_is_installed() {
        race(&place(), 14, 6);
    }
}

/// Lets tools and scripts race for one lock. A tool exits with 99 if another one held the lock at the same time.
/// Returns how often tools got the lock.
fn race(place: &Place, tools: usize, scripts: usize) -> u32 {
    let script = r#"for i in $(seq 60); do dotlockfile -r 0 -p "$1" && dotlockfile -u "$1"; done"#;
    let inside = place.state.with_file_name("inside");
    let racers: Vec<Child> = (0..tools + scripts)
        .map(|n| {
            let mut command = Command::new(if n < scripts { Path::new("/bin/sh") } else { Path::new(HOLD_LOCK) });
            if n < scripts {
                command.args(["-c", script, "sh"]).arg(&place.lock);
            } else {
                command.args([&place.state, &place.lock]).arg("300").arg(&inside);
            }
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut wins = 0;
    for (n, racer) in racers.into_iter().enumerate() {
        let output = racer.wait_with_output().unwrap();
        // The status of a script is that of its last attempt and does not count.
        if n >= scripts {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {text}", output.status);
            wins += text.trim().parse::<u32>().unwrap_or(0);
        }
    }
    wins
}
