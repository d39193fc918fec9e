//! zsnap-queue: what it queues, what it rejects, and what its destinations receive. The streams are real ones.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "all of this is test code")]

mod drives;
mod nncp;
mod outbox;
mod redirect;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DATA: &str = "laptop/src/data";

/// Reads a real stream.
fn real(name: &str) -> Vec<u8> {
    zsnap_tests::sample(&format!("{name}.zfs"))
}

/// Lists all entries of a directory, sorted. A missing directory has none.
fn names(dir: &Path) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Mounts a tmpfs at `drive`, which has a mark, and gives it this mark. Returns what mounts and unmounts it from then on: a program and its arguments before
/// `drive`, and whether it succeeded. `None`: nobody may mount here.
fn mounted(drive: &Path) -> Option<impl Fn(&str, &[&str]) -> bool + use<>> {
    let at = drive.to_owned();
    let mount = move |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).arg(&at).output().unwrap();
        output.status.success()
    };
    // An empty mount point has no mark.
    let mark = drive.join(".zsnap-drive");
    let text = fs::read(&mark).unwrap();
    fs::remove_file(&mark).unwrap();
    if !mount("mount", &["-t", "tmpfs", "tmpfs"]) {
        eprintln!("NOT TESTED: cannot mount a tmpfs");
        fs::write(&mark, text).unwrap();
        return None;
    }
    fs::write(&mark, text).unwrap();
    Some(mount)
}
