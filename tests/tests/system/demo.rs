//! The demonstration, which new users run first.

use std::path::Path;
use std::process::Command;

use zsnap_tests::scene::{binaries, have, run};

#[test]
fn the_demo_works() {
    if !have("gpg") || !have("zstd") {
        return;
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let ran = run(Command::new(demo).arg(binaries()).current_dir("/"), b"").expect(0);
    let output = String::from_utf8_lossy(&ran.out);
    for text in ["disk2        away", "restored: no difference", "rescued: no difference"] {
        assert!(output.contains(text), "{output}");
    }
}
