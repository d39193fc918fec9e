//! The fake `zfs` follows the rules of the real one: `lab/zfs-script` prints the same with both (with the real one in
//! the lab).

use std::fs;
use std::process::Command;

use zsnap_tests::scene::{Scene, fake_zfs, run};
use zsnap_tests::stream::{Stream, Sub};

#[test]
fn the_fake_zfs_behaves_like_the_real_one() {
    let dir = tempfile::tempdir().unwrap();
    fake_zfs(&dir.path().join("bin"));
    fs::create_dir(dir.path().join("work")).unwrap();
    let lab = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut script = Command::new("bash");
    script.arg(lab.join("zfs-script")).arg(dir.path().join("work")).env("PATH", path);
    let ran = run(&mut script, b"").expect(0);
    let printed = String::from_utf8(ran.out).unwrap();
    let expected = fs::read_to_string(lab.join("zfs-script.expected")).unwrap();
    for (n, (printed, expected)) in printed.lines().zip(expected.lines()).enumerate() {
        assert_eq!(printed, expected, "line {}; stderr: {}", n + 1, ran.err);
    }
    assert_eq!(printed.lines().count(), expected.lines().count());
}

/// Failures that a script cannot cause in the real `zfs`.
#[test]
fn the_fake_zfs_fails_on_demand() {
    let scene = Scene::with_pool();
    let stream = Stream::plain(Sub::full("tank/a@s1", 1)).bytes();
    let receive = || run(Command::new(scene.path("bin/zfs")).args(["receive", "-u", "backup/hosts/a@s1"]), &stream);
    let exists = || scene.zfs(&["list", "-Hp", "-o", "written", "backup/hosts/a"]).status == 0;
    let with = |knob: &str, text: &str, status: i32, committed: bool| {
        scene.write(&format!("bin/{knob}"), text);
        assert_eq!((receive().status, exists()), (status, committed), "{knob}");
        fs::remove_file(scene.path(format!("bin/{knob}"))).unwrap();
        if committed {
            scene.zfs(&["destroy", "-r", "backup/hosts/a"]).expect(0);
        }
    };
    with("refuse", "out of space", 1, false);
    with("die-before-commit", "", 137, false);
    with("die-after-commit", "", 137, true);
    with("fail-after-commit", "", 1, true);
    with("delay", "1", 0, true);
    scene.zfs_calls();
    assert!(!exists());
    assert_eq!(scene.zfs_calls(), [["zfs", "list", "-Hp", "-o", "written", "backup/hosts/a"]]);
    // The fake rejects the options that zsnap must not use.
    for option in ["-F", "-d", "-e", "-M", "-s", "-h"] {
        scene.zfs(&["receive", option, "backup/hosts/a@s1"]).expect(2);
    }
}
