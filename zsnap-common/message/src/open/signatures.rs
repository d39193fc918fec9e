//! Verifies what is inside the encrypted packet: data, signed or not.
//!
//! Sequoia returns data before it has seen the signature. Only after its reader has returned 0 has the signature been
//! checked, and been accepted by `check` below. So nothing that comes from here may be trusted before [`verify`] has
//! returned, and the integrity of the encrypted packet has been checked.

use std::cell::RefCell;
use std::io::{self, Read};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sequoia_openpgp as openpgp;

use openpgp::packet::Signature;
use openpgp::parse::Parse;
use openpgp::parse::stream::{
    MessageLayer, MessageStructure, VerificationError, VerificationHelper, VerificationResult, VerifierBuilder,
};
use openpgp::{Cert, Fingerprint, KeyHandle};

use super::digests::{Digest, Digests};
use super::{Refusal, Trust};
use crate::keys::policy;
use crate::pipe::{PipeReader, PipeWriter};

/// The number of bytes that Sequoia holds back. If this is less than 128 KiB, it reads the whole message into memory.
const HOLD: usize = 256 << 10;
/// How far in the future a signature may be.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Data whose signature is good, or which need not be signed.
pub struct Verified {
    /// The fingerprint of the certificate that signed, and when; `None` if the data is not signed.
    pub signer: Option<(String, SystemTime)>,
    /// The digests of the data.
    pub digests: Vec<Digest>,
}

/// Reads the packets in `from`, and writes their data to `to`. The data is not authentic until this returns `Ok`.
/// `recipient` is set before the first byte comes: the certificate whose key decrypted the message.
pub fn verify(
    from: PipeReader<'_>,
    who: &Trust<'_>,
    recipient: &OnceLock<Fingerprint>,
    mut to: PipeWriter<'_>,
) -> Result<Verified, Refusal> {
    let policy = policy();
    let found = RefCell::new(Found::default());
    let mut digests = Digests::default();
    let read = || -> anyhow::Result<()> {
        let helper = Helper { who, recipient, found: &found };
        // Signatures are checked as of the last second that OpenPGP knows: then none is from the future, whatever our
        // clock says. Keys are judged as of the signature's own time in any case, and `judge` checks for the future.
        let last = UNIX_EPOCH + Duration::from_secs(u32::MAX.into());
        let source = VerifierBuilder::from_reader(Source(Mutex::new(from)))?;
        let mut message = source.buffer_size(HOLD).with_policy(&policy, last, helper)?;
        loop {
            let space = to.space();
            let n = match message.read(space) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            digests.feed(&space[..n]);
            // The walker may have ended with an error of its own. Verification goes on without it, because a message
            // must be authentic before it can be malformed.
            let _ = to.advance(n);
        }
    };
    let result = read();
    let found = found.into_inner();
    if let Some(refusal) = found.refusal {
        return Err(refusal);
    }
    result.map_err(|e| Refusal::Malformed(format!("{e:#}")))?;
    if !found.checked {
        return Err(Refusal::Malformed("it has no end".into()));
    }
    // If the walker is gone, it has returned the reason.
    let _ = to.finish();
    Ok(Verified { signer: found.signer, digests: digests.finish() })
}

/// The packets. A mutex only because Sequoia requires its source to be `Sync`.
struct Source<'a>(Mutex<PipeReader<'a>>);

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).read(buffer)
    }
}

/// What the helper found. It is kept outside, because Sequoia drops a helper at once when it refuses.
#[derive(Default)]
struct Found {
    refusal: Option<Refusal>,
    signer: Option<(String, SystemTime)>,
    checked: bool,
}

/// The callbacks of Sequoia's verifier.
struct Helper<'a> {
    who: &'a Trust<'a>,
    recipient: &'a OnceLock<Fingerprint>,
    found: &'a RefCell<Found>,
}

impl VerificationHelper for Helper<'_> {
    fn get_certs(&mut self, ids: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(self.who.signers.by_id(ids))
    }

    /// Called when the data has ended.
    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        let layers: Vec<_> = structure.into_iter().collect();
        let judged = match layers.as_slice() {
            [] if self.who.unsigned => Ok(None),
            [] => Err(Refusal::Unsigned),
            [MessageLayer::SignatureGroup { results }] => judge(results, self.who, self.recipient.get()).map(Some),
            _ => Err(Refusal::Malformed("it is not data, signed at most once and encrypted once".into())),
        };
        let mut found = self.found.borrow_mut();
        match judged {
            Ok(signer) => (found.signer, found.checked) = (signer, true),
            Err(refusal) => {
                found.refusal = Some(refusal);
                return Err(anyhow::anyhow!("refused"));
            }
        }
        Ok(())
    }
}

/// Accepts one good signature by a key of the host, unless another one by a known key is bad.
fn judge(
    results: &[VerificationResult<'_>],
    who: &Trust<'_>,
    recipient: Option<&Fingerprint>,
) -> Result<(String, SystemTime), Refusal> {
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
            Ok(sound) if !is_for(sound.sig, recipient) => {
                blame(
                    4,
                    Refusal::Forged(format!("{}: it was not made for this recipient", sound.ka.cert().fingerprint())),
                );
            }
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

/// Whether a signature names no recipients, or this one. Otherwise another recipient took the signed data out of a
/// message, and encrypted it to us.
fn is_for(sig: &Signature, recipient: Option<&Fingerprint>) -> bool {
    let mut meant = sig.intended_recipients().peekable();
    meant.peek().is_none() || meant.any(|meant| Some(meant) == recipient)
}
