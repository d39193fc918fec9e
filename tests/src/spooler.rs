//! A spooler: a spool, drives and a configuration in one temporary directory, and the real zsnap-fanout.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{Ran, memory, name, run, tool, under};

/// The offset of the numbers of its files, in microseconds since 1970.
const FIRST: u64 = 1_700_000_000_000_000;

/// A temporary directory with all that the tests of zsnap-fanout need.
pub struct Spooler {
    dir: tempfile::TempDir,
}

impl Default for Spooler {
    fn default() -> Spooler {
        Spooler::new()
    }
}

impl Spooler {
    /// Makes a spooler without drives.
    pub fn new() -> Spooler {
        Spooler::inside(&std::env::temp_dir())
    }

    /// Makes a spooler without drives, in memory if possible.
    pub fn in_memory() -> Spooler {
        memory().map_or_else(Spooler::new, Spooler::inside)
    }

    fn inside(dir: &Path) -> Spooler {
        // zsnap rejects files that a group can write.
        rustix::process::umask(rustix::fs::Mode::from(0o022));
        let spooler = Spooler { dir: tempfile::Builder::new().prefix("zsnap-").tempdir_in(dir).unwrap() };
        fs::create_dir(spooler.path("spool")).unwrap();
        spooler.write("fanout.toml", &format!("spool = \"{}\"\n", spooler.path("spool").display()));
        spooler
    }

    /// Makes a spooler with these `dir:` drives.
    pub fn with(drives: &[&str]) -> Spooler {
        let spooler = Spooler::new();
        drives.iter().for_each(|drive| spooler.drive(drive, ""));
        spooler
    }

    /// Returns a path in the directory of the spooler.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Reads the configuration.
    pub fn config(&self) -> String {
        fs::read_to_string(self.path("fanout.toml")).unwrap()
    }

    /// Replaces text in the configuration.
    pub fn edit(&self, from: &str, to: &str) {
        assert!(self.config().contains(from), "the configuration has no {from}");
        self.write("fanout.toml", &self.config().replace(from, to));
    }

    /// Configures a drive; `more` are further lines of its table.
    pub fn to(&self, name: &str, dest: &str, more: &str) {
        let table = format!("[to.{name}]\ndest = '{dest}'\n{more}\n");
        self.write("fanout.toml", &(self.config() + &table));
    }

    /// Configures a `dir:` drive, makes its directory and marks it.
    pub fn drive(&self, name: &str, more: &str) {
        fs::create_dir(self.path(name)).unwrap();
        self.mark(name, name);
        self.to(name, &format!("dir:{}", self.path(name).display()), more);
    }

    /// Writes the mark of a drive into a directory.
    pub fn mark(&self, dir: &str, drive: &str) {
        self.write(&format!("{dir}/.zsnap-drive"), &format!("{drive}\n"));
    }

    /// Puts file number `n` of a target into the spool and returns its name.
    pub fn put(&self, target: &str, n: u64, bytes: impl AsRef<[u8]>) -> String {
        let name = name(target, FIRST + n);
        self.put_as(target.split_once('/').unwrap().0, &name, bytes);
        name
    }

    /// Puts a file with any name into a directory of the spool.
    pub fn put_as(&self, host: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let dir = self.path("spool").join(host);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }

    /// Builds the command of zsnap-fanout with the configuration of the spooler.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool("zsnap-fanout", &self.path("fanout.toml"));
        command.args(args);
        command
    }

    /// Builds a command that runs zsnap-fanout under another program, such as strace. `before` is this program with its
    /// arguments.
    pub fn under<S: AsRef<OsStr>>(&self, before: &[S], args: &[&str]) -> Command {
        under(before, &self.command(args))
    }

    /// Runs zsnap-fanout.
    pub fn fanout(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args), b"")
    }

    /// Runs zsnap-fanout, which must exit with 0 and print nothing.
    #[track_caller]
    pub fn silent_run(&self) {
        let ran = self.fanout(&[]).expect(0);
        assert_eq!((ran.err.as_str(), ran.out.len()), ("", 0));
    }

    /// Lists all files of a drive except its mark, including hidden ones: HOST/FILE.
    pub fn on(&self, drive: &str) -> Vec<String> {
        let mut found = tree(&self.path(drive));
        found.retain(|path| path != ".zsnap-drive");
        found
    }

    /// Lists the files that wait for a drive: HOST/FILE.
    pub fn waiting(&self, drive: &str) -> Vec<String> {
        let mut found = tree(&self.outbox(drive));
        found.retain(|path| path.contains('/'));
        found
    }

    /// Returns the outbox of a drive.
    pub fn outbox(&self, drive: &str) -> PathBuf {
        self.path("spool/.zsnap-fanout/out").join(drive)
    }

    /// Lists the files in the spool itself: HOST/FILE.
    pub fn left(&self) -> Vec<String> {
        let mut found = tree(&self.path("spool"));
        found.retain(|path| !path.starts_with(".zsnap-fanout/"));
        found
    }
}

/// Lists all files below a directory, sorted, or nothing if the directory is absent.
pub fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}
