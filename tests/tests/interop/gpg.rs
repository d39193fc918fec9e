//! GnuPG and zstd read what zsnap writes, and zsnap reads what they write. Without gpg or zstd these tests print so and
//! pass, unless `ZSNAP_TESTS_STRICT` is set.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "all of this is test code")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use zsnap_common::stream::Guid;
use zsnap_message::keys::{Format, Keyring, Recipients, SigningKey};
use zsnap_message::open::{Refusal, Trust, verify};
use zsnap_message::payload::{Base, Manifest, PayloadKind, ZfsHead};
use zsnap_message::seal::{Sealing, seal};
use zsnap_tests::sealed::*;

fn tools() -> bool {
    let installed = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let both = installed("gpg") && installed("zstd");
    assert!(both || std::env::var_os("ZSNAP_TESTS_STRICT").is_none(), "gpg or zstd is missing");
    if !both {
        eprintln!("SKIPPED: gpg or zstd is missing");
    }
    both
}

/// A private GNUPGHOME. Its path must be short, because it contains the socket of the agent.
struct Gnupg(tempfile::TempDir);

impl Gnupg {
    fn new() -> Gnupg {
        Gnupg(tempfile::Builder::new().prefix("g").rand_bytes(4).tempdir_in("/tmp").unwrap())
    }

    fn run<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Output {
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", self.0.path()).args(["--batch", "--yes", "--quiet", "--no-tty", "--status-fd=2"]);
        gpg.args(["--pinentry-mode=loopback", "--passphrase=", "--trust-model=always"]).args(args);
        run(&mut gpg, input)
    }

    fn ok<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Vec<u8> {
        let out = self.run(args, input);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// Makes a key pair and exports it as NAME.key and NAME.cert.
    fn make(&self, name: &str, kind: &str, dir: &Path) {
        let text = match kind {
            "rsa" => "Key-Type: RSA\nKey-Length: 3072\nSubkey-Type: RSA\nSubkey-Length: 3072\n",
            _ => "Key-Type: EDDSA\nKey-Curve: ed25519\nSubkey-Type: ECDH\nSubkey-Curve: cv25519\n",
        };
        let text = format!("%no-protection\n{text}Name-Real: {name}\nExpire-Date: 0\n%commit\n");
        self.ok(&["--gen-key"], text.as_bytes());
        let key = self.ok(&["--export-secret-keys", name], b"");
        write_secret(&dir.join(format!("{name}.key")), &key);
        fs::write(dir.join(format!("{name}.cert")), self.ok(&["--armor", "--export", name], b"")).unwrap();
    }
}

impl Drop for Gnupg {
    fn drop(&mut self) {
        let mut conf = Command::new("gpgconf");
        let _ = conf.env("GNUPGHOME", self.0.path()).args(["--kill", "all"]).status();
    }
}

fn run(command: &mut Command, input: &[u8]) -> Output {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let out = child.wait_with_output().unwrap();
    feed.join().unwrap();
    out
}

fn zstd(args: &[&str], input: &[u8]) -> Vec<u8> {
    let out = run(Command::new("zstd").arg("-q").args(args), input);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn write_secret(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Reads a short incremental ZFS stream; see tests/data/vectors.
fn zfs_stream() -> Vec<u8> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/vectors/stream.zfs.zst");
    zstd::decode_all(fs::File::open(packed).unwrap()).unwrap()
}

#[test]
fn gpg_and_zstd_restore_a_sealed_stream() {
    if !tools() {
        return;
    }
    let (gnupg, ours) = (Gnupg::new(), Site::new(Format::Gpg));
    let dir = ours.dir.path();
    gnupg.make("rsa", "rsa", dir);
    gnupg.make("curve", "curve", dir);
    gnupg.ok(&[OsStr::new("--import"), ours.path("backup.key").as_ref()], b"");
    let now = SystemTime::now();
    let data = [noise(300_000, 1), vec![0; 9 << 20], noise(70_000, 2)].concat();
    for (sender, receiver) in
        [("laptop", "backup"), ("laptop", "rsa"), ("laptop", "curve"), ("rsa", "backup"), ("curve", "curve")]
    {
        let signer = SigningKey::load(&ours.path(&format!("{sender}.key")), now).unwrap();
        let to = [ours.path(&format!("{receiver}.cert"))];
        let recipients = Recipients::load(&to, Format::Gpg, now).unwrap();
        for data in [&data[..], b""] {
            let how =
                Sealing { recipients: &recipients, signer: Some(&signer), format: Format::Gpg, level: 8, threads: 2 };
            let message = sealed(data, &how);
            // Without the signer's certificate gpg warns and exits with 2, but writes the data.
            if sender == "laptop" {
                let out = gnupg.run(&["--decrypt"], &message);
                assert!(zstd(&["-dc"], &out.stdout) == data, "{}", String::from_utf8_lossy(&out.stderr));
            }
            let whole = Gnupg::new();
            whole.ok(&[OsStr::new("--import"), ours.path(&format!("{receiver}.key")).as_ref()], b"");
            whole.ok(&[OsStr::new("--import"), ours.path(&format!("{sender}.cert")).as_ref()], b"");
            let out = whole.run(&["--decrypt"], &message);
            let messages = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{sender} to {receiver}: {messages}");
            assert!(messages.contains("GOODSIG") && messages.contains("GOODMDC"), "{messages}");
            assert!(zstd(&["-dc"], &out.stdout) == data);
        }
    }
}

#[test]
fn gpg_signs_and_encrypts_with_generated_keys() {
    if !tools() {
        return;
    }
    for format in FORMATS {
        let (gnupg, ours) = (Gnupg::new(), Site::new(format));
        for name in ["laptop.key", "backup.cert"] {
            gnupg.ok(&[OsStr::new("--import"), ours.path(name).as_ref()], b"");
        }
        let stream = zfs_stream();
        let packed = zstd(&["-8", "-c"], &stream);
        let args =
            ["--compress-algo=none", "--recipient=zsnap backup", "--local-user=zsnap laptop", "--sign", "--encrypt"];
        let message = gnupg.ok(&args, &packed);
        let verified = verify(Cursor::new(&message[..]), &ours.trust(), &IN_MEMORY).unwrap();
        assert_eq!(verified.signer(), Some(ours.signer.fingerprint().as_str()));
        assert_eq!(verified.stream().unwrap().bytes, stream.len() as u64);
        assert!(verified.manifest().is_none() && verified.trailer().is_none());
        assert!(replayed(verified) == stream);
        // gpg compresses by default.
        let message = gnupg.ok(&args[1..], &stream.repeat(3));
        match ours.open(&message) {
            Err(Refusal::Malformed(why)) => assert!(why.contains("--compress-algo none"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn files_of_the_shell_scripts_are_opened() {
    if !tools() {
        return;
    }
    let (gnupg, ours) = (Gnupg::new(), Site::new(Format::Gpg));
    let dir = ours.dir.path();
    let stream = zfs_stream();
    let half = stream.len() / 2;
    let one = zstd(&["-8", "-c"], &stream);
    let several = [zstd(&["-8", "-c"], &stream[..half]), zstd(&["-3", "-c"], &stream[half..])].concat();
    for kind in ["rsa", "curve"] {
        gnupg.make(kind, kind, dir);
        let keyring = Keyring::load(&[ours.path(&format!("{kind}.key"))]).unwrap();
        let lax = Trust { keyring: &keyring, unsigned: true, ..ours.trust() };
        let recipient = format!("--recipient={kind}");
        for payload in [&one, &several] {
            for hidden in ["--no-throw-keyids", "--throw-keyids"] {
                let args = ["--compress-algo=none", hidden, &recipient, "--encrypt"];
                let message = gnupg.ok(&args, payload);
                for limits in [&IN_MEMORY, &TWICE] {
                    let verified = verify(Cursor::new(&message[..]), &lax, limits).unwrap();
                    assert_eq!(verified.stream().unwrap().substreams.len(), 1);
                    assert!(verified.manifest().is_none() && verified.signer().is_none());
                    assert!(replayed(verified) == stream);
                }
                let strict = Trust { unsigned: false, ..lax };
                assert!(matches!(open(&message, &strict, &IN_MEMORY), Err(Refusal::Unsigned)));
            }
        }
        // Not a ZFS stream, one that was truncated before compression, and two streams: the pipeline of the shell
        // scripts (tests/data/seed-queue.sh) does not detect these.
        for bad in [&b"hello"[..], &stream[..stream.len() - 1], b"", &stream.repeat(2)] {
            let args = ["--compress-algo=none", &recipient, "--encrypt"];
            let message = gnupg.ok(&args, &zstd(&["-8", "-c"], bad));
            let result = open(&message, &lax, &IN_MEMORY);
            assert!(matches!(result, Err(Refusal::Malformed(_))), "{kind} {}: {result:?}", bad.len());
        }
        // gpg knows the length of a file but not that of a pipe, so the packet headers differ.
        let (plain, sealed) = (ours.path("plain"), ours.path("sealed"));
        fs::write(&plain, &one).unwrap();
        let output = format!("--output={}", sealed.display());
        let args = ["--compress-algo=none", &recipient, &output, "--encrypt", plain.to_str().unwrap()];
        gnupg.ok(&args, b"");
        assert!(open(&fs::read(&sealed).unwrap(), &lax, &IN_MEMORY).unwrap() == stream);
    }
}

#[test]
fn a_zfs_stream_must_agree_with_its_manifest_and_trailer() {
    let site = Site::new(Format::Gpg);
    let stream = zfs_stream();
    let mut gate = zsnap_common::stream::Gate::new();
    gate.feed(&stream, &mut |_| Ok(())).unwrap();
    let (toname, from, to) = gate.head().map(|head| (head.toname, head.first.from, head.first.to)).unwrap();
    let head = ZfsHead { toname, from, to: Some(to), raw: false, compressed: false };
    let right = Manifest { kind: PayloadKind::Zfs, base: Base::Prev, zfs: Some(head.clone()), ..manifest() };
    let try_it = |manifest: &Manifest, substreams, last| {
        let trailer = zsnap_message::payload::Trailer { substreams, to: last, ..trailer(&stream) };
        let body = |out: &mut dyn Write| {
            out.write_all(&stream)?;
            Ok(trailer)
        };
        let message = seal(Vec::new(), &site.sealing(Format::Gpg), manifest, body).unwrap().0;
        site.open(&message)
    };
    assert!(try_it(&right, Some(1), Some(to)).unwrap() == stream);
    let other = |change: &dyn Fn(&mut Manifest, &mut ZfsHead)| {
        let (mut manifest, mut head) = (right.clone(), head.clone());
        change(&mut manifest, &mut head);
        try_it(&Manifest { zfs: Some(head), ..manifest }, Some(1), Some(to))
    };
    let wrong = [
        other(&|_, head| head.toname += "x"),
        other(&|_, head| head.to = None),
        other(&|_, head| head.from = Some(to)),
        other(&|_, head| head.to = Some(Guid(to.0 ^ 1))),
        other(&|manifest, head| (manifest.base, head.from) = (Base::None, None)),
        try_it(&right, None, Some(to)),
        try_it(&right, Some(2), Some(to)),
        try_it(&right, Some(1), None),
        try_it(&right, Some(1), Some(Guid(to.0 ^ 1))),
    ];
    for (i, result) in wrong.iter().enumerate() {
        assert!(matches!(result, Err(Refusal::Malformed(_))), "{i}: {result:?}");
    }
}

/// The format does not change: the committed test vectors can always be opened.
#[test]
fn committed_test_vectors_can_be_opened() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/vectors");
    rustix::process::umask(rustix::fs::Mode::from(0o022));
    let temp = tempfile::tempdir().unwrap();
    // A checkout does not restore the modes of the keys.
    let secret = |name: &str| -> PathBuf {
        let copy = temp.path().join(name);
        write_secret(&copy, &fs::read(dir.join(name)).unwrap());
        copy
    };
    let keyring = Keyring::load(&[secret("backup.key")]).unwrap();
    let signers = signers(&[("laptop", &secret("laptop.cert"))]);
    let laptop = host("laptop");
    let trust = Trust {
        keyring: &keyring,
        signers: &signers,
        host: &laptop,
        unsigned: false,
        any_stream: false,
        now: SystemTime::now(),
    };
    for (name, kind, len) in [("opaque", PayloadKind::Opaque, 32), ("zfs", PayloadKind::Zfs, zfs_stream().len())] {
        let text = fs::read(dir.join(format!("{name}.manifest.json"))).unwrap();
        let manifest: Manifest = serde_json::from_slice(&text).unwrap();
        assert_eq!(manifest.kind, kind);
        let expected = if name == "zfs" { zfs_stream() } else { b"This is not a ZFS stream at all\n".to_vec() };
        assert_eq!(expected.len(), len);
        for format in ["gpg", "aead"] {
            let message = fs::read(dir.join(format!("{name}.{format}"))).unwrap();
            let verified = verify(Cursor::new(&message[..]), &trust, &IN_MEMORY).unwrap();
            assert_eq!(verified.manifest(), Some(&manifest));
            assert_eq!(verified.trailer().unwrap().sha256, sha256(&expected));
            assert_eq!(verified.stream().is_some(), name == "zfs");
            assert!(replayed(verified) == expected);
        }
        if tools() {
            let gnupg = Gnupg::new();
            gnupg.ok(&[OsStr::new("--import"), secret("backup.key").as_ref(), dir.join("laptop.cert").as_ref()], b"");
            let out = gnupg.ok(&["--decrypt"], &fs::read(dir.join(format!("{name}.gpg"))).unwrap());
            assert!(zstd(&["-dc"], &out) == expected);
        }
    }
}

/// Makes the test vectors, which was done once: `cargo test --test interop gpg -- --ignored make_the_vectors`.
#[test]
#[ignore = "writes to tests/data/vectors"]
fn make_the_vectors() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/vectors");
    assert!(!dir.join("opaque.gpg").exists(), "the format does not change again");
    let site = Site::new(Format::Aead);
    for name in ["laptop.key", "laptop.cert", "backup.key", "backup.cert"] {
        fs::copy(site.path(name), dir.join(name)).unwrap();
    }
    let stream = zfs_stream();
    let mut gate = zsnap_common::stream::Gate::new();
    gate.feed(&stream, &mut |_| Ok(())).unwrap();
    let head = gate.head().unwrap();
    let (toname, to, raw, compressed) = (head.toname, head.first.to, head.first.raw, head.first.compressed);
    let dataset = toname.split_once('@').unwrap().0.parse().unwrap();
    let zfs = ZfsHead { toname, from: head.first.from, to: Some(to), raw, compressed };
    let zfs = Manifest { kind: PayloadKind::Zfs, base: Base::Prev, zfs: Some(zfs), dataset, ..manifest() };
    let opaque = Manifest { prev: Some(1_789_000_000_000_000), base: Base::Prev, ..manifest() };
    let text = b"This is not a ZFS stream at all\n".to_vec();
    for (name, manifest, data) in [("zfs", zfs, &stream), ("opaque", opaque, &text)] {
        fs::write(dir.join(format!("{name}.manifest.json")), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
        for (format, suffix) in [(Format::Gpg, "gpg"), (Format::Aead, "aead")] {
            let mut trailer = trailer(data);
            if name == "zfs" {
                (trailer.substreams, trailer.to) = (Some(1), Some(to));
            }
            let body = |out: &mut dyn Write| {
                out.write_all(data)?;
                Ok(trailer)
            };
            let message = seal(Vec::new(), &site.sealing(format), &manifest, body).unwrap().0;
            fs::write(dir.join(format!("{name}.{suffix}")), message).unwrap();
        }
    }
}
