//! zsnap-fanout writes no file to a wrong place and loses none because of one: mount points without their drive,
//! other drives, symlinks. Only the spool's owner distributes its files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use zsnap_tests::scene::{Ran, needs_root, run};
use zsnap_tests::spooler::{Spooler, tree};
use zsnap_tests::strace::{can_trace, go_on, stopped};

fn mount(args: &[&str]) {
    needs_root();
    run(Command::new("mount").args(args), b"").expect(0);
}

fn unmount(args: &[&str], at: &Path) {
    assert!(Command::new("umount").args(args).arg(at).status().unwrap().success());
}

/// A spooler with a drive at `mnt/incoming` that is a file system of its own, in the file `image`.
fn on_a_device() -> Spooler {
    let spooler = Spooler::with(&["disk1"]);
    fs::create_dir(spooler.path("mnt")).unwrap();
    fs::File::create(spooler.path("image")).unwrap().set_len(16 << 20).unwrap();
    run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(spooler.path("image")), b"").expect(0);
    spooler.to("disk2", &format!("dir:{}", spooler.path("mnt/incoming").display()), "");
    plug(&spooler);
    spooler
}

/// Mounts the drive.
fn plug(spooler: &Spooler) {
    mount(&["-o", "loop", spooler.path("image").to_str().unwrap(), spooler.path("mnt").to_str().unwrap()]);
}

#[test]
fn only_the_mounted_and_marked_drive_gets_files_as_root() {
    let spooler = on_a_device();
    let mnt = spooler.path("mnt");
    // The drive is new and has no mark.
    spooler.fanout(&["init", "disk2"]).expect(78).says("/mnt/incoming: mount the drive, and make the directory");
    fs::create_dir(mnt.join("incoming")).unwrap();
    let one = spooler.put("laptop/a", 1, "1");
    spooler.fanout(&[]).expect(1).says("is mounted and new: zsnap-fanout init disk2");
    spooler.silent_run();
    assert!(tree(&mnt).is_empty(), "{:?}", tree(&mnt));
    for _ in 0..2 {
        assert_eq!(spooler.fanout(&["init", "disk2"]).expect(0).err, "");
    }
    assert_eq!(fs::read_to_string(mnt.join("incoming/.zsnap-drive")).unwrap(), "disk2\n");
    spooler.silent_run();
    assert_eq!(tree(&mnt), ["incoming/.zsnap-drive", &format!("incoming/laptop/{one}")]);
    unmount(&[], &mnt);
    // The mount point is empty; then it contains the directory, which somebody made by mistake.
    let two = spooler.put("laptop/a", 2, "2");
    spooler.silent_run();
    fs::create_dir(mnt.join("incoming")).unwrap();
    let three = spooler.put("laptop/a", 3, "3");
    spooler.silent_run();
    assert!(tree(&mnt).is_empty() && fs::read_dir(mnt.join("incoming")).unwrap().next().is_none());
    spooler
        .fanout(&["-v"])
        .expect(0)
        .says("disk2 is away: ")
        .says("/mnt/incoming has no .zsnap-drive: the drive is not mounted");
    spooler.fanout(&["init", "disk2"]).expect(78).says("/spool: mount the drive, or say --same-filesystem");
    assert_eq!(spooler.waiting("disk2"), [format!("laptop/{two}"), format!("laptop/{three}")]);
    // Another drive is mounted there.
    mount(&["-t", "tmpfs", "tmpfs", mnt.to_str().unwrap()]);
    fs::create_dir(mnt.join("incoming")).unwrap();
    fs::write(mnt.join("incoming/.zsnap-drive"), "disk7\n").unwrap();
    spooler.silent_run();
    spooler.fanout(&["-v"]).expect(0).says("/mnt/incoming is the drive \"disk7\"");
    let ran = spooler.fanout(&["init", "disk2"]).expect(78).says("is the drive \"disk7\" already: mount the right one");
    assert!(ran.err.contains("or remove ") && tree(&mnt) == ["incoming/.zsnap-drive"], "{}", ran.err);
    unmount(&[], &mnt);
    // The right drive is mounted again.
    plug(&spooler);
    spooler.silent_run();
    assert_eq!(tree(&mnt.join("incoming/laptop")), [one, two, three]);
    assert!(spooler.waiting("disk2").is_empty());
    unmount(&[], &mnt);
}

#[test]
fn a_drive_that_is_unmounted_during_a_run_loses_no_file_as_root() {
    if !can_trace() {
        return;
    }
    let spooler = on_a_device();
    let (mnt, trace) = (spooler.path("mnt"), spooler.path("trace"));
    fs::create_dir(mnt.join("incoming")).unwrap();
    spooler.mark("mnt/incoming", "disk2");
    // 64 files are one batch. The host pattern excludes the drive that is always mounted.
    spooler.edit("[to.disk2]", "hosts = ['none']\n[to.disk2]");
    let files: Vec<_> = (0..100).map(|n| format!("laptop/{}", spooler.put("laptop/a", n, n.to_string()))).collect();
    let stop = "inject=copy_file_range:signal=SIGSTOP:when=1";
    let before = ["strace", "-f", "-e", "trace=copy_file_range", "-e", stop, "-o", trace.to_str().unwrap()];
    let running = spooler.under(&before, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let thread = stopped(&trace);
    unmount(&["-l"], &mnt);
    assert_eq!(go_on(running, &thread).expect(0).err, "");
    // Nothing was written below the mount point. The batch in progress is on the drive, the rest waits.
    assert!(fs::read_dir(&mnt).unwrap().next().is_none());
    assert_eq!(spooler.waiting("disk2"), files[64..]);
    plug(&spooler);
    assert_eq!(tree(&mnt.join("incoming")).len(), 65);
    spooler.silent_run();
    let mut on = tree(&mnt.join("incoming"));
    assert_eq!(on.remove(0), ".zsnap-drive");
    assert_eq!((on, spooler.waiting("disk2").len()), (files, 0));
    unmount(&[], &mnt);
}

#[test]
fn a_directory_without_the_right_mark_gets_no_files() {
    let spooler = Spooler::with(&["disk1"]);
    spooler.to("disk2", &format!("dir:{}", spooler.path("absent/incoming").display()), "");
    spooler.to("node", "nncp-file:node", "");
    spooler.to("file", &format!("dir:{}", spooler.path("fanout.toml").display()), "");
    let files = [1, 2].map(|n| format!("laptop/{}", spooler.put("laptop/a", n, "x")));
    // An absent directory is away, which is not an error. A file that can never be a drive is reported.
    let ran = spooler.fanout(&[]).expect(1);
    assert!(ran.err.contains("file: ") && ran.err.contains("fanout.toml: Not a directory"), "{}", ran.err);
    assert!(!ran.err.contains("disk2") && !spooler.path("absent").exists());
    assert_eq!((spooler.on("disk1"), spooler.waiting("disk2")), (files.to_vec(), files.to_vec()));
    // The administrator may use a symlink to the drive.
    fs::create_dir_all(spooler.path("real/incoming")).unwrap();
    symlink(spooler.path("real"), spooler.path("absent")).unwrap();
    spooler.mark("real/incoming", "disk2");
    spooler.fanout(&[]);
    assert_eq!(tree(&spooler.path("real/incoming/laptop")).len(), 2);

    spooler.fanout(&["init", "disk9"]).expect(2).says("no drive is called disk9; there are disk1, disk2, file, node");
    spooler.fanout(&["init", "node"]).expect(2).says("node is nncp-file:node, which needs no mark: only dir: does");
    fs::create_dir(spooler.path("new")).unwrap();
    let to = format!("new=dir:{}", spooler.path("new").display());
    spooler.fanout(&["init", "new", "--to", &to]).expect(78).says("is on the file system of ");
    assert!(tree(&spooler.path("new")).is_empty());
    for _ in 0..2 {
        spooler.fanout(&["init", "new", "--same-filesystem", "--to", &to]).expect(0);
    }
    assert_eq!(fs::read_to_string(spooler.path("new/.zsnap-drive")).unwrap(), "new\n");
    // A killed process left a temporary file, which is removed; a running one holds a lock on its own.
    spooler.write("new/.zsnap-0123456789abcdef", "");
    spooler.write("new/.zsnap-mine", "");
    spooler.fanout(&["init", "new", "--same-filesystem", "--to", &to]).expect(0);
    assert_eq!(tree(&spooler.path("new")), [".zsnap-drive", ".zsnap-mine"]);
    // A mark that is not a regular file neither blocks init nor is its content printed.
    let init = |says: &str| {
        let mut command = spooler.under(&["timeout", "60"], &["init", "new", "--same-filesystem", "--to", &to]);
        let ran = run(&mut command, b"");
        assert!((ran.status == 78 || ran.status == 74) && ran.err.contains(says), "{} {}", ran.status, ran.err);
        fs::remove_file(spooler.path("new/.zsnap-drive")).unwrap();
    };
    spooler.write("secret", "nobody's business");
    fs::remove_file(spooler.path("new/.zsnap-drive")).unwrap();
    symlink(spooler.path("secret"), spooler.path("new/.zsnap-drive")).unwrap();
    init("what is there is no mark: remove it: ");
    let fifo = spooler.path("new/.zsnap-drive");
    run(Command::new("mkfifo").arg(&fifo), b"").expect(0);
    init("is the drive \"\" already: mount the right one, or remove ");
    spooler.fanout(&["init", "new", "--same-filesystem", "--to", &to]).expect(0);
    // A symlink is not accepted as a mark: it would be the same in every directory.
    fs::remove_file(spooler.path("disk1/.zsnap-drive")).unwrap();
    symlink(spooler.path("new/.zsnap-drive"), spooler.path("disk1/.zsnap-drive")).unwrap();
    let ran = spooler.fanout(&["-v", "--to", &format!("new=dir:{}", spooler.path("disk1").display())]);
    assert_ne!(ran.status, 0);
    assert_eq!(spooler.on("disk1").len(), 2);
}

/// Most mount points are on the root file system. The spool is on another one.
#[test]
fn init_rejects_a_directory_on_the_root_file_system_as_root() {
    let spooler = Spooler::new();
    let root = tempfile::Builder::new().prefix("zsnap-").tempdir_in("/").unwrap();
    mount(&["-t", "tmpfs", "tmpfs", spooler.path("spool").to_str().unwrap()]);
    let ran = spooler.fanout(&["init", "new", "--to", &format!("new=dir:{}", root.path().display())]);
    unmount(&[], &spooler.path("spool"));
    ran.expect(78).says(&format!("{} is on the file system of /: mount the drive", root.path().display()));
    assert!(tree(root.path()).is_empty());
}

#[test]
fn a_host_directory_on_a_drive_must_not_be_a_symlink_or_a_file() {
    let spooler = Spooler::with(&["disk1", "disk2"]);
    fs::create_dir(spooler.path("elsewhere")).unwrap();
    symlink(spooler.path("elsewhere"), spooler.path("disk1/laptop")).unwrap();
    fs::write(spooler.path("disk1/server"), "a file").unwrap();
    let names =
        ["laptop", "server", "third"].map(|host| format!("{host}/{}", spooler.put(&format!("{host}/a"), 1, "x")));
    let ran = spooler.fanout(&[]).expect(1).says("disk1/laptop: ").says("disk1/server: ").says("next run tries again");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert!(tree(&spooler.path("elsewhere")).is_empty());
    assert_eq!((spooler.on("disk2"), spooler.waiting("disk1")), (names.to_vec(), names[..2].to_vec()));
    assert!(spooler.path("disk1").join(&names[2]).exists());
    spooler.silent_run();
    for name in ["disk1/laptop", "disk1/server"] {
        fs::remove_file(spooler.path(name)).unwrap();
    }
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), names);
}

#[test]
fn only_the_owner_of_the_spool_distributes_its_files_as_root() {
    needs_root();
    let spooler = Spooler::with(&["disk1"]);
    let name = spooler.put("laptop/a", 1, "x");
    for (dir, mode) in [("", 0o755), ("spool", 0o777), ("disk1", 0o777)] {
        fs::set_permissions(spooler.path(dir), fs::Permissions::from_mode(mode)).unwrap();
    }
    let nobody = |args: &[&str]| {
        let program = "/usr/bin/setpriv";
        let mut command = spooler.under(&[program, "--reuid=65534", "--regid=65534", "--clear-groups"], args);
        run(&mut command, b"")
    };
    let remedy = "spool belongs to root, and only root can hard-link the files: runuser -u root -- zsnap-fanout";
    for args in [&[][..], &["init", "disk1"], &["requeue", "disk1", "--since", "1d"], &["retire", "x"], &["check"]] {
        let ran = nobody(args).expect(78);
        assert!(ran.err.contains(remedy) || String::from_utf8_lossy(&ran.out).contains(remedy), "{args:?}: {ran:?}");
        assert_eq!(tree(&spooler.path("spool")), [format!("laptop/{name}")], "{args:?}");
    }
    assert!(!spooler.path("spool/.zsnap-fanout").exists() && spooler.on("disk1").is_empty());
    // Root is rejected in the spool of another user, with the user to use instead.
    for path in ["spool", "spool/laptop", &format!("spool/laptop/{name}")] {
        chown(spooler.path(path), Some(65534), None).unwrap();
    }
    spooler.fanout(&[]).expect(78).says("spool belongs to nobody, and only nobody can").says("runuser -u nobody --");
    // The owner must be able to write to the drive.
    fs::set_permissions(spooler.path("disk1"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = nobody(&[]).expect(1).says("disk1/laptop: Permission denied").says("correct its owner or mode");
    assert!(ran.err.contains(&format!("disk1: {name}: ")), "{}", ran.err);
    chown(spooler.path("disk1"), Some(65534), None).unwrap();
    assert_eq!(nobody(&[]).expect(0).err, "");
    assert_eq!(spooler.on("disk1"), [format!("laptop/{name}")]);
}

#[test]
fn files_and_directories_of_other_owners_stay_in_the_spool_as_root() {
    needs_root();
    let spooler = Spooler::with(&["disk1"]);
    let good = spooler.put("laptop/a", 1, "good");
    let bad = spooler.put("laptop/b", 2, "bad");
    let strange = spooler.put("server/a", 3, "strange");
    chown(spooler.path("spool/laptop").join(&bad), Some(65534), None).unwrap();
    chown(spooler.path("spool/server"), Some(65534), None).unwrap();
    let ran = spooler.fanout(&[]).expect(1);
    let message = format!("laptop/{bad}: belongs to user 65534, its directory to user 0; ignored");
    assert!(ran.err.contains(&message), "{}", ran.err);
    let ran = ran.says("server: belongs to another user than the spool; ignored: correct its owner");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert_eq!(spooler.on("disk1"), [format!("laptop/{good}")]);
    assert_eq!(spooler.left(), [format!("laptop/{bad}"), format!("server/{strange}")]);
    spooler.silent_run();
    for path in ["spool/server".to_owned(), format!("spool/laptop/{bad}")] {
        chown(spooler.path(path), Some(0), None).unwrap();
    }
    spooler.silent_run();
    assert_eq!(spooler.on("disk1").len(), 3);
}

/// Makes the user nobody the owner of everything, and returns a function that runs zsnap-fanout as nobody.
fn owned_by_nobody(spooler: &Spooler) -> impl Fn(&[&str]) -> Ran {
    needs_root();
    run(Command::new("chown").args(["-R", "65534"]).arg(spooler.path("")), b"").expect(0);
    fs::set_permissions(spooler.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    move |args: &[&str]| run(&mut spooler.under(&program, args), b"")
}

#[test]
fn denied_access_is_reported_to_the_owner_with_a_remedy_as_root() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "keep = \"9d\"");
    let one = spooler.put("srv/a", 1, "x");
    let nobody = owned_by_nobody(&spooler);
    // A host's directory that cannot be read is not treated as empty.
    let mode = |mode| fs::set_permissions(spooler.path("spool/srv"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0);
    let ran = nobody(&[]).expect(1);
    let message = format!(
        "srv: {}: Permission denied (os error 13); ignored: correct its owner or mode",
        spooler.path("spool/srv").display()
    );
    assert!(ran.err.contains(&message) && ran.err.lines().count() == 1, "{}", ran.err);
    assert_eq!(nobody(&["-v"]).expect(0).says("srv: ").err.matches("ignored").count(), 1);
    mode(0o700);
    // A temporary file that it may not remove does not concern the drive.
    fs::create_dir(spooler.path("disk1/usb")).unwrap();
    spooler.write("disk1/usb/.zsnap-0123456789abcdef", "");
    assert_eq!(nobody(&[]).expect(0).err, "");
    assert!(
        spooler.path("disk1/srv").join(&one).exists() && spooler.path("disk1/usb/.zsnap-0123456789abcdef").exists()
    );
    // The directory of kept files: a file that could not be kept is not delivered.
    let two = spooler.put("srv/a", 2, "x");
    run(Command::new("chown").args(["-R", "65534"]).arg(spooler.path("spool/srv")), b"").expect(0);
    run(Command::new("chown").args(["-R", "0"]).arg(spooler.path("spool/.zsnap-fanout/kept")), b"").expect(0);
    for path in tree(&spooler.path("spool/.zsnap-fanout/kept")) {
        let file = spooler.path("spool/.zsnap-fanout/kept").join(path);
        for dir in file.ancestors().skip(1).take(4) {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let ran = nobody(&[]).expect(1).says("disk1: nothing is delivered, because delivered files cannot be kept: ");
    assert!(ran.err.contains("Permission denied") && ran.err.contains("correct its owner or mode"), "{}", ran.err);
    assert_eq!(
        (spooler.waiting("disk1"), spooler.path("disk1/srv").join(&two).exists()),
        (vec![format!("srv/{two}")], false)
    );
    // The whole state.
    let state = spooler.path("spool/.zsnap-fanout");
    chown(&state, Some(0), None).unwrap();
    let remedy = format!("{0} belongs to user 0: chown -R 65534 {0}", state.display());
    nobody(&[]).expect(78).says(&remedy);
    run(Command::new("chown").args(["-R", "65534"]).arg(&state), b"").expect(0);
    assert_eq!(nobody(&[]).expect(0).err, "");
    assert!(spooler.path("disk1/srv").join(&two).exists());
}

#[test]
fn a_drive_within_the_spool_or_around_it_gets_nothing() {
    let spooler = Spooler::with(&["disk1"]);
    symlink(spooler.path("spool"), spooler.path("link")).unwrap();
    spooler.put("laptop/a", 1, "x");
    for (n, dir) in ["link", "spool/laptop", ""].iter().enumerate() {
        let to = format!("loop{n}=dir:{}", spooler.path(dir).display());
        for verb in [&["init", "--same-filesystem", &format!("loop{n}")][..], &["check"]] {
            let ran = spooler.fanout(&[verb, &["--to", &to]].concat()).expect(78);
            let text = String::from_utf8_lossy(&ran.out) + ran.err.as_str();
            assert!(text.contains("contain each other: give the drive another directory"), "{text}");
        }
        assert!(!spooler.path(dir).join(".zsnap-drive").exists());
    }
    // The same holds if the directory has a mark.
    spooler.mark("spool", "loop");
    spooler.to("loop", &format!("dir:{}", spooler.path("link").display()), "");
    let ran = spooler.fanout(&[]).expect(1).says("loop: ").says("contain each other");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!((spooler.on("disk1").len(), spooler.waiting("loop").len()), (1, 1));
}

#[test]
fn an_unreadable_spool_is_not_treated_as_an_empty_one_as_root() {
    needs_root();
    let spooler = Spooler::with(&["disk1"]);
    fs::set_permissions(spooler.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(spooler.path("spool"), fs::Permissions::from_mode(0o700)).unwrap();
    for args in [&[][..], &["status"]] {
        let mut command = spooler.under(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], args);
        let ran = run(&mut command, b"").expect(78).says("--spool: no directory to take files from");
        assert!(ran.err.contains("Permission denied"), "{}", ran.err);
    }
    // A spool with an unreadable part is not empty either; that part counts as late whatever it contains.
    spooler.put("laptop/a", 1, "x");
    for (dir, mode) in [("spool", 0o755), ("spool/laptop", 0)] {
        fs::set_permissions(spooler.path(dir), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (args, status) in [(&["status"][..], 1), (&["status", "--max-age", "9d", "--copies", "1", "disk1"], 1)] {
        let mut command = spooler.under(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], args);
        let text = String::from_utf8(run(&mut command, b"").expect(status).out).unwrap();
        assert!(text.lines().nth(1).unwrap().starts_with("(spool)      unreadable"), "{text}");
        assert!(
            text.contains("\n(spool): ")
                && text.contains("/spool/laptop: Permission denied (os error 13): correct its owner"),
            "{text}"
        );
    }
}
