//! What `check` finds: a `check` that says ok means that the next run works, as far as anybody can know.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use zsnap_tests::scene::{Scene, manifest, name, needs_root, run};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::stream::Sub;

const SEQ: u64 = 1_700_000_000_000_000;

/// Runs `check`, and returns the lines that are not `ok`.
#[track_caller]
fn findings(scene: &Scene, status: i32) -> Vec<String> {
    let text = String::from_utf8(scene.ingest(&["check", "--quiet"]).expect(status).out).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_finds(scene: &Scene, status: i32, says: &[&str]) {
    let found = findings(scene, status);
    assert_eq!(found.len(), says.len(), "{found:#?}");
    for says in says {
        assert!(found.iter().any(|line| line.contains(says)), "{says}: {found:#?}");
    }
}

#[test]
fn each_mistake_is_a_finding_that_hides_no_other() {
    let scene = Scene::with_pool();
    assert_finds(&scene, 0, &[]);
    scene.write("bin/readonly", "");
    assert_finds(
        &scene,
        78,
        &["fail  store: the pool backup is imported read-only: zpool export backup, then zpool import backup"],
    );
    fs::remove_file(scene.path("bin/readonly")).unwrap();
    scene.write("bin/keystatus", "");
    assert_finds(&scene, 1, &["warn  store: the key of backup/hosts is not loaded, so that only raw streams"]);
    fs::remove_file(scene.path("bin/keystatus")).unwrap();
    // A typo, and files that wait because of it.
    scene.edit("ingest.toml", "[hosts.laptop]", "[hosts.latop]");
    scene.edit("ingest.toml", "match = \"laptop/tar\"", "match = \"laptop\"");
    scene.deliver("laptop", &name("laptop/etc", SEQ), b"x");
    fs::create_dir(scene.path("spool/System Volume Information")).unwrap();
    let typo = [
        "warn  incoming: laptop is not configured, and its files are held: add [hosts.laptop], or correct [hosts.latop]",
        "target: match: no configured host is called laptop: add [hosts.laptop], or correct [hosts.latop] if that is",
        "tar: match: \"laptop\" is not HOST/DATASET, and so matches nothing: try \"laptop/**\"",
    ];
    assert_finds(&scene, 1, &typo);
    let zfs = format!("{:?}", scene.path("bin/zfs"));
    scene.edit("ingest.toml", &zfs, "\"/none/zfs\"");
    let key = format!("{:?}", scene.path("backup.key"));
    scene.edit("ingest.toml", &key, "\"/none.key\"");
    let missing = [
        "fail  store: /none/zfs is not a program that can be run: install it",
        "fail  keys and certificates: /none.key",
    ];
    assert_finds(&scene, 78, &[&missing[..], &typo].concat());
    fs::rename(scene.path("spool"), scene.path("elsewhere")).unwrap();
    assert_finds(
        &scene,
        78,
        &[&["spool is absent: create it, or attach its drive"], &missing[..], &typo[1..]].concat(),
    );
}

/// The remedies are carried out as they are printed.
#[test]
fn what_the_user_of_a_command_may_not_do_is_a_finding_as_root() {
    needs_root();
    let scene = Scene::new();
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o755)).unwrap();
    scene.edit("ingest.toml", "match = \"laptop/etc\"", "match = \"laptop/etc\"\nuser = \"nobody\"");
    let target = scene.path("target").display().to_string();
    let remedy = format!("chown nobody {target}");
    let says =
        format!("fail  [[command]] {target}: target: nobody may not write to {target}: {remedy}, and let nobody");
    assert_finds(&scene, 78, &[&says]);
    run(Command::new("sh").args(["-c", &remedy]), b"").expect(0);
    assert_finds(&scene, 0, &[]);
    scene.deliver("laptop", &name("laptop/etc", SEQ), &scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"x"));
    scene.ingest(&[]).silent();
    assert_eq!(scene.applied(), b"x");
    // A program in a directory that only root may enter, or a target there.
    fs::create_dir(scene.path("private")).unwrap();
    fs::set_permissions(scene.path("private"), Permissions::from_mode(0o700)).unwrap();
    let program = scene.path("private/sh").display().to_string();
    fs::copy("/bin/sh", &program).unwrap();
    scene.edit("ingest.toml", "\"/bin/sh\"", &format!("{program:?}"));
    assert_finds(&scene, 78, &[&format!("run: nobody may not run {program}")]);
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o700)).unwrap();
    assert_finds(&scene, 78, &[&format!("run: nobody may not run {program}"), &says]);
}

/// Directories of hosts from which nothing can be removed.
#[test]
fn a_directory_that_nothing_can_be_removed_from_is_a_finding_as_root() {
    needs_root();
    let scene = Scene::new();
    let dir = scene.path("spool/laptop");
    fs::create_dir(&dir).unwrap();
    if run(Command::new("chattr").arg("+i").arg(&dir), b"").status != 0 {
        eprintln!("NOT TESTED: this file system has no immutable directories");
        return;
    }
    let found = scene.ingest(&["check", "--quiet"]);
    run(Command::new("chattr").arg("-i").arg(&dir), b"").expect(0);
    found.expect(78).prints("spool/laptop: Operation not permitted (os error 1): correct its owner or mode");
    assert_finds(&scene, 0, &[]);
}

/// On a machine with a store and commands, what commands receive needs no pool.
#[test]
fn commands_run_although_zfs_or_the_pool_fails() {
    for missing in ["zfs", "zpool"] {
        let scene = Scene::with_pool();
        let sealer = Sealer::new(&scene);
        let target = "laptop/tank/home";
        let file = sealer.zfs(target, SEQ, None, vec![Sub::full("tank/home@s1", 1)], false);
        let waits = scene.deliver("laptop", &name(target, SEQ), &file);
        let opaque = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"applied");
        scene.deliver("laptop", &name("laptop/etc", SEQ), &opaque);
        fs::rename(scene.path("bin").join(missing), scene.path("gone")).unwrap();
        let says =
            format!("backup/hosts: {} is not a program that can be run", scene.path("bin").join(missing).display());
        scene.ingest(&[]).expect(69).says(&says);
        assert_eq!((scene.applied(), waits.exists()), (b"applied".to_vec(), true));
        scene.ingest(&[]).silent();
        let rows: Vec<serde_json::Value> =
            serde_json::from_slice(&scene.ingest(&["status", "--json"]).expect(69).out).unwrap();
        let states: Vec<_> = rows.iter().map(|row| (row["dataset"].as_str(), row["state"].as_str())).collect();
        assert!(
            states.contains(&(Some(target), Some("failed"))) && states.contains(&(Some("laptop/etc"), Some("ok"))),
            "{states:?}"
        );
        scene.ingest(&["plan"]).expect(69).prints(&says);
        // Another pool's journal must not be believed to be this one's.
        scene.ingest(&["forget", target]).expect(69).says(&says["backup/hosts: ".len()..]);
        fs::rename(scene.path("gone"), scene.path("bin").join(missing)).unwrap();
        scene.ingest(&[]).silent();
        assert!(!waits.exists());
    }
    // Without commands there is nothing to do.
    let scene = Scene::with_pool();
    let text = fs::read_to_string(scene.path("ingest.toml")).unwrap();
    scene.write("ingest.toml", text.split("[[command]]").next().unwrap());
    fs::remove_file(scene.path("bin/zpool")).unwrap();
    scene.ingest(&[]).expect(69).says("is not a program that can be run: install it");
}
