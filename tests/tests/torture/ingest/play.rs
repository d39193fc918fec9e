//! Delivers files to a zsnap-ingest that is disturbed, and checks that it keeps its promises.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use zsnap_tests::random::Random;
use zsnap_tests::scene::{Scene, files, name};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::stream::{Rec, Sub};
use zsnap_tests::torture::{alive_with, status, walk};

/// The targets of the hosts: the second one waits for its parent, the first; the third one's parent is created.
pub const TARGETS: [&str; 3] = ["laptop/tank/home", "laptop/tank/home/joe", "other/tank/db"];
/// The target of a command, which must receive each stream only once.
const COMMAND: &str = "laptop/etc";

/// A file that was delivered.
#[derive(Clone, Debug)]
enum Sent {
    /// The snapshots of a target up to that number.
    Zfs(usize, usize),
    /// A stream for the command.
    Opaque,
    /// A file that must not be applied.
    Bad,
}

/// The hosts and the backup server.
pub struct Play {
    pub scene: Scene,
    pub random: Random,
    sealer: Sealer,
    /// Guids of each target's snapshots, as they were sent.
    pub chains: [Vec<u64>; 3],
    /// The number of snapshots of each target that were seen on the pool.
    seen: [usize; 3],
    seq: u64,
    prev: BTreeMap<&'static str, u64>,
    /// The delivered files that were not yet seen to be removed.
    sent: BTreeMap<PathBuf, Sent>,
}

impl Play {
    /// Creates a scene in which nothing was sent yet.
    pub fn new() -> Play {
        let scene = Scene::with_pool();
        let target = scene.path("target").display().to_string();
        let command = format!(
            "cat > {target}/new.$$ && test -s {target}/new.$$ && mv {target}/new.$$ {target}/done.$ZSNAP_FILE.$$"
        );
        scene.edit("ingest.toml", &format!("cat >> {target}/all"), &command);
        // One key signs for all hosts here.
        scene.edit("ingest.toml", "other.cert", "laptop.cert");
        let sealer = Sealer::new(&scene);
        let (chains, prev) = (Default::default(), BTreeMap::new());
        let seq = 1_700_000_000_000_000;
        Play { scene, random: Random::new(), sealer, chains, seen: [0; 3], seq, prev, sent: BTreeMap::new() }
    }

    /// Delivers a file under a temporary name first.
    fn deliver(&mut self, target: &str, bytes: &[u8], what: Sent) -> PathBuf {
        let host = target.split('/').next().unwrap();
        let name = name(target, self.seq);
        let hidden = self.scene.deliver(host, ".zsnap-new", bytes);
        let path = hidden.with_file_name(name);
        fs::rename(hidden, &path).unwrap();
        self.sent.insert(path.clone(), what);
        path
    }

    /// The number of the next file of a target, and that of the previous one.
    fn next(&mut self, target: &'static str) -> (u64, Option<u64>) {
        self.seq += 1_000_000;
        (self.seq, self.prev.insert(target, self.seq))
    }

    /// Seals the next snapshots of a target in one queue file without delivering it.
    pub fn sealed(&mut self, of: usize, snapshots: usize) -> Vec<u8> {
        let (seq, prev) = self.next(TARGETS[of]);
        let fs = TARGETS[of].split_once('/').unwrap().1;
        let subs: Vec<Sub> = (0..snapshots)
            .map(|_| {
                let from = self.chains[of].last().copied().unwrap_or(0);
                let to = self.random.number() | 1;
                self.chains[of].push(to);
                let data = Rec::file([&to.to_le_bytes().repeat(64)[..]]);
                Sub::increment(&format!("{fs}@s{}", self.chains[of].len()), from, to).records(data)
            })
            .collect();
        self.sealer.zfs(TARGETS[of], seq, prev, subs, snapshots > 1)
    }

    /// Delivers the next snapshots of a target in one file.
    pub fn zfs(&mut self, of: usize, snapshots: usize) -> PathBuf {
        let bytes = self.sealed(of, snapshots);
        self.deliver(TARGETS[of], &bytes, Sent::Zfs(of, self.chains[of].len()))
    }

    /// Delivers the next stream for the command.
    pub fn opaque(&mut self) -> PathBuf {
        let (seq, prev) = self.next(COMMAND);
        let bytes = self.sealer.opaque(COMMAND, seq, prev, format!("stream {seq}").as_bytes());
        self.deliver(COMMAND, &bytes, Sent::Opaque)
    }

    /// Delivers a file that must be quarantined.
    pub fn bad(&mut self) -> PathBuf {
        self.seq += 1_000_000;
        self.deliver(TARGETS[0], b"nothing that was ever encrypted", Sent::Bad)
    }

    /// Delivers another copy of a waiting file.
    pub fn again(&mut self) {
        let Some((path, what)) = self.sent.iter().next().map(|(path, what)| (path.clone(), what.clone())) else {
            return;
        };
        let Ok(bytes) = fs::read(&path) else { return };
        let copy = path.with_file_name(format!("{}.0", path.file_name().unwrap().to_string_lossy()));
        if !copy.exists() && !matches!(what, Sent::Bad) {
            fs::write(&copy, bytes).unwrap();
            self.sent.insert(copy, what);
        }
    }

    /// Delivers some files of random kinds.
    pub fn some(&mut self) {
        for of in 0..3 {
            if self.random.below(2) == 0 {
                let snapshots = 1 + self.random.below(3) as usize;
                self.zfs(of, snapshots);
            }
        }
        if self.random.below(3) == 0 {
            self.opaque();
        }
        match self.random.below(8) {
            0 => drop(self.bad()),
            1 | 2 => self.again(),
            _ => {}
        }
    }

    /// Destroys the datasets of the host `other` and lets it start again with a full stream.
    pub fn other_anew(&mut self) {
        let _ = self.scene.zfs(&["destroy", "-r", "backup/hosts/other"]);
        self.chains[2].clear();
        self.seen[2] = 0;
        self.prev.remove(TARGETS[2]);
    }

    /// The command of a run, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scene.ingest_command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.errors());
        command
    }

    /// The file for the standard error of a run.
    pub fn errors(&self) -> File {
        File::create(self.scene.path("stderr")).unwrap()
    }

    /// What the last run printed on standard error.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.scene.path("stderr")).unwrap()
    }

    /// The number of snapshots of a target on the pool. Asserts that they are the first ones that were sent, in
    /// order, each once.
    #[track_caller]
    pub fn on_pool(&self, of: usize) -> usize {
        let dataset = format!("backup/hosts/{}", TARGETS[of]);
        let args = ["list", "-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", "guid", &dataset];
        let ran = self.scene.zfs(&args);
        let guids: Vec<u64> = String::from_utf8(ran.out).unwrap().lines().map(|l| l.parse().unwrap()).collect();
        assert!(self.chains[of].starts_with(&guids), "{dataset}: {guids:?} of {:?}", self.chains[of]);
        guids.len()
    }

    /// Whether the journal contains a snapshot of a target.
    pub fn in_journal(&self, of: usize, number: usize) -> bool {
        let (host, dataset) = TARGETS[of].split_once('/').unwrap();
        let path = format!("journal/{host}/{}.json", dataset.replace('/', "@"));
        let text = fs::read_to_string(self.pool_state().join(path)).unwrap_or_default();
        text.contains(&format!("{:016x}", self.chains[of][number - 1]))
    }

    /// The state directory of the pool.
    pub fn pool_state(&self) -> PathBuf {
        let state = self.scene.path("ingest-state");
        let dirs = fs::read_dir(&state).into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut pools = dirs.filter(|dir| dir.is_dir() && dir.file_name().unwrap().len() == 16);
        pools.next().unwrap_or_else(|| state.join("none"))
    }

    /// The lines of needed-guids; `None` if it is absent.
    pub fn needed(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.pool_state().join("needed-guids")).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let end = format!("end {}", lines.len() - 2);
        assert!(text.ends_with(&format!("{end}\n")), "{text}");
        Some(lines)
    }

    /// Whether needed-guids says that it is complete.
    pub fn complete(&self) -> bool {
        self.needed().is_some_and(|lines| lines[0].ends_with(" complete"))
    }

    /// How often the command received a file.
    pub fn times_applied(&self, path: &std::path::Path) -> usize {
        let name = path.file_name().unwrap().to_string_lossy().to_string();
        // This also holds for a copy of a copy.
        let base = name.trim_end_matches(".0");
        let done = files(&self.scene.path("target"));
        done.iter()
            .filter(|path| path.file_name().unwrap().to_string_lossy().to_string().starts_with(&format!("done.{base}")))
            .count()
    }

    /// The command's journal entry of the last stream.
    pub fn command_journal(&self) -> serde_json::Value {
        let text = fs::read(self.scene.path(".zsnap/target.json")).unwrap_or_else(|_| b"{}".to_vec());
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()[COMMAND].clone()
    }

    /// The number of the file that may have been applied.
    fn being_applied(&self) -> Option<u64> {
        let journal = self.command_journal();
        if journal["applying"] == true { journal["seq"].as_u64() } else { None }
    }

    /// Waits until all processes have ended that a killed run started. One may even be a fork of the run that has not
    /// called exec yet and holds the lock until then.
    pub fn wait_for_orphans(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while alive_with(&self.scene.path("")) {
            assert!(Instant::now() < until, "a receiver does not end");
            sleep(Duration::from_millis(1));
        }
    }

    /// Asserts what must hold whenever no run is in progress.
    #[track_caller]
    pub fn check(&mut self, what: &str) {
        let now = [0, 1, 2].map(|of| self.on_pool(of));
        for of in 0..3 {
            assert!(now[of] >= self.seen[of], "{what}: {} has lost a snapshot", TARGETS[of]);
        }
        self.seen = now;
        let gone: Vec<_> =
            self.sent.iter().filter(|(path, _)| !path.exists()).map(|(p, s)| (p.clone(), s.clone())).collect();
        for (path, sent) in gone {
            let name = path.file_name().unwrap().to_string_lossy().to_string();
            match sent {
                Sent::Zfs(of, number) => {
                    assert!(now[of] >= number, "{what}: {name} was removed, but not received");
                    assert!(self.in_journal(of, number), "{what}: {name} was removed, but is not in the journal");
                }
                Sent::Opaque => {
                    assert_eq!(self.times_applied(&path), 1, "{what}: {name} was removed, but not applied once")
                }
                Sent::Bad => {
                    let bad = self.scene.path("spool/.zsnap-quarantine/laptop");
                    let there = files(&bad).iter().filter(|path| path.display().to_string().contains(&name)).count();
                    let explained = bad.join(&name).exists() && bad.join(format!("{name}.why.json")).exists();
                    assert!(explained && there == 2, "{what}: {name} was removed, but is not in quarantine once");
                }
            }
            self.sent.remove(&path);
        }
        for path in self.sent.keys() {
            assert!(self.times_applied(path) <= 1, "{what}: {} was applied twice", path.display());
        }
        if let Some(lines) = self.needed().filter(|_| self.complete()) {
            for (of, target) in TARGETS.iter().enumerate().filter(|(of, _)| now[*of] > 0) {
                let newest = format!("{:016x} {target}", self.chains[of][now[of] - 1]);
                let covered = [newest, format!("all {target}"), format!("all {}", target.split('/').next().unwrap())];
                assert!(covered.iter().any(|line| lines.contains(line)), "{what}: complete too early: {lines:#?}");
            }
        }
    }

    /// Waits for what a killed run started, and decides, as the operator does, whether its command's stream was applied.
    #[track_caller]
    pub fn settle(&self, what: &str) {
        self.wait_for_orphans();
        if let Some(seq) = self.being_applied() {
            // The operator decides whether the stream was applied.
            let path = self.scene.path("spool/laptop").join(name(COMMAND, seq));
            let verdict = if self.times_applied(&path) > 0 { "--applied" } else { "--not-applied" };
            let ran = status(self.command(&["forget", COMMAND, verdict]).status().unwrap());
            assert_eq!(ran, 0, "{what}: forget: {}", self.messages());
        }
    }

    /// Runs zsnap-ingest undisturbed and asserts that it applies everything. Returns how long that took.
    #[track_caller]
    pub fn recover(&mut self, what: &str) -> Duration {
        self.settle(what);
        let start = Instant::now();
        let ran = status(self.command(&["-v"]).status().unwrap());
        let length = start.elapsed();
        let messages = format!("status {ran}: {}", self.messages());
        assert!(ran <= 1 && !messages.contains("panicked"), "{what}: then {messages}");
        self.check(what);
        for (of, target) in TARGETS.iter().enumerate() {
            let (there, sent) = (self.on_pool(of), self.chains[of].len());
            assert_eq!(there, sent, "{what}: {target} is not complete: {messages}");
        }
        assert!(self.sent.is_empty(), "{what}: left: {:?}: {messages}", self.sent);
        assert!(self.complete(), "{what}: needed-guids is not complete");
        for path in walk(self.scene.path("")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let temporary = name.starts_with(".zsnap-") && name != ".zsnap-drive";
            assert!(!temporary, "{what}: {} was left behind", path.display());
        }
        length
    }
}
