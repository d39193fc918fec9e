//! The shell scripts that zsnap replaces, as their article prints them (data/seed-*.sh), and zsnap read each
//! other's files.

use std::fs;
use std::path::Path;
use std::process::Command;

use zsnap_tests::sample;
use zsnap_tests::scene::{Ran, Scene, files, have, run, under};

/// A scene with two GnuPG keyrings: `server` can decrypt and knows the laptop, `sender` can encrypt.
fn scene() -> Option<Scene> {
    if !["gpg", "zstd", "dotlockfile", "logger"].into_iter().all(have) {
        return None;
    }
    let scene = Scene::new();
    for (home, keys) in [("server", &["backup.key", "laptop.cert"][..]), ("sender", &["backup.cert"])] {
        fs::create_dir(scene.path(home)).unwrap();
        // The users of the scripts did this by hand: gpg asks nothing and trusts these keys.
        scene.write(&format!("{home}/gpg.conf"), "batch\ntrust-model always\n");
        run(Command::new("chmod").arg("700").arg(scene.path(home)), b"").expect(0);
        let mut import = Command::new("gpg");
        import.arg("-q").arg("--import").args(keys.iter().map(|key| scene.path(key)));
        run(import.env("GNUPGHOME", scene.path(home)), b"").expect(0);
    }
    Some(scene)
}

/// The fingerprint of the server's certificate in the keyring of the sender.
fn recipient(scene: &Scene) -> String {
    let list = run(Command::new("gpg").args(["--with-colons", "-k"]).env("GNUPGHOME", scene.path("sender")), b"");
    let list = String::from_utf8(list.out).unwrap();
    list.lines().find_map(|line| line.strip_prefix("fpr:::::::::")).unwrap().trim_end_matches(':').to_owned()
}

fn stop_agents(scene: &Scene) {
    for home in ["server", "sender"] {
        run(Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", scene.path(home)), b"").expect(0);
    }
}

/// Runs the receive script once. Its zfs writes its input to `got/` under the dataset's name.
fn receive(scene: &Scene, prefix: &str) -> Ran {
    fs::create_dir_all(scene.path("got")).unwrap();
    let zfs = scene.path("zfs");
    if !zfs.exists() {
        let body = "#!/bin/sh\nset -e\nfor last; do :; done\necho \"$*\" >> ../calls\ntest ! -e fail\ncat > \"$(echo \"$last\" | tr / +)\"\n";
        fs::write(&zfs, body.replace("set -e\n", &format!("set -e\ncd '{}'\n", scene.path("got").display()))).unwrap();
        run(Command::new("chmod").arg("755").arg(&zfs), b"").expect(0);
    }
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/seed-receive.sh"));
    script.env("GNUPGHOME", scene.path("server")).env("PREFIX", prefix).env("INCOMINGDIR", scene.path("spool"));
    run(script.env("LOCKFILE", scene.path("lockfile")).env("ZFS", zfs), b"")
}

#[test]
fn the_receive_script_receives_files_of_zsnap_under_both_prefixes() {
    let Some(scene) = scene() else { return };
    for prefix in ["bakfsfmt2", "backupsfmt2"] {
        for name in ["full.zfs", "raw-w-full.zfs"] {
            let target = format!("laptop/src/{}", name.trim_end_matches(".zfs"));
            scene
                .queue(&["--format", "gpg", "--state", scene.path(prefix).to_str().unwrap(), &target], &sample(name))
                .expect(0);
        }
        scene.queue(&["--opaque", "--full", "laptop/etc"], b"x").expect(0);
        for file in scene.spooled("laptop") {
            let name = file.file_name().unwrap().to_str().unwrap();
            fs::rename(&file, file.with_file_name(name.replace("bakfsfmt2", prefix))).unwrap();
        }
        // If the receiver fails, the script keeps the file.
        fs::create_dir_all(scene.path("got")).unwrap();
        scene.write("got/fail", "");
        receive(&scene, prefix).expect(0);
        assert_eq!(scene.spooled("laptop").len(), 3);
        fs::remove_file(scene.path("got/fail")).unwrap();
        receive(&scene, prefix).expect(0);
        assert!(scene.spooled("laptop").is_empty(), "{prefix}: the script left files");
        let got =
            |dataset: &str| fs::read(scene.path("got").join(format!("backup+simplesnap+laptop+{dataset}"))).unwrap();
        assert!(got("src+full") == sample("full.zfs"));
        assert!(got("src+raw-w-full") == sample("raw-w-full.zfs"));
        assert_eq!(got("etc"), b"x");
        let calls = fs::read_to_string(scene.path("calls")).unwrap();
        assert!(calls.contains("receive -u -o readonly=on backup/simplesnap/laptop/src/full\n"), "{calls}");
        fs::remove_dir_all(scene.path("got")).unwrap();
    }
    stop_agents(&scene);
}

#[test]
fn cat_and_verify_read_files_of_the_queue_script() {
    let Some(scene) = scene() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/seed-queue.sh");
    let recipient = recipient(&scene);
    fs::create_dir(scene.path("spool/laptop")).unwrap();
    for dataset in ["src/data", "etc"] {
        let mut queue = Command::new(&script);
        queue.arg(format!("tank/simplesnap/laptop/{dataset}")).env("RECIPIENT", &recipient);
        queue.env("GNUPGHOME", scene.path("sender")).env("NNCP_FILE", "cat > \"$FILE\"");
        run(queue.current_dir(scene.path("spool/laptop")), &sample("full.zfs")).expect(0);
    }
    let made = scene.spooled("laptop");
    assert_eq!(made.len(), 2);
    for file in &made {
        let file = file.to_str().unwrap();
        scene.ingest(&["cat", file]).expect(77).says("not signed");
    }
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\ntrust = \"recipient\"\n");
    for file in &made {
        let file = file.to_str().unwrap();
        assert!(scene.ingest(&["cat", file]).expect(0).out == sample("full.zfs"));
        let report = String::from_utf8(scene.ingest(&["verify", file]).expect(0).out).unwrap();
        assert!(report.contains("signer: none\n") && report.contains("snapshot: src/data@s1\n"), "{report}");
        // The trust of the laptop does not hold for another host.
        scene.ingest(&["--host", "other", "verify", file]).expect(77).says("not signed");
    }
    assert_eq!(files(&scene.path("spool/laptop")), made);
    stop_agents(&scene);
}

/// Such files hold what `zstd | gpg` was given by hand: an archive, for example. A run has no use for them, but whoever
/// restores has.
#[test]
fn cat_writes_any_stream_of_an_old_file_that_a_run_refuses() {
    let Some(scene) = scene() else { return };
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\ntrust = \"recipient\"\n");
    fs::write(scene.path("target/notes"), "what tar packed").unwrap();
    let tar = run(Command::new("tar").arg("-C").arg(scene.path("target")).args(["-c", "notes"]), b"").expect(0).out;
    fs::create_dir(scene.path("spool/laptop")).unwrap();
    for (n, stream) in [&tar[..], b"x", b"", &[0; 40]].into_iter().enumerate() {
        let file = scene.path("spool/laptop").join(zsnap_tests::scene::name("laptop/notes", n as u64));
        let zstd = run(Command::new("zstd").arg("-c"), stream).expect(0).out;
        let mut gpg = Command::new("gpg");
        gpg.args(["-q", "--compress-algo", "none", "-e", "-r"])
            .arg(recipient(&scene))
            .env("GNUPGHOME", scene.path("sender"));
        let mut sealed = run(&mut gpg, &zstd).expect(0).out;
        fs::write(&file, &sealed).unwrap();
        let path = file.to_str().unwrap();
        assert!(scene.ingest(&["cat", path]).expect(0).out == stream, "{n}");
        scene.ingest(&["verify", path]).expect(65).says("not as a queue file should be");
        // What is not authentic is not written.
        let middle = sealed.len() - 30;
        sealed[middle] ^= 1;
        fs::write(&file, &sealed).unwrap();
        assert!(scene.ingest(&["cat", path]).expect(65).says("damaged").out.is_empty(), "{n}");
    }
    stop_agents(&scene);
}

/// A computer that is used for a restore may have lost its clock.
#[test]
fn cat_does_not_depend_on_the_clock() {
    if !have("faketime") {
        return;
    }
    let scene = Scene::new();
    let sealed = scene.seal(&zsnap_tests::scene::manifest("laptop/etc", 1), Some("laptop"), b"precious");
    let file = scene.deliver("laptop", &zsnap_tests::scene::name("laptop/etc", 1), &sealed);
    let at = |verb| {
        let command = scene.ingest_command([verb, file.to_str().unwrap()]);
        run(&mut under(&["faketime", "-f", "@2001-01-01 00:00:00"], &command), b"")
    };
    at("verify").expect(75).says("if this clock is wrong, set it");
    assert_eq!(at("cat").expect(0).out, b"precious");
}
