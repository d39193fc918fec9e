//! A laptop and a backup server in one temporary directory: keys, configurations, and the real binaries. Every test of
//! several tools uses one.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use zsnap_common::names::digest::sha256_hex;
use zsnap_common::names::queue_name::{QueueName, Stamp};
use zsnap_common::names::target::Target;
use zsnap_message::keys::{Format, Recipients, SigningKey};
use zsnap_message::payload::{Base, Epoch, Manifest, PayloadKind, Trailer};
use zsnap_message::seal::{Sealing, seal};

/// Returns the directory of the binaries that were built with these tests.
pub fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// Returns the path of a program, which must have been built before the tests (`make test` does so).
pub fn program(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins first", path.display());
    path
}

/// Builds the command of a tool with this configuration. All tests start tools in this way, under another program, or
/// with a configuration of their own, so that no tool reads /etc/zsnap of this machine.
pub fn tool(name: &str, config: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.arg("--config").arg(config).current_dir("/");
    command
}

/// Builds a command that runs `run` under another program, such as strace. `before` is this program with its arguments.
/// Only the program and the arguments of `run` are used.
pub fn under<S: AsRef<OsStr>>(before: &[S], run: &Command) -> Command {
    let mut command = Command::new(&before[0]);
    command.args(&before[1..]).arg(run.get_program()).args(run.get_args()).current_dir("/");
    command
}

/// Whether a real peer is installed. Without it a test prints so and passes, but fails in CI.
pub fn have(peer: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(peer).is_file()));
    assert!(found || std::env::var_os("CI").is_none(), "{peer} is not installed");
    if !found {
        eprintln!("NOT TESTED: {peer} is not installed");
    }
    found
}

/// Fails unless root runs the test. The names of tests that call this end in `_as_root`: `make test` skips them unless
/// root runs it, and `make test-root` runs them.
#[track_caller]
pub fn needs_root() {
    assert!(rustix::process::geteuid().is_root(), "only root can do this: make test-root");
}

/// Puts the fake `zfs` and `zpool` into a directory, which is made or already contains pools.
pub fn fake_zfs(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for name in ["zfs", "zpool"] {
        let (from, to) = (program("fake-zfs"), dir.join(name));
        // Not a symbolic link, because the fake looks for its pools in the directory of its executable.
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).unwrap();
            // It cannot be started while a child of another thread still has it open for writing.
            while matches!(Command::new(&to).arg("fake").output(), Err(e) if e.kind() == ErrorKind::ExecutableFileBusy)
            {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

/// Returns a directory in memory if it has room for a scene and programs can be started there. Thousands of runs that
/// sync each file are three times as fast there.
pub fn memory() -> Option<&'static Path> {
    let dir = Path::new("/dev/shm");
    let stat = rustix::fs::statvfs(dir).ok()?;
    let roomy = stat.f_bavail * stat.f_frsize > 1 << 30;
    let starts = !stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC);
    (roomy && starts && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()).then_some(dir)
}

/// The result of a program.
#[derive(Debug)]
pub struct Ran {
    /// The exit status, or 128 + signal if a signal ended the program.
    pub status: i32,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Converts the result of std.
    pub fn of(output: Output) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status.code().or(output.status.signal().map(|s| 128 + s)).unwrap();
        Ran { status, out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Fails the test unless the status is `status`.
    #[track_caller]
    pub fn expect(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "stderr: {}", self.err);
        self
    }

    /// Fails the test unless the status is 0 and nothing was printed.
    #[track_caller]
    pub fn silent(self) {
        let ran = self.expect(0);
        assert_eq!((ran.err.as_str(), ran.out.len()), ("", 0));
    }

    /// Fails the test unless standard error contains this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Ran {
        assert!(self.err.contains(text), "stderr does not say \"{text}\": {}", self.err);
        self
    }

    /// Fails the test unless standard output contains this text.
    #[track_caller]
    pub fn prints(self, text: &str) -> Ran {
        let out = String::from_utf8_lossy(&self.out);
        assert!(out.contains(text), "stdout does not contain \"{text}\": {out}; stderr: {}", self.err);
        self
    }
}

/// Runs a command with `input` as its standard input.
pub fn run(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // The program may end before it has read all its input.
        scope.spawn(move || drop(stdin.write_all(input)));
        Ran::of(child.wait_with_output().unwrap())
    })
}

/// A temporary directory with all that the tests of zsnap-queue and zsnap-ingest need.
pub struct Scene {
    dir: tempfile::TempDir,
}

impl Default for Scene {
    fn default() -> Scene {
        Scene::new()
    }
}

impl Scene {
    /// Makes a scene: keys for the hosts `laptop` and `other` and for the backup server; a spool that is also the
    /// incoming directory; a `[[command]]` for `laptop/etc` that appends each stream to `target/all` (no overlap) and
    /// one for `laptop/tar` (overlap).
    pub fn new() -> Scene {
        Scene::inside(&std::env::temp_dir())
    }

    /// Makes a scene as [`Scene::new`] does, in memory if possible.
    pub fn in_memory() -> Scene {
        memory().map_or_else(Scene::new, Scene::inside)
    }

    fn inside(dir: &Path) -> Scene {
        // zsnap rejects files that a group can write.
        rustix::process::umask(rustix::fs::Mode::from(0o022));
        let scene = Scene { dir: tempfile::Builder::new().prefix("zsnap-").tempdir_in(dir).unwrap() };
        for dir in ["spool", "target", "tar"] {
            fs::create_dir(scene.path(dir)).unwrap();
        }
        scene.mark("spool");
        for host in ["laptop", "other"] {
            let out = scene.path(host);
            zsnap_message::keys::keygen(&out, zsnap_message::keys::Purpose::Sign(&host.parse().unwrap()), false)
                .unwrap();
        }
        zsnap_message::keys::keygen(&scene.path("backup"), zsnap_message::keys::Purpose::Encrypt, true).unwrap();
        let root = scene.dir.path().display().to_string();
        scene.write("queue.toml", &format!(
            "state = \"{root}/queue-state\"\nencrypt-to = \"{root}/backup.cert\"\nsigning-key = \"{root}/laptop.key\"\nto = [\"dir:{root}/spool\"]\n"
        ));
        scene.write("ingest.toml", &format!(
            "state = \"{root}/ingest-state\"\nincoming = \"{root}/spool\"\ndecryption-key = [\"{root}/backup.key\"]\n\
             [hosts.laptop]\nsigners = [\"{root}/laptop.cert\"]\n[hosts.other]\nsigners = [\"{root}/other.cert\"]\n\
             [[command]]\nmatch = \"laptop/etc\"\nrun = [\"/bin/sh\", \"-c\", \"cat >> {root}/target/all\"]\ntarget = \"{root}/target\"\n\
             [[command]]\nmatch = \"laptop/tar\"\nrun = [\"/bin/tar\", \"--extract\", \"--listed-incremental=/dev/null\", \"--directory={root}/tar\"]\n\
             target = \"{root}/tar\"\noverlap = true\n"
        ));
        scene
    }

    /// Makes a scene with a pool `backup`, in memory if possible. The fake `zfs` and `zpool` (see `src/bin/fake-zfs`)
    /// are in `bin`, the store is `backup/hosts`, and each host has `create-parents = ["tank"]`.
    pub fn with_pool() -> Scene {
        let scene = Scene::in_memory();
        fake_zfs(&scene.path("bin"));
        run(Command::new(scene.path("bin/zpool")).args(["create", "backup"]), b"").expect(0);
        scene.zfs(&["create", "backup/hosts"]).expect(0);
        let bin = scene.path("bin").display().to_string();
        scene.edit(
            "ingest.toml",
            "state =",
            &format!("store = \"backup/hosts\"\nzfs = \"{bin}/zfs\"\nzpool = \"{bin}/zpool\"\nstate ="),
        );
        scene.edit("ingest.toml", "signers =", "create-parents = [\"tank\"]\nsigners =");
        scene
    }

    /// Runs the fake `zfs`.
    pub fn zfs(&self, args: &[&str]) -> Ran {
        run(Command::new(self.path("bin/zfs")).args(args), b"")
    }

    /// Returns the calls of the fake `zfs` and `zpool` since the last time: their names and arguments.
    pub fn zfs_calls(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("bin/calls"));
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// Returns a path in the directory of the scene.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes the mark of a drive into a directory, as `zsnap-queue init` does.
    pub fn mark(&self, dir: &str) {
        self.write(&format!("{dir}/.zsnap-drive"), "drive\n");
    }

    /// Replaces text in a configuration.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, &text.replace(from, to));
    }

    /// Builds the command of zsnap-queue with the configuration of the scene.
    pub fn queue_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool("zsnap-queue", &self.path("queue.toml"));
        command.args(args);
        command
    }

    /// Builds the command of zsnap-ingest with the configuration of the scene.
    pub fn ingest_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool("zsnap-ingest", &self.path("ingest.toml"));
        command.args(args).env_remove("NNCP_SENDER");
        command
    }

    /// Runs zsnap-queue with `input` as its standard input.
    pub fn queue(&self, args: &[&str], input: &[u8]) -> Ran {
        run(&mut self.queue_command(args), input)
    }

    /// Runs zsnap-ingest.
    pub fn ingest(&self, args: &[&str]) -> Ran {
        run(&mut self.ingest_command(args), b"")
    }

    /// Returns the queue files of a host in the spool, sorted.
    pub fn spooled(&self, host: &str) -> Vec<PathBuf> {
        files(&self.path("spool").join(host))
    }

    /// Returns the files of a host in quarantine, including the reasons.
    pub fn quarantined(&self, host: &str) -> Vec<PathBuf> {
        files(&self.path("spool/.zsnap-quarantine").join(host))
    }

    /// Returns what the command for `laptop/etc` has received, or nothing if it was never started.
    pub fn applied(&self) -> Vec<u8> {
        fs::read(self.path("target/all")).unwrap_or_default()
    }

    /// Sets the times of all files of a host in the spool one hour back, so that they are not considered as still
    /// arriving.
    pub fn age(&self, host: &str) {
        let old = SystemTime::now() - std::time::Duration::from_secs(3600);
        for file in self.spooled(host) {
            // The driver of exFAT for FUSE ignores a request to set only one of the times.
            let times = fs::FileTimes::new().set_accessed(old).set_modified(old);
            fs::File::options().write(true).open(file).unwrap().set_times(times).unwrap();
        }
    }

    /// Writes a file into a host's directory in the spool.
    pub fn deliver(&self, host: &str, name: &str, bytes: &[u8]) -> PathBuf {
        let dir = self.path("spool").join(host);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
        dir.join(name)
    }

    /// Seals `body` with a manifest, signed by `signer` (a host of [`Scene::new`]) or not signed.
    pub fn seal(&self, manifest: &Manifest, signer: Option<&str>, body: &[u8]) -> Vec<u8> {
        let key = signer.map(|name| SigningKey::load(&self.path(format!("{name}.key")), SystemTime::now()).unwrap());
        self.seal_with(manifest, key.as_ref(), &self.path("backup.cert"), body)
    }

    /// Seals `body` with a manifest and any key and recipient.
    pub fn seal_with(&self, manifest: &Manifest, key: Option<&SigningKey>, to: &Path, body: &[u8]) -> Vec<u8> {
        let trailer =
            Trailer { zsnap: 1, bytes: body.len() as u64, sha256: sha256_hex(body), substreams: None, to: None };
        seal_with(manifest, trailer, key, to, body)
    }
}

/// Seals `body` with any manifest, trailer, key and recipient.
pub fn seal_with(manifest: &Manifest, trailer: Trailer, key: Option<&SigningKey>, to: &Path, body: &[u8]) -> Vec<u8> {
    let recipients = Recipients::load(&[to.to_owned()], Format::Gpg, SystemTime::now()).unwrap();
    let how = Sealing { recipients: &recipients, signer: key, format: Format::Gpg, level: 1, threads: 1 };
    seal(Vec::new(), &how, manifest, |out| {
        out.write_all(body)?;
        Ok(trailer)
    })
    .unwrap()
    .0
}

/// Returns the entries of a directory that are not hidden, sorted, or nothing if the directory is absent.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| !hidden(p)).collect();
    files.sort();
    files
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Makes the manifest of a full opaque stream with the number `seq`.
pub fn manifest(target: &str, seq: u64) -> Manifest {
    let target: Target = target.parse().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    Manifest {
        zsnap: 1,
        host: target.host,
        dataset: target.dataset,
        created: now,
        kind: PayloadKind::Opaque,
        id: format!("{seq:032x}"),
        epoch: Epoch { id: "e".repeat(32), started: 1_700_000_000 },
        seq,
        prev: None,
        base: Base::None,
        zfs: None,
    }
}

/// Returns the name of file number `seq` of a target.
pub fn name(target: &str, seq: u64) -> String {
    QueueName::new(Stamp::from_seq(seq, 1), &target.parse().unwrap(), [0; 16], false).to_string()
}
