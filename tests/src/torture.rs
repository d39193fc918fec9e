//! Queues many streams while something goes wrong, and checks afterwards that zsnap-queue has kept its promises: a
//! stream with status 0 arrives complete, a rejected one never arrives, and no incomplete file remains.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use zsnap_common::names::digest::sha256_hex;
use zsnap_message::keys::Keyring;
use zsnap_message::open::{Limits, Signers, Trust, verify};

use crate::random::{Random, noise};
use crate::scene::{Scene, files, run};
use crate::stream::{Rec, Stream, Sub};

/// The source of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// ZFS streams on standard input, each an incremental on the last one that was queued.
    Zfs,
    /// A producer with a state file. Each stream begins with the number of the stream that it is based on according to
    /// the state.
    Producer,
}

/// The target of the streams.
pub const TARGET: &str = "laptop/tank/home";

/// A series of streams for one target, delivered to `spool` (`dir:`) and to other destinations.
pub struct Play {
    /// The keys, configurations and directories.
    pub scene: Scene,
    /// The source of all random choices.
    pub random: Random,
    /// The length of each stream.
    pub bytes: usize,
    /// The options of each run.
    pub args: Vec<String>,
    source: Source,
    last: u64,
    newest_zero: u64,
    zero: BTreeSet<u64>,
    never: BTreeSet<u64>,
    by_digest: HashMap<String, u64>,
    known_whole: HashMap<PathBuf, u64>,
}

impl Play {
    /// Starts a series, in memory if possible.
    pub fn new(source: Source) -> Play {
        let scene = Scene::in_memory();
        fs::create_dir(scene.path("drop")).unwrap();
        fs::create_dir(scene.path("producer")).unwrap();
        Play {
            scene,
            random: Random::new(),
            bytes: 256 << 10,
            args: Vec::new(),
            source,
            last: 0,
            newest_zero: 0,
            zero: BTreeSet::new(),
            never: BTreeSet::new(),
            by_digest: HashMap::new(),
            known_whole: HashMap::new(),
        }
    }

    /// Adds a destination `cmd:` that writes each file into `drop` as a transport should: completely or not at all.
    pub fn also_drop(mut self) -> Play {
        let drop = self.scene.path("drop");
        let drop = drop.display();
        self.also_to(&format!(
            "cmd:cat > {drop}/tmp.$$ && sleep 0.01 && mv {drop}/tmp.$$ {drop}/$ZSNAP_FILE.$$ && echo $ZSNAP_FILE >> {drop}/order"
        ));
        self
    }

    /// Adds a destination.
    pub fn also_to(&mut self, dest: &str) {
        let text = fs::read_to_string(self.scene.path("queue.toml")).unwrap();
        let text = text.trim_end().strip_suffix(']').unwrap().to_owned() + &format!(", \"{dest}\"]\n");
        self.scene.write("queue.toml", &text);
    }

    /// Returns the number of the next stream and the command that queues it.
    pub fn command(&mut self) -> (u64, Command) {
        self.last += 1;
        let id = self.last;
        let input = self.scene.path(format!("input.{id}"));
        let mut args: Vec<String> = self.args.clone();
        match self.source {
            Source::Zfs => {
                let name = format!("tank/home@{id}");
                let sub = match self.newest_zero {
                    0 => Sub::full(&name, id),
                    base => Sub::increment(&name, base, id),
                };
                let blocks = Rec::file(noise(id, self.bytes).chunks(64 << 10));
                fs::write(&input, Stream::plain(sub.records(blocks)).bytes()).unwrap();
                args.push(TARGET.into());
            }
            Source::Producer => {
                fs::write(&input, noise(id, self.bytes)).unwrap();
                let script = format!(
                    "test -f {{state}} && cat {{state}} || echo 0; cat {} && echo {id} > {{state}}",
                    input.display()
                );
                args.extend(["--opaque".into(), format!("--producer-state={}", self.state_file().display())]);
                args.extend([TARGET, "--", "/bin/sh", "-c", &script].map(str::to_owned));
            }
        }
        self.by_digest.insert(sha256_hex(&fs::read(&input).unwrap()), id);
        let mut command = self.scene.queue_command(args);
        command.stdin(self.stdin(id)).stdout(Stdio::null()).stderr(self.errors()).process_group(0);
        (id, command)
    }

    /// Opens the standard input of the run that queues stream `id`.
    pub fn stdin(&self, id: u64) -> Stdio {
        match self.source {
            Source::Zfs => File::open(self.scene.path(format!("input.{id}"))).unwrap().into(),
            Source::Producer => Stdio::null(),
        }
    }

    fn state_file(&self) -> PathBuf {
        self.scene.path("producer/state")
    }

    /// Opens the file that collects the standard error of all runs.
    pub fn errors(&self) -> File {
        File::options().create(true).append(true).open(self.scene.path("stderr")).unwrap()
    }

    /// Returns what the runs printed on standard error since the last call.
    pub fn said(&self) -> String {
        let text = fs::read_to_string(self.scene.path("stderr")).unwrap_or_default();
        let _ = fs::remove_file(self.scene.path("stderr"));
        text
    }

    /// Starts the run that queues the next stream.
    pub fn start(&mut self) -> (u64, Child) {
        let (id, mut command) = self.command();
        (id, command.spawn().unwrap())
    }

    /// Records how the run for stream `id` ended: 0 means that the stream must arrive, a status in `refusals` that it
    /// must not. Fails with a status that is neither one of these nor in `unknown`.
    #[track_caller]
    pub fn ended(&mut self, id: u64, status: i32, refusals: &[i32], unknown: &[i32]) {
        if status == 0 {
            self.zero.insert(id);
            self.newest_zero = id;
        } else if refusals.contains(&status) {
            self.never.insert(id);
        } else {
            assert!(unknown.contains(&status), "stream {id}: status {status}; {}", self.said());
        }
        let _ = fs::remove_file(self.scene.path(format!("input.{id}")));
    }

    /// Queues a stream without a fault. Returns how long that took.
    pub fn queue(&mut self) -> Duration {
        let start = Instant::now();
        let (id, mut child) = self.start();
        let status = status(child.wait().unwrap());
        self.ended(id, status, &[], &[]);
        start.elapsed()
    }

    /// Returns the median duration of five runs.
    pub fn measure(&mut self) -> Duration {
        let mut all: Vec<_> = (0..5).map(|_| self.queue()).collect();
        all.sort();
        all[2]
    }

    /// Runs `flush`, which must not fail but may report an earlier failure (status 1).
    pub fn flush(&self) {
        let status = status(self.scene.queue_command(["flush"]).stderr(self.errors()).status().unwrap());
        assert!(status == 0 || status == 1, "flush: {status}; {}", self.said());
    }

    /// Does one of these at random: a run without a fault, `flush`, or nothing, so that the next run with a fault
    /// follows directly. Returns how long the run took.
    pub fn recover(&mut self) -> Option<Duration> {
        match self.random.below(3) {
            0 => None,
            1 => {
                self.flush();
                self.tidy(false);
                None
            }
            _ => Some(self.recover_now()),
        }
    }

    /// Makes a run without a fault, which must not leave incomplete files. Returns how long it took.
    #[track_caller]
    pub fn recover_now(&mut self) -> Duration {
        self.orphans_gone();
        let took = self.queue();
        self.tidy(true);
        took
    }

    /// Waits until a producer whose zsnap-queue was killed has ended, because it may still write its state.
    fn orphans_gone(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while alive_with(&self.state_file()) {
            assert!(Instant::now() < until, "a producer does not end");
            sleep(Duration::from_millis(1));
        }
    }

    /// Fails if there is an incomplete file or one that is still to be split. The copy of a producer's state is
    /// permitted if only `flush` ran (`copies` is false).
    #[track_caller]
    pub fn tidy(&self, copies: bool) {
        for path in walk(self.scene.path("")) {
            let name = path.file_name().unwrap().to_string_lossy();
            let is_left = copies && name.contains(".zsnap-") || name.starts_with(".zsnap-");
            assert!(!is_left || name == ".zsnap-drive", "{} was left behind", path.display());
            let split = path.starts_with(self.scene.path("queue-state/outbox/split"));
            assert!(!split, "{} is still to be split", path.display());
        }
    }

    /// Fails if a file with a final name is incomplete. Checks one in `one_in` of those that were not checked yet.
    #[track_caller]
    pub fn finals_are_whole(&mut self, one_in: u64) {
        for path in walk(self.scene.path("")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("bakfsfmt2-") && !self.known_whole.contains_key(&path) && self.random.below(one_in) == 0
            {
                self.content(&path);
            }
        }
    }

    /// Returns the number of the stream in a queue file, and that of its base (producers only). Fails if the stream is
    /// not byte for byte what was queued.
    #[track_caller]
    pub fn content(&mut self, path: &Path) -> (u64, u64) {
        let ran = run(self.scene.ingest_command(["cat"]).arg(path), b"").expect(0);
        let mut plain = ran.out.as_slice();
        let mut base = 0;
        if self.source == Source::Producer {
            let line = plain.iter().position(|b| *b == b'\n').expect("no first line");
            base = std::str::from_utf8(&plain[..line]).unwrap().parse().unwrap();
            plain = &plain[line + 1..];
        }
        let id = self.by_digest.get(&sha256_hex(plain)).copied();
        let id = id.unwrap_or_else(|| panic!("{}: not what was queued, {} bytes", path.display(), plain.len()));
        self.known_whole.insert(path.to_owned(), id);
        (id, base)
    }

    /// Calls [`Play::finish`] and [`Play::check`].
    pub fn settle(&mut self, copies: &[&Path]) {
        self.finish();
        self.check(copies);
    }

    /// Makes runs without a fault, which must deliver all waiting files and leave no incomplete ones.
    pub fn finish(&mut self) {
        self.orphans_gone();
        // `flush` delivers the files of all datasets, a run only those of its own.
        self.flush();
        self.queue();
        self.flush();
        self.tidy(true);
        let errors = self.said();
        let waiting: Vec<_> = walk(self.scene.path("queue-state/outbox/to"))
            .into_iter()
            .filter(|path| ![".lock", ".dest.json", ".told.json"].iter().any(|name| path.ends_with(name)))
            .collect();
        assert!(waiting.is_empty(), "{waiting:?} was not delivered: {errors}");
    }

    /// Fails unless every queued stream is in `spool`, complete, once and in order, and at least once in each of
    /// `copies`. A rejected stream must not be in any of them.
    pub fn check(&mut self, copies: &[&Path]) {
        let spool = self.scene.path("spool/laptop");
        let spooled = self.arrived(&spool);
        assert!(spooled.values().all(|bases| bases.len() == 1), "doubled: {spooled:?}");
        for dir in copies.iter().copied().chain([spool.as_path()]) {
            let found = self.arrived(dir);
            for id in &self.zero {
                assert!(found.contains_key(id), "stream {id} was queued, but is not in {}", dir.display());
            }
            for id in &self.never {
                assert!(!found.contains_key(id), "stream {id} was rejected, but is in {}", dir.display());
            }
        }
        chained(&self.scene);
        if self.source == Source::Producer {
            // Numbers increase, so each stream must be based on the one before it. Otherwise files would be missing.
            let mut before = 0;
            for (id, bases) in spooled {
                assert_eq!(bases, [before], "stream {id} is not based on the last one");
                before = id;
            }
            assert_eq!(fs::read_to_string(self.state_file()).unwrap().trim(), before.to_string());
        }
        eprintln!("{} of {} streams were queued, {} rejected", self.zero.len(), self.last, self.never.len());
    }

    fn arrived(&mut self, dir: &Path) -> BTreeMap<u64, Vec<u64>> {
        let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut files = walk(dir.to_owned());
        files.sort();
        let mut newest = 0;
        for path in files {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("bakfsfmt2-") {
                let (id, base) = self.content(&path);
                assert!(newest <= id, "{name} holds stream {id}, but one before it {newest}");
                newest = id;
                found.entry(id).or_default().push(base);
            }
        }
        found
    }

    /// Begins with a full stream again, because the state directory is new.
    pub fn begin_anew(&mut self) {
        self.newest_zero = 0;
    }

    /// Returns the number of rejected streams.
    pub fn refused(&self) -> u64 {
        self.never.len() as u64
    }
}

/// Fails unless the manifest of each file in `spool` names the file before it of the same dataset and epoch: no queued
/// file is missing, and no two have the same predecessor.
pub fn chained(scene: &Scene) {
    let keyring = Keyring::load(&[scene.path("backup.key")]).unwrap();
    let host = "laptop".parse().unwrap();
    let signers = Signers::load(&[("laptop".parse().unwrap(), vec![scene.path("laptop.cert")])].into()).unwrap();
    let trust = Trust {
        keyring: &keyring,
        signers: &signers,
        host: &host,
        unsigned: false,
        any_stream: false,
        now: SystemTime::now(),
    };
    let limits = Limits { verify_buffer: 64 << 20, window_log: 27, max_size: None, max_ratio: 10_000 };
    let mut before = HashMap::new();
    for path in files(&scene.path("spool/laptop")) {
        let verified = verify(File::open(&path).unwrap(), &trust, &limits).unwrap();
        let manifest = verified.manifest().unwrap();
        let prev = before.insert((manifest.dataset.to_string(), manifest.epoch.id.clone()), manifest.seq);
        assert_eq!(manifest.prev, prev, "{} does not name the file before it", path.display());
    }
}

/// Returns the exit status, or 128 + signal if a signal ended the process.
pub fn status(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|s| 128 + s)).unwrap()
}

/// Whether a child has ended. It is not waited for, so that its process number is not used again.
pub fn over(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid(child.id())), options).unwrap().is_some()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Sends a signal to a child that was not waited for, or to its process group.
pub fn send(signal: Signal, child: u32, group: bool) {
    let pid = pid(child);
    let _ = if group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
}

/// Returns the children of a process, including those that ended and were not waited for.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Whether a process with this path in its command line is running.
pub fn alive_with(path: &Path) -> bool {
    let mark = path.as_os_str().as_encoded_bytes();
    let has = |entry: fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.windows(mark.len()).any(|w| w == mark))
    };
    fs::read_dir("/proc").unwrap().any(|entry| has(entry.unwrap()))
}

/// Returns all files below a directory, including hidden ones.
pub fn walk(dir: PathBuf) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir]);
    while let Some(dir) = dirs.pop() {
        // Directories and files may be removed meanwhile.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}
