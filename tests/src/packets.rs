//! OpenPGP messages with payloads that zsnap-queue would never seal.

use std::io::Write;
use std::path::Path;

use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::stream::{Encryptor, LiteralWriter, Message, Recipient, Signer};
use sequoia_openpgp::types::{Features, SymmetricAlgorithm};
use sequoia_openpgp::{Cert, KeyHandle};
use zsnap_message::keys::Format;

/// How packets are encrypted.
#[derive(Clone, Copy, Debug)]
pub struct Container {
    pub format: Format,
    pub algorithm: SymmetricAlgorithm,
    /// Whether the message does not say for which key it is.
    pub hidden: bool,
}

impl Container {
    /// Returns what zsnap-queue uses, too.
    pub fn of(format: Format) -> Container {
        Container { format, algorithm: SymmetricAlgorithm::AES256, hidden: false }
    }
}

/// Signs `payload` with the key in the file `signer`, if any, and encrypts it to the certificate in `to`.
pub fn message(payload: &[u8], signer: Option<&Path>, to: &Path) -> Vec<u8> {
    let to = Cert::from_file(to).unwrap();
    encrypted(&packets(payload, signer), &to, Container::of(Format::Gpg))
}

/// Returns a literal packet with `payload`, signed with the key in the file `signer`, if any.
pub fn packets(payload: &[u8], signer: Option<&Path>) -> Vec<u8> {
    let mut packets = Vec::new();
    let mut message = Message::new(&mut packets);
    if let Some(signer) = signer {
        let cert = Cert::from_file(signer).unwrap();
        let key = cert.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
        message = Signer::new(message, key).unwrap().build().unwrap();
    }
    let mut literal = LiteralWriter::new(message).build().unwrap();
    literal.write_all(payload).unwrap();
    literal.finalize().unwrap();
    packets
}

/// Encrypts packets, or any bytes in their place, without a change.
pub fn encrypted(packets: &[u8], to: &Cert, container: Container) -> Vec<u8> {
    let (policy, mut message) = (StandardPolicy::new(), Vec::new());
    let features = match container.format {
        Format::Gpg => Features::empty().set_seipdv1(),
        Format::Aead => Features::empty().set_seipdv2(),
    };
    let keys = to.keys().with_policy(&policy, None).for_storage_encryption();
    let recipients = keys.map(|ka| {
        let id = match container.format {
            Format::Gpg => KeyHandle::KeyID(ka.key().keyid()),
            Format::Aead => KeyHandle::Fingerprint(ka.key().fingerprint()),
        };
        Recipient::new(features.clone(), (!container.hidden).then_some(id), ka.key())
    });
    let encryptor = Encryptor::for_recipients(Message::new(&mut message), recipients);
    let mut encryptor = encryptor.symmetric_algo(container.algorithm).build().unwrap();
    encryptor.write_all(packets).unwrap();
    encryptor.finalize().unwrap();
    message
}

/// Puts JSON into a skippable zstd frame with the magic number 0x184D2A50 + `nibble`.
pub fn frame(nibble: u8, json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap();
    [&[0x50 + nibble, 0x2a, 0x4d, 0x18], &length.to_le_bytes()[..], json.as_bytes()].concat()
}
