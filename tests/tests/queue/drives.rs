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
    run(h.sealing().args([&to, DATA]), &real("incr-i-s1-s2")).expect(0).says("nothing is mounted there");
    // Only the first of these runs reports it, but none may take the empty mount point for the drive.
    for status in [1, 0, 0] {
        run(h.bare().arg("flush"), b"").expect(status);
        assert_eq!((names(&drive).len(), h.outbox().len()), (0, 1));
    }
}
