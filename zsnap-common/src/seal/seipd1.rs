//! The encrypted packet that every GnuPG reads: version 1 of "symmetrically encrypted and integrity
//! protected data" (RFC 9580, 5.13.1).
//!
//! Sequoia writes one too, at some 190 MB/s, which is less than zstd gives it when the data does not
//! compress: its SHA-1 looks for collisions. The integrity check does not rest on their absence, and
//! we ourselves made the data, so here plain SHA-1 does; cipher and session keys are Sequoia's.

use std::io::{self, BufRead, Write};

use sequoia_openpgp as openpgp;
use sha1::{Digest, Sha1};

use openpgp::Packet;
use openpgp::crypto::SessionKey;
use openpgp::crypto::symmetric::{BlockCipherMode, Encryptor, PaddingMode};
use openpgp::packet::key::{PublicParts, UnspecifiedRole};
use openpgp::packet::{Key, PKESK, pkesk::PKESK3};
use openpgp::serialize::Serialize;
use openpgp::types::SymmetricAlgorithm;

const ALGORITHM: SymmetricAlgorithm = SymmetricAlgorithm::AES256;
/// Cipher's block, in bytes.
const BLOCK: usize = 16;
/// Bytes of a part of the body, a power of two, log2.
const PART: u8 = 20;

/// Encrypts the packets that `from` gives: a session key packet for each of `keys`, then the
/// encrypted one.
pub fn encrypt(
    from: &mut impl BufRead,
    to: &mut impl Write,
    keys: &[Key<PublicParts, UnspecifiedRole>],
) -> anyhow::Result<()> {
    let session = SessionKey::new(ALGORITHM.key_size()?)?;
    for key in keys {
        let mut pkesk = PKESK3::for_recipient(ALGORITHM, &session, key)?;
        pkesk.set_recipient(Some(key.keyid()));
        let mut packet = Vec::new();
        Packet::from(PKESK::from(pkesk)).serialize(&mut packet)?;
        to.write_all(&packet)?;
    }
    to.write_all(&[0xc0 | 18])?; // tag, in the new format
    let body = Parts { to, part: vec![1] }; // version
    let mut cipher = Encryptor::new(ALGORITHM, BlockCipherMode::CFB, PaddingMode::None, &session, None, body)?;
    let mut sha1 = Sha1::new();

    // A block of random bytes, the last two of them twice.
    let mut prefix = [0; BLOCK + 2];
    openpgp::crypto::random(&mut prefix[..BLOCK])?;
    prefix.copy_within(BLOCK - 2..BLOCK, BLOCK);
    sha1.update(prefix);
    cipher.write_all(&prefix)?;
    loop {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        sha1.update(bytes);
        cipher.write_all(bytes)?;
        let n = bytes.len();
        from.consume(n);
    }
    // The modification detection code: tag 19, 20 bytes, over everything before it.
    let header = [0xc0 | 19, 20];
    sha1.update(header);
    cipher.write_all(&header)?;
    cipher.write_all(&sha1.finalize())?;
    Ok(cipher.finalize()?.finish()?)
}

/// The body of a packet whose length is not known at its beginning: parts of one size, and a last
/// one (RFC 9580, 4.2.1.4).
struct Parts<W> {
    to: W,
    part: Vec<u8>,
}

impl<W: Write> Parts<W> {
    fn finish(mut self) -> io::Result<()> {
        // At most 1 MiB: fits four octets.
        self.to.write_all(&[0xff])?;
        self.to.write_all(&(self.part.len() as u32).to_be_bytes())?;
        self.to.write_all(&self.part)
    }
}

impl<W: Write> Write for Parts<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = 1 << PART;
        if self.part.len() == size {
            self.to.write_all(&[224 + PART])?;
            self.to.write_all(&self.part)?;
            self.part.clear();
        }
        let n = bytes.len().min(size - self.part.len());
        self.part.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
