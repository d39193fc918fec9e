//! Whole histories: hosts that make snapshots and queue them, with runs that fail on the way,
//! a transport that loses, delays, repeats and reorders, a target that is pruned, rolled back and
//! written to, and a zsnap-ingest that is killed. After each run the pool and what is left in the
//! incoming directory must be what a simple model says: every snapshot that can be there is
//! there, none twice, nothing older came back, and no file is gone that was still needed.

mod model;
mod sender;
mod world;

use std::thread;
use std::time::Instant;

use zsnap_tests::random::{Random, moments};

use world::World;

/// So many histories share one incoming directory.
const TOGETHER: usize = 50;

#[test]
fn histories_end_as_they_must() {
    let mut random = Random::new();
    let start = Instant::now();
    let seeds: Vec<u64> = (0..moments().div_ceil(TOGETHER as u64)).map(|_| random.number()).collect();
    let told: Vec<world::Notices> = seeds
        .chunks(2)
        .flat_map(|pair| {
            let play = |&seed| move || World::new(TOGETHER, Random::seeded(seed)).play();
            thread::scope(|scope| {
                let worlds: Vec<_> = pair.iter().map(|seed| scope.spawn(play(seed))).collect();
                worlds.into_iter().map(|world| world.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let sum = |of: fn(&world::Notices) -> usize| told.iter().map(of).sum::<usize>();
    eprintln!(
        "{} histories in {:?}: {} files came, {} snapshots were received, {} files stayed; {} of {} runs were killed",
        TOGETHER * told.len(),
        start.elapsed(),
        sum(|t| t.files),
        sum(|t| t.snapshots),
        sum(|t| t.stayed),
        sum(|t| t.killed),
        sum(|t| t.runs),
    );
    // Otherwise they would have tested little.
    assert!(sum(|t| t.snapshots) > 5 * told.len() * TOGETHER && sum(|t| t.stayed) > told.len());
}
