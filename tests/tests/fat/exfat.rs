//! A stick with exFAT that FUSE mounts: without links, RENAME_NOREPLACE and modes, and without `:` in names.

use std::fs::{self, File};
use std::io;

use zsnap_common::durable::abilities::Abilities;
use zsnap_common::durable::publish::{NewFile, rename_new};
use zsnap_common::names::stored::stored;
use zsnap_tests::removable::{DESKTOP, Format, Removable};
use zsnap_tests::scene::{Scene, name};
use zsnap_tests::sealed::noise;
use zsnap_tests::spooler::{Spooler, tree};
use zsnap_tests::strace::{can_trace, traced, under};

/// A spooler with a stick as drive `stick`.
fn spooler() -> Option<(Spooler, Removable)> {
    let spooler = Spooler::new();
    fs::create_dir(spooler.path("stick")).unwrap();
    let stick = Removable::new(Format::ExFat, &spooler.path("stick"))?;
    spooler.to("stick", &format!("dir:{}", spooler.path("stick").display()), "");
    spooler.mark("stick", "stick");
    Some((spooler, stick))
}

/// A scene whose spool, which is also its incoming directory, is on a stick.
fn scene() -> Option<(Scene, Removable)> {
    let scene = Scene::new();
    let stick = Removable::new(Format::ExFat, &scene.path("spool"))?;
    Some((scene, stick))
}

#[test]
fn what_the_driver_lacks_is_found_out_as_root() {
    let Some((spooler, _stick)) = spooler() else { return };
    let at = spooler.path("stick");
    let found = Abilities::of(&File::open(&at).unwrap(), &at).unwrap();
    let Abilities { largest, .. } = found;
    assert_eq!(found, Abilities { links: false, renames_new: false, modes: false, case: false, names: false, largest });
    assert!(largest > 1 << 40);
    // FUSE keeps a file that was removed while it was open, for a moment.
    let left: Vec<_> = tree(&at).into_iter().filter(|name| !name.starts_with(".fuse_hidden")).collect();
    assert_eq!(left, [".zsnap-drive"]);
}

#[test]
fn a_file_is_published_without_replacing_another_as_root() {
    let Some((spooler, stick)) = spooler() else { return };
    let at = spooler.path("stick");
    let publish = |bytes: &[u8]| {
        let mut new = NewFile::with(&at, bytes).unwrap();
        new.name_as("file".as_ref()).map_err(|e| e.kind())
    };
    assert_eq!((publish(b"one"), publish(b"two")), (Ok(()), Err(io::ErrorKind::AlreadyExists)));
    let dir = File::open(&at).unwrap();
    fs::write(at.join("other"), "other").unwrap();
    assert!(rename_new(&dir, "other", &dir, "FILE").is_err());
    drop(dir);
    stick.again(DESKTOP);
    assert_eq!(tree(&at), [".zsnap-drive", "file", "other"]);
    assert_eq!(fs::read(at.join("file")).unwrap(), b"one");
}

/// The process that delivers is killed at each call that changes a name.
#[test]
fn a_crash_leaves_a_whole_file_or_none_under_its_name_as_root() {
    if !can_trace() {
        return;
    }
    let Some((spooler, _stick)) = spooler() else { return };
    let mut kills = 0;
    for call in ["renameat2", "renameat", "linkat", "flock", "fsync"] {
        for number in 1.. {
            let bytes = noise(100_000, number);
            let name = spooler.put("laptop/a", number, &bytes);
            let trace = spooler.path("trace");
            let at = [
                "-P".to_owned() + spooler.path("stick/laptop").to_str().unwrap(),
                format!("-einject={call}:signal=KILL:when={number}"),
            ];
            let (status, _) = traced(&mut under(&at, &trace, &spooler.command([""; 0])), &trace);
            let there = spooler.path("stick/laptop").join(&name);
            assert!(!there.exists() || fs::read(&there).unwrap() == bytes, "{call} {number}");
            assert!(there.exists() || spooler.waiting("stick").len() == 1, "{call} {number}: it is lost");
            spooler.silent_run();
            assert!(fs::read(&there).unwrap() == bytes && spooler.waiting("stick").is_empty(), "{call} {number}");
            assert_eq!(spooler.on("stick"), [format!("laptop/{name}")], "{call} {number}");
            fs::remove_file(&there).unwrap();
            if status == 0 {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills >= 4, "only {kills} kills");
}

#[test]
fn every_name_travels_by_zsnap_fanout_in_both_directions_as_root() {
    let Some((spooler, _stick)) = spooler() else { return };
    spooler.drive("disk1", "");
    let targets = ["laptop/tank/co:lon", "laptop/tank/dot.", "laptop/tank/space ", "a:b/tank", "con/plain", "h./a"];
    let mut files: Vec<String> = (1..)
        .zip(targets)
        .map(|(n, target)| format!("{}/{}", target.split_once('/').unwrap().0, spooler.put(target, n, target)))
        .collect();
    files.sort();
    spooler.silent_run();
    let forms = |files: &[String]| {
        let mut forms: Vec<_> =
            files.iter().map(|path| path.split('/').map(stored).collect::<Vec<_>>().join("/")).collect();
        forms.sort();
        forms
    };
    assert_eq!((spooler.on("disk1"), spooler.on("stick")), (files.clone(), forms(&files)));
    assert!(forms(&files).iter().filter(|form| form.contains('%')).count() == files.len());
    // A file that is there is known in its form, and another one with its name gets another name.
    fs::write(spooler.path("stick").join(stored("a:b")).join("other"), "").unwrap();
    for (n, content) in [(4, "a:b/tank"), (4, "another")] {
        spooler.put("a:b/tank", n, content);
        spooler.silent_run();
    }
    let second = format!("a%3Ab/{}.0", stored(&name("a:b/tank", 1_700_000_000_000_004)));
    assert!(spooler.on("stick").contains(&second), "{:?}", spooler.on("stick"));
    assert_eq!(spooler.on("stick").len(), files.len() + 2);

    // The stick is copied to another spool.
    let other = Spooler::with(&["disk1"]);
    for path in forms(&files) {
        let (host, file) = path.split_once('/').unwrap();
        other.put_as(host, file, fs::read(spooler.path("stick").join(&path)).unwrap());
    }
    other.fanout(&["status"]).expect(0).prints("(spool)");
    other.silent_run();
    assert_eq!((other.on("disk1"), other.left()), (files, Vec::<String>::new()));
}

#[test]
fn every_name_travels_from_zsnap_queue_to_zsnap_ingest_as_root() {
    let Some((scene, stick)) = scene() else { return };
    scene.edit("ingest.toml", "match = \"laptop/etc\"", "match = \"laptop/**\"");
    for (target, text) in [("laptop/etc/co:lon", "1"), ("laptop/etc/dot.", "2"), ("laptop/etc/space ", "3")] {
        scene.queue(&["--opaque", "--full", target], text.as_bytes()).silent();
    }
    let forms: Vec<_> = tree(&scene.path("spool/laptop"));
    let ends = ["@etc@co%3Alon", "@etc@dot%2E", "@etc@space%20"];
    assert!(forms.iter().zip(ends).all(|(form, end)| form.ends_with(end)) && forms.len() == 3, "{forms:?}");
    stick.again(DESKTOP);
    // The real names are shown.
    let plan = scene.ingest(&["plan"]).expect(0).prints("@etc@co:lon ").prints("@etc@dot. ");
    assert!(!String::from_utf8(plan.out).unwrap().contains('%'));
    for path in scene.spooled("laptop") {
        scene.ingest(&["verify", path.to_str().unwrap()]).expect(0).prints("target: laptop/etc/");
    }
    scene.ingest(&[]).silent();
    assert_eq!((scene.applied(), scene.spooled("laptop").len()), (b"123".to_vec(), 0));
    scene.ingest(&["status"]).expect(0).prints("laptop/etc/co:lon ").prints("laptop/etc/dot. ");
    // What follows finds its place in the chain.
    scene.queue(&["--opaque", "--increment", "--overlap", "laptop/etc/co:lon"], b"4").silent();
    scene.ingest(&[]).silent();
    assert_eq!(scene.applied(), b"1234");
}

/// A file of the scripts that zsnap replaces has no manifest: only its name says for which dataset it is.
#[test]
fn a_seed_file_with_an_escaped_name_is_for_the_real_dataset_as_root() {
    let Some((spooler, _stick)) = spooler() else { return };
    spooler.put_as("laptop", "backupsfmt2-1700000000.1.2_laptop@tank@co:lon", "x");
    spooler.silent_run();
    assert_eq!(spooler.on("stick"), ["laptop/backupsfmt2-1700000000.1.2_laptop@tank@co%3Alon"]);
}

#[test]
fn hosts_that_would_share_a_directory_are_refused_as_root() {
    let Some((spooler, _stick)) = spooler() else { return };
    spooler.drive("disk1", "");
    let upper = spooler.put("Laptop/a", 1, "upper");
    spooler.silent_run();
    spooler.fanout(&["check"]).expect(0);
    let lower = spooler.put("laptop/a", 2, "lower");
    let says = "the file system ignores case";
    spooler.fanout(&["check"]).expect(78).prints(says).prints("the hosts Laptop and laptop would have one directory");
    let ran = spooler.fanout(&[]).expect(1).says(says).says("stick/laptop: ");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(spooler.on("stick"), [format!("Laptop/{upper}")]);
    assert_eq!(spooler.on("disk1"), [format!("Laptop/{upper}"), format!("laptop/{lower}")]);
    assert_eq!(spooler.waiting("stick"), [format!("laptop/{lower}")]);
    // The remedy of the message.
    fs::create_dir(spooler.path("stick/second")).unwrap();
    spooler.mark("stick/second", "second");
    spooler.to("second", &format!("dir:{}", spooler.path("stick/second").display()), "hosts = [\"laptop\"]");
    spooler.edit("[to.stick]", "[to.stick]\nhosts = [\"Laptop\"]");
    spooler.put("laptop/a", 3, "lower");
    spooler.fanout(&[]);
    assert_eq!(tree(&spooler.path("stick/second")).len(), 2);
}

#[test]
fn zsnap_queue_refuses_hosts_that_would_share_a_directory_as_root() {
    let Some((scene, _stick)) = scene() else { return };
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"x").silent();
    scene.queue(&["check"], b"").expect(0);
    scene
        .queue(&["--host=LAPTOP", "--opaque", "--full", "LAPTOP/etc"], b"y")
        .expect(0)
        .says("the file system ignores case");
    scene.queue(&["check"], b"").expect(78).prints("the hosts laptop and LAPTOP would have one directory");
    assert_eq!(scene.spooled("laptop").len(), 1);
}

#[test]
fn parts_travel_by_a_stick_that_is_full_in_between_as_root() {
    let Some((scene, stick)) = scene() else { return };
    scene.edit("queue.toml", "state =", "max-file = \"4MiB\"\nstate =");
    fs::write(scene.path("spool/.ballast"), noise(30 << 20, 2)).unwrap();
    let stream = noise(20 << 20, 1);
    scene.queue(&["--opaque", "--full", "laptop/etc"], &stream).silent();
    scene.queue(&["--opaque", "--full", "laptop/etc"], &stream).expect(0).says("do not fit");
    assert_eq!(scene.spooled("laptop").len(), 6);
    stick.again(DESKTOP);
    scene.ingest(&[]).silent();
    assert!(scene.applied() == stream && scene.spooled("laptop").is_empty());
    scene.queue(&["flush"], b"").expect(0);
    assert_eq!(scene.spooled("laptop").len(), 6);
    fs::remove_file(scene.path("target/all")).unwrap();
    scene.ingest(&[]).silent();
    assert!(scene.applied() == stream);
}
