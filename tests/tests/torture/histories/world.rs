//! Several histories in one incoming directory, with one zsnap-ingest and one pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use zsnap_tests::random::Random;
use zsnap_tests::scene::{Scene, files};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::torture::{alive_with, children, over, send, status, walk};

use super::model::{Dataset, File};
use super::sender::{Sender, Snapshot as Sent};

/// The number of rounds of a history.
const ROUNDS: u64 = 5;

/// The counts of what happened.
#[derive(Debug, Default)]
pub struct Counts {
    pub files: usize,
    pub snapshots: usize,
    pub stayed: usize,
    pub runs: usize,
    pub killed: usize,
}

/// One dataset of a host, from its source to its target.
struct Line {
    sender: Sender,
    /// The files in transit: the round in which each arrives, and its content.
    transit: Vec<(u64, File, Vec<u8>)>,
    /// The files in the incoming directory.
    here: Vec<File>,
    model: Dataset,
}

impl Line {
    /// Its name on the pool.
    fn name(&self) -> String {
        format!("backup/hosts/{}", self.sender.target)
    }

    /// The target whose dataset must exist first.
    fn parent(&self) -> Option<&str> {
        let parent = self.sender.target.rsplit_once('/').unwrap().0;
        parent.contains("/tank/").then_some(parent)
    }
}

/// The lines of needed-guids.
struct Needed(BTreeSet<String>);

impl Needed {
    /// Whether the list keeps a snapshot.
    fn keeps(&self, line: &Line, number: usize) -> bool {
        let target = &line.sender.target;
        let host = target.split('/').next().unwrap();
        let guid = line.sender.snapshots[number].guid;
        let lines = [format!("{guid:016x} {target}"), format!("all {target}"), format!("all {host}")];
        lines.iter().any(|line| self.0.contains(line))
    }
}

/// All histories.
pub struct World {
    scene: Scene,
    random: Random,
    sealer: Sealer,
    /// The datasets by host.
    hosts: BTreeMap<String, Vec<Line>>,
    round: u64,
    length: Duration,
    counts: Counts,
}

impl World {
    /// Creates histories of three hosts each.
    pub fn new(histories: usize, mut random: Random) -> World {
        let scene = Scene::with_pool();
        fs::remove_dir_all(scene.path("spool")).unwrap();
        let mut config = fs::read_to_string(scene.path("ingest.toml")).unwrap();
        let cert = scene.path("laptop.cert");
        let mut hosts = BTreeMap::new();
        for host in (0..histories).flat_map(|n| ["a", "b", "c"].map(|host| format!("h{n}{host}"))) {
            fs::create_dir_all(scene.path("spool").join(&host)).unwrap();
            config += &format!("[hosts.{host}]\nsigners = [\"{}\"]\ncreate-parents = [\"tank\"]\n", cert.display());
            let all = ["tank/home", "tank/home/joe", "tank/vm"];
            let datasets = match random.below(4) {
                0 => &all[..1],
                1 => &all[..2],
                2 => &all[2..],
                _ => &all[1..],
            };
            let line = |dataset: &&str| Line {
                sender: Sender::new(&format!("{host}/{dataset}"), &mut random),
                transit: Vec::new(),
                here: Vec::new(),
                model: Dataset::default(),
            };
            hosts.insert(host.clone(), datasets.iter().map(line).collect());
        }
        scene.write("ingest.toml", &config);
        let sealer = Sealer::new(&scene);
        let length = Duration::from_secs(1);
        World { scene, random, sealer, hosts, round: 0, length, counts: Counts::default() }
    }

    /// Plays the histories to their end.
    pub fn play(mut self) -> Counts {
        while self.round < ROUNDS {
            self.sources();
            self.target();
            self.deliver();
            while self.random.below(2) == 0 {
                self.killed_run();
            }
            self.whole_run();
            self.round += 1;
        }
        // Every file that was not lost arrives in the end.
        self.round = u64::MAX;
        self.deliver();
        self.whole_run();
        self.whole_run();
        let lines = || self.hosts.values().flatten();
        self.counts.stayed = lines().map(|line| line.here.len()).sum();
        self.counts.snapshots = lines().map(|line| line.model.committed.len()).sum();
        self.counts
    }

    /// Backs up the datasets and sends the files.
    fn sources(&mut self) {
        let random = &mut self.random;
        for line in self.hosts.values_mut().flatten() {
            if random.below(4) == 0 {
                continue;
            }
            let Some((file, bytes)) = line.sender.backup(random, &self.sealer) else { continue };
            // Files are lost, arrive in time or late, or arrive several times.
            let copies = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3][random.below(13) as usize];
            for _ in 0..copies {
                let late = [0, 0, 0, 0, 0, 1, 1, 2, 3][random.below(9) as usize];
                line.transit.push((self.round + late, file.clone(), bytes.clone()));
            }
        }
    }

    /// Moves the files that arrive into the incoming directory, with names as NNCP chooses them.
    fn deliver(&mut self) {
        for (host, lines) in &mut self.hosts {
            let dir = self.scene.path("spool").join(host);
            for line in lines {
                let (due, later) = line.transit.drain(..).partition(|(round, ..)| *round <= self.round);
                line.transit = later;
                for (_, mut file, bytes) in due {
                    let exists = |name: &String| dir.join(name).exists();
                    let copy = |n: &usize| format!("{}.{n}", file.name);
                    if exists(&file.name) {
                        file.name = (0..).map(|n| copy(&n)).find(|name| !exists(name)).unwrap();
                    }
                    fs::write(dir.join(".zsnap-new"), bytes).unwrap();
                    fs::rename(dir.join(".zsnap-new"), dir.join(&file.name)).unwrap();
                    line.here.push(file);
                    self.counts.files += 1;
                }
            }
        }
    }

    /// Changes the target between the runs.
    fn target(&mut self) {
        let needed = self.needed();
        let (random, scene) = (&mut self.random, &self.scene);
        for line in self.hosts.values_mut().flatten() {
            let name = line.name();
            let Some(present) = line.model.present.clone() else { continue };
            let called = |number: usize| line.sender.snapshots[number].name.clone();
            let newest = *present.last().unwrap();
            match random.below(24) {
                // As zsnap-expire does: destroys old snapshots, but none that a file still needs.
                0..6 => {
                    let Some(needed) = &needed else { continue };
                    let free = |n: &usize| *n != newest && !needed.keeps(line, *n) && random.below(2) == 0;
                    let doomed: Vec<usize> = present.iter().copied().filter(free).collect();
                    if !doomed.is_empty() {
                        let names: Vec<String> = doomed.iter().map(|n| called(*n)).collect();
                        scene.zfs(&["destroy", &format!("{name}@{}", names.join(","))]).expect(0);
                        line.model.present.as_mut().unwrap().retain(|n| !doomed.contains(n));
                    }
                }
                6 => {
                    let to = present[random.below(present.len() as u64) as usize];
                    scene.zfs(&["rollback", "-r", &format!("{name}@{}", called(to))]).expect(0);
                    line.model.rollback(to);
                }
                7 => {
                    scene.zfs(&["write", &name]).expect(0);
                    line.model.written = true;
                }
                8 if !line.model.written => {
                    scene.zfs(&["snapshot", &format!("{name}@ours-{}", self.round)]).expect(0);
                    line.model.local = true;
                }
                // The operator undoes the change.
                9..18 if line.model.written => {
                    scene.zfs(&["rollback", "-r", &format!("{name}@{}", called(newest))]).expect(0);
                    line.model.rollback(newest);
                }
                _ => {}
            }
        }
    }

    /// The content of needed-guids; `None` if there is no complete one.
    fn needed(&self) -> Option<Needed> {
        let state = self.scene.path("ingest-state");
        let pools = fs::read_dir(state).into_iter().flatten().map(|entry| entry.unwrap().path());
        let text = pools.filter_map(|dir| fs::read_to_string(dir.join("needed-guids")).ok()).next()?;
        let lines: Vec<&str> = text.lines().collect();
        let (first, rest) = lines.split_first().unwrap();
        assert!(first.starts_with("zsnap-needed 1 ") && text.ends_with('\n'), "{text}");
        let (end, entries) = rest.split_last().unwrap();
        assert_eq!(*end, format!("end {}", entries.len()));
        first.ends_with(" complete").then(|| Needed(entries.iter().map(|line| (*line).to_owned()).collect()))
    }

    fn start(&self) -> std::process::Child {
        let errors = fs::File::create(self.scene.path("stderr")).unwrap();
        self.scene.ingest_command([""; 0]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap()
    }

    /// Runs zsnap-ingest to its end and compares the result with the model.
    fn whole_run(&mut self) {
        let start = Instant::now();
        let status = status(self.start().wait().unwrap());
        self.length = start.elapsed();
        self.counts.runs += 1;
        let messages = fs::read_to_string(self.scene.path("stderr")).unwrap();
        assert!(status <= 1 && !messages.contains("panicked"), "status {status}: {messages}");
        for lines in self.hosts.values_mut() {
            expect(lines);
        }
        let there = self.there();
        for lines in self.hosts.values() {
            let dir = self.scene.path("spool").join(lines[0].sender.target.split('/').next().unwrap());
            let names: Vec<String> =
                files(&dir).iter().map(|p| p.file_name().unwrap().to_string_lossy().to_string()).collect();
            let mut expected: Vec<&String> = lines.iter().flat_map(|line| &line.here).map(|file| &file.name).collect();
            expected.sort();
            for line in lines {
                let context = || describe(line, &messages);
                assert_eq!(there.get(&line.name()), line.model.present.as_ref(), "{}", context());
            }
            assert_eq!(names.iter().collect::<Vec<_>>(), expected, "{}", describe_all(lines, &messages));
        }
        let bad = walk(self.scene.path("spool/.zsnap-quarantine"));
        let why = || bad.iter().filter_map(|path| fs::read_to_string(path).ok()).collect::<String>();
        assert!(bad.is_empty(), "in quarantine: {}; {messages}", why());
        let needed = self.needed().expect("needed-guids is not complete after a whole run");
        for line in self.hosts.values().flatten() {
            // After a rollback the journal names lost snapshots until the next one is received.
            let last = line.model.committed.last().filter(|_| !line.model.rewound);
            for base in line.here.iter().filter_map(|file| file.from).chain(last.copied()) {
                assert!(needed.keeps(line, base), "{base} is needed; {}", describe(line, &messages));
            }
        }
    }

    /// Kills a run, its children, or both at a random moment.
    fn killed_run(&mut self) {
        self.counts.runs += 1;
        let mut run = self.start();
        sleep(self.random.within(self.length));
        let (the_run, the_children) = [(true, false), (false, true), (true, true)][self.random.below(3) as usize];
        let victims = if the_children { children(run.id()) } else { Vec::new() };
        if the_run && !over(&run) {
            send(Signal::KILL, run.id(), false);
        }
        for victim in &victims {
            send(Signal::KILL, *victim, true);
        }
        let status = status(run.wait().unwrap());
        let messages = fs::read_to_string(self.scene.path("stderr")).unwrap();
        assert!([0, 1, 69, 137].contains(&status) && !messages.contains("panicked"), "status {status}: {messages}");
        self.counts.killed += usize::from(status == 137 || !victims.is_empty());
        // Grandchildren may live for a moment longer.
        let until = Instant::now() + Duration::from_secs(60);
        while alive_with(&self.scene.path("")) {
            assert!(Instant::now() < until, "a receiver does not end");
            sleep(Duration::from_millis(1));
        }
        let needed = self.needed();
        let there = self.there();
        for lines in self.hosts.values_mut() {
            let before: Vec<Dataset> = lines.iter().map(|line| line.model.clone()).collect();
            let here: Vec<Vec<File>> = lines.iter().map(|line| line.here.clone()).collect();
            expect(lines);
            let host = lines[0].sender.target.split('/').next().unwrap().to_owned();
            for ((line, before), here) in lines.iter_mut().zip(before).zip(here) {
                let now = there.get(&line.name()).cloned().unwrap_or_default();
                let (old, whole) = (before.present.clone().unwrap_or_default(), line.model.present.clone());
                let whole = whole.unwrap_or_default();
                let context = || format!("{now:?} of {old:?} to {whole:?}; {}", describe(line, &messages));
                assert!(now.starts_with(&old) && whole.starts_with(&now), "{}", context());
                line.model = before;
                line.model.observe(&now);
                line.here = here;
                let dir = self.scene.path("spool").join(&host);
                let (here, gone): (Vec<File>, Vec<File>) =
                    std::mem::take(&mut line.here).into_iter().partition(|file| dir.join(&file.name).exists());
                line.here = here;
                for file in gone {
                    assert!(line.model.needless(&file), "{file:?} was removed; {}", describe(line, &messages));
                }
                if let (Some(needed), Some(last), false) = (&needed, now.last(), line.model.rewound) {
                    assert!(needed.keeps(line, *last), "complete too early; {}", describe(line, &messages));
                }
            }
        }
    }

    /// The numbers of the sender's snapshots that each dataset has, in order.
    fn there(&self) -> BTreeMap<String, Vec<usize>> {
        let args = ["list", "-Hp", "-r", "-t", "snapshot", "-s", "createtxg", "-o", "name,guid", "backup/hosts"];
        let text = String::from_utf8(self.scene.zfs(&args).expect(0).out).unwrap();
        let mut there: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        let numbers: BTreeMap<(String, u64), (usize, &Sent)> = self
            .hosts
            .values()
            .flatten()
            .flat_map(|line| {
                let all = line.sender.snapshots.iter().enumerate();
                all.map(|(number, s)| ((line.name(), s.guid), (number, s)))
            })
            .collect();
        for row in text.lines() {
            let (name, guid) = row.split_once('\t').unwrap();
            let (dataset, snap) = name.split_once('@').unwrap();
            match numbers.get(&(dataset.to_owned(), guid.parse().unwrap())) {
                Some((number, sent)) => {
                    assert_eq!(snap, sent.name);
                    let all: &mut Vec<(usize, usize)> = there.entry(dataset.to_owned()).or_default();
                    // A snapshot does not follow a newer one, unless both have the same content.
                    let before = all.last().is_none_or(|last| last.0 < *number || last.1 == sent.content);
                    let once = all.iter().all(|(other, _)| other != number);
                    assert!(before && once, "{dataset}: {number} after {all:?}");
                    all.push((*number, sent.content));
                }
                None => assert!(snap.starts_with("ours-"), "nobody sent {name}"),
            }
        }
        there.into_iter().map(|(name, all)| (name, all.into_iter().map(|(number, _)| number).collect())).collect()
    }
}

/// Applies to the model what a run must do for a host.
fn expect(lines: &mut [Line]) {
    loop {
        let mut any = false;
        for at in 0..lines.len() {
            let parent = lines[at].parent();
            let there = |line: &Line| Some(line.sender.target.as_str()) == parent && line.model.present.is_some();
            let line = &lines[at];
            if parent.is_some() && line.model.present.is_none() && !lines.iter().any(there) {
                continue;
            }
            let line = &mut lines[at];
            let snapshots = &line.sender.snapshots;
            any |= line.model.run(&mut line.here, &|number| snapshots[number].content);
        }
        if !any {
            return;
        }
    }
}

/// Describes a dataset for the message of a failed test.
fn describe(line: &Line, messages: &str) -> String {
    let host = line.sender.target.split('/').next().unwrap();
    let messages: Vec<&str> = messages.lines().filter(|text| text.contains(host)).collect();
    format!("{}: {:?}\nwaiting: {:#?}\nmessages: {}", line.sender.target, line.model, line.here, messages.join("\n"))
}

fn describe_all(lines: &[Line], messages: &str) -> String {
    lines.iter().map(|line| describe(line, messages)).collect::<Vec<_>>().join("\n")
}
