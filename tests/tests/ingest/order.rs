//! zsnap-ingest receives streams in the order of their chains, not of their arrival. What it remembers of earlier
//! runs saves work and decides nothing. Hosts take turns.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use zsnap_common::names::queue_name::{QueueName, Stamp};
use zsnap_message::keys::SigningKey;
use zsnap_tests::hostile::described;
use zsnap_tests::scene::{Ran, Scene, fake_zfs, have, name, run, seal_with, under};
use zsnap_tests::stream::{Stream, Sub};

const SEQ: u64 = 1_700_000_000_000_000;

/// Puts a signed queue file into the spool: number `seq` of the target, with these snapshots, the first of which
/// is the base (0: none).
fn put(scene: &Scene, target: &str, seq: u64, prev: Option<u64>, guids: &[u64]) -> PathBuf {
    let host = target.split('/').next().unwrap();
    scene.deliver(host, &name(target, SEQ + seq), &sealed(scene, target, seq, prev, guids))
}

/// Returns the bytes of the file that `put` puts into the spool.
fn sealed(scene: &Scene, target: &str, seq: u64, prev: Option<u64>, guids: &[u64]) -> Vec<u8> {
    let (host, dataset) = target.split_once('/').unwrap();
    let toname = |guid: u64| format!("{dataset}@s{guid}");
    let sub = |pair: &[u64]| match pair[0] {
        0 => Sub::full(&toname(pair[1]), pair[1]),
        from => Sub::increment(&toname(pair[1]), from, pair[1]),
    };
    let mut subs: Vec<Sub> = guids.windows(2).map(sub).collect();
    let stream = match subs.len() {
        1 => Stream::plain(subs.remove(0)),
        _ => Stream::compound(&toname(*guids.last().unwrap()), subs),
    };
    let stream = stream.bytes();
    let (mut manifest, trailer) = described(target, SEQ + seq, &stream);
    manifest.prev = prev.map(|prev| SEQ + prev);
    let key = SigningKey::load(&scene.path(format!("{host}.key")), std::time::SystemTime::now()).unwrap();
    seal_with(&manifest, trailer, Some(&key), &scene.path("backup.cert"), &stream)
}

/// The snapshots of a dataset, oldest first.
fn snapshots(scene: &Scene, target: &str) -> String {
    let dataset = format!("backup/hosts/{target}");
    let ran = scene.zfs(&["list", "-H", "-d", "1", "-t", "snapshot", "-o", "name", "-s", "createtxg", &dataset]);
    let out = String::from_utf8(ran.out).unwrap();
    out.lines().map(|line| line.split('@').nth(1).unwrap()).collect::<Vec<_>>().join(" ")
}

/// The number of queue files in a host's directory.
fn left(scene: &Scene, host: &str) -> usize {
    scene.spooled(host).len()
}

/// The file in which zsnap-ingest remembers the laptop's queue files.
fn facts(scene: &Scene) -> PathBuf {
    let state = scene.path("ingest-state");
    let pools = fs::read_dir(&state).unwrap().map(|e| e.unwrap().path().join("facts/laptop.json"));
    pools.into_iter().find(|path| path.exists()).unwrap()
}

#[test]
fn streams_are_received_in_the_order_of_their_chain() {
    let scene = Scene::with_pool();
    // The child dataset arrives first, the incrementals backwards, and one of them overlaps an earlier one.
    put(&scene, "laptop/tank/home/mail", 1, None, &[0, 101]);
    put(&scene, "laptop/tank/home", 5, Some(4), &[3, 4, 5, 6]);
    put(&scene, "laptop/tank/home", 4, Some(2), &[2, 3, 4]);
    put(&scene, "laptop/tank/home", 2, Some(1), &[1, 2]);
    scene.ingest(&[]).expect(1).says("for its parent laptop/tank/home").says("for its base");
    assert_eq!(left(&scene, "laptop"), 4);
    scene.ingest(&[]).expect(0);
    let first = put(&scene, "laptop/tank/home", 1, None, &[0, 1]);
    fs::copy(&first, first.with_file_name(format!("{}.0", name("laptop/tank/home", SEQ + 1)))).unwrap();
    let ran = scene.ingest(&[]).expect(0);
    assert_eq!(ran.err, "");
    assert_eq!(snapshots(&scene, "laptop/tank/home"), "s1 s2 s3 s4 s5 s6");
    assert_eq!(snapshots(&scene, "laptop/tank/home/mail"), "s101");
    assert_eq!(left(&scene, "laptop"), 0);
}

#[test]
fn a_dead_end_of_a_forked_chain_is_not_received() {
    let scene = Scene::with_pool();
    put(&scene, "laptop/tank/home", 1, None, &[0, 1]);
    // This was queued although its run seemed to fail: simplesnap continued from the same bookmark.
    put(&scene, "laptop/tank/home", 2, Some(1), &[1, 2]);
    put(&scene, "laptop/tank/home", 3, Some(2), &[1, 3]);
    put(&scene, "laptop/tank/home", 4, Some(3), &[3, 4]);
    scene.ingest(&[]).expect(1).says("went on from its base @s1 without it");
    assert_eq!(snapshots(&scene, "laptop/tank/home"), "s1 s3 s4");
    assert_eq!(left(&scene, "laptop"), 1);
}

#[test]
fn messages_about_broken_chains_propose_a_remedy_that_works() {
    let scene = Scene::with_pool();
    let home = "backup/hosts/laptop/tank/home";
    put(&scene, "laptop/tank/home", 1, None, &[0, 1, 2]);
    scene.ingest(&[]).expect(0);
    put(&scene, "laptop/tank/home", 3, Some(2), &[3, 4]);
    let missing = SEQ + 2;
    scene
        .ingest(&[])
        .expect(1)
        .says(&format!("waiting for its base {:016x}: file {missing} of laptop/tank/home (queued 20", 3));
    put(&scene, "laptop/tank/home", 2, Some(1), &[2, 3]);
    scene.ingest(&[]).expect(0);
    // A snapshot on which a file builds is pruned.
    put(&scene, "laptop/tank/home", 5, Some(4), &[5, 6]);
    put(&scene, "laptop/tank/home", 4, Some(3), &[4, 5]);
    scene.ingest(&[]).expect(0);
    put(&scene, "laptop/tank/home", 6, Some(5), &[6, 7]);
    scene.zfs(&["destroy", &format!("{home}@s6")]).expect(0);
    scene
        .ingest(&[])
        .expect(1)
        .says("broken chain: its base")
        .says("queue a stream from a snapshot that is still there");
    // The remedy: a full stream beside the old one.
    scene.zfs(&["rename", home, &format!("{home}.old")]).expect(0);
    put(&scene, "laptop/tank/home", 7, Some(6), &[0, 7]);
    scene.ingest(&[]).expect(0);
    assert_eq!(snapshots(&scene, "laptop/tank/home"), "s7");
    // The snapshots of the old dataset are absent, and these files may be their only copies.
    let kept = put(&scene, "laptop/tank/home", 1, None, &[0, 1, 2]);
    put(&scene, "laptop/tank/home", 2, Some(1), &[2, 3]);
    scene.ingest(&[]).expect(1).says("a full stream for").says("which has other snapshots");
    assert_eq!(left(&scene, "laptop"), 2);
    fs::remove_dir_all(kept.parent().unwrap()).unwrap();
    // Old files do not bring back the old state: their snapshots were received before.
    scene.zfs(&["rename", home, &format!("{home}.old2")]).expect(0);
    put(&scene, "laptop/tank/home", 1, None, &[0, 1, 2]);
    let remedy = "zsnap-ingest forget laptop/tank/home; zsnap-ingest retry laptop";
    scene.ingest(&[]).expect(1).says("in quarantine: a replay").says(remedy);
    // `forget` works also where a command would receive opaque streams.
    scene.edit("ingest.toml", "match = \"laptop/tar\"", "match = \"laptop/**\"");
    let ran = scene.ingest(&["forget", "laptop/tank/home"]).expect(0);
    assert!(String::from_utf8(ran.out).unwrap().ends_with("/tar and pool backup\n"));
    scene.ingest(&["retry", "laptop"]).expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(snapshots(&scene, "laptop/tank/home"), "s1 s2");
}

#[test]
fn a_pool_that_was_rolled_back_receives_the_files_again() {
    let scene = Scene::with_pool();
    let home = "laptop/tank/home";
    let all = |scene: &Scene| {
        put(scene, home, 1, None, &[0, 1]);
        put(scene, home, 2, Some(1), &[1, 2]);
        put(scene, home, 3, Some(2), &[2, 3]);
    };
    all(&scene);
    scene.ingest(&[]).expect(0);
    scene.zfs(&["rollback", "-r", &format!("backup/hosts/{home}@s1")]).expect(0);
    all(&scene);
    scene.ingest(&["-v"]).expect(0).says("was the pool rewound?");
    assert_eq!(snapshots(&scene, home), "s1 s2 s3");
    // The dataset was changed by hand: the remedy is reported, and not done.
    scene.zfs(&["write", &format!("backup/hosts/{home}")]).expect(0);
    put(&scene, home, 4, Some(3), &[3, 4]);
    scene.ingest(&[]).expect(1).says("diverged:").says(&format!("zfs rollback backup/hosts/{home}@s3"));
    scene.zfs_calls();
    scene.ingest(&[]).expect(0);
    assert!(
        !scene.zfs_calls().iter().any(|call| call.iter().any(|word| word == "receive")),
        "`zfs receive` was tried in vain again"
    );
    scene.zfs(&["rollback", &format!("backup/hosts/{home}@s3")]).expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(snapshots(&scene, home), "s1 s2 s3 s4");
    // A snapshot that was made by hand after the newest one does no harm.
    scene.zfs(&["snapshot", &format!("backup/hosts/{home}@mine")]).expect(0);
    put(&scene, home, 5, Some(4), &[4, 5]);
    scene.ingest(&[]).expect(0);
    assert_eq!(snapshots(&scene, home), "s1 s2 s3 s4 mine s5");
    // No rollback of snapshots is proposed that may have been received, which is unknown once the journal is empty.
    scene.ingest(&["forget", home]).expect(0);
    scene.zfs(&["write", &format!("backup/hosts/{home}")]).expect(0);
    put(&scene, home, 6, Some(5), &[3, 6]);
    let ran = scene.ingest(&[]).expect(1).says("since its base @s3, and has @s4 behind that; to keep both: zfs rename");
    assert!(!ran.err.contains("rollback"), "{}", ran.err);
}

#[test]
fn two_pools_used_in_turn_have_independent_journals() {
    let scene = Scene::with_pool();
    fake_zfs(&scene.path("bin2"));
    run(Command::new(scene.path("bin2/zpool")).args(["create", "backup"]), b"").expect(0);
    run(Command::new(scene.path("bin2/zfs")).args(["create", "backup/hosts"]), b"").expect(0);
    let bin2 = scene.path("bin2").display().to_string();
    let second = [format!("--zfs={bin2}/zfs"), format!("--zpool={bin2}/zpool")];
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    let files = |seqs: &[u64]| {
        for &seq in seqs {
            put(&scene, "laptop/tank/home", seq, (seq > 1).then(|| seq - 1), &[seq - 1, seq]);
        }
    };
    // The first pool gets 1 2 4, then 3; the second 2 1, later 4 3. Each has its own journal.
    files(&[1, 2, 4]);
    scene.ingest(&[]).expect(1).says("waiting");
    files(&[1, 2]);
    // File 4 is still in the spool and waits on the second pool too, which was already reported.
    scene.ingest(&second).expect(0);
    files(&[3]);
    scene.ingest(&[]).expect(0);
    assert_eq!(left(&scene, "laptop"), 0);
    files(&[4, 3, 2]);
    scene.ingest(&second).expect(0);
    assert_eq!(left(&scene, "laptop"), 0);
    let list = ["list", "-H", "-t", "snapshot", "-o", "name", "-r", "backup/hosts/laptop/tank/home"];
    let of = |bin: &str| run(Command::new(scene.path(bin).join("zfs")).args(list), b"").expect(0).out;
    assert_eq!(of("bin"), of("bin2"));
    assert_eq!(String::from_utf8(of("bin")).unwrap().lines().count(), 4);
    let pools = fs::read_dir(scene.path("ingest-state")).unwrap();
    assert_eq!(pools.filter(|e| e.as_ref().unwrap().path().join("needed-guids").exists()).count(), 2);
}

/// Of 2,002 files the first and another one are missing: the second run opens none of the others. What a run
/// remembers decides nothing once a file is to be applied or removed.
#[test]
fn waiting_files_are_read_once_and_again_before_they_are_applied() {
    let scene = Scene::with_pool();
    let home = "laptop/tank/home";
    let is_present = |seq: &u64| *seq != 12;
    for seq in (2..=2002).filter(is_present) {
        put(&scene, home, seq, Some(seq - 1), &[seq - 1, seq]);
    }
    let ran = scene.ingest(&[]).expect(1);
    assert_eq!(ran.err.lines().count(), 2, "one line for each gap");
    if have("strace") {
        let trace = scene.path("trace");
        let before = ["strace", "-f", "-qq", "-e", "trace=openat,openat2,open", "-o", trace.to_str().unwrap()];
        run(&mut under(&before, &scene.ingest_command([""; 0])), b"").expect(0);
        let trace = fs::read_to_string(trace).unwrap();
        assert!(trace.contains("needed-guids") || trace.contains("facts"), "not the trace of a run");
        assert!(!trace.contains("bakfsfmt2-"), "a waiting file was opened again");
    }
    // Unknown to the run, 2 becomes garbage and 3 is remembered as received already; then the full arrives.
    let path = facts(&scene);
    let mut known: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let key = |seq: u64| format!("incoming/{}", name(home, SEQ + seq));
    let two = scene.path("spool/laptop").join(name(home, SEQ + 2));
    fs::write(&two, b"garbage").unwrap();
    scene.age("laptop");
    for seq in (2..=2002).filter(is_present) {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(scene.path("spool/laptop").join(name(home, SEQ + seq))).unwrap();
        let nanos = |secs: i64, nanos: i64| secs * 1_000_000_000 + nanos;
        let seen = &mut known["files"][key(seq)]["seen"];
        seen["inode"] = meta.ino().into();
        seen["size"] = meta.size().into();
        seen["modified"] = nanos(meta.mtime(), meta.mtime_nsec()).into();
        seen["changed"] = nanos(meta.ctime(), meta.ctime_nsec()).into();
    }
    known["files"][key(3)]["what"]["says"]["links"][0]["to"] = format!("{:016x}", 1).into();
    fs::write(&path, serde_json::to_vec(&known).unwrap()).unwrap();
    put(&scene, home, 1, None, &[0, 1]);
    scene.ingest(&[]).expect(1).says("in quarantine");
    assert_eq!(snapshots(&scene, home), "s1");
    assert_eq!(left(&scene, "laptop"), 1999);
    assert_eq!(scene.quarantined("laptop").len(), 2);
    // With the real file 2 the chain continues.
    put(&scene, home, 2, Some(1), &[1, 2]);
    scene.ingest(&[]).expect(0);
    assert_eq!(snapshots(&scene, home), "s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11");
    assert_eq!(left(&scene, "laptop"), 1990);
}

#[test]
fn a_host_with_many_bad_files_does_not_delay_another_host() {
    let scene = Scene::with_pool();
    for seq in 1..=3000 {
        scene.deliver("laptop", &name("laptop/tank/home", SEQ + seq), b"garbage");
    }
    scene.age("laptop");
    put(&scene, "other/tank/home", 1, None, &[0, 1]);
    let ran = scene.ingest(&["-v", "--jobs", "1"]).expect(1);
    let received = ran.err.lines().position(|line| line.contains("receiving backup/hosts/other/tank/home@s1"));
    assert!(received.unwrap() < 20, "its turn came late: line {received:?}");
    assert_eq!((left(&scene, "laptop"), left(&scene, "other")), (0, 0));
    assert_eq!(scene.quarantined("laptop").len(), 6000);
}

#[test]
fn max_files_and_max_bytes_limit_a_run_and_the_next_run_continues() {
    let scene = Scene::with_pool();
    scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\nmax-files = 3\n");
    for seq in 1..=5 {
        put(&scene, "laptop/tank/home", seq, (seq > 1).then(|| seq - 1), &[seq - 1, seq]);
        put(&scene, "other/tank/home", seq, (seq > 1).then(|| seq - 1), &[seq - 1, seq]);
    }
    scene.ingest(&[]).expect(0);
    assert_eq!((left(&scene, "laptop"), left(&scene, "other")), (2, 0));
    scene.ingest(&[]).expect(0);
    assert_eq!(left(&scene, "laptop"), 0);
    assert_eq!(snapshots(&scene, "laptop/tank/home"), "s1 s2 s3 s4 s5");
    // A limit of less than one file still admits one file.
    scene.edit("ingest.toml", "max-files = 3", "max-bytes = \"1\"");
    put(&scene, "laptop/tank/home", 6, Some(5), &[5, 6]);
    put(&scene, "laptop/tank/home", 7, Some(6), &[6, 7]);
    scene.ingest(&[]).expect(0);
    assert_eq!(left(&scene, "laptop"), 1);
    scene.ingest(&[]).expect(0);
    assert_eq!(left(&scene, "laptop"), 0);
}

#[test]
fn a_lost_or_damaged_journal_is_rebuilt() {
    let scene = Scene::with_pool();
    let home = "laptop/tank/home";
    put(&scene, home, 1, None, &[0, 1, 2]);
    scene.ingest(&[]).expect(0);
    let pools = fs::read_dir(scene.path("ingest-state")).unwrap();
    let journal = pools.map(|e| e.unwrap().path().join("journal/laptop/tank@home.json")).find(|p| p.exists()).unwrap();
    let text = fs::read_to_string(&journal).unwrap();
    assert!(text.contains("\"0000000000000002\""), "readable: {text}");
    fs::write(&journal, "{\"committed\": [").unwrap();
    put(&scene, home, 2, Some(1), &[2, 3]);
    scene.ingest(&[]).expect(0).says("rebuilt from 2 snapshots");
    fs::remove_file(&journal).unwrap();
    put(&scene, home, 2, Some(1), &[2, 3]);
    scene.ingest(&[]).expect(0).says("no journal; rebuilt from 3 snapshots");
    assert_eq!(snapshots(&scene, home), "s1 s2 s3");
    // On which snapshot the next file builds is unknown, so none may be destroyed.
    let needed = journal.ancestors().nth(3).unwrap().join("needed-guids");
    assert!(fs::read_to_string(&needed).unwrap().contains(&format!("all {home}\n")));
    put(&scene, home, 3, Some(2), &[3, 4]);
    scene.ingest(&[]).expect(0);
    let needed = fs::read_to_string(&needed).unwrap();
    assert!(!needed.contains("all ") && needed.contains(&format!("0000000000000004 {home}\n")), "{needed}");
    assert!(fs::read_to_string(&journal).unwrap().contains("\"0000000000000003\""));
}

#[test]
fn needed_guids_lists_the_bases_of_waiting_files_and_the_ends_of_chains() {
    let scene = Scene::with_pool();
    put(&scene, "laptop/tank/home", 1, None, &[0, 1, 2]);
    put(&scene, "laptop/tank/home", 3, Some(2), &[3, 4]);
    put(&scene, "other/tank/etc", 1, None, &[0, 11]);
    // This file cannot be verified, so its base is unknown.
    scene.deliver(
        "other",
        &name("other/tank/mail", SEQ + 1),
        &scene.seal(&zsnap_tests::scene::manifest("other/tank/mail", SEQ), None, b"x"),
    );
    scene.ingest(&[]).expect(1);
    let pools = fs::read_dir(scene.path("ingest-state")).unwrap();
    let path = pools.map(|e| e.unwrap().path().join("needed-guids")).find(|p| p.exists()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let head: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!((head[0], head[1], head[4]), ("zsnap-needed", "1", "complete"), "{text}");
    assert_eq!(path.parent().unwrap().file_name().unwrap().to_str(), Some(head[2]));
    let all: BTreeSet<&str> = lines[1..lines.len() - 1].iter().copied().collect();
    for line in [
        "0000000000000002 laptop/tank/home",
        "0000000000000003 laptop/tank/home",
        "000000000000000b other/tank/etc",
        "all other/tank/mail",
    ] {
        assert!(all.contains(line), "{line}: {text}");
    }
    assert_eq!(*lines.last().unwrap(), format!("end {}", all.len()));
    // The drive with the incoming directory is away: what waits there still needs its base.
    fs::rename(scene.path("spool"), scene.path("unplugged")).unwrap();
    scene.ingest(&[]).expect(0);
    let away = fs::read_to_string(&path).unwrap();
    assert!(away.contains(" complete\n") && away.contains("0000000000000003 laptop/tank/home\n"), "{away}");
    assert!(away.contains("all other\n"), "{away}");
}

/// Names that hide the dataset come last, and so does what a run has read of them.
#[test]
fn what_is_read_later_in_a_run_counts_for_what_waits_since_earlier() {
    let scene = Scene::with_pool();
    let home = "laptop/tank/home";
    put(&scene, home, 2, Some(1), &[1, 2]);
    let hidden = QueueName::new(Stamp::from_seq(SEQ + 1, 1), &home.parse().unwrap(), [7; 16], true);
    scene.deliver("laptop", &hidden.to_string(), &sealed(&scene, home, 1, None, &[0, 1]));
    assert_eq!(scene.ingest(&[]).expect(0).err, "");
    assert_eq!((snapshots(&scene, home).as_str(), left(&scene, "laptop")), ("s1 s2", 0));
}

/// The command for `laptop/etc`, which comes first, rolls back a dataset that the run has listed before.
#[test]
fn a_file_is_not_removed_because_of_a_snapshot_that_is_gone_by_then() {
    let scene = Scene::with_pool();
    let home = "laptop/tank/home";
    put(&scene, home, 1, None, &[0, 1]);
    let second = put(&scene, home, 2, Some(1), &[1, 2]);
    let bytes = fs::read(&second).unwrap();
    scene.ingest(&[]).expect(0);
    let zfs = scene.path("bin/zfs").display().to_string();
    scene.edit("ingest.toml", "cat >> ", &format!("{zfs} rollback -r backup/hosts/{home}@s1; cat >> "));
    let etc = zsnap_tests::scene::manifest("laptop/etc", SEQ);
    scene.deliver("laptop", &name("laptop/etc", SEQ), &scene.seal(&etc, Some("laptop"), b"x"));
    fs::write(&second, bytes).unwrap();
    scene.ingest(&[]).expect(0).says("was received before, and is gone");
    assert_eq!((snapshots(&scene, home).as_str(), left(&scene, "laptop")), ("s1 s2", 0));
}

#[test]
fn waiting_files_and_silent_hosts_are_reported_by_age() {
    let scene = Scene::with_pool();
    if !have("faketime") {
        return;
    }
    scene.edit("ingest.toml", "[hosts.other]\n", "[hosts.other]\nmax-age = \"2d\"\n");
    put(&scene, "other/tank/etc", 1, None, &[0, 11]);
    put(&scene, "laptop/tank/home", 3, Some(2), &[3, 4]);
    let at = |time: &str| -> Ran { run(&mut under(&["faketime", "-f", time], &scene.ingest_command([""; 0])), b"") };
    at("+1m").expect(1).says("waiting for its base");
    let daily = at("+3d").expect(1).says("waiting for its base").says("other: nothing came since");
    assert!(!daily.err.contains("max-wait"), "{}", daily.err);
    assert_eq!(at("+3d").expect(0).err, "");
    at("+8d").expect(1).says("for longer than max-wait");
}
