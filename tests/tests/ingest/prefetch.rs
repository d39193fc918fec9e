//! While a receiver works on a file, the next one is verified, and nothing else changes by that.

use std::fs;
use std::path::PathBuf;

use zsnap_tests::scene::{Scene, manifest, name};

const SEQ: u64 = 1_700_000_000_000_000;
/// Options with which verification takes little memory: only with plenty is the next file verified ahead of time.
const LITTLE: [&str; 2] = ["--jobs=1", "--window-log=20"];

/// Makes a scene with a file for `laptop/etc` and one for `laptop/tar`, which is `next`. The command for the first one
/// waits until zsnap-ingest has opened the second one, and then runs `then`. The command for the second one appends it
/// to `target/next`.
fn scene(next: impl FnOnce(&Scene) -> Vec<u8>, then: &str) -> (Scene, PathBuf) {
    let scene = Scene::new();
    let root = scene.path("").display().to_string();
    let waits = "n=0; until ls -l /proc/$PPID/fd | grep -q @tar; do n=$((n + 1)); [ $n -lt 600 ] || exit 1; sleep 0.1; \
                 done";
    scene.edit("ingest.toml", "\"cat >> ", &format!("\"{waits}; {then}; cat >> "));
    let tar = format!("[\"/bin/tar\", \"--extract\", \"--listed-incremental=/dev/null\", \"--directory={root}tar\"]");
    scene.edit("ingest.toml", &tar, &format!("[\"/bin/sh\", \"-c\", \"cat >> {root}target/next\"]"));
    let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"first");
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    let sealed = next(&scene);
    let file = scene.deliver("laptop", &name("laptop/tar", SEQ), &sealed);
    scene.age("laptop");
    (scene, file)
}

fn second(scene: &Scene) -> Vec<u8> {
    scene.seal(&manifest("laptop/tar", SEQ), Some("laptop"), b"second")
}

#[test]
fn the_next_file_is_verified_while_a_receiver_works() {
    let (scene, _) = scene(second, ":");
    scene.ingest(&LITTLE).expect(0);
    assert_eq!(scene.applied(), b"first");
    assert_eq!(fs::read(scene.path("target/next")).unwrap(), b"second");
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn a_bad_file_that_was_examined_ahead_of_time_is_quarantined_once() {
    let forged = |scene: &Scene| scene.seal(&manifest("laptop/tar", SEQ), Some("other"), b"second");
    let (scene, _) = scene(forged, ":");
    scene.ingest(&LITTLE).expect(1).says("it comes from other");
    assert_eq!(scene.applied(), b"first");
    // The file and its reason.
    assert_eq!(scene.quarantined("laptop").len(), 2);
    scene.ingest(&LITTLE).expect(0);
}

#[test]
fn a_file_that_is_replaced_after_it_was_examined_stays() {
    let (scene, file) = scene(second, "cp DIR/newer DIR/newer.copy && mv DIR/newer.copy FILE");
    let root = scene.path("").display().to_string();
    scene.edit("ingest.toml", "DIR/newer DIR/newer.copy", &format!("{root}newer {root}newer.copy"));
    scene.edit("ingest.toml", "DIR/newer.copy FILE", &format!("{root}newer.copy {}", file.display()));
    fs::write(scene.path("newer"), b"not a queue file, but whoever put it there may still be writing").unwrap();
    let ran = scene.ingest(&LITTLE);
    assert_eq!(fs::read(scene.path("target/next")).unwrap(), b"second", "what was verified is applied: {}", ran.err);
    assert!(ran.err.contains("changed meanwhile; not removed"), "{}", ran.err);
    assert_eq!(fs::read(&file).unwrap(), fs::read(scene.path("newer")).unwrap());
}

/// A receiver must not fail for memory that the verification of another file has taken.
#[test]
fn no_file_is_verified_ahead_of_time_if_memory_is_limited() {
    let (scene, _) = scene(second, ":");
    scene.edit("ingest.toml", "-lt 600", "-lt 10");
    scene.ingest(&["--jobs=64", "--window-log=31"]).expect(69);
    assert_eq!(fs::read(scene.path("target/next")).unwrap(), b"second");
    scene.edit("ingest.toml", "|| exit 1", "|| break");
    scene.ingest(&["--jobs=64", "--window-log=31"]).expect(0);
    assert_eq!(scene.applied(), b"first");
}
