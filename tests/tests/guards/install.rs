//! `make install` installs all files, also below a path with special characters.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use zsnap_tests::scene::run;
use zsnap_tests::spooler::tree;

#[test]
fn make_install_accepts_any_prefix() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = tempfile::tempdir().unwrap();
    let built = dir.path().join("target/release");
    fs::create_dir_all(&built).unwrap();
    for tool in ["zsnap-queue", "zsnap-fanout", "zsnap-ingest", "zsnap-expire"] {
        fs::write(built.join(tool), tool).unwrap();
    }
    for name in ["Makefile", "README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "man"] {
        run(Command::new("cp").arg("-r").arg(source.join(name)).arg(dir.path()), b"").expect(0);
    }
    let destination = dir.path().join("it's \"there\"; echo");
    let mut make = Command::new("make");
    make.current_dir(dir.path()).args(["install", "PREFIX=/a b"]).arg(format!("DESTDIR={}", destination.display()));
    // Without the variables of the `make` that runs these tests.
    run(make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"), b"").expect(0);
    let installed = tree(&destination);
    for name in ["bin/zsnap-queue", "share/man/man8/zsnap-ingest.8", "share/man/man5/zsnap-queue-file.5"] {
        assert!(installed.contains(&format!("a b/{name}")), "{name}: {installed:?}");
    }
    let pages = fs::read_dir(source.join("man")).unwrap().count();
    assert_eq!(installed.len(), 4 + pages + 4, "{installed:?}");
    assert!(destination.join("etc/zsnap").is_dir());
    // The documentation names the programs where they are.
    let text = |name: &str| fs::read_to_string(destination.join("a b").join(name)).unwrap();
    for name in ["share/man/man7/zsnap.7", "share/man/man8/zsnap-ingest.8", "share/doc/zsnap/README.md"] {
        assert!(text(name).contains("/a b/bin/zsnap") && !text(name).contains("/usr/local/bin/zsnap"), "{name}");
    }
    assert!(text("share/man/man7/zsnap.7").contains("\nPATH=/a b/bin:/usr/sbin:"));
    let mode = |name: &str| fs::metadata(destination.join("a b").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bin/zsnap-expire"), mode("share/man/man7/zsnap.7")), (0o755, 0o644));
}
