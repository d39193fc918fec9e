//! (skeleton: signatures are the contract)
use crate::target::Host;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
/// The sealed file's OpenPGP flavour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// SEIPDv1: every GnuPG reads it.
    Gpg,
    /// SEIPDv2 with OCB: four times faster, read by Sequoia and others, by no GnuPG.
    Aead,
}
/// Certificates to encrypt to, all of them checked.
pub struct Recipients {
    _p: (),
}
impl Recipients {
    /// Loads certificate files (binary or armored, several certificates a file allowed). Refuses (`Exit::Config`, path and remedy): none, expired, revoked,
    /// not yet valid, no encryption subkey; for `Aead`: one that does not advertise SEIPDv2. Warns (log) 30 days before an expiry.
    pub fn load(_files: &[PathBuf], _format: Format, _now: SystemTime) -> anyhow::Result<Recipients> {
        unimplemented!()
    }
}
/// A secret key that signs.
pub struct SigningKey {
    _p: (),
}
impl SigningKey {
    /// Loads a secret key file: regular, not a symlink to be followed by root into others' directories, owner root or us, no access for group or others
    /// (`Exit::Config` otherwise), unencrypted, a valid signing (sub)key at `now`; warns 30 days before expiry.
    pub fn load(_file: &Path, _now: SystemTime) -> anyhow::Result<SigningKey> {
        unimplemented!()
    }
    /// Fingerprint of its certificate, upper-case hex.
    pub fn fingerprint(&self) -> String {
        unimplemented!()
    }
}
/// Secret keys that decrypt.
pub struct Keyring {
    _p: (),
}
impl Keyring {
    /// As [`SigningKey::load`], for keys that decrypt; expired ones are taken (old files must stay readable).
    pub fn load(_files: &[PathBuf]) -> anyhow::Result<Keyring> {
        unimplemented!()
    }
}
/// What a made key is for.
pub enum Purpose<'a> {
    /// Sign only: user id `zsnap HOST`.
    Sign(&'a Host),
    /// Encrypt only.
    Encrypt,
}
/// Makes BASE.key (0600) and BASE.cert (0644), never replacing, no expiry; v4, Ed25519 and X25519 as algorithms 22 and 18 so that GnuPG 2.2 reads them;
/// features advertise SEIPDv2 only with `aead`. Returns the fingerprint.
pub fn keygen(_base: &Path, _purpose: Purpose<'_>, _aead: bool) -> anyhow::Result<String> {
    unimplemented!()
}
