//! Sealing and opening: opening returns exactly what was sealed, or fails.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "all of this is test code")]

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use sequoia_openpgp as openpgp;
use zsnap_message::keys::{Format, Keyring, Purpose, Recipients, SigningKey, keygen};
use zsnap_message::open::{Limits, Refusal, Trust, verify};
use zsnap_message::payload::Trailer;
use zsnap_message::seal::{SealError, Sealing, seal};
use zsnap_tests::packets::{self, Container};
use zsnap_tests::sealed::*;

use openpgp::Cert;
use openpgp::cert::prelude::*;
use openpgp::parse::Parse;
use openpgp::policy::StandardPolicy;
use openpgp::serialize::stream::{LiteralWriter, Message, Signer};
use openpgp::types::ReasonForRevocation;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn opening_a_message_returns_the_sealed_bytes() {
    let mut sizes = vec![0, 1, 2, 77, 1_000_003, 3_333_333];
    for boundary in [4096, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 4 << 20, 8 << 20] {
        sizes.extend([boundary - 1, boundary, boundary + 1]);
    }
    let data = noise(9 << 20, 1);
    for format in FORMATS {
        let site = Site::new(format);
        for (i, size) in sizes.iter().enumerate() {
            let how = Sealing { threads: i as u32 % 3, ..site.sealing(format) };
            let message = sealed(&data[..*size], &how);
            // The payload is held in memory, nothing is, and all but the uncompressed stream is.
            let tight =
                Limits { verify_buffer: message.len() as u64, window_log: 27, max_size: None, max_ratio: 10_000 };
            for limits in [&IN_MEMORY, &TWICE, &tight] {
                let verified = verify(Cursor::new(&message[..]), &site.trust(), limits).unwrap();
                assert_eq!(verified.manifest(), Some(&manifest()));
                assert_eq!(verified.trailer(), Some(&trailer(&data[..*size])));
                assert_eq!(verified.bytes(), *size as u64);
                assert_eq!(verified.signer(), Some(site.signer.fingerprint().as_str()));
                assert!(verified.signed().unwrap() <= SystemTime::now());
                assert!(verified.stream().is_none());
                assert!(replayed(verified) == data[..*size], "{format:?} {size}");
            }
        }
    }
}

#[test]
fn a_message_of_compressible_data_is_small() {
    let site = Site::new(Format::Gpg);
    let data: Vec<u8> = (0..5_000_000_u32).flat_map(|i| (i / 1000).to_le_bytes()).collect();
    let message = sealed(&data, &Sealing { level: 8, threads: 4, ..site.sealing(Format::Gpg) });
    assert!(message.len() < data.len() / 10);
    let limits = Limits { verify_buffer: message.len() as u64, window_log: 27, max_size: None, max_ratio: 10_000 };
    assert!(open(&message, &site.trust(), &limits).unwrap() == data);
}

/// Whether the thread that decrypts panicked. `verify` survives that, so a test would not notice it.
fn panicked(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Malformed(why) if why == "reading it failed")
}

/// Changes a message at many positions. Each result must be an error or, if the bit has no meaning, the original data.
fn mangle(change: impl Fn(&[u8], usize) -> Vec<u8> + Sync, check: impl Fn(usize, Option<&Refusal>) + Sync) {
    for format in FORMATS {
        let site = Site::new(format);
        let data = noise(60_000, 5);
        let message = sealed(&data, &site.sealing(format));
        let count = 2_000;
        // Every byte at the beginning and at the end, and positions in between.
        let at = |i: usize| match i {
            0..500 => i,
            500..1000 => message.len() - 1 - (i - 500),
            _ => i * message.len() / count,
        };
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let i @ 0..2_000 = next.fetch_add(1, Ordering::Relaxed) {
                        let changed = change(&message, at(i));
                        let limits = if i % 4 == 0 { TWICE } else { IN_MEMORY };
                        match open(&changed, &site.trust(), &limits) {
                            Ok(plain) => {
                                assert!(plain == data, "{format:?}: byte {}: the change was not detected", at(i));
                                check(at(i), None);
                            }
                            Err(refusal) => {
                                assert!(!panicked(&refusal), "{format:?}: byte {}", at(i));
                                check(at(i), Some(&refusal));
                            }
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_flipped_bit_is_detected_at_any_position() {
    let undetected = AtomicUsize::new(0);
    let flip = |message: &[u8], at: usize| {
        let mut message = message.to_vec();
        message[at] ^= 1 << (at % 8);
        message
    };
    mangle(flip, |at, refusal| match refusal {
        Some(Refusal::Damaged(_) | Refusal::Malformed(_) | Refusal::NoKey(_) | Refusal::Forged(_)) => {}
        None => drop(undetected.fetch_add(1, Ordering::Relaxed)),
        Some(other) => panic!("byte {at}: {other:?}"),
    });
    assert!(undetected.into_inner() < 10);
}

#[test]
fn a_truncated_message_is_detected_at_any_length() {
    mangle(
        |message, at| message[..at].to_vec(),
        |at, refusal| assert!(matches!(refusal, Some(Refusal::Damaged(_))), "byte {at}: {refusal:?}"),
    );
}

#[test]
fn bytes_after_the_message_are_detected() {
    for format in FORMATS {
        let site = Site::new(format);
        let message = sealed(b"hello", &site.sealing(format));
        for more in [&b"\0"[..], b"junk", b"\xca\x03PGP", &message] {
            let refusal = site.open(&[&message[..], more].concat()).unwrap_err();
            assert!(matches!(refusal, Refusal::Damaged(_)), "{refusal:?}");
        }
    }
}

#[test]
fn data_that_is_not_a_message_is_malformed() {
    let site = Site::new(Format::Gpg);
    for other in [&b"-----BEGIN PGP MESSAGE-----\n\n"[..], b"hello", &zstd::encode_all(&b"hello"[..], 1).unwrap()] {
        assert!(matches!(site.open(other), Err(Refusal::Malformed(_))));
    }
    assert!(matches!(site.open(b""), Err(Refusal::Damaged(_))));
    assert!(matches!(site.open(&[0xd2; 40]), Err(Refusal::Damaged(_))));
    let mut plain = Vec::new();
    let mut literal = LiteralWriter::new(Message::new(&mut plain)).build().unwrap();
    literal.write_all(b"hello").unwrap();
    literal.finalize().unwrap();
    assert!(matches!(site.open(&plain), Err(Refusal::Malformed(_))));
}

#[test]
fn only_a_signer_of_the_host_may_sign_its_messages() {
    let site = Site::new(Format::Gpg);
    let message = sealed(b"hello", &site.sealing(Format::Gpg));
    let unsigned = sealed(b"hello", &Sealing { signer: None, ..site.sealing(Format::Gpg) });
    assert_eq!(site.open(&message).unwrap(), b"hello");
    assert!(matches!(site.open(&unsigned), Err(Refusal::Unsigned)));
    let lax = Trust { unsigned: true, ..site.trust() };
    assert_eq!(open(&unsigned, &lax, &IN_MEMORY).unwrap(), b"hello");
    assert_eq!(open(&message, &lax, &IN_MEMORY).unwrap(), b"hello");

    keygen(&site.path("desktop"), Purpose::Sign(&host("desktop")), false).unwrap();
    let desktop = signers(&[("desktop", &site.path("desktop.cert"))]);
    for unsigned in [false, true] {
        let trust = Trust { signers: &desktop, unsigned, ..site.trust() };
        match open(&message, &trust, &IN_MEMORY) {
            Err(Refusal::UnknownSigner(id)) => assert!(site.signer.fingerprint().ends_with(&id), "{id}"),
            other => panic!("{other:?}"),
        }
    }
    let both = signers(&[("desktop", &site.path("desktop.cert")), ("laptop", &site.path("laptop.cert"))]);
    let theirs = SigningKey::load(&site.path("desktop.key"), SystemTime::now()).unwrap();
    let forged = sealed(b"hello", &Sealing { signer: Some(&theirs), ..site.sealing(Format::Gpg) });
    for unsigned in [false, true] {
        let trust = Trust { signers: &both, unsigned, ..site.trust() };
        match open(&forged, &trust, &IN_MEMORY) {
            Err(Refusal::WrongHost { said }) => assert_eq!(said, host("desktop")),
            other => panic!("{other:?}"),
        }
    }
    // A key that may sign for both hosts does not permit a manifest of the other host.
    let shared = signers(&[("desktop", &site.path("laptop.cert")), ("laptop", &site.path("laptop.cert"))]);
    let as_desktop = host("desktop");
    let trust = Trust { signers: &shared, host: &as_desktop, ..site.trust() };
    assert!(matches!(open(&message, &trust, &IN_MEMORY), Err(Refusal::WrongHost { .. })));
}

#[test]
fn a_message_is_opened_by_the_key_of_any_recipient_and_by_no_other() {
    let site = Site::new(Format::Gpg);
    let other = Site::new(Format::Gpg);
    let message = sealed(b"hello", &site.sealing(Format::Gpg));
    let id = Cert::from_file(site.path("backup.cert")).unwrap().keys().nth(1).unwrap().key().keyid().to_hex();
    match open(&message, &Trust { keyring: &other.keyring, ..site.trust() }, &IN_MEMORY) {
        Err(Refusal::NoKey(ids)) => assert_eq!(ids, id),
        result => panic!("{result:?}"),
    }
    let ring = Keyring::load(&[other.path("backup.key"), site.path("backup.key")]).unwrap();
    assert_eq!(open(&message, &Trust { keyring: &ring, ..site.trust() }, &IN_MEMORY).unwrap(), b"hello");
    // Either of two recipients can open the message.
    let files = [site.path("backup.cert"), other.path("backup.cert")];
    let two = Recipients::load(&files, Format::Gpg, SystemTime::now()).unwrap();
    let message = sealed(b"hello", &Sealing { recipients: &two, ..site.sealing(Format::Gpg) });
    for keyring in [&site.keyring, &other.keyring] {
        assert_eq!(open(&message, &Trust { keyring, ..site.trust() }, &IN_MEMORY).unwrap(), b"hello");
    }
}

#[test]
fn a_wrong_clock_is_an_error_of_the_clock_not_of_the_file() {
    let site = Site::new(Format::Gpg);
    let message = sealed(b"hello", &site.sealing(Format::Gpg));
    let now = SystemTime::now();
    for at in [now + 3650 * DAY, now - DAY / 2] {
        assert_eq!(open(&message, &Trust { now: at, ..site.trust() }, &IN_MEMORY).unwrap(), b"hello");
    }
    for at in [now - 2 * DAY, now - 365 * DAY, SystemTime::UNIX_EPOCH] {
        let refusal = open(&message, &Trust { now: at, ..site.trust() }, &IN_MEMORY);
        assert!(matches!(refusal, Err(Refusal::Clock(_))), "{refusal:?}");
    }
}

/// A machine whose clock is at 2020 and that opens a file of today is in the same situation as a machine with the right
/// time that opens a file of the future.
#[test]
fn the_time_of_the_trust_argument_is_the_only_clock() {
    let site = Site::new(Format::Gpg);
    let laptop = Cert::from_file(site.path("laptop.key")).unwrap();
    let backup = Cert::from_file(site.path("backup.cert")).unwrap();
    for days in [2, 400, 20_000] {
        let then = SystemTime::now() + days * DAY;
        let message = encrypted(&signed_at(then, &[&laptop], None), &backup, false);
        let opened = |now| open(&message, &Trust { now, ..site.trust() }, &IN_MEMORY);
        assert_eq!(opened(then).unwrap(), b"hello");
        assert!(matches!(opened(SystemTime::now()), Err(Refusal::Clock(_))));
    }
}

/// Makes a signing key that was created 100 days ago and expires after `validity`, if at all.
fn old_key(validity: Option<Duration>) -> (Cert, openpgp::packet::Signature) {
    let made = SystemTime::now() - 100 * DAY;
    let flags = openpgp::types::KeyFlags::empty().set_certification().set_signing();
    let builder = CertBuilder::new().set_primary_key_flags(flags).add_userid("zsnap laptop");
    builder.set_creation_time(made).set_validity_period(validity).generate().unwrap()
}

fn primary(cert: &Cert) -> openpgp::crypto::KeyPair {
    cert.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap()
}

#[test]
fn a_key_is_judged_at_the_time_of_the_signature() {
    let site = Site::new(Format::Gpg);
    let policy = StandardPolicy::new();
    let (now, dir) = (SystemTime::now(), site.dir.path());
    let judge = |cert: &str, message: &[u8]| {
        let signers = signers(&[("laptop", &site.path(&format!("{cert}.cert")))]);
        open(message, &Trust { signers: &signers, ..site.trust() }, &IN_MEMORY)
    };
    let message_by = |name: &str, at| {
        let key = SigningKey::load(&site.path(&format!("{name}.key")), at).unwrap();
        sealed(b"hello", &Sealing { signer: Some(&key), ..site.sealing(Format::Gpg) })
    };

    // A key that had expired before it signed; the same key, renewed; the old certificate in addition to the new one.
    let (cert, _) = old_key(Some(50 * DAY));
    save(dir, "expired", &cert);
    assert!(SigningKey::load(&site.path("expired.key"), now).is_err());
    let message = message_by("expired", now - 90 * DAY);
    assert!(matches!(judge("expired", &message), Err(Refusal::BadSigner(_))));
    let then = now - 60 * DAY;
    let longer = cert.set_expiration_time(&policy, then, &mut primary(&cert), Some(now + 50 * DAY)).unwrap();
    let (renewed, _) = cert.clone().insert_packets(longer).unwrap();
    save(dir, "renewed", &renewed);
    assert_eq!(judge("renewed", &message).unwrap(), b"hello");
    let both = signers(&[("laptop", &site.path("expired.cert")), ("laptop", &site.path("renewed.cert"))]);
    assert_eq!(open(&message, &Trust { signers: &both, ..site.trust() }, &IN_MEMORY).unwrap(), b"hello");

    // A key that was valid when it signed and has expired when the message is opened.
    let (cert, _) = old_key(Some(101 * DAY));
    save(dir, "ends", &cert);
    let message = message_by("ends", now);
    let later = signers(&[("laptop", &site.path("ends.cert"))]);
    let trust = Trust { signers: &later, now: now + 1000 * DAY, ..site.trust() };
    assert_eq!(open(&message, &trust, &IN_MEMORY).unwrap(), b"hello");

    // A key that was retired yesterday, one that will be retired tomorrow (after the signature), and a stolen one.
    let (cert, _) = old_key(None);
    save(dir, "revoked", &cert);
    let message = message_by("revoked", now - 90 * DAY);
    assert_eq!(judge("revoked", &message).unwrap(), b"hello");
    for (reason, at, good) in [
        (ReasonForRevocation::KeyRetired, now - DAY, false),
        (ReasonForRevocation::KeyRetired, now + DAY, true),
        (ReasonForRevocation::KeyCompromised, now + DAY, false),
    ] {
        let builder = CertRevocationBuilder::new().set_signature_creation_time(at).unwrap();
        let revocation = builder.set_reason_for_revocation(reason, b"").unwrap();
        let revocation = revocation.build(&mut primary(&cert), &cert, None).unwrap();
        let (revoked, _) = cert.clone().insert_packets(revocation).unwrap();
        save(dir, "revoked", &revoked);
        match judge("revoked", &message) {
            Ok(plain) => assert!(good && plain == b"hello", "{reason}"),
            Err(Refusal::BadSigner(_)) => assert!(!good, "{reason}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

/// Encrypts packets, or any bytes in their place, in version 1.
fn encrypted(packets: &[u8], to: &Cert, hidden: bool) -> Vec<u8> {
    packets::encrypted(packets, to, Container { hidden, ..Container::of(Format::Gpg) })
}

/// Makes signed packets with a payload like that of zsnap-queue.
fn signed(by: &[&Cert], meant_for: Option<&Cert>) -> Vec<u8> {
    signed_at(SystemTime::now(), by, meant_for)
}

fn signed_at(time: SystemTime, by: &[&Cert], meant_for: Option<&Cert>) -> Vec<u8> {
    let data = b"hello";
    let zstd = zstd::encode_all(&data[..], 1).unwrap();
    let payload = [manifest().encode().unwrap(), zstd, trailer(data).encode().unwrap()].concat();
    let mut packets = Vec::new();
    let mut message = Message::new(&mut packets);
    if let [first, rest @ ..] = by {
        let mut signer = Signer::new(message, primary(first)).unwrap();
        for cert in rest {
            signer = signer.add_signer(primary(cert)).unwrap();
        }
        if let Some(cert) = meant_for {
            signer = signer.add_intended_recipient(cert);
        }
        message = signer.creation_time(time).build().unwrap();
    }
    let mut literal = LiteralWriter::new(message).build().unwrap();
    literal.write_all(&payload).unwrap();
    literal.finalize().unwrap();
    packets
}

#[test]
fn one_good_signature_suffices_unless_another_is_forged() {
    let site = Site::new(Format::Gpg);
    let laptop = Cert::from_file(site.path("laptop.key")).unwrap();
    let backup = Cert::from_file(site.path("backup.cert")).unwrap();
    let (stranger, _) = old_key(None);
    let packets = signed(&[&laptop], Some(&backup));
    assert_eq!(site.open(&encrypted(&packets, &backup, false)).unwrap(), b"hello");
    assert_eq!(site.open(&encrypted(&packets, &backup, true)).unwrap(), b"hello");
    assert_eq!(site.open(&encrypted(&signed(&[&stranger, &laptop], None), &backup, false)).unwrap(), b"hello");
    assert_eq!(site.open(&encrypted(&signed(&[&laptop, &stranger], None), &backup, false)).unwrap(), b"hello");

    let mut packets = signed(&[&laptop, &laptop], None);
    assert_eq!(site.open(&encrypted(&packets, &backup, false)).unwrap(), b"hello");
    *packets.last_mut().unwrap() ^= 1;
    let refusal = site.open(&encrypted(&packets, &backup, false));
    assert!(matches!(refusal, Err(Refusal::Forged(_))), "{refusal:?}");

    // Another recipient of the message forwards it with its signature.
    let other = Site::new(Format::Gpg);
    let third = Cert::from_file(other.path("backup.cert")).unwrap();
    let refusal = site.open(&encrypted(&signed(&[&laptop], Some(&third)), &backup, false));
    assert!(matches!(refusal, Err(Refusal::Forged(_))), "{refusal:?}");

    // The data was replaced, and the signature kept.
    for by in [&[&laptop][..], &[&laptop, &laptop], &[&stranger, &laptop]] {
        let mut packets = signed(by, None);
        let at = packets.windows(8).position(|w| w == &b"1790000000000000"[..8]).unwrap();
        packets[at + 7] ^= 1;
        for unsigned in [false, true] {
            let trust = Trust { unsigned, ..site.trust() };
            let refusal = open(&encrypted(&packets, &backup, false), &trust, &IN_MEMORY);
            assert!(matches!(refusal, Err(Refusal::Forged(_))), "{refusal:?}");
        }
    }
}

#[test]
fn messages_of_another_structure_are_rejected() {
    let site = Site::new(Format::Gpg);
    let laptop = Cert::from_file(site.path("laptop.key")).unwrap();
    let backup = Cert::from_file(site.path("backup.cert")).unwrap();
    let packets = signed(&[&laptop], None);
    let lax = Trust { unsigned: true, ..site.trust() };
    let refused = |packets: &[u8]| {
        let refusal = open(&encrypted(packets, &backup, false), &lax, &IN_MEMORY).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed(_) | Refusal::Damaged(_)), "{refusal:?}");
    };
    refused(&encrypted(&packets, &backup, false));
    refused(&[&packets[..], &packets[..]].concat());
    let compressed = [&[0xc8, 0xff][..], &(packets.len() as u32 + 1).to_be_bytes(), &[0], &packets].concat();
    refused(&compressed);
    refused(b"");
    refused(b"hello");
    let many: Vec<&Cert> = vec![&laptop; 300];
    refused(&signed(&many, None));
}

/// Anyone who has the public key can encrypt any packets to it.
#[test]
fn hostile_packets_in_an_encrypted_message_cause_no_panic() {
    let site = Site::new(Format::Gpg);
    let laptop = Cert::from_file(site.path("laptop.key")).unwrap();
    let backup = Cert::from_file(site.path("backup.cert")).unwrap();
    let packets = signed(&[&laptop], None);
    for len in 0..60 {
        let refusal = site.open(&encrypted(&noise(len, 1), &backup, false)).unwrap_err();
        assert!(!panicked(&refusal), "{len}");
        let mut short = encrypted(b"", &backup, false);
        let body = short.len() - 43;
        assert_eq!(short[body..body + 2], [0xd2, 41]);
        short.truncate(body + 2 + len);
        short.resize(body + 2 + len, 1);
        short[body + 1] = len as u8;
        assert!(!panicked(&site.open(&short).unwrap_err()), "{len}");
    }
    for (i, format) in (0..3_000).zip(FORMATS.into_iter().cycle()) {
        let (mut changed, random) = (packets.clone(), noise(24, i));
        for bytes in random.chunks(3).take(1 + i as usize % 8) {
            let at = (usize::from(bytes[0]) << 8 | usize::from(bytes[1])) % changed.len();
            changed[at] = bytes[2];
        }
        changed.truncate(packets.len() - (i as usize % 5 == 4) as usize * usize::from(random[0]));
        match site.open(&packets::encrypted(&changed, &backup, Container::of(format))) {
            Ok(plain) => assert_eq!(plain, b"hello"),
            Err(refusal) => assert!(!panicked(&refusal), "{i}"),
        }
    }
}

#[test]
fn a_stream_that_contradicts_its_trailer_is_malformed() {
    let site = Site::new(Format::Gpg);
    // Of a host that must sign, the digest is not compared: the signature and the checksum of the zstd frame cover that.
    let length = Trailer { bytes: 4, ..trailer(b"hello") };
    for (wrong, unsigned) in [(trailer(b"Hello"), true), (length.clone(), true), (length, false)] {
        let body = |to: &mut dyn Write| {
            to.write_all(b"hello")?;
            Ok(wrong)
        };
        let message = seal(Vec::new(), &site.sealing(Format::Gpg), &manifest(), body).unwrap().0;
        for limits in [IN_MEMORY, TWICE] {
            let refusal = open(&message, &Trust { unsigned, ..site.trust() }, &limits);
            assert!(matches!(refusal, Err(Refusal::Malformed(_))), "{refusal:?}");
        }
    }
}

#[test]
fn an_error_of_the_body_is_returned() {
    let site = Site::new(Format::Gpg);
    for size in [0, 10, 1 << 20, 20 << 20] {
        let body = |to: &mut dyn Write| {
            to.write_all(&noise(size, 3))?;
            anyhow::bail!("the producer died")
        };
        let e = seal::<_, Trailer>(Vec::new(), &site.sealing(Format::Gpg), &manifest(), body).unwrap_err();
        assert!(matches!(&e, SealError::Other(e) if e.to_string() == "the producer died"), "{e:?}");
    }
    let panicked = std::panic::catch_unwind(|| {
        seal::<_, Trailer>(Vec::new(), &site.sealing(Format::Gpg), &manifest(), |_| panic!("on purpose"))
    });
    assert!(panicked.is_err());
}

/// A writer that accepts this many bytes and then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("disk full"))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.0 == 0 { Err(io::Error::other("disk full")) } else { Ok(()) }
    }
}

#[test]
fn an_error_of_the_output_ends_all_threads() {
    for format in FORMATS {
        let site = Site::new(format);
        let data = noise(30 << 20, 4);
        for threads in [0, 4] {
            let whole = sealed(&data, &Sealing { threads, ..site.sealing(format) }).len();
            for room in [0, 100, 1 << 20, 9 << 20, whole - 100] {
                let body = |to: &mut dyn Write| {
                    data.chunks(100_000).try_for_each(|chunk| to.write_all(chunk))?;
                    Ok(trailer(&data))
                };
                let how = Sealing { threads, ..site.sealing(format) };
                let e = seal(Full(room), &how, &manifest(), body).err().unwrap();
                assert!(matches!(&e, SealError::Out(e) if e.to_string() == "disk full"), "{room}: {e:?}");
            }
        }
    }
}

#[test]
fn a_change_between_the_two_passes_is_detected_before_it_is_written() {
    for format in FORMATS {
        let site = Site::new(format);
        let data = noise(30 << 20, 9);
        let message = sealed(&data, &site.sealing(format));
        // In the packets before the encrypted one, in its beginning, in the middle, and in its last byte.
        for at in [0, 30, 600, 1 << 20, 15 << 20, message.len() - 1] {
            let file = tempfile::tempfile().unwrap();
            let mut writer = file.try_clone().unwrap();
            writer.write_all(&message).unwrap();
            let verified = verify(file, &site.trust(), &TWICE).unwrap();
            writer.seek(SeekFrom::Start(at as u64)).unwrap();
            writer.write_all(&[message[at] ^ 0x10]).unwrap();
            let mut out = Vec::new();
            match verified.replay(&mut out) {
                Err(e) => {
                    assert!(format!("{e:#}").contains("was changed"), "{e:#}");
                    assert!(out.len() < data.len() && data.starts_with(&out));
                }
                // What is not part of the payload, such as the packet for another key, may change.
                Ok(()) => assert!((at < 600 || at == message.len() - 1) && out == data, "{format:?} {at}"),
            }
        }
        // A file that is truncated between the passes, and an output that fails.
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&message).unwrap();
        let verified = verify(file.try_clone().unwrap(), &site.trust(), &TWICE).unwrap();
        file.set_len(20 << 20).unwrap();
        assert!(verified.replay(&mut Vec::new()).is_err());
        let verified = verify(Cursor::new(&message[..]), &site.trust(), &TWICE).unwrap();
        assert_eq!(format!("{:#}", verified.replay(&mut Full(5 << 20)).unwrap_err()), "disk full");
    }
}

/// A reader that fails in the middle.
struct Bad<'a>(Cursor<&'a [u8]>);

impl Read for Bad<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.position() > 30_000 {
            return Err(io::Error::other("I/O error"));
        }
        let n = buffer.len().min(1000);
        self.0.read(&mut buffer[..n])
    }
}

impl Seek for Bad<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_read_error_is_not_reported_as_a_damaged_file() {
    let site = Site::new(Format::Gpg);
    let message = sealed(&noise(100_000, 6), &site.sealing(Format::Gpg));
    let refusal = verify(Bad(Cursor::new(&message)), &site.trust(), &IN_MEMORY).err();
    assert!(matches!(refusal, Some(Refusal::Io(_))), "{refusal:?}");
}
