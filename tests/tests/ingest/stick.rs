//! Queue files on sticks as people have them: FAT, exFAT or NTFS, mounted by a desktop or write-protected. Quarantine is
//! impossible there, inode numbers change from mount to mount, and nothing may be removed.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use zsnap_message::payload::{Base, Manifest};
use zsnap_tests::random::noise;
use zsnap_tests::removable::{DESKTOP, Format, Removable};
use zsnap_tests::scene::{Ran, Scene, manifest, name, run};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::strace::{self, can_trace};
use zsnap_tests::stream::Sub;

const SEQ: u64 = 1_700_000_000_000_000;
const TARGET: &str = "laptop/tank/home";

/// Scenes whose spool is a stick.
fn sticks() -> impl Iterator<Item = (Format, Scene, Removable)> {
    Format::ALL.into_iter().filter_map(|format| {
        let scene = Scene::with_pool();
        let stick = Removable::new(format, &scene.path("spool"))?;
        Some((format, scene, stick))
    })
}

/// The rows of `status` or `plan`.
#[track_caller]
fn rows(scene: &Scene, what: &[&str], status: i32) -> Vec<Value> {
    serde_json::from_slice(&scene.ingest(&[what, &["--json"]].concat()).expect(status).out).unwrap()
}

/// needed-guids of the pool.
fn needed(scene: &Scene) -> String {
    let path = scene.ingest(&["status", "--needed-file"]).expect(0).out;
    fs::read_to_string(String::from_utf8(path).unwrap().trim_end()).unwrap()
}

fn opaque(scene: &Scene, seq: u64, body: &[u8]) -> Vec<u8> {
    scene.seal(&manifest("laptop/etc", SEQ + seq), Some("laptop"), body)
}

/// Sets the time of modification, rounded as FAT does.
fn set_modified(path: &Path, seconds_ago: u64) {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() - seconds_ago;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time / 2 * 2);
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

/// Edits what zsnap-ingest knows of the laptop's files.
fn edit_known(scene: &Scene, edit: impl Fn(&mut Value)) {
    let needed = scene.ingest(&["status", "--needed-file"]).expect(0).out;
    let dir = PathBuf::from(String::from_utf8(needed).unwrap().trim_end()).with_file_name("facts");
    let mut known: Value = serde_json::from_slice(&fs::read(dir.join("laptop.json")).unwrap()).unwrap();
    known["files"].as_object_mut().unwrap().values_mut().for_each(edit);
    fs::write(dir.join("laptop.json"), known.to_string()).unwrap();
}

#[test]
fn a_bad_file_is_marked_where_it_cannot_be_set_aside_as_root() {
    for (format, scene, stick) in sticks() {
        let bad = scene.deliver("laptop", &name(TARGET, SEQ), b"nothing that was ever encrypted");
        let good = scene.deliver("laptop", &name("laptop/etc", SEQ), &opaque(&scene, 0, b"good"));
        scene.age("laptop");
        let retry = format!("zsnap-ingest retry {}", name(TARGET, SEQ));
        let quarantine = scene.path("spool/.zsnap-quarantine").display().to_string();
        scene
            .ingest(&[])
            .expect(1)
            .says("refused: not as a queue file should be")
            .says(&format!("others can write to {quarantine}: mount its file system with -o uid=0,gid=0,umask=022"))
            .says(&retry);
        assert_eq!((scene.applied(), good.exists(), bad.exists()), (b"good".to_vec(), false, true), "{format:?}");
        // The run is complete, and the dataset that the name claims is not needed for ever.
        let text = needed(&scene);
        assert!(text.contains(" complete\n") && !text.contains("all "), "{text}");
        scene.ingest(&[]).silent();
        let row = &rows(&scene, &["status", TARGET], 1)[0];
        assert_eq!(
            (&row["state"], &row["quarantined"], &row["waiting_files"]),
            (&"quarantined".into(), &1.into(), &0.into())
        );
        assert!(row["remedy"].as_str().unwrap().contains(&retry), "{row}");
        assert_eq!(rows(&scene, &["plan"], 1)[0]["verdict"], "refused");
        // It is examined again after a day.
        edit_known(&scene, |entry| entry["again"] = 1.into());
        scene.ingest(&[]).silent();
        edit_known(&scene, |entry| assert!(entry["again"].as_u64().unwrap() > 1, "{entry}"));
        // The remedies work.
        stick.again("uid=0,gid=0,umask=022");
        scene.ingest(&[]).silent();
        scene.ingest(&["retry", &name(TARGET, SEQ)]).expect(0);
        scene.ingest(&[]).expect(1).says("in quarantine: not as a queue file should be");
        assert_eq!((scene.quarantined("laptop").len(), bad.exists()), (2, false), "{format:?}");
    }
}

/// A copy that was broken off may have the name, the size and the time of the whole file.
#[test]
fn a_good_file_in_the_place_of_a_marked_one_is_applied_as_root() {
    for (format, scene, stick) in sticks() {
        let sealed = opaque(&scene, 0, &noise(7, 4 << 20));
        let path = scene.path("spool/laptop").join(name("laptop/etc", SEQ));
        // The name is known, but the file is damaged in the middle, or at its end.
        for (damaged, is_seen) in [(sealed.len() - 200_000, true), (sealed.len() / 2, false)] {
            let mut bytes = sealed.clone();
            bytes[damaged] ^= 1;
            scene.deliver("laptop", &name("laptop/etc", SEQ), &bytes);
            set_modified(&path, 24 * 3600);
            scene.ingest(&[]).expect(1).says("refused: damaged");
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&sealed, 0).unwrap();
            drop(file);
            // Daylight saving time has ended since.
            stick.unmount();
            stick.mount(DESKTOP);
            set_modified(&path, 23 * 3600);
            let ran = scene.ingest(&[]).expect(0);
            assert_eq!(!path.exists(), is_seen, "{format:?}: {}", ran.err);
            if !is_seen {
                scene.ingest(&["retry", "laptop"]).expect(0);
                scene.ingest(&[]).silent();
            }
            assert!(!path.exists() && scene.applied() == noise(7, 4 << 20), "{format:?}");
            fs::remove_file(scene.path("target/all")).unwrap();
            scene.ingest(&["forget", "laptop/etc"]).expect(0);
        }
    }
}

#[test]
fn what_is_known_of_a_file_outlives_the_mount_as_root() {
    for (format, scene, stick) in sticks() {
        let waits = Manifest { prev: Some(SEQ), base: Base::Prev, ..manifest("laptop/etc", SEQ + 1) };
        let path = scene.deliver("laptop", &name("laptop/etc", SEQ + 1), &scene.seal(&waits, Some("laptop"), b"x"));
        set_modified(&path, 7200);
        scene.ingest(&[]).expect(1).says("waiting for file");
        edit_known(&scene, |entry| entry["first"] = 1_000_000_000.into());
        // The inode number, the time of change, and the hour are others after this.
        let inode = || rustix::fs::stat(&path).unwrap().st_ino;
        let before = inode();
        stick.unmount();
        stick.mount(DESKTOP);
        for n in 0..3 {
            fs::write(scene.path("spool").join(format!(".x{n}")), "").unwrap();
        }
        set_modified(&path, 3600);
        let told = (inode() == before).to_string();
        eprintln!("{format:?}: the inode number is the same: {told}");
        // status decrypts nothing: if the file were not recognized, it would be new.
        let row = rows(&scene, &["status"], 1).remove(0);
        assert_eq!(
            (&row["state"], &row["waiting_oldest"]),
            (&"waiting".into(), &1_000_000_000.into()),
            "{format:?}: {row}"
        );
        assert!(row["note"].as_str().unwrap().contains("for longer than max-wait"), "{row}");
        scene.ingest(&[]).expect(1).says("for longer than max-wait");
        // Another file under this name is not the same one.
        fs::write(&path, scene.seal(&waits, Some("laptop"), b"another one")).unwrap();
        let row = rows(&scene, &["status"], 0).remove(0);
        assert_eq!(row["state"], "new", "{format:?}: {row}");
    }
}

/// Runs zsnap-ingest under strace. Returns how it ended, and whether it opened the file.
fn opens(scene: &Scene, file: &str) -> Option<(Ran, bool)> {
    if !can_trace() {
        return None;
    }
    let trace = scene.path("trace");
    let mut strace = strace::under(&["-etrace=openat".to_owned()], &trace, &scene.ingest_command(["run"]));
    let ran = run(strace.env_remove("NNCP_SENDER"), b"");
    Some((ran, fs::read_to_string(&trace).unwrap().contains(&format!("\"{file}\""))))
}

#[test]
fn a_read_only_stick_is_received_and_reported_once_as_root() {
    for (format, scene, stick) in sticks() {
        let sealer = Sealer::new(&scene);
        let zfs = |seq, prev: Option<u64>, sub| {
            scene.deliver(
                "laptop",
                &name(TARGET, SEQ + seq),
                &sealer.zfs(TARGET, SEQ + seq, prev.map(|prev| SEQ + prev), vec![sub], false),
            )
        };
        let files = [
            scene.deliver("laptop", &name("laptop/etc", SEQ), &opaque(&scene, 0, b"one")),
            zfs(1, None, Sub::full("tank/home@s1", 1)),
            zfs(2, Some(1), Sub::increment("tank/home@s2", 1, 2)),
        ];
        let bad = scene.deliver("laptop", &name("laptop/etc", SEQ + 9), b"bad");
        scene.age("laptop");
        stick.again(&format!("ro,{DESKTOP}"));
        let dir = scene.path("spool/laptop").display().to_string();
        let ran =
            scene.ingest(&[]).expect(1).says("refused: not as a queue file should be").says("Read-only file system");
        let once = format!("{dir}: is read-only: the files that were applied stay there, and are not read again");
        assert_eq!((ran.says(&once).err.lines().count(), scene.applied()), (2, b"one".to_vec()));
        let there = || scene.zfs(&["list", "-Hp", "-t", "snapshot", "-o", "guid", "backup/hosts/laptop/tank/home@s2"]);
        there().expect(0);
        let text = needed(&scene);
        assert!(text.contains(" complete\n") && !text.contains("0000000000000001 "), "{text}");
        scene.ingest(&[]).silent();
        for file in files.iter().chain([&bad]) {
            let Some((ran, opened)) = opens(&scene, file.file_name().unwrap().to_str().unwrap()) else { break };
            ran.silent();
            assert!(!opened, "{format:?}: {} was opened again", file.display());
        }
        // Nothing waits, however long they have been there.
        edit_known(&scene, |entry| entry["first"] = 1_000_000_000.into());
        let verdicts: Vec<_> = rows(&scene, &["plan"], 1).iter().map(|row| row["verdict"].clone()).collect();
        assert_eq!(verdicts.iter().filter(|verdict| *verdict == "kept").count(), 3, "{format:?}: {verdicts:?}");
        for row in rows(&scene, &["status"], 1) {
            let state = if row["dataset"] == "laptop/etc" { "quarantined" } else { "ok" };
            assert_eq!((&row["state"], &row["waiting_files"]), (&state.into(), &0.into()), "{format:?}: {row}");
        }
        // After the pool was rewound, they are applied again.
        scene.zfs(&["destroy", "-r", "backup/hosts/laptop/tank/home"]).expect(0);
        scene.ingest(&["forget", TARGET]).expect(0);
        scene.ingest(&[]).expect(0);
        there().expect(0);
        scene.ingest(&[]).silent();
        // The write protection is taken off.
        stick.again(DESKTOP);
        fs::remove_file(&bad).unwrap();
        scene.ingest(&[]).silent();
        assert!(scene.spooled("laptop").is_empty(), "{format:?}");
        assert_eq!(scene.applied(), b"one");
    }
}

/// A directory that only others may change is a mistake, which is reported daily; but its files are not read again.
#[test]
fn what_cannot_be_removed_for_lack_of_permission_is_reported_daily_as_root() {
    zsnap_tests::scene::needs_root();
    let scene = Scene::new();
    let file = scene.deliver("laptop", &name("laptop/etc", SEQ), &opaque(&scene, 0, b"one"));
    let attribute = |flag: &str| run(Command::new("chattr").arg(flag).arg(scene.path("spool/laptop")), b"").status == 0;
    if !attribute("+i") {
        eprintln!("NOT TESTED: this file system has no immutable directories");
        return;
    }
    let ran = scene.ingest(&[]);
    let silent = scene.ingest(&[]);
    assert!(attribute("-i"));
    ran.expect(1).says("the files that were applied cannot be removed: correct its owner or mode");
    silent.silent();
    scene.ingest(&[]).silent();
    assert!(!file.exists() && scene.applied() == b"one");
}

#[test]
fn names_of_systems_are_ignored_and_others_mentioned_once() {
    let scene = Scene::new();
    for file in [
        "lost+found/#12",
        "$RECYCLE.BIN/S-1-5-18/desktop.ini",
        "System Volume Information/IndexerVolumeGuid",
        ".Trash-1000/info/x.trashinfo",
        "FOUND.000/FILE0000.CHK",
        "autorun.inf",
        "laptop/Thumbs.db",
        "laptop/desktop.ini",
    ] {
        let path = scene.path("spool").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    scene.ingest(&[]).silent();
    fs::create_dir_all(scene.path("spool/Documents/letters")).unwrap();
    fs::write(scene.path("spool/Readme.txt"), "read me").unwrap();
    let ran = scene.ingest(&[]).expect(1);
    let ran = ran.says("Documents: is not a configured host; ignored").says("Readme.txt: is not a directory of a host");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    scene.ingest(&[]).silent();
    let hosts: Vec<_> = rows(&scene, &["status"], 0).iter().map(|row| row["dataset"].clone()).collect();
    assert_eq!(hosts, ["laptop/-", "other/-"]);
    let known = zsnap_tests::scene::files(&scene.path("ingest-state/facts"));
    assert!(
        known.iter().all(|path| ["laptop.json", "other.json"].iter().any(|name| path.ends_with(name))),
        "{known:?}"
    );
    // What a host sends that is not configured, whatever its name, waits for the operator, who must know.
    for (host, table) in [("FOUND.000", "[hosts.\"FOUND.000\"]"), ("desktop", "[hosts.desktop]")] {
        let sealed = scene.seal(&manifest(&format!("{host}/etc"), SEQ), Some("other"), b"x");
        scene.deliver(host, &name(&format!("{host}/etc"), SEQ), &sealed);
        scene.ingest(&[]).expect(1).says(&format!("held: unknown host; add {table}"));
    }
}
