//! zsnap-queue: what it queues, what it rejects, and what its destinations receive. The streams are real ones.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "all of this is test code")]

mod drives;
mod nncp;
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

/// Mounts a tmpfs at `drive`. Returns what mounts and unmounts it from then on: a program and its arguments before
/// `drive`, and whether it succeeded. `None`: nobody may mount here.
fn mounted(drive: &Path) -> Option<impl Fn(&str, &[&str]) -> bool> {
    let mount = move |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).arg(drive).output().unwrap();
        output.status.success()
    };
    if !mount("mount", &["-t", "tmpfs", "tmpfs"]) {
        eprintln!("NOT TESTED: cannot mount a tmpfs");
        return None;
    }
    Some(mount)
}
