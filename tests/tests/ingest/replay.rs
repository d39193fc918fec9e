//! Whoever carries files may keep them and deliver them again, in any order and any number of times: a target
//! never returns to an older state.

use std::fs;
use std::os::unix::fs::symlink;

use zsnap_message::payload::{Base, Manifest};
use zsnap_tests::hostile::described;
use zsnap_tests::random::Random;
use zsnap_tests::scene::{Scene, name};
use zsnap_tests::stream::{Stream, Sub};

const SEQ: u64 = 1_700_000_000_000_000;
const TARGET: &str = "laptop/tank/home";
const DATASET: &str = "backup/hosts/laptop/tank/home";
/// The number of random orders of all files.
const PLAYS: u64 = 8;

/// The guid of the `n`th snapshot.
fn guid(n: u64) -> u64 {
    7_000_000_000_000_000_000 + n * 1_000_003
}

/// The substream from snapshot `from` (0: none) to snapshot `to`.
fn sub(from: u64, to: u64) -> Sub {
    let toname = format!("tank/home@s{to}");
    if from == 0 { Sub::full(&toname, guid(to)) } else { Sub::increment(&toname, guid(from), guid(to)) }
}

/// 20 queue files of one dataset as a sender makes them over time: a full stream, incrementals, and compound
/// streams that overlap earlier ones, as after failed runs.
fn series(scene: &Scene) -> Vec<Vec<u8>> {
    let mut at = 1;
    (0..20)
        .map(|n: u64| {
            let (from, to) = match n {
                0 => (0, 1),
                _ if n % 3 == 0 => (at.max(2) - 1, at + 2),
                _ => (at, at + 1),
            };
            at = to;
            let stream = match to - from {
                1 => Stream::plain(sub(from, to)),
                _ => Stream::compound(&format!("tank/home@s{to}"), (from + 1..=to).map(|to| sub(to - 1, to))),
            };
            let stream = stream.bytes();
            let (manifest, trailer) = described(TARGET, SEQ + n, &stream);
            let base = if n == 0 { Base::None } else { Base::Prev };
            let manifest = Manifest { base, prev: (n > 0).then(|| SEQ + n - 1), ..manifest };
            let key = zsnap_message::keys::SigningKey::load(&scene.path("laptop.key"), std::time::SystemTime::now());
            let to = scene.path("backup.cert");
            zsnap_tests::scene::seal_with(&manifest, trailer, Some(&key.unwrap()), &to, &stream)
        })
        .collect()
}

struct Play<'a> {
    scene: &'a Scene,
    files: &'a [Vec<u8>],
    random: Random,
    copies: u64,
}

impl Play<'_> {
    /// Delivers a file under its own name or under that of another copy.
    fn deliver(&mut self, n: usize) {
        self.copies += 1;
        let name = name(TARGET, SEQ + n as u64);
        let name = if self.random.below(3) == 0 { name } else { format!("{name}.{}", self.copies) };
        self.scene.deliver("laptop", &name, &self.files[n]);
    }

    /// Delivers all files in a random order, some of them twice, a few before each run. Calls `look` after each run.
    fn all(&mut self, mut look: impl FnMut(&Scene)) {
        let mut order: Vec<usize> = (0..self.files.len()).chain((0..10).map(|n| n * 2)).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.random.below(at as u64 + 1) as usize);
        }
        while !order.is_empty() {
            for n in order.split_off(order.len().saturating_sub(1 + self.random.below(6) as usize)) {
                self.deliver(n);
            }
            let ran = self.scene.ingest(&[]);
            assert!([0, 1].contains(&ran.status), "{}: {}", ran.status, ran.err);
            look(self.scene);
        }
    }
}

/// The guids of the target's snapshots, oldest first; empty if the target does not exist.
fn snapshots(scene: &Scene) -> Vec<u64> {
    let ran = scene.zfs(&["list", "-Hp", "-r", "-t", "snapshot", "-s", "createtxg", "-o", "guid", DATASET]);
    let text = String::from_utf8(ran.out).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn replayed_files_never_return_a_target_to_an_older_state() {
    for play in 0..PLAYS {
        let scene = Scene::with_pool();
        let files = series(&scene);
        let mut play = Play { scene: &scene, files: &files, random: Random::seeded(play), copies: 0 };
        let last = last_snapshot(&files);
        let mut before = Vec::new();
        play.all(|scene| {
            let now = snapshots(scene);
            assert!(now.starts_with(&before), "{before:?} became {now:?}");
            before = now;
        });
        // Every order ends with all snapshots and an empty spool.
        assert_eq!(before, (1..=last).map(guid).collect::<Vec<_>>());
        assert!(scene.spooled("laptop").is_empty());

        // Snapshots that were pruned on the target do not come back.
        for n in 1..=5 {
            scene.zfs(&["destroy", &format!("{DATASET}@s{n}")]).expect(0);
        }
        let pruned = snapshots(&scene);
        play.all(|scene| assert_eq!(snapshots(scene), pruned));
        assert!(scene.spooled("laptop").is_empty());

        // An old full stream does not bring back a dataset that was destroyed on purpose.
        scene.zfs(&["destroy", "-r", DATASET]).expect(0);
        play.all(|scene| assert_eq!(snapshots(scene), Vec::<u64>::new()));
        let quarantined = scene.quarantined("laptop");
        assert!(
            quarantined.iter().any(|path| fs::read(path).unwrap() == files[0]),
            "the full stream is not in quarantine"
        );
    }
}

/// An error of the disk says nothing about what the journal holds.
#[test]
fn a_journal_that_cannot_be_read_is_not_replaced_by_an_empty_one() {
    let scene = Scene::with_pool();
    let full = &series(&scene)[0];
    scene.deliver("laptop", &name(TARGET, SEQ), full);
    scene.ingest(&[]).expect(0);
    let pools = fs::read_dir(scene.path("ingest-state")).unwrap();
    let journal = pools.map(|e| e.unwrap().path().join("journal/laptop/tank@home.json")).find(|p| p.exists()).unwrap();
    let before = fs::read(&journal).unwrap();
    // With an empty journal, the full stream would bring back the dataset.
    scene.zfs(&["destroy", "-r", DATASET]).expect(0);
    scene.deliver("laptop", &name(TARGET, SEQ), full);
    fs::remove_file(&journal).unwrap();
    symlink(&journal, &journal).unwrap();
    scene.ingest(&[]).expect(75).says("tank@home.json");
    assert_eq!((snapshots(&scene).len(), scene.spooled("laptop").len()), (0, 1));
    fs::remove_file(&journal).unwrap();
    fs::write(&journal, before).unwrap();
    scene.ingest(&[]).expect(1).says("a replay");
    assert_eq!((snapshots(&scene).len(), scene.spooled("laptop").len()), (0, 0));
}

/// The number of the last snapshot of the series.
fn last_snapshot(files: &[Vec<u8>]) -> u64 {
    (1..files.len() as u64).fold(1, |at, n| if n % 3 == 0 { at + 2 } else { at + 1 })
}
