//! A file system that can be frozen: then every write waits until it is thawed, and the writing process cannot be
//! killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::scene::{needs_root, run};

/// A file system that is mounted at `frozen`, and unmounted when this is dropped.
pub struct Frozen {
    at: PathBuf,
}

impl Frozen {
    /// Makes a file system and mounts it in `dir`. It is not frozen yet.
    #[track_caller]
    pub fn mount(dir: &Path) -> Frozen {
        needs_root();
        let script = "truncate -s 20M img && mkfs.ext4 -q img && mkdir frozen && mount -o loop img frozen";
        let ran = run(Command::new("sh").args(["-ec", script]).current_dir(dir), b"");
        let frozen = Frozen { at: dir.join("frozen") };
        ran.expect(0);
        frozen
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Freezes the file system: every write waits.
    pub fn freeze(&self) {
        assert!(Command::new("fsfreeze").arg("-f").arg(&self.at).status().unwrap().success());
    }

    /// Thaws the file system: all writes continue.
    pub fn thaw(&self) {
        Command::new("fsfreeze").arg("-u").arg(&self.at).status().unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // This also runs if `mount` failed after the file system was mounted.
        let script = "fsfreeze -u \"$0\"; for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.2; done";
        run(Command::new("sh").args(["-c", script]).arg(&self.at), b"");
    }
}

/// Returns the state of a process as ps(1) shows it: `D` is one that cannot be killed.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Returns the number after `(pid ` in a message.
#[track_caller]
pub fn pid_in(text: &str) -> u32 {
    text.split("(pid ").nth(1).unwrap().split(')').next().unwrap().parse().unwrap()
}

/// Waits until a process has ended.
#[track_caller]
pub fn gone(pid: u32) {
    let guard = Instant::now();
    while state(pid).is_some_and(|state| state != 'Z') {
        assert!(guard.elapsed() < Duration::from_secs(60), "process {pid} does not end");
        sleep(Duration::from_millis(20));
    }
}
