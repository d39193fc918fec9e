//! The verdicts of zsnap-ingest on files that are authentic, forged, damaged, misplaced or odd: no file is lost,
//! and a receiver gets only what it may get.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use zsnap_message::keys::{Purpose, SigningKey, keygen};
use zsnap_message::payload::{Base, Epoch, Manifest};
use zsnap_tests::scene::{Scene, have, manifest, name, run, under};

const SEQ: u64 = 1_700_000_000_000_000;

#[test]
fn an_authentic_file_is_applied_once_and_removed() {
    let scene = Scene::new();
    let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello");
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty() && ran.out.is_empty(), "cron would mail this: {}", ran.err);
    assert_eq!(scene.applied(), b"hello");
    assert!(scene.spooled("laptop").is_empty());
    // A second copy under the name that NNCP gives it.
    scene.deliver("laptop", &format!("{}.0", name("laptop/etc", SEQ)), &sealed);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
    assert!(scene.spooled("laptop").is_empty());
}

/// Each row is a file, the directory to which it is delivered, and its verdict. The receiver is never started.
#[test]
fn a_file_that_is_not_authentic_is_held_or_quarantined() {
    let scene = Scene::new();
    let etc = manifest("laptop/etc", SEQ);
    let file = name("laptop/etc", SEQ);
    keygen(&scene.path("stranger"), Purpose::Sign(&"laptop".parse().unwrap()), false).unwrap();
    keygen(&scene.path("elsewhere"), Purpose::Encrypt, false).unwrap();
    let laptop = SigningKey::load(&scene.path("laptop.key"), SystemTime::now()).unwrap();
    let good = scene.seal(&etc, Some("laptop"), b"evil");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let of = |target: &str| Manifest { ..manifest(target, SEQ) };
    enum Then {
        Held(&'static str),
        Quarantined(&'static str),
    }
    use Then::{Held, Quarantined};
    let rows: Vec<(&str, &str, String, Vec<u8>, Then)> = vec![
        ("unsigned", "laptop", file.clone(), scene.seal(&etc, None, b"evil"), Held("not signed")),
        ("stranger", "laptop", file.clone(), scene.seal(&etc, Some("stranger"), b"evil"), Held("which no host has")),
        (
            "other's key",
            "laptop",
            file.clone(),
            scene.seal(&etc, Some("other"), b"evil"),
            Quarantined("comes from other"),
        ),
        (
            "manifest says another host",
            "laptop",
            file.clone(),
            scene.seal(&of("other/etc"), Some("laptop"), b"evil"),
            Quarantined("comes from other"),
        ),
        (
            "manifest says another dataset",
            "laptop",
            file.clone(),
            scene.seal(&of("laptop/home"), Some("laptop"), b"evil"),
            Quarantined("its manifest says"),
        ),
        (
            "in another host's directory",
            "other",
            name("other/etc", SEQ),
            good.clone(),
            Quarantined("comes from laptop"),
        ),
        (
            "to another key",
            "laptop",
            file.clone(),
            scene.seal_with(&etc, Some(&laptop), &scene.path("elsewhere.cert"), b"evil"),
            Held("none of our keys"),
        ),
        ("damaged", "laptop", file.clone(), flipped, Quarantined("")),
        ("truncated", "laptop", file.clone(), good[..good.len() - 40].to_vec(), Quarantined("")),
        ("no message", "laptop", file.clone(), b"rubbish".to_vec(), Quarantined("")),
        ("empty", "laptop", file.clone(), Vec::new(), Quarantined("")),
        ("unknown host", "stranger", name("stranger/etc", SEQ), good.clone(), Held("unknown host")),
        (
            "no receiver",
            "laptop",
            name("laptop/home", SEQ),
            scene.seal(&of("laptop/home"), Some("laptop"), b"x"),
            Held("no command receives"),
        ),
    ];
    for (what, host, file, bytes, then) in rows {
        let path = scene.deliver(host, &file, &bytes);
        scene.age(host);
        let ran = scene.ingest(&[]);
        assert_eq!(ran.status, 1, "{what}: {}", ran.err);
        assert!(scene.applied().is_empty(), "{what}: applied");
        let kept = match then {
            Held(says) => {
                assert!(ran.err.contains(says), "{what}: {}", ran.err);
                // It is reported once, not every ten minutes.
                let again = scene.ingest(&[]).expect(0);
                assert!(again.err.is_empty(), "{what}: {}", again.err);
                path
            }
            Quarantined(says) => {
                assert!(ran.err.contains(says) && ran.err.contains("in quarantine"), "{what}: {}", ran.err);
                assert!(!path.exists(), "{what}");
                let quarantined = scene.quarantined(host);
                assert_eq!(quarantined.len(), 2, "{what}: {quarantined:?}");
                let why: serde_json::Value = serde_json::from_slice(&fs::read(&quarantined[1]).unwrap()).unwrap();
                assert!(why["why"].as_str().unwrap().contains(says), "{what}: {why}");
                quarantined[0].clone()
            }
        };
        assert_eq!(fs::read(&kept).unwrap(), bytes, "{what}: the file was changed");
        fs::remove_dir_all(scene.path("spool")).unwrap();
        fs::create_dir(scene.path("spool")).unwrap();
    }
}

#[test]
fn a_damaged_file_is_quarantined_once_old_and_retry_puts_it_back() {
    let scene = Scene::new();
    let good = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello");
    let path = scene.deliver("laptop", &name("laptop/etc", SEQ), &good[..good.len() - 40]);
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty() && path.exists(), "{}", ran.err);
    // The file was written after the run began, or by a clock that is ahead.
    let later = SystemTime::now() + Duration::from_secs(3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    scene.ingest(&[]).expect(0);
    assert!(path.exists());
    scene.age("laptop");
    scene.ingest(&[]).expect(1);
    assert!(!path.exists());
    scene.ingest(&["retry", "nosuch"]).expect(65);
    scene.ingest(&["retry", "laptop"]).expect(0);
    assert!(path.exists() && scene.quarantined("laptop").is_empty());
    fs::write(&path, &good).unwrap();
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
}

#[test]
fn trust_recipient_accepts_unsigned_files_but_no_foreign_signature() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\ntrust = \"recipient\"\n");
    let etc = manifest("laptop/etc", SEQ);
    scene.deliver("laptop", &name("laptop/etc", SEQ), &scene.seal(&etc, Some("other"), b"evil"));
    scene.ingest(&[]).expect(1).says("comes from other");
    assert!(scene.applied().is_empty());
    scene.deliver("laptop", &name("laptop/etc", SEQ), &scene.seal(&etc, None, b"hello"));
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
}

#[test]
fn opaque_streams_are_applied_in_the_order_of_their_manifests() {
    let scene = Scene::new();
    let file = |seq: u64, prev: Option<u64>, body: &[u8]| {
        let base = if prev.is_some() { Base::Prev } else { Base::None };
        let manifest = Manifest { prev, base, ..manifest("laptop/etc", seq) };
        (name("laptop/etc", seq), scene.seal(&manifest, Some("laptop"), body))
    };
    let (one, two, three) = (file(SEQ, None, b"1"), file(SEQ + 1, Some(SEQ), b"2"), file(SEQ + 2, Some(SEQ + 1), b"3"));
    scene.deliver("laptop", &three.0, &three.1);
    scene.ingest(&[]).expect(1).says("waiting for file");
    scene.deliver("laptop", &two.0, &two.1);
    scene.ingest(&[]).expect(1);
    scene.deliver("laptop", &one.0, &one.1);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"123");
    assert!(scene.spooled("laptop").is_empty());
    // A replay of an old full stream.
    scene.deliver("laptop", &one.0, &one.1);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"123");
    // Two files build on one base because the sender's state was rewound. None of them is dropped.
    let (low, high) = (file(SEQ + 3, Some(SEQ + 2), b"4"), file(SEQ + 5, Some(SEQ + 2), b"6"));
    scene.deliver("laptop", &low.0, &low.1);
    let moved = scene.deliver("laptop", &high.0, &high.1);
    scene.ingest(&[]).expect(1).says("builds on file").says("move away the one");
    assert!(scene.ingest(&[]).expect(0).err.is_empty());
    assert_eq!((scene.applied().as_slice(), scene.spooled("laptop").len()), (&b"123"[..], 2));
    fs::remove_file(moved).unwrap();
    scene.ingest(&[]).expect(0);
    // The second one comes back after the first was applied, and again after a full stream.
    scene.deliver("laptop", &high.0, &high.1);
    scene.ingest(&[]).expect(1).says("was applied over that");
    let full = Manifest { prev: Some(SEQ + 4), ..manifest("laptop/etc", SEQ + 6) };
    scene.deliver("laptop", &name("laptop/etc", SEQ + 6), &scene.seal(&full, Some("laptop"), b"7"));
    scene.ingest(&[]).expect(1).says("is not known to have come after it");
    assert_eq!((scene.applied().as_slice(), scene.spooled("laptop").len()), (&b"12347"[..], 1));
    // Files that the sender knew of when it made the full stream are removed, one after the other.
    let (five, late) = (file(SEQ + 4, Some(SEQ + 1), b"5"), file(SEQ + 1, Some(SEQ), b"2"));
    for (name, bytes) in [five, late] {
        scene.deliver("laptop", &name, &bytes);
        scene.ingest(&[]).expect(0);
    }
    assert_eq!((scene.applied().as_slice(), scene.spooled("laptop").len()), (&b"12347"[..], 1));
}

/// The state of a sender was lost while its clock was slow, or a second machine has the same key.
#[test]
fn files_of_an_epoch_that_began_earlier_are_kept_until_adopt() {
    let scene = Scene::new();
    let deliver = |began: u64, seq: u64, body: &[u8]| {
        let epoch = Epoch { id: format!("{began:032x}"), started: began };
        let manifest = Manifest { epoch, ..manifest("laptop/etc", seq) };
        scene.deliver("laptop", &name("laptop/etc", seq), &scene.seal(&manifest, Some("laptop"), body))
    };
    deliver(1_700_000_000, SEQ, b"1");
    scene.ingest(&[]).expect(0);
    deliver(1_600_000_000, SEQ - 1, b"2");
    deliver(1_600_000_000, SEQ + 1, b"3");
    scene.ingest(&[]).expect(1).says("began before").says("zsnap-ingest forget laptop/etc");
    assert_eq!((scene.applied().as_slice(), scene.spooled("laptop").len()), (&b"1"[..], 2));
    scene.ingest(&["forget", "laptop/etc"]).expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!((scene.applied().as_slice(), scene.spooled("laptop").len()), (&b"123"[..], 0));
}

#[test]
fn a_failed_command_keeps_its_file_and_stops_only_its_dataset() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "cat >> ", "test -e /nonexistent && cat >> ");
    scene.deliver(
        "laptop",
        &name("laptop/etc", SEQ),
        &scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello"),
    );
    let tar = run(std::process::Command::new("tar").args(["cf", "-", "-C", "/etc", "hostname"]), b"");
    scene.deliver(
        "laptop",
        &name("laptop/tar", SEQ),
        &scene.seal(&manifest("laptop/tar", SEQ), Some("laptop"), &tar.out),
    );
    scene.ingest(&[]).expect(69);
    assert_eq!(scene.spooled("laptop").len(), 1);
    assert!(scene.path("tar/hostname").exists());
    scene.edit("ingest.toml", "test -e /nonexistent && cat >> ", "cat >> ");
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
}

#[test]
fn an_interrupted_command_waits_for_the_operator() {
    let scene = Scene::new();
    // The command reads its input and kills zsnap-ingest before it has finished.
    scene.edit("ingest.toml", "cat >> ", "cat > /dev/null; kill -9 $PPID; sleep 5; cat >> ");
    scene.deliver(
        "laptop",
        &name("laptop/etc", SEQ),
        &scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello"),
    );
    assert_eq!(scene.ingest(&[]).status, 137);
    scene.edit("ingest.toml", "cat > /dev/null; kill -9 $PPID; sleep 5; ", "");
    scene.ingest(&[]).expect(1).says("forget laptop/etc --applied or --not-applied");
    assert!(scene.applied().is_empty());
    scene.ingest(&["forget", "--not-applied", "laptop/etc"]).expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
    // Without an interrupted command these flags do not empty the journal.
    for flag in ["--applied", "--not-applied"] {
        scene.ingest(&["forget", flag, "laptop/etc"]).expect(2).says("no command was interrupted");
    }
    let journal = fs::read_to_string(scene.path(".zsnap/target.json")).unwrap();
    assert!(journal.contains("laptop/etc"), "{journal}");
}

#[test]
fn odd_names_and_files_are_ignored() {
    let scene = Scene::new();
    let good = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"evil");
    let dir = scene.path("spool/laptop");
    fs::create_dir_all(&dir).unwrap();
    let odd: Vec<&[u8]> = vec![
        b"bakfsfmt2-1.2.3_laptop@..",
        b"bakfsfmt2-1.2.3_laptop@a@@b",
        b"bakfsfmt2-1.2.3_-laptop@etc",
        b"bakfsfmt2-1.2.3_laptop@etc\n",
        b"bakfsfmt2-1.2.3_laptop@\xff",
        b"nncpfile123",
        b"bakfsfmt2-1.2.3_laptop@etc.nncp.chunk0",
        b"bakfsfmt2-1.2.3_laptop@etc.nncp.meta",
        b".zsnap-0123456789abcdef",
        b"notes",
    ];
    let mut long = b"bakfsfmt2-1.2.3_laptop@".to_vec();
    long.resize(255, b'x');
    for name in odd.iter().copied().chain([long.as_slice()]) {
        fs::write(dir.join(std::ffi::OsStr::from_bytes(name)), &good).unwrap();
    }
    std::os::unix::fs::symlink("/etc/hostname", dir.join(name("laptop/etc", SEQ))).unwrap();
    fs::create_dir(dir.join(name("laptop/etc", SEQ + 1))).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join(name("laptop/etc", SEQ + 2)),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let before = fs::read_dir(&dir).unwrap().count();
    let ran = scene.ingest(&[]).expect(1);
    assert!(ran.err.lines().all(|line| line.bytes().all(|b| (32..127).contains(&b))), "{}", ran.err);
    assert!(scene.applied().is_empty());
    // The long name is that of a queue file, whose manifest has another dataset.
    assert_eq!(fs::read_dir(&dir).unwrap().count(), before - 1);
    scene.ingest(&[]).expect(0);
    for n in 0..1000 {
        fs::write(dir.join(format!("notes{n}")), b"").unwrap();
    }
    let ran = scene.ingest(&[]).expect(1).says("holds more files");
    assert!(ran.err.lines().count() < 30, "{}", ran.err);
}

#[test]
fn cat_and_verify_read_files_of_the_replaced_shell_scripts() {
    if !have("gpg") || !have("zstd") {
        return;
    }
    let scene = Scene::new();
    let home = scene.path("g");
    fs::create_dir(&home).unwrap();
    let sh = |script: &str, input: &[u8]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", script]).current_dir(scene.path("")).env("GNUPGHOME", &home);
        run(&mut command, input).expect(0).out
    };
    sh("chmod 700 g; gpg -q --batch --import backup.cert", b"");
    let stream = zsnap_tests::sample("full.zfs");
    let id = sh("gpg --batch --list-keys --with-colons | grep ^fpr | head -n1 | cut -d: -f10", b"");
    let id = String::from_utf8(id).unwrap();
    let seed = format!(
        "zstd -8 -q - | gpg -q --batch --trust-model always --compress-algo none --cipher-algo AES256 -e -r {id}"
    );
    let sealed = sh(seed.trim(), &stream);
    for spelling in ["bakfsfmt2", "backupsfmt2"] {
        let path = scene.path(format!("{spelling}-1700000000.123456789.42_laptop@src@data"));
        fs::write(&path, &sealed).unwrap();
        let file = path.to_str().unwrap();
        scene.ingest(&["cat", file]).expect(77).says("not signed");
        assert_eq!(scene.ingest(&["cat", "--unsigned", file]).expect(0).out, stream);
        let report = String::from_utf8(scene.ingest(&["verify", "--unsigned", file]).expect(0).out).unwrap();
        assert!(report.contains("snapshot: src/data@s1"), "{report}");
    }
    sh("gpgconf --kill all", b"");
}

#[test]
fn a_wrong_clock_never_makes_a_file_bad() {
    let scene = Scene::new();
    let body = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello");
    let path = scene.deliver("laptop", &name("laptop/etc", SEQ), &body);
    if !have("faketime") {
        return;
    }
    let back = |years: &str| run(&mut under(&["faketime", "-f", years], &scene.ingest_command([""; 0])), b"");
    back("-1y").expect(1).says("if this clock is wrong, set it; if that of laptop was,");
    assert!(path.exists() && scene.applied().is_empty());
    // Ten years later the certificate has long expired: it is judged at the signature's time.
    back("+10y").expect(0);
    assert_eq!(scene.applied(), b"hello");
}

#[test]
fn exec_rejects_wrong_senders_and_files_and_applies_a_good_one() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\nnncp-sender = \"NODE\"\n");
    let good = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello");
    let exec = |sender: Option<&str>, args: &[&str], input: &[u8]| {
        let mut command = scene.ingest_command(["exec"].iter().chain(args));
        command.env_clear();
        if let Some(sender) = sender {
            command.env("NNCP_SENDER", sender);
        }
        run(&mut command, input)
    };
    exec(None, &["laptop/etc"], &good).expect(77);
    exec(Some("NOBODY"), &["laptop/etc"], &good).expect(77).says("no host has the NNCP node id");
    exec(Some("NODE"), &["other/etc"], &good).expect(77);
    exec(Some("NODE"), &["laptop/home"], &good).expect(77);
    exec(Some("NODE"), &["laptop/etc"], &good[..good.len() - 30]).expect(65);
    exec(Some("NODE"), &["laptop/etc"], b"").expect(65);
    exec(Some("NODE"), &["laptop/etc"], &scene.seal(&manifest("laptop/etc", SEQ), Some("other"), b"evil")).expect(77);
    exec(Some("NODE"), &["laptop/etc"], &scene.seal(&manifest("laptop/etc", SEQ), None, b"evil")).expect(77);
    exec(Some("NODE"), &["--", "../evil"], &good).expect(65);
    exec(Some("NODE"), &["--max-size", "1K", "--", "laptop/etc"], &[0; 2 << 20]).expect(77).says("raise max-size");
    exec(Some("NODE"), &["--", "--config=/evil"], &good).expect(65);
    assert!(scene.applied().is_empty());
    assert_eq!(fs::read_dir(scene.path("ingest-state/exec/laptop")).unwrap().count(), 0, "exec kept a rejected file");
    exec(Some("NODE"), &["--", "laptop/etc"], &good).expect(0);
    assert_eq!(scene.applied(), b"hello");
    // One node cannot be two hosts.
    scene.edit("ingest.toml", "[hosts.other]\n", "[hosts.other]\nnncp-sender = \"NODE\"\n");
    exec(Some("NODE"), &["--", "laptop/etc"], &good).expect(78).says("same nncp-sender");
    scene.edit("ingest.toml", "[hosts.other]\nnncp-sender = \"NODE\"\n", "[hosts.other]\n");
    // Without an argument the manifest decides, and a forced command needs no NNCP.
    let two = Manifest { prev: Some(SEQ), base: Base::Prev, ..manifest("laptop/etc", SEQ + 1) };
    exec(None, &["--host", "laptop"], &scene.seal(&two, Some("laptop"), b"2")).expect(0);
    assert_eq!(scene.applied(), b"hello2");
}

#[test]
fn a_busy_lock_is_not_an_error_and_exec_spools_its_file() {
    let scene = Scene::new();
    scene.edit(
        "ingest.toml",
        "cat >> ",
        "cat > /dev/null; touch started; while ! test -e go; do sleep 0.05; done; printf done >> ",
    );
    scene.edit("ingest.toml", "touch started", &format!("cd {}; touch started", scene.path("").display()));
    // The first exec has listed its directory when the second file arrives.
    fs::write(scene.path("first"), scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"1")).unwrap();
    let stdin = fs::File::open(scene.path("first")).unwrap();
    let mut first = scene.ingest_command(["exec", "--host", "laptop"]).stdin(stdin).spawn().unwrap();
    while !scene.path("started").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);
    scene.ingest(&["--max-run", "1ms"]).expect(75);
    let two = Manifest { prev: Some(SEQ), base: Base::Prev, ..manifest("laptop/etc", SEQ + 1) };
    let sealed = scene.seal(&two, Some("laptop"), b"2");
    run(&mut scene.ingest_command(["exec", "--host", "laptop"]), &sealed).expect(0);
    scene.write("go", "");
    assert!(first.wait().unwrap().success());
    // The first exec listed its directory once more before it ended.
    assert_eq!(scene.applied(), b"donedone");
}
