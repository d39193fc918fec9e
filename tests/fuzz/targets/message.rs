//! The reader of OpenPGP messages, over messages that were changed: outside, or inside before they were encrypted, as
//! anyone can who has the certificate. It never panics, and whatever it accepts is what was signed.
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sequoia_openpgp as openpgp;

use openpgp::Cert;
use openpgp::parse::Parse;
use zsnap_message::keys::Format;
use zsnap_message::open::{Refusal, verify};
use zsnap_tests::packets::{self, Container};
use zsnap_tests::sealed::{FORMATS, IN_MEMORY, Site, TWICE, manifest, noise, replayed, trailer};

const DATA: usize = 3_000;

struct Sample {
    site: Site,
    cert: Cert,
    format: Format,
    /// What is encrypted: a one-pass signature, a literal packet, a signature.
    packets: Vec<u8>,
    message: Vec<u8>,
}

static DATA_OF_ALL: LazyLock<Vec<u8>> = LazyLock::new(|| noise(DATA, 1));
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| FORMATS.iter().map(|format| sample(*format)).collect());

fn sample(format: Format) -> Sample {
    let site = Site::new(format);
    let cert = Cert::from_file(site.path("backup.cert")).unwrap();
    let zstd = zstd::encode_all(&DATA_OF_ALL[..], 1).unwrap();
    let payload = [manifest().encode().unwrap(), zstd, trailer(&DATA_OF_ALL).encode().unwrap()].concat();
    let packets = packets::packets(&payload, Some(&site.path("laptop.key")));
    let message = packets::encrypted(&packets, &cert, Container::of(format));
    Sample { site, cert, format, packets, message }
}

/// Changes `bytes` as `edits` say, five bytes each: a place, and what happens there.
fn edit(mut bytes: Vec<u8>, edits: &[u8]) -> Vec<u8> {
    for edit in edits.chunks_exact(5) {
        let [high, low, what, value, count] = edit else { continue };
        let at = (usize::from(*high) << 8 | usize::from(*low)) % (bytes.len() + 1);
        let end = (at + usize::from(*count)).min(bytes.len());
        match what % 6 {
            0 if at < bytes.len() => bytes[at] = *value,
            1 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
            2 => bytes.insert(at, *value),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    let [kind, edits @ ..] = input else { return };
    let sample = &SAMPLES[usize::from(kind & 1)];
    let inside = kind & 2 != 0;
    let changed = match inside {
        true => packets::encrypted(&edit(sample.packets.clone(), edits), &sample.cert, Container::of(sample.format)),
        false => edit(sample.message.clone(), edits),
    };
    let limits = if kind & 4 != 0 { TWICE } else { IN_MEMORY };
    match verify(Cursor::new(&changed[..]), &sample.site.trust(), &limits) {
        Ok(verified) => assert!(replayed(verified) == *DATA_OF_ALL, "something else was accepted"),
        Err(Refusal::Malformed(why)) => assert_ne!(why, "reading it failed", "a thread panicked"),
        Err(_) => {}
    }
});
