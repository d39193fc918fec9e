//! The stream gate over changed streams of real senders, all checksums right: it never panics,
//! says the same whatever the pieces are, and does not refuse what was not changed. A longer run
//! is `fuzz`'s.

use std::path::Path;

use zsnap_tests::mutation::{Mutator, judged, samples_in};
use zsnap_tests::random::Random;

#[test]
fn it_never_panics_and_pieces_do_not_matter() {
    let mut samples = samples_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/streams"));
    // Refused for what they are.
    samples.retain(|(name, _)| !name.starts_with("replication") && !name.starts_with("refused"));
    let of = Mutator::new(samples.into_iter().map(|(_, stream)| stream).collect());
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..3000 {
        let mut random = Random::seeded(seed);
        let mutant = of.mutant(&mut |n| random.below(n));
        let bytes = mutant.stream.bytes();
        let pieces = [1, 7, 311, 312, 313, 1000, 4096, 100_000][random.below(8) as usize];
        match judged(&bytes, pieces) {
            Ok(_) => accepted += 1,
            Err(why) => {
                assert!(!mutant.changes.is_empty(), "seed {seed}: nothing is changed, and yet: {why}");
                refused += 1;
            }
        }
    }
    // Were nearly all of one sort, the mutator would have stopped to try what matters.
    assert!(accepted > 500 && refused > 500, "{accepted} accepted, {refused} refused");
}
