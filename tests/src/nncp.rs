//! A real NNCP node that sends to itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{Scene, have, run};

/// The node `self`: its spool, and where its files arrive.
#[derive(Debug)]
pub struct Node {
    /// Its configuration.
    pub config: PathBuf,
    /// Where files arrive that were tossed.
    pub incoming: PathBuf,
    spool: PathBuf,
}

impl Node {
    /// Makes one in the scene. `None`: NNCP is not installed.
    pub fn new(scene: &Scene) -> Option<Node> {
        if !have("nncp-file") {
            return None;
        }
        let [config, incoming, spool, log] =
            ["nncp.hjson", "incoming", "nncp", "nncp.log"].map(|name| scene.path(name));
        let text = String::from_utf8(run(Command::new("nncp-cfgnew").arg("-nocomments"), b"").expect(0).out).unwrap();
        let text = text
            .replace("/var/spool/nncp/log", log.to_str().unwrap())
            .replace("/var/spool/nncp", spool.to_str().unwrap());
        let (own, neighbour) = text.rsplit_once("self: {").unwrap();
        fs::write(&config, format!("{own}self: {{\n incoming: {}{neighbour}", incoming.display())).unwrap();
        fs::create_dir(&spool).unwrap();
        fs::create_dir(&incoming).unwrap();
        Some(Node { config, incoming, spool })
    }

    /// The packets that it has been given and has not tossed.
    pub fn packets(&self) -> Vec<PathBuf> {
        let Some(tx) = self.box_of("tx") else { return Vec::new() };
        let entries = fs::read_dir(tx).into_iter().flatten().map(|entry| entry.unwrap().path());
        // Beside them are a lock and headers.
        entries.filter(|path| path.is_file() && path.extension().is_none()).collect()
    }

    /// Carries all packets to where they came from, and unpacks them.
    pub fn toss(&self) {
        let packets = self.packets();
        let Some(tx) = self.box_of("tx").filter(|_| !packets.is_empty()) else { return };
        let rx = tx.with_file_name("rx");
        fs::create_dir_all(&rx).unwrap();
        for packet in packets {
            fs::rename(&packet, rx.join(packet.file_name().unwrap())).unwrap();
        }
        run(Command::new("nncp-toss").arg("-cfg").arg(&self.config).arg("-quiet"), b"").expect(0);
        let left = fs::read_dir(&rx).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_none());
        let left: Vec<_> = left.map(|e| e.unwrap().path()).filter(|path| path.is_file()).collect();
        assert!(left.is_empty(), "not tossed: {left:?}");
    }

    fn box_of(&self, name: &str) -> Option<PathBuf> {
        let real = |path: &Path| path.join(name).is_dir() && !path.is_symlink();
        let mut nodes = fs::read_dir(&self.spool).unwrap().map(|entry| entry.unwrap().path());
        Some(nodes.find(|path| real(path))?.join(name))
    }
}
