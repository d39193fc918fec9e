//! zsnap-fanout has no OpenPGP in it: a spooler has no keys, and need not trust what handles them.

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
fn zsnap_fanout_depends_on_no_openpgp() {
    let has = |of: &str| ["sequoia", "openssl"].map(|word| packages(of).contains(word));
    assert_eq!((has("zsnap-fanout"), has("zsnap-queue")), ([false; 2], [true; 2]));
}

#[test]
fn zsnap_fanout_links_no_openpgp() {
    let has = |name: &str| {
        let bytes = fs::read(program(name)).unwrap();
        // As the dynamic section and the symbols have them.
        ["libcrypto.so", "sequoia_openpgp"].map(|word| bytes.windows(word.len()).any(|at| at == word.as_bytes()))
    };
    assert_eq!(has("zsnap-queue"), [true; 2]);
    let found = has("zsnap-fanout");
    if found != [false; 2] {
        let why = "zsnap-fanout was built with the others, and has their features: cargo build -p zsnap-fanout";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("NOT TESTED: {why}");
    }
}
