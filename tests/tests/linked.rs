//! zsnap-fanout has no OpenPGP in it: a spooler has no keys, and need not trust what handles them.
//! Nor has zsnap-expire, which needs none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use zsnap_tests::scene::{program, run};

/// The packages that go into one of ours.
fn packages(of: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--package", of]);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    String::from_utf8(run(&mut cargo, b"").expect(0).out).unwrap()
}

#[test]
fn fanout_and_expire_depend_on_no_openpgp() {
    let has = |of: &str| ["sequoia", "openssl"].map(|word| packages(of).contains(word));
    assert_eq!(has("zsnap-queue"), [true; 2]);
    assert_eq!((has("zsnap-fanout"), has("zsnap-expire")), ([false; 2], [false; 2]));
}

/// All that is compiled for some of our packages, each with its features.
fn compiled(of: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p} {f}"]);
    cargo.args(of).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let out = String::from_utf8(run(&mut cargo, b"").expect(0).out).unwrap();
    out.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// Two builds make the tools; only our own packages may differ between them.
#[test]
fn nothing_of_others_is_compiled_twice() {
    let (all, two) = (compiled(&["--workspace"]), compiled(&["--package=zsnap-fanout", "--package=zsnap-expire"]));
    let again: Vec<_> = two.difference(&all).filter(|line| !line.starts_with("zsnap-")).collect();
    assert!(two.len() > 20 && again.is_empty(), "with other features: {again:?}");
}

#[test]
fn fanout_and_expire_link_no_openpgp() {
    let has = |name: &str| {
        let bytes = fs::read(program(name)).unwrap();
        // As the dynamic section and the symbols have them.
        ["libcrypto.so", "sequoia_openpgp"].map(|word| bytes.windows(word.len()).any(|at| at == word.as_bytes()))
    };
    assert_eq!(has("zsnap-queue"), [true; 2]);
    for tool in ["zsnap-fanout", "zsnap-expire"] {
        if has(tool) != [false; 2] {
            let why = format!("{tool} was built with the others, and has their features: cargo build -p {tool}");
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("NOT TESTED: {why}");
        }
    }
}
