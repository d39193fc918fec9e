//! The second pass over a message that is too large to be kept: it is decrypted again. The first pass authenticated
//! it, and a chunk of ciphertext is released only if it is the same as then, so whoever can still write to the file
//! gains nothing.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use sequoia_openpgp as openpgp;
use sha2::{Digest, Sha256};

use openpgp::crypto::SessionKey;
use openpgp::packet::{PKESK, SKESK};
use openpgp::parse::stream::{DecryptionHelper, MessageStructure, VerificationHelper};
use openpgp::types::SymmetricAlgorithm;
use openpgp::{Cert, KeyHandle};

use super::message::{CHUNK, Session, decrypt};
use crate::pipe::PipeWriter;
use zsnap_common::cli::exit::Exit;

/// Reads and decrypts a message that was authenticated before, if it still is the same, chunk by chunk.
pub fn decrypt_again<R: Read + Send>(
    src: &mut R,
    length: u64,
    digests: &[[u8; 32]],
    session: &Session,
    mut to: PipeWriter,
) -> anyhow::Result<()> {
    let mut same =
        Same { src: Mutex::new(src), left: length, digests: digests.iter(), chunk: Vec::new(), used: 0, error: None };
    let result = decrypt(&mut same, Again { session }, |bytes| to.write_all(bytes));
    if let Some(e) = same.error {
        return Err(e.into()); // Sequoia reports it as an error of its own
    }
    result?;
    Ok(to.finish()?)
}

/// The ciphertext of the second pass: a chunk is released only if it is the same as in the first.
struct Same<'a, R> {
    src: Mutex<&'a mut R>,
    left: u64,
    digests: std::slice::Iter<'a, [u8; 32]>,
    chunk: Vec<u8>,
    used: usize,
    error: Option<io::Error>,
}

impl<R: Read> Same<'_, R> {
    /// Reads the next chunk. Fails if it is not the same as in the first pass.
    fn next(&mut self) -> io::Result<()> {
        let src = self.src.get_mut().unwrap_or_else(PoisonError::into_inner);
        let size = self.left.min(CHUNK as u64);
        (self.used, self.left) = (0, self.left - size);
        self.chunk.clear();
        src.take(size).read_to_end(&mut self.chunk)?;
        let digest: [u8; 32] = Sha256::digest(&self.chunk).into();
        match self.digests.next() == Some(&digest) {
            true => Ok(()),
            false => Err(io::Error::other("the file was changed while it was read")),
        }
    }
}

impl<R: Read> Read for Same<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.error.is_none() && self.used == self.chunk.len() && self.left > 0 {
            self.error = self.next().err();
        }
        if self.error.is_some() {
            self.chunk.clear();
            self.used = 0;
            return Err(io::Error::other("refused"));
        }
        let n = (&self.chunk[self.used..]).read(buffer)?;
        self.used += n;
        Ok(n)
    }
}

/// The callbacks of the second pass, which accept everything: the message was checked, and the ciphertext is the
/// same.
struct Again<'a> {
    session: &'a Session,
}

impl VerificationHelper for Again<'_> {
    fn get_certs(&mut self, _: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(Vec::new())
    }

    fn check(&mut self, _: MessageStructure<'_>) -> openpgp::Result<()> {
        Ok(())
    }
}

impl DecryptionHelper for Again<'_> {
    fn decrypt(
        &mut self,
        _: &[PKESK],
        _: &[SKESK],
        _: Option<SymmetricAlgorithm>,
        decrypt: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> openpgp::Result<Option<Cert>> {
        match decrypt(self.session.algorithm, &self.session.key) {
            true => Ok(None),
            false => Err(Exit::Io.error("the session key does not fit any more")),
        }
    }
}
