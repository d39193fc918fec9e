//! What a host may cost, and what its datasets are given: from the configuration to the receiver.

use std::fs;
use std::io::Write;
use std::time::SystemTime;

use zsnap_common::names::digest::Hasher;
use zsnap_message::keys::{Format, Recipients, SigningKey};
use zsnap_message::payload::Trailer;
use zsnap_message::seal::{Sealing, seal};
use zsnap_tests::scene::{Scene, manifest, name, run};
use zsnap_tests::stream::{Stream, Sub};

const SEQ: u64 = 1_700_000_000_000_000;

fn add_to_laptop(scene: &Scene, lines: &str) {
    scene.edit("ingest.toml", "[hosts.laptop]\n", &format!("[hosts.laptop]\n{lines}\n"));
}

/// The calls of `zfs receive` since the last time.
fn received(scene: &Scene) -> Vec<String> {
    let calls = scene.zfs_calls();
    calls
        .iter()
        .filter(|call| call.get(1).is_some_and(|verb| verb == "receive"))
        .map(|call| call[1..].join(" "))
        .collect()
}

/// Held: told once with the remedy, the file is there, nothing is in quarantine.
#[track_caller]
fn held(scene: &Scene, args: &[&str], says: &str) {
    let ran = scene.ingest(args).expect(1).says("held: ").says(says).says("in [hosts.laptop]");
    assert!(scene.applied().is_empty() && scene.spooled("laptop").len() == 1, "{}", ran.err);
    assert!(scene.quarantined("laptop").is_empty());
    // It is not told again, and others may tell their own.
    scene.ingest(args).expect(0);
}

#[test]
fn a_stream_longer_than_max_size_is_held_until_it_may_be() {
    for memory in ["1M", "0"] {
        let scene = Scene::new();
        let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"hello");
        scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
        let buffer = format!("--verify-buffer={memory}");
        held(&scene, &[&buffer, "--max-size=4"], "longer than max-size, 4 bytes");
        // What was found under other bounds is not believed.
        held(&scene, &[&buffer, "--max-size=1"], "longer than max-size, 1 bytes");
        add_to_laptop(&scene, "max-size = \"3B\"");
        held(&scene, &[&buffer, "--max-size=1G"], "raise max-size");
        let file = &scene.spooled("laptop")[0];
        scene.ingest(&["verify", file.to_str().unwrap()]).expect(77).says("max-size");
        let stdin = run(&mut scene.ingest_command(["exec", "--host", "laptop"]), &sealed);
        stdin.expect(77).says("max-size");
        scene.edit("ingest.toml", "max-size = \"3B\"", "max-size = 5");
        scene.ingest(&[&buffer, "--max-size=4"]).expect(0);
        assert_eq!(scene.applied(), b"hello");
    }
}

#[test]
fn forged_is_forged_however_large_it_says_to_be() {
    let scene = Scene::new();
    let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("other"), b"hello");
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    scene.ingest(&["--max-size=4"]).expect(1).says("comes from other");
    assert_eq!(scene.quarantined("laptop").len(), 2);
}

#[test]
fn a_frame_that_needs_a_larger_window_is_held() {
    let scene = Scene::new();
    let body: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    scene.deliver("laptop", &name("laptop/etc", SEQ), &scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), &body));
    held(&scene, &["--window-log=12"], "more memory for it than a window of 2^12 bytes");
    scene.ingest(&[]).expect(0);
    assert!(scene.applied() == body);
}

#[test]
fn a_dense_stream_is_taken_once_it_is_authentic() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "cat >> ", "wc -c >> ");
    let (piece, pieces) = (vec![0; 1 << 20], 1025);
    let mut sum = Hasher::default();
    (0..pieces).for_each(|_| sum.write_all(&piece).unwrap());
    let trailer = Trailer { zsnap: 1, bytes: pieces << 20, sha256: sum.finish(), substreams: None, to: None };
    let now = SystemTime::now();
    let key = SigningKey::load(&scene.path("laptop.key"), now).unwrap();
    let recipients = Recipients::load(&[scene.path("backup.cert")], Format::Gpg, now).unwrap();
    for (n, buffer) in ["64M", "0"].into_iter().enumerate() {
        let seq = SEQ + n as u64;
        let signer = Some(&key);
        let how = Sealing { recipients: &recipients, signer, format: Format::Gpg, level: 1, threads: 1 };
        let sealed = seal(Vec::new(), &how, &manifest("laptop/etc", seq), |out| {
            (0..pieces).try_for_each(|_| out.write_all(&piece))?;
            Ok(trailer.clone())
        });
        scene.deliver("laptop", &name("laptop/etc", seq), &sealed.unwrap());
        let buffer = format!("--verify-buffer={buffer}");
        scene.ingest(&[&buffer, "--max-ratio=1000"]).expect(1).says("and max-ratio is 1000;").says("held: ");
        scene.ingest(&[&buffer, "--max-ratio=1000000"]).expect(0);
        let lines = String::from_utf8(scene.applied()).unwrap();
        assert_eq!(lines.lines().map(str::trim).collect::<Vec<_>>(), vec![(pieces << 20).to_string(); n + 1]);
    }
}

#[test]
fn a_plain_stream_of_a_trusted_transport_has_bounds_too() {
    let scene = Scene::with_pool();
    add_to_laptop(&scene, "trust = \"transport\"");
    let stream = Stream::plain(Sub::full("tank@a", 7)).bytes();
    let exec = |size: usize| {
        let size = format!("--max-size={size}");
        run(&mut scene.ingest_command(["exec", "--host", "laptop", &size, "laptop/tank"]), &stream)
    };
    exec(stream.len() - 1).expect(77).says("raise max-size");
    assert!(received(&scene).is_empty());
    exec(stream.len()).expect(0);
    assert_eq!(received(&scene).len(), 1);
}

#[test]
fn bounds_that_are_none_are_told_with_their_place() {
    let scene = Scene::new();
    scene.ingest(&["check"]).expect(0);
    for (line, says) in [
        ("max-size = \"10 GiB\"", "is not a size"),
        ("max-bytes = -1", "is not a size"),
        ("max-bytes = 1.5", "a string or a whole number"),
        ("max-files = 0", "is not a number from 1 up"),
        ("max-ratio = \"many\"", "is not a number from 1 up"),
    ] {
        add_to_laptop(&scene, line);
        let line_number = fs::read_to_string(scene.path("ingest.toml")).unwrap();
        let line_number = line_number.lines().position(|l| l == line).unwrap() + 1;
        scene.ingest(&["check"]).expect(78).says(&format!("ingest.toml:{line_number}: ")).says(says);
        scene.edit("ingest.toml", &format!("{line}\n"), "");
    }
    for wrong in ["--max-files=0", "--max-ratio=0", "--max-bytes=x", "--receive-timeout=0s", "--receive-timeout=999ms"]
    {
        scene.ingest(&["check", wrong]).expect(2);
    }
    add_to_laptop(&scene, "max-size = \"10GiB\"\nmax-bytes = 1000000\nmax-files = \"5\"\nmax-ratio = 20");
    scene.ingest(&["check", "--receive-timeout=1s", "--max-bytes=1T", "--max-files=1", "--max-ratio=1"]).expect(0);
}

#[test]
fn datasets_get_what_the_configuration_says_and_nothing_else() {
    let scene = Scene::with_pool();
    add_to_laptop(
        &scene,
        "set = [\"compression=zstd-3\", \"canmount=off\", \"org.example:owner=J. Doe\"]\nexclude = [\"mountpoint\"]",
    );
    scene.edit("ingest.toml", "[hosts.laptop]", "set = [\"compression=lz4\", \"refquota=1G\"]\n[hosts.laptop]");
    for host in ["laptop", "other"] {
        let key = scene.path(format!("{host}.key"));
        let args = ["--signing-key", key.to_str().unwrap(), "--strip", "s", &format!("s/{host}/tank")];
        // With properties of its own, which are dropped.
        scene.queue(&args, &zsnap_tests::sample("full-props-p.zfs")).expect(0);
    }
    scene.ingest(&[]).expect(0);
    let mut calls = received(&scene);
    calls.sort_by_key(|line| line.contains("hosts/other"));
    let [laptop, other] = &calls[..] else { panic!("{calls:?}") };
    let of_laptop = "receive -u -o readonly=on -o canmount=off -o compression=zstd-3 -o refquota=1073741824 \
                     -o org.example:owner=J. Doe -x mountpoint backup/hosts/laptop/tank@";
    assert!(laptop.starts_with(of_laptop), "{laptop}");
    let of_other = "receive -u -o readonly=on -o canmount=noauto -o compression=lz4 -o refquota=1073741824 backup/";
    assert!(other.starts_with(of_other), "{other}");
}

#[test]
fn properties_that_are_not_allowed_are_told_with_their_place() {
    let scene = Scene::new();
    for (line, says) in [
        ("set = [\"compression=lz4\", \"readonly=off\"]", "[hosts.laptop] set: \"readonly=off\""),
        ("set = [\"mountpoint=/etc\"]", "[hosts.laptop] set: \"mountpoint=/etc\""),
        ("set = [\"-F\"]", "[hosts.laptop] set: \"-F\""),
        ("exclude = [\"canmount\"]", "[hosts.laptop] exclude: canmount"),
        ("exclude = [\"-F\"]", "[hosts.laptop] exclude: \"-F\""),
    ] {
        add_to_laptop(&scene, line);
        scene.ingest(&["check"]).expect(78).says(says);
        scene.ingest(&[]).expect(78).says(says);
        scene.edit("ingest.toml", &format!("{line}\n"), "");
    }
    scene.ingest(&["--set", "setuid=on"]).expect(78).says("--set: \"setuid=on\"").says("setuid may be off");
    scene.ingest(&["--exclude", "readonly"]).expect(78).says("--exclude: readonly");
    scene.ingest(&["--set", "setuid=off", "--exclude", "mountpoint", "check"]).expect(0);
}

#[test]
fn a_store_cannot_be_an_option() {
    let scene = Scene::with_pool();
    scene.ingest(&["check", "--store=-F"]).expect(78).says("no pool is called \"-F\"");
}
