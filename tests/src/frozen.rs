//! A file system on which every write waits until it is thawed, and cannot be killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::scene::{needs_root, run};

/// It is mounted at `frozen`, and unmounted when dropped.
pub struct Frozen {
    at: PathBuf,
}

impl Frozen {
    /// Makes and mounts it in `dir`, not yet frozen.
    #[track_caller]
    pub fn mount(dir: &Path) -> Frozen {
        needs_root();
        let script = "truncate -s 20M img && mkfs.ext4 -q img && mkdir frozen && mount -o loop img frozen";
        let ran = run(Command::new("sh").args(["-ec", script]).current_dir(dir), b"");
        let frozen = Frozen { at: dir.join("frozen") };
        ran.expect(0);
        frozen
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// From now on every write waits.
    pub fn freeze(&self) {
        assert!(Command::new("fsfreeze").arg("-f").arg(&self.at).status().unwrap().success());
    }

    /// All writes go on.
    pub fn thaw(&self) {
        Command::new("fsfreeze").arg("-u").arg(&self.at).status().unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Also where a mount was made and the rest failed.
        let script = "fsfreeze -u \"$0\"; for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.2; done";
        run(Command::new("sh").args(["-c", script]).arg(&self.at), b"");
    }
}

/// The state of a process, as ps(1) shows it: `D` is one that cannot be killed.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// The number behind `(pid ` in a message.
#[track_caller]
pub fn pid_in(text: &str) -> u32 {
    text.split("(pid ").nth(1).unwrap().split(')').next().unwrap().parse().unwrap()
}

/// Waits until a process is gone.
#[track_caller]
pub fn gone(pid: u32) {
    let guard = Instant::now();
    while state(pid).is_some_and(|state| state != 'Z') {
        assert!(guard.elapsed() < Duration::from_secs(60), "process {pid} does not end");
        sleep(Duration::from_millis(20));
    }
}
