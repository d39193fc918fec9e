//! How fast sealing and opening are. Not a test: it prints seconds.
//!
//!     cargo run --release -p zsnap-tests --example seal_speed -- KEYDIR gpg|aead THREADS FILE OUT
//!
//! seals FILE into OUT, opens OUT again from memory and in two passes. KEYDIR gets keys if it has none.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "no product code")]

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use sha2::{Digest, Sha256};
use zsnap_common::keys::{Format, Keyring, Purpose, Recipients, SigningKey, keygen};
use zsnap_common::open::{Limits, Signers, Trust, verify};
use zsnap_common::payload::{Base, Epoch, Manifest, PayloadKind, Trailer};
use zsnap_common::seal::{Sealing, max_threads, seal};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, format, threads, input, output] = args.as_slice() else {
        println!("usage: seal_speed KEYDIR gpg|aead THREADS FILE OUT");
        return;
    };
    let format = if format == "aead" { Format::Aead } else { Format::Gpg };
    let dir = PathBuf::from(dir);
    let host: zsnap_common::target::Host = "laptop".parse().unwrap();
    if !dir.join("laptop.key").exists() {
        keygen(&dir.join("laptop"), Purpose::Sign(&host), true).unwrap();
        keygen(&dir.join("backup"), Purpose::Encrypt, true).unwrap();
    }
    let now = SystemTime::now();
    let recipients = Recipients::load(&[dir.join("backup.cert")], format, now).unwrap();
    let signer = SigningKey::load(&dir.join("laptop.key"), now).unwrap();
    let threads = threads.parse::<u32>().unwrap().min(max_threads(8, 256 << 20));
    let how = Sealing { recipients: &recipients, signer: Some(&signer), format, level: 8, threads };
    let manifest = Manifest {
        zsnap: 1,
        host: host.clone(),
        dataset: "etc".parse().unwrap(),
        created: 0,
        kind: PayloadKind::Opaque,
        id: "0".repeat(32),
        epoch: Epoch { id: "0".repeat(32), started: 0 },
        seq: 1,
        prev: None,
        base: Base::None,
        zfs: None,
    };

    let start = Instant::now();
    seal(File::create(output).unwrap(), &how, &manifest, |to| {
        let (mut file, mut buffer) = (File::open(input)?, vec![0; 256 << 10]);
        let (mut sha256, mut bytes) = (Sha256::new(), 0);
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                return Ok(Trailer { zsnap: 1, bytes, sha256, substreams: None, to: None });
            }
            sha256.update(&buffer[..n]);
            bytes += n as u64;
            to.write_all(&buffer[..n])?;
        }
    })
    .unwrap();
    let mut line = format!("seal {:.3}", start.elapsed().as_secs_f64());

    if std::env::var_os("SEAL_ONLY").is_some() {
        println!("{line}");
        return;
    }
    let keyring = Keyring::load(&[dir.join("backup.key")]).unwrap();
    let signers = Signers::load(&[(host.clone(), vec![dir.join("laptop.cert")])].into()).unwrap();
    let who = Trust { keyring: &keyring, signers: &signers, host: &host, unsigned: false, now };
    for (name, verify_buffer) in [("twice", 1 << 20), ("memory", 1 << 30)] {
        let start = Instant::now();
        let limits = Limits { verify_buffer, window_log: 27 };
        let verified = verify(File::open(output).unwrap(), &who, &limits).map_err(|e| e.to_string()).unwrap();
        line += &format!(" verify({name}) {:.3}", start.elapsed().as_secs_f64());
        verified.replay(&mut io::sink()).unwrap();
        line += &format!(" +replay {:.3}", start.elapsed().as_secs_f64());
        if name == "twice" {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("");
            line += &format!(" peak {}", peak.trim_start_matches("VmHWM:").trim());
        }
    }
    println!("{line}");
}
