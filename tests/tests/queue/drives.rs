//! Drives that are mounted and unmounted.

use zsnap_tests::scene::{Scene, run};

use super::{DATA, mounted, names, real};

#[test]
fn an_unmounted_drive_stays_away_in_every_run() {
    let h = Scene::new();
    let drive = h.path("spool");
    let Some(mount) = mounted(&drive) else { return };
    let to = format!("--to=dir:{}", drive.display());
    run(h.sealing().args([&to, DATA]), &real("full")).silent();
    assert!(mount("umount", &[]));
    run(h.sealing().args([&to, DATA]), &real("incr-i-s1-s2"))
        .expect(0)
        .says("/spool has no .zsnap-drive: the drive is not mounted");
    // Only the first of these runs reports it, but none may take the empty mount point for the drive.
    for status in [1, 0, 0] {
        run(h.bare().arg("flush"), b"").expect(status);
        assert_eq!((names(&drive).len(), h.outbox().len()), (0, 1));
    }
}

#[test]
fn a_new_destination_gets_nothing_until_its_drive_is_marked() {
    let h = Scene::new();
    let drive = h.path("my drive");
    std::fs::create_dir(&drive).unwrap();
    let to = format!("--to=dir:{}", drive.display());
    let remedy = format!("if the right one is mounted there: zsnap-queue init '{}'", drive.display());
    run(h.sealing().args([&to, "check"]), b"").expect(78).prints(&remedy);
    run(h.sealing().args([&to, DATA]), &real("full")).expect(0).says(&remedy);
    assert_eq!((names(&drive).len(), h.outbox().len()), (0, 1));
    // The directory of the test is most likely on the file system of the state.
    let init = |more: &[&str]| run(h.bare().args([&to, "init"]).args(more).arg(&drive), b"");
    init(&[]).expect(78).says("mount the drive, or say --same-filesystem");
    init(&["--same-filesystem"]).silent();
    let mark = std::fs::read_to_string(drive.join(".zsnap-drive")).unwrap();
    assert!(mark.starts_with("mydrive-"), "{mark}");
    run(h.bare().args([&to, "flush"]), b"").silent();
    assert_eq!(names(&drive.join("laptop")).len(), 1);
    run(h.sealing().args([&to, "check"]), b"").expect(0);
    // Another drive with a mark is not taken for this one, until it is made one.
    h.write("my drive/.zsnap-drive", "other\n");
    run(h.sealing().args([&to, DATA]), &real("incr-i-s1-s2")).expect(0).says("is the drive \"other\"");
    run(h.sealing().args([&to, "check"]), b"").expect(1).prints("is the drive \"other\"");
    init(&["--same-filesystem"]).silent();
    run(h.bare().args([&to, "flush"]), b"").silent();
    assert_eq!(names(&drive.join("laptop")).len(), 2);
    // A new drive that is used in turn gets the same name.
    std::fs::remove_file(drive.join(".zsnap-drive")).unwrap();
    init(&["--same-filesystem"]).silent();
    assert_eq!(std::fs::read_to_string(drive.join(".zsnap-drive")).unwrap(), "other\n");
}
