//! How both tools end: the exit status, one line on standard error (and to syslog), and nothing
//! queued or applied when that is not 0.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zsnap_tests::expirer::Expirer;
use zsnap_tests::sample;
use zsnap_tests::scene::{Ran, Scene, have, manifest, name, needs_root, run, tool};
use zsnap_tests::spooler::Spooler;
use zsnap_tests::stream::{Rec, Stream, Sub, kind};

/// Fails unless the error is one line of printable ASCII.
#[track_caller]
fn one_line(ran: &Ran) {
    let lines: Vec<_> = ran.err.lines().collect();
    let printable = ran.err.trim_end_matches('\n').bytes().all(|b| (32..127).contains(&b));
    assert!(lines.len() == 1 && printable && lines[0].starts_with("zsnap-"), "{:?}", ran.err);
}

/// Fails if any file but the tool's own state is there.
#[track_caller]
fn nothing_published(scene: &Scene) {
    let dirs = [scene.path("spool"), scene.path("queue-state/outbox")];
    let found = run(Command::new("find").args(dirs).args(["-type", "f"]), b"");
    assert_eq!(String::from_utf8_lossy(&found.out), "");
}

fn compound(snaps: &[(&str, u64)], last: &str) -> Vec<u8> {
    let mut from = 0;
    let subs = snaps.iter().map(|(snap, guid)| {
        let sub = Sub::increment(&format!("tank/home@{snap}"), from, *guid);
        from = *guid;
        sub
    });
    Stream::compound(&format!("tank/home@{last}"), subs.collect::<Vec<_>>()).bytes()
}

#[test]
fn a_stream_that_is_not_whole_and_right_is_65_and_not_queued() {
    let scene = Scene::new();
    let good = sample("full.zfs");
    let whole = compound(&[("a", 1), ("b", 2)], "b");
    let with = |record: Rec| {
        let mut sub = Sub::full("tank/home@a", 1);
        sub.records.push(record);
        Stream::plain(sub).bytes()
    };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "empty"),
        ("garbage", b"no stream at all".repeat(100), "--opaque"),
        ("tar", run(Command::new("tar").args(["-cf", "-", "-C", "/", "etc/hostname"]), b"").out, "--opaque"),
        ("one byte", good[..1].to_vec(), ""),
        ("cut in the first record", good[..311].to_vec(), ""),
        ("cut behind the first record", good[..312].to_vec(), "breaks off"),
        ("cut in the middle", good[..good.len() / 2].to_vec(), "breaks off"),
        ("cut before the last record", good[..good.len() - 312].to_vec(), "breaks off"),
        ("cut before the last byte", good[..good.len() - 1].to_vec(), "breaks off"),
        ("a bit flipped", flipped, "damaged"),
        ("garbage behind", [&good[..], b"x"].concat(), "behind its end"),
        ("a second stream behind", [&good[..], &good[..]].concat(), "behind its end"),
        ("-I without its last snapshot", compound(&[("a", 1), ("b", 2)], "c"), ""),
        ("-I cut behind the first snapshot", whole[..whole.len() / 2].to_vec(), ""),
        ("-I without its last END", whole[..whole.len() - 312].to_vec(), "breaks off"),
        ("a record of 2^40 bytes", with(Rec::new(kind::WRITE).with(8, 1).with(32, 1 << 40)), "damaged"),
        ("a record of an unknown type", with(Rec::new(99)), "--opaque"),
        ("-R", sample("replication-R.zfs"), ""),
        ("an incremental on nothing", sample("incr-i-s1-s2.zfs"), "adopt"),
    ];
    for (what, input, says) in rows {
        let ran = scene.queue(&["laptop/tank/home"], &input);
        assert_eq!(ran.status, 65, "{what}: {}", ran.err);
        one_line(&ran);
        assert!(ran.err.contains(says) && ran.out.is_empty(), "{what}: {}", ran.err);
        nothing_published(&scene);
        // As a filter: whoever reads it sees the status, and the file has no end.
        let filtered = scene.queue(&["--to", "-", "laptop/tank/home"], &input);
        assert_eq!(filtered.status, 65, "{what}: {}", filtered.err);
        scene.write("packet", "");
        fs::write(scene.path("packet"), &filtered.out).unwrap();
        let packet = scene.path("packet");
        scene.ingest(&["--host", "laptop", "verify", packet.to_str().unwrap()]).expect(65);
    }
    // What is whole is taken, and none of the above has left a trace in the chain.
    scene.queue(&["laptop/tank/home"], &whole).expect(0);
    assert_eq!(scene.spooled("laptop").len(), 1);
}

#[test]
fn five_thousand_snapshots_in_one_stream() {
    let scene = Scene::new();
    let names: Vec<_> = (1..=5000_u64).map(|n| (format!("s{n}"), n)).collect();
    let snaps: Vec<_> = names.iter().map(|(name, guid)| (name.as_str(), *guid)).collect();
    let stream = compound(&snaps, "s5000");
    scene.queue(&["laptop/tank/home"], &stream).expect(0);
    let file = scene.spooled("laptop").remove(0);
    let told = String::from_utf8(scene.ingest(&["verify", file.to_str().unwrap()]).expect(0).out).unwrap();
    assert!(told.contains("substreams: 5000\n") && told.contains("snapshot: tank/home@s5000\n"), "{told}");
    assert!(scene.ingest(&["cat", file.to_str().unwrap()]).expect(0).out == stream);
}

#[test]
fn check_warns_of_what_is_true_of_one_stream_only() {
    let scene = Scene::new();
    scene.queue(&["check"], b"").expect(0).prints("ok    options\n");
    scene.edit("queue.toml", "to = [", "full = true\noverlap = true\nto = [");
    let ran = scene.queue(&["check", "--quiet"], b"").expect(1);
    let ran = ran.prints("warn  options: full = true calls").prints("warn  options: overlap = true says");
    assert_eq!(String::from_utf8_lossy(&ran.out).lines().count(), 2, "{ran:?}");
    scene.edit("queue.toml", "full = true\noverlap = true", "increment = true");
    scene.queue(&["check"], b"").expect(1).prints("options: increment = true lets");
}

#[test]
fn what_reaches_the_arguments_of_nncp_is_checked() {
    let scene = Scene::new();
    for wrong in
        ["--nice=-cfg", "--nice=B 5", "--nncp-config=nncp.hjson", "--to=nncp-file:-cfg", "--to=nncp-file:n/../x"]
    {
        scene.queue(&[wrong, "flush"], b"").expect(2);
    }
    scene.queue(&["--nice=B+5", "--nncp-config=/nncp.hjson", "flush"], b"").expect(0);
}

/// simplesnap sends from the base again if it did not hear that the stream was queued.
#[test]
fn an_increment_of_ten_thousand_snapshots_does_not_forget_its_base() {
    const LAST: u64 = 10_001;
    let scene = Scene::new();
    let queue = |stream: Stream| scene.queue(&["laptop/tank/home"], &stream.bytes()).expect(0);
    queue(Stream::plain(Sub::full("tank/home@s1", 1)));
    let sub = |n: u64| Sub::increment(&format!("tank/home@s{n}"), n - 1, n);
    queue(Stream::compound(&format!("tank/home@s{LAST}"), (2..=LAST).map(sub).collect::<Vec<_>>()));
    queue(Stream::plain(Sub::increment("tank/home@again", 1, 20_001)));
    queue(Stream::plain(Sub::increment("tank/home@next", LAST, 20_002)));
    assert_eq!(scene.spooled("laptop").len(), 4);
}

/// Runs a tool that must end by itself though its standard input never does; whether it has read of it.
fn unread(command: &mut Command) -> (Ran, bool) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    writer.write_all(b"stream").unwrap();
    let input = Stdio::from(reader.try_clone().unwrap());
    let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it waits for its standard input");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = Ran::of(child.wait_with_output().unwrap());
    drop(writer);
    let mut left = Vec::new();
    reader.read_to_end(&mut left).unwrap();
    (ran, left == b"stream")
}

/// A certificate made by gpg in the year 2020: expired after a day, or revoked.
fn gpg_cert(scene: &Scene, name: &str, revoked: bool) {
    let script = "chmod 700 .; exec 2>gpg.log
        gpg --batch --faked-system-time 20200101T000000 --passphrase '' --quick-gen-key x rsa2048 default $EXPIRE
        if [ $REVOKE = true ]; then
          sed 's/^:---/---/' openpgp-revocs.d/*.rev | gpg --batch --import
        fi
        gpg --batch --export > ../$NAME.cert
        gpgconf --kill all";
    let home = scene.path(format!("{name}-gnupg"));
    fs::create_dir(&home).unwrap();
    let mut command = Command::new("bash");
    command.args(["-ec", script]).current_dir(&home).env("GNUPGHOME", &home).env("NAME", name);
    run(command.env("REVOKE", revoked.to_string()).env("EXPIRE", if revoked { "never" } else { "1d" }), b"").expect(0);
}

#[test]
fn what_is_configured_wrong_is_78_before_anything_is_read() {
    let scene = Scene::new();
    scene.write("empty.cert", "");
    scene.write("rubbish.cert", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nrubbish\n");
    for (from, to, mode) in [("laptop.key", "loose.key", 0o644), ("laptop.key", "group.key", 0o640)] {
        fs::copy(scene.path(from), scene.path(to)).unwrap();
        fs::set_permissions(scene.path(to), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut rows = vec![
        ("--recipient-file", "missing.cert", "missing.cert"),
        ("--recipient-file", "empty.cert", "empty.cert"),
        ("--recipient-file", "rubbish.cert", "rubbish.cert"),
        ("--recipient-file", "laptop.cert", "laptop.cert"),
        ("--signer-file", "missing.key", "missing.key"),
        ("--signer-file", "laptop.cert", "laptop.cert"),
        ("--signer-file", "backup.key", "backup.key"),
        ("--signer-file", "loose.key", "chmod"),
        ("--signer-file", "group.key", "chmod"),
        ("--config", "missing.toml", "missing.toml"),
        ("--config", "unknown.toml", "unknown.toml:2: "),
        ("--config", "wrong.toml", "wrong.toml:3: "),
    ];
    if have("gpg") {
        gpg_cert(&scene, "expired", false);
        gpg_cert(&scene, "revoked", true);
        rows.extend([("--recipient-file", "expired.cert", "expired"), ("--recipient-file", "revoked.cert", "revoked")]);
    }
    scene.write("unknown.toml", "level = 3\nlevle = 4\n");
    scene.write("wrong.toml", "\n\nunsigned = \"x\"\n");
    for (option, file, says) in rows {
        let config = if option == "--config" { file } else { "queue.toml" };
        let mut command = tool("zsnap-queue", &scene.path(config));
        if option != "--config" {
            command.arg(option).arg(scene.path(file));
        }
        let (ran, unread) = unread(command.args(["--opaque", "--full", "laptop/etc"]));
        assert_eq!(ran.status, 78, "{option} {file}: {}", ran.err);
        assert!(unread, "{option} {file}: the stream was read");
        one_line(&ran);
        assert!(ran.err.contains(says), "{option} {file}: {}", ran.err);
        nothing_published(&scene);
    }
}

#[test]
fn a_wrong_command_line_is_2_before_anything_is_read() {
    let scene = Scene::new();
    let rows: [&[&str]; 10] = [
        &["--strip", "tank/other", "tank/simplesnap/laptop/tank/home"],
        &["--strip", "tank/simple", "tank/simplesnap/laptop/tank/home"],
        &["--opaque", "--increment", "laptop/etc"],
        &["--opaque", "laptop/etc"],
        &["--full", "laptop/etc"],
        &["--opaque", "--full", "--unsigned", "laptop/etc"],
        &["--to", "dir:relative", "laptop/etc"],
        &["--no-such-option", "laptop/etc"],
        &["laptop/etc", "laptop/home"],
        &[],
    ];
    for args in rows {
        let (ran, unread) = unread(&mut scene.queue_command(args));
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.err);
        assert!(unread && !ran.err.is_empty() && ran.out.is_empty(), "{args:?}");
        nothing_published(&scene);
    }
    // What was never queued in full cannot be built on, but that takes the state to know.
    let ran = scene.queue(&["--opaque", "--increment", "--overlap", "laptop/etc"], b"x").expect(65).says("--full");
    one_line(&ran);
    nothing_published(&scene);
}

#[test]
fn names_that_could_climb_or_hide_are_refused() {
    let scene = Scene::new();
    let long = format!("laptop/{}", "x".repeat(256));
    let deep = format!("laptop{}", "/x".repeat(51));
    let host = format!("{}/etc", "h".repeat(41));
    let names: [&[u8]; 24] = [
        b"..",
        b"../etc",
        b"laptop/..",
        b"laptop/../etc",
        b"laptop/etc/..",
        b"./etc",
        b"laptop/.",
        b"laptop",
        b"",
        b"/",
        b"laptop/",
        b"/laptop/etc",
        b"laptop//etc",
        b"laptop/etc/",
        b"-laptop/etc",
        b".laptop/etc",
        b"laptop/e\ntc",
        b"laptop/e\x1b[2Jtc",
        b"laptop/\xff",
        b"laptop/etc@now",
        b"laptop/~etc",
        long.as_bytes(),
        deep.as_bytes(),
        host.as_bytes(),
    ];
    for raw in names {
        for before in [&["--opaque", "--full"][..], &[], &["--strip", "tank"]] {
            for operand in [raw.to_vec(), [b"tank/", raw].concat()] {
                if before.contains(&"--strip") != operand.starts_with(b"tank/") {
                    continue;
                }
                let mut args: Vec<OsString> = before.iter().map(OsString::from).collect();
                args.push(OsStr::from_bytes(&operand).to_owned());
                let ran = run(&mut scene.queue_command(&args), b"x");
                assert_eq!(ran.status, 2, "{args:?}: {}", ran.err);
                assert!(ran.err.bytes().all(|b| b == b'\n' || (32..127).contains(&b)), "{:?}", ran.err);
                nothing_published(&scene);
            }
        }
    }
    // Behind -- stands a producer, never a target.
    scene.queue(&["--opaque", "--full", "--", "-laptop/etc"], b"x").expect(2);
    nothing_published(&scene);
    assert!(!scene.path("queue-state/outbox/split").exists());
}

#[test]
fn what_zsnap_ingest_cannot_use_is_told_in_one_line() {
    let scene = Scene::new();
    let good = scene.seal(&manifest("laptop/etc", 1_700_000_000_000_000), Some("laptop"), b"hello");
    let file = scene.deliver("laptop", &name("laptop/etc", 1_700_000_000_000_000), &good);
    let path = |name: &str| scene.path(name).into_os_string().into_string().unwrap();
    let (there, renamed) = (file.to_str().unwrap().to_owned(), path("renamed"));
    fs::copy(&file, &renamed).unwrap();
    scene.write("garbage", "garbage");
    scene.write("loose.key", "");
    fs::copy(scene.path("backup.key"), scene.path("loose.key")).unwrap();
    fs::set_permissions(scene.path("loose.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let config = fs::read_to_string(scene.path("ingest.toml")).unwrap();
    scene.write("top.toml", &format!("levle = 1\n{config}"));
    scene.write("table.toml", "[hosts.laptop]\nsigner = []\n");
    scene.write("command.toml", "[[command]]\nmatch = \"x\"\nrun = [\"x\"]\n");
    let rows: Vec<(i32, Vec<&str>, &str)> = vec![
        (65, vec!["--host", "laptop", "verify", "garbage"], "garbage"),
        (2, vec!["verify", "renamed"], "--host"),
        (74, vec!["--host", "laptop", "verify", "missing"], "missing"),
        (77, vec!["--host", "other", "verify", "renamed"], ""),
        (78, vec!["--keys", "loose.key"], "chmod"),
        (78, vec!["--keys", "missing.key"], "missing.key"),
        (78, vec!["--keys", "laptop.key"], "laptop.key"),
        (78, vec!["--config", "top.toml"], "top.toml:1: "),
        (78, vec!["--config", "table.toml"], "table.toml:2: "),
        (78, vec!["--config", "command.toml"], "command.toml:1: "),
        (78, vec!["--config", "missing.toml"], "missing.toml"),
    ];
    for (status, args, says) in rows {
        let (config, rest) = match args[..] {
            ["--config", config] => (config, &[][..]),
            _ => ("ingest.toml", &args[..]),
        };
        let ran = run(tool("zsnap-ingest", &scene.path(config)).args(rest).current_dir(scene.path("")), b"");
        if args == ["--host", "other", "verify", "renamed"] {
            // Another host's signature on a file: bad data, not a matter of trust.
            assert!([65, 77].contains(&ran.status), "{}", ran.err);
        } else {
            assert_eq!(ran.status, status, "{args:?}: {}", ran.err);
        }
        one_line(&ran);
        assert!(ran.err.contains(says) && ran.out.is_empty(), "{args:?}: {}", ran.err);
    }
    for args in [
        &["--no-such-option"][..],
        &["adopt", "../etc"],
        &["adopt", "laptop"],
        &["retry"],
        &["--max-run", "7"],
        &["nothing"],
    ] {
        scene.ingest(args).expect(2);
    }
    assert!(scene.applied().is_empty() && Path::new(&there).exists());
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
}

#[test]
fn an_error_goes_to_syslog_as_one_line_as_root() {
    needs_root();
    let scene = Scene::new();
    let daemon = UnixDatagram::bind(scene.path("log")).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A /dev of its own, whatever listens at this machine's.
    let script = "mount -t tmpfs tmpfs /dev && ln -s \"$0\" /dev/log && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(scene.path("log"));
    let queue = scene.queue_command([OsStr::from_bytes(b"laptop/e\n\xfftc")]);
    command.arg(queue.get_program()).args(queue.get_args());
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let tag = format!("zsnap-queue[{}]: ", child.id());
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(2);
    let mut line = vec![0; 8192];
    let length = daemon.recv(&mut line).expect("a line from zsnap-queue");
    line.truncate(length);
    // daemon.err; the time in 15 columns.
    assert!(line.starts_with(b"<27>") && line[20..].starts_with(tag.as_bytes()), "{}", line.escape_ascii());
    assert!(line.iter().all(|b| (32..127).contains(b)), "{}", line.escape_ascii());
    let text = String::from_utf8(line[20 + tag.len()..].to_vec()).unwrap();
    assert_eq!(ran.err, format!("zsnap-queue: {text}\n"));
}

/// One tool whose `check` is examined: in order, with something that needs a look, and with several failures.
struct Checked<'a> {
    run: &'a dyn Fn(&[&str]) -> Ran,
    warned: (&'a dyn Fn(), &'a [&'a str]),
    failed: (&'a dyn Fn(), &'a [&'a str]),
}

#[test]
fn check_means_the_same_in_all_tools() {
    let (scene, spooler, expirer) = (Scene::with_pool(), Spooler::with(&["disk1"]), Expirer::new());
    let (none, store) = (scene.path("none"), scene.path("spool"));
    let policies = |text: &str| expirer.scene.write("expire.toml", text);
    policies("[policy.\"tank/**\"]\nkeep = [\"last=1\"]\n");
    let tools = [
        Checked {
            run: &|args| scene.queue(args, b""),
            warned: (
                &|| {
                    scene.edit(
                        "queue.toml",
                        &format!("signer-file = {:?}", scene.path("laptop.key")),
                        "unsigned = true",
                    )
                },
                &["signer: files are not signed"],
            ),
            failed: (
                &|| {
                    let backup = format!("{:?}", scene.path("backup.cert"));
                    scene.edit("queue.toml", &backup, "\"/none.cert\", \"/none2.cert\"");
                    scene.edit("queue.toml", "unsigned = true\n", "");
                    scene.edit("queue.toml", "to = [", "to = [\"dir:/none\", \"cmd:true\", ");
                },
                &["recipients: /none.cert", "recipients: /none2.cert", "signer: ", "dir:/none: "],
            ),
        },
        Checked {
            run: &|args| spooler.fanout(args),
            warned: (&|| spooler.to("disk2", "dir:/none", ""), &["disk2: away: "]),
            failed: (
                &|| {
                    spooler.to("disk3", "dir:/none", "");
                    spooler.to("disk4", "-", "");
                    spooler.to("disk5", "nncp-file:node", "nncp-config = \"/none.hjson\"");
                    let spool = spooler.path("spool").display().to_string();
                    spooler.edit(&spool, &format!("{spool}-none"));
                },
                &["spool: ", "destinations: the drives disk2 and disk3 ", "destinations: disk4: ", "disk5: "],
            ),
        },
        Checked {
            run: &|args| scene.ingest(args),
            warned: (&|| fs::rename(&store, &none).unwrap(), &["incoming: "]),
            failed: (
                &|| {
                    let key = format!("{:?}", scene.path("backup.key"));
                    scene.edit("ingest.toml", &key, "\"/none.key\", \"/none2.key\"");
                    scene.edit("ingest.toml", "[hosts.laptop]", "[hosts.laptop]\nset = [\"setuid=on\"]");
                    scene.edit("ingest.toml", "[hosts.other]", "[hosts.other]\nexclude = [\"readonly\"]");
                    scene.edit("ingest.toml", &format!("target = {:?}", scene.path("tar")), "target = \"/none/x\"");
                },
                &[
                    "keys, certificates and programs: /none.key",
                    "keys, certificates and programs: /none2.key",
                    "keys, certificates and programs: [hosts.laptop] set: ",
                    "keys, certificates and programs: [hosts.other] exclude: ",
                    "[[command]] /none/x: ",
                ],
            ),
        },
        Checked {
            run: &|args| expirer.expire(args),
            warned: (
                &|| policies("[policy.\"tank/**\"]\nkeep = [\"last=1\"]\nreceived = true\n"),
                &["received datasets: "],
            ),
            failed: (
                &|| {
                    let policy = |glob: &str| format!("[policy.\"{glob}\"]\nkeep = [\"last=1\"]\n");
                    policies(
                        &(["", "a@b", "good"].map(policy).concat().replacen(
                            "[policy",
                            "needed = \"/none\"\n[policy",
                            1,
                        )),
                    );
                },
                &["configuration: [policy.\"\"] ", "configuration: [policy.\"a@b\"] ", "needed: /none: "],
            ),
        },
    ];
    for (number, Checked { run, warned, failed }) in tools.iter().enumerate() {
        let check = |status: i32, level: &str, findings: &[&str]| {
            let ran = run(&["check"]).expect(status);
            assert_eq!(ran.err, "", "{number}");
            let text = String::from_utf8(ran.out).unwrap();
            let levels = ["ok    ", "warn  ", "fail  "];
            assert!(text.lines().all(|line| levels.iter().any(|level| line.starts_with(level))), "{text}");
            assert!(text.lines().any(|line| line.starts_with("ok    ")), "{text}");
            for finding in findings {
                assert!(text.contains(&format!("{level}  {finding}")), "{level} {finding}: {text}");
            }
            // For cron: what is ok is left out, and the status is the same.
            let quiet = String::from_utf8(run(&["check", "--quiet"]).expect(status).out).unwrap();
            let left: Vec<_> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
            assert_eq!(quiet.lines().collect::<Vec<_>>(), left, "{number}");
            assert_eq!(
                left.iter().filter(|line| line.starts_with("fail")).count(),
                if status == 78 { findings.len() } else { 0 },
                "{text}"
            );
        };
        check(0, "ok", &[]);
        warned.0();
        check(1, "warn", warned.1);
        failed.0();
        check(78, "fail", failed.1);
    }
}

/// Checks the forms of `status`: the columns of the table, the keys in JSON, and the metrics.
#[track_caller]
fn forms_are_alike(tool: &str, status: &dyn Fn(&[&str], i32) -> String) {
    let table = status(&[], 0);
    assert!(table.lines().all(|line| line.len() <= 100), "{table}");
    let heads: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let at = |head: &str| heads.iter().position(|h| *h == head).unwrap_or_else(|| panic!("{head}: {table}"));
    assert!(at("STATE") < at("WAITING") && at("WAITING") + 1 == at("BYTES") && at("BYTES") + 1 == at("AGE"), "{table}");
    assert!(heads.iter().filter(|head| **head == "AGE").count() == 1, "{table}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&status(&["--json"], 0)).unwrap();
    for key in ["state", "waiting_files", "waiting_bytes", "waiting_oldest", "waiting_age", "note"] {
        assert!(rows.iter().all(|row| row.as_object().unwrap().contains_key(key)), "{tool}: {key}: {rows:?}");
    }
    let metrics = status(&["--prometheus"], 0);
    let suffixes = ["_state", "_files", "_bytes", "_timestamp_seconds", "_attempts", "_packets"];
    let mut described = Vec::new();
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && suffixes.iter().any(|suffix| name.ends_with(suffix)), "{line}");
            described.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest, format!("{} gauge", described.last().unwrap()));
        } else {
            assert_eq!(line.split(['{', ' ']).next(), described.last().map(String::as_str), "{metrics}");
        }
    }
    assert!(described.iter().all(|name| name.starts_with(&format!("zsnap_{tool}_"))), "{metrics}");
    assert!(described.contains(&format!("zsnap_{tool}_last_success_timestamp_seconds")), "{metrics}");
    // Of the series of the states of a row, one is 1.
    let states: Vec<_> = metrics.lines().filter(|line| line.starts_with(&format!("zsnap_{tool}_state{{"))).collect();
    let rows: std::collections::BTreeSet<_> =
        states.iter().map(|line| line.split("state=\"").next().unwrap()).collect();
    assert!(states.len() >= rows.len() * 5, "{metrics}");
    for row in rows {
        let values: Vec<_> = states.iter().filter(|line| line.starts_with(row)).map(|l| &l[l.len() - 2..]).collect();
        assert_eq!(values.iter().filter(|value| **value == " 1").count(), 1, "{metrics}");
        assert!(values.iter().all(|value| [" 0", " 1"].contains(value)), "{metrics}");
    }
}

#[test]
fn status_means_the_same_in_all_tools() {
    let (scene, spooler, receiver) = (Scene::new(), Spooler::with(&["disk1"]), Scene::new());
    let future = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 400 * 86_400 + 43_200;
    let edit = |path: std::path::PathBuf, change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    };
    type Step<'a> = &'a dyn Fn();
    type Run<'a> = &'a dyn Fn(&[&str]) -> Ran;
    let backup: [Step<'_>; 3] = [
        &|| drop(scene.queue(&["--opaque", "--full", "laptop/etc"], b"x").expect(0)),
        &|| {
            spooler.put("laptop/etc", 1, "x");
            spooler.silent_run();
        },
        &|| {
            receiver.queue(&["--opaque", "--full", "laptop/etc"], b"x").expect(0);
            receiver.ingest(&[]).expect(0);
        },
    ];
    let ahead: [Step<'_>; 3] = [
        &|| edit(scene.path("queue-state/datasets/laptop/etc/state.json"), &|state| state["at"] = future.into()),
        &|| edit(spooler.outbox("disk1").join(".seen.json"), &|seen| seen["delivered"] = future.into()),
        &|| edit(receiver.path(".zsnap/target.json"), &|journal| journal["laptop/etc"]["created"] = future.into()),
    ];
    let tools: [(&str, Run<'_>, &str); 3] = [
        ("queue", &|args| scene.queue(args, b""), "laptop/etc"),
        ("fanout", &|args| spooler.fanout(args), "disk1"),
        ("ingest", &|args| receiver.ingest(args), "laptop/etc"),
    ];
    for (((tool, run, operand), backup), ahead) in tools.into_iter().zip(backup).zip(ahead) {
        let status = |args: &[&str], status: i32| {
            let ran = run(&[&["status"], args].concat()).expect(status);
            assert_eq!(ran.err, "", "{tool}: what makes the status 1 is part of the report");
            String::from_utf8(ran.out).unwrap()
        };
        let age = ["--max-age", "1d", operand];
        // Who asks expects a backup, but only --max-age asks for its age.
        status(&[operand], 0);
        let text = status(&age, 1);
        assert!(text.contains(&format!("{operand}: nothing was ever ")), "{text}");
        assert_eq!(status(&[&age[..], &["--quiet"]].concat(), 1), text);
        backup();
        status(&age, 0);
        assert_eq!(status(&[&age[..], &["--quiet"]].concat(), 0), "");
        forms_are_alike(tool, &status);
        ahead();
        let text = status(&age, 1);
        let row = text.lines().find(|line| line.starts_with(operand)).unwrap();
        assert!(row.contains("  in 400d "), "{text}");
        assert!(text.contains(", a future time: set the clock if it is wrong"), "{text}");
        status(&[operand], 0);
    }
}

#[test]
fn foreign_names_in_a_directory_mean_the_same_in_all_tools() {
    let (scene, spooler) = (Scene::new(), Spooler::with(&["disk1"]));
    type Run<'a> = &'a dyn Fn() -> Ran;
    let tools: [(Run<'_>, &str); 2] = [(&|| scene.ingest(&[]), "ingest"), (&|| spooler.fanout(&[]), "fanout")];
    for (run, tool) in tools {
        let (spool, told) = match tool {
            "ingest" => (scene.path("spool"), scene.path("ingest-state/told.json")),
            _ => (spooler.path("spool"), spooler.path("spool/.zsnap-fanout/told.json")),
        };
        let silent = || assert_eq!(run().expect(0).err, "", "{tool}");
        // What belongs to file systems, to other programs and to NNCP.
        for dir in ["lost+found", "laptop/lost+found", ".snapshots", "laptop/.stfolder"] {
            fs::create_dir_all(spool.join(dir)).unwrap();
        }
        for file in ["lost+found/#12", "laptop/nncpfile123", "laptop/.x"] {
            fs::write(spool.join(file), "").unwrap();
        }
        silent();
        fs::write(spool.join("laptop/notes.txt"), "").unwrap();
        fs::create_dir(spool.join("no@host")).unwrap();
        fs::write(spool.join("file"), "").unwrap();
        let ran = run().expect(1);
        for says in [
            "laptop/notes.txt: is not the name of a queue file; ignored",
            "no@host: is not the name of a host; ignored",
            "file: is not a directory of a host (",
        ] {
            assert!(ran.err.contains(says), "{tool}: {says}: {}", ran.err);
        }
        assert_eq!(ran.err.lines().count(), 3, "{tool}: {}", ran.err);
        silent();
        // They need no fix, so they are reported once, not daily.
        let mut lines: serde_json::Value = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
        for line in lines.as_object_mut().unwrap().values_mut() {
            line["at"] = (line["at"].as_u64().unwrap() - 2 * 86_400).into();
        }
        fs::write(&told, lines.to_string()).unwrap();
        silent();
    }
}
