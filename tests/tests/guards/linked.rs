//! zsnap-fanout and zsnap-expire do not link OpenPGP. A spooler has no keys and need not trust the code that handles
//! them, and zsnap-expire needs no keys.

use std::fs;
use std::path::Path;
use std::process::Command;

use zsnap_tests::scene::{program, run};

/// Returns the dependencies of one of our packages, as `cargo tree` prints them.
fn packages(of: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--package", of]);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    String::from_utf8(run(&mut cargo, b"").expect(0).out).unwrap()
}

#[test]
fn fanout_and_expire_do_not_depend_on_openpgp() {
    let has = |of: &str| ["sequoia", "openssl"].map(|word| packages(of).contains(word));
    assert_eq!(has("zsnap-queue"), [true; 2]);
    assert_eq!((has("zsnap-fanout"), has("zsnap-expire")), ([false; 2], [false; 2]));
}

#[test]
fn fanout_and_expire_do_not_link_openpgp() {
    let has = |name: &str| {
        let bytes = fs::read(program(name)).unwrap();
        // A name in the dynamic section, and one in the symbols.
        ["libcrypto.so", "sequoia_openpgp"].map(|word| bytes.windows(word.len()).any(|at| at == word.as_bytes()))
    };
    assert_eq!(has("zsnap-queue"), [true; 2]);
    assert_eq!((has("zsnap-fanout"), has("zsnap-expire")), ([false; 2], [false; 2]));
}
