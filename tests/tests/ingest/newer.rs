//! A queue file that a newer zsnap-queue made and this version does not know is held until zsnap-ingest is
//! upgraded, and nothing else is.

use std::fs;

use serde_json::Value;
use zsnap_tests::packets::{frame, message};
use zsnap_tests::scene::{Scene, manifest, name, run};

const SEQ: u64 = 1_700_000_000_000_000;

/// A change of the manifest and the trailer.
type Change = fn(&mut Value, &mut Value);

/// Queue file SEQ of laptop/etc with a changed manifest and trailer, signed or not.
fn made(scene: &Scene, change: impl Fn(&mut Value, &mut Value), signed: bool) -> Vec<u8> {
    let mut front = serde_json::to_value(manifest("laptop/etc", SEQ)).unwrap();
    let mut back =
        serde_json::json!({"zsnap": 1, "bytes": 5, "sha256": zsnap_common::names::digest::sha256_hex(b"hello")});
    change(&mut front, &mut back);
    let zstd = zstd::encode_all(&b"hello"[..], 1).unwrap();
    let payload = [frame(0xa, &front.to_string()), zstd, frame(0xb, &back.to_string())].concat();
    let signer = scene.path("laptop.key");
    message(&payload, signed.then_some(signer.as_path()), &scene.path("backup.cert"))
}

fn state_of(scene: &Scene, dataset: &str) -> String {
    let ran = scene.ingest(&["--json", "status"]).expect(1);
    let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    rows.iter().find(|row| row["dataset"] == dataset).unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_file_of_a_newer_version_is_held_and_delays_no_other_dataset() {
    let of_version = |what: &str| format!("the {what} is of version 2, this program reads version 1");
    let cases: [(Change, String); 3] = [
        (|front, _| front["kind"] = "inventory".into(), "its kind is \"inventory\"".into()),
        (|front, _| (front["zsnap"], front["kind"]) = (2.into(), 7.into()), of_version("manifest")),
        (|_, back| back["zsnap"] = 2.into(), of_version("trailer")),
    ];
    for (change, says) in cases {
        let scene = Scene::new();
        let newer = made(&scene, change, true);
        scene.deliver("laptop", &name("laptop/etc", SEQ), &newer);
        scene.age("laptop");
        let tar = run(std::process::Command::new("tar").args(["-cf", "-", "-T", "/dev/null"]), b"").expect(0).out;
        scene.queue(&["--opaque", "--full", "laptop/tar"], &tar).expect(0);
        let held = format!("held: made by a newer zsnap-queue: {says}");
        let ran = scene.ingest(&[]).expect(1).says(&held).says("upgrade zsnap-ingest here");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        let left = scene.spooled("laptop");
        assert_eq!(left.len(), 1, "more or less than the file of the newer version is left");
        assert!(scene.quarantined("laptop").is_empty());
        // It is reported once, and `status` shows it as long as it lasts.
        assert_eq!(scene.ingest(&[]).expect(0).err, "");
        assert_eq!(state_of(&scene, "laptop/etc"), "held");
        let plan = scene.ingest(&["plan"]).expect(1);
        assert!(String::from_utf8(plan.out).unwrap().contains("made by a newer zsnap-queue"));
        scene.ingest(&["verify", left[0].to_str().unwrap()]).expect(75).says(&says);
        // A sender that waits for the exit status of exec keeps the file.
        run(&mut scene.ingest_command(["exec", "--host", "laptop"]), &newer).expect(75).says(&says);
        assert_eq!(fs::read_dir(scene.path("ingest-state/exec/laptop")).unwrap().count(), 0);
        // An upgraded version may know it: the file is opened again once a day, and not before.
        let facts = scene.path("ingest-state/facts/laptop.json");
        for (sooner, says) in [(0, "held: as it was"), (24 * 3600, held.as_str())] {
            let mut known: Value = serde_json::from_slice(&fs::read(&facts).unwrap()).unwrap();
            let file = known["files"].as_object_mut().unwrap().values_mut().next().unwrap();
            file["what"]["held"] = "as it was".into();
            file["again"] = (file["again"].as_u64().unwrap() - sooner).into();
            fs::write(&facts, known.to_string()).unwrap();
            scene.ingest(&[]).expect(1).says(says);
        }
        // The upgraded version knows other kinds and trusts nothing that this one remembered.
        let mut known: Value = serde_json::from_slice(&fs::read(&facts).unwrap()).unwrap();
        known["fingerprint"] = "another".into();
        fs::write(&facts, known.to_string()).unwrap();
        assert_eq!(state_of_new(&scene), "new");
    }
}

fn state_of_new(scene: &Scene) -> String {
    let ran = scene.ingest(&["--json", "status", "laptop/etc"]).expect(0);
    let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    rows[0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_file_of_a_newer_version_must_be_authentic() {
    let newer = |front: &mut Value, _: &mut Value| front["kind"] = "inventory".into();
    let scene = Scene::new();
    scene.deliver("laptop", &name("laptop/etc", SEQ), &made(&scene, newer, false));
    scene.age("laptop");
    scene.ingest(&[]).expect(1).says("not signed");
    let scene = Scene::new();
    let mut truncated = made(&scene, newer, true);
    truncated.truncate(truncated.len() - 20);
    scene.deliver("laptop", &name("laptop/etc", SEQ), &truncated);
    scene.age("laptop");
    scene.ingest(&[]).expect(1).says("in quarantine: damaged");
}

#[test]
fn a_kind_or_version_that_no_zsnap_queue_writes_is_malformed() {
    for kind in ["", "Zfs", "in ventory", "x\u{202e}", &"k".repeat(33)] {
        let scene = Scene::new();
        let made = made(&scene, |front, _| front["kind"] = kind.into(), true);
        scene.deliver("laptop", &name("laptop/etc", SEQ), &made);
        scene.age("laptop");
        scene.ingest(&[]).expect(1).says("in quarantine: not as a queue file should be");
    }
    let scene = Scene::new();
    let old = made(&scene, |front, _| front["zsnap"] = 0.into(), true);
    scene.deliver("laptop", &name("laptop/etc", SEQ), &old);
    scene.age("laptop");
    scene.ingest(&[]).expect(1).says("in quarantine: not as a queue file should be: the manifest is of version 0");
}
