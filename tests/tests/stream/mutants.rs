//! The stream gate over mutated streams of real senders, with correct checksums: it does not panic, its result does not
//! depend on how the stream is split into pieces, and it accepts what was not changed. The fuzz target in `fuzz` runs
//! longer.

use std::path::Path;

use zsnap_tests::mutation::{Mutator, judged, samples_in};
use zsnap_tests::random::Random;

#[test]
fn the_gate_neither_panics_nor_depends_on_the_piece_size() {
    let mut samples = samples_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/streams"));
    // These are rejected even if they are not changed.
    samples.retain(|(name, _)| !name.starts_with("replication") && !name.starts_with("refused"));
    let mutator = Mutator::new(samples.into_iter().map(|(_, stream)| stream).collect());
    let (mut accepted, mut rejected) = (0, 0);
    for seed in 0..3000 {
        let mut random = Random::seeded(seed);
        let mutant = mutator.mutant(&mut |n| random.below(n));
        let bytes = mutant.stream.bytes();
        let pieces = [1, 7, 311, 312, 313, 1000, 4096, 100_000][random.below(8) as usize];
        match judged(&bytes, pieces) {
            Ok(_) => accepted += 1,
            Err(why) => {
                assert!(!mutant.changes.is_empty(), "seed {seed}: an unchanged stream is rejected: {why}");
                rejected += 1;
            }
        }
    }
    // If nearly all had the same result, the mutator would no longer try what matters.
    assert!(accepted > 500 && rejected > 500, "{accepted} accepted, {rejected} rejected");
}
