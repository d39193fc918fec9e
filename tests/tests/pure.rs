//! The decisions are pure: they know no file, process, environment or clock, so that tests can
//! show them any world.

use std::fs;
use std::path::Path;

const PURE: [&str; 14] = [
    "zsnap-queue/src/admit.rs",
    "zsnap-ingest/src/plan.rs",
    "zsnap-ingest/src/plan/zfs.rs",
    "zsnap-ingest/src/plan/opaque.rs",
    "zsnap-expire/src/backdated.rs",
    "zsnap-expire/src/policy.rs",
    "zsnap-expire/src/spacing.rs",
    "zsnap-expire/src/dated.rs",
    "zsnap-expire/src/calendar.rs",
    "zsnap-expire/src/protect.rs",
    "zsnap-expire/src/brakes.rs",
    "zsnap-expire/src/judge.rs",
    "zsnap-expire/src/needed.rs",
    "zsnap-expire/src/snapshot.rs",
];
/// Lists of imports would hide the others.
const IMPURE: [&str; 14] = [
    "std::fs",
    "std::process",
    "std::env",
    "std::io",
    "std::net",
    "std::os",
    "std::{",
    "SystemTime",
    "Instant",
    "rustix",
    "Zoned",
    "Timestamp::now",
    "TimeZone::system",
    "log::",
];

/// What stands before the unit tests, without comments.
fn code(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_decisions_have_no_effects() {
    for file in PURE {
        let code = code(file);
        for word in IMPURE {
            assert!(!code.contains(word), "{file} says {word}");
        }
    }
}
