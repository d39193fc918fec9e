//! The rounds of a stick between a laptop and a backup server, in which everything happens that happens to sticks.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, from_slice};
use zsnap_common::names::digest::sha256_hex;
use zsnap_tests::removable::{DESKTOP, Format, Removable};
use zsnap_tests::scene::{Ran, Scene, run};
use zsnap_tests::sealed::noise;
use zsnap_tests::strace::{can_trace, under};
use zsnap_tests::torture::walk;

const MIB: u64 = 1 << 20;
/// The number of bytes that a delivery copies with one call.
const STEP: u64 = 8 * MIB;
const AWAY: &str = "zsnap-queue: not delivered to dir:SPOOL, the next run tries again: away: SPOOL has no .zsnap-drive: \
                    the drive is not mounted, or was never marked; if the right one is mounted there: zsnap-queue init \
                    SPOOL\n";

/// A laptop, a server, and the stick between them. The server lists the digests of the streams that it has received.
struct Story {
    scene: Scene,
    stick: Removable,
    /// The digests of the streams that the server must have received, in order.
    arrived: Vec<String>,
}

impl Story {
    /// Fails unless the program ended with this status, and printed exactly this.
    #[track_caller]
    fn check(&self, what: &str, ran: &Ran, status: i32, says: &str) {
        let mut text = ran.err.replace(self.scene.path("spool").to_str().unwrap(), "SPOOL");
        while let Some((before, rest)) = text.split_once("bakfsfmt2-") {
            text = format!("{before}FILE{}", rest.split_once("@etc").unwrap().1);
        }
        eprintln!("{what}: exit status {}\n{text}", ran.status);
        assert_eq!((ran.status, text.as_str(), ran.out.len()), (status, says, 0), "{what}");
    }

    /// Queues a stream, and returns its digest.
    #[track_caller]
    fn queue(&self, how: &[&str], stream: &[u8], says: &str) -> String {
        let ran = self.scene.queue(&[&["--opaque", "laptop/etc"], how].concat(), stream);
        self.check("zsnap-queue", &ran, 0, says);
        sha256_hex(stream)
    }

    /// Carries the stick to the server, which mounts it with these options and runs zsnap-ingest twice: the second time,
    /// there is nothing to do or to say.
    #[track_caller]
    fn server(&self, options: &str, status: i32, says: &str) {
        self.stick.again(options);
        self.check("zsnap-ingest", &self.scene.ingest(&[]), status, says);
        self.check("zsnap-ingest again", &self.scene.ingest(&[]), 0, "");
    }

    /// Fails unless these are true: what both tools report of the dataset (its state, how many files wait, and what the
    /// server says of it); what the server has received; and what is on the stick but the drive's mark.
    #[track_caller]
    fn stands(&self, laptop: (&str, u64), server: (&str, u64, Option<&str>), on_stick: usize) {
        let rows = |ran: Ran| from_slice::<Vec<Value>>(&ran.expect(0).out).unwrap();
        let [row] = &rows(self.scene.queue(&["status", "--json"], b""))[..] else { panic!("not one row") };
        assert_eq!((row["state"].as_str().unwrap(), row["waiting_files"].as_u64().unwrap()), laptop, "{row}");
        let all = rows(self.scene.ingest(&["status", "--json"]));
        let row = all.iter().find(|row| row["dataset"].as_str().unwrap().starts_with("laptop/")).unwrap();
        let found = (row["state"].as_str().unwrap(), row["waiting_files"].as_u64().unwrap());
        assert_eq!((found, all.len()), ((server.0, server.1), 2), "{row}");
        let note = row["note"].as_str();
        assert!(
            note.is_some() == server.2.is_some() && note.unwrap_or("").starts_with(server.2.unwrap_or("")),
            "{row}"
        );
        assert_eq!((&row["quarantined"], self.scene.quarantined("laptop").len()), (&0.into(), 0), "{row}");
        let list = String::from_utf8(self.scene.applied()).unwrap();
        let list: Vec<_> = list.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(list, self.arrived);
        // Nothing else is there, such as a copy that was not finished, once the next delivery has cleared up. FUSE keeps
        // a file that was removed while it was open, for a moment.
        let none_of_ours = |name: &str| name == ".zsnap-drive" || name.starts_with(".fuse_hidden");
        let there = walk(self.scene.path("spool"));
        let names = there.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
        assert_eq!(names.filter(|name| !none_of_ours(name)).count(), on_stick, "{there:?}");
        eprintln!("laptop {laptop:?}, server {server:?}, {} streams received\n", list.len());
    }

    /// Starts `flush`, pulls the stick out after it has copied with `calls` calls, and returns how `flush` ends.
    #[track_caller]
    fn pulled_during_flush(&self, calls: u64) -> Ran {
        let trace = self.scene.path("trace");
        let stop = ["-etrace=sendfile".to_owned(), format!("-einject=sendfile:signal=STOP:when={calls}")];
        let mut flush = under(&stop, &trace, &self.scene.queue_command(["flush"]));
        let mut child = flush.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stopped = loop {
            let text = fs::read_to_string(&trace).unwrap_or_default();
            if let Some(line) = text.lines().find(|line| line.contains("stopped by SIGSTOP")) {
                break line.split(' ').next().unwrap().to_owned();
            }
            assert!(child.try_wait().unwrap().is_none(), "flush did not copy so much: {text}");
            sleep(Duration::from_millis(20));
        };
        self.stick.pull();
        run(Command::new("kill").args(["-CONT", &stopped]), b"").expect(0);
        Ran::of(child.wait_with_output().unwrap())
    }
}

/// The first stream is `ZSNAP_STORY_MIB` MiB long, by default 20. From 4097 on, its parts have 4 GiB.
#[test]
fn a_stick_carries_every_stream_once_whatever_happens_to_it_as_root() {
    if !can_trace() {
        return;
    }
    let mib = std::env::var("ZSNAP_STORY_MIB").map_or(20, |mib| mib.parse::<u64>().unwrap());
    let (most, size) = if mib > 4096 { (4096, 10_240) } else { (4, 64) };
    let scene = Scene::new();
    let Some(stick) = Removable::sized(Format::ExFat, &scene.path("spool"), size * MIB) else { return };
    scene.edit("queue.toml", "state =", &format!("max-file = \"{most}MiB\"\nstate ="));
    scene.edit("ingest.toml", "cat >> ", "sha256sum >> ");
    let mut story = Story { scene, stick, arrived: Vec::new() };
    let increment = |seed| noise(MIB as usize, seed);
    let overlap = ["--increment", "--overlap"];

    eprintln!("Round 1: the backup is made without the stick, which is then pulled out in the middle of a copy.");
    story.stick.unmount();
    let first = story.queue(&["--full"], &noise((mib * MIB) as usize, 1), AWAY);
    story.check("zsnap-ingest", &story.scene.ingest(&[]), 0, "");
    story.stands(("waiting", 1), ("ok", 0, Some("nothing came ")), 0);
    story.stick.mount(DESKTOP);
    // A file is a little longer than its stream, which does not compress.
    let (parts, whole) = (mib / most + 1, (mib / most).min(2));
    let ran = story.pulled_during_flush(whole * (most * MIB).div_ceil(STEP) + 1);
    let gone = "zsnap-queue: not delivered to dir:SPOOL, the next run tries again: FILE: SPOOL/laptop: Transport endpoint \
                is not connected (os error 107)\n";
    story.check("zsnap-queue flush", &ran, 1, gone);
    story.stands(("waiting", 1), ("ok", 0, Some("nothing came ")), 0);
    story.stick.mount(DESKTOP);
    let more = if parts - whole > 1 { format!(" and {} more", parts - whole - 1) } else { String::new() };
    let waits = format!("waiting for part {}{more} of {parts}", whole + 1);
    story.server(DESKTOP, 1, &format!("zsnap-ingest: laptop/FILE: {waits}\n"));
    assert_eq!(story.scene.spooled("laptop").len() as u64, whole);
    // The copy that was not finished is there too.
    story.stands(("waiting", 1), ("waiting", 1, Some(&waits)), whole as usize + 1);

    eprintln!("Round 2: the other parts follow, and an increment.");
    story.stick.again(DESKTOP);
    let second = story.queue(&overlap, &increment(2), "");
    story.stands(("delivered", 0), ("new", 2, None), parts as usize + 1);
    story.arrived.extend([first, second]);
    story.server(DESKTOP, 0, "");
    story.stands(("delivered", 0), ("ok", 0, None), 0);

    eprintln!("Round 3: the stick is write-protected at the server.");
    story.stick.again(DESKTOP);
    let third = story.queue(&overlap, &increment(3), "");
    story.stands(("delivered", 0), ("new", 1, None), 1);
    story.arrived.push(third);
    let once =
        "zsnap-ingest: SPOOL/laptop: is read-only: the files that were applied stay there, and are not read again\n";
    story.server(&format!("ro,{DESKTOP}"), 1, once);
    story.stands(("delivered", 0), ("ok", 0, None), 1);

    eprintln!("Round 4: the stick is full. The server removes what it kept from it.");
    story.stick.again(DESKTOP);
    let stat = rustix::fs::statvfs(story.scene.path("spool")).unwrap();
    let film = story.scene.path("spool/film.mkv");
    fs::File::create(&film).unwrap().set_len(stat.f_bavail * stat.f_frsize - 10 * MIB).unwrap();
    let full = "zsnap-queue: not delivered to dir:SPOOL, the next run tries again: FILE: SPOOL: 20.0 MiB do not fit: 10.0 \
                MiB are free\n";
    let fourth = story.queue(&["--full"], &noise(20 << 20, 4), full);
    // The next run of the server looks at the third file again, because it can be removed now.
    story.stands(("waiting", 1), ("new", 1, None), 2);
    let other = "zsnap-ingest: film.mkv: is not a directory of a host (SPOOL/film.mkv: Not a directory (os error 20)); \
                 ignored\n";
    story.server(DESKTOP, 1, other);
    story.stands(("waiting", 1), ("ok", 0, None), 1);

    eprintln!("Round 5: the stick has room again.");
    story.stick.again(DESKTOP);
    fs::remove_file(&film).unwrap();
    let fifth = story.queue(&overlap, &increment(5), "");
    story.arrived.extend([fourth, fifth]);
    story.server(DESKTOP, 0, "");
    story.stands(("delivered", 0), ("ok", 0, None), 0);
    story.check("zsnap-queue flush", &story.scene.queue(&["flush"], b""), 0, "");
    story.server(DESKTOP, 0, "");
    story.stands(("delivered", 0), ("ok", 0, None), 0);
}
