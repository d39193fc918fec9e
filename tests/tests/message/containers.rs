//! The encrypted packet, as other programs write it: with other algorithms, chunks and lengths.
#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use sequoia_openpgp as openpgp;
use zsnap_message::keys::Format;
use zsnap_message::open::{Limits, Refusal, Trust};
use zsnap_tests::packets::{self, Container};
use zsnap_tests::sealed::*;

use openpgp::Cert;
use openpgp::parse::Parse;
use openpgp::types::SymmetricAlgorithm;

/// Returns a payload without a manifest whose length is `len`: a zstd frame with so much noise that it is one.
fn payload(len: usize) -> Vec<u8> {
    let data = zstd::encode_all(&b"zsnap"[..], 1).unwrap();
    // A skippable frame takes the rest.
    let rest = len - data.len() - 8;
    [&[0x5f, 0x2a, 0x4d, 0x18][..], &(rest as u32).to_le_bytes(), &noise(rest, len as u64), &data].concat()
}

/// Why a payload that was decrypted right is refused: it is not a ZFS stream, and has no manifest that says so.
fn was_decrypted(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Malformed(why) if why.contains("stream"))
}

#[test]
fn a_message_is_decrypted_whatever_its_cipher_and_length() {
    let algorithms = [SymmetricAlgorithm::AES128, SymmetricAlgorithm::AES192, SymmetricAlgorithm::AES256];
    for format in FORMATS {
        let site = Site::new(format);
        let backup = Cert::from_file(site.path("backup.cert")).unwrap();
        // Around a block, the held back integrity check, Sequoia's chunks of 4 KiB, our buffers of 256 KiB, and the
        // parts of the packets.
        let around = [64, 4096, 8192, 64 << 10, 256 << 10, 512 << 10, 1 << 20];
        let lengths = around.iter().flat_map(|length| length - 40..length + 24);
        for (i, length) in lengths.enumerate() {
            let container = Container { algorithm: algorithms[i % 3], hidden: i % 2 == 0, format };
            let inside = packets::packets(&payload(length), Some(&site.path("laptop.key")));
            let message = packets::encrypted(&inside, &backup, container);
            let limits: &Limits = if i % 4 < 2 { &TWICE } else { &IN_MEMORY };
            let refusal = open(&message, &site.trust(), limits).unwrap_err();
            assert!(was_decrypted(&refusal), "{length} {container:?}: {refusal}");
        }
    }
}

#[test]
#[allow(deprecated, reason = "they are what is tested")]
fn a_message_in_a_weak_cipher_is_malformed() {
    let site = Site::new(Format::Gpg);
    let backup = Cert::from_file(site.path("backup.cert")).unwrap();
    let inside = packets::packets(&payload(100), Some(&site.path("laptop.key")));
    for algorithm in [SymmetricAlgorithm::TripleDES, SymmetricAlgorithm::CAST5] {
        if !algorithm.is_supported() {
            continue;
        }
        let message = packets::encrypted(&inside, &backup, Container { algorithm, ..Container::of(Format::Gpg) });
        let refusal = site.open(&message).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed(_)) && !was_decrypted(&refusal), "{algorithm}: {refusal}");
    }
}

#[test]
fn a_message_for_a_hidden_recipient_is_opened() {
    for format in FORMATS {
        let site = Site::new(format);
        let backup = Cert::from_file(site.path("backup.cert")).unwrap();
        let inside = packets::packets(&payload(5000), None);
        let message = packets::encrypted(&inside, &backup, Container { hidden: true, ..Container::of(format) });
        let lax = Trust { unsigned: true, ..site.trust() };
        assert!(was_decrypted(&open(&message, &lax, &IN_MEMORY).unwrap_err()));
        assert!(matches!(site.open(&message), Err(Refusal::Unsigned)), "{format:?}");
        let other = Site::new(format);
        assert!(matches!(other.open(&message), Err(Refusal::NoKey(_))), "{format:?}");
    }
}
