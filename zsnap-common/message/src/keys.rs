//! OpenPGP keys: certificates to encrypt to, the key that signs, and the keys that decrypt. `keygen.rs` makes new ones.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode};
use sequoia_openpgp as openpgp;

use openpgp::cert::prelude::*;
use openpgp::crypto::KeyPair;
use openpgp::crypto::mem::Protected;
use openpgp::packet::Key;
use openpgp::packet::key::{PublicParts, SecretParts, UnspecifiedRole};
use openpgp::parse::Parse;
use openpgp::policy::StandardPolicy;
use openpgp::types::RevocationStatus;
use openpgp::{Cert, KeyHandle};

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::{report, trusted};
use zsnap_common::durable::publish::REGULAR;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Host;

mod keygen;

pub use keygen::{Purpose, files, keygen};

/// A key that expires within this time causes a warning.
const SOON: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;
/// The maximum size of a key file, in bytes. Certificates with many signatures have some 100 KiB.
const MAX_FILE: u64 = 16 << 20;
/// 2026-11-01: algorithms are judged by what was known on this day, see [`policy`].
const JUDGED: u64 = 1_793_491_200;

/// The OpenPGP format of a queue file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// SEIPDv1: every GnuPG reads it.
    Gpg,
    /// SEIPDv2 with OCB: four times faster, read by Sequoia and others, by no GnuPG.
    Aead,
}

/// Returns Sequoia's standard policy as of a fixed day. Some of its cut-off dates lie ahead (DSA: 2030). By the local
/// clock, a file that was accepted yesterday would be rejected tomorrow, or today on a machine with a wrong clock.
pub(crate) fn policy() -> StandardPolicy<'static> {
    StandardPolicy::at(UNIX_EPOCH + Duration::from_secs(JUDGED))
}

/// Certificates to encrypt to, all of them checked.
pub struct Recipients {
    pub(crate) certs: Vec<Cert>,
    pub(crate) keys: Vec<Key<PublicParts, UnspecifiedRole>>,
    /// What needs attention soon, one line each, for the log.
    pub warnings: Vec<String>,
}

impl Recipients {
    /// Loads certificate files (binary or armored, several certificates in a file are allowed).
    /// [`Recipients::warnings`] has a line for each that expires within 30 days.
    ///
    /// # Errors
    /// `Exit::Config`, with path and remedy: there is no certificate, or one is a secret key, expired, revoked, not
    /// yet valid or without an encryption subkey; for `Gpg`, one is of version 6, which GnuPG does not know; for
    /// `Aead`, one does not advertise SEIPDv2.
    pub fn load(files: &[PathBuf], format: Format, now: SystemTime) -> anyhow::Result<Recipients> {
        let mut all = Recipients { certs: Vec::new(), keys: Vec::new(), warnings: Vec::new() };
        for (file, cert) in merged(files.iter().map(|file| (file, ())))?.into_iter().map(|(f, _, c)| (f, c)) {
            let keys = encryption_keys(&cert, format, now)
                .map_err(|why| Exit::Config.error(format!("{}: {} {why}", file.display(), cert.fingerprint())))?;
            all.warnings.extend(expires_soon(&file, &cert, keys.iter().filter_map(|key| key.1).min(), now));
            all.keys.extend(keys.into_iter().map(|key| key.0));
            all.certs.push(cert);
        }
        if all.certs.is_empty() {
            return Err(Exit::Config.error("no certificate to encrypt to: name one with --encrypt-to"));
        }
        Ok(all)
    }
}

type Expiring = (Key<PublicParts, UnspecifiedRole>, Option<SystemTime>);

/// Returns all keys of `cert` that encrypt and are valid at `now`, with their expiry times; or why there are none.
fn encryption_keys(cert: &Cert, format: Format, now: SystemTime) -> Result<Vec<Expiring>, String> {
    let policy = policy();
    let valid = valid_cert(cert, &policy, now)?;
    let encrypt = || valid.keys().supported().for_transport_encryption().for_storage_encryption();
    let keys: Vec<Expiring> = encrypt()
        .alive()
        .revoked(false)
        .map(|ka| (ka.key().clone(), ends([ka.key_expiration_time(), valid.primary_key().key_expiration_time()])))
        .collect();
    if keys.is_empty() {
        return Err(match encrypt().next() {
            Some(_) => "has only encryption subkeys that are expired, revoked or not yet valid: export it again".into(),
            None => {
                "has no encryption subkey: specify the .cert file that zsnap-ingest keygen made on the backup server"
                    .to_owned()
            }
        });
    }
    let aead = valid.features().is_some_and(|features| features.supports_seipdv2());
    match format {
        Format::Gpg if keys.iter().any(|key| key.0.version() > 4) => {
            Err("is of version 6, which no GnuPG reads: use --format aead, or a key of version 4".into())
        }
        Format::Aead if !aead => {
            Err("does not advertise SEIPDv2: use --format gpg, or a key made with zsnap-ingest keygen --aead".into())
        }
        _ => Ok(keys),
    }
}

/// Returns the certificate as of `now`, or why it must not be used then.
fn valid_cert<'a>(cert: &'a Cert, policy: &'a StandardPolicy, now: SystemTime) -> Result<ValidCert<'a>, String> {
    let made = cert.primary_key().key().creation_time();
    if made > now {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (made, now) = (report::time(seconds(made)), report::time(seconds(now)));
        return Err(format!(
            "is not valid yet: it was made at {made}, and this clock says {now}: set this clock, or if that of the machine \
             that made it was wrong, make a new key there"
        ));
    }
    let valid = cert.with_policy(policy, now).map_err(|e| format!("cannot be used: {e:#}"))?;
    if let RevocationStatus::Revoked(_) = valid.revocation_status() {
        return Err("is revoked: make a new key".into());
    }
    valid.alive().map_err(|_| "is expired: extend it, and export it again".to_owned())?;
    Ok(valid)
}

fn ends<const N: usize>(times: [Option<SystemTime>; N]) -> Option<SystemTime> {
    times.into_iter().flatten().min()
}

fn expires_soon(file: &Path, cert: &Cert, end: Option<SystemTime>, now: SystemTime) -> Option<String> {
    let left = end?.duration_since(now).unwrap_or_default();
    (left < SOON).then(|| {
        let (file, days) = (file.display(), left.as_secs() / DAY);
        format!("{file}: {} expires in {days} days: extend it, and export it again", cert.fingerprint())
    })
}

/// A secret key that signs.
pub struct SigningKey {
    pub(crate) pair: KeyPair,
    fingerprint: String,
    /// The host that signs with it, if [`keygen`] made it: that of its user id.
    pub host: Option<Host>,
    /// What needs attention soon, one line each, for the log.
    pub warnings: Vec<String>,
}

impl SigningKey {
    /// Loads a secret key file: one unencrypted key with a signing (sub)key that is valid at `now`.
    /// [`SigningKey::warnings`] has a line if it expires within 30 days.
    ///
    /// # Errors
    /// `Exit::Config`: the file holds something else, is not a regular file, belongs to neither root nor us, or can
    /// be accessed by group or others.
    pub fn load(file: &Path, now: SystemTime) -> anyhow::Result<SigningKey> {
        let refuse = |why: &str| Exit::Config.error(format!("{}: {why}", file.display()));
        let [cert] = <[Cert; 1]>::try_from(secret_certs(file)?)
            .map_err(|_| refuse("holds several keys: export the one that signs"))?;
        let policy = policy();
        let valid = valid_cert(&cert, &policy, now).map_err(|why| refuse(&format!("{} {why}", cert.fingerprint())))?;
        let signing = || valid.keys().supported().alive().revoked(false).for_signing();
        let Some(key) = signing().unencrypted_secret().next() else {
            return Err(refuse(match signing().secret().next() {
                Some(_) => "is protected by a passphrase, which nobody is there to type: export it without one",
                None => "holds no secret key that may sign now: specify one made with zsnap-queue keygen",
            }));
        };
        let end = ends([key.key_expiration_time(), valid.primary_key().key_expiration_time()]);
        Ok(SigningKey {
            pair: key.key().clone().into_keypair().or_exit(Exit::Config, file.display())?,
            fingerprint: cert.fingerprint().to_hex(),
            host: valid.userids().find_map(|id| keygen::host(id.userid().value())),
            warnings: expires_soon(file, &cert, end, now).into_iter().collect(),
        })
    }

    /// Returns the fingerprint of the key's certificate, in upper-case hex.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// Secret keys that decrypt.
pub struct Keyring {
    keys: Vec<(Cert, Key<SecretParts, UnspecifiedRole>)>,
}

impl Keyring {
    /// Loads the keys that decrypt from secret key files. The conditions for a file are those of
    /// [`SigningKey::load`], but expired keys are loaded too, because old files must stay readable, and a file may
    /// hold several keys.
    pub fn load(files: &[PathBuf]) -> anyhow::Result<Keyring> {
        let mut keys = Vec::new();
        for file in files {
            let before = keys.len();
            let certs = secret_certs(file)?;
            for cert in &certs {
                for ka in cert.keys().unencrypted_secret().filter(|ka| ka.key().pk_algo().for_encryption()) {
                    keys.push((cert.clone(), ka.key().clone()));
                }
            }
            if keys.len() == before {
                let locked = certs.iter().any(|cert| cert.keys().secret().any(|ka| !ka.key().has_unencrypted_secret()));
                let why = match locked {
                    true => "is protected by a passphrase, which nobody is there to type: export it without one",
                    false => "holds no secret key that decrypts: specify one made with zsnap-ingest keygen",
                };
                return Err(Exit::Config.error(format!("{}: {why}", file.display())));
            }
        }
        match keys.is_empty() {
            true => Err(Exit::Config.error("no secret key to decrypt with: name one in keys")),
            false => Ok(Keyring { keys }),
        }
    }

    /// Returns the keys that may open what was encrypted to `handle`. `None` (a hidden recipient): all keys.
    pub(crate) fn for_handle(&self, handle: Option<&KeyHandle>) -> impl Iterator<Item = (&Cert, KeyPair)> {
        self.keys
            .iter()
            .filter(move |(_, key)| handle.is_none_or(|handle| handle.aliases(key.key_handle())))
            .filter_map(|(cert, key)| Some((cert, key.clone().into_keypair().ok()?)))
    }
}

/// Reads a secret key file through the descriptor that was checked, so that nobody can swap the file in between.
fn secret_certs(file: &Path) -> anyhow::Result<Vec<Cert>> {
    let at = || file.display();
    let fd = rustix::fs::open(file, REGULAR, Mode::empty())
        .map_err(|e| cannot_open(file, e.into(), "make it with keygen, or correct the path in the configuration"))?;
    let stat = rustix::fs::fstat(&fd).or_exit(Exit::Config, at())?;
    let refuse = |why: &str| Err(Exit::Config.error(format!("{}: {why}", at())));
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("is not a regular file");
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return refuse(&format!("belongs to another user: chown root {}", quoted(file)));
    }
    trusted::check_directory(file).or_exit(Exit::Config, at())?;
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    if length > MAX_FILE {
        return refuse("is too large to be a key");
    }
    // Reserve everything at once: a growing buffer would leave copies of the secret behind.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    File::from(fd).take(length).read_to_end(&mut bytes).or_exit(Exit::Config, at())?;
    let certs = parse(file, &Protected::from(bytes))?;
    // Before the mode: a certificate may be read by all, and its mode is not what is wrong.
    if !certs.iter().all(Cert::is_tsk) {
        return refuse(&format!("is a certificate, without the secret: {}", instead(file, "key")));
    }
    if stat.st_mode & 0o077 != 0 {
        return refuse(&format!(
            "is a secret key that others can read: chmod 600 {}, and if others have access to this machine, treat the key \
             as compromised and make a new one",
            quoted(file)
        ));
    }
    Ok(certs)
}

/// Returns the error for a key or certificate that cannot be opened. `remedy` is for one that does not exist.
fn cannot_open(file: &Path, e: io::Error, remedy: &str) -> anyhow::Error {
    match e.kind() {
        io::ErrorKind::NotFound => Exit::Config.error(format!("{}: not found: {remedy}", file.display())),
        _ => Exit::Config.context(e, file.display()),
    }
}

/// Returns the remedy for a file that is the other half of a key: the name of the half that is meant, which keygen has
/// made beside it.
fn instead(file: &Path, extension: &str) -> String {
    let meant = file.with_extension(extension);
    match meant != *file && meant.exists() {
        true => format!("specify {}", quoted(&meant)),
        false => format!("specify the .{extension} file"),
    }
}

/// Loads certificates from several files, and merges those of one key: an extended expiry counts wherever it is
/// written. Returns for each its first file, and the values that came with all of its files.
pub(crate) fn merged<'a, T>(
    files: impl IntoIterator<Item = (&'a PathBuf, T)>,
) -> anyhow::Result<Vec<(PathBuf, Vec<T>, Cert)>>
where
    T: Clone,
{
    let mut all: Vec<(PathBuf, Vec<T>, Cert)> = Vec::new();
    for (file, said) in files {
        let mut bytes = Vec::new();
        // Whoever can change a certificate can read what is encrypted to it, or sign for its host.
        let reader = trusted::open(file).map_err(|e| {
            cannot_open(file, e, "copy the certificate there, or correct the path in the configuration")
        })?;
        reader.take(MAX_FILE).read_to_end(&mut bytes).or_exit(Exit::Config, file.display())?;
        for cert in parse(file, &bytes)? {
            if cert.is_tsk() {
                let why = format!("is a secret key, which never leaves its machine: {}", instead(file, "cert"));
                return Err(Exit::Config.error(format!("{}: {why}", file.display())));
            }
            match all.iter_mut().find(|(_, _, other)| other.fingerprint() == cert.fingerprint()) {
                Some((_, says, other)) => {
                    *other = other.clone().merge_public(cert).or_exit(Exit::Config, file.display())?;
                    says.push(said.clone());
                }
                None => all.push((file.clone(), vec![said.clone()], cert)),
            }
        }
    }
    Ok(all)
}

/// Parses all certificates or keys of a file. Sequoia's parser ends silently at the end of the first armored block,
/// so each block is parsed by itself: `cat a.asc b.asc` must not lose b.
fn parse(file: &Path, bytes: &[u8]) -> anyhow::Result<Vec<Cert>> {
    const BEGIN: &[u8] = b"-----BEGIN PGP ";
    let mut starts: Vec<usize> =
        bytes.windows(BEGIN.len()).enumerate().filter(|(_, at)| *at == BEGIN).map(|(i, _)| i).collect();
    match starts.first_mut() {
        Some(first) => *first = 0,
        None => starts.push(0),
    }
    starts.push(bytes.len());
    let mut certs = Vec::new();
    for block in starts.windows(2) {
        for cert in CertParser::from_bytes(&bytes[block[0]..block[1]]).or_exit(Exit::Config, file.display())? {
            certs.push(cert.or_exit(Exit::Config, format!("{}: no OpenPGP certificate or key", file.display()))?);
        }
    }
    match certs.is_empty() {
        true => Err(Exit::Config.error(format!("{}: holds no OpenPGP certificate or key", file.display()))),
        false => Ok(certs),
    }
}

#[cfg(test)]
mod tests;
