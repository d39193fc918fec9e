//! The program as its users see it: command lines, exit statuses, files. The streams are real
//! ones (tests/data/streams).
#![allow(clippy::unwrap_used, reason = "tests")]

mod host;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use host::{ends, feed, host, names, silent, stream};
use serde_json::Value;
use zsnap_message::payload::{Base, PayloadKind};

const DATA: &str = "laptop/src/data";

#[test]
fn a_chain_of_zfs_streams_arrives_as_it_was_sent() {
    let h = host();
    let sent = ["full", "incr-i-s1-s2", "incr-I-s1-s4", "empty-incr"].map(stream);
    for bytes in &sent {
        silent(&h.queue(&["--strip", "tank/simplesnap", "tank/simplesnap/laptop/src/data"], bytes));
    }
    let files = h.delivered();
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
fn a_stream_that_is_not_whole_is_never_queued() {
    let h = host();
    let full = stream("full");
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
        ("several file systems", &stream("replication-R")),
    ];
    for (what, bytes) in cases {
        let output = h.queue(&[DATA], bytes);
        assert!(!ends(&output, 65).is_empty(), "{what}");
        assert!(h.delivered().is_empty() && h.outbox().is_empty(), "{what}");
        assert!(!h.path("state/datasets/laptop/src@data/state.json").exists(), "{what}");
    }
    silent(&h.queue(&[DATA], &full));
}

#[test]
fn an_increment_without_its_base_is_refused_until_adopted() {
    let h = host();
    let increment = stream("incr-i-s1-s2");
    let stderr = ends(&h.queue(&[DATA], &increment), 65);
    assert!(
        stderr.contains("zfs destroy src/data@SNAP") && stderr.contains("zsnap-queue adopt laptop/src/data"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1);
    let mut adopt = h.bare();
    silent(&adopt.args(["adopt", DATA]).output().unwrap());
    silent(&h.queue(&[DATA], &increment));
    assert_eq!(h.open(&h.delivered()[0]).manifest.prev, None);
    // The base of what was adopted is one of ours now: a caller that did not hear of our success
    // sends from there again.
    silent(&h.queue(&[DATA], &stream("incr-I-s1-s4")));
    // Once only.
    ends(&h.queue(&[DATA], &stream("raw-w-incr")), 65);
    ends(&h.queue(&["laptop/src/other"], &increment), 65);
    // A second full stream is taken, and told.
    assert!(ends(&h.queue(&[DATA], &stream("compressed-c")), 0).contains("a full stream"));
}

#[test]
fn a_bookmark_is_as_good_a_base() {
    let h = host();
    silent(&h.queue(&[DATA], &stream("full")));
    silent(&h.queue(&[DATA], &stream("bookmark-i")));
    assert_eq!(h.delivered().len(), 2);
}

#[test]
fn usage_errors_leave_nothing_behind() {
    let h = host();
    let to = format!("--to=dir:{}", h.path("to").display());
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
        let output = h.sealing().args(args).output().unwrap();
        assert!(!ends(&output, 2).is_empty(), "{args:?}");
    }
    assert!(!h.path("state").exists());
    assert!(ends(&h.sealing().args([&to, "laptop/a"]).output().unwrap(), 65).contains("empty"));
}

#[test]
fn a_bad_key_is_found_before_anything_is_read() {
    let h = host();
    let run = |recipient: &str, signer: &str| {
        let mut command = h.bare();
        command.arg("--recipient-file").arg(h.path(recipient)).arg("--signer-file").arg(h.path(signer));
        command.arg("--to=cmd:true").arg(DATA);
        ends(&feed(command, &stream("full")), 78)
    };
    run("absent", "laptop.key");
    run("laptop.cert", "laptop.key");
    run("backup.cert", "backup.key");
    assert!(!h.path("state").exists());
}

#[test]
fn what_is_not_delivered_waits_and_the_exit_status_is_0() {
    let h = host();
    let cmd = format!(
        "--to=cmd:test -e {0} && cat > {1}/$ZSNAP_HOST.$(echo $ZSNAP_DATASET | tr / @)",
        h.path("up").display(),
        h.dir.path().display()
    );
    let full = stream("full");
    let stderr = ends(&h.queue(&[&cmd, DATA], &full), 0);
    assert!(stderr.contains("not delivered to cmd:"), "{stderr}");
    // The other destination has it.
    assert_eq!((h.delivered().len(), h.outbox().len()), (1, 1));
    let status = h.bare().args([&cmd, "status", "--json"]).output().unwrap();
    let rows: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&rows[0]["waiting_files"], &rows[0]["configured"]), (&1.into(), &"yes".into()));
    // What simplesnap's hook said, only the log has heard: flush tells it again, once.
    assert!(ends(&h.bare().args([&cmd, "flush"]).output().unwrap(), 1).contains("not delivered to cmd:"));
    silent(&h.bare().args([&cmd, "flush"]).output().unwrap());
    fs::write(h.path("up"), "").unwrap();
    // No longer configured, but it keeps what it was promised.
    silent(&h.bare().arg("flush").output().unwrap());
    assert_eq!(h.open(&h.path("laptop.src@data")).bytes, full);
    assert!(h.outbox().is_empty());
}

#[test]
fn flush_tells_a_new_failure_by_its_exit_status() {
    let h = host();
    fs::rename(h.path("to"), h.path("away")).unwrap();
    let stderr = ends(&h.queue(&["--opaque", "--full", "laptop/etc"], b"x"), 0);
    assert!(stderr.contains("away"), "{stderr}");
    assert!(!h.path("to").exists());
    let to = format!("--to=dir:{}", h.path("to").display());
    ends(&h.bare().args([&to, "flush"]).output().unwrap(), 1);
    silent(&h.bare().args([&to, "flush"]).output().unwrap());
    fs::rename(h.path("away"), h.path("to")).unwrap();
    silent(&h.bare().args([&to, "flush"]).output().unwrap());
    assert_eq!(h.delivered().len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn an_unmounted_drive_is_away_though_its_mount_point_is_there() {
    let h = host();
    let drive = h.path("to");
    let mount = |program: &str, args: &[&str]| {
        let output = std::process::Command::new(program).args(args).arg(&drive).output().unwrap();
        output.status.success()
    };
    if !mount("mount", &["-t", "tmpfs", "tmpfs"]) {
        eprintln!("NOT TESTED: cannot mount a tmpfs");
        return;
    }
    silent(&h.queue(&[DATA], &stream("full")));
    let delivered = h.delivered().len();
    assert!(mount("umount", &[]));
    let stderr = ends(&h.queue(&[DATA], &stream("incr-i-s1-s2")), 0);
    assert!(stderr.contains("nothing is mounted there"), "{stderr}");
    assert_eq!((delivered, names(&drive).len(), h.outbox().len()), (1, 0, 1));
    assert!(mount("mount", &["-t", "tmpfs", "tmpfs"]));
    let flushed = h.bare().arg("flush").output().unwrap();
    let delivered = h.delivered().len();
    assert!(mount("umount", &["-l"]));
    silent(&flushed);
    assert_eq!(delivered, 1);
}

#[test]
fn a_destination_that_hangs_holds_up_no_other_and_a_signal_ends_it() {
    let h = host();
    let flag = h.path("hangs");
    let mut command = h.sealing();
    command.arg(format!("--to=dir:{}", h.path("to").display()));
    command.arg(format!("--to=cmd:touch {}; exec sleep 1000", flag.display())).arg(DATA);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&stream("full")).unwrap();
    until(&mut child, || flag.exists() && h.delivered().len() == 1 && h.outbox().len() == 1);
    terminate(&child);
    // It was acknowledged: the caller must hear so.
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(h.outbox().len(), 1);
}

#[test]
fn a_signal_before_the_end_publishes_nothing() {
    let h = host();
    let mut command = h.sealing();
    command.arg(format!("--to=dir:{}", h.path("to").display())).arg(DATA);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&stream("full")[..100_000]).unwrap();
    until(&mut child, || !h.outbox().is_empty());
    terminate(&child);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    drop(stdin);
    assert!(h.outbox().is_empty() && h.delivered().is_empty());
    silent(&h.queue(&[DATA], &stream("full")));
}

/// Waits for what the child is about to do.
fn until(child: &mut Child, done: impl Fn() -> bool) {
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn one_dataset_is_queued_by_one_process() {
    let h = host();
    silent(&h.queue(&[DATA], &stream("full")));
    let lock = fs::File::open(h.path("state/datasets/laptop/src@data/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    ends(&h.queue(&[DATA], &stream("incr-i-s1-s2")), 75);
    silent(&h.queue(&["laptop/src/other"], &stream("full")));
    drop(lock);
    silent(&h.queue(&[DATA], &stream("incr-i-s1-s2")));
}

#[test]
fn as_a_filter_it_needs_no_outbox() {
    let h = host();
    let run = |input: &[u8]| {
        let mut command = h.sealing();
        command.args(["--to=-", DATA]);
        feed(command, input)
    };
    let output = run(&stream("full"));
    assert_eq!(ends(&output, 0), "");
    fs::write(h.path("out"), &output.stdout).unwrap();
    assert!(h.open(&h.path("out")).bytes == stream("full"));
    assert!(!h.path("state/outbox").exists());
    let seq = h.state("src@data")["chain"]["seq"].clone();
    ends(&run(&stream("incr-i-s1-s2")[..5000]), 65);
    assert_eq!(h.state("src@data")["chain"]["seq"], seq);
    // Nobody reads: nothing is acknowledged.
    let mut command = h.sealing();
    let mut child = command.args(["--to=-", DATA]).stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(&stream("incr-i-s1-s2"));
    assert_eq!(child.wait().unwrap().code(), Some(74));
    assert_eq!(h.state("src@data")["chain"]["seq"], seq);
    // Nobody can: what a closed descriptor becomes would take it all. Who says /dev/null gets that.
    let shell = |redirected: &str| {
        let mut command = h.sealing();
        command.args(["--to=-", "laptop/src/other"]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("\"$@\" {redirected}"), "sh"]).arg(command.get_program()).args(command.get_args());
        feed(shell, &stream("full"))
    };
    let status = |redirected: &str| shell(redirected).status.code();
    assert_eq!((status(">&-"), status("1<>/dev/null"), status(">/dev/null")), (Some(74), Some(74), Some(0)));
}

#[test]
fn tar_goes_on_from_what_was_acknowledged() {
    let h = host();
    fs::create_dir(h.path("etc")).unwrap();
    let snar = h.path("snar");
    let tar = |extra: &[&str], script: &str| {
        let state = format!("--producer-state={}", snar.display());
        let mut args = vec!["--opaque", "laptop/etc", &state];
        args.extend_from_slice(extra);
        args.extend_from_slice(&["--", "sh", "-c", script, "sh", "{state}"]);
        h.queue(&args, b"")
    };
    let backup = "tar --create --listed-incremental=$1 --file=- etc";
    fs::write(h.path("etc/one"), "1").unwrap();
    silent(&tar(&[], backup));
    fs::write(h.path("etc/two"), "2").unwrap();
    let before = fs::read(&snar).unwrap();
    // tar did all its work, but its status says no.
    ends(&tar(&[], &format!("{backup}; exit 3")), 69);
    ends(&tar(&[], "kill -9 $$"), 69);
    assert_eq!(fs::read(&snar).unwrap(), before);
    assert_eq!(names(h.dir.path()).iter().filter(|name| name.to_string_lossy().contains(".zsnap-")).count(), 0);
    assert!(h.outbox().is_empty());
    silent(&tar(&["--producer-ok=0,3"], &format!("{backup}; exit 3")));
    assert_ne!(fs::read(&snar).unwrap(), before);
    silent(&tar(&["--full"], backup));

    let opened: Vec<_> = h.delivered().iter().map(|file| h.open(file)).collect();
    let bases: Vec<_> = opened.iter().map(|o| o.manifest.base).collect();
    assert_eq!(bases, [Base::None, Base::Prev, Base::None]);
    assert_eq!(opened[1].manifest.prev, Some(opened[0].manifest.seq));
    let holds = |n: usize, file: &str| opened[n].bytes.windows(file.len()).any(|w| w == file.as_bytes());
    // The increment has what is new since the acknowledged one, and no content of the rest.
    assert!(holds(1, "etc/two") && !holds(1, "etc/one"));
    assert!(holds(2, "etc/two") && holds(2, "etc/one"));

    // Another dump with the same file leaves to it what no stream of ours has.
    fs::write(h.path("etc/three"), "3").unwrap();
    let ours = fs::read(&snar).unwrap();
    let mut other = std::process::Command::new("tar");
    other.args(["--create", "--listed-incremental=snar", "--file=/dev/null", "etc"]).current_dir(h.dir.path());
    assert!(other.status().unwrap().success() && fs::read(&snar).unwrap() != ours);
    assert!(ends(&tar(&[], backup), 65).contains("--full"));
    fs::write(&snar, ours).unwrap();
    silent(&tar(&[], backup));
    assert!(h.open(&h.delivered()[3]).bytes.windows(9).any(|w| w == b"etc/three"));
    // So does another dataset.
    let state = format!("--producer-state={}", snar.display());
    let other = |kind: &[&str]| {
        let args = [&["--opaque", "laptop/var", &state], kind, &["--", "sh", "-c", backup, "sh", "{state}"]].concat();
        h.queue(&args, b"")
    };
    ends(&other(&[]), 65);
    silent(&other(&["--full"]));
    ends(&tar(&[], backup), 65);
}

#[test]
fn a_producer_that_is_missing_or_forgets_its_state_queues_nothing() {
    let h = host();
    ends(&h.queue(&["--opaque", "--full", "laptop/etc", "--", "/nonexistent/tar"], b""), 69);
    let state = format!("--producer-state={}", h.path("s").display());
    ends(&h.queue(&["--opaque", &state, "laptop/etc", "--", "echo", "{state}"], b""), 69);
    assert!(h.delivered().is_empty() && h.outbox().is_empty());
    // It died before its first byte, and no status tells.
    ends(&h.queue(&["--opaque", "--full", "laptop/etc"], b""), 65);
    ends(&h.queue(&["--opaque", "--full", "laptop/etc", "--", "true"], b""), 65);
    assert!(h.delivered().is_empty() && h.outbox().is_empty());
    // An increment of what this state directory does not know.
    fs::write(h.path("s"), "state of another life").unwrap();
    let stderr = ends(&h.queue(&["--opaque", &state, "laptop/etc", "--", "echo", "{state}"], b""), 65);
    assert!(stderr.contains("--full"), "{stderr}");
}

#[test]
fn names_can_be_hidden() {
    let h = host();
    silent(&h.queue(&["--opaque-names", DATA], &stream("full")));
    let file = h.delivered().remove(0);
    assert!(file.to_str().unwrap().contains("_laptop@~") && !file.to_str().unwrap().contains("src"));
    assert_eq!(h.open(&file).manifest.dataset.as_str(), "src/data");
}

#[test]
fn one_line_of_json_tells_what_was_queued() {
    let h = host();
    let output = h.queue(&["--json", "--unsigned", "--opaque", "--full", "laptop/etc"], b"x");
    ends(&output, 2);
    let output = h.queue(&["--json", "--opaque", "--full", "laptop/etc"], &[7; 300_000]);
    assert_eq!(ends(&output, 0), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let line: Value = serde_json::from_str(&text).unwrap();
    let file = &h.delivered()[0];
    assert_eq!(line["file"], file.file_name().unwrap().to_str().unwrap());
    assert_eq!((&line["bytes"], &line["sealed_bytes"]), (&300_000.into(), &fs::metadata(file).unwrap().len().into()));
    assert_eq!(line["destinations"][0]["delivered"], true);
}

#[test]
fn status_speaks_when_something_is_late() {
    let h = host();
    let status = |args: &[&str]| {
        let output = h.bare().arg("status").args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(status(&["--quiet"]), (Some(0), String::new()));
    assert_eq!(status(&["--quiet", "--max-age=2d"]).0, Some(1));
    silent(&h.queue(&[DATA], &stream("full")));
    assert_eq!(status(&["--quiet", "--max-age=2d"]), (Some(0), String::new()));
    assert_eq!(status(&["--quiet", "--max-age=2d", "laptop/other"]).0, Some(1));
    assert!(status(&[]).1.contains(DATA));
    let metrics = status(&["--prometheus"]).1;
    assert!(metrics.contains("\nzsnap_queue_queued_timestamp_seconds{dataset=\"laptop/src/data\","), "{metrics}");
    assert!(metrics.contains("\nzsnap_queue_last_success_timestamp_seconds 1"), "{metrics}");
    // A file that waits for what is no longer configured.
    let drive = format!("--to=dir:{}", h.path("drive").display());
    ends(&h.queue(&[&drive, DATA], &stream("incr-i-s1-s2")), 0);
    assert_eq!(status(&["--quiet", "--max-age=2d"]).0, Some(0));
    let file = h.outbox().remove(0);
    fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(h.bare().args(["--to=cmd:true", "status", "--max-age=2d"]).output().unwrap().status.code(), Some(1));
    // It waits before it has its link, too.
    let split = h.path("state/outbox/split/laptop").join(file.file_name().unwrap());
    fs::rename(file, &split).unwrap();
    let (code, text) = status(&["--quiet", "--max-age=2d"]);
    assert!(code == Some(1) && text.contains("drive"), "{text}");
    fs::remove_file(split).unwrap();
    assert_eq!(status(&["--quiet", "--max-age=2d"]).0, Some(0));
    let path = h.path("state/datasets/laptop/src@data/state.json");
    let mut state = h.state("src@data");
    state["at"] = 1_000_000.into();
    fs::write(path, state.to_string()).unwrap();
    let (code, text) = status(&["--quiet", "--max-age=2d"]);
    assert!(code == Some(1) && text.contains(DATA));
}

#[test]
fn check_names_what_is_wrong() {
    let h = host();
    let to = format!("--to=dir:{}", h.path("to").display());
    silent(&h.sealing().args([&to, "check", "--quiet"]).output().unwrap());
    let mut command = h.bare();
    command.args(["--to=dir:/nonexistent", "--to=nncp-file:x", "--nncp-file-program=/x", "check"]);
    let output = command.output().unwrap();
    ends(&output, 78);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["recipients", "signer", "dir:/nonexistent", "nncp-file:x"] {
        assert!(text.contains(&format!("fail  {part}: ")), "{part} {text}");
    }
}

#[test]
fn state_that_cannot_be_read_stops_everything() {
    let h = host();
    silent(&h.queue(&[DATA], &stream("full")));
    let path = h.path("state/datasets/laptop/src@data/state.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    ends(&h.queue(&[DATA], &stream("incr-i-s1-s2")), 75);
    fs::write(&path, good).unwrap();
    // What waits is delivered all the same.
    let away = format!("--to=dir:{}", h.path("drive").display());
    ends(&h.queue(&[&away, DATA], &stream("incr-i-s1-s2")), 0);
    fs::create_dir(h.path("drive")).unwrap();
    fs::remove_file(h.path("state/epoch.json")).unwrap();
    ends(&h.queue(&[DATA], &stream("incr-i-s1-s2")), 75);
    for command in ["check", "status", "flush"] {
        let output = h.sealing().args([&away, command]).output().unwrap();
        let text = ends(&output, if command == "check" { 78 } else { 75 }) + &String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("epoch.json is missing") && text.contains("zsnap-queue flush"), "{text}");
    }
    assert!(h.outbox().is_empty() && h.path("drive/laptop").exists());
    assert!(!h.path("state/epoch.json").exists());
}

#[test]
fn the_configuration_file_is_the_command_line() {
    let h = host();
    let config = format!(
        "strip = \"tank/simplesnap\"\nrecipient-file = [{:?}]\nsigner-file = {:?}\nto = [\"dir:{}\"]\n",
        h.path("backup.cert"),
        h.path("laptop.key"),
        h.path("to").display()
    );
    fs::write(h.path("queue.toml"), config).unwrap();
    let mut command = h.bare();
    command.arg("tank/simplesnap/laptop/src/data");
    silent(&feed(command, &stream("full")));
    silent(&h.bare().args(["status", "--quiet", "--max-age=2d"]).output().unwrap());
    assert_eq!(h.delivered().len(), 1);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let h = host();
    for args in [&["--help"][..], &["--version"], &["status", "--help"]] {
        let mut child = h.bare().args(args).spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success() && text.contains("zsnap-queue"));
    }
}
