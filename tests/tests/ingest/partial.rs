//! Files of which only a part was received.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use zsnap_tests::scene::{Scene, name};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::stream::Sub;

const SEQ: u64 = 1_700_000_000_000_000;
const TARGET: &str = "laptop/tank/home";

#[test]
fn a_file_that_was_received_in_part_does_not_count_as_received() {
    let scene = Scene::with_pool();
    let sealer = Sealer::new(&scene);
    let zfs = scene.path("bin/zfs").display().to_string();
    scene.write("picky", &format!("#!/bin/sh\ncase \"$*\" in receive*@s2) exit 1; esac\nexec {zfs} \"$@\"\n"));
    fs::set_permissions(scene.path("picky"), fs::Permissions::from_mode(0o755)).unwrap();
    scene.edit("ingest.toml", &zfs, &scene.path("picky").display().to_string());
    let subs = vec![Sub::full("tank/home@s1", 1), Sub::increment("tank/home@s2", 1, 2)];
    let first = scene.deliver("laptop", &name(TARGET, SEQ), &sealer.zfs(TARGET, SEQ, None, subs, true));
    scene.ingest(&[]).expect(69).says("the snapshot is not there");
    scene.zfs(&["list", "-Hp", "-t", "snapshot", "-o", "guid", "backup/hosts/laptop/tank/home@s1"]).expect(0);
    // If the rest of it is lost, the next file waits for it: it may be sent again.
    fs::remove_file(first).unwrap();
    let subs = vec![Sub::increment("tank/home@s3", 2, 3)];
    scene.deliver("laptop", &name(TARGET, SEQ + 1), &sealer.zfs(TARGET, SEQ + 1, Some(SEQ), subs, false));
    scene.ingest(&[]).expect(1).says(&format!("file {SEQ} of {TARGET}")).says("has not come");
}
