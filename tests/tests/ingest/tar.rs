//! Incremental archives of GNU tar pass through zsnap-queue and zsnap-ingest, with failed runs in between, and no
//! file is lost. In a plain pipeline the same failure loses a file, which is why --producer-state exists.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use zsnap_tests::scene::{Ran, Scene, files, needs_root, run};

/// A scene with a directory that tar backs up.
struct Backup {
    scene: Scene,
}

impl Backup {
    fn new() -> Backup {
        let scene = Scene::new();
        fs::create_dir_all(scene.path("docs/deep/er")).unwrap();
        scene.write("docs/deep/er/first", "1");
        Backup { scene }
    }

    fn write(&self, name: &str, text: &str) {
        self.scene.write(&format!("docs/{name}"), text);
    }

    fn state(&self) -> PathBuf {
        self.scene.path("snar")
    }

    /// Runs zsnap-queue with the tar command of the manual.
    fn run(&self, more: &[&str]) -> Ran {
        let dir = format!("--directory={}", self.scene.path("").display());
        self.run_with(more, &["tar", "--create", "--listed-incremental={state}", "--file=-", &dir, "docs"])
    }

    fn run_with(&self, more: &[&str], producer: &[&str]) -> Ran {
        let state = self.state();
        let args = ["--opaque", "--producer-state", state.to_str().unwrap(), "laptop/tar"];
        self.scene.queue(&[more, &args, &["--"], producer].concat(), b"")
    }

    /// Asserts that a run fails and leaves tar's state and the queue as they were.
    fn must_fail(&self, status: i32, run: impl FnOnce() -> Ran) {
        let (state, queued) = (fs::read(self.state()).unwrap(), self.scene.spooled("laptop"));
        run().expect(status);
        assert!(fs::read(self.state()).unwrap() == state, "tar's state advanced without a queue file");
        assert_eq!(self.scene.spooled("laptop"), queued);
        let beside = files(&self.scene.path(""));
        let leftovers: Vec<_> = beside.iter().filter(|p| p.to_string_lossy().contains("snar.zsnap-")).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }

    /// Extracts everything with zsnap-ingest and asserts that both trees are equal.
    fn restore(&self) {
        let ran = self.scene.ingest(&[]).expect(0);
        assert!(ran.err.is_empty(), "{}", ran.err);
        assert!(self.scene.spooled("laptop").is_empty());
        assert_same_tree(&self.scene.path("docs"), &self.scene.path("tar/docs"));
    }
}

fn assert_same_tree(a: &Path, b: &Path) {
    let diff = run(Command::new("diff").arg("-r").args([a, b]), b"");
    assert_eq!(diff.status, 0, "{}{}", String::from_utf8_lossy(&diff.out), diff.err);
}

#[test]
fn incrementals_of_tar_carry_changes_deletions_and_renames() {
    let backup = Backup::new();
    for n in 0..20 {
        backup.write(&format!("file{n}"), &"x".repeat(n * 500));
    }
    backup.run(&[]).expect(0);
    let docs = |name: &str| backup.scene.path("docs").join(name);
    backup.write("file1", "changed");
    fs::remove_file(docs("file2")).unwrap();
    fs::rename(docs("file3"), docs("deep/file3")).unwrap();
    fs::create_dir(docs("new")).unwrap();
    backup.write("new/file", "new");
    backup.run(&[]).expect(0);
    fs::rename(docs("deep"), docs("deeper")).unwrap();
    fs::remove_file(docs("new/file")).unwrap();
    backup.write("new/other", "other");
    backup.run(&[]).expect(0);
    fs::remove_dir_all(docs("new")).unwrap();
    backup.run(&[]).expect(0);
    // Nothing changed.
    let last = backup.run(&["--json"]).expect(0);
    assert!(String::from_utf8_lossy(&last.out).contains("\"base\":\"prev\""), "not an incremental");
    assert_eq!(backup.scene.spooled("laptop").len(), 5);
    backup.restore();
    assert!(!backup.scene.path("tar/docs/file2").exists());
    // Later incrementals build on what was restored.
    backup.write("last", "last");
    backup.run(&[]).expect(0);
    backup.restore();
}

/// A host may send a symbolic link and then a file behind it: the extracting tar follows the link as far as its
/// user may write.
#[test]
fn a_symlink_cannot_lead_to_where_the_commands_user_may_not_write_as_root() {
    needs_root();
    let backup = Backup::new();
    let scene = &backup.scene;
    scene.edit("ingest.toml", "overlap = true", "overlap = true\nuser = \"no-such-user\"");
    let checked = scene.ingest(&["check"]).expect(78);
    assert!(String::from_utf8_lossy(&checked.out).contains("user: there is no user no-such-user"));
    scene.edit("ingest.toml", "no-such-user", "nobody");
    run(Command::new("chown").arg("nobody").arg(scene.path("tar")), b"").expect(0);
    fs::set_permissions(scene.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    scene.ingest(&["check"]).expect(0);
    fs::create_dir(scene.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(scene.path("elsewhere"), scene.path("docs/link")).unwrap();
    backup.run(&[]).expect(0);
    scene.ingest(&[]).expect(0);
    fs::remove_file(scene.path("docs/link")).unwrap();
    fs::create_dir(scene.path("docs/link")).unwrap();
    backup.write("link/evil", "evil");
    let root = scene.path("").display().to_string();
    let evil = ["tar", "--create", "--file=-", "--directory", &root, "docs/link/evil"];
    scene.queue(&[&["--opaque", "--full", "laptop/tar", "--"][..], &evil].concat(), b"").expect(0);
    scene.ingest(&[]).expect(69).says("Permission denied");
    assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn failed_runs_of_the_queue_lose_no_file() {
    let backup = Backup::new();
    let scene = &backup.scene;
    backup.run(&[]).expect(0);

    // The delivery fails: the incremental is in the outbox, and tar's state has advanced.
    backup.write("undelivered", "u");
    fs::rename(scene.path("spool"), scene.path("away")).unwrap();
    backup.run(&[]).expect(0).says("spool");
    fs::rename(scene.path("away"), scene.path("spool")).unwrap();
    assert_eq!(scene.spooled("laptop").len(), 1);

    // The producer fails after tar has succeeded and advanced its state.
    backup.write("producer", "p");
    let script = "tar --create --listed-incremental=\"$1\" --file=- --directory=\"$2\" docs; exit 2";
    let root = scene.path("");
    backup.must_fail(69, || backup.run_with(&[], &["sh", "-c", script, "sh", "{state}", root.to_str().unwrap()]));

    // The queue file cannot be made: before tar is started, and after it has ended.
    backup.write("outbox", "o");
    for (dir, status) in [("queue-state/outbox/split/laptop", 73), ("queue-state/outbox/to", 73)] {
        let (dir, aside) = (scene.path(dir), scene.path("aside"));
        fs::rename(&dir, &aside).unwrap();
        fs::write(&dir, "no directory").unwrap();
        let ran = backup.run(&[]);
        assert!(ran.status != 0, "{} was not a directory, and yet: {}", dir.display(), ran.err);
        backup.must_fail(ran.status, || backup.run(&[]));
        assert!([status, 74].contains(&ran.status), "{}: {}", dir.display(), ran.err);
        fs::remove_file(&dir).unwrap();
        fs::rename(&aside, &dir).unwrap();
    }

    // zsnap-queue rejects `--to -`: a filter does not know whether its stream is kept.
    backup.must_fail(2, || backup.run(&["--to", "-"]));

    // The next good run has everything that the failed ones lacked; the undelivered file is delivered as well.
    backup.write("good", "g");
    backup.run(&[]).expect(0);
    for name in ["undelivered", "producer", "outbox", "good"] {
        assert!(scene.path("docs").join(name).exists());
    }
    assert_eq!(scene.spooled("laptop").len(), 3);
    backup.restore();
}

#[test]
fn a_full_disk_loses_no_file_as_root() {
    needs_root();
    let backup = Backup::new();
    let scene = &backup.scene;
    let full = scene.path("queue-state");
    fs::create_dir(&full).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"]).arg(&full), b"").expect(0);
    let unmount = Unmount(full);
    backup.run(&[]).expect(0);
    let noise = run(Command::new("head").args(["-c", "1000000", "/dev/urandom"]), b"").out;
    fs::write(scene.path("docs/big"), noise).unwrap();
    backup.write("small", "s");
    backup.must_fail(75, || backup.run(&[]));
    run(Command::new("mount").args(["-o", "remount,size=16m"]).arg(&unmount.0), b"").expect(0);
    backup.run(&[]).expect(0);
    backup.restore();
    assert!(scene.path("tar/docs/big").exists() && scene.path("tar/docs/small").exists());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// tar advances its state when it ends. If anything behind it in a pipeline fails, be it the encryption, the
/// transport or the disk, the files of that run are lost.
#[test]
fn a_plain_pipeline_of_tar_loses_files() {
    let backup = Backup::new();
    let scene = &backup.scene;
    let pipeline = |name: &str, rest: &str| {
        let line = format!("tar --create --listed-incremental=snar --file=- docs | ({rest}) > {name}");
        run(Command::new("bash").args(["-o", "pipefail", "-c", &line]).current_dir(scene.path("")), b"")
    };
    pipeline("1.tar", "cat").expect(0);
    backup.write("lost", "l");
    pipeline("2.tar", "cat > /dev/null; exit 1").expect(1);
    backup.write("after", "a");
    pipeline("3.tar", "cat").expect(0);
    for name in ["1.tar", "3.tar"] {
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--listed-incremental=/dev/null").arg("--file").arg(scene.path(name));
        run(tar.arg("--directory").arg(scene.path("tar")), b"").expect(0);
    }
    assert!(scene.path("tar/docs/after").exists());
    assert!(
        scene.path("docs/lost").exists() && !scene.path("tar/docs/lost").exists(),
        "this tar did not lose the file"
    );
}
