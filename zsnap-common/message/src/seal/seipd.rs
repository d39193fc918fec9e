//! Writes the encrypted packet, "symmetrically encrypted and integrity protected data" (RFC 9580, 5.13), in both of
//! its versions. Ciphers, key schedules and session keys are Sequoia's.
//!
//! Sequoia writes such packets too, but slowly. It writes version 1, which every GnuPG reads, at some 190 MB/s, which
//! is less than what comes from zstd if the data does not compress: its SHA-1 looks for collisions. The integrity
//! check does not depend on their absence, and the data is our own, so plain SHA-1 is used here. Version 2 it writes
//! in chunks of 4 KiB and sets up a cipher for each of them, as readers then must, too.

use std::io::{self, BufRead, Write};

use sequoia_openpgp as openpgp;
use sha1::{Digest, Sha1};

use openpgp::Packet;
use openpgp::crypto::SessionKey;
use openpgp::crypto::aead::{self, SEIPv2Schedule};
use openpgp::crypto::symmetric::{BlockCipherMode, Encryptor, PaddingMode};
use openpgp::packet::key::{PublicParts, UnspecifiedRole};
use openpgp::packet::pkesk::{PKESK3, PKESK6};
use openpgp::packet::{Key, PKESK};
use openpgp::serialize::Serialize;
use openpgp::types::{AEADAlgorithm, SymmetricAlgorithm};

use crate::pipe::drain;

type Recipient = Key<PublicParts, UnspecifiedRole>;

const ALGORITHM: SymmetricAlgorithm = SymmetricAlgorithm::AES256;
/// The block size of the cipher, in bytes.
const BLOCK: usize = 16;
/// The length in bytes of a part of the body, log2.
const PART: u8 = 20;
/// The length in bytes of an AEAD chunk, log2. Readers must accept up to 4 MiB.
const CHUNK: u8 = 16;

/// Writes version 1: a session key packet for each of `keys`, then the packets in `from`, encrypted.
pub fn encrypt_v1(from: &mut impl BufRead, to: &mut impl Write, keys: &[Recipient]) -> anyhow::Result<()> {
    let session = SessionKey::new(ALGORITHM.key_size()?)?;
    for key in keys {
        let mut pkesk = PKESK3::for_recipient(ALGORITHM, &session, key)?;
        pkesk.set_recipient(Some(key.keyid()));
        write_packet(to, PKESK::from(pkesk))?;
    }
    let body = Parts::begin(to, vec![1])?;
    let mut cipher = Encryptor::new(ALGORITHM, BlockCipherMode::CFB, PaddingMode::None, &session, None, body)?;
    let mut sha1 = Sha1::new();

    // A block of random bytes, of which the last two are repeated.
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

/// Writes version 2, with OCB: a session key packet for each of `keys`, then the packets in `from`, encrypted.
pub fn encrypt_v2(from: &mut impl BufRead, to: &mut impl Write, keys: &[Recipient]) -> anyhow::Result<()> {
    let (ocb, size) = (AEADAlgorithm::OCB, 1 << CHUNK);
    let session = SessionKey::new(ALGORITHM.key_size()?)?;
    for key in keys {
        let mut pkesk = PKESK6::for_recipient(&session, key)?;
        pkesk.set_recipient(Some(key.fingerprint()));
        write_packet(to, PKESK::from(pkesk))?;
    }
    let mut salt = [0; 32];
    openpgp::crypto::random(&mut salt)?;
    // The size of a chunk is 2 to the power of this octet plus 6.
    let mut head = vec![2, ALGORITHM.into(), ocb.into(), CHUNK - 6];
    head.extend_from_slice(&salt);
    let schedule = SEIPv2Schedule::new(&session, ALGORITHM, ocb, size, &salt)?;
    let mut cipher = aead::Encryptor::new(ALGORITHM, ocb, size, schedule, Parts::begin(to, head)?)?;
    drain(from, &mut cipher)?;
    Ok(cipher.finalize()?.finish()?)
}

fn write_packet(to: &mut impl Write, pkesk: PKESK) -> anyhow::Result<()> {
    let mut packet = Vec::new();
    Packet::from(pkesk).serialize(&mut packet)?;
    Ok(to.write_all(&packet)?)
}

/// The body of a packet whose length is not known at its beginning: parts of one size, and a last part (RFC 9580,
/// 4.2.1.4).
struct Parts<W> {
    to: W,
    part: Vec<u8>,
}

impl<W: Write> Parts<W> {
    /// Writes the packet's tag in the new format. The body will begin with `head`.
    fn begin(mut to: W, head: Vec<u8>) -> io::Result<Parts<W>> {
        to.write_all(&[0xc0 | 18])?;
        Ok(Parts { to, part: head })
    }

    fn finish(mut self) -> io::Result<()> {
        // At most 1 MiB, whose length fits into four octets.
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
