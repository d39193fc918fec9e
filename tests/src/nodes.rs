//! Real NNCP nodes in one directory, and a USB stick that carries packets between them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{Ran, have, run};

/// A node to make.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// The nodes that it knows, each with more lines of configuration, such as `incoming`.
    pub knows: &'a [(&'a str, String)],
    /// More lines for its own configuration, such as areas.
    pub more: &'a str,
}

/// Several nodes, each with NAME.hjson and NAME-nncp in the directory.
#[derive(Debug)]
pub struct Nodes {
    dir: PathBuf,
    /// The output of `nncp-cfgnew` by node.
    keys: BTreeMap<String, String>,
}

impl Nodes {
    /// Makes nodes. Returns `None` if NNCP is not installed.
    pub fn new(dir: &Path, nodes: &[Node]) -> Option<Nodes> {
        if !have("nncp-toss") {
            return None;
        }
        let keys = nodes.iter().map(|node| (node.name.to_owned(), generate(&[]))).collect();
        let all = Nodes { dir: dir.to_owned(), keys };
        fs::create_dir(dir.join("stick")).unwrap();
        nodes.iter().for_each(|node| all.configure(node));
        Some(all)
    }

    fn configure(&self, node: &Node) {
        let spool = self.spool(node.name);
        fs::create_dir(&spool).unwrap();
        let (own, spool) = (&self.keys[node.name], spool.display());
        let secret = values(own, ["exchprv", "signprv", "noiseprv"]);
        let mut neighbours = format!("self: {{\n{}}}\n", public(own));
        for (name, more) in node.knows {
            neighbours += &format!("{name}: {{\n{}{more}}}\n", public(&self.keys[*name]));
        }
        let text = format!(
            "{{\nspool: {spool}\nlog: {spool}/log\nself: {{\n{}{secret}}}\nneigh: {{\n{neighbours}}}\n{}}}\n",
            public(own),
            node.more
        );
        fs::write(self.config(node.name), text).unwrap();
    }

    /// Returns the configuration file of a node.
    pub fn config(&self, node: &str) -> PathBuf {
        self.dir.join(format!("{node}.hjson"))
    }

    fn spool(&self, node: &str) -> PathBuf {
        self.dir.join(format!("{node}-nncp"))
    }

    /// Returns NNCP's id of a node.
    pub fn id(&self, node: &str) -> &str {
        value(&self.keys[node], "id")
    }

    /// Runs a program of NNCP as a node.
    pub fn nncp(&self, program: &str, node: &str, args: &[&Path]) -> Ran {
        // Run from /, as cron and nncp-daemon do.
        let mut command = Command::new(program);
        run(command.arg("-cfg").arg(self.config(node)).arg("-quiet").args(args).current_dir("/"), b"")
    }

    /// Carries all packets of one node for another one by the stick.
    pub fn carry(&self, from: &str, to: &str) {
        let stick = self.dir.join("stick");
        self.nncp("nncp-xfer", from, &["-node".as_ref(), to.as_ref(), "-mkdir".as_ref(), &stick]).expect(0);
        self.nncp("nncp-xfer", to, &["-node".as_ref(), from.as_ref(), &stick]).expect(0);
    }

    /// Moves all packets of one node for another one directly, which is faster.
    pub fn pass(&self, from: &str, to: &str) {
        let rx = self.spool(to).join(self.id(from)).join("rx");
        fs::create_dir_all(&rx).unwrap();
        for packet in self.to_send(from, to) {
            fs::rename(&packet, rx.join(packet.file_name().unwrap())).unwrap();
        }
    }

    /// Unpacks what a node has received.
    pub fn toss(&self, node: &str) -> Ran {
        self.nncp("nncp-toss", node, &[])
    }

    /// Returns the packets that a node has received from another one, without NNCP's own files next to them.
    pub fn received(&self, node: &str, from: &str) -> Vec<PathBuf> {
        self.packets(node, from, "rx")
    }

    /// Returns the packets that a node has not sent to another one yet.
    pub fn to_send(&self, node: &str, to: &str) -> Vec<PathBuf> {
        self.packets(node, to, "tx")
    }

    fn packets(&self, node: &str, peer: &str, queue: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.spool(node).join(self.id(peer)).join(queue)) else { return Vec::new() };
        entries.map(|e| e.unwrap().path()).filter(|p| p.is_file() && p.extension().is_none()).collect()
    }
}

/// Generates an area. Returns its id and its keys.
pub fn area(name: &str) -> (String, String) {
    let text = generate(&["-area", name]);
    (values(&text, ["id"]), values(&text, ["pub", "prv"]))
}

fn generate(more: &[&str]) -> String {
    String::from_utf8(run(Command::new("nncp-cfgnew").arg("-nocomments").args(more), b"").expect(0).out).unwrap()
}

/// Returns a value in the output of `nncp-cfgnew`. The first one belongs to the node itself.
fn value<'a>(config: &'a str, key: &str) -> &'a str {
    let of = |line: &'a str| line.trim_start().strip_prefix(key)?.strip_prefix(": ");
    config.lines().find_map(of).unwrap_or_else(|| panic!("nncp-cfgnew did not print {key}"))
}

fn values<const N: usize>(config: &str, keys: [&str; N]) -> String {
    keys.map(|key| format!("{key}: {}\n", value(config, key))).concat()
}

fn public(config: &str) -> String {
    values(config, ["id", "exchpub", "signpub", "noisepub"])
}
