//! From zsnap-queue through two real NNCP nodes to zsnap-ingest: as files, twice, in chunks, and as exec packets, whole
//! and damaged.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use zsnap_tests::nodes::{Node, Nodes};
use zsnap_tests::scene::{Ran, Scene, program, run};

/// A [`Scene`] whose laptop and backup server are NNCP nodes that exchange packets by a USB stick.
struct Pair {
    scene: Scene,
    nodes: Nodes,
}

impl Pair {
    /// Makes the nodes. `incoming` is where the server puts the laptop's files. Returns `None` if NNCP is not
    /// installed.
    fn new(incoming: &str) -> Option<Pair> {
        let scene = Scene::new();
        fs::create_dir(scene.path("spool/laptop")).unwrap();
        let from_laptop = format!(
            "incoming: {}\nexec: {{ zsnap: [\"{}\", \"--config\", \"{}\", \"exec\", \"--\"] }}\n",
            scene.path(incoming).display(),
            program("zsnap-ingest").display(),
            scene.path("ingest.toml").display()
        );
        let laptop = Node { name: "laptop", knows: &[("backup", String::new())], more: "" };
        let backup = Node { name: "backup", knows: &[("laptop", from_laptop)], more: "" };
        let nodes = Nodes::new(&scene.path(""), &[laptop, backup])?;
        Some(Pair { scene, nodes })
    }

    fn queue(&self, to: &str, more: &[&str], body: &[u8]) {
        let config = self.nodes.config("laptop");
        let args = ["--nncp-config", config.to_str().unwrap(), "--nice", "B+5", "--to", to, "--opaque", "laptop/etc"];
        let ran = self.scene.queue(&[&args[..], more].concat(), body).expect(0);
        assert!(ran.err.is_empty(), "{}", ran.err);
        let waiting = run(Command::new("find").arg(self.scene.path("queue-state/outbox")).args(["-type", "f"]), b"");
        assert!(waiting.out.iter().all(u8::is_ascii) && !String::from_utf8_lossy(&waiting.out).contains("bakfsfmt2"));
    }

    /// Carries all packets to the server's spool.
    fn carry(&self) {
        self.nodes.carry("laptop", "backup");
    }

    fn toss(&self) -> Ran {
        self.nodes.toss("backup")
    }

    fn received(&self) -> Vec<PathBuf> {
        self.nodes.received("backup", "laptop")
    }

    fn configure_sender(&self) {
        let id = format!("[hosts.laptop]\nnncp-sender = \"{}\"\n", self.nodes.id("laptop"));
        self.scene.edit("ingest.toml", "[hosts.laptop]\n", &id);
    }
}

#[test]
fn files_arrive_through_nncp_and_a_second_copy_is_absorbed() {
    let Some(pair) = Pair::new("spool/laptop") else { return };
    let scene = &pair.scene;
    pair.queue("nncp-file:backup", &["--full"], b"1");
    pair.queue("nncp-file:backup", &["--increment", "--overlap"], b"2");
    pair.carry();
    let packets: Vec<_> = pair.received().into_iter().map(|p| (fs::read(&p).unwrap(), p)).collect();
    assert_eq!(packets.len(), 2);
    pair.toss().expect(0);
    // NNCP tosses the same packets again, as after a crash of its daemon, and writes NAME.0.
    packets.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    pair.toss().expect(0);
    let copies = scene.spooled("laptop").iter().filter(|p| p.extension().is_some_and(|e| e == "0")).count();
    assert_eq!((scene.spooled("laptop").len(), copies), (4, 2));
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);
    assert_eq!(scene.applied(), b"12");
    assert!(scene.spooled("laptop").is_empty());
    // And once more when all was applied and removed long ago.
    packets.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    pair.toss().expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"12");
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn a_directory_below_incoming_names_the_host() {
    // One incoming directory for all hosts, as after a spooler or in an area.
    let Some(pair) = Pair::new("spool") else { return };
    pair.queue("nncp-file:backup/laptop", &["--full"], b"hello");
    pair.carry();
    pair.toss().expect(0);
    assert_eq!(pair.scene.spooled("laptop").len(), 1);
    pair.scene.ingest(&[]).expect(0);
    assert_eq!(pair.scene.applied(), b"hello");
}

#[test]
fn chunks_of_a_file_are_ignored_until_they_are_reassembled() {
    let Some(pair) = Pair::new("spool/laptop") else { return };
    let scene = &pair.scene;
    let body: Vec<u8> = (0..3000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    scene.mark("stick");
    scene
        .queue(&["--opaque", "--full", "--to", &format!("dir:{}", scene.path("stick").display()), "laptop/etc"], &body)
        .expect(0);
    let made = fs::read_dir(scene.path("stick/laptop")).unwrap().next().unwrap().unwrap().path();
    let to = format!("backup:{}", made.file_name().unwrap().to_str().unwrap());
    pair.nodes.nncp("nncp-file", "laptop", &["-chunked".as_ref(), "4".as_ref(), &made, to.as_ref()]).expect(0);
    fs::remove_dir_all(scene.path("stick/laptop")).unwrap();
    pair.carry();
    pair.toss().expect(0);
    let parts = scene.spooled("laptop");
    assert!(parts.len() > 3, "{parts:?}");
    scene.age("laptop");
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);
    assert_eq!(scene.spooled("laptop"), parts);
    let meta = parts.iter().find(|p| p.extension().is_some_and(|e| e == "meta")).unwrap();
    pair.nodes.nncp("nncp-reass", "backup", &[meta]).expect(0);
    scene.ingest(&[]).expect(0);
    assert!(scene.applied() == body);
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn an_exec_packet_is_applied_once_its_sender_is_configured() {
    let Some(pair) = Pair::new("spool/laptop") else { return };
    let scene = &pair.scene;
    pair.queue("nncp-exec:backup:zsnap", &["--full"], b"1");
    pair.carry();
    // The sending node is not configured for a host yet: the stream is rejected, and NNCP keeps the packet.
    pair.toss().expect(1);
    assert_eq!((scene.applied(), pair.received().len()), (Vec::new(), 1));
    pair.configure_sender();
    pair.toss().expect(0);
    assert_eq!((scene.applied(), pair.received().len()), (b"1".to_vec(), 0));
    // With an opaque name, no argument names the dataset.
    pair.queue("nncp-exec:backup:zsnap", &["--increment", "--overlap", "--opaque-names"], b"2");
    pair.carry();
    pair.toss().expect(0);
    assert_eq!((scene.applied(), pair.received().len()), (b"12".to_vec(), 0));
}

#[test]
fn a_damaged_exec_packet_is_not_applied_and_nncp_keeps_it() {
    let Some(pair) = Pair::new("spool/laptop") else { return };
    let scene = &pair.scene;
    pair.configure_sender();
    let mut state = 1_u64;
    let body: Vec<u8> = (0..60_000)
        .flat_map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            state.to_be_bytes()
        })
        .collect();
    pair.queue("nncp-exec:backup:zsnap", &["--full"], &body);
    pair.carry();
    let [packet] = &pair.received()[..] else { panic!("one packet") };
    let good = fs::read(packet).unwrap();
    // Damage in the first block of NNCP, and in the last one, where the handler has read most of the stream and an end
    // of file.
    for at in [good.len() / 20, good.len() - 1000] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(packet, bad).unwrap();
        pair.toss().expect(1);
        assert!(scene.applied().is_empty());
        assert!(packet.exists());
        let kept = run(Command::new("find").arg(scene.path("ingest-state/exec")).args(["-type", "f"]), b"");
        assert_eq!(String::from_utf8_lossy(&kept.out), "", "the handler kept something");
    }
    fs::write(packet, good).unwrap();
    pair.toss().expect(0);
    assert!(scene.applied() == body);
    assert!(pair.received().is_empty());
}
