//! A disk that gets full at each byte, or at each new name, of a run.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use zsnap_tests::torture::{Play, Source, status, walk};

/// A small tmpfs on `path`, unmounted on drop. `None`, told loudly: we may not mount.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, options: &str) -> Option<Disk> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        if mounted.as_ref().is_ok_and(|out| out.status.success()) {
            return Some(Disk(path));
        }
        let root = rustix::process::geteuid().is_root();
        assert!(!root || std::env::var_os("CI").is_none(), "root cannot mount a tmpfs: {mounted:?}");
        eprintln!("SKIPPED: a full disk needs the right to mount a tmpfs");
        None
    }

    fn grow(&self) {
        let grown =
            Command::new("mount").args(["-o", "remount,mode=700,size=64m,nr_inodes=10000"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const BYTES: usize = 100_000;

fn files(play: &Play, dir: &str) -> usize {
    let queue_file = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("bakfsfmt2-");
    walk(play.scene.path(dir)).iter().filter(|path| queue_file(path)).count()
}

/// One stream after another onto disks of these sizes: whether each was acknowledged. `dir` is
/// where the disk is.
fn each_size(play: &mut Play, dir: &str, sizes: impl Iterator<Item = String>, refusals: &[i32]) -> Option<Vec<bool>> {
    play.bytes = BYTES;
    let mut acknowledged = Vec::new();
    for options in sizes {
        let disk = Disk::mount(play.scene.path(dir), &format!("mode=700,{options}"))?;
        // A new disk is a new state.
        play.begin_anew();
        let before = files(play, "");
        let (id, mut child) = play.start();
        let status = status(child.wait().unwrap());
        play.ended(id, status, refusals, &[]);
        let said = play.said();
        let undelivered = files(play, "queue-state") > 0;
        assert_eq!(said.is_empty(), status == 0 && !undelivered, "{options}: status {status}, {said}");
        let new = files(play, "") - before;
        assert_eq!(new, usize::from(status == 0), "{options}: status {status}, but {new} files");
        play.finals_are_whole(1);
        disk.grow();
        play.flush();
        play.queue();
        play.tidy(true);
        play.finals_are_whole(1);
        acknowledged.push(status == 0 && !undelivered);
        assert_eq!(files(play, "queue-state"), 0);
        play.keep_spool();
    }
    Some(acknowledged)
}
