//! Hostile streams of a host with a valid key: signed, complete, with correct checksums. They are
//! rejected before `zfs` is started, and whatever arrives, `zfs` gets no argument outside one grammar.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use zsnap_common::stream::Guid;
use zsnap_message::keys::SigningKey;
use zsnap_message::payload::{Base, Manifest, ZfsHead};
use zsnap_tests::hostile::{described, odd, poison, streams};
use zsnap_tests::packets::message;
use zsnap_tests::scene::{Scene, have, name, run, seal_with};
use zsnap_tests::stream::{RECORD, Stream, Sub, kind};
use zsnap_tests::{SAMPLES, sample};

const SEQ: u64 = 1_700_000_000_000_000;
const STORE: &str = "backup/hosts";

/// A fake `zfs` and `zpool` that records its arguments. `receive` keeps its stdin and creates the snapshot
/// that the stream names, whatever it is; `list` prints it.
const RECORDER: &str = r#"#!/bin/sh
dir=DIR
call=$(mktemp "$dir/calls/XXXXXXXX")
printf '%s\0' "$(basename "$0")" "$@" >"$call"
case "$(basename "$0") $1" in
"zpool list") echo 4711; exit ;;
esac
for last; do :; done
case "$1 $*" in
"list "*"-t filesystem,volume "*)
  awk -F '\t' -v r="$last" '$1 == r || index($1, r "/") == 1' "$dir/datasets" | grep . ;;
"list "*"-r -t snapshot "*)
  grep -q "^$last	" "$dir/datasets" || exit 1
  awk -F '\t' -v r="$last" 'index($1, r "@") == 1 || index($1, r "/") == 1' "$dir/snapshots" ;;
"list "*"-t snapshot -o guid "*)
  awk -F '\t' -v r="$last" '$1 == r { print $2 }' "$dir/snapshots" | grep . ;;
"create "*)
  printf '%s\t0\n' "$last" >>"$dir/datasets" ;;
"receive "*)
  cat >"$call.stream"
  guid=$(od -An -tu8 -j40 -N8 "$call.stream" | tr -d ' ')
  grep -q "^${last%@*}	" "$dir/datasets" || printf '%s\t0\n' "${last%@*}" >>"$dir/datasets"
  printf '%s\t%s\t%s\t1700000000\n' "$last" "$guid" "$(wc -l <"$dir/snapshots")" >>"$dir/snapshots" ;;
esac
"#;

/// A scene whose backup server has a pool that only records calls.
struct Pool {
    scene: Scene,
    seq: u64,
}

impl Pool {
    fn new() -> Pool {
        let scene = Scene::new();
        let dir = scene.path("pool");
        fs::create_dir_all(dir.join("calls")).unwrap();
        for program in ["zfs", "zpool"] {
            let path = dir.join(program);
            fs::write(&path, RECORDER.replace("DIR", dir.to_str().unwrap())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let programs = format!("zfs = \"{0}/zfs\"\nzpool = \"{0}/zpool\"\nstore = \"{STORE}\"\n", dir.display());
        scene.edit("ingest.toml", "incoming = ", &format!("{programs}incoming = "));
        let parents = "create-parents = [\"src\", \"tank\"]\n";
        for host in ["laptop", "other"] {
            scene.edit("ingest.toml", &format!("[hosts.{host}]\n"), &format!("[hosts.{host}]\n{parents}"));
        }
        let pool = Pool { scene, seq: SEQ };
        pool.empty();
        pool
    }

    /// Resets the pool to its state after `zfs create backup/hosts`, and removes all files and state.
    fn empty(&self) {
        fs::write(self.scene.path("pool/datasets"), format!("{STORE}\t0\n")).unwrap();
        fs::write(self.scene.path("pool/snapshots"), "").unwrap();
        for dir in ["pool/calls", "spool"] {
            fs::remove_dir_all(self.scene.path(dir)).unwrap();
            fs::create_dir(self.scene.path(dir)).unwrap();
        }
        let _ = fs::remove_dir_all(self.scene.path("ingest-state"));
    }

    /// Seals a stream that host `by` signs.
    fn sealed(&self, manifest: &Manifest, trailer: zsnap_message::payload::Trailer, by: &str, body: &[u8]) -> Vec<u8> {
        let key = SigningKey::load(&self.scene.path(format!("{by}.key")), SystemTime::now()).unwrap();
        seal_with(manifest, trailer, Some(&key), &self.scene.path("backup.cert"), body)
    }

    /// Delivers a stream, signed by the target's own host, with a manifest and a trailer that describe it.
    fn send(&mut self, target: &str, stream: &[u8]) -> PathBuf {
        self.send_as(target, stream, |_| ())
    }

    /// Delivers a stream like `send`, with a changed manifest.
    fn send_as(&mut self, target: &str, stream: &[u8], change: impl FnOnce(&mut Manifest)) -> PathBuf {
        self.seq += 1;
        let (mut manifest, trailer) = described(target, self.seq, stream);
        change(&mut manifest);
        let host = target.split('/').next().unwrap();
        let sealed = self.sealed(&manifest, trailer, host, stream);
        self.scene.deliver(host, &name(target, self.seq), &sealed)
    }

    /// The recorded calls, each with its program first, and the file of its stdin; every call must be of the grammar.
    #[track_caller]
    fn calls(&self) -> Vec<(Vec<String>, PathBuf)> {
        let mut calls = Vec::new();
        for entry in fs::read_dir(self.scene.path("pool/calls")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some() {
                continue;
            }
            let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
            let argv: Vec<String> = text.strip_suffix('\0').unwrap().split('\0').map(str::to_owned).collect();
            if let Err(why) = allowed(&argv) {
                panic!("{why}: {argv:?}");
            }
            calls.push((argv, path.with_extension("stream")));
        }
        calls
    }

    /// The received streams by the snapshot's name on the target.
    #[track_caller]
    fn received(&self) -> BTreeMap<String, Vec<u8>> {
        let receive = |(argv, stream): (Vec<String>, PathBuf)| {
            (argv[1] == "receive").then(|| (argv.last().unwrap().clone(), fs::read(stream).unwrap()))
        };
        self.calls().into_iter().filter_map(receive).collect()
    }

    /// Asserts that `zfs` and `zpool` were only called to list.
    #[track_caller]
    fn untouched(&self, what: &str) {
        let touched: Vec<_> = self.calls().into_iter().filter(|(argv, _)| argv[1] != "list").collect();
        assert!(touched.is_empty(), "{what}: {touched:?}");
    }

    /// The reason that is stored beside a file in quarantine.
    fn why(&self, file: &std::path::Path) -> Option<String> {
        let host = file.parent()?.file_name()?;
        let name = file.file_name()?.to_str()?;
        let dir = self.scene.path("spool/.zsnap-quarantine").join(host);
        let why = fs::read_to_string(dir.join(format!("{name}.why.json"))).ok()?;
        assert!(dir.join(name).exists() && !file.exists(), "{name}");
        Some(serde_json::from_str::<serde_json::Value>(&why).unwrap()["why"].as_str().unwrap().to_owned())
    }
}

/// The grammar: checks that `zfs` and `zpool` may be called with these arguments.
fn allowed(argv: &[String]) -> Result<(), String> {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["zpool", "list", "-Hp", "-o", "guid", "backup"] => Ok(()),
        ["zfs", "list", "-Hp", options @ .., name] => {
            let known = [
                &["-r", "-t", "filesystem,volume", "-o", "name,written"][..],
                &["-r", "-t", "snapshot", "-s", "createtxg", "-o", "name,guid,createtxg,creation"],
                &["-t", "snapshot", "-o", "guid"],
            ];
            if !known.contains(&options) {
                return Err("list with other options".into());
            }
            let (dataset, snapshot) = name.split_once('@').unwrap_or((name, "x"));
            component(snapshot)?;
            if dataset == STORE { Ok(()) } else { below_a_host(dataset, 0) }
        }
        ["zfs", "create", "-o", "canmount=off", dataset] => below_a_host(dataset, 0),
        ["zfs", "receive", "-u", "-o", "readonly=on", "-o", "canmount=noauto" | "volmode=none", to] => {
            let (dataset, snapshot) = to.split_once('@').ok_or("no snapshot")?;
            component(snapshot)?;
            if to.len() > 255 {
                return Err("a name too long for ZFS".into());
            }
            below_a_host(dataset, 1)
        }
        _ => Err("not of the grammar".into()),
    }
}

/// Checks that a dataset is STORE/HOST with at least `depth` components below it.
fn below_a_host(dataset: &str, depth: usize) -> Result<(), String> {
    let inside = dataset.strip_prefix(STORE).and_then(|rest| rest.strip_prefix('/')).ok_or("not below the store")?;
    let mut components = inside.split('/');
    if !matches!(components.next(), Some("laptop" | "other")) {
        return Err("not below a host's own".into());
    }
    let rest: Vec<_> = components.collect();
    if rest.len() < depth || dataset.len() > 255 || dataset.matches('/').count() > 49 {
        return Err("too short, long or deep".into());
    }
    rest.into_iter().try_for_each(component)
}

fn component(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.: -".contains(c);
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(fits) {
        return Err(format!("{name:?} is not a component"));
    }
    Ok(())
}

#[test]
fn the_grammar_rejects_dangerous_calls() {
    let argv = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for good in [
        "zfs list -Hp -t snapshot -o guid backup/hosts/laptop/a@s",
        "zfs receive -u -o readonly=on -o volmode=none backup/hosts/other/a/b@s",
        "zfs create -o canmount=off backup/hosts/laptop",
    ] {
        assert_eq!(allowed(&argv(good)), Ok(()), "{good}");
    }
    for bad in [
        "zfs destroy backup/hosts/laptop/a",
        "zfs receive -F -u -o readonly=on -o canmount=noauto backup/hosts/laptop/a@s",
        "zfs receive -u -o readonly=on -o canmount=noauto backup/hosts/laptop/a",
        "zfs receive -u -o readonly=on -o canmount=noauto backup/hosts/laptop@s",
        "zfs receive -u -o readonly=on -o canmount=noauto backup/hosts/laptop0/evil@s",
        "zfs receive -u -o readonly=on -o canmount=noauto backup/hosts/laptop/../x@s",
        "zfs receive -u -o readonly=on -o canmount=noauto backup/hosts0/laptop/a@s",
        "zfs receive -u -o readonly=on -o canmount=noauto -o sharenfs=on backup/hosts/laptop/a@s",
        "zfs receive -u -o readonly=on -o canmount=noauto backup/hosts/laptop/a@s@t",
        "zfs list -Hp -t snapshot -o guid backup/hosts/laptop/a%@s",
        "zfs list -Hp -r -t all -o name backup",
    ] {
        assert!(allowed(&argv(bad)).is_err(), "{bad}");
    }
}

#[test]
fn hostile_streams_are_rejected_before_zfs_is_started() {
    let mut pool = Pool::new();
    let all: Vec<_> = streams()
        .into_iter()
        .map(|hostile| {
            let file = pool.send(&format!("laptop/src/{}", hostile.name), &hostile.bytes);
            (hostile, file)
        })
        .collect();
    assert!(all.len() > 50);
    pool.scene.age("laptop");
    let good = pool.send("other/src/data", &sample("full.zfs"));
    let ran = pool.scene.ingest(&[]).expect(1);
    // A wrong clock may explain these, so they are held and not quarantined.
    let (held, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|(hostile, _)| hostile.name.starts_with("dated"));
    assert_eq!(held.len(), 3);
    for (hostile, file) in &held {
        assert!(file.exists() && ran.err.contains(hostile.why), "{}: {}", hostile.name, ran.err);
    }
    for (hostile, file) in &all {
        let Some(why) = pool.why(file) else { panic!("{} is not in quarantine: {}", hostile.name, ran.err) };
        assert!(why.contains(hostile.why), "{}: {why}, not: {}", hostile.name, hostile.why);
        assert!(ran.err.contains(file.file_name().unwrap().to_str().unwrap()), "{} is not reported", hostile.name);
    }
    // Only the other host's file was received.
    let received = pool.received();
    assert_eq!(received.keys().collect::<Vec<_>>(), ["backup/hosts/other/src/data@s1"]);
    assert!(received.values().all(|bytes| *bytes == sample("full.zfs")));
    assert!(!good.exists());
    // After `retry` they are rejected again.
    pool.scene.ingest(&["retry", "--all"]).expect(0);
    pool.scene.age("laptop");
    pool.scene.ingest(&[]).expect(1);
    assert_eq!(pool.scene.quarantined("laptop").len(), 2 * all.len());
    assert_eq!(pool.received().len(), 1);
}

/// An older zsnap-queue queued these streams; zsnap-ingest rejects such queue files, as the test above shows.
#[test]
fn poisonous_streams_are_not_queued_and_the_proposed_remedies_work() {
    let scene = Scene::new();
    let queue = |flags: &[&str], target: &str, stream: &[u8]| {
        scene.queue(&[flags, &["--strip", "s", &format!("s/{target}")]].concat(), stream)
    };
    for hostile in poison() {
        queue(&[], "laptop/src/data", &hostile.bytes).expect(65).says(hostile.why);
    }
    assert!(scene.spooled("laptop").is_empty());

    // The same stream sent without -e, and with -Le.
    queue(&[], "laptop/src/without", &sample("full.zfs")).expect(0);
    queue(&[], "laptop/src/with", &sample("largeblock-Lec.zfs")).expect(0);
    // A stream that only a newer OpenZFS can know is carried as an opaque stream.
    let newer = poison().into_iter().find(|hostile| hostile.why.contains("newer")).unwrap();
    let refused = queue(&[], "laptop/src/newer", &newer.bytes).expect(65);
    refused.says("carry it with --opaque");
    queue(&["--opaque", "--full"], "laptop/src/newer", &newer.bytes).expect(0);
    assert_eq!(scene.spooled("laptop").len(), 3);
}

/// The snapshot was made while the clock was ahead. zsnap-ingest receives it once its date has passed;
/// zsnap-queue no longer queues such a stream.
#[test]
fn a_snapshot_with_a_future_date_is_held_until_that_date() {
    let mut pool = Pool::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let late = Stream::plain(Sub::full("src/data@a", 1).created(now + 40 * 24 * 3600)).bytes();
    let queued = pool.scene.queue(&["--strip", "s", "s/laptop/src/data"], &late);
    queued.expect(65).says("snapshot a is dated more than a day ahead: set the clock, destroy it");
    assert!(pool.scene.spooled("laptop").is_empty());
    // The manifest has the same date; if that were believed, the stream would be accepted.
    let file = pool.send_as("laptop/src/data", &late, |manifest| manifest.created = now + 40 * 24 * 3600);
    pool.scene.ingest(&[]).expect(1).says("held: snapshot a is dated more than a day ahead");
    assert!(file.exists() && pool.received().is_empty());
    if !have("faketime") {
        return;
    }
    let ingest = pool.scene.ingest_command::<&str>([]);
    let mut later = Command::new("faketime");
    later.arg("+41 days").arg(ingest.get_program()).args(ingest.get_args()).current_dir("/");
    run(&mut later, b"").expect(0);
    assert_eq!(pool.received().into_keys().collect::<Vec<_>>(), ["backup/hosts/laptop/src/data@a"]);
}

#[test]
fn good_streams_are_received_by_substream_without_their_properties() {
    let mut pool = Pool::new();
    let mut expected = BTreeMap::new();
    let mut send = |pool: &mut Pool, dataset: &str, stream: &[u8]| {
        for (snap, bytes) in inner(stream) {
            expected.insert(format!("backup/hosts/laptop/{dataset}@{snap}"), bytes);
        }
        pool.send(&format!("laptop/{dataset}"), stream);
    };
    for (n, file) in SAMPLES.iter().enumerate().filter(|(_, f)| !f.starts_with("repl")) {
        let stream = sample(file);
        let first = Stream::parse(&inner(&stream)[0].1).records[0].clone();
        // An incremental gets its base, so that it is received and does not wait.
        let dataset = format!("src/sample{n}");
        if first.u64(48) != 0 {
            let kept = (first.u64(16) >> 2) & (Sub::RAW | Sub::COMPRESSED);
            let base = Sub::full("src/data@base", first.u64(48)).features(kept).records([]);
            let base = Stream::plain(base).bytes();
            send(&mut pool, &dataset, &base);
        }
        send(&mut pool, &dataset, &stream);
    }
    for (what, stream) in odd() {
        send(&mut pool, &format!("tank/{what}"), &stream);
    }
    let volume = Stream::plain(Sub::full("src/vol@v 1", 77).objset(3)).bytes();
    send(&mut pool, "src/-F a b:c..d", &volume);
    pool.scene.ingest(&[]).expect(0);
    let received = pool.received();
    assert_eq!(received.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (to, bytes) in expected {
        assert!(received[&to] == bytes, "{to}: other bytes than the stream's own");
    }
    for (argv, _) in pool.calls() {
        let of_volume = argv.iter().any(|word| word.contains("-F a b:c..d@"));
        assert_eq!(of_volume && argv[1] == "receive", argv.iter().any(|word| word == "volmode=none"), "{argv:?}");
    }
    assert!(pool.scene.spooled("laptop").is_empty());
}

/// The streams are unsealed, as the first of the replaced scripts sends them: the transport is trusted, the
/// streams are not.
#[test]
fn exec_rejects_unsealed_hostile_streams() {
    let pool = Pool::new();
    pool.scene.edit("ingest.toml", "[hosts.laptop]\n", "[hosts.laptop]\ntrust = \"transport\"\n");
    let exec = |stream: &[u8]| {
        let mut command = pool.scene.ingest_command(["exec", "--host", "laptop", "--", "laptop/src/data"]);
        run(&mut command, stream)
    };
    for hostile in streams() {
        let ran = exec(&hostile.bytes);
        // This machine's clock, which may be wrong, judges a date: the sender keeps the file.
        let status = if hostile.name.starts_with("dated") { 75 } else { 65 };
        assert_eq!(ran.status, status, "{}: {}", hostile.name, ran.err);
        let kept = fs::read_dir(pool.scene.path("ingest-state/exec/laptop")).unwrap().count();
        assert_eq!(kept, 0, "{} is kept", hostile.name);
    }
    pool.untouched("unsealed streams");
    exec(&sample("full.zfs")).expect(0);
    assert_eq!(pool.received().into_keys().collect::<Vec<_>>(), ["backup/hosts/laptop/src/data@s1"]);
}

/// The substreams of a stream with their snapshots' names, without a wrapper.
fn inner(stream: &[u8]) -> Vec<(String, Vec<u8>)> {
    let records = Stream::parse(stream).records;
    let wrapped = records[0].u64(16) & 3 == 2;
    let records = if wrapped { &records[2..records.len() - 1] } else { &records[..] };
    let mut all: Vec<Stream> = Vec::new();
    for rec in records {
        if rec.kind() == kind::BEGIN {
            all.push(Stream { records: Vec::new() });
        }
        all.last_mut().unwrap().records.push(rec.clone());
    }
    let snap = |stream: &Stream| {
        let name = stream.records[0].head[56..].split(|b| *b == 0).next().unwrap();
        String::from_utf8(name.to_vec()).unwrap().split_once('@').unwrap().1.to_owned()
    };
    all.iter().map(|stream| (snap(stream), stream.bytes())).collect()
}

#[test]
fn names_with_other_bytes_or_too_great_a_length_are_not_received() {
    let mut pool = Pool::new();
    let mut bad = Vec::new();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.: -".contains(&b);
    for (at, place) in [(60, "fs"), (65, "snap")] {
        for byte in (1..=255_u8).filter(|b| !fits(*b)) {
            let mut stream = Stream::plain(Sub::full("src/data@snap", 1));
            stream.records[0].head[56 + at - 56] = byte;
            let what = format!("laptop/src/{place}{byte}");
            // A slash makes it another file system, which does not matter to the receiver: the stream is received
            // where the manifest says.
            if (place, byte) == ("fs", b'/') {
                continue;
            }
            bad.push((what.clone(), pool.send(&what, &stream.bytes())));
        }
    }
    for (what, toname) in [("dot", "src/./a@s"), ("dots", "src/..@s"), ("end", "src/a/@s"), ("snap", "src/a@..")] {
        let what = format!("laptop/src/{what}");
        bad.push((what.clone(), pool.send(&what, &Stream::plain(Sub::full(toname, 1)).bytes())));
    }
    pool.scene.ingest(&[]).expect(1);
    pool.untouched("names");
    for (what, file) in &bad {
        assert!(pool.why(file).is_some(), "{what} is not in quarantine");
    }

    // The longest name that ZFS allows is received; one byte more does not fit below the store.
    pool.empty();
    let room = 255 - "backup/hosts/laptop/src/".len() - "@s".len();
    let (fits, longer) = ("n".repeat(room), "n".repeat(room + 1));
    pool.send(&format!("laptop/src/{fits}"), &Stream::plain(Sub::full("src/a@s", 1)).bytes());
    pool.send(&format!("laptop/src/{longer}"), &Stream::plain(Sub::full("src/a@s", 2)).bytes());
    let snap = "s".repeat(255 - "src/a@".len());
    pool.send("laptop/src/b", &Stream::plain(Sub::full(&format!("src/a@{snap}"), 3)).bytes());
    pool.scene.ingest(&[]).expect(1).says("a shorter store helps");
    let received = pool.received();
    assert_eq!(received.into_keys().collect::<Vec<_>>(), [format!("backup/hosts/laptop/src/{fits}@s")]);
    assert_eq!(pool.scene.spooled("laptop").len(), 2, "the others stay until the store is shorter");
}

#[test]
fn a_stream_that_its_manifest_does_not_describe_is_quarantined() {
    let mut pool = Pool::new();
    let stream = sample("incr-i-s1-s2.zfs");
    let head = |change: fn(&mut ZfsHead)| {
        move |manifest: &mut Manifest| {
            change(manifest.zfs.as_mut().unwrap());
            let base = if manifest.zfs.as_ref().unwrap().from.is_some() { Base::Prev } else { Base::None };
            manifest.base = base;
        }
    };
    let described = "the stream is not the one that its manifest describes";
    let mut all = Vec::new();
    for (what, change, why) in [
        ("toname", head(|head| head.toname = "src/data@s3".into()), described),
        ("file system", head(|head| head.toname = "src/other@s2".into()), described),
        ("from", head(|head| head.from = Some(Guid(7))), described),
        ("full", head(|head| head.from = None), described),
        ("to", head(|head| head.to = Some(Guid(7))), described),
        ("compound", head(|head| head.to = None), described),
    ] {
        all.push((what, pool.send_as(&format!("laptop/src/{what}"), &stream, change), why));
    }
    let other = pool.send_as("laptop/src/data", &stream, |manifest| manifest.dataset = "src/victim".parse().unwrap());
    all.push(("another dataset", other, "its manifest says laptop/src/victim"));
    let host = pool.send_as("laptop/src/x", &stream, |manifest| manifest.host = "other".parse().unwrap());
    all.push(("another host", host, "it comes from other"));
    pool.scene.ingest(&[]).expect(1);
    pool.untouched("manifests");
    for (what, file, why) in all {
        let reason = pool.why(&file).unwrap_or_else(|| panic!("{what} is not in quarantine"));
        assert!(reason.contains(why), "{what}: {reason}");
    }
}

#[test]
fn hostile_payloads_and_messages_are_rejected() {
    let pool = Pool::new();
    let stream = sample("full.zfs");
    let zstd = zstd::encode_all(&stream[..], 1).unwrap();
    let target = "laptop/src/data";
    let (manifest, trailer) = described(target, SEQ, &stream);
    let (front, back) = (manifest.encode().unwrap(), trailer.encode().unwrap());
    let json = String::from_utf8(front[8..].to_vec()).unwrap();
    let frame = |json: &str| [&front[..4], &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
    let with = |from: &str, to: &str| {
        assert!(json.contains(from), "{json}");
        [frame(&json.replacen(from, to, 1)), zstd.clone(), back.clone()].concat()
    };
    let (signer, recipient) = (pool.scene.path("laptop.key"), pool.scene.path("backup.cert"));
    let signed = |payload: &[u8]| message(payload, Some(&signer), &recipient);
    let good = signed(&[&front[..], &zstd, &back].concat());
    let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(30).unwrap();
    wide.write_all(&stream).unwrap();
    let wide = wide.finish().unwrap();
    // Many recipients: more than 64 cost nothing but their headers.
    // One packet for the only recipient, whose length is one octet; the encrypted data (tag 18) follows.
    let keys = 2 + usize::from(good[1]);
    assert_eq!((good[0], good[keys]), (0xc1, 0xd2));
    let many = [good[..keys].repeat(65), good[keys..].to_vec()].concat();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("window", signed(&[&front[..], &wide, &back].concat())),
        ("second frame", signed(&[&front[..], &zstd, &zstd, &back].concat())),
        ("frame behind", signed(&[&front[..], &zstd, &back, &zstd].concat())),
        ("second manifest", signed(&[&front[..], &front, &zstd, &back].concat())),
        ("no trailer", signed(&[&front[..], &zstd].concat())),
        ("truncated frame", signed(&[&front[..], &zstd[..zstd.len() - 9], &back].concat())),
        ("host twice", signed(&with("{", "{\"host\":\"other\","))),
        ("host climbs", signed(&with("\"host\":\"laptop\"", "\"host\":\"../other\""))),
        ("host of a newline", signed(&with("\"host\":\"laptop\"", "\"host\":\"laptop\\n\""))),
        ("dataset climbs", signed(&with("\"dataset\":\"src/data\"", "\"dataset\":\"src/../../other/src\""))),
        ("dataset with a snapshot", signed(&with("\"dataset\":\"src/data\"", "\"dataset\":\"src/data@x\""))),
        ("dataset of an option", signed(&with("\"dataset\":\"src/data\"", "\"dataset\":\"-F\""))),
        ("dataset with NUL", signed(&with("\"dataset\":\"src/data\"", "\"dataset\":\"src/da\\u0000ta\""))),
        ("empty dataset", signed(&with("\"dataset\":\"src/data\"", "\"dataset\":\"\""))),
        ("seq beyond numbers", signed(&with(&format!("\"seq\":{SEQ}"), "\"seq\":1e400"))),
        ("negative seq", signed(&with(&format!("\"seq\":{SEQ}"), "\"seq\":-1"))),
        ("another version", signed(&with("\"zsnap\":1", "\"zsnap\":2"))),
        ("message twice", [&good[..], &good].concat()),
        ("message in a message", signed(&good)),
        ("65 recipients", many),
    ];
    for (what, bytes) in rows {
        pool.empty();
        let file = pool.scene.deliver("laptop", &name(target, SEQ), &bytes);
        pool.scene.age("laptop");
        let ran = pool.scene.ingest(&[]);
        assert_eq!(ran.status, 1, "{what}: {}", ran.err);
        // These two may be intended: somebody then changes the configuration, or upgrades.
        let held = ["window", "another version"].contains(&what) && file.exists() && ran.err.contains("held: ");
        assert!(held || pool.why(&file).is_some(), "{what} is not in quarantine: {}", ran.err);
        assert!(ran.err.lines().all(|line| line.bytes().all(|b| (32..127).contains(&b))), "{what}: {}", ran.err);
        pool.untouched(what);
    }
    pool.empty();
    pool.scene.deliver("laptop", &name(target, SEQ), &good);
    pool.scene.ingest(&[]).expect(0);
    assert_eq!(pool.received().len(), 1, "the same message unchanged is received");
}

/// Whoever carries files can rename them at will.
#[test]
fn no_file_name_redirects_a_file_to_another_dataset() {
    let mut pool = Pool::new();
    let targets = ["laptop/tank/a", "laptop/tank/b", "other/tank/a", "other/tank/b"];
    let places: Vec<(String, String)> = (0..)
        .zip(targets)
        .map(|(n, target)| (target.split('/').next().unwrap().to_owned(), name(target, SEQ + n)))
        .collect();
    let files: Vec<Vec<u8>> = (0..)
        .zip(targets)
        .map(|(n, target)| {
            let stream = Stream::plain(Sub::full("tank/x@s", 1000 + n)).bytes();
            let (manifest, trailer) = described(target, SEQ + n, &stream);
            pool.sealed(&manifest, trailer, target.split('/').next().unwrap(), &stream)
        })
        .collect();
    let mut orders = 0;
    for order in permutations(4) {
        orders += 1;
        pool.empty();
        for (file, &at) in order.iter().enumerate() {
            pool.scene.deliver(&places[at].0, &places[at].1, &files[file]);
        }
        let right = order.iter().enumerate().filter(|(file, at)| file == *at).count();
        let ran = pool.scene.ingest(&[]);
        assert_eq!(ran.status, i32::from(right < 4), "{order:?}: {}", ran.err);
        let received = pool.received();
        assert_eq!(received.len(), right, "{order:?}: {:?}", received.keys());
        for (to, bytes) in &received {
            let file = Stream::parse(bytes).records[0].u64(40) as usize - 1000;
            assert_eq!(*to, format!("{STORE}/{}@s", targets[file]), "{order:?}");
        }
        let put = pool.scene.quarantined("laptop").len() + pool.scene.quarantined("other").len();
        assert_eq!(put, 2 * (4 - right), "{order:?}: file and reason of each misnamed one");
    }
    assert_eq!(orders, 24);
    // If the name contains no dataset, the manifest alone decides.
    pool.empty();
    for (n, file) in files.iter().enumerate() {
        let host = &places[(n + 2) % 4].0;
        pool.scene.deliver(host, &format!("bakfsfmt2-1.00000000{n}.1_{host}@~{}", "0".repeat(32)), file);
    }
    pool.scene.ingest(&[]).expect(1);
    pool.untouched("opaque names in the other host's directory");
    // A file signed by one host with the manifest of the other is rejected in both directories.
    for host in ["laptop", "other"] {
        pool.empty();
        let stream = Stream::plain(Sub::full("tank/x@s", 9)).bytes();
        let (manifest, trailer) = described("other/tank/a", SEQ, &stream);
        let forged = pool.sealed(&manifest, trailer, "laptop", &stream);
        pool.scene.deliver(host, &name(&format!("{host}/tank/a"), SEQ), &forged);
        pool.scene.ingest(&[]).expect(1).says("comes from");
        pool.untouched("another host's manifest");
        assert_eq!(pool.scene.quarantined(host).len(), 2);
    }
    pool.seq += 1;
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let longer = |shorter: Vec<usize>| {
        (0..n).map(move |at| {
            let mut order = shorter.clone();
            order.insert(at, n - 1);
            order
        })
    };
    permutations(n - 1).into_iter().flat_map(longer).collect()
}

/// Checks the samples against the format; otherwise the tests above would check something else than they claim.
#[test]
fn the_samples_start_with_the_magic_and_have_the_expected_substreams() {
    let stream = sample("full.zfs");
    assert_eq!(&stream[8..16], &0x2_f5ba_cbac_u64.to_le_bytes());
    assert_eq!(inner(&stream), [("s1".to_owned(), stream.clone())]);
    assert_eq!(inner(&sample("incr-I-s1-s4.zfs")).len(), 3);
    assert!(stream.len() > 2 * RECORD);
}
