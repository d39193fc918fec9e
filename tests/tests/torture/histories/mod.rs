//! Complete histories: hosts make snapshots and queue them, with runs that fail; a transport loses, delays, repeats
//! and reorders files; the target is pruned, rolled back and written to; zsnap-ingest is killed. After each run the
//! pool and the incoming directory must be what a simple model says: every snapshot that can be present is present,
//! none twice, nothing older came back, and no file was removed that was still needed.

mod model;
mod sender;
mod world;

use std::thread;
use std::time::Instant;

use zsnap_tests::random::{Random, moments};

use world::World;

/// The number of histories that share one incoming directory.
const TOGETHER: usize = 50;

#[test]
fn after_each_run_the_pool_is_what_the_model_says() {
    let mut random = Random::new();
    let start = Instant::now();
    let seeds: Vec<u64> = (0..moments().div_ceil(TOGETHER as u64)).map(|_| random.number()).collect();
    let counts: Vec<world::Counts> = seeds
        .chunks(2)
        .flat_map(|pair| {
            let play = |&seed| move || World::new(TOGETHER, Random::seeded(seed)).play();
            thread::scope(|scope| {
                let worlds: Vec<_> = pair.iter().map(|seed| scope.spawn(play(seed))).collect();
                worlds.into_iter().map(|world| world.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let sum = |of: fn(&world::Counts) -> usize| counts.iter().map(of).sum::<usize>();
    eprintln!(
        "{} histories in {:?}: {} files came, {} snapshots were received, {} files stayed; {} of {} runs were killed",
        TOGETHER * counts.len(),
        start.elapsed(),
        sum(|t| t.files),
        sum(|t| t.snapshots),
        sum(|t| t.stayed),
        sum(|t| t.killed),
        sum(|t| t.runs),
    );
    // Otherwise the histories tested little.
    assert!(sum(|t| t.snapshots) > 5 * counts.len() * TOGETHER && sum(|t| t.stayed) > counts.len());
}
