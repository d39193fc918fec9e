//! zsnap-fanout and zsnap-expire link no OpenPGP: a spooler has no keys and need not trust the code that handles them,
//! and zsnap-expire needs none.

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

#[test]
fn fanout_and_expire_link_no_openpgp() {
    let has = |name: &str| {
        let bytes = fs::read(program(name)).unwrap();
        // As the dynamic section and the symbols have them.
        ["libcrypto.so", "sequoia_openpgp"].map(|word| bytes.windows(word.len()).any(|at| at == word.as_bytes()))
    };
    assert_eq!(has("zsnap-queue"), [true; 2]);
    assert_eq!((has("zsnap-fanout"), has("zsnap-expire")), ([false; 2], [false; 2]));
}
