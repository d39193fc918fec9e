//! An unpacked tree as an older version left it, and tools that run in it. Its paths are relative to the working
//! directory, so that it can be anywhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use zsnap_tests::scene::{Ran, fake_zfs, program, run};
use zsnap_tests::spooler;

/// The versions that have trees in `data/upgrade`.
pub const VERSIONS: [&str; 1] = ["0403f48"];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/upgrade")
}

/// Reads one of the streams that the trees were made with.
pub fn stream(name: &str) -> Vec<u8> {
    let packed = fs::read(data().join(format!("streams/{name}.zfs.zst"))).unwrap();
    zstd::decode_all(packed.as_slice()).unwrap()
}

/// An unpacked tree.
pub struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    /// Unpacks a tree with its links, modes and times.
    pub fn unpack(version: &str, name: &str) -> Tree {
        rustix::process::umask(rustix::fs::Mode::from(0o022));
        let packed = fs::read(data().join(version).join(format!("{name}.tar.zst"))).unwrap();
        let tar = zstd::decode_all(packed.as_slice()).unwrap();
        let tree = Tree { dir: tempfile::Builder::new().prefix("zsnap-").tempdir().unwrap() };
        let mut unpack = Command::new("tar");
        unpack.args(["--extract", "--file=-", "--preserve-permissions", "--no-same-owner", "--directory"]);
        run(unpack.arg(tree.path("")), &tar).expect(0);
        tree
    }

    /// Unpacks a tree and adds the fake `zfs` and `zpool` to `bin`, which contains the pools.
    pub fn with_pool(version: &str, name: &str) -> Tree {
        let tree = Tree::unpack(version, name);
        fake_zfs(&tree.path("bin"));
        tree
    }

    /// Returns a path in the tree.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Builds the command of a tool with this configuration, run by the programs in `before` with their arguments.
    pub fn command<S: AsRef<OsStr>>(&self, before: &[&str], tool: &str, config: &str, args: &[S]) -> Command {
        let tool = match std::env::var_os("ZSNAP_UPGRADE_BINARIES") {
            Some(dir) => Path::new(&dir).join(tool),
            None => program(tool),
        };
        let mut command = match before {
            [] => Command::new(tool),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(tool);
                command
            }
        };
        command.args(["--config", config]).args(args);
        command.current_dir(self.path("")).env_remove("NNCP_SENDER").env("TZ", "UTC");
        command
    }

    /// Runs a tool.
    pub fn run(&self, tool: &str, config: &str, args: &[&str], input: &[u8]) -> Ran {
        run(&mut self.command(&[], tool, config, args), input)
    }

    /// Returns the options `--zfs` and `--zpool` with the paths of the fake programs.
    pub fn zfs_options(&self) -> [String; 4] {
        let path = |name: &str| self.path("bin").join(name).display().to_string();
        ["--zfs".into(), path("zfs"), "--zpool".into(), path("zpool")]
    }

    /// Returns the lines that the fake `zfs list` prints.
    pub fn zfs_list(&self, kind: &str, column: &str) -> Vec<String> {
        let mut list = Command::new(self.path("bin/zfs"));
        let ran = run(list.args(["list", "-Hp", "-r", "-t", kind, "-o", column, "backup"]), b"").expect(0);
        String::from_utf8(ran.out).unwrap().lines().map(str::to_owned).collect()
    }

    /// Reads all files below a directory except hidden ones.
    pub fn files(&self, dir: &str) -> BTreeMap<String, Vec<u8>> {
        let shown = |path: &String| !path.split('/').any(|part| part.starts_with('.'));
        let all = spooler::tree(&self.path(dir)).into_iter().filter(shown);
        all.map(|name| (name.clone(), fs::read(self.path(dir).join(&name)).unwrap())).collect()
    }

    /// Reads what `zsnap-queue --json` printed while the tree was made, in that order.
    pub fn queued(&self) -> Vec<Queued> {
        let text = fs::read_to_string(self.path("queued.jsonl")).unwrap();
        text.lines().map(|line| Queued(serde_json::from_str(line).unwrap())).collect()
    }
}

/// What `zsnap-queue --json` prints about a file.
pub struct Queued(pub Value);

impl Queued {
    /// Returns a field that contains text.
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap()
    }

    /// Returns the number of the file.
    pub fn seq(&self) -> u64 {
        self.0["seq"].as_u64().unwrap()
    }

    /// Whether the name of one of its destinations ends with `end`.
    pub fn is_for(&self, end: &str) -> bool {
        self.0["destinations"].as_array().unwrap().iter().any(|to| to["to"].as_str().unwrap().ends_with(end))
    }
}

/// Parses the rows that `--json` printed, with any exit status.
pub fn rows(ran: &Ran) -> Vec<Value> {
    serde_json::from_slice(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.err))
}
