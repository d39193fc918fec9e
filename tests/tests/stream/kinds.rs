//! The gate accepts real streams of every kind that `zfs send` writes (data/streams/kinds), in both byte orders
//! and in pieces of any size, and finds the facts that the script which made them knows.

use std::path::Path;

use zsnap_common::stream::{Kind, StreamFacts};
use zsnap_tests::mutation::{judged, samples_in};
use zsnap_tests::{SAMPLES, sample};

/// The facts of a stream: its name, the dataset, the snapshots, and a word for each other fact:
/// `incremental`, `volume`, `raw`, `compressed`, `wrapped` and `properties`.
type Facts = (&'static str, &'static str, &'static [&'static str], &'static str);
const FACTS: [Facts; 46] = [
    ("alg", "src/alg", &["a"], ""),
    ("alg-c", "src/alg", &["a"], "compressed"),
    ("alg-e", "src/alg", &["a"], ""),
    ("alg-ec", "src/alg", &["a"], "compressed"),
    ("alg-enc-w", "src/alg-enc", &["a"], "raw compressed"),
    ("alg-w", "src/alg", &["a"], "compressed"),
    ("attr", "src/attr", &["a"], ""),
    ("attr-i", "src/attr", &["b"], "incremental"),
    ("attr-of-enc", "src/attr-enc", &["b"], ""),
    ("attr-w", "src/attr-enc", &["a"], "raw compressed"),
    ("attr-w-I-p", "src/attr-enc", &["b"], "incremental raw compressed wrapped properties"),
    ("case", "src/case", &["a"], ""),
    ("elder-v1", "elder/v1", &["b"], "incremental wrapped"),
    ("elder-v1-full", "elder/v1", &["a"], ""),
    ("elder-v2", "elder/v2", &["b"], "incremental wrapped"),
    ("elder-v2-full", "elder/v2", &["a"], ""),
    ("elder-v3", "elder/v3", &["b"], "incremental wrapped"),
    ("elder-v3-full", "elder/v3", &["a"], ""),
    ("elder-v4", "elder/v4", &["b"], "incremental wrapped"),
    ("elder-v4-full", "elder/v4", &["a"], ""),
    ("elder-v5", "elder/v5", &["b"], "incremental wrapped"),
    ("elder-v5-full", "elder/v5", &["a"], ""),
    ("empty", "src/empty", &["a"], ""),
    ("empty-w", "src/empty-enc", &["a"], "raw compressed"),
    ("empty-w-i", "src/empty-enc", &["b"], "incremental raw compressed"),
    ("four-L", "src/four", &["a"], ""),
    ("four-Lec", "src/four", &["a"], "compressed"),
    ("holes", "src/holes", &["a"], ""),
    ("holes-i", "src/holes", &["b"], "incremental"),
    ("large-Lec", "src/large", &["a"], "compressed"),
    ("large-c", "src/large", &["a"], "compressed"),
    ("large-e", "src/large", &["a"], ""),
    ("large-w", "src/large", &["a"], "compressed"),
    ("many", "src/many", &["a"], ""),
    ("many-i", "src/many", &["b"], "incremental"),
    ("many-w-i", "src/many-enc", &["b"], "incremental raw compressed"),
    ("props-b", "src/props", &["b"], "wrapped properties"),
    ("props-h", "src/props", &["b"], "wrapped properties"),
    ("props-p", "src/props", &["a"], "wrapped properties"),
    ("props-pi", "src/props", &["b"], "incremental wrapped properties"),
    ("vol", "src/vol", &["a"], "volume"),
    ("vol-c", "src/vol", &["a"], "volume compressed"),
    ("vol-empty", "src/sparse", &["a"], "volume"),
    ("vol-i", "src/vol", &["b"], "volume incremental"),
    ("vol-w", "src/vol-enc", &["a"], "volume raw compressed"),
    ("vol-w-i", "src/vol-enc", &["b"], "volume incremental raw compressed"),
];

fn check(name: &str, facts: &StreamFacts, (_, fs, snaps, words): &Facts) {
    let has = |word: &str| words.split(' ').any(|w| w == word);
    let names: Vec<&str> = facts.substreams.iter().map(|s| s.snap.as_str()).collect();
    assert_eq!(names, *snaps, "{name}");
    assert_eq!((facts.compound, facts.properties), (has("wrapped"), has("properties")), "{name}");
    for sub in &facts.substreams {
        let kind = if has("volume") { Kind::Volume } else { Kind::Filesystem };
        assert_eq!((sub.fs.as_str(), sub.kind), (*fs, kind), "{name}");
        assert_eq!(
            (sub.from.is_some(), sub.raw, sub.compressed),
            (has("incremental"), has("raw"), has("compressed")),
            "{name}"
        );
    }
}

#[test]
fn every_kind_of_stream_is_accepted_with_its_facts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/streams");
    let mut samples = samples_in(&dir);
    samples.retain(|(name, _)| !SAMPLES.contains(&name.as_str()) && !name.starts_with("refused"));
    let names: Vec<&str> = samples.iter().map(|(name, _)| name.strip_suffix(".zfs").unwrap()).collect();
    assert_eq!(names, FACTS.map(|(name, ..)| name));
    for ((name, stream), facts) in samples.into_iter().zip(&FACTS) {
        for bytes in [stream.bytes(), stream.swapped().bytes()] {
            for pieces in [312, 1001, 100_000] {
                match judged(&bytes, pieces) {
                    Ok(got) => check(&name, &got, facts),
                    Err(why) => panic!("{name}: {why}"),
                }
            }
        }
    }
}

#[test]
fn a_large_embedded_block_without_large_blocks_is_rejected_with_a_remedy() {
    let why = judged(&sample("kinds/refused-large-ec.zfs"), 1000).unwrap_err();
    assert!(why.contains("not supported: send with -L, or without -e"), "{why}");
}
