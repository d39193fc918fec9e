//! A spool and its drives, while something goes wrong; and whether zsnap-fanout has kept its
//! promises: every file that came is somewhere, whole, until every drive has it, and then each
//! drive has it once.

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

/// Drives of the sort `dir:`; the first one keeps, the second one verifies.
pub const DISKS: [&str; 2] = ["disk1", "disk2"];
/// The one that keeps.
pub const KEEPS: &str = DISKS[0];
/// The drive behind NNCP, which is a node of that name.
const FAR: &str = "far";
/// The node that sends to it.
const NEAR: &str = "near";
/// Where that drive's files arrive.
const INCOMING: &str = "incoming";

/// Whose files come. One looks like a copy of another.
pub const TARGETS: [&str; 5] =
    ["laptop/tank/home", "laptop/tank/v1", "laptop/tank/v1.0", "other/tank/db", "other/tank/db/logs"];

/// What came under a name: `HOST/NAME`, and the digest of the bytes.
type Content = (String, String);

/// What happened to it.
#[derive(Debug, Default)]
struct Came {
    /// So many times it came.
    times: u64,
    /// So many times NNCP was given it.
    handed: u64,
}

/// The spool and its drives.
pub struct Play {
    pub scene: Spooler,
    pub random: Random,
    /// So many times something was killed.
    pub kills: u64,
    nodes: Option<Nodes>,
    seq: u64,
    came: BTreeMap<Content, Came>,
    /// The names that came, newest last, and from which noise all that came under them was made.
    names: Vec<(String, Vec<(u64, usize)>)>,
    /// Digests of files that were looked at, by device, inode, length and times.
    known: HashMap<[i128; 4], String>,
}

impl Play {
    /// With the two disks only.
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

    /// With a drive behind NNCP as well, if there is NNCP.
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

    /// All drives.
    pub fn drives(&self) -> impl Iterator<Item = &'static str> + use<> {
        DISKS.into_iter().chain(self.nodes.is_some().then_some(FAR))
    }

    /// A path in what zsnap-fanout keeps.
    pub fn state(&self, name: &str) -> PathBuf {
        self.scene.path("spool/.zsnap-fanout").join(name)
    }

    /// Puts a file into the spool, whole and at once, as NNCP does; `false`: one of this name lies
    /// there still.
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

    /// A file of a new name.
    pub fn new_file(&mut self, target: &str, length: usize) {
        self.seq += 1_000_000;
        let path = format!("{}/{}", target.split('/').next().unwrap(), name(target, self.seq));
        assert!(self.put(&path, (self.seq, length)));
    }

    /// One of the newest names comes again: with bytes that it had, or with others.
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

    /// Some files: empty, of one byte, small, large, and such as came before.
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

    /// A disk is unplugged, or is there again.
    pub fn plug(&self, disk: &str, here: bool) {
        self.scene.mark(disk, if here { disk } else { "another" });
    }

    /// Takes a disk from the configuration.
    pub fn unconfigure(&self, disk: &str) {
        let text = self.scene.config();
        let mut tables: Vec<_> = text.split("[to.").collect();
        tables.retain(|table| !table.starts_with(disk));
        self.scene.write("fanout.toml", &tables.join("[to."));
    }

    /// A run, or another verb, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scene.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.errors());
        command
    }

    /// Standard error of all runs.
    pub fn errors(&self) -> File {
        File::options().create(true).append(true).open(self.scene.path("stderr")).unwrap()
    }

    /// What was said on standard error since the last call.
    pub fn said(&self) -> String {
        let text = fs::read_to_string(self.scene.path("stderr")).unwrap_or_default();
        let _ = fs::remove_file(self.scene.path("stderr"));
        text
    }

    /// Starts a run, or another verb.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// Does it undisturbed, with that status.
    #[track_caller]
    pub fn done(&self, args: &[&str], expected: i32) {
        let status = status(self.command(args).status().unwrap());
        let said = self.said();
        assert_eq!(status, expected, "{args:?}: {said}");
        assert!(status != 0 || said.is_empty(), "{args:?}: 0, but: {said}");
    }

    /// A child of a run that was killed goes on, and ends.
    pub fn orphans_gone(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.nodes.as_ref().is_some_and(|nodes| alive_with(&nodes.config(NEAR))) {
            assert!(Instant::now() < until, "an nncp-file does not end");
            sleep(Duration::from_millis(1));
        }
        // One that died, or that has not become its own program yet, may hold a lock for a moment more,
        // and whoever finds it held leaves the work to its holder.
        let is_lock = |path: &PathBuf| path.ends_with("lock") || path.ends_with(".lock");
        let locks = walk(self.scene.path("spool/.zsnap-fanout")).into_iter().filter(is_lock);
        locks.for_each(|lock| flock(File::open(lock).unwrap(), FlockOperation::LockExclusive).unwrap());
    }

    /// The name under which a file came whose name may end in `.N` or `~N` now, or in several.
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

    /// The files below `dir`, in a directory of their host each: what they are, and where. Every
    /// file under a queue file's name must be, to the byte, one that came under that name.
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

    /// Unpacks what NNCP was given, and counts it.
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

    /// The queue files that are not yet where they are to go.
    pub fn waiting(&self) -> Vec<PathBuf> {
        let gone = ["kept", "retired"].map(|dir| self.state(dir));
        let mut waiting = walk(self.scene.path("spool"));
        waiting.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("bakfsfmt2-") && !gone.iter().any(|dir| path.starts_with(dir))
        });
        waiting
    }

    /// No run is in progress. Each file that came must be in the spool, in `split`, or for each drive in
    /// its outbox or on the drive (and then, where this is promised, among what is kept); and on
    /// each disk once at most.
    #[track_caller]
    pub fn nothing_lost(&mut self, what: &str) {
        self.orphans_gone();
        // A file is somewhere under its name as soon as it is anywhere.
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
                assert!(has, "{what}: {content:?} is neither in the outbox of {drive} nor on it: {}", self.said());
                let is_kept = kept.as_ref().is_none_or(|kept| kept.contains_key(&content));
                assert!(is_kept, "{what}: {content:?} was delivered to {drive}, but is not kept: {}", self.said());
            }
        }
    }

    /// One undisturbed run, in which nothing goes wrong, brings everything to its end, and leaves
    /// nothing half-made. How long it took.
    #[track_caller]
    pub fn recover(&mut self, what: &str) -> Duration {
        self.orphans_gone();
        DISKS.iter().for_each(|disk| self.plug(disk, true));
        let before = self.said();
        let start = Instant::now();
        let ran = status(self.command(&[]).status().unwrap());
        let length = start.elapsed();
        let said = self.said();
        assert!(ran == 0 && said.is_empty(), "{what} ({before}): then status {ran}: {said}");
        self.all_delivered(what);
        length
    }

    /// Each disk has each file once, under its own name or `NAME.N`, and nothing waits or was left
    /// behind; NNCP was given each at least once, and in all at most one more for each death.
    #[track_caller]
    pub fn all_delivered(&mut self, what: &str) {
        for path in walk(self.scene.path("")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let temporary = name.starts_with(".zsnap-") && name != ".zsnap-drive";
            assert!(!temporary, "{what}: {} was left behind", path.display());
        }
        assert!(self.waiting().is_empty(), "{what}: still waiting: {:?}", self.waiting());
        self.nothing_lost(what);
        for disk in DISKS {
            let there = self.there(&self.scene.path(disk));
            assert_eq!(there.len(), self.came.len(), "{what}: {disk} lacks files");
            for (path, _) in &self.names {
                assert!(self.scene.path(disk).join(path).exists(), "{what}: {disk} has no {path}");
            }
        }
    }

    /// The end: everything is looked at again. How often NNCP was given a file more than it came.
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
            assert!(came.handed > 0, "NNCP was never given {content:?}");
            more += came.handed.saturating_sub(came.times);
        }
        assert!(more <= self.kills, "NNCP was given {more} more, after {} deaths", self.kills);
        more
    }
}
