//! zsnap-ingest reports everything that needs the operator, but not six times an hour: what is held, what fails,
//! what waits and for what, and what cannot be read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use zsnap_common::cli::report;
use zsnap_common::names::queue_name::QueueName;
use zsnap_message::keys::{Purpose, SigningKey, keygen};
use zsnap_message::payload::{Base, Manifest};
use zsnap_tests::scene::{Ran, Scene, manifest, memory, name, run};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::spooler::Spooler;
use zsnap_tests::stream::{Stream, Sub};

const SEQ: u64 = 1_700_000_000_000_000;

/// Runs `status` or `plan` and returns its rows.
#[track_caller]
fn rows(scene: &Scene, what: &str, status: i32) -> Vec<Value> {
    serde_json::from_slice(&scene.ingest(&[what, "--json"]).expect(status).out).unwrap()
}

/// Runs `status` and returns the row of a target.
#[track_caller]
fn row(scene: &Scene, target: &str, status: i32) -> Value {
    let rows = rows(scene, "status", status);
    rows.iter().find(|row| row["dataset"] == target).unwrap_or_else(|| panic!("no {target}: {rows:?}")).clone()
}

#[track_caller]
fn assert_contains(row: &Value, field: &str, text: &str) {
    assert!(row[field].as_str().unwrap_or_default().contains(text), "{field} does not contain \"{text}\": {row}");
}

fn incremental(target: &str, seq: u64, prev: u64) -> Manifest {
    Manifest { prev: Some(prev), base: Base::Prev, ..manifest(target, seq) }
}

/// Delivers a file of the laptop for a command.
fn deliver(scene: &Scene, manifest: &Manifest) -> std::path::PathBuf {
    let target = format!("{}/{}", manifest.host, manifest.dataset);
    scene.deliver("laptop", &name(&target, manifest.seq), &scene.seal(manifest, Some("laptop"), b"x"))
}

/// Cron runs `status --quiet`, which must report what a run holds.
#[test]
fn status_reports_held_files_until_the_file_or_configuration_changes() {
    let scene = Scene::new();
    keygen(&scene.path("lost"), Purpose::Encrypt, false).unwrap();
    let laptop = SigningKey::load(&scene.path("laptop.key"), std::time::SystemTime::now()).unwrap();
    let sealed = scene.seal_with(&manifest("laptop/etc", SEQ), Some(&laptop), &scene.path("lost.cert"), b"x");
    scene.deliver("laptop", &name("laptop/etc", SEQ), &sealed);
    scene.ingest(&[]).expect(1).says("none of our keys");
    let held = row(&scene, "laptop/etc", 1);
    assert_eq!(held["state"], "held");
    assert_contains(&held, "remedy", "none of our keys; add that key");
    assert_eq!(rows(&scene, "plan", 1)[0]["verdict"], "held");
    scene.ingest(&["status", "--quiet"]).expect(1);
    // A file behind the held one waits.
    deliver(&scene, &incremental("laptop/etc", SEQ + 1, SEQ));
    scene.ingest(&[]).expect(0);
    let plan = rows(&scene, "plan", 1);
    assert_eq!((&plan[1]["verdict"], &plan[1]["behind"]), (&"waiting".into(), &name("laptop/etc", SEQ).into()));
    assert_contains(&plan[1], "why", "which is here: held: encrypted to");
    // The remedy that the message proposes.
    let root = scene.path("").display().to_string();
    let keys = format!("decryption-key = [\"{root}lost.key\", ");
    scene.edit("ingest.toml", "decryption-key = [", &keys);
    scene.ingest(&[]).expect(0);
    assert_eq!((row(&scene, "laptop/etc", 0)["state"].as_str(), scene.applied()), (Some("ok"), b"xx".to_vec()));
    // A symbolic link is ignored, which is reported as well.
    fs::write(scene.path("elsewhere"), "x").unwrap();
    let link = scene.path("spool/laptop").join(name("laptop/etc", SEQ + 2));
    symlink(scene.path("elsewhere"), &link).unwrap();
    scene.ingest(&[]).expect(1).says("is a symbolic link");
    let link_row = row(&scene, "laptop/etc", 1);
    assert_eq!(link_row["state"], "held");
    assert_contains(&link_row, "remedy", "held: it is a symbolic link; a queue file is a regular file");
    fs::remove_file(&link).unwrap();
    scene.ingest(&[]).expect(0);
    assert_eq!(row(&scene, "laptop/etc", 0)["state"], "ok");
}

#[test]
fn a_failure_of_a_receiver_is_reported_when_it_is_new_or_changes() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "cat >> ", "echo no room for etc >&2; exit 7; cat >> ");
    deliver(&scene, &manifest("laptop/etc", SEQ));
    scene.ingest(&[]).expect(69).says("no room for etc");
    for _ in 0..2 {
        assert_eq!(scene.ingest(&[]).expect(0).err, "", "cron would send 144 mails a day");
    }
    let failed = row(&scene, "laptop/etc", 1);
    assert_eq!((&failed["state"], &failed["attempts"]), (&"failed".into(), &3.into()));
    assert_contains(&failed, "remedy", "for 3 times: sh for laptop/etc: exit status: 7: no room for etc");
    let plan = rows(&scene, "plan", 1);
    assert_contains(&plan[0], "why", "no room for etc");
    scene.edit("ingest.toml", "no room", "no key");
    scene.ingest(&[]).expect(69).says("no key for etc");
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    scene.edit("ingest.toml", "exit 7; ", "");
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    assert_eq!((row(&scene, "laptop/etc", 0)["state"].as_str(), scene.applied()), (Some("ok"), b"x".to_vec()));
}

/// The exit status is that of the worst failure, whether it comes first or last. Hosts take turns, one step each:
/// the more files of a host are read before its failure, the later that failure comes.
#[test]
fn the_worst_failure_of_a_run_decides_the_exit_status() {
    for files in [1, 5] {
        let scene = Scene::with_pool();
        let text = fs::read_to_string(scene.path("ingest.toml")).unwrap();
        let target = scene.path("target").display().to_string();
        let table = format!("[[command]]\nmatch = \"*/db\"\nrun = [\"/bin/false\"]\ntarget = \"{target}\"\n");
        scene.write("ingest.toml", &(text + &table));
        let put = |seq: u64, sub: Sub| {
            let sealed = Sealer::of(&scene, "other").zfs("other/tank/a", SEQ + seq, None, vec![sub], false);
            scene.deliver("other", &name("other/tank/a", SEQ + seq), &sealed);
        };
        put(1, Sub::full("tank/a@s1", 1));
        scene.ingest(&[]).expect(0);
        let path = String::from_utf8(scene.ingest(&["status", "--needed-file"]).expect(0).out).unwrap();
        let journal = path.trim_end().replace("needed-guids", "journal/other/tank@a.json");
        // The journal is lost, and cannot be written again.
        let dir = Path::new(&journal).parent().unwrap();
        fs::remove_dir_all(dir).unwrap();
        symlink(scene.path("none"), dir).unwrap();
        (2..2 + files).for_each(|n| put(n, Sub::increment(&format!("tank/a@s{n}"), n - 1, n)));
        let sealed = scene.seal(&manifest("laptop/db", SEQ), Some("laptop"), b"x");
        scene.deliver("laptop", &name("laptop/db", SEQ), &sealed);
        let ran = scene.ingest(&["--jobs", "1"]).expect(74).says("false for laptop/db");
        let place = |text: &str| ran.err.find(text).unwrap_or_else(|| panic!("no {text}: {}", ran.err));
        assert_eq!(place("other/tank/a: ") < place("false for"), files == 1, "{}", ran.err);
    }
}

/// The worse failure comes first, and only once.
#[test]
fn a_lesser_failure_does_not_hide_an_earlier_worse_one() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "cat >> ", "exit 7; cat >> ");
    deliver(&scene, &manifest("laptop/etc", SEQ));
    fs::create_dir(scene.path("elsewhere")).unwrap();
    symlink(scene.path("elsewhere"), scene.path("spool/other")).unwrap();
    let ran = scene.ingest(&[]).expect(74).says("other: its directory cannot be read: ").says("exit status: 7");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
}

/// zsnap-ingest does not mistake the name of a dataset for a message of `zfs receive`.
#[test]
fn a_dataset_may_be_called_has_been_modified() {
    let scene = Scene::with_pool();
    let target = "laptop/tank/has been modified";
    let sub = |sub: Sub| Stream::plain(sub).bytes();
    let receives = || scene.zfs_calls().iter().filter(|call| call[1] == "receive").count();
    let refuse = |why: &str| fs::write(scene.path("bin/refuse"), why).unwrap();
    scene.queue(&[target], &sub(Sub::full("tank/has been modified@s1", 1))).expect(0);
    refuse("cannot receive new filesystem stream: backup/hosts/laptop/tank/has been modified: out of space");
    scene.ingest(&[]).expect(69).says("out of space");
    assert_eq!(receives(), 1);
    scene.ingest(&[]).expect(0);
    assert_eq!(receives(), 1, "not received once in a run");
    assert_contains(&row(&scene, target, 1), "remedy", "out of space");
    fs::remove_file(scene.path("bin/refuse")).unwrap();
    scene.ingest(&[]).expect(0);
    scene.queue(&[target], &sub(Sub::increment("tank/has been modified@s2", 1, 2))).expect(0);
    refuse("cannot receive incremental stream: backup/hosts/laptop/tank/has been modified: out of space");
    receives();
    scene.ingest(&[]).expect(69).says("out of space");
    assert_eq!(receives(), 1);
    fs::remove_file(scene.path("bin/refuse")).unwrap();
    // This dataset was really modified.
    scene.zfs(&["write", "backup/hosts/laptop/tank/has been modified"]).expect(0);
    receives();
    scene.ingest(&[]).expect(1).says("diverged").says("zfs rollback 'backup/hosts/laptop/tank/has been modified@s1'");
    assert_eq!(receives(), 1);
    // A receiver that always says so of an unmodified dataset is started once in each run.
    scene.zfs(&["rollback", "backup/hosts/laptop/tank/has been modified@s1"]);
    refuse(
        "cannot receive incremental stream: destination backup/hosts/laptop/tank/has been modified has been modified\n\
         since most recent snapshot",
    );
    scene.ingest(&[]);
    assert!(receives() <= 1);
}

#[test]
fn targets_are_away_while_the_incoming_directory_is_absent() {
    let scene = Scene::with_pool();
    scene.queue(&["laptop/tank/home"], &Stream::plain(Sub::full("tank/home@s1", 1)).bytes()).expect(0);
    scene.ingest(&[]).expect(0);
    fs::rename(scene.path("spool"), scene.path("unplugged")).unwrap();
    let rows = rows(&scene, "status", 0);
    let states: Vec<_> = rows.iter().map(|row| (row["dataset"].as_str().unwrap(), &row["state"])).collect();
    assert_eq!(states, [("laptop/tank/home", &"away".into()), ("other/-", &"away".into())]);
    assert_contains(&rows[1], "remedy", "the incoming directory is absent");
    scene.ingest(&[]).expect(0);
    fs::rename(scene.path("unplugged"), scene.path("spool")).unwrap();
    assert_eq!(row(&scene, "laptop/tank/home", 0)["state"], "ok");
}

#[test]
fn waiting_files_stay_known_while_the_incoming_directory_is_absent() {
    let scene = Scene::new();
    let waits = incremental("laptop/etc", SEQ + 1, SEQ);
    scene.deliver("laptop", &name("laptop/etc", SEQ + 1), &scene.seal(&waits, Some("laptop"), b"increment"));
    scene.ingest(&[]).expect(1);
    fs::rename(scene.path("spool"), scene.path("unplugged")).unwrap();
    // Each of these runs would forget the file if it recorded only what it sees.
    for _ in 0..2 {
        scene.ingest(&[]).expect(0);
        let row = row(&scene, "laptop/etc", 0);
        assert_eq!((&row["state"], &row["waiting_files"]), (&"away".into(), &1.into()));
    }
    fs::rename(scene.path("unplugged"), scene.path("spool")).unwrap();
    assert_eq!(row(&scene, "laptop/etc", 0)["state"], "waiting");
}

/// A number alone says little to people, and what was lost must be sent again.
#[test]
fn the_message_about_a_waiting_file_names_base_time_and_remedy() {
    let scene = Scene::with_pool();
    let queue = |how: &str, body: &[u8]| scene.queue(&["--opaque", how, "--overlap", "laptop/etc"], body).expect(0);
    queue("--full", b"1");
    scene.ingest(&[]).expect(0);
    queue("--increment", b"2");
    let lost = scene.spooled("laptop").pop().unwrap();
    let number = lost.file_name().unwrap().to_str().unwrap().parse::<QueueName>().unwrap().stamp.seq();
    fs::remove_file(lost).unwrap();
    queue("--increment", b"3");
    let since = report::time(number / 1_000_000);
    let message = format!("waiting for file {number} of laptop/etc (queued {since}), which it builds on");
    let ran = scene.ingest(&[]).expect(1).says(&message).says("zsnap-fanout requeue");
    assert!(ran.err.trim_end().ends_with("or on laptop: zsnap-queue --opaque --full laptop/etc"), "{}", ran.err);
    queue("--full", b"4");
    scene.ingest(&[]).expect(0);
    assert_eq!((scene.applied(), scene.spooled("laptop").len()), (b"14".to_vec(), 0));

    let sub = |sub: Sub| Stream::plain(sub).bytes();
    scene.queue(&["laptop/tank/home"], &sub(Sub::full("tank/home@s1", 1))).expect(0);
    scene.ingest(&[]).expect(0);
    let send = |sent: Sub| scene.queue(&["laptop/tank/home"], &sub(sent)).expect(0);
    send(Sub::increment("tank/home@s2", 1, 2));
    let lost = scene.spooled("laptop").pop().unwrap();
    fs::remove_file(lost).unwrap();
    send(Sub::increment("tank/home@s3", 2, 3));
    let says = "or on laptop: zfs send -i @HERE tank/home@NEW | zsnap-queue laptop/tank/home";
    scene.ingest(&[]).expect(1).says(" of laptop/tank/home (queued 2").says("has not come").says(says);
    let waits = row(&scene, "laptop/tank/home", 0);
    assert_contains(&waits, "remedy", says);
    assert_eq!(waits["snapshot"], "s1");
    send(Sub::increment("tank/home@s3", 1, 3));
    scene.ingest(&[]).expect(0);
    assert_eq!(row(&scene, "laptop/tank/home", 0)["snapshot"], "s3");
}

/// The directory has 100,001 leftovers of a transport: tmpfs lists the newest names first.
#[test]
fn a_directory_with_many_other_files_is_read_to_its_end() {
    if memory().is_none() {
        return;
    }
    let scene = Scene::with_pool();
    scene.queue(&["laptop/tank/home"], &Stream::plain(Sub::full("tank/home@s1", 1)).bytes()).expect(0);
    let spooler = Spooler::in_memory();
    spooler.drive("disk", "");
    let file = spooler.put("laptop/etc", 1, "x");
    let leftovers = scene.path("spool/laptop");
    (0..100_001).for_each(|n| drop(fs::File::create(leftovers.join(format!("nncpfile{n}"))).unwrap()));
    scene.ingest(&[]).expect(0);
    assert_eq!(row(&scene, "laptop/tank/home", 0)["snapshot"], "s1");
    for n in 0..100_001 {
        let name = format!("nncpfile{n}");
        fs::rename(leftovers.join(&name), spooler.path("spool/laptop").join(&name)).unwrap();
    }
    spooler.fanout(&[]).expect(0);
    assert!(spooler.path("disk/laptop").join(file).exists());
}

/// A limit that was reached is reported, and files that were not read may need any snapshot.
#[test]
fn more_queue_files_than_a_run_reads_are_reported() {
    let Some(_) = memory() else { return };
    let scene = Scene::with_pool();
    fs::create_dir(scene.path("spool/laptop")).unwrap();
    let file = |n: u64| scene.path("spool/laptop").join(name("laptop/tank/home", SEQ + n));
    (0..=100_000).for_each(|n| drop(fs::File::create(file(n)).unwrap()));
    let needed = || {
        let path = String::from_utf8(scene.ingest(&["status", "--needed-file"]).expect(0).out).unwrap();
        fs::read_to_string(path.trim_end()).unwrap().lines().next().unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let ran = scene.ingest(&["--max-files", "1"]).expect(1);
    assert!(ran.err.ends_with("holds more than 100000 queue files; what is newer waits until those are gone\n"));
    assert_eq!(needed(), "running");
    assert_eq!(scene.ingest(&["--max-files", "1"]).expect(0).err, "");
    let all = rows(&scene, "status", 1);
    assert_eq!((&all[0]["dataset"], &all[0]["state"]), (&"laptop/-".into(), &"held".into()), "{all:?}");
    assert_contains(&all[0], "remedy", "1 more queue files lie here than a run looks at");
    // The newest file was left out, not the oldest.
    fs::remove_file(file(0)).unwrap();
    scene.ingest(&["--max-files", "1"]).expect(0);
    assert_eq!(needed(), "complete");
}

/// The files in an unreadable directory may wait for snapshots that zsnap-expire must not destroy.
#[test]
fn an_unreadable_directory_is_not_treated_as_an_empty_one() {
    let scene = Scene::with_pool();
    scene.queue(&["laptop/tank/home"], &Stream::plain(Sub::full("tank/home@s1", 1)).bytes()).expect(0);
    scene.ingest(&[]).expect(0);
    let path = String::from_utf8(scene.ingest(&["status", "--needed-file"]).expect(0).out).unwrap();
    let is_complete = || fs::read_to_string(path.trim_end()).unwrap().lines().next().unwrap().ends_with(" complete");
    assert!(is_complete());
    fs::rename(scene.path("spool/laptop"), scene.path("elsewhere")).unwrap();
    symlink(scene.path("elsewhere"), scene.path("spool/laptop")).unwrap();
    scene.ingest(&[]).expect(74).says("laptop: its directory cannot be read: ");
    assert!(!is_complete());
    scene.ingest(&["status"]).expect(74).says("laptop: its directory cannot be read: ");
    fs::remove_file(scene.path("spool/laptop")).unwrap();
    fs::rename(scene.path("elsewhere"), scene.path("spool/laptop")).unwrap();
    // A name that is not a directory has no files of any host.
    scene.write("spool/notes", "");
    scene.ingest(&[]).expect(1).says("notes: is not a directory");
    assert!(is_complete());
}

/// The messages of exec reach at most the sender, so the run of cron must report them as well.
#[test]
fn a_failure_that_exec_reported_is_reported_by_the_next_run_too() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "cat >> ", "echo no room for etc >&2; exit 7; cat >> ");
    let sealed = scene.seal(&manifest("laptop/etc", SEQ), Some("laptop"), b"x");
    let exec = || run(&mut scene.ingest_command(["exec", "--host", "laptop"]), &sealed).expect(0);
    exec().says("no room for etc");
    scene.ingest(&[]).expect(69).says("no room for etc");
    exec();
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
}

/// While a run works, exec publishes another file, for which the run lists the directory once more.
#[test]
fn a_second_round_does_not_hide_the_failure_of_the_first() {
    let scene = Scene::new();
    let root = scene.path("").display().to_string();
    let script = format!("touch {root}/begun; until [ -e {root}/go ]; do sleep 0.05; done; exit 7; cat >> ");
    scene.edit("ingest.toml", "cat >> ", &script);
    deliver(&scene, &manifest("laptop/etc", SEQ));
    let mut command = scene.ingest_command([""; 0]);
    let first = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !scene.path("begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let sealed = scene.seal(&incremental("laptop/etc", SEQ + 1, SEQ), Some("laptop"), b"y");
    run(&mut scene.ingest_command(["exec", "--host", "laptop"]), &sealed).expect(0);
    scene.write("go", "");
    Ran::of(first.wait_with_output().unwrap()).expect(69).says("exit status: 7");
}

/// The journal of the command is on the drive that is away.
#[test]
fn status_is_silent_about_a_command_whose_drive_is_away() {
    let scene = Scene::new();
    let target = scene.path("target").display().to_string();
    scene.edit("ingest.toml", &format!("target = \"{target}\""), &format!("target = \"{target}/away/etc\""));
    assert_eq!(scene.ingest(&["status", "--quiet"]).expect(0).err, "");
}
