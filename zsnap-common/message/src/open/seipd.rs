//! Decrypts the encrypted packet, "symmetrically encrypted and integrity protected data" (RFC 9580, 5.13), in both of
//! its versions. Ciphers, key schedules and policy are Sequoia's; `seal/seipd.rs` writes what this reads.
//!
//! Sequoia decrypts such packets too, but at some 150 MB/s: its SHA-1 looks for collisions, which the integrity check
//! does not depend on, and CFB block by block is four times slower than all blocks at once.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use sequoia_openpgp as openpgp;
use sha1::{Digest, Sha1};

use openpgp::crypto::SessionKey;
use openpgp::crypto::aead::{DecryptionContext, SEIPv2Schedule, Schedule};
use openpgp::crypto::symmetric::{BlockCipherMode, Encryptor, PaddingMode};
use openpgp::policy::Policy;
use openpgp::types::{AEADAlgorithm, SymmetricAlgorithm};

use super::Refusal;
use crate::keys::policy;

/// The number of bytes at the beginning of version 1 that show whether a session key fits: version, and the longest
/// random prefix.
const START_V1: usize = 1 + 18;
/// The length of the beginning of version 2, in bytes: version, algorithms, size of a chunk, salt.
const START_V2: usize = 4 + 32;
/// The modification detection code, with which version 1 ends: tag 19, 20 bytes, SHA-1 (RFC 9580, 5.13.1).
const MDC: [u8; 2] = [0xc0 | 19, 20];
const MDC_LENGTH: usize = 22;
/// The length of an authentication tag of any AEAD algorithm, in bytes.
const TAG: usize = 16;
/// The largest size of a chunk that RFC 9580 allows (4 MiB), as the octet in the packet.
const MAX_CHUNK: u8 = 16;

/// The session key, which decrypts a message without the key of its recipient.
#[derive(Clone)]
pub struct Session {
    /// The algorithm for version 1; version 2 names its own.
    pub algorithm: Option<SymmetricAlgorithm>,
    pub key: SessionKey,
}

/// The beginning of the packet, before a session key is found.
#[derive(Default)]
pub struct Start {
    bytes: Vec<u8>,
}

/// The packet, from when its session key is known.
pub enum Decryption {
    V1(V1),
    V2(V2),
}

/// What takes the decrypted bytes.
pub trait Sink: FnMut(&[u8]) -> Result<(), Refusal> {}

impl<F: FnMut(&[u8]) -> Result<(), Refusal>> Sink for F {}

fn damaged(why: &str) -> Refusal {
    Refusal::Damaged(format!("it was changed on its way ({why})"))
}

impl Start {
    /// Takes bytes from the front of `body` until there are enough to try session keys on them, and returns how many.
    pub fn take(&mut self, body: &[u8]) -> Result<usize, Refusal> {
        let before = self.bytes.len();
        let mut rest = body;
        while let Some(missing) = self.missing()?.filter(|_| !rest.is_empty()) {
            let (now, later) = rest.split_at(rest.len().min(missing));
            self.bytes.extend_from_slice(now);
            rest = later;
        }
        Ok(self.bytes.len() - before)
    }

    /// Returns how many bytes are missing until session keys can be tried, or `None`.
    pub fn missing(&self) -> Result<Option<usize>, Refusal> {
        let enough = match self.bytes.as_slice() {
            [] => 1,
            [1, ..] => START_V1,
            // A whole chunk, and what is certainly not of the next one.
            [2, _, _, size, ..] => START_V2 + chunk_size(*size)? + 2 * TAG,
            [2, ..] => START_V2,
            [version, ..] => {
                return Err(Refusal::Malformed(format!("its encrypted packet has the unknown version {version}")));
            }
        };
        Ok(enough.checked_sub(self.bytes.len()).filter(|missing| *missing > 0))
    }

    /// Returns the algorithm that the packet names: version 2 does.
    pub fn algorithm(&self) -> Option<SymmetricAlgorithm> {
        match self.bytes.as_slice() {
            [2, algorithm, ..] => Some((*algorithm).into()),
            _ => None,
        }
    }

    /// Returns the decryption by `session`, or `None` if that is not the session key of this packet.
    ///
    /// # Errors
    /// The algorithm is unknown, or too weak.
    pub fn decrypt(&self, session: &Session, integrity: bool) -> Result<Option<Decryption>, Refusal> {
        let algorithm = self.algorithm().or(session.algorithm);
        let Some(algorithm) = algorithm else { return Ok(None) };
        let refused = |e: anyhow::Error| Refusal::Malformed(format!("{e:#}"));
        if !algorithm.is_supported() {
            return Err(refused(openpgp::Error::UnsupportedSymmetricAlgorithm(algorithm).into()));
        }
        policy().symmetric_algorithm(algorithm).map_err(refused)?;
        match self.bytes.as_slice() {
            [1, body @ ..] => Ok(V1::begin(body, algorithm, &session.key, integrity).map(Decryption::V1)),
            [2, _, aead, size, rest @ ..] if rest.len() >= 32 => {
                let aead = AEADAlgorithm::from(*aead);
                if !aead.is_supported() {
                    return Err(refused(openpgp::Error::UnsupportedAEADAlgorithm(aead).into()));
                }
                policy().aead_algorithm(aead).map_err(refused)?;
                let (salt, body) = rest.split_at(32);
                let size = chunk_size(*size)?;
                Ok(V2::begin(body, (algorithm, aead, size), salt, &session.key).map(Decryption::V2))
            }
            _ => Err(damaged("its encrypted part is too short")),
        }
    }

    /// Returns the bytes that were taken and belong to the body that [`Decryption::feed`] takes.
    pub fn into_body(mut self) -> Vec<u8> {
        self.bytes.split_off(self.bytes.len().min(if self.bytes.first() == Some(&2) { START_V2 } else { 1 }))
    }
}

/// Returns the size of a chunk in bytes, from the octet in the packet.
fn chunk_size(octet: u8) -> Result<usize, Refusal> {
    match octet {
        ..=MAX_CHUNK => Ok(1 << (octet + 6)),
        _ => Err(damaged("its chunks are larger than 4 MiB")),
    }
}

impl Decryption {
    /// Decrypts the next bytes of the body, and passes plaintext to `out`: in version 1, before its integrity is
    /// known. `body` serves as the buffer.
    pub fn feed(&mut self, body: &mut [u8], out: &mut impl Sink) -> Result<(), Refusal> {
        match self {
            Decryption::V1(v1) => v1.feed(body, out),
            Decryption::V2(v2) => v2.feed(body, out),
        }
    }

    /// Decrypts the end of the body, and checks the integrity of all of it.
    pub fn finish(self, out: &mut impl Sink) -> Result<(), Refusal> {
        match self {
            Decryption::V1(v1) => v1.finish(),
            Decryption::V2(v2) => v2.finish(out),
        }
    }
}

/// Version 1: CFB, and SHA-1 of the plaintext at its end.
pub struct V1 {
    cfb: Cfb,
    /// The number of bytes of the random prefix that are still to come.
    prefix: usize,
    /// `None`: the integrity is not checked.
    sha1: Option<Sha1>,
    /// The last plaintext so far, which may be the modification detection code.
    end: Vec<u8>,
}

impl V1 {
    /// `start` has the first 18 bytes after the version. The last two of a prefix of a block and two bytes repeat the
    /// two before them, if the session key fits.
    fn begin(start: &[u8], algorithm: SymmetricAlgorithm, key: &SessionKey, integrity: bool) -> Option<V1> {
        let block = algorithm.block_size().ok().filter(|_| algorithm.key_size().ok() == Some(key.len()))?;
        let mut prefix = start.get(..block + 2)?.to_vec();
        Cfb::new(algorithm, key)?.decrypt(&mut prefix).ok()?;
        let fits = prefix[block - 2..block] == prefix[block..];
        fits.then_some(V1 {
            cfb: Cfb::new(algorithm, key)?,
            prefix: block + 2,
            sha1: integrity.then(Sha1::new),
            end: Vec::with_capacity(MDC_LENGTH),
        })
    }

    fn feed(&mut self, body: &mut [u8], out: &mut impl Sink) -> Result<(), Refusal> {
        self.cfb.decrypt(body).map_err(Refusal::Io)?;
        let (prefix, plain) = body.split_at(self.prefix.min(body.len()));
        self.prefix -= prefix.len();
        self.digest(prefix);
        // All but the last 22 bytes are content.
        let content = (self.end.len() + plain.len()).saturating_sub(MDC_LENGTH);
        let (old, new) = (content.min(self.end.len()), content.saturating_sub(self.end.len()));
        if old > 0 {
            let first: Vec<u8> = self.end.drain(..old).collect();
            self.digest(&first);
            out(&first)?;
        }
        let (now, later) = plain.split_at(new);
        self.end.extend_from_slice(later);
        if new > 0 {
            self.digest(now);
            out(now)?;
        }
        Ok(())
    }

    fn digest(&mut self, plain: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(plain);
        }
    }

    fn finish(self) -> Result<(), Refusal> {
        let Some(mut sha1) = self.sha1 else { return Ok(()) };
        sha1.update(MDC);
        match self.end.strip_prefix(&MDC) {
            Some(digest) if digest == &sha1.finalize()[..] => Ok(()),
            _ => Err(damaged("its integrity check fails")),
        }
    }
}

/// Cipher feedback: a block of plaintext is the ciphertext XOR the encryption of the ciphertext before it. So when
/// decrypting, all blocks can be encrypted in one call.
struct Cfb {
    ecb: Encryptor<KeyStream>,
    keys: KeyStream,
}

/// What the ciphertext is XORed with. The cipher writes it, a block ahead at most.
#[derive(Clone, Default)]
struct KeyStream(Rc<RefCell<Vec<u8>>>);

impl Write for KeyStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Cfb {
    fn new(algorithm: SymmetricAlgorithm, key: &SessionKey) -> Option<Cfb> {
        let keys = KeyStream::default();
        let mode = (BlockCipherMode::ECB, PaddingMode::None);
        let mut ecb = Encryptor::new(algorithm, mode.0, mode.1, key, None, keys.clone()).ok()?;
        // The block before the first is all zeros (RFC 9580, 5.13.1).
        ecb.write_all(&vec![0; algorithm.block_size().ok()?]).ok()?;
        Some(Cfb { ecb, keys })
    }

    fn decrypt(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.ecb.write_all(bytes)?;
        let mut keys = self.keys.0.borrow_mut();
        bytes.iter_mut().zip(keys.iter()).for_each(|(byte, key)| *byte ^= key);
        keys.drain(..bytes.len());
        Ok(())
    }
}

/// Version 2: chunks with a tag each, and a last tag over their number.
pub struct V2 {
    schedule: SEIPv2Schedule,
    algorithms: (SymmetricAlgorithm, AEADAlgorithm),
    /// The length of a chunk without its tag, in bytes.
    size: usize,
    index: u64,
    /// The number of bytes of plaintext so far.
    length: u64,
    /// Ciphertext that is not a whole chunk yet, or whose last bytes may be the last tag.
    pending: Vec<u8>,
    plain: Vec<u8>,
}

impl V2 {
    /// `start` has the first chunk, if there is more than one. Returns `None` if `key` does not decrypt it.
    fn begin(
        start: &[u8],
        (algorithm, aead, size): (SymmetricAlgorithm, AEADAlgorithm, usize),
        salt: &[u8],
        key: &SessionKey,
    ) -> Option<V2> {
        let schedule = SEIPv2Schedule::new(key, algorithm, aead, size, salt).ok()?;
        let (pending, plain) = (Vec::new(), Vec::new());
        let mut v2 = V2 { schedule, algorithms: (algorithm, aead), size, index: 0, length: 0, pending, plain };
        let chunk = &start[..start.len().checked_sub(TAG)?.min(size + TAG)];
        let fits = match chunk {
            [] => v2.tag(start).is_ok(),
            chunk => v2.chunk(chunk).is_ok(),
        };
        (v2.index, v2.length) = (0, 0);
        fits.then_some(v2)
    }

    fn feed(&mut self, mut body: &[u8], out: &mut impl Sink) -> Result<(), Refusal> {
        // A chunk is certainly whole when the last tag fits behind it.
        let enough = self.size + 2 * TAG;
        while self.pending.len() + body.len() >= enough {
            let missing = enough.saturating_sub(self.pending.len());
            let mut pending = std::mem::take(&mut self.pending);
            let (now, later) = body.split_at(missing);
            pending.extend_from_slice(now);
            body = later;
            self.chunk(&pending[..self.size + TAG])?;
            pending.drain(..self.size + TAG);
            self.pending = pending;
            out(&self.plain)?;
        }
        self.pending.extend_from_slice(body);
        Ok(())
    }

    fn finish(mut self, out: &mut impl Sink) -> Result<(), Refusal> {
        let pending = std::mem::take(&mut self.pending);
        let Some(last) = pending.len().checked_sub(TAG) else {
            return Err(damaged("its encrypted part is too short"));
        };
        let (chunk, tag) = pending.split_at(last);
        if !chunk.is_empty() {
            self.chunk(chunk)?;
            out(&self.plain)?;
        }
        self.tag(tag)
    }

    /// Decrypts a chunk with its tag into `plain`.
    fn chunk(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        // A chunk has at least one byte and a tag.
        let Some(length) = chunk.len().checked_sub(TAG).filter(|length| *length > 0) else {
            return Err(damaged("its last chunk is too short"));
        };
        let mut context = context(self.algorithms, |make| self.schedule.chunk(self.index, make))?;
        self.plain.resize(length, 0);
        context.decrypt_verify(&mut self.plain, chunk).map_err(|_| damaged("an authentication tag is wrong"))?;
        (self.index, self.length) = (self.index + 1, self.length + length as u64);
        Ok(())
    }

    /// Checks the last tag, which is over the number of bytes before it.
    fn tag(&self, tag: &[u8]) -> Result<(), Refusal> {
        let mut context = context(self.algorithms, |make| self.schedule.finalizer(self.index, self.length, make))?;
        context.decrypt_verify(&mut [], tag).map_err(|_| damaged("its last authentication tag is wrong"))
    }
}

/// What makes a cipher of a key, a nonce and associated data.
type MakeCipher<'a> = &'a mut dyn FnMut(&SessionKey, &[u8], &[u8]) -> openpgp::Result<DecryptionContext>;

/// Returns the cipher for one chunk.
fn context(
    (algorithm, aead): (SymmetricAlgorithm, AEADAlgorithm),
    schedule: impl FnOnce(MakeCipher<'_>) -> openpgp::Result<DecryptionContext>,
) -> Result<DecryptionContext, Refusal> {
    let made = schedule(&mut |key, nonce, ad| aead.context(algorithm, key, ad, nonce)?.for_decryption());
    made.map_err(|e| Refusal::Io(io::Error::other(format!("{e:#}"))))
}
