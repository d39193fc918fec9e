//! OpenPGP messages with payloads that zsnap-queue would never seal.

use std::io::Write;
use std::path::Path;

use sequoia_openpgp::Cert;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::stream::{Encryptor, LiteralWriter, Message, Recipient, Signer};
use sequoia_openpgp::types::Features;

/// Signs `payload` with the key in the file `signer`, if any, and encrypts it to the certificate in `to`.
pub fn message(payload: &[u8], signer: Option<&Path>, to: &Path) -> Vec<u8> {
    let policy = StandardPolicy::new();
    let to = Cert::from_file(to).unwrap();
    let keys = to.keys().with_policy(&policy, None).for_storage_encryption();
    let recipients = keys.map(|ka| {
        let id = sequoia_openpgp::KeyHandle::KeyID(ka.key().keyid());
        Recipient::new(Features::empty().set_seipdv1(), Some(id), ka.key())
    });
    let mut sealed = Vec::new();
    let mut message = Encryptor::for_recipients(Message::new(&mut sealed), recipients).build().unwrap();
    if let Some(signer) = signer {
        let cert = Cert::from_file(signer).unwrap();
        let key = cert.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
        message = Signer::new(message, key).unwrap().build().unwrap();
    }
    let mut literal = LiteralWriter::new(message).build().unwrap();
    literal.write_all(payload).unwrap();
    literal.finalize().unwrap();
    sealed
}

/// Puts JSON into a skippable zstd frame with the magic number 0x184D2A50 + `nibble`.
pub fn frame(nibble: u8, json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap();
    [&[0x50 + nibble, 0x2a, 0x4d, 0x18], &length.to_le_bytes()[..], json.as_bytes()].concat()
}
