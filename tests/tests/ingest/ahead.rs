//! zsnap-ingest never treats a future time as a recent one: neither a clock that was once ahead, nor a number or
//! a date that somebody chose, suppresses an alarm.

use std::fs;
use std::time::SystemTime;

use serde_json::Value;
use zsnap_message::payload::{Base, Manifest};
use zsnap_tests::scene::{Ran, Scene, have, manifest, name, run, under};
use zsnap_tests::sealer::Sealer;
use zsnap_tests::stream::{Stream, Sub};

const DAY: u64 = 24 * 3600;

/// The current time in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The number of a file that was queued at a time in seconds since 1970.
fn number(seconds: u64) -> u64 {
    seconds * 1_000_000
}

/// Runs `status` with these arguments and returns the row of a target.
#[track_caller]
fn row(scene: &Scene, target: &str, args: &[&str], status: i32) -> Value {
    let ran = scene.ingest(&[&["status", "--json"], args].concat()).expect(status);
    let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    rows.iter().find(|row| row["dataset"] == target).unwrap_or_else(|| panic!("no {target}: {rows:?}")).clone()
}

#[track_caller]
fn assert_contains(row: &Value, field: &str, text: &str) {
    assert!(row[field].as_str().unwrap_or_default().contains(text), "{field} does not contain \"{text}\": {row}");
}

/// Edits a JSON file of the scene.
fn edit(scene: &Scene, path: &str, change: impl FnOnce(&mut Value)) {
    let path = scene.path(path);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Delivers a file of the laptop; the number in its name may differ from that in its manifest.
fn deliver(scene: &Scene, number: u64, manifest: &Manifest) {
    let target = format!("{}/{}", manifest.host, manifest.dataset);
    scene.deliver("laptop", &name(&target, number), &scene.seal(manifest, Some("laptop"), b"x"));
}

/// The backup server's clock was ahead when the last file arrived.
#[test]
fn a_host_last_seen_in_the_future_is_reported_as_silent() {
    let scene = Scene::new();
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\nmax-age = \"2d\"\n");
    deliver(&scene, number(now()), &manifest("laptop/etc", number(now())));
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    edit(&scene, "ingest-state/facts/laptop.json", |known| known["last_came"] = (now() + 400 * DAY).into());
    scene.ingest(&[]).expect(1).says("laptop: something came last at 2").says("lies ahead").says("still sends");
    // Like any other problem, this is not reported every ten minutes.
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    // A new file ends the condition, as the message says.
    deliver(&scene, number(now()) + 1, &manifest("laptop/etc", number(now()) + 1));
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    // A host that never sent a file and was first known at a wrong time.
    let scene = Scene::new();
    scene.ingest(&[]).expect(0);
    edit(&scene, "ingest-state/facts/other.json", |known| known["last_came"] = (now() + 400 * DAY).into());
    let other = row(&scene, "other/-", &["--max-age", "2d"], 1);
    assert_contains(&other, "remedy", "nothing came since 2");
    edit(&scene, "ingest-state/facts/other.json", |known| known["last_came"] = (now() - DAY).into());
    row(&scene, "other/-", &["--max-age", "2d", "other"], 0);
}

/// The sender's clock was once ahead, so its numbers stay ahead; or somebody chose the numbers.
#[test]
fn the_age_of_a_commands_target_comes_from_created_not_from_the_number() {
    let scene = Scene::new();
    let age = ["--max-age", "2d", "laptop/etc"];
    let ahead = number(now() + 400 * DAY);
    deliver(&scene, ahead, &manifest("laptop/etc", ahead));
    scene.ingest(&[]).expect(0);
    let fresh = row(&scene, "laptop/etc", &age, 0);
    assert!(fresh["newest"].as_u64().unwrap() <= now() && fresh["age"].as_u64().unwrap() < 600, "{fresh}");
    let old = Manifest { created: now() - 30 * DAY, ..manifest("laptop/etc", ahead + 1) };
    deliver(&scene, ahead + 1, &old);
    scene.ingest(&[]).expect(0);
    assert_contains(
        &row(&scene, "laptop/etc", &age, 1),
        "remedy",
        "longer than max-age; see whether laptop still sends it",
    );
    // A journal of a version that did not record when the file was made.
    edit(&scene, ".zsnap/target.json", |journal| {
        journal["laptop/etc"].as_object_mut().unwrap().remove("created").unwrap();
    });
    let unknown = row(&scene, "laptop/etc", &age, 1);
    assert!(unknown["age"].is_null(), "{unknown}");
    assert_contains(&unknown, "note", "a future time: set the clock if it is wrong");
    assert_contains(&unknown, "remedy", "what comes next has the right time");
    deliver(&scene, ahead + 2, &manifest("laptop/etc", ahead + 2));
    scene.ingest(&[]).expect(0);
    row(&scene, "laptop/etc", &age, 0);
    // The greatest possible `created`, at which nobody made the file.
    deliver(&scene, number(now()), &Manifest { created: u64::MAX, ..manifest("laptop/etc", u64::MAX) });
    scene.ingest(&[]).expect(0);
    assert_contains(&row(&scene, "laptop/etc", &age, 1), "remedy", "a future time");
    // A file with an honest `created` is not removed because of that one.
    deliver(&scene, ahead + 3, &manifest("laptop/etc", ahead + 3));
    scene.ingest(&[]).expect(1).says("conflict").says("zsnap-ingest forget laptop/etc");
    assert_eq!(scene.spooled("laptop").len(), 1);
}

#[test]
fn a_file_first_seen_in_the_future_exceeds_max_wait() {
    let scene = Scene::new();
    let seq = number(now());
    deliver(&scene, seq, &Manifest { prev: Some(seq - 1), base: Base::Prev, ..manifest("laptop/etc", seq) });
    let ran = scene.ingest(&[]).expect(1).says("waiting for file");
    assert!(!ran.err.contains("max-wait"), "{}", ran.err);
    edit(&scene, "ingest-state/facts/laptop.json", |known| {
        known["files"].as_object_mut().unwrap().values_mut().for_each(|file| file["first"] = (now() + 2 * DAY).into());
    });
    assert_contains(&row(&scene, "laptop/etc", &[], 1), "remedy", "waiting for file");
    scene.ingest(&[]).expect(1).says("for longer than max-wait");
}

/// A pool with `laptop/tank/home@s1`, and a queue file with `s2`, which has a future date.
fn with_snapshot_ahead() -> (Scene, u64) {
    let scene = Scene::with_pool();
    let first = Stream::plain(Sub::full("tank/home@s1", 1).created(now() - 1000)).bytes();
    scene.queue(&["laptop/tank/home"], &first).expect(0);
    scene.ingest(&[]).expect(0);
    let seq = number(now());
    let ahead = Sub::increment("tank/home@s2", 1, 2).created(now() + 400 * DAY);
    let sealed = Sealer::new(&scene).zfs("laptop/tank/home", seq, Some(1), vec![ahead], false);
    scene.deliver("laptop", &name("laptop/tank/home", seq), &sealed);
    (scene, seq)
}

#[test]
fn a_snapshot_with_a_future_date_is_held_and_its_remedy_works() {
    let (scene, seq) = with_snapshot_ahead();
    let next = Sub::increment("tank/home@s3", 2, 3).created(now());
    let sealed = Sealer::new(&scene).zfs("laptop/tank/home", seq + 1, Some(seq), vec![next], false);
    let behind = scene.deliver("laptop", &name("laptop/tank/home", seq + 1), &sealed);
    let ran = scene.ingest(&[]).expect(1).says("held: snapshot s2 is dated more than a day ahead (20");
    assert_eq!(ran.err.lines().count(), 1, "the file behind it is reported as well: {}", ran.err);
    scene.zfs_calls();
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    // The file is not opened before its date: the run and `status` report the remembered reason.
    let needed = String::from_utf8(scene.ingest(&["status", "--needed-file"]).expect(0).out).unwrap();
    let facts = needed.trim_end().replace("needed-guids", "facts/laptop.json");
    let hold = |text: &str| {
        edit(&scene, &facts, |known| {
            let of_file = |file: &&mut Value| file["again"].is_u64();
            known["files"].as_object_mut().unwrap().values_mut().find(of_file).unwrap()["what"]["held"] = text.into();
        });
    };
    let text = ran.err.trim_end().split_once("held: ").unwrap().1.to_owned();
    hold("as it was");
    scene.ingest(&[]).expect(1).says("held: as it was");
    hold(&text);
    scene.ingest(&[]).expect(1).says(&text);
    let held = row(&scene, "laptop/tank/home", &[], 1);
    assert_eq!((&held["state"], &held["waiting_files"]), (&"held".into(), &2.into()), "{held}");
    assert_contains(&held, "remedy", "zfs send -i from the newest one that is here");
    let plan: Vec<Value> = serde_json::from_slice(&scene.ingest(&["plan", "--json"]).expect(1).out).unwrap();
    assert_eq!((&plan[0]["verdict"], &plan[1]["verdict"]), (&"held".into(), &"waiting".into()), "{plan:?}");
    assert_eq!(plan[1]["behind"], plan[0]["file"].as_str().unwrap().trim_start_matches("laptop/"));
    assert_contains(&plan[1], "why", "which is here: held: snapshot s2 is dated");

    let anew = Stream::plain(Sub::increment("tank/home@s4", 1, 4).created(now())).bytes();
    scene.queue(&["laptop/tank/home"], &anew).expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(row(&scene, "laptop/tank/home", &[], 1)["snapshot"], "s4");
    fs::remove_file(scene.path("spool/laptop").join(name("laptop/tank/home", seq))).unwrap();
    fs::remove_file(behind).unwrap();
    scene.ingest(&[]).expect(0);
    assert_eq!(row(&scene, "laptop/tank/home", &[], 0)["state"], "ok");
}

/// Runs zsnap-ingest under faketime.
fn at(scene: &Scene, time: &str, args: &[&str]) -> Ran {
    run(&mut under(&["faketime", "-f", time], &scene.ingest_command(args)), b"")
}

#[test]
fn a_snapshot_with_a_future_date_is_received_once_the_date_has_come() {
    if !have("faketime") {
        return;
    }
    let (scene, _) = with_snapshot_ahead();
    scene.ingest(&[]).expect(1).says("held: snapshot s2");
    assert_eq!(at(&scene, "+398d", &["--max-wait", "999d"]).expect(1).err.lines().count(), 1);
    // A date that is at most a day ahead is accepted.
    at(&scene, "+399d", &["--max-wait", "999d"]).expect(0);
    assert_eq!(row(&scene, "laptop/tank/home", &[], 0)["snapshot"], "s2");
}

/// The sender's clock was 400 days ahead for one file and is right again.
#[test]
fn a_file_with_a_future_signature_is_held_and_its_remedy_works() {
    if !have("faketime") {
        return;
    }
    let scene = Scene::new();
    let queue = scene.queue_command(["--opaque", "--full", "laptop/etc"]);
    run(&mut under(&["faketime", "-f", "+400d"], &queue), b"ahead").expect(0);
    scene
        .ingest(&[])
        .expect(1)
        .says("held: signed more than a day ahead (20")
        .says("the file is taken from 20")
        .says("set the clock there");
    let held = row(&scene, "laptop/etc", &[], 1);
    assert_eq!(held["state"], "held");
    // The remedy that the message proposes.
    let file = scene.spooled("laptop")[0].clone();
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"right").expect(0);
    scene.ingest(&[]).expect(0);
    fs::remove_file(file).unwrap();
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"right");
    // The number of the first file stays ahead, and `status` still knows the age of the target.
    row(&scene, "laptop/etc", &["--max-age", "2d", "laptop/etc"], 0);
    at(&scene, "+30d", &["status", "--quiet", "--max-age", "2d", "laptop/etc"]).expect(1);
}

/// Whoever back-dates new snapshots chooses which old ones a calendar rule keeps.
#[test]
fn back_dated_snapshots_are_received_and_reported_once() {
    let scene = Scene::with_pool();
    let send = |to: u64, created: u64| {
        let snapshot = format!("tank/home@s{to}");
        let sub = if to == 1 { Sub::full(&snapshot, 1) } else { Sub::increment(&snapshot, to - 1, to) };
        scene.queue(&["laptop/tank/home"], &Stream::plain(sub.created(created)).bytes()).expect(0);
    };
    send(1, now() - 1000);
    scene.ingest(&[]).expect(0);
    send(2, now() - 30 * DAY);
    let ran = scene.ingest(&[]).expect(1).says("laptop/tank/home@s2: is dated 20").says("before the snapshot");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(row(&scene, "laptop/tank/home", &[], 0)["snapshot"], "s2");
    // The next snapshots are dated after it, so nothing more is reported.
    send(3, now() - 29 * DAY);
    send(4, now());
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    // Several in one stream.
    let subs = [Sub::increment("tank/home@s5", 4, 5).created(now()), Sub::increment("tank/home@s6", 5, 6).created(7)];
    scene.queue(&["laptop/tank/home"], &Stream::compound("tank/home@s6", subs).bytes()).expect(0);
    scene.ingest(&[]).expect(1).says("laptop/tank/home@s6: is dated 1970-01-01 00:00:07Z");
    assert_eq!(row(&scene, "laptop/tank/home", &[], 0)["snapshot"], "s6");
}
