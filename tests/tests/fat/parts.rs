//! Files in parts: made by zsnap-queue and zsnap-fanout, read by zsnap-ingest and by cat.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use zsnap_tests::sample;
use zsnap_tests::scene::{Scene, files, have, name, run};
use zsnap_tests::sealed::noise;
use zsnap_tests::spooler::Spooler;
use zsnap_tests::strace::{can_trace, traced, under};

const MIB: usize = 1 << 20;

/// Returns the name of part `number` of `of` of a file.
pub fn part(whole: &Path, number: u64, of: u64) -> PathBuf {
    whole.with_file_name(format!("{}~p{number}of{of}", whole.file_name().unwrap().to_str().unwrap()))
}

/// A scene whose zsnap-queue delivers parts of a mebibyte.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.edit("queue.toml", "state =", "max-file = \"1MiB\"\nstate =");
    scene
}

/// Returns the names of the files of the laptop in the spool.
fn names(scene: &Scene) -> Vec<String> {
    scene.spooled("laptop").iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn zsnap_ingest_and_cat_join_the_parts_of_zsnap_queue() {
    let scene = scene();
    let stream = noise(5 * MIB / 2, 1);
    scene.queue(&["--opaque", "--full", "laptop/etc"], &stream).silent();
    let [one, two, three] = &scene.spooled("laptop")[..] else { panic!("{:?}", names(&scene)) };
    let whole = one.with_file_name(one.file_name().unwrap().to_str().unwrap().strip_suffix("~p1of3").unwrap());
    assert_eq!([one, two, three].map(|part| fs::metadata(part).unwrap().len() > MIB as u64), [false; 3]);
    assert_eq!([two, three], [&part(&whole, 2, 3), &part(&whole, 3, 3)]);
    // What cat joins is the file that zsnap-queue makes without max-file, and each part stands for all.
    let joined = run(Command::new("cat").args([one, two, three]), b"").expect(0).out;
    fs::create_dir(scene.path("joined")).unwrap();
    let copy = scene.path("joined").join(whole.file_name().unwrap());
    fs::write(&copy, &joined).unwrap();
    for path in [&copy, one, three] {
        assert!(scene.ingest(&["cat", path.to_str().unwrap()]).expect(0).out == stream);
        scene.ingest(&["verify", path.to_str().unwrap()]).expect(0).prints("target: laptop/etc\n");
    }
    scene.ingest(&[]).silent();
    assert!(scene.applied() == stream && scene.spooled("laptop").is_empty());
    assert_eq!(files(&scene.path("spool")).len(), 1);
}

#[test]
fn a_file_waits_for_a_part_that_is_missing_and_keeps_its_place() {
    let scene = scene();
    scene.queue(&["--opaque", "--full", "laptop/etc"], &noise(5 * MIB / 2, 1)).silent();
    let first = scene.spooled("laptop");
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"second").silent();
    fs::rename(&first[1], scene.path("part")).unwrap();
    scene.age("laptop");
    // The parts wait, however old they are; they are not damaged. The later file, which is a full one, does not wait.
    let waits = "waiting for part 2 of 3";
    scene.ingest(&["plan"]).expect(0).prints("for part 2 of 3");
    let ran = scene.ingest(&[]).expect(1).says(waits);
    let whole = first[0].file_name().unwrap().to_str().unwrap().strip_suffix("~p1of3").unwrap().to_owned();
    assert!(ran.err.contains(&format!("laptop/{whole}: {waits}")) && ran.err.lines().count() == 1, "{}", ran.err);
    scene.ingest(&[]).silent();
    scene.ingest(&["status"]).expect(0).prints(waits).prints("waiting");
    let since = |scene: &Scene| {
        let out = scene.ingest(&["plan", "--json"]).out;
        let all: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let file = all.as_array().unwrap().iter().find(|file| file["file"] == format!("laptop/{whole}")).cloned();
        file.map(|file| (file["verdict"].clone(), file["since"].clone()))
    };
    let before = since(&scene).unwrap();
    assert_eq!((before.0.as_str(), names(&scene).len()), (Some("waiting"), 2));
    assert_eq!(scene.applied(), b"second");
    assert!(scene.quarantined("laptop").is_empty());
    // The part arrives: what it belongs to is known to be older than what was applied.
    fs::rename(scene.path("part"), &first[1]).unwrap();
    scene.ingest(&[]).silent();
    assert_eq!((scene.applied(), names(&scene).len()), (b"second".to_vec(), 0));
}

#[test]
fn damaged_parts_go_to_quarantine_and_come_back_together() {
    let scene = scene();
    scene.queue(&["--opaque", "--full", "laptop/etc"], &noise(3 * MIB / 2, 1)).silent();
    let parts = scene.spooled("laptop");
    let good = fs::read(&parts[1]).unwrap();
    let mut bad = good.clone();
    bad[1000] ^= 1;
    fs::write(&parts[1], &bad).unwrap();
    // It may still be arriving.
    scene.ingest(&["-v"]).expect(0).says("it may still be arriving");
    scene.age("laptop");
    scene.ingest(&[]).expect(1).says("in quarantine: damaged");
    let quarantined = |ending: &str| {
        let all = scene.quarantined("laptop");
        all.iter().filter(|path| path.to_str().unwrap().ends_with(ending)).count()
    };
    assert_eq!((names(&scene).len(), quarantined("of2"), quarantined(".why.json")), (0, 2, 2));
    let whole = parts[0].file_name().unwrap().to_str().unwrap().strip_suffix("~p1of2").unwrap();
    let remedy = format!("zsnap-ingest retry {whole}, or remove it");
    scene.ingest(&["status"]).expect(1).prints("quarantined").prints(&remedy);
    scene.ingest(&["retry", whole]).expect(0);
    assert_eq!(names(&scene).len(), 2);
    fs::write(&parts[1], &good).unwrap();
    scene.ingest(&[]).silent();
    assert!(scene.applied().len() == 3 * MIB / 2 && names(&scene).is_empty());
}

#[test]
fn a_repeated_part_is_removed_with_the_file_and_another_one_stays() {
    let scene = scene();
    scene.queue(&["--opaque", "--full", "laptop/etc"], &noise(3 * MIB / 2, 1)).silent();
    let parts = scene.spooled("laptop");
    let copy = |n: usize, ending: &str| format!("{}{ending}", parts[n].file_name().unwrap().to_str().unwrap());
    scene.deliver("laptop", &copy(0, ".0"), &fs::read(&parts[0]).unwrap());
    scene.deliver("laptop", &copy(1, ".0"), b"another file");
    scene.ingest(&[]).silent();
    assert_eq!(names(&scene), [copy(1, ".0")]);
    scene.ingest(&[]).expect(1).says("waiting for part 1 of 2");
}

#[test]
fn a_stream_of_zfs_in_parts_is_received() {
    let scene = Scene::with_pool();
    scene.queue(&["laptop/src/data"], &sample("full.zfs")).expect(0);
    let whole = scene.spooled("laptop").remove(0);
    // No real stream here has a mebibyte.
    let bytes = fs::read(&whole).unwrap();
    for (at, piece) in bytes.chunks(bytes.len().div_ceil(3)).enumerate() {
        fs::write(part(&whole, at as u64 + 1, 3), piece).unwrap();
    }
    fs::remove_file(&whole).unwrap();
    scene.edit("ingest.toml", "create-parents = [\"tank\"]", "create-parents = [\"src\"]");
    scene.ingest(&[]).silent();
    scene.zfs(&["list", "-Hp", "-t", "snapshot", "-o", "guid", "backup/hosts/laptop/src/data@s1"]).expect(0);
    assert!(names(&scene).is_empty());
}

/// Kills zsnap-ingest at each call that renames or removes a file of the incoming directory.
#[test]
fn a_removal_that_a_crash_has_ended_is_finished() {
    if !can_trace() {
        return;
    }
    let mut kills = 0;
    for call in ["unlinkat", "renameat2", "fsync"] {
        for number in 1.. {
            let scene = scene();
            scene.queue(&["--opaque", "--full", "laptop/etc"], &noise(5 * MIB / 2, 1)).silent();
            let trace = scene.path("trace");
            let at = [
                "-P".to_owned() + scene.path("spool/laptop").to_str().unwrap(),
                format!("-einject={call}:signal=KILL:when={number}"),
            ];
            let (status, _) = traced(&mut under(&at, &trace, &scene.ingest_command([""; 0])), &trace);
            if status == 0 {
                break;
            }
            kills += 1;
            let left = names(&scene);
            // A crash before the first step leaves all of the parts, and status and plan never see a part of them.
            scene.ingest(&["status"]).expect(0);
            assert!(!String::from_utf8(scene.ingest(&["plan"]).out).unwrap().contains("for part"), "{left:?}");
            scene.ingest(&[]).silent();
            assert_eq!(fs::read_dir(scene.path("spool/laptop")).unwrap().count(), 0, "{call} {number}: {left:?}");
            assert!(scene.applied() == noise(5 * MIB / 2, 1), "{call} {number}");
        }
    }
    assert!(kills >= 6, "only {kills} kills");
}

/// If the first part is there again, the file was delivered again, and nothing but the mark is removed.
#[test]
fn the_mark_of_a_removal_removes_no_file_that_was_delivered_again() {
    let scene = scene();
    scene.queue(&["--opaque", "--full", "laptop/etc"], &noise(3 * MIB / 2, 1)).silent();
    let parts = names(&scene);
    scene.deliver("laptop", &format!(".zsnap-gone-{}", parts[0]), b"");
    // A mark of another file.
    let other = name("laptop/tar", 5);
    scene.deliver("laptop", &format!(".zsnap-gone-{other}~p1of2"), b"");
    scene.deliver("laptop", &format!("{other}~p2of3"), b"");
    scene.ingest(&[]).expect(1).says(&format!("{other}: waiting for part 1 and 1 more of 3"));
    assert_eq!(scene.applied().len(), 3 * MIB / 2);
    let left: Vec<_> = fs::read_dir(scene.path("spool/laptop")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [format!("{other}~p2of3").as_str()]);
}

#[test]
fn zsnap_fanout_delivers_parts_and_continues_after_a_crash() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "max-file = \"1MiB\"\nkeep = \"9d\"");
    spooler.drive("disk2", "");
    let bytes = noise(7 * MIB / 2, 1);
    let name = spooler.put("laptop/a", 1, &bytes);
    if can_trace() {
        // The process that delivers dies when it names the second part.
        let trace = spooler.path("trace");
        let kill = [
            "-einject=renameat2:signal=KILL:when=2".to_owned(),
            "-P".to_owned() + spooler.path("disk1/laptop").to_str().unwrap(),
        ];
        let (status, _) = traced(&mut under(&kill, &trace, &spooler.command([""; 0])), &trace);
        assert_eq!(status, 1);
        assert_eq!(spooler.on("disk1").iter().filter(|file| !file.contains(".zsnap-")).count(), 1);
    }
    spooler.silent_run();
    let parts: Vec<_> = (1..=4).map(|number| format!("laptop/{name}~p{number}of4")).collect();
    assert_eq!((spooler.on("disk1"), spooler.on("disk2")), (parts.clone(), vec![format!("laptop/{name}")]));
    let joined: Vec<u8> = parts.iter().flat_map(|part| fs::read(spooler.path("disk1").join(part)).unwrap()).collect();
    assert!(joined == bytes);
    spooler.fanout(&["requeue", "disk1", "--since", "1d"]).expect(0);
    fs::remove_file(spooler.path("disk1").join(&parts[2])).unwrap();
    spooler.silent_run();
    assert_eq!((spooler.on("disk1"), spooler.waiting("disk1").len()), (parts, 0));
}

/// A stick is copied to a spool.
#[test]
fn zsnap_fanout_distributes_parts_as_they_are() {
    let spooler = Spooler::new();
    spooler.drive("disk1", "");
    let whole = name("laptop/a", 1_700_000_000_000_001);
    let parts = [1, 2].map(|number| format!("{whole}~p{number}of2"));
    parts.iter().for_each(|part| spooler.put_as("laptop", part, part));
    spooler.silent_run();
    assert_eq!(spooler.on("disk1"), parts.map(|part| format!("laptop/{part}")));
}

/// A file of the scripts that zsnap replaces has no manifest, so only its name says for which dataset it is.
#[test]
fn a_seed_file_in_parts_with_escaped_names_is_for_the_real_dataset() {
    if !have("gpg") || !have("zstd") {
        return;
    }
    let scene = Scene::with_pool();
    fs::create_dir(scene.path("g")).unwrap();
    let sh = |script: &str, input: &[u8]| {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(scene.path("")).env("GNUPGHOME", scene.path("g"));
        run(&mut command, input).expect(0).out
    };
    let gpg =
        "zstd -q - | gpg -q --batch --trust-model always --compress-algo none --cipher-algo AES256 -e -f backup.cert";
    let sealed = sh(&format!("chmod 700 g; {gpg}"), &sample("full.zfs"));
    sh("gpgconf --kill all", b"");
    scene.edit(
        "ingest.toml",
        "[hosts.other]",
        "[hosts.con]\ntrust = \"recipient\"\ncreate-parents = [\"src\"]\n[hosts.other]",
    );
    let (one, two) = sealed.split_at(sealed.len() / 2);
    let name = "bakfsfmt2-1700000000.123456789.42_con@src@co%3Alon";
    scene.deliver("%63on", &format!("{name}~p2of2"), two);
    scene.ingest(&[]).expect(1).says("con/bakfsfmt2-1700000000.123456789.42_con@src@co:lon: waiting for part 1 of 2");
    scene.deliver("%63on", &format!("{name}~p1of2"), one);
    scene.ingest(&[]).silent();
    scene.zfs(&["list", "-Hp", "-t", "snapshot", "-o", "guid", "backup/hosts/con/src/co:lon@s1"]).expect(0);
    assert!(scene.spooled("%63on").is_empty());
    scene.ingest(&["status"]).prints("con/src/co:lon ");
}
