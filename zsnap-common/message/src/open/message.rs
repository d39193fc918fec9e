//! Decrypts and authenticates the OpenPGP message.
//!
//! Sequoia returns plaintext before it has seen the end of the message. Only after its reader has returned 0 have
//! integrity and signatures been checked, and been accepted by `check` below. So nothing that comes from here may be
//! trusted before [`authenticate`] has returned.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sequoia_openpgp as openpgp;
use sha2::{Digest, Sha256};

use openpgp::crypto::SessionKey;
use openpgp::packet::{PKESK, SKESK, Tag};
use openpgp::parse::stream::{
    DecryptionHelper, DecryptorBuilder, MessageLayer, MessageStructure, VerificationError, VerificationHelper,
    VerificationResult,
};
use openpgp::parse::{PacketParser, Parse};
use openpgp::types::SymmetricAlgorithm;
use openpgp::{Cert, KeyHandle};

use super::framing::{Framing, cut};
use super::{Refusal, Trust};
use crate::keys::policy;
use crate::pipe::PipeWriter;
use zsnap_common::cli::cancel;

/// The number of bytes that Sequoia holds back: it needs six times as much memory. If this is less than 128 KiB, it
/// reads the whole message into memory.
const HOLD: usize = 4 << 20;
/// The number of bytes of plaintext that are read at a time.
const STEP: usize = 256 << 10;
/// The number of bytes of ciphertext under one digest.
pub(super) const CHUNK: usize = 1 << 20;
/// The maximum number of attempts to decrypt a session key: each is a public-key operation.
const MAX_TRIES: usize = 64;
/// The maximum number of packets of a message; ours has seven. Each costs memory.
const MAX_PACKETS: usize = 256;
/// How far in the future a signature may be.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// The session key, which decrypts a message without the key of its recipient.
pub struct Session {
    pub algorithm: Option<SymmetricAlgorithm>,
    pub key: SessionKey,
}

/// An authentic message.
pub struct Authentic {
    /// The fingerprint of the certificate that signed, and when; `None` if the message is not signed.
    pub signer: Option<(String, SystemTime)>,
    pub session: Session,
    /// The content of the literal packet, if it was to be kept.
    pub payload: Option<Vec<u8>>,
    /// SHA-256 of each MiB of ciphertext, if the payload was not kept.
    pub digests: Vec<[u8; 32]>,
}

/// Reads and decrypts `length` bytes of `src`, writes the plaintext to `to`, and keeps it if `keep`. The plaintext is
/// not authentic until this returns `Ok`.
pub fn authenticate<R: Read + Send>(
    src: &mut R,
    length: u64,
    keep: bool,
    who: &Trust<'_>,
    to: PipeWriter,
) -> Result<Authentic, Refusal> {
    // Without the memory, the message is read again when its stream is wanted.
    let mut payload = keep.then(Vec::new);
    payload.take_if(|payload| payload.try_reserve_exact(usize::try_from(length).unwrap_or(0)).is_err());
    let mut source = Source {
        src: Mutex::new(src),
        left: length,
        framing: Framing::new(length),
        chunks: payload.is_none().then(Chunks::default),
        refusal: None,
        at_end: false,
    };
    let found = RefCell::new(Found::default());
    let mut to = Some(to);
    let result = decrypt(&mut source, Verifying { who, found: &found, packets: 0 }, |bytes| {
        if let Some(payload) = &mut payload {
            payload.extend_from_slice(bytes);
        }
        // The walker may have ended with an error of its own. Authentication goes on without it, because a message
        // must be authentic before it can be malformed.
        to = to.take().and_then(|mut to| to.write_all(bytes).is_ok().then_some(to));
        Ok(())
    });
    // Sequoia does not read beyond the end. We do, so that nothing follows.
    let result = result.and_then(|()| Ok(io::copy(&mut source, &mut io::sink()).map(drop)?));
    let found = found.into_inner();
    if let Some(refusal) = source.refusal.or(found.refusal) {
        return Err(refusal);
    }
    if source.at_end && !source.framing.is_complete() {
        return Err(cut());
    }
    result.map_err(|e| classify(&e))?;
    let (Some(session), true) = (found.session, found.checked) else {
        return Err(Refusal::Damaged("its end was not reached".into()));
    };
    if let Some(to) = to {
        // If the walker is gone, it has returned the reason.
        let _ = to.finish();
    }
    let digests = source.chunks.map(Chunks::finish).unwrap_or_default();
    Ok(Authentic { signer: found.signer, session, payload, digests })
}

/// Classifies an error of Sequoia's, where neither reading nor our own checks failed.
fn classify(e: &anyhow::Error) -> Refusal {
    use openpgp::Error::{PolicyViolation, UnsupportedAEADAlgorithm, UnsupportedSymmetricAlgorithm};
    match e.downcast_ref::<openpgp::Error>() {
        Some(UnsupportedSymmetricAlgorithm(_) | UnsupportedAEADAlgorithm(_) | PolicyViolation(..)) => {
            Refusal::Malformed(format!("{e:#}"))
        }
        _ => Refusal::Damaged(format!("it was changed on its way ({e:#})")),
    }
}

/// Decrypts and verifies a message by Sequoia, and passes the plaintext to `sink`.
pub(super) fn decrypt<H: VerificationHelper + DecryptionHelper>(
    src: impl Read + Send + Sync,
    helper: H,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> anyhow::Result<()> {
    let policy = policy();
    // Signatures are checked as of the last second that OpenPGP knows: then none is from the future, whatever our
    // clock says. Keys are judged as of the signature's own time in any case, and `judge` checks for the future.
    let last = UNIX_EPOCH + Duration::from_secs(u32::MAX.into());
    let mut message = DecryptorBuilder::from_reader(src)?.buffer_size(HOLD).with_policy(&policy, last, helper)?;
    let mut buffer = vec![0; STEP];
    loop {
        match message.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => sink(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The ciphertext of the first pass: its packets are followed, its chunks digested, and read errors kept apart.
struct Source<'a, R> {
    /// A mutex only because Sequoia requires its source to be `Sync`.
    src: Mutex<&'a mut R>,
    left: u64,
    framing: Framing,
    chunks: Option<Chunks>,
    refusal: Option<Refusal>,
    at_end: bool,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let src = self.src.get_mut().unwrap_or_else(PoisonError::into_inner);
        let n = match cancel::check().and_then(|()| src.take(self.left).read(buffer)) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                let again = io::Error::new(e.kind(), e.to_string());
                self.refusal.get_or_insert(Refusal::Io(e));
                return Err(again);
            }
        };
        self.left -= n as u64;
        self.at_end |= n == 0 && !buffer.is_empty();
        if let Err(refusal) = self.framing.feed(&buffer[..n]) {
            self.refusal.get_or_insert(refusal);
            return Err(io::Error::other("refused"));
        }
        if let Some(chunks) = &mut self.chunks {
            chunks.feed(&buffer[..n]);
        }
        Ok(n)
    }
}

/// The SHA-256 of each [`CHUNK`].
#[derive(Default)]
struct Chunks {
    digests: Vec<[u8; 32]>,
    sha256: Sha256,
    filled: usize,
}

impl Chunks {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.filled));
            self.sha256.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == CHUNK {
                self.digests.push(self.sha256.finalize_reset().into());
                self.filled = 0;
            }
        }
    }

    fn finish(mut self) -> Vec<[u8; 32]> {
        if self.filled > 0 {
            self.digests.push(self.sha256.finalize().into());
        }
        self.digests
    }
}

/// What the helper found. It is kept outside, because Sequoia drops a helper at once when it refuses.
#[derive(Default)]
struct Found {
    refusal: Option<Refusal>,
    session: Option<Session>,
    signer: Option<(String, SystemTime)>,
    checked: bool,
}

/// The callbacks of the first pass.
struct Verifying<'a> {
    who: &'a Trust<'a>,
    found: &'a RefCell<Found>,
    packets: usize,
}

impl Verifying<'_> {
    fn refuse<T>(&self, refusal: Refusal) -> openpgp::Result<T> {
        self.found.borrow_mut().refusal.get_or_insert(refusal);
        Err(anyhow::anyhow!("refused"))
    }
}

impl VerificationHelper for Verifying<'_> {
    fn inspect(&mut self, packet: &PacketParser<'_>) -> openpgp::Result<()> {
        self.packets += 1;
        let refuse = |why: &str| self.refuse(Refusal::Malformed(why.into()));
        match packet.packet.tag() {
            Tag::CompressedData => refuse("it is compressed by OpenPGP: encrypt with gpg --compress-algo none"),
            Tag::SEIP | Tag::PKESK | Tag::SKESK if packet.recursion_depth() > 0 => refuse("it is encrypted twice"),
            _ if self.packets > MAX_PACKETS => refuse("it has more than 256 packets"),
            _ => Ok(()),
        }
    }

    fn get_certs(&mut self, ids: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(self.who.signers.by_id(ids))
    }

    /// Called when the message has ended and is intact.
    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        let layers: Vec<_> = structure.into_iter().collect();
        let judged = match layers.as_slice() {
            [MessageLayer::Encryption { .. }] if self.who.unsigned => Ok(None),
            [MessageLayer::Encryption { .. }] => Err(Refusal::Unsigned),
            [MessageLayer::Encryption { .. }, MessageLayer::SignatureGroup { results }] => {
                judge(results, self.who).map(Some)
            }
            _ => Err(Refusal::Malformed("it is not data, signed at most once and encrypted once".into())),
        };
        match judged {
            Ok(signer) => {
                let mut found = self.found.borrow_mut();
                (found.signer, found.checked) = (signer, true);
                Ok(())
            }
            Err(refusal) => self.refuse(refusal),
        }
    }
}

/// Accepts one good signature by a key of the host, unless another one by a known key is bad.
fn judge(results: &[VerificationResult<'_>], who: &Trust<'_>) -> Result<(String, SystemTime), Refusal> {
    let mut good = None;
    // The worst fault found, by rank.
    let mut fault: (u8, Option<Refusal>) = (0, None);
    let mut blame = |rank, refusal| {
        if rank > fault.0 {
            fault = (rank, Some(refusal));
        }
    };
    for result in results {
        match result {
            Ok(sound) => {
                let (cert, time) = (sound.ka.cert(), sound.sig.signature_creation_time());
                match (who.signers.hosts_of(cert), time) {
                    (hosts, Some(time)) if hosts.contains(who.host) => {
                        good.get_or_insert((cert.fingerprint().to_hex(), time));
                    }
                    ([said, ..], _) => blame(3, Refusal::WrongHost { said: said.clone() }),
                    ([], _) => blame(1, Refusal::UnknownSigner(cert.fingerprint().to_hex())),
                }
            }
            Err(VerificationError::MissingKey { sig }) => {
                let id = sig.get_issuers().first().map_or("nobody".into(), |id| id.to_hex());
                blame(1, Refusal::UnknownSigner(id));
            }
            Err(VerificationError::UnboundKey { cert, error, .. }) => {
                blame(2, Refusal::BadSigner(format!("{}: {error:#}", cert.fingerprint())));
            }
            Err(VerificationError::BadKey { ka, error, .. }) => {
                blame(2, Refusal::BadSigner(format!("{}: {error:#}", ka.cert().fingerprint())));
            }
            Err(VerificationError::BadSignature { ka, error, .. }) => {
                let text = format!("{}: {error:#}", ka.cert().fingerprint());
                match error.downcast_ref::<openpgp::Error>() {
                    // Whether a signature has expired depends on the clock, and no clock is to be trusted.
                    Some(openpgp::Error::Expired(_)) => blame(2, Refusal::BadSigner(text)),
                    _ => blame(4, Refusal::Forged(text)),
                }
            }
            Err(other) => blame(1, Refusal::UnknownSigner(other.to_string())),
        }
    }
    match (good, fault) {
        (Some(_), (4.., Some(forged))) => Err(forged),
        (Some((_, time)), _) if time > who.now + MAX_AHEAD => Err(Refusal::Clock(time)),
        (Some(signer), _) => Ok(signer),
        (None, (_, Some(refusal))) => Err(refusal),
        (None, (_, None)) => Err(Refusal::Unsigned),
    }
}

impl DecryptionHelper for Verifying<'_> {
    fn decrypt(
        &mut self,
        pkesks: &[PKESK],
        _: &[SKESK],
        hint: Option<SymmetricAlgorithm>,
        decrypt: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> openpgp::Result<Option<Cert>> {
        let (mut tries, mut ours) = (0, false);
        for pkesk in pkesks {
            let handle = pkesk.recipient();
            for (cert, mut pair) in self.who.keyring.for_handle(handle.as_ref()) {
                tries += 1;
                ours |= handle.is_some();
                if tries > MAX_TRIES {
                    return self.refuse(Refusal::Malformed("it takes too many tries to find its key".into()));
                }
                let session = pkesk.decrypt(&mut pair, hint).filter(|(algorithm, key)| decrypt(*algorithm, key));
                if let Some((algorithm, key)) = session {
                    self.found.borrow_mut().session = Some(Session { algorithm, key });
                    // With this certificate Sequoia checks that the signer intended the message for us.
                    return Ok(Some(cert.clone()));
                }
            }
        }
        if ours {
            return self.refuse(Refusal::Damaged("its session key was changed on its way".into()));
        }
        let named = |pkesk: &PKESK| pkesk.recipient().map_or("a hidden recipient".into(), |id| id.to_hex());
        let ids: Vec<String> = pkesks.iter().map(named).collect();
        self.refuse(Refusal::NoKey(if ids.is_empty() { "a passphrase".into() } else { ids.join(", ") }))
    }
}
