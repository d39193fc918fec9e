//! A shortage of memory, open files or threads on the receiving machine is never blamed on a queue file.

use std::process::Command;

use zsnap_common::names::digest::sha256_hex;
use zsnap_tests::packets::{frame, message};
use zsnap_tests::scene::{Ran, Scene, manifest, name, run};
use zsnap_tests::strace::can_trace;

const SEQ: u64 = 1_700_000_000_000_000;

/// Runs zsnap-ingest with these arguments under `ulimit`.
fn limited(scene: &Scene, limit: &str, args: &[&str]) -> Ran {
    let ingest = scene.ingest_command(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
    run(shell.arg(ingest.get_program()).args(ingest.get_args()).current_dir("/"), b"")
}

/// Delivers a good file for laptop/etc whose zstd frame asks for a window of 2^`log` bytes.
fn with_window(scene: &Scene, log: u8) {
    let mut front = manifest("laptop/etc", SEQ);
    front.created = 1_700_000_000;
    let back = format!(r#"{{"zsnap":1,"bytes":5,"sha256":"{}"}}"#, sha256_hex(b"hello"));
    // No content size; the window; one block, the last, raw, 5 bytes (RFC 8878, 3.1.1).
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 5 << 3 | 1, 0, 0][..], b"hello"].concat();
    let payload = [frame(0xa, &serde_json::to_string(&front).unwrap()), zstd, frame(0xb, &back)].concat();
    let sealed = message(&payload, Some(&scene.path("laptop.key")), &scene.path("backup.cert"));
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    scene.age("laptop");
}

/// Asserts that the run reported too little memory and left the file in the spool.
#[track_caller]
fn stays(scene: &Scene, ran: Ran) {
    let ran = ran.expect(74).says("this machine gives too little memory").says("LimitAS=");
    assert_eq!(scene.spooled("laptop").len(), 1, "{}", ran.err);
    assert!(scene.quarantined("laptop").is_empty() && scene.applied().is_empty(), "{}", ran.err);
}

/// In KiB: enough for a run, but less than a window of 512 MiB or the most that the verification of files may use.
const LITTLE: &str = "-v 420000";

#[test]
fn a_good_file_stays_if_zstd_gets_too_little_memory() {
    for buffer in ["--verify-buffer=1M", "--verify-buffer=0"] {
        let scene = Scene::new();
        with_window(&scene, 29);
        stays(&scene, limited(&scene, LITTLE, &["--window-log=30", buffer]));
        scene.ingest(&["--window-log=30", buffer]).expect(0);
        assert_eq!(scene.applied(), b"hello");
    }
}

#[test]
fn a_file_that_seems_damaged_stays_if_memory_is_short() {
    let scene = Scene::new();
    let mut sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello");
    // In the checksum of the encrypted data: before it, the flipped bit could be that of a packet header.
    let at = sealed.len() - 10;
    sealed[at] ^= 1;
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    scene.age("laptop");
    stays(&scene, limited(&scene, LITTLE, &[]));
    let file = scene.spooled("laptop").remove(0);
    limited(&scene, LITTLE, &["verify", file.to_str().unwrap()]).expect(74).says("too little memory");
    // With settings that fit into this memory only damage can be the cause.
    limited(&scene, LITTLE, &["--window-log=20", "--jobs=1", "--verify-buffer=1M"])
        .expect(1)
        .says("in quarantine: damaged");
}

/// Asserts that the file was either applied or left in the spool, and not quarantined.
#[track_caller]
fn is_blameless(scene: &Scene, ran: &Ran, what: &str) {
    // 78: the configuration could not be read.
    assert!([0, 69, 73, 74, 75, 78].contains(&ran.status), "{what}: {}: {}", ran.status, ran.err);
    assert!(!ran.err.contains("panicked"), "{what}: {}", ran.err);
    assert!(scene.quarantined("laptop").is_empty(), "{what}: {}", ran.err);
    let applied = scene.applied();
    assert_eq!(applied, if scene.spooled("laptop").is_empty() { &b"hello"[..] } else { b"" }, "{what}: {}", ran.err);
}

fn one_file() -> Scene {
    let scene = Scene::new();
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"hello").expect(0);
    scene.age("laptop");
    scene
}

#[test]
fn a_shortage_of_open_files_is_not_blamed_on_a_file() {
    let mut applied = 0;
    for files in 4..28 {
        let scene = one_file();
        let ran = limited(&scene, &format!("-n {files}"), &[]);
        // With too few files the program cannot be loaded.
        if ran.status != 127 {
            is_blameless(&scene, &ran, &format!("{files} files"));
        }
        applied += usize::from(!scene.applied().is_empty());
    }
    assert!(applied > 0, "the greatest limit is too low to apply the file");
}

#[test]
fn a_shortage_of_threads_is_not_blamed_on_a_file() {
    if !can_trace() {
        return;
    }
    let mut injected = 0;
    for call in 1..8 {
        let scene = one_file();
        let trace = scene.path("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=clone3", "-o"]).arg(&trace);
        strace.args(["-e", &format!("inject=clone3:error=EAGAIN:when={call}+")]);
        let ingest = scene.ingest_command([] as [&str; 0]);
        let ran = run(strace.arg(ingest.get_program()).args(ingest.get_args()).current_dir("/"), b"");
        is_blameless(&scene, &ran, &format!("from thread {call} on"));
        injected += usize::from(std::fs::read_to_string(&trace).unwrap().contains("(INJECTED)"));
    }
    assert!(injected > 1, "no thread was started by clone3");
}
