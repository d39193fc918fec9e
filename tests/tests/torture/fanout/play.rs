//! A spool and its drives while something goes wrong, and checks that zsnap-fanout keeps its promises: every file that
//! arrived is somewhere, complete, until every drive has it, and then each drive has it once.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use zsnap_common::names::digest::sha256_hex;
use zsnap_tests::nodes::{Node, Nodes};
use zsnap_tests::random::{Random, noise};
use zsnap_tests::scene::name;
use zsnap_tests::spooler::Spooler;
use zsnap_tests::torture::{alive_with, status, walk};

/// The `dir:` drives; the first one keeps delivered files, the second one verifies.
pub const DISKS: [&str; 2] = ["disk1", "disk2"];
/// The drive that keeps delivered files.
pub const KEEPS: &str = DISKS[0];
/// The drive behind NNCP, which is also the name of its node.
const FAR: &str = "far";
/// The NNCP node that sends to it.
const NEAR: &str = "near";
/// The directory in which that drive's files arrive.
const INCOMING: &str = "incoming";

/// The targets of the files. The name of one looks like a copy of another.
pub const TARGETS: [&str; 5] =
    ["laptop/tank/home", "laptop/tank/v1", "laptop/tank/v1.0", "other/tank/db", "other/tank/db/logs"];

/// The content that arrived under a name: `HOST/NAME`, and the digest of the bytes.
type Content = (String, String);

/// The counts of a content.
#[derive(Debug, Default)]
struct Came {
    /// How often it arrived.
    times: u64,
    /// How often NNCP got it.
    handed: u64,
}

/// The spool and its drives.
pub struct Play {
    pub scene: Spooler,
    pub random: Random,
    /// How often something was killed.
    pub kills: u64,
    nodes: Option<Nodes>,
    seq: u64,
    came: BTreeMap<Content, Came>,
    /// The names that arrived, newest last, and from which noise their contents were made.
    names: Vec<(String, Vec<(u64, usize)>)>,
    /// Digests of files that were read, by device, inode, length and time of modification.
    known: HashMap<[i128; 4], String>,
}

impl Play {
    /// Creates a play with the two disks only.
    pub fn without_nncp() -> Play {
        let scene = Spooler::in_memory();
        for disk in DISKS {
            scene.drive(disk, if disk == KEEPS { "keep = \"14d\"" } else { "verify = true" });
        }
        for host in ["laptop", "other"] {
            fs::create_dir(scene.path("spool").join(host)).unwrap();
        }
        let (seq, came, names) = (1_700_000_000_000_000, BTreeMap::new(), Vec::new());
        Play { scene, random: Random::new(), kills: 0, nodes: None, seq, came, names, known: HashMap::new() }
    }

    /// Creates a play that also has a drive behind NNCP, if NNCP is installed.
    pub fn new() -> Play {
        let mut play = Play::without_nncp();
        let incoming = play.scene.path(INCOMING);
        fs::create_dir(&incoming).unwrap();
        let knows = [(NEAR, format!("incoming: {}\n", incoming.display()))];
        let near = Node { name: NEAR, knows: &[(FAR, String::new())], more: "" };
        play.nodes = Nodes::new(&play.scene.path(""), &[near, Node { name: FAR, knows: &knows, more: "" }]);
        if let Some(nodes) = &play.nodes {
            let config = format!("nncp-config = \"{}\"", nodes.config(NEAR).display());
            play.scene.to(FAR, &format!("nncp-file:{FAR}"), &config);
        }
        play
    }

    /// The names of all drives.
    pub fn drives(&self) -> impl Iterator<Item = &'static str> + use<> {
        DISKS.into_iter().chain(self.nodes.is_some().then_some(FAR))
    }

    /// A path in the state of zsnap-fanout.
    pub fn state(&self, name: &str) -> PathBuf {
        self.scene.path("spool/.zsnap-fanout").join(name)
    }

    /// Puts a complete file into the spool atomically, as NNCP does. Returns `false` if one of this name is still
    /// there.
    fn put(&mut self, path: &str, (id, length): (u64, usize)) -> bool {
        let to = self.scene.path("spool").join(path);
        let new = to.with_file_name(".new");
        let bytes = noise(id, length);
        fs::write(&new, &bytes).unwrap();
        if renameat_with(CWD, &new, CWD, &to, RenameFlags::NOREPLACE).is_err() {
            return false;
        }
        self.came.entry((path.to_owned(), sha256_hex(&bytes))).or_default().times += 1;
        let before = self.names.iter().position(|(name, _)| name == path).map(|at| self.names.remove(at).1);
        let mut all = before.unwrap_or_default();
        all.push((id, length));
        self.names.push((path.to_owned(), all));
        true
    }

    /// Puts a file with a new name into the spool.
    pub fn new_file(&mut self, target: &str, length: usize) {
        self.seq += 1_000_000;
        let path = format!("{}/{}", target.split('/').next().unwrap(), name(target, self.seq));
        assert!(self.put(&path, (self.seq, length)));
    }

    /// Puts a file with one of the newest names into the spool again, with the same bytes or with others.
    pub fn again(&mut self) {
        let some = self.names.len().min(8) as u64;
        if some == 0 {
            return;
        }
        let (path, all) = self.names[self.names.len() - 1 - self.random.below(some) as usize].clone();
        let noise = match self.random.below(3) {
            0 => (self.random.number(), 100),
            _ => all[self.random.below(all.len() as u64) as usize],
        };
        self.put(&path, noise);
    }

    /// Puts some files into the spool: empty, of one byte, small, large, and some that arrived before.
    pub fn some(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let target = TARGETS[self.random.below(TARGETS.len() as u64) as usize];
            let bytes = match self.random.below(40) {
                0 => 3 << 20,
                1..5 => 100 << 10,
                5..8 => 0,
                8..11 => 1,
                _ => 4000,
            };
            self.new_file(target, bytes);
        }
        for _ in 0..self.random.below(3) {
            self.again();
        }
    }

    /// Unplugs a disk or plugs it in again.
    pub fn plug(&self, disk: &str, here: bool) {
        self.scene.mark(disk, if here { disk } else { "another" });
    }

    /// Removes a disk from the configuration.
    pub fn unconfigure(&self, disk: &str) {
        let text = self.scene.config();
        let mut tables: Vec<_> = text.split("[to.").collect();
        tables.retain(|table| !table.starts_with(disk));
        self.scene.write("fanout.toml", &tables.join("[to."));
    }

    /// The command of a run or another verb, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scene.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.errors());
        command
    }

    /// The file for the standard error of all runs.
    pub fn errors(&self) -> File {
        File::options().create(true).append(true).open(self.scene.path("stderr")).unwrap()
    }

    /// What was printed on standard error since the last call.
    pub fn messages(&self) -> String {
        let text = fs::read_to_string(self.scene.path("stderr")).unwrap_or_default();
        let _ = fs::remove_file(self.scene.path("stderr"));
        text
    }

    /// Starts a run or another verb.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// Runs a command undisturbed and asserts its status.
    #[track_caller]
    pub fn run_undisturbed(&self, args: &[&str], expected: i32) {
        let status = status(self.command(args).status().unwrap());
        let messages = self.messages();
        assert_eq!(status, expected, "{args:?}: {messages}");
        assert!(status != 0 || messages.is_empty(), "{args:?}: status 0, but: {messages}");
    }

    /// Waits until the children of killed runs have ended.
    pub fn wait_for_orphans(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.nodes.as_ref().is_some_and(|nodes| alive_with(&nodes.config(NEAR))) {
            assert!(Instant::now() < until, "an nncp-file does not end");
            sleep(Duration::from_millis(1));
        }
        // A killed process, or a fork that has not called exec yet, may hold a lock for a moment, and a run that finds
        // it held leaves the work to its holder.
        let is_lock = |path: &PathBuf| path.ends_with("lock") || path.ends_with(".lock");
        let locks = walk(self.scene.path("spool/.zsnap-fanout")).into_iter().filter(is_lock);
        locks.for_each(|lock| flock(File::open(lock).unwrap(), FlockOperation::LockExclusive).unwrap());
    }

    /// The name under which a file arrived whose name may now have one or more suffixes `.N` or `~N`.
    fn came_as(&self, host: &str, name: &str) -> String {
        let mut path = format!("{host}/{name}");
        let came = |path: &String| {
            self.came.range((path.clone(), String::new())..).next().is_some_and(|((first, _), _)| first == path)
        };
        while !came(&path) {
            let shorter = path.rsplit_once(['.', '~']).filter(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
            path = shorter.unwrap_or_else(|| panic!("{host}/{name} never came")).0.to_owned();
        }
        path
    }

    /// The contents of the queue files below `dir`, in the directories of their hosts, with their paths. Asserts that
    /// every such file is, to the byte, one that arrived under that name.
    #[track_caller]
    pub fn there(&mut self, dir: &Path) -> BTreeMap<Content, Vec<PathBuf>> {
        let mut there: BTreeMap<Content, Vec<PathBuf>> = BTreeMap::new();
        for path in walk(dir.to_owned()) {
            let [host, file] = [path.parent().unwrap(), &path].map(|p| p.file_name().unwrap().to_str().unwrap());
            if !file.starts_with("bakfsfmt2-") {
                continue;
            }
            let meta = path.symlink_metadata().unwrap();
            let time = i128::from(meta.mtime()) << 64 | i128::from(meta.mtime_nsec());
            let key = [meta.dev().into(), meta.ino().into(), meta.len().into(), time];
            let digest = self.known.entry(key).or_insert_with(|| sha256_hex(&fs::read(&path).unwrap())).clone();
            let content = (self.came_as(host, file), digest);
            assert!(self.came.contains_key(&content), "{}: no such bytes came, {} bytes", path.display(), meta.len());
            there.entry(content).or_default().push(path);
        }
        there
    }

    /// Unpacks the files that NNCP got and counts them.
    #[track_caller]
    fn toss(&mut self) {
        let Some(nodes) = &self.nodes else { return };
        nodes.pass(NEAR, FAR);
        nodes.toss(FAR).expect(0);
        assert!(nodes.received(FAR, NEAR).is_empty(), "not tossed");
        for (content, paths) in self.there(&self.scene.path(INCOMING)) {
            self.came.get_mut(&content).unwrap().handed += paths.len() as u64;
            paths.iter().for_each(|path| fs::remove_file(path).unwrap());
        }
    }

    /// The queue files that are not delivered yet.
    pub fn waiting(&self) -> Vec<PathBuf> {
        let gone = ["kept", "retired"].map(|dir| self.state(dir));
        let mut waiting = walk(self.scene.path("spool"));
        waiting.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("bakfsfmt2-") && !gone.iter().any(|dir| path.starts_with(dir))
        });
        waiting
    }

    /// Asserts, while no run is in progress, that each file that arrived is in the spool, in `split`, or, for each
    /// drive, in its outbox or on the drive (and then, where this is promised, among the kept files); and on each disk
    /// at most once.
    #[track_caller]
    pub fn assert_nothing_lost(&mut self, what: &str) {
        self.wait_for_orphans();
        // In the spool and in `split` a file has its own name.
        let (spool, split) = (self.scene.path("spool"), self.state("split"));
        let mut safe = self.there(&split);
        for host in ["laptop", "other"] {
            safe.extend(self.there(&spool.join(host)));
        }
        let mut tossed = false;
        for drive in self.drives() {
            let waiting = self.there(&self.state("out").join(drive));
            let disk = (drive != FAR).then(|| self.there(&self.scene.path(drive)));
            let kept = (drive == KEEPS).then(|| self.there(&self.state("kept").join(drive)));
            let contents: Vec<_> = self.came.keys().cloned().collect();
            for content in contents {
                let copies = disk.as_ref().and_then(|disk| disk.get(&content));
                assert!(copies.is_none_or(|copies| copies.len() == 1), "{what}: doubled: {copies:?}");
                if safe.contains_key(&content) || waiting.contains_key(&content) {
                    continue;
                }
                if drive == FAR && self.came[&content].handed == 0 && !tossed {
                    self.toss();
                    tossed = true;
                }
                let has = if drive == FAR { self.came[&content].handed > 0 } else { copies.is_some() };
                assert!(has, "{what}: {content:?} is neither in the outbox of {drive} nor on it: {}", self.messages());
                let is_kept = kept.as_ref().is_none_or(|kept| kept.contains_key(&content));
                assert!(is_kept, "{what}: {content:?} was delivered to {drive}, but is not kept: {}", self.messages());
            }
        }
    }

    /// Asserts that one undisturbed run delivers everything and leaves no temporary files. Returns how long it took.
    #[track_caller]
    pub fn recover(&mut self, what: &str) -> Duration {
        self.wait_for_orphans();
        DISKS.iter().for_each(|disk| self.plug(disk, true));
        let before = self.messages();
        let start = Instant::now();
        let ran = status(self.command(&[]).status().unwrap());
        let length = start.elapsed();
        let messages = self.messages();
        assert!(ran == 0 && messages.is_empty(), "{what} ({before}): then status {ran}: {messages}");
        self.all_delivered(what);
        length
    }

    /// Asserts that each disk has each file once, under its own name or `NAME.N`, and that nothing waits or was left
    /// behind.
    #[track_caller]
    pub fn all_delivered(&mut self, what: &str) {
        for path in walk(self.scene.path("")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let temporary = name.starts_with(".zsnap-") && name != ".zsnap-drive";
            assert!(!temporary, "{what}: {} was left behind", path.display());
        }
        assert!(self.waiting().is_empty(), "{what}: still waiting: {:?}", self.waiting());
        self.assert_nothing_lost(what);
        for disk in DISKS {
            let there = self.there(&self.scene.path(disk));
            assert_eq!(there.len(), self.came.len(), "{what}: {disk} lacks files");
            for (path, _) in &self.names {
                assert!(self.scene.path(disk).join(path).exists(), "{what}: {disk} has no {path}");
            }
        }
    }

    /// Checks everything again at the end, and that NNCP got each file at least once and in all at most one more for
    /// each kill. Returns how many more files NNCP got than arrived.
    #[track_caller]
    pub fn end(&mut self) -> u64 {
        self.known.clear();
        self.recover("the end");
        self.toss();
        if self.nodes.is_none() {
            return 0;
        }
        let mut more = 0;
        for (content, came) in &self.came {
            assert!(came.handed > 0, "NNCP never got {content:?}");
            more += came.handed.saturating_sub(came.times);
        }
        assert!(more <= self.kills, "NNCP got {more} more, after {} kills", self.kills);
        more
    }
}
