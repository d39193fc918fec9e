//! The encrypted packet, "symmetrically encrypted and integrity protected data" (RFC 9580, 5.13),
//! in both its versions. Ciphers, key schedules and session keys are Sequoia's.
//!
//! Sequoia writes such packets too, and slowly. Version 1, which every GnuPG reads, at some 190 MB/s,
//! less than zstd gives it when the data does not compress: its SHA-1 looks for collisions. The
//! integrity check does not rest on their absence, and we ourselves made the data, so here plain
//! SHA-1 does. Version 2 in chunks of 4 KiB, each with a cipher set up anew, when it is read too.

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
/// Cipher's block, in bytes.
const BLOCK: usize = 16;
/// Bytes of a part of the body, a power of two, log2.
const PART: u8 = 20;
/// Bytes of an AEAD chunk, a power of two, log2. Readers must take up to 4 MiB.
const CHUNK: u8 = 16;

/// Version 1: a session key packet for each of `keys`, then the packets that `from` gives, encrypted.
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

/// Version 2, with OCB.
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
    // The size of a chunk is 2 to the power of that octet plus 6.
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

/// The body of a packet whose length is not known at its beginning: parts of one size, and a last
/// one (RFC 9580, 4.2.1.4).
struct Parts<W> {
    to: W,
    part: Vec<u8>,
}

impl<W: Write> Parts<W> {
    /// The packet's tag, in the new format; its body begins with `head`.
    fn begin(mut to: W, head: Vec<u8>) -> io::Result<Parts<W>> {
        to.write_all(&[0xc0 | 18])?;
        Ok(Parts { to, part: head })
    }

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
