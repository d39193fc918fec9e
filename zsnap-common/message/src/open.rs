//! Opening: a queue file is authenticated as a whole, and its stream walked, before a byte of it is released.
//!
//! One thread reads and decrypts (`message.rs`, `seipd.rs`), a second one verifies (`signatures.rs`), a third one
//! decompresses, a fourth one digests and walks the stream (`walk.rs`). What the last two see is not authentic yet, so
//! all they may do is reject it, and their result counts only after the first two have accepted the message. If its
//! stream is too long to be kept, the message is decrypted again for its release (`release.rs`, `again.rs`).

mod again;
mod digests;
mod framing;
mod memory;
mod message;
mod release;
mod seipd;
mod session;
mod signatures;
mod walk;

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::thread;
use std::time::SystemTime;

use sequoia_openpgp::{Cert, KeyHandle};

use crate::keys::{Keyring, merged, policy};
use crate::payload::{Manifest, Trailer};
use crate::pipe::{Disconnected, pipe};
use memory::Memory;
use message::Authentic;
use release::Again;
use walk::Walked;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::report;
use zsnap_common::names::target::Host;
use zsnap_common::stream::StreamFacts;

/// The certificates of all hosts, each with the hosts that it may sign for.
pub struct Signers {
    certs: Vec<(Cert, Vec<Host>)>,
}

impl Signers {
    /// Loads every host's certificate files. Expired and revoked certificates are loaded too: what they signed before
    /// stays valid. Versions of one certificate are merged, so that an extended expiry counts wherever it is written.
    ///
    /// # Errors
    /// `Exit::Config`, with the path.
    pub fn load(of: &HashMap<Host, Vec<PathBuf>>) -> anyhow::Result<Signers> {
        let mut hosts: Vec<_> = of.iter().collect();
        hosts.sort();
        let files = hosts.into_iter().flat_map(|(host, files)| files.iter().map(move |file| (file, host)));
        let certs = merged(files)?;
        Ok(Signers {
            certs: certs.into_iter().map(|(_, of, cert)| (cert, of.into_iter().cloned().collect())).collect(),
        })
    }

    /// Returns a line for each certificate that cannot have signed anything: most likely, another one is meant.
    pub fn warnings(&self) -> Vec<String> {
        let signs = |cert: &Cert| {
            let policy = policy();
            cert.keys().with_policy(&policy, None).for_signing().next().is_some()
        };
        let useless = self.certs.iter().filter(|(cert, _)| !signs(cert));
        let line = |(cert, hosts): &(Cert, Vec<Host>)| {
            let hosts: Vec<_> = hosts.iter().map(Host::table).collect();
            format!(
                "{} in signers of {} is not the certificate of a key that signs: specify the .cert file that zsnap-queue \
                 keygen made",
                cert.fingerprint(),
                hosts.join(", ")
            )
        };
        useless.map(line).collect()
    }

    /// Returns the certificates with a key that one of `ids` names.
    fn by_id(&self, ids: &[KeyHandle]) -> Vec<Cert> {
        let has = |cert: &Cert| cert.keys().any(|ka| ids.iter().any(|id| id.aliases(ka.key().key_handle())));
        self.certs.iter().filter(|(cert, _)| has(cert)).map(|(cert, _)| cert.clone()).collect()
    }

    /// Returns the hosts that `cert` may sign for.
    fn hosts_of(&self, cert: &Cert) -> &[Host] {
        let entry = self.certs.iter().find(|(known, _)| known.fingerprint() == cert.fingerprint());
        entry.map_or(&[], |(_, hosts)| hosts)
    }
}

/// The conditions for the release of a message.
pub struct Trust<'a> {
    /// The keys to decrypt it with.
    pub keyring: &'a Keyring,
    /// The certificates to verify it with.
    pub signers: &'a Signers,
    /// The host that it must come from.
    pub host: &'a Host,
    /// Whether unsigned messages are accepted, too (`trust = "recipient"`). A signature that is bad or cannot be
    /// checked is never accepted.
    pub unsigned: bool,
    /// Whether a message without a manifest may have any stream: for restores by hand. Otherwise it must be a ZFS stream.
    pub any_stream: bool,
    /// The current time. It serves only to detect a signature from the future (more than a day): `Refusal::Clock`.
    pub now: SystemTime,
}

/// The limits for one message.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of bytes up to which the uncompressed stream is held in memory; with a longer one, the message is
    /// read twice.
    pub verify_buffer: u64,
    /// The largest zstd window, log2.
    pub window_log: u32,
    /// The maximum length of the uncompressed stream, in bytes.
    pub max_size: Option<u64>,
    /// The maximum number of bytes of uncompressed stream for each byte of the message, in streams of more than 1
    /// GiB.
    pub max_ratio: u64,
}

/// The value of [`Limits::max_ratio`] for a message whose sender is not known yet. A denser message is walked again
/// after it was found authentic.
const UNKNOWN_RATIO: u64 = 100;

/// Why a message is not released.
#[derive(Debug)]
pub enum Refusal {
    /// It is truncated, or was changed.
    Damaged(String),
    /// It is authentic (or trusted), but not a proper queue file, or the gate rejects its stream; or it does not look
    /// like an encrypted message.
    Malformed(String),
    /// It has a bad signature by a known key.
    Forged(String),
    /// No key of ours decrypts it: the ids of the keys that would.
    NoKey(String),
    /// It is not signed.
    Unsigned,
    /// It is signed by a key that no host has: the key's id.
    UnknownSigner(String),
    /// It is signed by a known key that was expired or revoked at that time.
    BadSigner(String),
    /// It is signed by another host's key, or its manifest names another host.
    WrongHost {
        /// The other host.
        said: Host,
    },
    /// It is authentic (or trusted), but a newer zsnap-queue made it in a way that is not known here: what is new.
    Newer(String),
    /// It is authentic (or trusted), but exceeds one of the [`Limits`]: which.
    TooLarge(String),
    /// Its signature was made at this time, in the future: this clock or the host's is wrong.
    Clock(SystemTime),
    /// Reading failed, or this machine has too little memory or too few threads: temporary.
    Io(io::Error),
}

/// A message that is authentic and whole.
pub struct Verified<R> {
    src: R,
    again: Again,
    window_log: u32,
    walked: Walked,
    signer: Option<(String, SystemTime)>,
}

impl<R: Read + Seek + Send> Verified<R> {
    /// Returns the manifest, or `None` for a queue file without one (zsnap-queue-file(5)).
    pub fn manifest(&self) -> Option<&Manifest> {
        self.walked.manifest.as_ref()
    }

    /// Returns the trailer. There always is one if there is a manifest.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.walked.trailer.as_ref()
    }

    /// Returns what the gate found, or `None` for an opaque stream, which needs a manifest that says so: without one,
    /// a stream that does not begin with the ZFS magic is `Malformed`, unless [`Trust::any_stream`] is set.
    pub fn stream(&self) -> Option<&StreamFacts> {
        self.walked.stream.as_ref()
    }

    /// Returns the fingerprint of the certificate that signed, or `None` if the message is not signed.
    pub fn signer(&self) -> Option<&str> {
        self.signer.as_ref().map(|(fingerprint, _)| fingerprint.as_str())
    }

    /// Returns the creation time of the signature, if the message is signed.
    pub fn signed(&self) -> Option<SystemTime> {
        self.signer.as_ref().map(|(_, time)| *time)
    }

    /// Returns the length of the uncompressed stream, in bytes.
    pub fn bytes(&self) -> u64 {
        self.walked.bytes
    }

    /// Returns how many bytes of memory are kept for [`Verified::replay`].
    pub fn kept(&self) -> u64 {
        self.again.kept()
    }

    /// Replaces the source by what `with` makes of it, which must have the same content.
    pub fn with_source<S>(self, with: impl FnOnce(R) -> S) -> Verified<S> {
        let Verified { src, again, window_log, walked, signer } = self;
        Verified { src: with(src), again, window_log, walked, signer }
    }

    /// Writes the uncompressed stream; nothing else releases plaintext. It comes from memory, or from a second pass
    /// whose payload must be the same, chunk by chunk: a chunk is compared before it is decompressed, so nothing that
    /// was not authenticated is ever written. After an error `out` has the beginning of the stream, and whoever reads
    /// it must not take that for the whole.
    pub fn replay(mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.again.write(&mut self.src, self.window_log, out)? == self.walked.bytes {
            true => Ok(()),
            false => Err(Exit::Io.error("the second reading gave another length than the first")),
        }
    }
}

fn again_failed(e: &anyhow::Error) -> Refusal {
    Refusal::Io(io::Error::other(format!("{e:#}")))
}

/// Authenticates a whole message, checks the form of its payload, and walks its stream through the gate, before
/// anything is released. The digest in the trailer is compared unless a signature and a checksum cover the stream.
pub fn verify<R: Read + Seek + Send>(mut src: R, who: &Trust<'_>, limits: &Limits) -> Result<Verified<R>, Refusal> {
    let length = src.seek(SeekFrom::End(0)).map_err(Refusal::Io)?;
    src.seek(SeekFrom::Start(0)).map_err(Refusal::Io)?;
    // A stream is hardly ever shorter than its message; the chunks and headers of the encryption are all that is more.
    let may_fit = length <= limits.verify_buffer.saturating_add(limits.verify_buffer / 128).saturating_add(64 << 10);
    let memory = || Memory::reserve(if may_fit { limits.verify_buffer } else { 0 }, length);
    let (to, from) = pipe();
    let reader = &mut src;
    // A sender who is not known yet must not cost us more than the message is worth.
    let modest = Limits { max_ratio: limits.max_ratio.min(UNKNOWN_RATIO), ..*limits };
    let (authentic, walked) = thread::scope(|scope| -> Result<_, Refusal> {
        let decrypting = walk::spawn(scope, move || message::authenticate(reader, length, who, to))?;
        let walked = walk::walk(from, &modest, memory(), who.unsigned, who.any_stream);
        // After a panic in there the message is to blame, and would cause it again.
        let failed = || Err(Refusal::Malformed("reading it failed".into()));
        Ok((decrypting.join().unwrap_or_else(|_| failed()), walked))
    })?;
    // In this order: before the message is known to be authentic, its content means nothing.
    let Authentic { signer, session, digests } = authentic?;
    let mut walked = match walked {
        Err(Refusal::TooLarge(_)) => {
            src.seek(SeekFrom::Start(0)).map_err(Refusal::Io)?;
            let (to, from) = pipe();
            let (src, digests, session) = (&mut src, &digests, &session);
            let (pass, walked) = thread::scope(|scope| -> Result<_, Refusal> {
                let pass = walk::spawn(scope, move || again::decrypt_again(src, length, digests, session, to))?;
                let walked = walk::walk(from, limits, memory(), who.unsigned, who.any_stream);
                Ok((pass.join(), walked))
            })?;
            match (pass.unwrap_or_else(|_| Err(Exit::Io.error("the thread that decrypts failed"))), walked) {
                // The walker only saw the pipe break.
                (Err(e), Err(Refusal::Io(w))) if Disconnected::is_io(&w) => return Err(again_failed(&e)),
                (Err(e), Ok(_)) => return Err(again_failed(&e)),
                (_, walked) => walked?,
            }
        }
        walked => walked?,
    };
    let again = match walked.plain.take() {
        Some(plain) => Again::Plain(plain),
        None => Again::Pass { digests, length, session },
    };
    if let Some(manifest) = walked.manifest.as_ref().filter(|manifest| manifest.host != *who.host) {
        return Err(Refusal::WrongHost { said: manifest.host.clone() });
    }
    Ok(Verified { src, again, window_log: limits.window_log, walked, signer })
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Damaged(why) => write!(f, "damaged: {why}"),
            Refusal::Malformed(why) => write!(f, "malformed: {why}"),
            Refusal::Forged(why) => write!(f, "bad signature: {why}"),
            Refusal::NoKey(ids) => write!(f, "no key here decrypts it: it is for {ids}"),
            Refusal::Unsigned => f.write_str("not signed"),
            Refusal::UnknownSigner(id) => write!(f, "signed by {id}, which no host lists"),
            Refusal::BadSigner(why) => write!(f, "signed by a key that was not good then: {why}"),
            Refusal::WrongHost { said } => write!(f, "comes from {said}"),
            Refusal::Newer(why) => write!(f, "made by a newer zsnap-queue: {why}"),
            Refusal::TooLarge(why) => f.write_str(why),
            Refusal::Clock(time) => {
                let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                write!(f, "signed {}, more than a day ahead", report::time(seconds))
            }
            Refusal::Io(e) => e.fmt(f),
        }
    }
}

impl From<Refusal> for anyhow::Error {
    fn from(refusal: Refusal) -> anyhow::Error {
        let exit = match &refusal {
            Refusal::Damaged(_) | Refusal::Malformed(_) => Exit::Data,
            Refusal::Io(_) => Exit::Io,
            Refusal::NoKey(_) | Refusal::Clock(_) | Refusal::Newer(_) => Exit::TryAgain,
            _ => Exit::Refused,
        };
        exit.error(refusal.to_string())
    }
}
