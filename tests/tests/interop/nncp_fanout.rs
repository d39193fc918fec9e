//! From a laptop through a spooler to two drives that are real NNCP nodes: sealed by zsnap-queue, distributed by
//! zsnap-fanout (or by an NNCP area), applied by zsnap-ingest.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use zsnap_tests::nodes::{Node, Nodes, area};
use zsnap_tests::scene::{Scene, run};
use zsnap_tests::spooler::{Spooler, tree};

/// The laptop, the backup server and the nodes are in the scene, the spool is in the spooler.
struct World {
    scene: Scene,
    spooler: Spooler,
    nodes: Nodes,
}

impl World {
    /// Makes the nodes. Returns `None` if NNCP is not installed.
    fn new() -> Option<World> {
        let (scene, spooler) = (Scene::new(), Spooler::new());
        let incoming = |dir: std::path::PathBuf| format!("incoming: {}\n", dir.display());
        let of = |name: &'static str| (name, String::new());
        let drives = ["disk1", "disk2"].map(|disk| [("spooler", incoming(scene.path(disk)))]);
        let spool = [("laptop", incoming(spooler.path("spool/laptop"))), of("disk1"), of("disk2")];
        let nodes = Nodes::new(
            &scene.path(""),
            &[
                Node { name: "laptop", knows: &[of("spooler")], more: "" },
                Node { name: "spooler", knows: &spool, more: "" },
                Node { name: "disk1", knows: &drives[0], more: "" },
                Node { name: "disk2", knows: &drives[1], more: "" },
            ],
        )?;
        let config = format!("nncp-config = '{}'", nodes.config("spooler").display());
        for disk in ["disk1", "disk2"] {
            fs::create_dir(scene.path(disk)).unwrap();
            spooler.to(disk, &format!("nncp-file:{disk}"), &config);
        }
        Some(World { scene, spooler, nodes })
    }

    /// Sends the next backup of the laptop to the spooler.
    fn back_up(&self, body: &str) {
        let config = self.nodes.config("laptop");
        let kind: &[&str] = if body == "1" { &["--full"] } else { &["--increment", "--overlap"] };
        let args = ["--nncp-config", config.to_str().unwrap(), "--to", "nncp-file:spooler", "--opaque", "laptop/etc"];
        let ran = self.scene.queue(&[&args[..], kind].concat(), body.as_bytes()).expect(0);
        assert_eq!(ran.err, "");
        self.nodes.carry("laptop", "spooler");
        self.nodes.toss("spooler").expect(0);
    }

    /// Connects a drive: the packets of NNCP are carried to it and unpacked. Returns the new files.
    fn fetch(&self, disk: &str) -> Vec<String> {
        let before = self.on(disk);
        self.nodes.carry("spooler", disk);
        self.nodes.toss(disk).expect(0);
        self.on(disk).into_iter().filter(|file| !before.contains(file)).collect()
    }

    fn on(&self, disk: &str) -> Vec<String> {
        tree(&self.scene.path(disk))
    }

    /// Returns the files that were handed to the spooler's NNCP for a drive, in that order.
    fn handed_over(&self, disk: &str) -> Vec<String> {
        let log = fs::read_to_string(self.scene.path("spooler-nncp/log")).unwrap();
        // The log has a recfile record for each event.
        let mut found = Vec::new();
        for record in log.split("\n\n") {
            let field = |key: &str| record.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            if field("Node") == Some(self.nodes.id(disk)) && field("Type") == Some("file") {
                found.extend(field("Dst").map(str::to_owned));
            }
        }
        found
    }

    /// Returns the rows of `status` by destination. It must end with this exit status.
    fn status(&self, exit: i32) -> BTreeMap<String, Value> {
        let ran = self.spooler.fanout(&["status", "--json"]).expect(exit);
        assert_eq!(ran.err, "");
        let rows: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
        rows.into_iter().map(|row| (row["drive"].as_str().unwrap().to_owned(), row)).collect()
    }

    #[track_caller]
    fn ingests(&self, disk: &str, all: &str) {
        self.scene.edit("ingest.toml", "/spool\"", &format!("/{disk}\""));
        let ran = self.scene.ingest(&[]).expect(0);
        assert_eq!((ran.err.as_str(), String::from_utf8(self.scene.applied()).unwrap()), ("", all.to_owned()));
        assert!(self.on(disk).iter().all(|file| file.contains("/.")), "{:?}", self.on(disk));
    }
}

#[test]
fn check_reports_an_unknown_node_and_a_missing_nncp_stat() {
    let Some(world) = World::new() else { return };
    world.spooler.fanout(&["check"]).expect(0);
    // A run does not need nncp-stat.
    let ran = world.spooler.fanout(&["check", "--nncp-stat-program", "/nowhere/nncp-stat"]).expect(1);
    let text = String::from_utf8(ran.out).unwrap();
    assert_eq!(text.matches("install it, or correct its path: without it, nobody asks NNCP").count(), 2, "{text}");
    world.spooler.edit("nncp-file:disk2", "nncp-file:dsik2");
    world.spooler.fanout(&["check"]).expect(78).prints("fail  disk2: nncp-stat failed: ").prints("ok    disk1\n");
}

#[test]
fn each_drive_receives_each_file_once_if_one_was_away() {
    let Some(world) = World::new() else { return };
    let mut received = Vec::new();
    for run in 1..=3 {
        world.back_up(&(2 * run - 1).to_string());
        world.back_up(&(2 * run).to_string());
        world.spooler.silent_run();
        let new = world.fetch("disk1");
        assert_eq!(new.len(), 2, "{new:?}");
        received.extend(new);
        let status = world.status(0);
        for (disk, packets) in [("disk1", 0), ("disk2", 2 * run)] {
            let row = &status[disk];
            assert_eq!((row["state"].as_str(), row["nncp_packets"].as_u64()), (Some("handed to NNCP"), Some(packets)));
            assert_eq!((&row["waiting_files"], &row["here"]), (&Value::from(0), &Value::Null));
        }
    }
    assert!(world.on("disk2").is_empty() && world.spooler.left().is_empty());
    // The drive is back and receives all files at once.
    assert_eq!(world.fetch("disk2"), received);
    assert_eq!(world.status(0)["disk2"]["nncp_packets"], 0);
    // Another run does not deliver anything twice.
    world.spooler.silent_run();
    for disk in ["disk1", "disk2"] {
        assert!(world.fetch(disk).is_empty());
        assert_eq!(world.handed_over(disk), received);
        assert_eq!(world.on(disk), received);
        assert!(received.iter().all(|file| file.starts_with("laptop/bakfsfmt2-") && file.ends_with("_laptop@etc")));
    }
    for file in &received {
        assert!(
            fs::read(world.scene.path("disk1").join(file)).unwrap()
                == fs::read(world.scene.path("disk2").join(file)).unwrap()
        );
    }
    world.ingests("disk2", "123456");
}

#[test]
fn each_file_is_delivered_once_in_order_after_nncp_file_failed() {
    let Some(world) = World::new() else { return };
    // Only the table of disk2 has another NNCP configuration, which is missing.
    let (present, missing) = (world.nodes.config("spooler"), world.scene.path("lost.hjson"));
    let (present, missing) = (present.to_str().unwrap(), missing.to_str().unwrap());
    let good = world.spooler.config();
    let (first, second) = good.split_once("[to.disk2]").unwrap();
    world.spooler.write("fanout.toml", &format!("{first}[to.disk2]{}", second.replace(present, missing)));
    let mut received = Vec::new();
    for round in 1..=3 {
        world.back_up(&round.to_string());
        let ran = world.spooler.fanout(&[]);
        // The persistent failure is reported once.
        let (status, says) = if round == 1 { (1, "disk2: bakfsfmt2-") } else { (0, "") };
        let ran = ran.expect(status).says(says);
        assert_eq!(ran.err.lines().count(), usize::from(round == 1), "{}", ran.err);
        if round == 1 {
            ran.says("nncp-file failed").says("lost.hjson").says("the next run tries again");
        }
        received.extend(world.fetch("disk1"));
        assert_eq!(world.spooler.waiting("disk2"), received);
        let row = &world.status(1)["disk2"];
        assert_eq!((&row["state"], row["waiting_files"].as_u64()), (&Value::from("failed"), Some(round)));
        assert!(row["note"].as_str().unwrap().contains("nncp-file failed"), "{row}");
    }
    assert!(world.handed_over("disk2").is_empty());
    world.spooler.write("fanout.toml", &good);
    world.spooler.silent_run();
    assert_eq!(world.handed_over("disk2"), received);
    assert_eq!(world.fetch("disk2"), received);
    world.spooler.silent_run();
    for disk in ["disk1", "disk2"] {
        assert_eq!(
            (world.fetch(disk).len(), world.handed_over(disk), world.on(disk)),
            (0, received.clone(), received.clone())
        );
    }
    world.ingests("disk2", "123");
}

#[test]
fn an_nncp_area_distributes_to_two_drives() {
    let scene = Scene::new();
    let (id, keys) = if zsnap_tests::scene::have("nncp-cfgnew") { area("backups") } else { return };
    let of = |name: &'static str| (name, String::new());
    let section = |body: &str| format!("areas: {{\nbackups: {{\n{id}{body}}}\n}}\n");
    let incoming = |disk: &str| section(&format!("{keys}incoming: {}\n", scene.path(disk).display()));
    let nodes = [
        Node { name: "laptop", knows: &[of("spooler")], more: &section(&format!("{keys}subs: [\"spooler\"]\n")) },
        // The spooler cannot read what it forwards.
        Node {
            name: "spooler",
            knows: &[of("laptop"), of("disk1"), of("disk2")],
            more: &section("subs: [\"disk1\", \"disk2\"]\n"),
        },
        Node { name: "disk1", knows: &[of("spooler"), of("laptop")], more: &incoming("disk1") },
        Node { name: "disk2", knows: &[of("spooler"), of("laptop")], more: &incoming("disk2") },
    ];
    let nodes = Nodes::new(&scene.path(""), &nodes).unwrap();
    for body in ["1", "2"] {
        let config = nodes.config("laptop");
        let kind: &[&str] = if body == "1" { &["--full"] } else { &["--increment", "--overlap"] };
        let to = ["--to", "nncp-file:area:backups/laptop", "--nncp-config", config.to_str().unwrap()];
        let args = [&to[..], &["--opaque", "laptop/etc"], kind].concat();
        let ran = scene.queue(&args, body.as_bytes()).expect(0);
        assert_eq!(ran.err, "");
        nodes.nncp("nncp-toss", "laptop", &["-node".as_ref(), "self".as_ref()]).expect(0);
        nodes.carry("laptop", "spooler");
        nodes.toss("spooler").expect(0);
        // disk2 is away at first.
        nodes.carry("spooler", "disk1");
        nodes.toss("disk1").expect(0);
    }
    assert_eq!((nodes.to_send("spooler", "disk1").len(), nodes.to_send("spooler", "disk2").len()), (0, 2));
    nodes.carry("spooler", "disk2");
    nodes.toss("disk2").expect(0);
    let found = ["disk1", "disk2"].map(|disk| tree(&scene.path(disk)));
    assert_eq!(found[0].len(), 2);
    assert_eq!(found[0], found[1]);
    scene.edit("ingest.toml", "/spool\"", "/disk2\"");
    let ran = scene.ingest(&[]).expect(0);
    assert_eq!((ran.err.as_str(), scene.applied()), ("", b"12".to_vec()));
    // zsnap-fanout can report of an area only that the files were handed to NNCP.
    let spooler = Spooler::new();
    spooler.to("all", "nncp-file:area:backups", &format!("nncp-config = '{}'", nodes.config("laptop").display()));
    spooler.put("laptop/etc", 1, "x");
    spooler.silent_run();
    let mut command = spooler.command(["status", "--json", "all"]);
    let rows: Vec<Value> = serde_json::from_slice(&run(&mut command, b"").expect(0).out).unwrap();
    assert_eq!((&rows[1]["state"], &rows[1]["nncp_packets"]), (&Value::from("handed to NNCP"), &Value::Null));
}
