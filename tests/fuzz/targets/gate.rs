//! The stream gate over changed streams of real senders: it never panics, and says the same
//! whatever the pieces are in which it gets them.
//!
//! The input decides what is changed (`zsnap_tests::mutation`), so that all checksums are right
//! and the fuzzer meets the rules for fields, not the checksum.
#![no_main]

// Not the library of the tests, which would bring OpenPGP.
#[path = "../../src/mutation.rs"]
#[allow(dead_code)]
mod mutation;
#[path = "../../src/stream.rs"]
#[allow(dead_code)]
mod stream;

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static MUTATOR: LazyLock<mutation::Mutator> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/streams");
    mutation::Mutator::new(mutation::samples_in(&dir).into_iter().map(|(_, sample)| sample).collect())
});

fuzz_target!(|bytes: &[u8]| {
    let mut next = mutation::from_bytes(bytes);
    let mutant = MUTATOR.mutant(&mut next);
    let pieces = next(4096) as usize + 1;
    let _accepted_or_not = mutation::judged(&mutant.stream.bytes(), pieces);
});
