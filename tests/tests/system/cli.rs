//! How zsnap-queue and zsnap-ingest end: the exit status, one line on standard error (and in syslog), and nothing
//! queued or applied if the status is not 0.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zsnap_tests::sample;
use zsnap_tests::scene::{Ran, Scene, have, manifest, name, needs_root, run, tool};
use zsnap_tests::stream::{Rec, Stream, Sub, kind};
use zsnap_tests::terminal::on_terminal;

/// Fails unless the error is one line of printable ASCII.
#[track_caller]
fn one_line(ran: &Ran) {
    let lines: Vec<_> = ran.err.lines().collect();
    let printable = ran.err.trim_end_matches('\n').bytes().all(|b| (32..127).contains(&b));
    assert!(lines.len() == 1 && printable && lines[0].starts_with("zsnap-"), "{:?}", ran.err);
}

/// Fails if a file was queued or delivered.
#[track_caller]
fn nothing_queued(scene: &Scene) {
    let dirs = [scene.path("spool"), scene.path("queue-state/outbox")];
    let found = run(Command::new("find").args(dirs).args(["-type", "f", "-not", "-name", ".zsnap-drive"]), b"");
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
fn an_incomplete_or_damaged_stream_exits_with_65_and_is_not_queued() {
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
        nothing_queued(&scene);
        // As a filter: the reader sees the status, and the file is truncated.
        let filtered = scene.queue(&["--to", "-", "laptop/tank/home"], &input);
        assert_eq!(filtered.status, 65, "{what}: {}", filtered.err);
        scene.write("packet", "");
        fs::write(scene.path("packet"), &filtered.out).unwrap();
        let packet = scene.path("packet");
        scene.ingest(&["--host", "laptop", "verify", packet.to_str().unwrap()]).expect(65);
    }
    // A whole stream is queued: none of those above has changed the state of the chain.
    scene.queue(&["laptop/tank/home"], &whole).expect(0);
    assert_eq!(scene.spooled("laptop").len(), 1);
}

#[test]
fn a_stream_of_five_thousand_snapshots_is_queued_and_opened() {
    let scene = Scene::new();
    let names: Vec<_> = (1..=5000_u64).map(|n| (format!("s{n}"), n)).collect();
    let snaps: Vec<_> = names.iter().map(|(name, guid)| (name.as_str(), *guid)).collect();
    let stream = compound(&snaps, "s5000");
    scene.queue(&["laptop/tank/home"], &stream).expect(0);
    let file = scene.spooled("laptop").remove(0);
    let report = String::from_utf8(scene.ingest(&["verify", file.to_str().unwrap()]).expect(0).out).unwrap();
    assert!(report.contains("substreams: 5000\n") && report.contains("snapshot: tank/home@s5000\n"), "{report}");
    assert!(scene.ingest(&["cat", file.to_str().unwrap()]).expect(0).out == stream);
}

/// Backups must not stop because an older configuration has such a key.
#[test]
fn a_key_that_concerns_one_run_is_obeyed_and_reported() {
    let scene = Scene::new();
    assert_eq!(scene.queue(&["check"], b"").expect(0).err, "");
    scene.edit("queue.toml", "\nto = [", "\nopaque = true\nfull = true\nincrement = false\njson = true\nto = [");
    let ran = scene.queue(&["laptop/etc"], b"hello").expect(0);
    let place = scene.path("queue.toml").display().to_string();
    let warning = |line: usize, key: &str| {
        format!(
            "zsnap-queue: {place}:{line}: {key} concerns one run, and a later version refuses it here: remove the key, \
             and specify --{key} on the command line\n"
        )
    };
    assert_eq!(ran.err, warning(5, "full") + &warning(7, "json"));
    assert!(ran.out.starts_with(b"{"));
    // An option that contradicts the key, of the tool or of a subcommand, drops it.
    let metrics = scene.queue(&["status", "--prometheus"], b"").expect(0).says("json concerns one run");
    assert!(metrics.out.starts_with(b"#"));
    assert_eq!(scene.queue(&["laptop/etc", "--increment", "--overlap"], b"more").expect(0).err, ran.err);
    scene.queue(&["laptop/etc", "--unsigned"], b"again").expect(0);
    let file = scene.spooled("laptop").pop().unwrap();
    scene.ingest(&["verify", file.to_str().unwrap()]).expect(77).says("not signed");
}

/// A path in a configuration file is relative to the file, not to the working directory.
#[test]
fn a_configuration_can_be_moved_with_its_directory() {
    let scene = Scene::new();
    let text = fs::read_to_string(scene.path("queue.toml")).unwrap();
    let relative = |line: &str| match line.starts_with("to") {
        true => line.to_owned(),
        false => line.replace(&scene.path("").display().to_string(), ""),
    };
    assert_eq!(relative("x = \"backup.cert\""), relative(&format!("x = \"{}\"", scene.path("backup.cert").display())));
    scene.write("queue.toml", &text.lines().map(|line| relative(line) + "\n").collect::<String>());
    let mut queue = scene.queue_command(["--opaque", "--full", "laptop/etc"]);
    zsnap_tests::scene::run(queue.current_dir("/"), b"hello").expect(0);
    assert_eq!(scene.spooled("laptop").len(), 1);
}

#[test]
fn invalid_values_for_nncp_are_usage_errors() {
    let scene = Scene::new();
    for wrong in ["--nice=-cfg", "--nice=B 5", "--to=nncp-file:-cfg", "--to=nncp-file:n/../x"] {
        scene.queue(&[wrong, "flush"], b"").expect(2);
    }
    scene.queue(&["--nice=B+5", "--nncp-config=/nncp.hjson", "flush"], b"").expect(0);
}

/// simplesnap sends from the base again if it did not learn that the stream was queued.
#[test]
fn the_base_of_an_incremental_of_ten_thousand_snapshots_is_remembered() {
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

/// Runs a tool that must end although its standard input does not. Returns whether the input is unread.
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
            panic!("the tool waits for its standard input");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = Ran::of(child.wait_with_output().unwrap());
    drop(writer);
    let mut left = Vec::new();
    reader.read_to_end(&mut left).unwrap();
    (ran, left == b"stream")
}

/// Makes a certificate with gpg, dated 2020, that expired after a day or is revoked.
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
fn a_wrong_configuration_exits_with_78_before_anything_is_read() {
    let scene = Scene::new();
    scene.write("empty.cert", "");
    scene.write("rubbish.cert", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nrubbish\n");
    for (from, to, mode) in [("laptop.key", "loose.key", 0o644), ("laptop.key", "group.key", 0o640)] {
        fs::copy(scene.path(from), scene.path(to)).unwrap();
        fs::set_permissions(scene.path(to), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut rows = vec![
        ("--encrypt-to", "missing.cert", "missing.cert"),
        ("--encrypt-to", "empty.cert", "empty.cert"),
        ("--encrypt-to", "rubbish.cert", "rubbish.cert"),
        ("--encrypt-to", "laptop.cert", "laptop.cert"),
        ("--signing-key", "missing.key", "missing.key"),
        ("--signing-key", "laptop.cert", "laptop.cert"),
        ("--signing-key", "backup.key", "backup.key"),
        ("--signing-key", "loose.key", "chmod"),
        ("--signing-key", "group.key", "chmod"),
        ("--config", "missing.toml", "missing.toml"),
        ("--config", "unknown.toml", "unknown.toml:2: "),
        ("--config", "wrong.toml", "wrong.toml:3: "),
    ];
    if have("gpg") {
        gpg_cert(&scene, "expired", false);
        gpg_cert(&scene, "revoked", true);
        rows.extend([("--encrypt-to", "expired.cert", "expired"), ("--encrypt-to", "revoked.cert", "revoked")]);
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
        nothing_queued(&scene);
    }
}

#[test]
fn a_usage_error_exits_with_2_before_anything_is_read() {
    let scene = Scene::new();
    let rows: [&[&str]; 11] = [
        &["--strip", "tank/other", "tank/simplesnap/laptop/tank/home"],
        &["--strip", "tank/simple", "tank/simplesnap/laptop/tank/home"],
        &["--opaque", "--increment", "laptop/etc"],
        &["--opaque", "laptop/etc"],
        &["--full", "laptop/etc"],
        &["--opaque", "--full", "--unsigned", "--signing-key", "laptop.key", "laptop/etc"],
        &["--opaque", "--full", "--increment", "laptop/etc"],
        &["--to", "dir:relative", "laptop/etc"],
        &["--no-such-option", "laptop/etc"],
        &["laptop/etc", "laptop/home"],
        &[],
    ];
    for args in rows {
        let (ran, unread) = unread(&mut scene.queue_command(args));
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.err);
        assert!(unread && !ran.err.is_empty() && ran.out.is_empty(), "{args:?}");
        nothing_queued(&scene);
    }
    // An incremental of a dataset that was never queued in full: only the state shows that.
    let ran = scene.queue(&["--opaque", "--increment", "--overlap", "laptop/etc"], b"x").expect(65).says("--full");
    one_line(&ran);
    nothing_queued(&scene);
}

#[test]
fn target_names_that_could_escape_or_hide_are_usage_errors() {
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
                nothing_queued(&scene);
            }
        }
    }
    // After -- comes a producer, never a target.
    scene.queue(&["--opaque", "--full", "--", "-laptop/etc"], b"x").expect(2);
    nothing_queued(&scene);
    assert!(!scene.path("queue-state/outbox/split").exists());
}

#[test]
fn zsnap_ingest_reports_unusable_input_in_one_line() {
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
        (78, vec!["--decryption-key", "loose.key"], "chmod"),
        (78, vec!["--decryption-key", "missing.key"], "missing.key"),
        (78, vec!["--decryption-key", "laptop.key"], "laptop.key"),
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
            // The signer of another host: 77, or 65 because the manifest names another host.
            assert!([65, 77].contains(&ran.status), "{}", ran.err);
        } else {
            assert_eq!(ran.status, status, "{args:?}: {}", ran.err);
        }
        one_line(&ran);
        assert!(ran.err.contains(says) && ran.out.is_empty(), "{args:?}: {}", ran.err);
    }
    for args in [
        &["--no-such-option"][..],
        &["forget", "../etc"],
        &["forget", "laptop"],
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
    // A private /dev, because something may listen on that of this machine.
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

#[test]
fn a_subcommand_that_changes_something_says_so_on_a_terminal() {
    if !have("script") {
        return;
    }
    let scene = Scene::new();
    scene.write("fanout.toml", "spool = \"spool\"\nkeep = \"7d\"\n[to.disk1]\ndest = \"dir:DISK\"\n");
    scene.edit("fanout.toml", "DISK", &scene.path("disk1").display().to_string());
    fs::create_dir(scene.path("disk1")).unwrap();
    let fanout = |args: &[&str]| {
        let mut command = tool("zsnap-fanout", &scene.path("fanout.toml"));
        command.args(args);
        command
    };
    let base = |name: &str| scene.path(name).display().to_string();
    let says = |command: Command, parts: &[&str]| {
        let out = on_terminal(&command, 0);
        assert!(parts.iter().all(|part| out.contains(part)), "{parts:?}: {out}");
    };
    says(
        scene.queue_command(["keygen", "--host", "new", "--out", &base("new")]),
        &["new.key: secret key", "new.cert: certificate, for signers of [hosts.new]", "next: scp /"],
    );
    says(scene.ingest_command(["keygen", "--out", &base("etc/more")]), &["more.cert: certificate", "encrypt-to"]);
    says(scene.queue_command(["adopt", "laptop/tank"]), &["laptop/tank: the next incremental is accepted"]);
    says(fanout(&["init", "--same-filesystem", "disk1"]), &["disk1 has the mark of disk1; the next run delivers"]);
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"hello").expect(0);
    run(&mut fanout(&[]), b"").expect(0);
    says(fanout(&["requeue", "disk1", "--since", "3d"]), &["disk1: the next run delivers 1 files again"]);
    run(&mut fanout(&[]), b"").expect(0);
    scene.edit("fanout.toml", "[to.disk1]", "[to.disk2]");
    says(fanout(&["retire", "disk1"]), &["disk1 is retired; 0 files"]);
    says(scene.ingest_command(["forget", "laptop/etc"]), &["forgot what was applied", "the next full stream starts"]);
    says(scene.ingest_command(["retry", "--all"]), &["0 files were put back; the next run"]);
    // Without a terminal, there is nothing for cron to mail.
    assert_eq!(scene.ingest(&["retry", "--all"]).expect(0).err, "");
    assert_eq!(scene.ingest(&["forget", "laptop/etc"]).expect(0).err, "");
}

#[test]
fn a_misspelt_subcommand_is_recognised() {
    let scene = Scene::new();
    let queue = |args: &[&str]| scene.queue(args, b"").expect(2);
    one_line(&queue(&["flsh"]).says("\"flsh\" is not HOST/DATASET; did you mean the subcommand \"flush\"?"));
    queue(&["adpot", "laptop/etc"]).says("a similar subcommand exists: 'adopt'");
    assert!(!queue(&["nonsense"]).err.contains("did you mean"));
    scene.ingest(&["stauts"]).expect(2).says("a similar subcommand exists: 'status'");
    scene.write("fanout.toml", "");
    run(tool("zsnap-fanout", &scene.path("fanout.toml")).arg("retier"), b"").expect(2).says("'retire'");
}

#[test]
fn adopt_goes_on_after_a_failure_and_ends_with_the_worst() {
    let scene = Scene::new();
    let adopt = |names: &[&str]| scene.queue(&[&["adopt"], names].concat(), b"");
    adopt(&["laptop/a"]).expect(0);
    scene.write("queue-state/datasets/laptop/a/state.json", "damaged");
    let ran = adopt(&["laptop/a", "laptop/b"]).expect(75);
    one_line(&ran.says("laptop/a: "));
    scene.queue(&["laptop/b"], &sample("incr-i-s1-s2.zfs")).expect(0);
}
