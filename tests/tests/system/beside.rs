//! The journal next to a command's target. Another user may own the directory above: root must not write or remove
//! anything elsewhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use zsnap_tests::scene::{Scene, needs_root, run};

const DEAD: &str = "elsewhere/.zsnap-0123456789abcdef";

/// Makes a scene in which the target of laptop/etc is `srv/etc` and one file waits for it.
fn scene() -> Scene {
    let scene = Scene::new();
    let root = scene.path("").display().to_string();
    for dir in ["srv", "srv/etc", "elsewhere"] {
        fs::create_dir(scene.path(dir)).unwrap();
    }
    fs::write(scene.path(DEAD), "").unwrap();
    scene.edit("ingest.toml", &format!("target = \"{root}target\""), &format!("target = \"{root}srv/etc\""));
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"hello").expect(0);
    scene
}

#[test]
fn a_symbolic_link_in_place_of_the_journal_is_not_followed() {
    let scene = scene();
    symlink(scene.path("elsewhere"), scene.path("srv/.zsnap")).unwrap();
    let says = format!("{} is not a directory: remove it", scene.path("srv/.zsnap").display());
    let found = String::from_utf8(scene.ingest(&["check"]).expect(78).out).unwrap();
    assert!(found.contains(&says), "{found}");
    scene.ingest(&[]).expect(1).says("held: ").says(&says);
    let plan = String::from_utf8(scene.ingest(&["plan"]).expect(1).out).unwrap();
    assert!(plan.contains("held") && plan.contains(&says), "{plan}");
    assert!(scene.ingest(&["forget", "laptop/etc"]).status != 0);
    assert!(scene.path(DEAD).exists() && fs::read_dir(scene.path("elsewhere")).unwrap().count() == 1);
    assert!(scene.applied().is_empty() && scene.spooled("laptop").len() == 1);
    fs::remove_file(scene.path("srv/.zsnap")).unwrap();
    scene.ingest(&["check"]).expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
    assert!(scene.path("srv/.zsnap/etc.json").exists());
    assert_eq!(fs::metadata(scene.path("srv/.zsnap")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn files_are_held_while_another_user_owns_the_journal_as_root() {
    needs_root();
    let scene = scene();
    let nobody = Some(65534);
    chown(scene.path("srv"), nobody, None).unwrap();
    let found = String::from_utf8(scene.ingest(&["check"]).expect(78).out).unwrap();
    let above = scene.path("srv").display().to_string();
    assert!(
        found.contains(&format!("its directory belongs to user 65534, who may change it: chown root {above}")),
        "{found}"
    );
    // The other user has made the directory of the journal.
    fs::create_dir(scene.path("srv/.zsnap")).unwrap();
    fs::write(scene.path("srv/.zsnap/.zsnap-0123456789abcdef"), "").unwrap();
    chown(scene.path("srv/.zsnap"), nobody, None).unwrap();
    let path = scene.path("srv/.zsnap").display().to_string();
    let remedy = format!("chown -R 0 {path}");
    scene.ingest(&[]).expect(1).says("held: ").says(&format!("{path} belongs to user 65534: {remedy}"));
    assert!(scene.path("srv/.zsnap/.zsnap-0123456789abcdef").exists());
    assert!(scene.applied().is_empty() && scene.spooled("laptop").len() == 1);
    run(std::process::Command::new("sh").args(["-c", &remedy]), b"").expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"hello");
    run(std::process::Command::new("chown").arg("root").arg(scene.path("srv")), b"").expect(0);
    scene.ingest(&["check"]).expect(0);
}

/// A journal that cannot be read may be intact: only a damaged one makes the chain broken.
#[test]
fn a_journal_that_cannot_be_read_is_a_failure() {
    let scene = scene();
    scene.ingest(&[]).expect(0);
    let journal = scene.path("srv/.zsnap/etc.json");
    let (text, moved) = (fs::read(&journal).unwrap(), scene.path("moved"));
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"again").expect(0);
    fs::rename(&journal, &moved).unwrap();
    symlink(&moved, &journal).unwrap();
    scene.ingest(&[]).expect(75).says("laptop/etc: journal").says("Too many levels of symbolic links");
    // It may have entries of other datasets.
    scene.ingest(&["forget", "laptop/etc"]).expect(75).says("journal");
    assert_eq!(fs::read(&moved).unwrap(), text);
    let plan = String::from_utf8(scene.ingest(&["plan"]).expect(75).out).unwrap();
    assert!(plan.contains("failed") && !plan.contains("forget"), "{plan}");
    let status = String::from_utf8(scene.ingest(&["status"]).expect(75).out).unwrap();
    assert!(status.contains("failed") && !status.contains("forget"), "{status}");
    fs::remove_file(&journal).unwrap();
    fs::write(&journal, "{").unwrap();
    scene.ingest(&[]).expect(1).says("broken chain: ").says("zsnap-ingest forget laptop/etc");
    fs::File::options().write(true).open(&journal).unwrap().set_len(65 << 20).unwrap();
    scene.ingest(&[]).expect(1).says("holds more than").says("zsnap-ingest forget laptop/etc");
    fs::write(&journal, text).unwrap();
    scene.ingest(&[]).expect(0);
    assert_eq!((scene.applied(), scene.spooled("laptop").len()), (b"helloagain".to_vec(), 0));
}
