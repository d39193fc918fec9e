//! A host to test with: keys, a state directory, a directory that files are delivered to.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use serde_json::Value;
use zsnap_message::keys::{Keyring, Purpose, keygen};
use zsnap_message::open::{Limits, Signers, Trust, verify};
use zsnap_message::payload::Manifest;

pub struct Host {
    pub dir: tempfile::TempDir,
}

pub struct Opened {
    pub manifest: Manifest,
    pub bytes: Vec<u8>,
    pub signed: bool,
}

pub fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    keygen(&dir.path().join("backup"), Purpose::Encrypt, false).unwrap();
    keygen(&dir.path().join("laptop"), Purpose::Sign(&"laptop".parse().unwrap()), false).unwrap();
    fs::create_dir(dir.path().join("to")).unwrap();
    // Neither the machine's configuration nor its state.
    fs::write(dir.path().join("queue.toml"), "").unwrap();
    Host { dir }
}

impl Host {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bare(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zsnap-queue"));
        command.arg("--config").arg(self.path("queue.toml")).arg("--state").arg(self.path("state"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(self.dir.path());
        command
    }

    /// With keys, without destination.
    pub fn sealing(&self) -> Command {
        let mut command = self.bare();
        command.arg("--encrypt-to").arg(self.path("backup.cert")).arg("--signing-key").arg(self.path("laptop.key"));
        command
    }

    pub fn queue(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.sealing();
        command.arg("--to").arg(format!("dir:{}", self.path("to").display())).args(args);
        feed(command, input)
    }

    /// Files delivered to `to`, oldest first.
    pub fn delivered(&self) -> Vec<PathBuf> {
        let hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
        names(&self.path("to/laptop")).into_iter().filter(|path| !hidden(path)).collect()
    }

    pub fn open(&self, file: &Path) -> Opened {
        let keyring = Keyring::load(&[self.path("backup.key")]).unwrap();
        let laptop = "laptop".parse().unwrap();
        let signers = Signers::load(&[("laptop".parse().unwrap(), vec![self.path("laptop.cert")])].into()).unwrap();
        let trust =
            Trust { keyring: &keyring, signers: &signers, host: &laptop, unsigned: true, now: SystemTime::now() };
        let limits = Limits { verify_buffer: 64 << 20, window_log: 27, max_size: None, max_ratio: 10_000 };
        let verified = verify(fs::File::open(file).unwrap(), &trust, &limits).unwrap();
        let (manifest, signed) = (verified.manifest().unwrap().clone(), verified.signer().is_some());
        let mut bytes = Vec::new();
        verified.replay(&mut bytes).unwrap();
        Opened { manifest, bytes, signed }
    }

    pub fn state(&self, dataset: &str) -> Value {
        let path = self.path("state/datasets/laptop").join(dataset).join("state.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Every file in the outbox but those that stay for ever.
    pub fn outbox(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.path("state/outbox")];
        while let Some(dir) = dirs.pop() {
            for entry in names(&dir) {
                let stays = [".lock", ".dest.json", ".told.json"].iter().any(|name| entry.ends_with(name));
                if entry.is_dir() {
                    dirs.push(entry)
                } else if !stays {
                    files.push(entry)
                }
            }
        }
        files
    }
}

pub fn names(dir: &Path) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

pub fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may refuse before it has read all.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

pub fn stream(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/data/streams/{name}.zfs.zst"));
    zstd::decode_all(fs::File::open(path).unwrap()).unwrap()
}

#[track_caller]
pub fn ends(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

#[track_caller]
pub fn silent(output: &Output) {
    let stderr = ends(output, 0);
    assert_eq!((stderr.as_str(), output.stdout.len()), ("", 0));
}
