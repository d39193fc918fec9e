//! What the tests of zsnap-queue add to a [`Scene`]: the tool without keys or destinations, its state, and the contents
//! of its files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;
use zsnap_message::keys::Keyring;
use zsnap_message::open::{Limits, Signers, Trust, verify};
use zsnap_message::payload::Manifest;

use crate::scene::{Scene, tool};
use crate::torture::walk;

/// A queue file, opened by the backup server.
pub struct Opened {
    /// The manifest.
    pub manifest: Manifest,
    /// The payload.
    pub bytes: Vec<u8>,
    /// Whether `laptop` signed it.
    pub signed: bool,
}

impl Scene {
    /// Builds the command of zsnap-queue without keys and destinations. It reads `bare.toml`, which is empty unless the
    /// test has written it.
    pub fn bare(&self) -> Command {
        let config = self.path("bare.toml");
        if !config.exists() {
            self.write("bare.toml", "");
        }
        let mut command = tool("zsnap-queue", &config);
        command.arg("--state").arg(self.path("queue-state")).current_dir(self.path(""));
        command
    }

    /// Builds the command of zsnap-queue with keys and without destinations.
    pub fn sealing(&self) -> Command {
        let mut command = self.bare();
        command.arg("--encrypt-to").arg(self.path("backup.cert")).arg("--signing-key").arg(self.path("laptop.key"));
        command
    }

    /// Opens a queue file of `laptop` with the keys of the backup server.
    pub fn open(&self, file: &Path) -> Opened {
        let keyring = Keyring::load(&[self.path("backup.key")]).unwrap();
        let laptop = "laptop".parse().unwrap();
        let signers = Signers::load(&[("laptop".parse().unwrap(), vec![self.path("laptop.cert")])].into()).unwrap();
        let trust = Trust {
            keyring: &keyring,
            signers: &signers,
            host: &laptop,
            unsigned: true,
            any_stream: false,
            now: SystemTime::now(),
        };
        let limits = Limits { verify_buffer: 64 << 20, window_log: 27, max_size: None, max_ratio: 10_000 };
        let verified = verify(File::open(file).unwrap(), &trust, &limits).unwrap();
        let (manifest, signed) = (verified.manifest().unwrap().clone(), verified.signer().is_some());
        let mut bytes = Vec::new();
        verified.replay(&mut bytes).unwrap();
        Opened { manifest, bytes, signed }
    }

    /// Reads the state of a dataset of `laptop`, with `@` for `/` in its name.
    pub fn queue_state(&self, dataset: &str) -> Value {
        let path = self.path("queue-state/datasets/laptop").join(dataset).join("state.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Lists the files in the outboxes except the permanent ones.
    pub fn outbox(&self) -> Vec<PathBuf> {
        let is_permanent =
            |path: &PathBuf| [".lock", ".dest.json", ".told.json"].iter().any(|name| path.ends_with(name));
        walk(self.path("queue-state/outbox")).into_iter().filter(|path| !is_permanent(path)).collect()
    }
}
