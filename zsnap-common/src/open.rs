//! (skeleton: signatures are the contract)
use crate::keys::Keyring;
use crate::payload::{Manifest, Trailer};
use crate::target::Host;
use crate::zstream::StreamFacts;
use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::time::SystemTime;
/// The certificates of all hosts, by whom each may sign for.
pub struct Signers {
    _p: (),
}
impl Signers {
    /// Loads every host's certificate files; errors are `Exit::Config` with the path.
    pub fn load(_of: &HashMap<Host, Vec<PathBuf>>) -> anyhow::Result<Signers> {
        unimplemented!()
    }
}
/// What a message must be to be released.
pub struct Trust<'a> {
    /// Decrypt.
    pub keyring: &'a Keyring,
    /// Verify.
    pub signers: &'a Signers,
    /// The host it must come from.
    pub host: &'a Host,
    /// Unsigned messages are taken too (`trust = "recipient"`); a bad signature never is.
    pub unsigned: bool,
    /// To tell a signature from the future (more than a day): `Refusal::Clock`. Nothing else depends on it.
    pub now: SystemTime,
}
/// Bounds.
pub struct Limits {
    /// Messages up to this many bytes are held in memory, larger ones read twice.
    pub verify_buffer: u64,
    /// Largest zstd window, log2.
    pub window_log: u32,
}
/// Why a message is not released.
#[derive(Debug)]
pub enum Refusal {
    /// Cut short or changed.
    Damaged(String),
    /// Authentic (or trusted), but not a queue file as it should be; or a stream the gate refuses.
    Malformed(String),
    /// A bad signature by a known key.
    Forged(String),
    /// No key of ours decrypts it: names the key ids that would.
    NoKey(String),
    /// Not signed.
    Unsigned,
    /// Signed by a key that no host has: its id.
    UnknownSigner(String),
    /// Signed by a key known, but expired or revoked at that time.
    BadSigner(String),
    /// Signed by another host's key.
    WrongHost {
        /// Whose key it is.
        said: Host,
    },
    /// Signature from the future: this clock or the host's is wrong.
    Clock(String),
    /// Reading failed: temporary.
    Io(std::io::Error),
}
/// A message that is authentic and whole.
pub struct Verified<R> {
    _r: R,
}
impl<R: Read + Seek + Send> Verified<R> {
    /// `None`: a file of the seeds.
    pub fn manifest(&self) -> Option<&Manifest> {
        unimplemented!()
    }
    /// With a manifest always there.
    pub fn trailer(&self) -> Option<&Trailer> {
        unimplemented!()
    }
    /// What the gate found; `None` for an opaque stream (manifest kind opaque; without manifest a stream not beginning with the ZFS magic is Malformed).
    pub fn stream(&self) -> Option<&StreamFacts> {
        unimplemented!()
    }
    /// Fingerprint of the certificate that signed; `None`: unsigned.
    pub fn signer(&self) -> Option<&str> {
        unimplemented!()
    }
    /// Signature's creation time, if signed.
    pub fn signed(&self) -> Option<SystemTime> {
        unimplemented!()
    }
    /// Length of the plain stream.
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Writes the plain stream: the only road to plaintext. From memory, or by a second pass whose ciphertext must be the same, chunk by chunk.
    pub fn replay(self, _out: &mut dyn Write) -> anyhow::Result<()> {
        unimplemented!()
    }
}
/// Authenticates a whole message, its payload's form, its digest, and walks its stream through the gate, before anything is released.
pub fn verify<R: Read + Seek + Send>(_src: R, _who: &Trust<'_>, _limits: &Limits) -> Result<Verified<R>, Refusal> {
    unimplemented!()
}
