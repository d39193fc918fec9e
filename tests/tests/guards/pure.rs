//! The decisions are pure: they use no file, process, environment or clock, so that a test can present any situation to
//! them.

use std::fs;
use std::path::Path;

use zsnap_tests::imports::{Imports, code};
use zsnap_tests::torture::walk;

const PURE: [&str; 19] = [
    "zsnap-queue/src/admit.rs",
    "zsnap-ingest/src/plan.rs",
    "zsnap-ingest/src/plan/zfs.rs",
    "zsnap-ingest/src/plan/opaque.rs",
    "zsnap-ingest/src/plan/standing.rs",
    "zsnap-expire/src/backdated.rs",
    "zsnap-expire/src/policy.rs",
    "zsnap-expire/src/reason.rs",
    "zsnap-expire/src/rules.rs",
    "zsnap-expire/src/rules/native.rs",
    "zsnap-expire/src/rules/rule.rs",
    "zsnap-expire/src/rules/zrep_v2.rs",
    "zsnap-expire/src/rules/zrep_v1.rs",
    "zsnap-expire/src/calendar.rs",
    "zsnap-expire/src/protect.rs",
    "zsnap-expire/src/brakes.rs",
    "zsnap-expire/src/judge.rs",
    "zsnap-expire/src/needed.rs",
    "zsnap-expire/src/snapshot.rs",
];
/// What a pure file must not contain. `std::{` is among it because a list of imports would hide the others.
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

/// The files that start tools: with `--config`, or only for their help. All other tests use these.
const STARTERS: [&str; 6] = [
    "tests/src/scene.rs",
    "tests/src/expirer.rs",
    "tests/tests/guards/linked.rs",
    "tests/tests/guards/man.rs",
    "tests/tests/interop/nncp.rs",
    "tests/tests/system/upgrade/tree.rs",
];

/// A tool that is started without a configuration would read /etc/zsnap of this machine, which `.ci/run` fills with
/// invalid files.
#[test]
fn tests_start_no_tool_without_a_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for path in walk(root.join("tests")) {
        let ours = path.extension().is_some_and(|of| of == "rs") && !path.ends_with(file!());
        let text = if ours { fs::read_to_string(&path).unwrap() } else { String::new() };
        if ["program(\"zsnap-", "program(name)", "program(tool)", "BIN_EXE_zsnap-"]
            .iter()
            .any(|start| text.contains(start))
        {
            found.push(path.strip_prefix(&root).unwrap().display().to_string());
        }
    }
    found.sort();
    let mut expected = STARTERS.to_vec();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn decisions_have_no_effects() {
    for file in PURE {
        let code = code(file);
        for word in IMPURE {
            assert!(!code.contains(word), "{file} contains {word}");
        }
    }
}

/// A pure file uses only other pure files.
#[test]
fn decisions_use_only_other_decisions() {
    for package in ["zsnap-queue", "zsnap-ingest", "zsnap-expire"] {
        let imports = Imports::of(package);
        for (module, file) in imports.files.iter().filter(|(_, file)| PURE.contains(&file.as_str())) {
            for used in &imports.uses[module] {
                let used = &imports.files[used];
                assert!(PURE.contains(&used.as_str()), "{file} uses {used}");
            }
        }
    }
}
