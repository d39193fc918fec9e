//! The usual mistakes at set-up: each message says what is wrong, with which path or name, and what to do, and a remedy
//! that is a command can be pasted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use zsnap_tests::scene::{Ran, Scene, have, needs_root, run, tool};
use zsnap_tests::spooler::Spooler;

fn full(scene: &Scene, args: &[&str]) -> Ran {
    scene.queue(&[&["--opaque", "--full"], args, &["laptop/etc"]].concat(), b"hello")
}

/// Runs the command of a message, from `from` up to `to`, as a user would paste it.
fn paste(message: &str, from: &str, to: &str) {
    let command = message.split_once(from).unwrap_or_else(|| panic!("no {from}: {message}")).1;
    let command = command.split(to).next().unwrap();
    run(Command::new("sh").args(["-c", &format!("{from}{command}")]), b"").expect(0);
}

#[test]
fn mistake_1_a_wrong_prefix() {
    let scene = Scene::new();
    let operand = "tank/simplesnap/laptop/etc";
    let ran = scene.queue(&["--opaque", "--full", "--strip", "tank/simple", operand], b"x").expect(2);
    ran.says("\"tank/simplesnap/laptop/etc\" would be of the host \"tank\"")
        .says("this configuration's host is \"laptop\"")
        .says("it does not lie below strip (\"tank/simple\"): correct one of them");
    scene
        .queue(&["--strip", "tank/simple", operand], b"x")
        .expect(2)
        .says("does not lie below \"tank/simple\", which --strip names");
    assert!(scene.spooled("tank").is_empty());
}

#[test]
fn mistake_2_a_missing_recipient() {
    let scene = Scene::new();
    let file = scene.path("backup.cert");
    fs::rename(&file, scene.path("elsewhere")).unwrap();
    let what = format!("{}: not found: copy the certificate there, or correct the path", file.display());
    full(&scene, &[]).expect(78).says(&what);
    scene.queue(&["check"], b"").expect(78).prints(&what);
    fs::rename(scene.path("elsewhere"), &file).unwrap();
    scene.edit("queue.toml", "encrypt-to =", "#");
    full(&scene, &[]).expect(2).says("--encrypt-to is missing: specify the certificate that zsnap-ingest keygen made");
}

#[test]
fn mistake_3_a_spool_of_another_user_as_root() {
    needs_root();
    let spooler = Spooler::with(&["disk1"]);
    let spool = spooler.path("spool");
    chown(&spool, Some(65534), None).unwrap();
    let says = format!("{} belongs to nobody, and only nobody can hard-link the files", spool.display());
    run(&mut spooler.command([""; 0]), b"").expect(78).says(&says).says("runuser -u nobody -- zsnap-fanout");
    run(&mut spooler.command(["check"]), b"").expect(78).prints(&says);
}

#[test]
fn mistake_4_a_drive_that_is_not_mounted() {
    let scene = Scene::new();
    let gone = scene.path("mnt/stick").display().to_string();
    let to = format!("dir:{gone}");
    // The stream is safe here, so the status is 0.
    let ran = full(&scene, &["--to", &to]).expect(0);
    assert!(ran.err.contains("not delivered to dir:") && ran.err.contains(&gone), "{}", ran.err);
    assert!(ran.err.contains("the next run tries again"), "{}", ran.err);
    assert!(!scene.path("mnt").exists());
    scene.queue(&["--to", &to, "check"], b"").expect(78).prints(&gone);
}

#[test]
fn mistake_5_a_wrong_clock() {
    if !have("faketime") {
        return;
    }
    let scene = Scene::new();
    let queue = scene.queue_command(["--opaque", "--full", "laptop/etc"]);
    let mut early = Command::new("faketime");
    early.arg("2020-01-01 00:00:00").arg(queue.get_program()).args(queue.get_args());
    run(&mut early, b"hello").expect(78).says("is not valid yet: it was made at 20").says("set this clock");
    let mut late = Command::new("faketime");
    late.env("NO_FAKE_STAT", "1").args(["-f", "+3d"]).arg(queue.get_program()).args(queue.get_args());
    run(&mut late, b"hello").expect(0);
    scene.age("laptop");
    scene
        .ingest(&[])
        .expect(1)
        .says("signed more than a day ahead")
        .says("if this clock is wrong, set it; if that of laptop was, the file is taken from");
}

#[test]
fn mistake_6_an_nncp_node_that_does_not_exist() {
    if !have("nncp-cfgnew") {
        return;
    }
    let scene = Scene::new();
    let made = run(Command::new("nncp-cfgnew").arg("-nocomments"), b"").expect(0);
    scene.write("nncp.hjson", &String::from_utf8(made.out).unwrap());
    let config = scene.path("nncp.hjson").display().to_string();
    full(&scene, &["--to", "nncp-file:backupsrv", "--nncp-config", &config])
        .expect(0)
        .says("not delivered to nncp-file:backupsrv, the next run tries again")
        .says("NNCP's configuration has no such node: correct the name, or add it to neigh there");
}

#[test]
fn mistake_7_a_wrong_certificate() {
    let scene = Scene::new();
    let path = |name: &str| scene.path(name).display().to_string();
    // The laptop's own certificate, and each half of a key in the place of the other.
    full(&scene, &["--encrypt-to", &path("laptop.cert")])
        .expect(78)
        .says("has no encryption subkey: specify the .cert file that zsnap-ingest keygen made on the backup server");
    full(&scene, &["--encrypt-to", &path("backup.key")]).expect(78).says(&format!("specify {}", path("backup.cert")));
    full(&scene, &["--signing-key", &path("laptop.cert")])
        .expect(78)
        .says("laptop.cert: is a certificate, without the secret")
        .says(&format!("specify {}", path("laptop.key")));
    scene
        .ingest(&["--decryption-key", &path("backup.cert")])
        .expect(78)
        .says(&format!("specify {}", path("backup.key")));
    // A certificate that cannot have signed anything.
    scene.edit("ingest.toml", "laptop.cert", "backup.cert");
    scene
        .ingest(&["check"])
        .expect(1)
        .prints("in signers of [hosts.laptop] is not the certificate of a key that signs");
    // Another machine's.
    scene.edit("ingest.toml", "backup.cert", "other.cert");
    full(&scene, &[]).expect(0);
    scene
        .ingest(&[])
        .expect(1)
        .says("which no host has; add its certificate to signers in [hosts.laptop] if it is laptop's");
}

#[test]
fn mistake_8_a_typo_in_the_configuration() {
    let scene = Scene::new();
    scene.edit("queue.toml", "encrypt-to", "encrpyt-to");
    full(&scene, &[]).expect(78).says("queue.toml:2: ").says("encrypt-to");
    scene.edit("ingest.toml", "signers", "singers");
    scene.ingest(&[]).expect(78).says("ingest.toml:5: ").says("signers");
}

#[test]
fn mistake_9_the_mode_of_a_key() {
    let scene = Scene::new();
    let dir = scene.path("my keys");
    fs::create_dir(&dir).unwrap();
    let (key, cert) = (dir.join("it's a.key"), dir.join("a.cert"));
    fs::copy(scene.path("laptop.key"), &key).unwrap();
    fs::copy(scene.path("backup.cert"), &cert).unwrap();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let with = |key: &Path, cert: &Path| {
        full(&scene, &["--signing-key", key.to_str().unwrap(), "--encrypt-to", cert.to_str().unwrap()])
    };
    mode(&key, 0o644);
    let ran =
        with(&key, &cert).expect(78).says("is a secret key that others can read").says("treat the key as compromised");
    paste(&ran.err, "chmod 600 ", ", and if");
    mode(&cert, 0o666);
    paste(&with(&key, &cert).expect(78).says("may be changed by others").err, "chmod go-w ", "\n");
    mode(&dir, 0o777);
    paste(&with(&key, &cert).expect(78).says("its directory may be changed by others").err, "chmod go-w ", "\n");
    with(&key, &cert).expect(0);
}

#[test]
fn mistake_10_a_missing_incoming_directory() {
    let scene = Scene::new();
    fs::remove_dir_all(scene.path("spool")).unwrap();
    let spool = scene.path("spool").display().to_string();
    let says = format!("{spool} is absent: create it, or attach its drive");
    // A drive of a rotation is often away, so that cron mails nothing. A user at a terminal sees it.
    scene.ingest(&[]).silent();
    scene.ingest(&["-v"]).expect(0).says(&says);
    scene.ingest(&["check"]).expect(1).prints(&says);
    scene.edit("ingest.toml", "incoming = ", "#");
    scene.ingest(&[]).expect(2).says("specify --incoming");
    scene.write("empty.toml", "");
    let mut nothing = tool("zsnap-ingest", &scene.path("empty.toml"));
    run(&mut nothing, b"").expect(2).says("specify --incoming and --store, or write them into the configuration");
}
