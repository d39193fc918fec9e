//! `--outbox`: streams that are sealed on the drive that carries them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use zsnap_tests::removable::{DESKTOP, Format, Removable};
use zsnap_tests::scene::{Ran, Scene, files, needs_root, run};
use zsnap_tests::strace::can_trace;
use zsnap_tests::torture::walk;

use super::{DATA, mounted, names, real};

/// Builds the command that seals in the outbox on the drive at `spool`, which is also the destination.
fn command(h: &Scene) -> Command {
    let mut command = h.sealing();
    command.arg(format!("--to=dir:{}", h.path("spool").display())).arg("--outbox").arg(h.path("spool"));
    command
}

fn queue(h: &Scene, stream: &str) -> Ran {
    run(command(h).arg(DATA), &real(stream))
}

/// Lists the files in the outbox on the drive, which are hidden from readers of the drive.
fn aboard(h: &Scene) -> Vec<PathBuf> {
    walk(h.path("spool/.zsnap-queue"))
}

#[test]
fn a_stream_is_sealed_on_the_drive_without_a_second_copy() {
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    let before = walk(h.path("queue-state")).len();
    queue(&h, "full").silent();
    let first = h.spooled("laptop");
    assert!(h.open(&first[0]).bytes == real("full"));
    queue(&h, "incr-i-s1-s2").silent();
    let (spooled, left) = (h.spooled("laptop"), aboard(&h));
    let opened = h.open(spooled.last().unwrap());
    // The state never held a queue file, and the drive is not taken away in use.
    let kept: Vec<_> =
        walk(h.path("queue-state")).into_iter().filter(|path| path.to_string_lossy().contains("bakfsfmt2")).collect();
    assert!(mount("umount", &[]));
    assert_eq!((before, spooled.len(), left, kept), (0, 2, vec![], vec![]));
    assert!(opened.bytes == real("incr-i-s1-s2") && opened.manifest.prev.is_some());
}

#[test]
fn nothing_is_read_while_the_drive_is_away_or_another_one_is_mounted() {
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    queue(&h, "full").silent();
    assert!(mount("umount", &[]));
    // No byte of the input is read: it is the same offset afterwards.
    let away = |says: &str| {
        h.write("stream", "");
        fs::write(h.path("stream"), real("incr-i-s1-s2")).unwrap();
        let input = fs::File::open(h.path("stream")).unwrap();
        let ran = Ran::of(command(&h).arg(DATA).stdin(input.try_clone().unwrap()).output().unwrap());
        ran.expect(75).says("is away, so nothing was read").says(says);
        assert_eq!(rustix::fs::tell(&input).unwrap(), 0);
    };
    away("has no .zsnap-drive");
    assert_eq!(names(&h.path("spool")).len(), 0);
    assert!(mount("mount", &["-t", "tmpfs", "tmpfs"]));
    h.write("spool/.zsnap-drive", "other\n");
    away("is the drive \"other\"");
    let others = names(&h.path("spool")).len();
    assert!(mount("umount", &[]));
    assert_eq!(others, 1);
}

#[test]
fn only_a_directory_on_the_same_drive_can_be_the_destination() {
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    let elsewhere = format!("--to=dir:{}", h.path("tar").display());
    let both = run(command(&h).args([&elsewhere, DATA]), &real("full"));
    h.mark("tar");
    let other = run(h.sealing().args([&elsewhere, DATA]).arg("--outbox").arg(h.path("spool")), &real("full"));
    assert!(mount("umount", &[]));
    both.expect(2).says("--outbox takes one destination");
    other.expect(78).says("is not on the file system of dir:");
    assert!(names(&h.path("tar/laptop")).is_empty());
}

/// Kills runs at each rename, in the order of ARCHITECTURE.md, and lets the next one continue.
#[test]
fn a_kill_between_the_steps_loses_and_repeats_nothing() {
    if !can_trace() {
        return;
    }
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    queue(&h, "full").silent();
    let mut results = Vec::new();
    // The state as an older run left it, with files of nobody.
    for (number, call) in ["renameat", "renameat2"].into_iter().flat_map(|call| (1..=4).map(move |n| (n, call))) {
        let stream = real("incr-i-s1-s2");
        let inject = format!("inject={call}:signal=SIGKILL:when={number}");
        let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let (known, there) = (h.queue_state("src@data")["chain"]["seq"].clone(), h.spooled("laptop").len());
        let killed = run(&mut zsnap_tests::scene::under(&before, command(&h).arg(DATA)), &stream);
        let queued = h.queue_state("src@data")["chain"]["seq"] != known;
        // Whatever the next command is, it finishes what was queued; only a run with the outbox removes the rest.
        run(h.bare().arg("flush"), b"").expect(0);
        let arrived = h.spooled("laptop").len() - there;
        run(command(&h).arg(DATA), &real("empty-incr")).expect(65);
        // The state lists nothing that has its place.
        assert!(h.queue_state("src@data")["aboard"].is_null(), "{call} {number}");
        results.push((killed.status != 0, queued, arrived, aboard(&h).len()));
    }
    assert!(mount("umount", &[]));
    // Each stream that was queued has arrived once, and nothing else is left.
    for (killed, queued, arrived, left) in &results {
        assert_eq!((usize::from(*queued), *left), (*arrived, 0), "{killed} {results:?}");
    }
    assert!(results.iter().any(|(killed, queued, ..)| *killed && *queued), "{results:?}");
    assert!(results.iter().any(|(killed, queued, ..)| *killed && !*queued), "{results:?}");
}

#[test]
fn a_file_that_is_queued_on_an_absent_drive_waits_for_it() {
    if !can_trace() {
        return;
    }
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    // The rename to its place fails, as if the drive was pulled.
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=renameat2:error=EIO"];
    let ran = run(&mut zsnap_tests::scene::under(&before, command(&h).arg(DATA)), &real("full"));
    let status = |h: &Scene| {
        let to = format!("--to=dir:{}", h.path("spool").display());
        String::from_utf8(run(h.bare().args([&to, "status"]), b"").expect(0).out).unwrap()
    };
    let (waits, hidden) = (status(&h), aboard(&h).len());
    let readers_see = files(&h.path("spool/laptop")).len();
    fs::rename(h.path("spool/.zsnap-drive"), h.path("mark")).unwrap_or_else(|_| {
        fs::copy(h.path("spool/.zsnap-drive"), h.path("mark")).unwrap();
        fs::remove_file(h.path("spool/.zsnap-drive")).unwrap();
    });
    // The drive is away: other streams are queued meanwhile, and what waits is not forgotten.
    let other = run(h.sealing().args(["--to=cmd:cat > /dev/null", DATA]), &real("incr-i-s1-s2"));
    let still = status(&h);
    fs::copy(h.path("mark"), h.path("spool/.zsnap-drive")).unwrap();
    let flushed = run(h.bare().arg("flush"), b"");
    let (arrived, left, after) = (h.spooled("laptop").len(), aboard(&h).len(), status(&h));
    assert!(mount("umount", &[]));
    ran.expect(0).says("is queued, but is in ").says("the next run tries again");
    assert!(waits.contains("waiting") && waits.contains("1 file waits in the outbox on the drive"), "{waits}");
    assert_eq!((hidden, readers_see), (1, 0));
    other.expect(0);
    assert!(still.contains("1 file waits in the outbox on the drive"), "{still}");
    flushed.expect(0);
    assert_eq!((arrived, left), (1, 0));
    assert!(!after.contains("waits in the outbox"), "{after}");
}

/// exFAT by FUSE has neither links nor a rename without replacing.
#[test]
fn a_stick_without_links_carries_streams_as_root() {
    needs_root();
    let h = Scene::new();
    fs::remove_file(h.path("spool/.zsnap-drive")).unwrap();
    let Some(stick) = Removable::new(Format::ExFat, &h.path("spool")) else { return };
    run(h.bare().arg("init").arg(h.path("spool")), b"").expect(0);
    queue(&h, "full").silent();
    let opened = h.open(&h.spooled("laptop")[0]).bytes;
    let left = aboard(&h).len();
    stick.unmount();
    let away = queue(&h, "incr-i-s1-s2");
    stick.mount(DESKTOP);
    queue(&h, "incr-i-s1-s2").silent();
    let spooled = h.spooled("laptop").len();
    drop(stick);
    assert!(opened == real("full"));
    away.expect(75).says("is away, so nothing was read");
    assert_eq!((left, spooled), (0, 2));
}

/// Queues a stream on the drive whose file does not get its place, as if the drive was pulled.
fn queue_without_place(h: &Scene, dir: &str) {
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=renameat2:error=EIO"];
    let mut command = h.sealing();
    command.arg(format!("--to=dir:{}", h.path("spool").display())).arg("--outbox").arg(h.path(dir));
    run(&mut zsnap_tests::scene::under(&before, command.arg(DATA)), &real("full"))
        .expect(0)
        .says("is queued, but is in");
}

#[test]
fn a_file_that_may_be_queued_is_never_withdrawn() {
    if !can_trace() {
        return;
    }
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    queue_without_place(&h, "spool");
    // As if the move to its place was recorded, but was not durable.
    let mut state = h.queue_state("src@data");
    state.as_object_mut().unwrap().remove("aboard").unwrap();
    fs::write(h.path("queue-state/datasets/laptop/src@data/state.json"), state.to_string()).unwrap();
    let entry = aboard(&h);
    let next = queue(&h, "incr-i-s1-s2");
    let (left, arrived) = (aboard(&h), h.spooled("laptop").len());
    assert!(mount("umount", &[]));
    next.expect(0).says("may be a queued stream, and stays").says(&format!("rm {}", entry[0].display()));
    assert_eq!((left, entry.len(), arrived), (entry, 1, 1));
}

#[test]
fn an_outbox_that_is_not_found_is_not_taken_for_delivered() {
    if !can_trace() {
        return;
    }
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    fs::create_dir(h.path("spool/out")).unwrap();
    queue_without_place(&h, "spool/out");
    let listed = || h.queue_state("src@data")["aboard"].as_array().map_or(0, Vec::len);
    fs::rename(h.path("spool/out"), h.path("spool/gone")).unwrap();
    // The first flush reports it.
    run(h.bare().arg("flush"), b"").expect(1).says("is queued, but is in ");
    run(h.bare().arg("flush"), b"").silent();
    let without = listed();
    // Another directory at its path, which is not on the drive.
    std::os::unix::fs::symlink(h.path("tar"), h.path("spool/out")).unwrap();
    let elsewhere = run(h.bare().arg("flush"), b"");
    let still = listed();
    fs::remove_file(h.path("spool/out")).unwrap();
    fs::rename(h.path("spool/gone"), h.path("spool/out")).unwrap();
    run(h.bare().arg("flush"), b"").expect(0);
    let (arrived, after) = (h.spooled("laptop").len(), listed());
    assert!(mount("umount", &[]));
    elsewhere.says("is not on the drive");
    assert_eq!((without, still, arrived, after), (1, 1, 1, 0));
}

#[test]
fn an_outbox_by_another_mount_of_the_drive_is_rejected_as_root() {
    needs_root();
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    fs::create_dir(h.path("bind")).unwrap();
    let bind = |args: &[&str]| {
        let paths = args.iter().map(|arg| if arg.starts_with('-') { arg.into() } else { h.path(arg) });
        Command::new("mount").args(paths).status().unwrap().success()
    };
    assert!(bind(&["--bind", "spool", "bind"]));
    let to = format!("--to=dir:{}", h.path("spool").display());
    let ran = run(h.sealing().args([&to, DATA]).arg("--outbox").arg(h.path("bind")), &real("full"));
    let made = aboard(&h).len();
    assert!(Command::new("umount").arg(h.path("bind")).status().unwrap().success());
    assert!(mount("umount", &[]));
    ran.expect(78).says("is there by another mount");
    assert_eq!(made, 0);
}

#[test]
fn what_was_queued_without_an_outbox_is_delivered_with_it() {
    let h = Scene::new();
    let Some(mount) = mounted(&h.path("spool")) else { return };
    let to = format!("--to=dir:{}", h.path("spool").display());
    fs::copy(h.path("spool/.zsnap-drive"), h.path("mark")).unwrap();
    fs::remove_file(h.path("spool/.zsnap-drive")).unwrap();
    let away = run(h.sealing().args([&to, DATA]), &real("full"));
    fs::copy(h.path("mark"), h.path("spool/.zsnap-drive")).unwrap();
    let next = run(command(&h).args(["--json", DATA]), &real("incr-i-s1-s2"));
    let (arrived, waiting) = (h.spooled("laptop").len(), h.outbox().len());
    assert!(mount("umount", &[]));
    away.expect(0);
    next.expect(0).prints("\"delivered\":true");
    assert_eq!((arrived, waiting), (2, 0));
}
