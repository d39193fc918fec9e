//! Decrypts and authenticates the OpenPGP message.
//!
//! One thread reads, decrypts and checks the integrity of what was encrypted; another one verifies the signature
//! inside. What either passes on may not be trusted before [`authenticate`] has returned.

use std::io::{self, Read, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::SystemTime;

use sequoia_openpgp::Fingerprint;

use super::digests::Digest;
use super::framing::{Framing, Piece, cut};
use super::seipd::{Decryption, Session, Sink, Start};
use super::{Refusal, Trust, session, signatures, walk};
use crate::pipe::{PipeWriter, pipe};
use zsnap_common::cli::cancel;

/// The number of bytes of ciphertext that are read at a time.
const STEP: usize = 256 << 10;

/// An authentic message.
pub struct Authentic {
    /// The fingerprint of the certificate that signed, and when; `None` if the message is not signed.
    pub signer: Option<(String, SystemTime)>,
    pub session: Session,
    /// The digests of the content of the literal packet.
    pub digests: Vec<Digest>,
}

/// Reads and decrypts `length` bytes of `src`, and writes the payload to `to`. The payload is not authentic until this
/// returns `Ok`.
pub fn authenticate<R: Read>(
    src: &mut R,
    length: u64,
    who: &Trust<'_>,
    to: PipeWriter<'_>,
) -> Result<Authentic, Refusal> {
    let (plain, packets) = pipe();
    let recipient = OnceLock::new();
    let (session, verified) = thread::scope(|scope| -> Result<_, Refusal> {
        let verifying = walk::spawn(scope, || signatures::verify(packets, who, &recipient, to))?;
        let session = decrypt(src, length, who, &recipient, plain);
        // After a panic in there the message is to blame, and would cause it again.
        let failed = || Err(Refusal::Malformed("reading it failed".into()));
        Ok((session, verifying.join().unwrap_or_else(|_| failed())))
    })?;
    // In this order: what was changed on its way says nothing about who signed it.
    let (session, verified) = (session?, verified?);
    Ok(Authentic { signer: verified.signer, session, digests: verified.digests })
}

/// Decrypts the message, and writes the packets inside to `to`. After `Ok`, the message is whole, nobody changed what
/// was encrypted, and its packets are of a kind and order that we allow.
fn decrypt<R: Read>(
    src: &mut R,
    length: u64,
    who: &Trust<'_>,
    recipient: &OnceLock<Fingerprint>,
    to: PipeWriter<'_>,
) -> Result<Session, Refusal> {
    let mut session = None;
    let mut decrypting = Decrypting::new(length, |packets, start| {
        let found = session::find(packets, start, who.keyring)?;
        session = Some(found.session);
        recipient.get_or_init(|| found.recipient.fingerprint());
        Ok(found.decryption)
    });
    let (mut framing, mut allowed, mut to) = (Framing::of_encrypted(), Ok(()), Some(to));
    let mut out = |plain: &[u8]| {
        if allowed.is_ok() {
            allowed = follow(&mut framing, plain);
        }
        // The verifier may have ended with an error of its own. Without it, too, the end of the message must be
        // reached: whether it was changed on its way comes first.
        let taken = to.take().filter(|_| allowed.is_ok());
        to = taken.and_then(|mut to| to.write_all(plain).is_ok().then_some(to));
        Ok(())
    };
    each_piece(src, length, |piece| decrypting.feed(piece, &mut out))?;
    decrypting.finish(&mut out)?;
    allowed?;
    if !framing.is_complete() {
        return Err(Refusal::Malformed("what it encrypts has no end".into()));
    }
    if let Some(to) = to {
        // If the verifier is gone, it has returned the reason.
        let _ = to.finish();
    }
    session.ok_or_else(cut)
}

/// Follows the packets inside the encrypted one.
fn follow(framing: &mut Framing, mut plain: &[u8]) -> Result<(), Refusal> {
    while !plain.is_empty() {
        let (Piece::Content(n) | Piece::Other(n)) = framing.step(plain)?;
        plain = &plain[n..];
    }
    Ok(())
}

/// Reads `length` bytes of `src`, or fewer if it ends, and passes them to `take`, which may change them.
pub(super) fn each_piece<R: Read>(
    src: &mut R,
    length: u64,
    mut take: impl FnMut(&mut [u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (mut buffer, mut left) = (vec![0; STEP], length);
    while left > 0 {
        cancel::check().map_err(Refusal::Io)?;
        let most = usize::try_from(left).unwrap_or(STEP).min(STEP);
        match src.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(n) => {
                left = left.saturating_sub(n as u64);
                take(&mut buffer[..n])?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Refusal::Io(e)),
        }
    }
    Ok(())
}

/// Decrypts a message as its bytes are read. `find` returns the decryption, from the session key packets and the
/// beginning of the encrypted one.
pub(super) struct Decrypting<F> {
    framing: Framing,
    /// The packets before the encrypted one.
    packets: Vec<u8>,
    /// The beginning of the encrypted packet, until its session key is found.
    start: Start,
    decryption: Option<Decryption>,
    find: F,
}

impl<F: FnMut(&[u8], &Start) -> Result<Decryption, Refusal>> Decrypting<F> {
    /// Creates the state before a message of `length` bytes.
    pub fn new(length: u64, find: F) -> Decrypting<F> {
        let framing = Framing::of_message(length);
        Decrypting { framing, packets: Vec::new(), start: Start::default(), decryption: None, find }
    }

    /// Takes the next bytes of the message, which serve as the buffer, and passes what they encrypt to `out`.
    pub fn feed(&mut self, mut bytes: &mut [u8], out: &mut impl Sink) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let piece = self.framing.step(bytes)?;
            let (Piece::Content(n) | Piece::Other(n)) = piece;
            let (now, later) = bytes.split_at_mut(n);
            bytes = later;
            match piece {
                Piece::Content(_) => self.content(now, out)?,
                Piece::Other(_) if !self.framing.is_in_content() => self.packets.extend_from_slice(now),
                Piece::Other(_) => {}
            }
        }
        Ok(())
    }

    fn content(&mut self, mut body: &mut [u8], out: &mut impl Sink) -> Result<(), Refusal> {
        if self.decryption.is_none() {
            let n = self.start.take(body)?;
            body = &mut body[n..];
            if self.start.missing()?.is_some() {
                return Ok(());
            }
            self.begin(out)?;
        }
        match &mut self.decryption {
            Some(decryption) => decryption.feed(body, out),
            None => Ok(()),
        }
    }

    /// Finds the session key, and decrypts the beginning.
    fn begin(&mut self, out: &mut impl Sink) -> Result<(), Refusal> {
        let mut decryption = (self.find)(&self.packets, &self.start)?;
        let result = decryption.feed(&mut std::mem::take(&mut self.start).into_body(), out);
        self.decryption = Some(decryption);
        result
    }

    /// Checks that the message is whole, and nobody changed what was encrypted.
    pub fn finish(mut self, out: &mut impl Sink) -> Result<(), Refusal> {
        if !self.framing.is_complete() {
            return Err(cut());
        }
        if self.decryption.is_none() {
            self.begin(out)?; // it is shorter than a chunk
        }
        self.decryption.ok_or_else(cut)?.finish(out)
    }
}
