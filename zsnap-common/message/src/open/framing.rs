//! Follows OpenPGP packets by their headers alone (RFC 9580, 4.2): those of a message, and those inside its encrypted
//! packet. This finds the body of the one packet that matters in each, and distinguishes a whole message, a truncated
//! one, one that is followed by more bytes, and something else, whatever keys we have.

use super::Refusal;

/// The maximum number of session key packets in a message. Each can cost us a public-key operation.
const MAX_KEYS: u32 = 64;

/// The maximum number of packets beside each other; ours has two or three. Each costs memory.
const MAX_PACKETS: u32 = 256;

/// The maximum length of everything but the encrypted packet, in bytes: 64 session keys are smaller.
const MAX_BESIDE: u64 = 1 << 20;

/// The minimum length of an encrypted packet, in bytes: version (1), random prefix (18), integrity check (22).
const MIN_ENCRYPTED: u64 = 41;

/// The length octet of the shortest first part of a body, 512 bytes (RFC 9580, 4.2.1.4).
const FIRST_PART: u8 = 224 + 9;

/// Which packets are allowed, and which of them has the content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// Session keys, then the encrypted packet.
    Message,
    /// One-pass signatures or signatures, the literal packet, signatures.
    Encrypted,
}

/// Follows packets as their bytes are read.
pub struct Framing {
    layer: Layer,
    /// The number of bytes that were not fed yet. `u64::MAX` if nobody knows.
    ahead: u64,
    /// The bytes of an unfinished header.
    header: Vec<u8>,
    /// The number of bytes of the body before the next header.
    left: u64,
    /// Whether the next header is that of a further part of the same body.
    partial: bool,
    /// The number of packets that began.
    packets: u32,
    /// The number of those that have a session key.
    keys: u32,
    /// The number of bytes of the packets beside the one with the content.
    beside: u64,
    /// Whether the current packet is the one with the content.
    in_content: bool,
    /// Whether the packet with the content has begun.
    content: bool,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of the body of the packet that has the content.
    Content(usize),
    /// So many bytes of anything else: headers, other packets.
    Other(usize),
}

impl Framing {
    /// Creates the state before a message of `length` bytes.
    pub fn of_message(length: u64) -> Framing {
        Framing::new(Layer::Message, length)
    }

    /// Creates the state before the decrypted content of an encrypted packet.
    pub fn of_encrypted() -> Framing {
        Framing::new(Layer::Encrypted, u64::MAX)
    }

    fn new(layer: Layer, ahead: u64) -> Framing {
        let header = Vec::new();
        let (left, partial, packets, keys, beside) = (0, false, 0, 0, 0);
        Framing { layer, ahead, header, left, partial, packets, keys, beside, in_content: false, content: false }
    }

    /// Says what the first of `bytes`, which must not be empty, are; the rest is for the next call.
    ///
    /// # Errors
    /// These packets are not allowed here, or not in this order; or a packet is longer than the message.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Piece, Refusal> {
        if self.left > 0 {
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= n as u64;
            self.ahead = self.ahead.saturating_sub(n as u64);
            return Ok(if self.in_content { Piece::Content(n) } else { Piece::Other(n) });
        }
        for (n, octet) in (1..).zip(bytes) {
            self.ahead = self.ahead.saturating_sub(u64::from(self.ahead < u64::MAX));
            self.header.push(*octet);
            if self.header.len() == 1 && !self.partial {
                self.packet(*octet)?;
            }
            if let Some((length, partial)) = self.length()? {
                self.body(length, partial)?;
                return Ok(Piece::Other(n));
            }
        }
        Ok(Piece::Other(bytes.len()))
    }

    /// Begins the body of a packet, or a further part of it.
    fn body(&mut self, length: u64, partial: bool) -> Result<(), Refusal> {
        if length > self.ahead {
            return Err(cut());
        }
        if self.layer == Layer::Message && self.in_content && !self.partial && length < MIN_ENCRYPTED {
            return Err(Refusal::Damaged("its encrypted part is too short to be any".into()));
        }
        if !self.in_content {
            self.beside = self.beside.saturating_add(length).saturating_add(self.header.len() as u64);
            if self.beside > MAX_BESIDE {
                return Err(Refusal::Malformed("its packets beside the data are longer than 1 MiB".into()));
            }
        }
        (self.left, self.partial) = (length, partial);
        self.header.clear();
        Ok(())
    }

    /// Whether the packet with the content has begun and ended, and so has every other one.
    pub fn is_complete(&self) -> bool {
        self.content && self.left == 0 && !self.partial && self.header.is_empty()
    }

    /// Whether the last bytes belonged to the packet with the content: to its headers or its body.
    pub fn is_in_content(&self) -> bool {
        self.in_content
    }

    /// Checks the first octet of a packet.
    fn packet(&mut self, octet: u8) -> Result<(), Refusal> {
        let tag = if octet & 0x40 == 0 { octet >> 2 & 0x0f } else { octet & 0x3f };
        self.packets += 1;
        if self.packets > MAX_PACKETS {
            return Err(Refusal::Malformed("it has more than 256 packets".into()));
        }
        match self.layer {
            Layer::Message => self.message_packet((octet & 0x80 != 0).then_some(tag)),
            Layer::Encrypted => self.encrypted_packet((octet & 0x80 != 0).then_some(tag)),
        }
    }

    /// Checks a packet of a message by its tag; `None` is an octet that begins no packet.
    fn message_packet(&mut self, tag: Option<u8>) -> Result<(), Refusal> {
        if self.content {
            return Err(Refusal::Damaged("bytes follow the end of the message".into()));
        }
        let other = |what: &str| Err(Refusal::Malformed(what.into()));
        match tag {
            None if self.keys > 0 => Err(Refusal::Damaged("its packets are garbled".into())),
            None => other("it is not a binary OpenPGP message"),
            Some(1 | 3) if self.keys == MAX_KEYS => other("it is encrypted to more than 64 keys"),
            Some(1 | 3) => {
                self.keys += 1;
                Ok(())
            }
            Some(10) => Ok(()), // a marker: means nothing
            Some(18) => {
                (self.in_content, self.content) = (true, true);
                Ok(())
            }
            Some(9) => other("it is encrypted without integrity protection"),
            Some(20) => other(
                "it is in GnuPG's own OCB format: encrypt with gpg --rfc4880, or to keys made by zsnap-ingest keygen",
            ),
            _ if self.keys > 0 => Err(Refusal::Damaged("its packets are garbled".into())),
            _ => other("it is not an encrypted OpenPGP message"),
        }
    }

    /// Checks a packet inside the encrypted one by its tag; `None` is an octet that begins no packet. Sequoia, which
    /// verifies these packets, would skip bytes that are none, and accept what follows.
    fn encrypted_packet(&mut self, tag: Option<u8>) -> Result<(), Refusal> {
        let refuse = |what: &str| Err(Refusal::Malformed(what.into()));
        self.in_content = tag == Some(11);
        match tag {
            Some(8) => refuse("it is compressed by OpenPGP: encrypt with gpg --compress-algo none"),
            Some(1 | 3 | 9 | 18 | 20) => refuse("it is encrypted twice"),
            Some(11) if !self.content => {
                self.content = true;
                Ok(())
            }
            Some(4) if !self.content => Ok(()),
            Some(2 | 10 | 21) => Ok(()), // a signature, a marker, padding
            None => refuse("what it encrypts is not OpenPGP packets"),
            Some(_) => refuse("it is not data, signed at most once and encrypted once"),
        }
    }

    /// Returns the length in the header, once that is complete, and whether more parts follow.
    fn length(&self) -> Result<Option<(u64, bool)>, Refusal> {
        let garbled = || {
            let why = "its packets are garbled".into();
            Err(if self.layer == Layer::Message { Refusal::Damaged(why) } else { Refusal::Malformed(why) })
        };
        let (old, octets) = match (self.partial, self.header.as_slice()) {
            (true, octets) => (None, octets),
            (false, [first, octets @ ..]) if first & 0x40 == 0 => (Some(first & 3), octets),
            (false, [_, octets @ ..]) => (None, octets),
            (false, []) => return Ok(None),
        };
        let number = |octets: &[u8]| octets.iter().fold(0, |n, octet| n << 8 | u64::from(*octet));
        Ok(match (old, octets) {
            (Some(3), _) => return garbled(), // to the end of the file: neither gpg nor Sequoia writes that here
            (Some(kind), _) => (octets.len() == 1 << kind).then(|| (number(octets), false)),
            (None, []) => None,
            (None, [one @ ..=191]) => Some((u64::from(*one), false)),
            (None, [192..=223]) => None,
            (None, [one, two]) if *one < 224 => Some((((u64::from(*one) - 192) << 8) + u64::from(*two) + 192, false)),
            (None, [one @ 224..=254]) if self.in_content && (self.partial || *one >= FIRST_PART) => {
                Some((1 << (one & 0x1f), true))
            }
            (None, [224..=254]) => return garbled(),
            (None, octets) => (octets.len() == 5).then(|| (number(&octets[1..]), false)),
        })
    }
}

/// Returns the refusal of a truncated message.
pub fn cut() -> Refusal {
    Refusal::Damaged("it is cut short".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a key packet with an old header, one with a new one, a marker, and an encrypted packet in three parts.
    fn message() -> Vec<u8> {
        let mut m = vec![0x85, 0x01, 0x00];
        m.extend([7; 256]);
        m.extend([0xc1, 192, 8]);
        m.extend([7; 200]);
        m.extend([0xca, 3, 0x50, 0x47, 0x50]);
        m.extend([0xd2, 224 + 9]);
        m.extend([1; 512]);
        m.push(224 + 10);
        m.extend([1; 1024]);
        m.extend([0xff, 0, 0, 1, 0]);
        m.extend([1; 256]);
        m
    }

    /// Feeds `bytes` in steps, and returns the content.
    fn follow_with(framing: &mut Framing, bytes: &[u8], step: usize) -> Result<Vec<u8>, Refusal> {
        let mut content = Vec::new();
        for mut rest in bytes.chunks(step) {
            while !rest.is_empty() {
                let piece = framing.step(rest)?;
                let (Piece::Content(n) | Piece::Other(n)) = piece;
                assert!(n > 0);
                if matches!(piece, Piece::Content(_)) {
                    content.extend(&rest[..n]);
                }
                rest = &rest[n..];
            }
        }
        Ok(content)
    }

    fn follow(bytes: &[u8], step: usize) -> Result<bool, Refusal> {
        let mut framing = Framing::of_message(bytes.len() as u64);
        follow_with(&mut framing, bytes, step)?;
        Ok(framing.is_complete())
    }

    #[test]
    fn a_message_is_complete_at_its_end_and_nowhere_before() {
        let m = message();
        for step in [1, 2, 3, 700, m.len()] {
            assert!(follow(&m, step).unwrap(), "{step}");
        }
        for cut in 0..m.len() {
            assert!(matches!(follow(&m[..cut], 5), Ok(false) | Err(Refusal::Damaged(_))), "{cut}");
        }
    }

    #[test]
    fn what_follows_is_refused() {
        for more in [&b"x"[..], &message()] {
            let bytes = [&message()[..], more].concat();
            assert!(matches!(follow(&bytes, 9), Err(Refusal::Damaged(_))));
        }
    }

    #[test]
    fn a_packet_longer_than_the_file_is_noticed_at_its_header() {
        let m = message();
        let mut framing = Framing::of_message(m.len() as u64 - 700);
        let encrypted = m.windows(2).position(|w| w == [0xd2, 224 + 9]).unwrap();
        let (before, after) = m.split_at(encrypted + 2 + 512);
        assert!(follow_with(&mut framing, before, 100).is_ok());
        assert!(matches!(framing.step(&after[..1]), Err(Refusal::Damaged(_))));
        let short = [&[0xd2, 40][..], &[1; 40]].concat();
        assert!(matches!(follow(&short, 1), Err(Refusal::Damaged(_))));
    }

    #[test]
    fn other_things_are_malformed() {
        let plain_literal = [0xcb, 5, b'b', 0, 0, 0, 0];
        let indeterminate = [0xa3, 1, 2, 3];
        for other in [&b"-----BEGIN PGP MESSAGE-----"[..], &[0x28, 0xb5, 0x2f, 0xfd], &plain_literal, &indeterminate] {
            assert!(matches!(follow(other, 1), Err(Refusal::Malformed(_))), "{other:?}");
        }
        assert!(matches!(follow(&[0xca, 0].repeat(257), 1), Err(Refusal::Malformed(_))), "markers");
        let keys: Vec<u8> = [0xc1, 1, 3].repeat(65);
        assert!(follow(&keys[..64 * 3], 1).is_ok());
        assert!(matches!(follow(&keys, 1), Err(Refusal::Malformed(_))));
        assert!(matches!(follow(&[0xc1, 1, 3, 0x41], 1), Err(Refusal::Damaged(_))));
        assert!(matches!(follow(&[0xc1, 224], 1), Err(Refusal::Damaged(_))));
    }
    #[test]
    fn the_content_is_the_body_of_one_packet_without_its_headers() {
        let m = message();
        for step in [1, 3, 300, m.len()] {
            let content = follow_with(&mut Framing::of_message(m.len() as u64), &m, step).unwrap();
            assert_eq!(content, vec![1; 512 + 1024 + 256], "{step}");
        }
    }

    fn encrypted(packets: &[&[u8]]) -> Result<(Vec<u8>, bool), Refusal> {
        let mut framing = Framing::of_encrypted();
        let content = follow_with(&mut framing, &packets.concat(), 2)?;
        Ok((content, framing.is_complete()))
    }

    #[test]
    fn inside_the_encrypted_packet_there_is_one_literal_packet_between_signatures() {
        // A one-pass signature, a literal packet in two parts, a signature.
        let (ops, sig): (&[u8], &[u8]) = (&[0xc4, 2, 3, 0], &[0xc2, 3, 4, 0, 0]);
        let literal = &[&[0xcb, 224 + 9][..], &[b'b'; 512], &[2, 7, 7]].concat()[..];
        let (marker, padding): (&[u8], &[u8]) = (&[0xca, 3, b'P', b'G', b'P'], &[0xd5, 1, 0]);
        let good: [&[&[u8]]; 5] = [
            &[ops, literal, sig],
            &[literal],
            &[sig, literal],
            &[ops, ops, literal, sig, sig],
            &[marker, literal, padding],
        ];
        for packets in good {
            assert_eq!(encrypted(packets).unwrap(), ([&[b'b'; 512][..], &[7, 7]].concat(), true));
        }
        assert!(!encrypted(&[ops]).unwrap().1, "no literal packet");
        assert!(!encrypted(&[ops, &literal[..300]]).unwrap().1, "half of one");
        let bad: [&[&[u8]]; 9] = [
            &[literal, literal],
            &[literal, ops],
            &[&[0xc8, 1, 0]],                 // compressed
            &[&[0xc1, 1, 3]],                 // a session key
            &[ops, literal, sig, b"junk"],    // no packet
            &[&[0xaf, b'b', 0, 0]],           // a literal packet without a length
            &[&[0xc4, 224, 3], literal, sig], // a signature in parts
            &[&[0xcb, 224, b'b', 1, 7]],      // a first part of one byte
            &[&[0xc2, 0].repeat(256), literal],
        ];
        for packets in bad {
            assert!(matches!(encrypted(packets), Err(Refusal::Malformed(_))), "{packets:?}");
        }
        let long = [&[0xc2, 0xff, 0, 0x10, 0, 0][..], &[0; 1 << 20]].concat();
        assert!(matches!(encrypted(&[&long]), Err(Refusal::Malformed(_))), "a signature of 1 MiB");
    }
}
