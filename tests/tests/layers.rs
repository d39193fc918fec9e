//! The files of a crate use each other in one direction only, and none is longer than a reader holds in mind.

use std::fs;
use std::path::PathBuf;

use zsnap_tests::imports::{Imports, root};
use zsnap_tests::torture::walk;

const CRATES: [&str; 6] =
    ["zsnap-common", "zsnap-common/message", "zsnap-queue", "zsnap-fanout", "zsnap-ingest", "zsnap-expire"];
/// The folders of zsnap-common, each of which uses only those before it.
const LAYERS: [&str; 6] = ["names", "cli", "stream", "process", "locks", "durable"];

#[test]
fn no_files_use_each_other_in_a_circle() {
    let circles: Vec<_> = CRATES.iter().filter_map(|package| Some((package, Imports::of(package).circle()?))).collect();
    assert!(circles.is_empty(), "{circles:?}");
}

#[test]
fn the_layers_of_the_common_crate_use_only_those_below() {
    let common = Imports::of("zsnap-common");
    let layer = |module: &str| LAYERS.iter().position(|layer| module.split("::").next() == Some(layer));
    let mut seen = 0;
    for (module, uses) in common.uses.iter().filter(|(module, _)| !module.is_empty()) {
        let here = layer(module).unwrap_or_else(|| panic!("{module} is in no layer"));
        for used in uses.iter().filter(|used| !used.is_empty()) {
            assert!(layer(used).unwrap() <= here, "{module} uses {used}");
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} uses were found");
}

#[test]
fn no_file_is_too_long() {
    let files = CRATES.iter().flat_map(|package| walk(root().join(package).join("src")));
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().count();
    let long: Vec<_> = files.map(|path| (lines(&path), path)).filter(|(lines, _)| *lines > 400).collect();
    assert!(long.is_empty(), "{long:?}");
}
