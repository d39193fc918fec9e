//! Receivers that never return: they are killed, or left behind if the kernel does not let them end, and the run does
//! everything else.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use zsnap_tests::frozen::{Frozen, gone, pid_in, state};
use zsnap_tests::scene::{Ran, Scene, manifest, name, run};
use zsnap_tests::stream::{Rec, Stream, Sub};

const SEQ: u64 = 1_700_000_000_000_000;

/// Queues a full stream of a dataset of `host`. A `big` one is larger than the buffer of a pipe.
fn queue(scene: &Scene, host: &str, dataset: &str, guid: u64, big: bool) {
    let mut sub = Sub::full(&format!("{dataset}@a"), guid);
    if big {
        let block = vec![7; 128 << 10];
        sub = sub.records(Rec::file([&block[..]; 40]));
    }
    let key = scene.path(format!("{host}.key"));
    let target = format!("s/{host}/{dataset}");
    let args = ["--signing-key", key.to_str().unwrap(), "--strip", "s", &target];
    scene.queue(&args, &Stream::plain(sub).bytes()).expect(0);
}

/// Makes a `zfs` that runs these shell commands before and after `zfs receive`. `$to` is DATASET@SNAP.
fn receiver(scene: &Scene, before: &str, after: &str) {
    let bin = scene.path("bin").display().to_string();
    let script = format!(
        "#!/bin/sh\nfor to; do :; done\n[ \"$1\" = receive ] || exec {bin}/zfs \"$@\"\n\
         {before}\n{bin}/zfs \"$@\" || exit\n{after}\n"
    );
    scene.write("bin/hanging", &script);
    fs::set_permissions(scene.path("bin/hanging"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs zsnap-ingest with a timeout that a receiver on a busy machine does not exceed.
fn ingest(scene: &Scene) -> Ran {
    scene.ingest(&["--zfs", scene.path("bin/hanging").to_str().unwrap(), "--receive-timeout=10s"])
}

/// Returns the snapshots in the store, sorted.
fn snapshots(scene: &Scene) -> Vec<String> {
    let out = scene.zfs(&["list", "-H", "-r", "-t", "snapshot", "-o", "name", "backup/hosts"]).expect(0).out;
    let mut all: Vec<_> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// Runs zsnap-ingest with a receiver of `laptop/tank` that hangs in `before` or `after`. `laptop/zdata` and
/// `other/tank` are received. Then the receiver works, and the file is received.
#[track_caller]
fn assert_hangs(big: bool, before: &str, after: &str, says: &str) {
    let scene = Scene::with_pool();
    queue(&scene, "laptop", "tank", 1, big);
    queue(&scene, "laptop", "zdata", 2, false);
    queue(&scene, "other", "tank", 3, big);
    let only = |does: &str| format!("case $to in */laptop/tank@a) {does} ;; esac");
    receiver(&scene, &only(before), &only(after));
    let ran = ingest(&scene).expect(69).says(says).says("zfs receive backup/hosts/laptop/tank@a: zfs (pid ");
    let ran = ran.says("look at dmesg").says("the file stays");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(snapshots(&scene), ["backup/hosts/laptop/zdata@a", "backup/hosts/other/tank@a"]);
    assert!(scene.spooled("other").is_empty());
    assert_eq!(scene.spooled("laptop").len(), 1);
    receiver(&scene, "", "");
    ingest(&scene).expect(0);
    assert!(scene.spooled("laptop").is_empty());
    assert_eq!(snapshots(&scene).len(), 3);
}

#[test]
fn a_receiver_that_reads_nothing_is_killed() {
    assert_hangs(true, "exec sleep 1000", ":", "took nothing for 10 s and was killed");
}

#[test]
fn a_receiver_that_reads_all_and_does_not_end_is_killed() {
    assert_hangs(false, "cat > /dev/null; sleep 1000", ":", "did not end in 10 s and was killed");
}

#[test]
fn a_receiver_that_ignores_signals_is_killed() {
    assert_hangs(
        true,
        "trap '' TERM INT HUP; head -c 1000 > /dev/null; while :; do sleep 1; done",
        ":",
        "took nothing for 10 s",
    );
}

#[test]
fn a_receiver_that_closes_its_input_and_stays_is_killed() {
    assert_hangs(true, "exec <&-; sleep 1000", ":", "did not end in 10 s and was killed");
}

#[test]
fn a_snapshot_that_a_hanging_receiver_committed_is_received() {
    let scene = Scene::with_pool();
    queue(&scene, "laptop", "tank", 1, false);
    receiver(&scene, "", "sleep 1000");
    ingest(&scene).expect(0);
    assert_eq!(snapshots(&scene), ["backup/hosts/laptop/tank@a"]);
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn a_slow_receiver_that_reads_is_not_killed() {
    let scene = Scene::with_pool();
    queue(&scene, "laptop", "tank", 1, true);
    // The receiver runs longer than the timeout but always reads something in time.
    let slow = scene.path("slow").display().to_string();
    let does = format!("for i in $(seq 12); do head -c 400000; sleep 1; done > {slow}; cat >> {slow}; exec < {slow}");
    receiver(&scene, &does, "");
    ingest(&scene).expect(0);
    assert_eq!(snapshots(&scene), ["backup/hosts/laptop/tank@a"]);
}

#[test]
fn a_receiver_that_cannot_be_killed_is_left_behind_as_root() {
    let scene = Scene::with_pool();
    let frozen = Frozen::mount(&scene.path(""));
    frozen.freeze();
    // The first one hangs while it is fed, the second one after the last byte.
    queue(&scene, "laptop", "tank", 1, true);
    queue(&scene, "laptop", "zdata", 2, false);
    queue(&scene, "other", "tank", 3, true);
    let hang = format!("exec touch {}/x", frozen.path().display());
    receiver(
        &scene,
        &format!("case $to in */laptop/tank@a) {hang} ;; */laptop/*) cat > /dev/null; {hang} ;; esac"),
        "",
    );
    let ran = ingest(&scene).expect(69);
    let ran = ran.says("took nothing for 10 s and cannot be killed: it is left behind");
    let ran = ran.says("did not end in 10 s and cannot be killed: it is left behind");
    assert_eq!(snapshots(&scene), ["backup/hosts/other/tank@a"]);
    assert_eq!(scene.spooled("laptop").len(), 2);
    let pids = ran.err.lines().filter(|line| line.contains("the file stays"));
    let pids = pids.map(pid_in);
    let pids: Vec<u32> = pids.collect();
    assert_eq!((pids.len(), ran.err.lines().count()), (2, 2), "{}", ran.err);
    for pid in &pids {
        assert_eq!(state(*pid), Some('D'), "the process must be one that cannot be killed");
    }
    frozen.thaw();
    pids.into_iter().for_each(gone);
    receiver(&scene, "", "");
    ingest(&scene).expect(0);
    assert!(scene.spooled("laptop").is_empty());
}

/// Runs zsnap-ingest with a command of `laptop/etc` (no overlap) that hangs. `laptop/tar` is applied in the same run.
fn command_hangs(body: &[u8], does: &str, says: &str) -> Scene {
    let scene = Scene::new();
    scene.edit("ingest.toml", "cat >> ", &format!("{does}; cat >> "));
    let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), body);
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    let tar = run(Command::new("tar").args(["cf", "-", "-C", "/etc", "hostname"]), b"").expect(0);
    let sealed = scene.seal(&manifest("laptop/tar", SEQ), Some("laptop"), &tar.out);
    scene.deliver("laptop", &name("laptop/tar", SEQ), &sealed);
    let ran = scene.ingest(&["--receive-timeout=10s"]).expect(69);
    ran.says("sh for laptop/etc: sh (pid ").says(says).says("look at dmesg");
    assert!(scene.path("tar/hostname").exists() && scene.applied().is_empty());
    assert_eq!(scene.spooled("laptop").len(), 1);
    scene.edit("ingest.toml", &format!("{does}; cat >> "), "cat >> ");
    scene
}

#[test]
fn a_command_that_hangs_before_it_reads_is_killed_and_run_again() {
    let body = vec![7; 4 << 20];
    let scene = command_hangs(&body, "sleep 1000", "took nothing for 10 s and was killed");
    scene.ingest(&[]).expect(0);
    assert!(scene.applied() == body);
}

#[test]
fn a_command_that_hangs_after_reading_a_part_may_have_been_applied() {
    let scene = command_hangs(&vec![7; 4 << 20], "head -c 1000; sleep 1000", "took nothing for 10 s and was killed");
    scene.ingest(&[]).expect(1).says("forget laptop/etc --applied or --not-applied");
}

/// The command has read a part of the stream when it exits, the file is damaged, or zsnap-ingest is terminated.
#[test]
fn a_command_that_read_a_part_may_have_been_applied() {
    // Called a second time, it restores the file.
    let flip_bit = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        let last = bytes.len() - 100_000;
        bytes[last] ^= 1;
        fs::File::options().write(true).open(file).unwrap().write_all_at(&bytes, 0).unwrap();
    };
    let says = "the file was changed while it was read";
    for (status, says, act) in [(69, "", None), (74, says, Some(&flip_bit as &dyn Fn(&Path))), (128 + 15, "", None)] {
        let scene = Scene::new();
        let noise = run(Command::new("head").args(["-c", "12000000", "/dev/urandom"]), b"").out;
        let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), &noise);
        let file = scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
        // The command reads a part and waits for the FIFO. With `exit 0` it then claims to have succeeded.
        let root = scene.path("").display().to_string();
        scene.edit(
            "ingest.toml",
            "cat >> ",
            &format!("head -c 1000 > {root}/target/half; read go < {root}/go; cat >> "),
        );
        if status == 69 {
            scene.edit("ingest.toml", "; cat >> ", "; exit 0; cat >> ");
        }
        run(Command::new("mkfifo").arg(scene.path("go")), b"").expect(0);
        let ingest = scene.ingest_command(["--verify-buffer=0"]).stderr(Stdio::piped()).spawn().unwrap();
        // To open the FIFO waits for the command.
        let mut go = fs::File::options().write(true).open(scene.path("go")).unwrap();
        if let Some(act) = act {
            act(&file);
        }
        if status == 128 + 15 {
            run(Command::new("kill").arg(ingest.id().to_string()), b"").expect(0);
        }
        let _ = go.write_all(b"\n");
        Ran::of(ingest.wait_with_output().unwrap()).expect(status).says(says);
        if let Some(act) = act {
            act(&file);
        }
        fs::remove_file(scene.path("go")).unwrap();
        // The file is not applied again until the operator decides.
        scene.ingest(&[]).expect(1).says("forget laptop/etc --applied or --not-applied");
        assert!(scene.applied().len() < noise.len() && scene.spooled("laptop").len() == 1);
    }
}

#[test]
fn a_command_that_hangs_after_reading_all_may_have_been_applied() {
    let scene = command_hangs(b"hello", "cat > /dev/null; sleep 1000", "did not end in 10 s and was killed");
    scene.ingest(&[]).expect(1).says("forget laptop/etc --applied or --not-applied");
    assert!(scene.applied().is_empty());
}
