//! zsnap-queue as its users see it: command lines, exit statuses, files. The streams are real ones
//! (tests/data/streams).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use zsnap_message::payload::{Base, PayloadKind};
use zsnap_tests::scene::{Ran, Scene, run};

use super::{DATA, mounted, names, real};

/// Runs zsnap-queue with keys and with the spool as its destination.
fn queue(h: &Scene, args: &[&str], input: &[u8]) -> Ran {
    let to = format!("--to=dir:{}", h.path("spool").display());
    run(h.sealing().arg(to).args(args), input)
}

#[test]
fn a_chain_of_zfs_streams_arrives_unchanged() {
    let h = Scene::new();
    let sent = ["full", "incr-i-s1-s2", "incr-I-s1-s4", "empty-incr"].map(real);
    for bytes in &sent {
        queue(&h, &["--strip", "tank/simplesnap", "tank/simplesnap/laptop/src/data"], bytes).silent();
    }
    let files = h.spooled("laptop");
    assert_eq!(files.len(), 4);
    let opened: Vec<_> = files.iter().map(|file| h.open(file)).collect();
    for (n, (one, sent)) in opened.iter().zip(&sent).enumerate() {
        assert!(one.bytes == *sent && one.signed, "stream {n}");
        let m = &one.manifest;
        assert_eq!((m.host.as_str(), m.dataset.as_str(), m.kind), ("laptop", "src/data", PayloadKind::Zfs));
        let prev = if n == 0 { None } else { Some(opened[n - 1].manifest.seq) };
        assert_eq!((m.prev, m.base), (prev, if n == 0 { Base::None } else { Base::Prev }));
        assert_eq!(m.epoch, opened[0].manifest.epoch);
    }
    assert!(h.outbox().is_empty());
}

#[test]
fn an_incomplete_or_damaged_stream_is_not_queued() {
    let h = Scene::new();
    let full = real("full");
    let mut damaged = full.clone();
    let middle = full.len() / 2;
    damaged[middle] ^= 1;
    let twice = [full.as_slice(), full.as_slice()].concat();
    let cases: [(&str, &[u8]); 8] = [
        ("empty", b""),
        ("no stream", b"tar, perhaps"),
        ("one record", &full[..312]),
        ("cut", &full[..full.len() - 1]),
        ("cut at the END record", &full[..full.len() - 312]),
        ("damaged", &damaged),
        ("two streams", &twice),
        ("several file systems", &real("replication-R")),
    ];
    for (what, bytes) in cases {
        let output = queue(&h, &[DATA], bytes);
        assert!(!output.expect(65).err.is_empty(), "{what}");
        assert!(h.spooled("laptop").is_empty() && h.outbox().is_empty(), "{what}");
        assert!(!h.path("queue-state/datasets/laptop/src@data/state.json").exists(), "{what}");
    }
    queue(&h, &[DATA], &full).silent();
}

#[test]
fn an_incremental_on_an_unknown_base_is_rejected_until_adopted() {
    let h = Scene::new();
    let incremental = real("incr-i-s1-s2");
    let stderr = queue(&h, &[DATA], &incremental).expect(65).err;
    assert!(
        stderr.contains("zfs destroy src/data@SNAP") && stderr.contains("zsnap-queue adopt laptop/src/data"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1);
    let mut adopt = h.bare();
    run(adopt.args(["adopt", DATA]), b"").silent();
    queue(&h, &[DATA], &incremental).silent();
    assert_eq!(h.open(&h.spooled("laptop")[0]).manifest.prev, None);
    // The base of the adopted stream is known now: a caller that did not learn of the success sends from there again.
    queue(&h, &[DATA], &real("incr-I-s1-s4")).silent();
    // `adopt` holds for one stream and one dataset.
    queue(&h, &[DATA], &real("raw-w-incr")).expect(65);
    queue(&h, &["laptop/src/other"], &incremental).expect(65);
    // A second full stream is accepted, with a warning.
    assert!(queue(&h, &[DATA], &real("compressed-c")).expect(0).err.contains("a full stream"));
}

#[test]
fn an_incremental_from_a_bookmark_is_queued() {
    let h = Scene::new();
    queue(&h, &[DATA], &real("full")).silent();
    queue(&h, &[DATA], &real("bookmark-i")).silent();
    assert_eq!(h.spooled("laptop").len(), 2);
}

#[test]
fn a_usage_error_creates_no_state() {
    let h = Scene::new();
    let to = format!("--to=dir:{}", h.path("spool").display());
    for args in [
        &["laptop/a"][..],
        &[&to],
        &[&to, "laptop"],
        &[&to, "laptop/../a"],
        &[&to, "--strip", "tank", "laptop/a"],
        &[&to, "--unsigned", "laptop/a"],
        &[&to, "--to=-", "laptop/a"],
        &["--to=ftp:x", "laptop/a"],
        &[&to, "--opaque", "laptop/a"],
        &[&to, "--opaque", "--full", "--strip", "laptop", "laptop/a"],
        &[&to, "--opaque", "--increment", "laptop/a"],
        &[&to, "--level=0", "laptop/a"],
        &[&to, "laptop/a", "laptop/b"],
        &[&to, "laptop/a", "status"],
        &["adopt"],
        &["status", "--wrong"],
    ] {
        let output = run(h.sealing().args(args), b"");
        assert!(!output.expect(2).err.is_empty(), "{args:?}");
    }
    assert!(!h.path("queue-state").exists());
    assert!(run(h.sealing().args([&to, "laptop/a"]), b"").expect(65).err.contains("empty"));
}

#[test]
fn a_bad_key_is_a_configuration_error_and_creates_no_state() {
    let h = Scene::new();
    let run = |recipient: &str, signer: &str| {
        let mut command = h.bare();
        command.arg("--encrypt-to").arg(h.path(recipient)).arg("--signing-key").arg(h.path(signer));
        command.arg("--to=cmd:true").arg(DATA);
        run(&mut command, &real("full")).expect(78).err
    };
    run("absent", "laptop.key");
    run("laptop.cert", "laptop.key");
    run("backup.cert", "backup.key");
    assert!(!h.path("queue-state").exists());
}

#[test]
fn an_undelivered_file_waits_and_the_exit_status_is_0() {
    let h = Scene::new();
    let cmd = format!(
        "--to=cmd:test -e {0} && cat > {1}/$ZSNAP_HOST.$(echo $ZSNAP_DATASET | tr / @)",
        h.path("up").display(),
        h.path("").display()
    );
    let full = real("full");
    let stderr = queue(&h, &[&cmd, DATA], &full).expect(0).err;
    assert!(stderr.contains("not delivered to cmd:"), "{stderr}");
    // The other destination has the file.
    assert_eq!((h.spooled("laptop").len(), h.outbox().len()), (1, 1));
    let status = run(h.bare().args([&cmd, "status", "--json"]), b"");
    let rows: Value = serde_json::from_slice(&status.out).unwrap();
    assert_eq!((&rows[0]["waiting_files"], &rows[0]["configured"]), (&1.into(), &"yes".into()));
    // The output of simplesnap's hook is only in the log, so flush reports the failure again, once.
    assert!(run(h.bare().args([&cmd, "flush"]), b"").expect(1).err.contains("not delivered to cmd:"));
    run(h.bare().args([&cmd, "flush"]), b"").silent();
    fs::write(h.path("up"), "").unwrap();
    // The destination is no longer configured, but its files are still delivered.
    run(h.bare().arg("flush"), b"").silent();
    assert_eq!(h.open(&h.path("laptop.src@data")).bytes, full);
    assert!(h.outbox().is_empty());
}

#[test]
fn flush_exits_with_1_for_a_new_failure_only() {
    let h = Scene::new();
    fs::rename(h.path("spool"), h.path("away")).unwrap();
    let stderr = queue(&h, &["--opaque", "--full", "laptop/etc"], b"x").expect(0).err;
    assert!(stderr.contains("away"), "{stderr}");
    assert!(!h.path("spool").exists());
    let to = format!("--to=dir:{}", h.path("spool").display());
    run(h.bare().args([&to, "flush"]), b"").expect(1);
    run(h.bare().args([&to, "flush"]), b"").silent();
    fs::rename(h.path("away"), h.path("spool")).unwrap();
    run(h.bare().args([&to, "flush"]), b"").silent();
    assert_eq!(h.spooled("laptop").len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn an_unmounted_drive_is_away_although_its_mount_point_exists() {
    let h = Scene::new();
    let drive = h.path("spool");
    let Some(mount) = mounted(&drive) else { return };
    queue(&h, &[DATA], &real("full")).silent();
    let delivered = h.spooled("laptop").len();
    assert!(mount("umount", &[]));
    let stderr = queue(&h, &[DATA], &real("incr-i-s1-s2")).expect(0).err;
    assert!(stderr.contains("/spool has no .zsnap-drive: the drive is not mounted"), "{stderr}");
    assert_eq!((delivered, names(&drive).len(), h.outbox().len()), (1, 0, 1));
    assert!(mount("mount", &["-t", "tmpfs", "tmpfs"]));
    h.mark("spool");
    let flushed = run(h.bare().arg("flush"), b"");
    let delivered = h.spooled("laptop").len();
    assert!(mount("umount", &["-l"]));
    flushed.silent();
    assert_eq!(delivered, 1);
}

#[test]
fn a_hanging_destination_delays_no_other_and_ends_on_a_signal() {
    let h = Scene::new();
    let flag = h.path("hangs");
    let mut command = h.sealing();
    command.arg(format!("--to=dir:{}", h.path("spool").display()));
    command.arg(format!("--to=cmd:touch {}; exec sleep 1000", flag.display())).arg(DATA);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&real("full")).unwrap();
    wait_until(&mut child, || flag.exists() && h.spooled("laptop").len() == 1 && h.outbox().len() == 1);
    terminate(&child);
    // The stream was queued, so the status must be 0.
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(h.outbox().len(), 1);
}

#[test]
fn a_signal_before_the_end_of_the_stream_queues_nothing() {
    let h = Scene::new();
    let mut command = h.sealing();
    command.arg(format!("--to=dir:{}", h.path("spool").display())).arg(DATA);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&real("full")[..100_000]).unwrap();
    wait_until(&mut child, || !h.outbox().is_empty());
    terminate(&child);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    drop(stdin);
    assert!(h.outbox().is_empty() && h.spooled("laptop").is_empty());
    queue(&h, &[DATA], &real("full")).silent();
}

/// Waits until `done`, while the child runs.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "zsnap-queue has ended");
        std::thread::yield_now();
    }
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn a_locked_dataset_is_busy_and_another_is_queued() {
    let h = Scene::new();
    queue(&h, &[DATA], &real("full")).silent();
    let lock = fs::File::open(h.path("queue-state/datasets/laptop/src@data/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    queue(&h, &[DATA], &real("incr-i-s1-s2")).expect(75);
    queue(&h, &["laptop/src/other"], &real("full")).silent();
    drop(lock);
    queue(&h, &[DATA], &real("incr-i-s1-s2")).silent();
}

#[test]
fn a_filter_has_no_outbox_and_commits_only_what_was_written() {
    let h = Scene::new();
    let filter = |input: &[u8]| {
        let mut command = h.sealing();
        command.args(["--to=-", DATA]);
        run(&mut command, input)
    };
    let output = filter(&real("full")).expect(0);
    assert_eq!(output.err, "");
    fs::write(h.path("out"), &output.out).unwrap();
    assert!(h.open(&h.path("out")).bytes == real("full"));
    assert!(!h.path("queue-state/outbox").exists());
    let seq = h.queue_state("src@data")["chain"]["seq"].clone();
    filter(&real("incr-i-s1-s2")[..5000]).expect(65);
    assert_eq!(h.queue_state("src@data")["chain"]["seq"], seq);
    // The reader of the pipe is gone: the stream is not committed.
    let mut command = h.sealing();
    let mut child = command.args(["--to=-", DATA]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(&real("incr-i-s1-s2"));
    assert_eq!(child.wait().unwrap().code(), Some(74));
    assert_eq!(h.queue_state("src@data")["chain"]["seq"], seq);
    // Standard output is closed, or open for reading and writing as a closed descriptor would become: the stream would
    // be lost. An explicit >/dev/null is accepted.
    let shell = |redirected: &str| {
        let mut command = h.sealing();
        command.args(["--to=-", "laptop/src/other"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("\"$@\" {redirected}"), "sh"]).arg(command.get_program()).args(command.get_args());
        run(&mut shell, &real("full"))
    };
    let status = |redirected: &str| shell(redirected).status;
    assert_eq!((status(">&-"), status("1<>/dev/null"), status(">/dev/null")), (74, 74, 0));
}

#[test]
fn tar_continues_from_the_last_queued_stream() {
    let h = Scene::new();
    fs::create_dir(h.path("etc")).unwrap();
    let snar = h.path("snar");
    let tar = |extra: &[&str], script: &str| {
        let state = format!("--producer-state={}", snar.display());
        let mut args = vec!["--opaque", "laptop/etc", &state];
        args.extend_from_slice(extra);
        args.extend_from_slice(&["--", "sh", "-c", script, "sh", "{state}"]);
        queue(&h, &args, b"")
    };
    let backup = "tar --create --listed-incremental=$1 --file=- etc";
    fs::write(h.path("etc/one"), "1").unwrap();
    tar(&[], backup).silent();
    fs::write(h.path("etc/two"), "2").unwrap();
    let before = fs::read(&snar).unwrap();
    // tar did all its work and then failed.
    tar(&[], &format!("{backup}; exit 3")).expect(69);
    tar(&[], "kill -9 $$").expect(69);
    assert_eq!(fs::read(&snar).unwrap(), before);
    assert_eq!(names(&h.path("")).iter().filter(|name| name.to_string_lossy().contains(".zsnap-")).count(), 0);
    assert!(h.outbox().is_empty());
    tar(&["--producer-ok=0,3"], &format!("{backup}; exit 3")).silent();
    assert_ne!(fs::read(&snar).unwrap(), before);
    tar(&["--full"], backup).silent();

    let opened: Vec<_> = h.spooled("laptop").iter().map(|file| h.open(file)).collect();
    let bases: Vec<_> = opened.iter().map(|o| o.manifest.base).collect();
    assert_eq!(bases, [Base::None, Base::Prev, Base::None]);
    assert_eq!(opened[1].manifest.prev, Some(opened[0].manifest.seq));
    let holds = |n: usize, file: &str| opened[n].bytes.windows(file.len()).any(|w| w == file.as_bytes());
    // The incremental has what is new since the last queued stream, and nothing of the rest.
    assert!(holds(1, "etc/two") && !holds(1, "etc/one"));
    assert!(holds(2, "etc/two") && holds(2, "etc/one"));

    // Another dump changes the state file: the next incremental would lack what that dump contains.
    fs::write(h.path("etc/three"), "3").unwrap();
    let ours = fs::read(&snar).unwrap();
    let mut other = Command::new("tar");
    other.args(["--create", "--listed-incremental=snar", "--file=/dev/null", "etc"]).current_dir(h.path(""));
    assert!(other.status().unwrap().success() && fs::read(&snar).unwrap() != ours);
    assert!(tar(&[], backup).expect(65).err.contains("--full"));
    fs::write(&snar, ours).unwrap();
    tar(&[], backup).silent();
    assert!(h.open(&h.spooled("laptop")[3]).bytes.windows(9).any(|w| w == b"etc/three"));
    // The same holds for a dump of another dataset.
    let state = format!("--producer-state={}", snar.display());
    let other = |kind: &[&str]| {
        let args = [&["--opaque", "laptop/var", &state], kind, &["--", "sh", "-c", backup, "sh", "{state}"]].concat();
        queue(&h, &args, b"")
    };
    other(&[]).expect(65);
    other(&["--full"]).silent();
    tar(&[], backup).expect(65);
}

#[test]
fn a_file_that_changes_while_tar_reads_it_is_queued_if_asked_for() {
    let h = Scene::new();
    fs::create_dir(h.path("etc")).unwrap();
    fs::write(h.path("etc/big"), vec![7; 1 << 20]).unwrap();
    let tar = |extra: &[&str]| {
        let args = [&["--opaque", "--full", "laptop/etc"], extra, &["--", "tar", "--create", "--file=-"]].concat();
        let mut command = h.sealing();
        command.arg(format!("--to=dir:{}", h.path("spool").display())).args(&args);
        // tar runs this after its first record, when it has read a part of the file.
        command.args(["--checkpoint=1", "--checkpoint-action=exec=echo more >> etc/big"]);
        command.arg(format!("--directory={}", h.path("").display())).arg("etc").current_dir(h.path(""));
        run(&mut command, b"")
    };
    let remedy = "if it is GNU tar, and files have only changed while it read them: --producer-ok 0,1";
    tar(&[]).expect(69).says("file changed as we read it").says(remedy);
    assert!(h.spooled("laptop").is_empty());
    tar(&["--producer-ok", "0,1"]).expect(0);
    assert_eq!(h.spooled("laptop").len(), 1);
}

#[test]
fn a_stream_of_another_host_is_not_queued() {
    let h = Scene::new();
    let opaque = |args: &[&str]| queue(&h, &[&["--opaque", "--full"], args].concat(), b"x");
    // The prefix does not match, so that the operand would be of the host "tank".
    opaque(&["--strip", "tank/simplesnp", "tank/simplesnap/laptop/etc"])
        .expect(2)
        .says("would be of the host \"tank\", but this configuration's host is \"laptop\"")
        .says("it does not lie below strip (\"tank/simplesnp\"): correct one of them");
    opaque(&["--strip", "tank/simplesnap", "tank/simplesnap/laptop/etc"]).expect(0);
    queue(&h, &["tank/simplesnap/laptop/src/data"], &real("full")).expect(2).says("--host tank too");
    queue(&h, &["adopt", "server/tank"], b"").expect(2).says("--host server too");
    opaque(&["--host", "server", "laptop/etc"]).expect(2).says("host is \"server\" (host)");
    opaque(&["--host", "server", "--host", "laptop", "server/etc"]).expect(0);
    queue(&h, &["--host", "server", "--host", "laptop", "adopt", "server/tank"], b"").expect(0);
    assert_eq!((h.spooled("laptop").len(), h.spooled("server").len()), (1, 1));
}

#[test]
fn a_producer_without_state_or_output_queues_nothing() {
    let h = Scene::new();
    queue(&h, &["--opaque", "--full", "laptop/etc", "--", "/nonexistent/tar"], b"").expect(69);
    let state = format!("--producer-state={}", h.path("s").display());
    queue(&h, &["--opaque", &state, "laptop/etc", "--", "echo", "{state}"], b"").expect(69);
    assert!(h.spooled("laptop").is_empty() && h.outbox().is_empty());
    // An empty opaque stream: the producer may have died before its first byte, which no status shows.
    queue(&h, &["--opaque", "--full", "laptop/etc"], b"").expect(65);
    queue(&h, &["--opaque", "--full", "laptop/etc", "--", "true"], b"").expect(65);
    assert!(h.spooled("laptop").is_empty() && h.outbox().is_empty());
    // An incremental on a producer state that this state directory does not know.
    fs::write(h.path("s"), "state of another life").unwrap();
    let stderr = queue(&h, &["--opaque", &state, "laptop/etc", "--", "echo", "{state}"], b"").expect(65).err;
    assert!(stderr.contains("--full"), "{stderr}");
}

#[test]
fn opaque_names_hide_the_dataset_in_the_file_name() {
    let h = Scene::new();
    queue(&h, &["--opaque-names", DATA], &real("full")).silent();
    let file = h.spooled("laptop").remove(0);
    assert!(file.to_str().unwrap().contains("_laptop@~") && !file.to_str().unwrap().contains("src"));
    assert_eq!(h.open(&file).manifest.dataset.as_str(), "src/data");
}

#[test]
fn json_describes_the_queued_file_in_one_line() {
    let h = Scene::new();
    let output = queue(&h, &["--json", "--unsigned", "--opaque", "--full", "laptop/etc"], b"x");
    output.expect(2);
    let output = queue(&h, &["--json", "--opaque", "--full", "laptop/etc"], &[7; 300_000]).expect(0);
    assert_eq!(output.err, "");
    let text = String::from_utf8(output.out).unwrap();
    assert_eq!(text.lines().count(), 1);
    let line: Value = serde_json::from_str(&text).unwrap();
    let file = &h.spooled("laptop")[0];
    assert_eq!(line["file"], file.file_name().unwrap().to_str().unwrap());
    assert_eq!((&line["bytes"], &line["sealed_bytes"]), (&300_000.into(), &fs::metadata(file).unwrap().len().into()));
    assert_eq!(line["destinations"][0]["delivered"], true);
}

#[test]
fn status_reports_late_datasets_and_late_files() {
    let h = Scene::new();
    let status = |args: &[&str]| {
        let ran = run(h.bare().arg("status").args(args), b"");
        (ran.status, String::from_utf8(ran.out).unwrap())
    };
    assert_eq!(status(&["--quiet"]), (0, String::new()));
    assert_eq!(status(&["--quiet", "--max-age=2d"]).0, 1);
    queue(&h, &[DATA], &real("full")).silent();
    assert_eq!(status(&["--quiet", "--max-age=2d"]), (0, String::new()));
    assert_eq!(status(&["--quiet", "--max-age=2d", "laptop/other"]).0, 1);
    assert!(status(&[]).1.contains(DATA));
    let metrics = status(&["--prometheus"]).1;
    assert!(metrics.contains(&format!("\nzsnap_queue_queued_timestamp_seconds{{dataset=\"{DATA}\",")), "{metrics}");
    assert!(metrics.contains("\nzsnap_queue_last_success_timestamp_seconds 1"), "{metrics}");
    // Nothing was queued for a destination that is new in the configuration.
    let other = run(h.bare().args(["--to=cmd:true", "status"]), b"").expect(0);
    assert!(String::from_utf8(other.out).unwrap().contains("  not sent "), "the destination has no file");
    // A file that waits for a destination that is no longer configured.
    let drive = format!("--to=dir:{}", h.path("drive").display());
    queue(&h, &[&drive, DATA], &real("incr-i-s1-s2")).expect(0);
    assert_eq!(status(&["--quiet", "--max-age=2d"]).0, 0);
    let file = h.outbox().remove(0);
    fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    run(h.bare().args(["--to=cmd:true", "status", "--max-age=2d"]), b"").expect(1);
    // A file waits also before it is split.
    let split = h.path("queue-state/outbox/split/laptop").join(file.file_name().unwrap());
    fs::rename(file, &split).unwrap();
    let (code, text) = status(&["--quiet", "--max-age=2d"]);
    assert!(code == 1 && text.contains("drive"), "{text}");
    fs::remove_file(split).unwrap();
    assert_eq!(status(&["--quiet", "--max-age=2d"]).0, 0);
    let path = h.path("queue-state/datasets/laptop/src@data/state.json");
    let mut state = h.queue_state("src@data");
    state["at"] = 1_000_000.into();
    fs::write(path, state.to_string()).unwrap();
    let (code, text) = status(&["--quiet", "--max-age=2d"]);
    assert!(code == 1 && text.contains(DATA));
}

#[test]
fn check_reports_missing_keys_and_destinations() {
    let h = Scene::new();
    let to = format!("--to=dir:{}", h.path("spool").display());
    run(h.sealing().args([&to, "check", "--quiet"]), b"").silent();
    let wrong = ["--to=dir:/nonexistent", "--to=nncp-file:x", "--nncp-file-program=/x", "check"];
    let mut ran = run(h.bare().args(wrong), b"").expect(78);
    for part in ["recipients", "signer", "dir:/nonexistent", "nncp-file:x"] {
        ran = ran.prints(&format!("fail  {part}: "));
    }
}

#[test]
fn unreadable_state_stops_queueing_but_not_delivery() {
    let h = Scene::new();
    queue(&h, &[DATA], &real("full")).silent();
    let path = h.path("queue-state/datasets/laptop/src@data/state.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    queue(&h, &[DATA], &real("incr-i-s1-s2")).expect(75);
    fs::write(&path, good).unwrap();
    // Waiting files are delivered all the same.
    let away = format!("--to=dir:{}", h.path("drive").display());
    queue(&h, &[&away, DATA], &real("incr-i-s1-s2")).expect(0);
    fs::create_dir(h.path("drive")).unwrap();
    h.mark("drive");
    fs::remove_file(h.path("queue-state/epoch.json")).unwrap();
    queue(&h, &[DATA], &real("incr-i-s1-s2")).expect(75);
    for command in ["check", "status", "flush"] {
        let ran = run(h.sealing().args([&away, command]), b"").expect(if command == "check" { 78 } else { 75 });
        let text = ran.err + &String::from_utf8_lossy(&ran.out);
        assert!(text.contains("epoch.json is missing") && text.contains("zsnap-queue flush"), "{text}");
    }
    assert!(h.outbox().is_empty() && h.path("drive/laptop").exists());
    assert!(!h.path("queue-state/epoch.json").exists());
}

#[test]
fn the_configuration_file_replaces_command_line_options() {
    let h = Scene::new();
    let config = format!(
        "strip = \"tank/simplesnap\"\nencrypt-to = [{:?}]\nsigning-key = {:?}\nto = [\"dir:{}\"]\n",
        h.path("backup.cert"),
        h.path("laptop.key"),
        h.path("spool").display()
    );
    fs::write(h.path("bare.toml"), config).unwrap();
    let mut command = h.bare();
    command.arg("tank/simplesnap/laptop/src/data");
    run(&mut command, &real("full")).silent();
    run(h.bare().args(["status", "--quiet", "--max-age=2d"]), b"").silent();
    assert_eq!(h.spooled("laptop").len(), 1);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let h = Scene::new();
    for args in [&["--help"][..], &["--version"], &["status", "--help"]] {
        let mut child = h.bare().args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success() && text.contains("zsnap-queue"));
    }
}
