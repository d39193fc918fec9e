//! Makes new keys.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sequoia_openpgp as openpgp;

use openpgp::Profile;
use openpgp::cert::prelude::*;
use openpgp::crypto::mem::Protected;
use openpgp::serialize::Serialize;
use openpgp::types::{Features, KeyFlags};

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::publish;
use zsnap_common::names::target::Host;

/// The user id of a key that signs, before the host.
const ID: &str = "zsnap ";

/// The purpose of a new key.
pub enum Purpose<'a> {
    /// It signs only; the user id is `zsnap HOST`.
    Sign(&'a Host),
    /// It encrypts only.
    Encrypt,
}

/// Creates a key without expiry, in BASE.key (0600) and BASE.cert (0644), both armored, without replacing a file. A
/// missing directory is created (0700). The key is of version 4, Ed25519 and X25519 as algorithms 22 and 18, so that
/// GnuPG 2.2 reads it. Its features advertise SEIPDv2 only with `aead`. Returns the fingerprint.
pub fn keygen(base: &Path, purpose: Purpose<'_>, aead: bool) -> anyhow::Result<String> {
    let features = match aead {
        true => Features::empty().set_seipdv1().set_seipdv2(),
        false => Features::empty().set_seipdv1(),
    };
    let builder = CertBuilder::new()
        .set_profile(Profile::RFC4880)?
        .set_cipher_suite(CipherSuite::Cv25519)
        .set_features(features)?
        .set_validity_period(None);
    let certify = KeyFlags::empty().set_certification();
    let builder = match purpose {
        Purpose::Sign(host) => builder.set_primary_key_flags(certify.set_signing()).add_userid(format!("{ID}{host}")),
        Purpose::Encrypt => builder.set_primary_key_flags(certify).add_userid("zsnap backup").add_subkey(
            KeyFlags::empty().set_transport_encryption().set_storage_encryption(),
            None,
            None,
        ),
    };
    let (cert, _) = builder.generate().or_exit(Exit::Unavailable, "making a key")?;
    let (mut secret, mut public) = (Vec::new(), Vec::new());
    cert.as_tsk().armored().serialize(&mut secret)?;
    cert.armored().serialize(&mut public)?;

    let (key, certificate) = files(base);
    if let Some(dir) = base.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        publish::make_dirs(dir).or_exit(Exit::CantCreate, "cannot make the directory of the key")?;
    }
    write_new(&key, 0o600, &Protected::from(secret))?;
    let written = write_new(&certificate, 0o644, &public);
    if written.is_err() {
        // We have just created it, and a key without its certificate is of no use.
        let _ = fs::remove_file(&key);
    }
    written.map(|()| cert.fingerprint().to_hex())
}

/// Returns the host in the user id of a key that [`keygen`] made for signing.
pub(super) fn host(id: &[u8]) -> Option<Host> {
    std::str::from_utf8(id).ok()?.strip_prefix(ID)?.parse().ok()
}

/// Returns the paths that [`keygen`] gives to the secret key and to the certificate.
pub fn files(base: &Path) -> (PathBuf, PathBuf) {
    (with_suffix(base, ".key"), with_suffix(base, ".cert"))
}

fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(base);
    name.push(suffix);
    name.into()
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    let at = || path.display();
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let why = "exists, and a key is never replaced: specify another --out, or move it away";
            return Err(Exit::CantCreate.error(format!("{}: {why}", at())));
        }
        other => other.or_exit(Exit::CantCreate, at())?,
    };
    let mut write = || -> std::io::Result<()> {
        file.set_permissions(fs::Permissions::from_mode(mode))?; // whatever the umask
        file.write_all(bytes)?;
        file.sync_all()?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(path))).or_exit(Exit::Io, at())
}
