//! The memory of sealing and opening does not grow with the message. This test has a process of its own because it
//! measures the peak.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;
use std::io::{self, Write};

use sha2::{Digest, Sha256};
use zsnap_message::keys::Format;
use zsnap_message::open::{Limits, verify};
use zsnap_message::payload::Trailer;
use zsnap_message::seal::{Sealing, seal};
use zsnap_tests::sealed::*;

/// Returns the peak of resident memory so far, in MiB (proc(5)).
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

struct Digested(Sha256, u64);

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        self.1 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn two_hundred_mebibytes_are_sealed_and_opened_in_bounded_memory() {
    let site = Site::new(Format::Aead);
    for format in FORMATS {
        let mut digest = Digested(Sha256::new(), 0);
        let piece = noise(1 << 20, 8);
        let body = |to: &mut dyn Write| {
            for i in 0..200_u8 {
                let mut piece = piece.clone();
                piece.iter_mut().step_by(64).for_each(|byte| *byte ^= i);
                digest.write_all(&piece)?;
                to.write_all(&piece)?;
            }
            let sha256 = digest.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Trailer { zsnap: 1, bytes: digest.1, sha256, substreams: None, to: None })
        };
        let how = Sealing { threads: 2, ..site.sealing(format) };
        let file = seal(tempfile::tempfile().unwrap(), &how, &manifest(), body).unwrap().0;
        assert!(file.metadata().unwrap().len() > 180 << 20);
        let verified = verify(
            file,
            &site.trust(),
            &Limits { verify_buffer: 1 << 20, window_log: 27, max_size: None, max_ratio: 10_000 },
        )
        .unwrap();
        let mut again = Digested(Sha256::new(), 0);
        verified.replay(&mut again).unwrap();
        assert_eq!((again.1, again.0.finalize()), (digest.1, digest.0.finalize()));
        assert!(peak() < 160, "{format:?}: {} MiB", peak());
    }
}
