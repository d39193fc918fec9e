//! From zsnap-queue through two real NNCP nodes into zsnap-ingest: as files, twice, in chunks, and
//! as exec packets, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use zsnap_tests::scene::{Ran, Scene, have, program, run};

/// A [`Scene`] whose laptop and backup server are NNCP nodes with a stick between them.
struct Nodes {
    scene: Scene,
    /// NNCP's id of the laptop.
    laptop: String,
}

impl Nodes {
    /// `None`: NNCP is not installed. `incoming` is where the server puts the laptop's files.
    fn new(incoming: &str) -> Option<Nodes> {
        if !have("nncp-toss") {
            return None;
        }
        let scene = Scene::new();
        let [laptop, backup] = [(); 2].map(|()| {
            String::from_utf8(run(Command::new("nncp-cfgnew").arg("-nocomments"), b"").expect(0).out).unwrap()
        });
        for dir in ["spool/laptop", "stick"] {
            fs::create_dir(scene.path(dir)).unwrap();
        }
        let exec = format!(
            "incoming: {}\nexec: {{ zsnap: [\"{}\", \"--config\", \"{}\", \"exec\", \"--\"] }}\n",
            scene.path(incoming).display(),
            program("zsnap-ingest").display(),
            scene.path("ingest.toml").display()
        );
        for (name, own, peer, other, more) in
            [("laptop", &laptop, "backup", &backup, ""), ("backup", &backup, "laptop", &laptop, exec.as_str())]
        {
            let spool = scene.path(format!("{name}-nncp"));
            fs::create_dir(&spool).unwrap();
            let secret = values(own, ["exchprv", "signprv", "noiseprv"]);
            let (own, other, spool) = (public(own), public(other), spool.display());
            scene.write(
                &format!("{name}.hjson"),
                &format!(
                    "{{\nspool: {spool}\nlog: {spool}/log\nself: {{\n{own}{secret}}}\n\
                 neigh: {{\nself: {{\n{own}}}\n{peer}: {{\n{other}{more}}}\n}}\n}}\n"
                ),
            );
        }
        Some(Nodes { laptop: value(&laptop, "id").to_owned(), scene })
    }

    fn nncp(&self, program: &str, node: &str, args: &[&Path]) -> Ran {
        let config = self.scene.path(format!("{node}.hjson"));
        // As cron and nncp-daemon start it, all that the handler gets is NNCP's own.
        run(Command::new(program).arg("-cfg").arg(config).arg("-quiet").args(args).current_dir("/"), b"")
    }

    fn queue(&self, to: &str, more: &[&str], body: &[u8]) {
        let config = self.scene.path("laptop.hjson");
        let args = ["--nncp-config", config.to_str().unwrap(), "--nice", "B+5", "--to", to, "--opaque", "laptop/etc"];
        let ran = self.scene.queue(&[&args[..], more].concat(), body).expect(0);
        assert!(ran.err.is_empty(), "{}", ran.err);
        let waiting = run(Command::new("find").arg(self.scene.path("queue-state/outbox")).args(["-type", "f"]), b"");
        assert!(waiting.out.iter().all(u8::is_ascii) && !String::from_utf8_lossy(&waiting.out).contains("bakfsfmt2"));
    }

    /// All packets go to the server's spool.
    fn carry(&self) {
        let stick = self.scene.path("stick");
        self.nncp("nncp-xfer", "laptop", &["-mkdir".as_ref(), &stick]).expect(0);
        self.nncp("nncp-xfer", "backup", &[&stick]).expect(0);
    }

    fn toss(&self) -> Ran {
        self.nncp("nncp-toss", "backup", &[])
    }

    /// The packets in the server's spool, without NNCP's bookkeeping beside them.
    fn received(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.scene.path("backup-nncp").join(&self.laptop).join("rx")) else {
            return Vec::new();
        };
        entries.map(|e| e.unwrap().path()).filter(|p| p.is_file() && p.extension().is_none()).collect()
    }

    fn know_sender(&self) {
        let id = format!("[hosts.laptop]\nnncp-sender = \"{}\"\n", self.laptop);
        self.scene.edit("ingest.toml", "[hosts.laptop]\n", &id);
    }
}

/// A value of `nncp-cfgnew`'s output; the first one is the node's own.
fn value<'a>(config: &'a str, key: &str) -> &'a str {
    let of = |line: &'a str| line.trim_start().strip_prefix(key)?.strip_prefix(": ");
    config.lines().find_map(of).unwrap_or_else(|| panic!("nncp-cfgnew says no {key}"))
}

fn values<const N: usize>(config: &str, keys: [&str; N]) -> String {
    keys.map(|key| format!("{key}: {}\n", value(config, key))).concat()
}

fn public(config: &str) -> String {
    values(config, ["id", "exchpub", "signpub", "noisepub"])
}

#[test]
fn files_arrive_through_nncp_and_a_second_copy_is_absorbed() {
    let Some(nodes) = Nodes::new("spool/laptop") else { return };
    let scene = &nodes.scene;
    nodes.queue("nncp-file:backup", &["--full"], b"1");
    nodes.queue("nncp-file:backup", &["--increment", "--overlap"], b"2");
    nodes.carry();
    let packets: Vec<_> = nodes.received().into_iter().map(|p| (fs::read(&p).unwrap(), p)).collect();
    assert_eq!(packets.len(), 2);
    nodes.toss().expect(0);
    // The same packets again, as after a crash of the daemon: NNCP writes NAME.0.
    packets.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    nodes.toss().expect(0);
    let copies = scene.spooled("laptop").iter().filter(|p| p.extension().is_some_and(|e| e == "0")).count();
    assert_eq!((scene.spooled("laptop").len(), copies), (4, 2));
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);
    assert_eq!(scene.applied(), b"12");
    assert!(scene.spooled("laptop").is_empty());
    // And once more when all was applied and removed long ago.
    packets.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    nodes.toss().expect(0);
    scene.ingest(&[]).expect(0);
    assert_eq!(scene.applied(), b"12");
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn a_directory_below_incoming_names_the_host() {
    // As behind a spooler or in an area: one incoming directory for all hosts.
    let Some(nodes) = Nodes::new("spool") else { return };
    nodes.queue("nncp-file:backup/laptop", &["--full"], b"hello");
    nodes.carry();
    nodes.toss().expect(0);
    assert_eq!(nodes.scene.spooled("laptop").len(), 1);
    nodes.scene.ingest(&[]).expect(0);
    assert_eq!(nodes.scene.applied(), b"hello");
}

#[test]
fn parts_of_a_chunked_file_are_left_alone_until_they_are_one() {
    let Some(nodes) = Nodes::new("spool/laptop") else { return };
    let scene = &nodes.scene;
    let body: Vec<u8> = (0..3000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    scene
        .queue(&["--opaque", "--full", "--to", &format!("dir:{}", scene.path("stick").display()), "laptop/etc"], &body)
        .expect(0);
    let made = fs::read_dir(scene.path("stick/laptop")).unwrap().next().unwrap().unwrap().path();
    let to = format!("backup:{}", made.file_name().unwrap().to_str().unwrap());
    nodes.nncp("nncp-file", "laptop", &["-chunked".as_ref(), "4".as_ref(), &made, to.as_ref()]).expect(0);
    fs::remove_dir_all(scene.path("stick/laptop")).unwrap();
    nodes.carry();
    nodes.toss().expect(0);
    let parts = scene.spooled("laptop");
    assert!(parts.len() > 3, "{parts:?}");
    scene.age("laptop");
    let ran = scene.ingest(&[]).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);
    assert_eq!(scene.spooled("laptop"), parts);
    let meta = parts.iter().find(|p| p.extension().is_some_and(|e| e == "meta")).unwrap();
    nodes.nncp("nncp-reass", "backup", &[meta]).expect(0);
    scene.ingest(&[]).expect(0);
    assert!(scene.applied() == body);
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn an_exec_packet_is_applied_by_its_handler() {
    let Some(nodes) = Nodes::new("spool/laptop") else { return };
    let scene = &nodes.scene;
    nodes.queue("nncp-exec:backup:zsnap", &["--full"], b"1");
    nodes.carry();
    // Nobody has said yet whose node it is: refused, and NNCP keeps the packet.
    nodes.toss().expect(1);
    assert_eq!((scene.applied(), nodes.received().len()), (Vec::new(), 1));
    nodes.know_sender();
    nodes.toss().expect(0);
    assert_eq!((scene.applied(), nodes.received().len()), (b"1".to_vec(), 0));
    // With the name hidden there is no argument that tells the dataset.
    nodes.queue("nncp-exec:backup:zsnap", &["--increment", "--overlap", "--opaque-names"], b"2");
    nodes.carry();
    nodes.toss().expect(0);
    assert_eq!((scene.applied(), nodes.received().len()), (b"12".to_vec(), 0));
}

#[test]
fn a_damaged_exec_packet_is_not_applied_and_nncp_keeps_it() {
    let Some(nodes) = Nodes::new("spool/laptop") else { return };
    let scene = &nodes.scene;
    nodes.know_sender();
    let mut state = 1_u64;
    let body: Vec<u8> = (0..60_000)
        .flat_map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            state.to_be_bytes()
        })
        .collect();
    nodes.queue("nncp-exec:backup:zsnap", &["--full"], &body);
    nodes.carry();
    let [packet] = &nodes.received()[..] else { panic!("one packet") };
    let good = fs::read(packet).unwrap();
    // In NNCP's first block, and in the last: then the handler has read most of it, and an end of file.
    for at in [good.len() / 20, good.len() - 1000] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(packet, bad).unwrap();
        nodes.toss().expect(1);
        assert!(scene.applied().is_empty());
        assert!(packet.exists());
        let kept = run(Command::new("find").arg(scene.path("ingest-state/exec")).args(["-type", "f"]), b"");
        assert_eq!(String::from_utf8_lossy(&kept.out), "", "the handler kept something");
    }
    fs::write(packet, good).unwrap();
    nodes.toss().expect(0);
    assert!(scene.applied() == body);
    assert!(nodes.received().is_empty());
}
