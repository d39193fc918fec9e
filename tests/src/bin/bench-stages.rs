//! Measures what each stage of verifying and sealing costs on one core, with the libraries that the tools use: the
//! profile behind the ratios of `tests/bench`.

use std::hint::black_box;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sequoia_openpgp::crypto::SessionKey;
use sequoia_openpgp::crypto::symmetric::{BlockCipherMode, Encryptor, PaddingMode};
use sequoia_openpgp::types::{AEADAlgorithm, SymmetricAlgorithm};
use sha2::Digest;
use zsnap_common::stream::Gate;
use zsnap_tests::sealed::noise;
use zsnap_tests::stream::{Rec, Stream, Sub};

const SIZE: usize = 64 << 20;
/// What the tools read at a time.
const STEP: usize = 256 << 10;

/// Prints the speed of `work`, which handles [`SIZE`] bytes: the best of five.
fn measure(what: &str, mut work: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed());
    }
    let speed = SIZE as f64 / 1e6 / best.as_secs_f64();
    println!("  {what:46} {speed:7.0} MB/s {:6.2} s per GiB", 1_073.741_824 / speed);
}

/// Encrypts with a cipher of Sequoia's, block by block or all blocks at once.
fn cipher(data: &[u8], key: &SessionKey, mode: BlockCipherMode) {
    let mut to =
        Encryptor::new(SymmetricAlgorithm::AES256, mode, PaddingMode::None, key, None, std::io::sink()).unwrap();
    data.chunks(STEP).for_each(|piece| to.write_all(piece).unwrap());
}

fn main() {
    let data = noise(SIZE, 1);
    let text: Vec<u8> =
        (0..SIZE as u32 / 8).flat_map(|i| (i / 3).wrapping_mul(40_503).to_le_bytes().repeat(2)).collect();
    let key = SessionKey::new(32).unwrap();
    println!("stages, one core, {} MiB, best of five:", SIZE >> 20);
    measure("AES-256, all blocks at once (to read format gpg)", || cipher(&data, &key, BlockCipherMode::ECB));
    measure("AES-256-CFB, block by block (to write it)", || cipher(&data, &key, BlockCipherMode::CFB));
    let (chunk, mut sealed) = (64 << 10, vec![0; (64 << 10) + 16]);
    measure("AES-256-OCB, chunks of 64 KiB (format aead)", || {
        for piece in data.chunks(chunk) {
            let context = AEADAlgorithm::OCB.context(SymmetricAlgorithm::AES256, &key, &[], &[0; 15]);
            context.unwrap().for_encryption().unwrap().encrypt_seal(&mut sealed, piece).unwrap();
        }
    });
    measure("SHA-1 (integrity check of format gpg)", || _ = black_box(sha1::Sha1::digest(&data)));
    measure("SHA-256 (signature; digest of the stream)", || _ = black_box(sha2::Sha256::digest(&data)));
    measure("BLAKE3 (digests between two passes)", || _ = black_box(blake3::hash(&data)));
    for (what, plain) in [("random bytes", &data), ("repetitive records", &text)] {
        let packed = zstd::bulk::compress(plain, 8).unwrap();
        let mut piece = vec![0; STEP];
        measure(&format!("zstd, decompress {what}"), || {
            let mut from = zstd::stream::read::Decoder::new(&packed[..]).unwrap();
            while from.read(&mut piece).unwrap() > 0 {}
        });
        measure(&format!("zstd -8, compress {what}"), || drop(black_box(zstd::bulk::compress(plain, 8).unwrap())));
    }
    let records = Rec::file(data.chunks(128 << 10).take(SIZE >> 17));
    let stream = Stream::plain(Sub::full("tank@a", 1).records(records)).bytes();
    measure("gate, with fletcher-4 (ZFS streams)", || {
        let mut gate = Gate::new();
        stream.chunks(STEP).for_each(|piece| gate.feed(piece, &mut |_| Ok(())).unwrap());
        black_box(gate.finish().unwrap());
    });
    let mut copy = vec![0; STEP];
    measure("copy within the cache", || {
        for piece in data.chunks_exact(STEP) {
            copy.copy_from_slice(piece);
            black_box(&copy);
        }
    });
    measure("first use of memory, in small pages", || drop(black_box(vec![1_u8; SIZE])));
}
