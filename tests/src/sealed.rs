//! Shared code of the tests of sealed files: keys, manifests, sealing and opening in memory.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sequoia_openpgp::Cert;
use sequoia_openpgp::serialize::Serialize;
use sha2::{Digest, Sha256};
use zsnap_common::names::target::Host;
use zsnap_message::keys::{Format, Keyring, Purpose, Recipients, SigningKey, keygen};
use zsnap_message::open::{Limits, Refusal, Signers, Trust, Verified, verify};
use zsnap_message::payload::{Base, Epoch, Manifest, PayloadKind, Trailer};
use zsnap_message::seal::{Sealing, seal};

pub const FORMATS: [Format; 2] = [Format::Gpg, Format::Aead];

/// Limits with which a message is held in memory.
pub const IN_MEMORY: Limits = Limits { verify_buffer: 64 << 20, window_log: 27, max_size: None, max_ratio: 10_000 };
/// Limits with which a message is read twice.
pub const TWICE: Limits = Limits { verify_buffer: 0, window_log: 27, max_size: None, max_ratio: 10_000 };

pub fn host(name: &str) -> Host {
    name.parse().unwrap()
}

pub fn manifest() -> Manifest {
    Manifest {
        zsnap: 1,
        host: host("laptop"),
        dataset: "etc".parse().unwrap(),
        created: 1_790_000_000,
        kind: PayloadKind::Opaque,
        id: "0123456789abcdef0123456789abcdef".into(),
        epoch: Epoch { id: "fedcba9876543210fedcba9876543210".into(), started: 1_780_000_000 },
        seq: 1_790_000_000_000_000,
        prev: None,
        base: Base::None,
        zfs: None,
    }
}

pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn trailer(data: &[u8]) -> Trailer {
    Trailer { zsnap: 1, bytes: data.len() as u64, sha256: sha256(data), substreams: None, to: None }
}

/// Returns bytes that do not compress and depend only on the seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data.extend_from_slice(&x.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    data.truncate(len);
    data
}

/// The keys of a sender, `laptop`, and of a recipient.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub recipients: Recipients,
    pub signer: SigningKey,
    pub keyring: Keyring,
    pub signers: Signers,
    pub laptop: Host,
}

impl Site {
    pub fn new(format: Format) -> Site {
        // zsnap rejects files that a group can write.
        rustix::process::umask(rustix::fs::Mode::from(0o022));
        let dir = tempfile::tempdir().unwrap();
        let (now, aead) = (SystemTime::now(), format == Format::Aead);
        let laptop = host("laptop");
        keygen(&dir.path().join("laptop"), Purpose::Sign(&laptop), aead).unwrap();
        keygen(&dir.path().join("backup"), Purpose::Encrypt, aead).unwrap();
        let path = |name: &str| dir.path().join(name);
        Site {
            recipients: Recipients::load(&[path("backup.cert")], format, now).unwrap(),
            signer: SigningKey::load(&path("laptop.key"), now).unwrap(),
            keyring: Keyring::load(&[path("backup.key")]).unwrap(),
            signers: signers(&[("laptop", &path("laptop.cert"))]),
            laptop,
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn sealing(&self, format: Format) -> Sealing<'_> {
        Sealing { recipients: &self.recipients, signer: Some(&self.signer), format, level: 1, threads: 1 }
    }

    pub fn trust(&self) -> Trust<'_> {
        Trust {
            keyring: &self.keyring,
            signers: &self.signers,
            host: &self.laptop,
            unsigned: false,
            any_stream: false,
            now: SystemTime::now(),
        }
    }

    pub fn open(&self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        open(message, &self.trust(), &IN_MEMORY)
    }
}

pub fn signers(of: &[(&str, &Path)]) -> Signers {
    let mut map: HashMap<Host, Vec<PathBuf>> = HashMap::new();
    for (name, path) in of {
        map.entry(host(name)).or_default().push(path.to_path_buf());
    }
    Signers::load(&map).unwrap()
}

pub fn sealed(data: &[u8], how: &Sealing<'_>) -> Vec<u8> {
    let body = |to: &mut dyn Write| {
        to.write_all(data)?;
        Ok(trailer(data))
    };
    seal(Vec::new(), how, &manifest(), body).unwrap().0
}

pub fn open(message: &[u8], trust: &Trust<'_>, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    Ok(replayed(verify(Cursor::new(message), trust, limits)?))
}

pub fn replayed(verified: Verified<Cursor<&[u8]>>) -> Vec<u8> {
    let mut plain = Vec::new();
    verified.replay(&mut plain).unwrap();
    plain
}

/// Saves a certificate as `NAME.cert`, and with its secret keys as `NAME.key`.
pub fn save(dir: &Path, name: &str, cert: &Cert) {
    let mut bytes = Vec::new();
    cert.as_tsk().serialize(&mut bytes).unwrap();
    fs::write(dir.join(format!("{name}.key")), &bytes).unwrap();
    fs::set_permissions(dir.join(format!("{name}.key")), fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = Vec::new();
    cert.serialize(&mut bytes).unwrap();
    fs::write(dir.join(format!("{name}.cert")), bytes).unwrap();
}
