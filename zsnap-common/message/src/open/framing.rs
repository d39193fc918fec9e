//! Follows the outermost packets of an encrypted message, by their headers alone (RFC 9580, 4.2). Sequoia stops
//! reading where the encrypted packet ends, and reports the same error for a truncated message as for something that
//! never was a message. This distinguishes a whole message, a truncated one, one that is followed by more bytes, and
//! something else, whatever keys we have.

use super::Refusal;

/// The maximum number of session key packets in a message. Each can cost us a public-key operation.
const MAX_KEYS: u32 = 64;

/// The minimum length of an encrypted packet, in bytes: version (1), random prefix (18), integrity check (22).
/// Sequoia 2.4.2 panics on shorter ones.
const MIN_ENCRYPTED: u64 = 41;

/// Follows a message as its bytes are read.
pub struct Framing {
    /// The number of bytes of the message that were not fed yet.
    ahead: u64,
    /// The bytes of an unfinished header.
    header: Vec<u8>,
    /// The number of bytes of the body before the next header.
    left: u64,
    /// Whether the next header is that of a further part of the same body.
    partial: bool,
    keys: u32,
    /// Whether the encrypted packet has begun.
    encrypted: bool,
}

impl Framing {
    /// Creates the state before a message of `length` bytes.
    pub fn new(length: u64) -> Framing {
        Framing { ahead: length, header: Vec::new(), left: 0, partial: false, keys: 0, encrypted: false }
    }

    /// Follows the next bytes of the message.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= n as u64;
                self.ahead = self.ahead.saturating_sub(n as u64);
                bytes = &bytes[n..];
                continue;
            }
            bytes = rest;
            self.ahead = self.ahead.saturating_sub(1);
            self.header.push(*first);
            if self.header.len() == 1 && !self.partial {
                self.packet(*first)?;
            }
            if let Some((length, partial)) = self.length()? {
                if length > self.ahead {
                    return Err(cut());
                }
                if self.encrypted && !self.partial && length < MIN_ENCRYPTED {
                    return Err(Refusal::Damaged("its encrypted part is too short to be any".into()));
                }
                (self.left, self.partial) = (length, partial);
                self.header.clear();
            }
        }
        Ok(())
    }

    /// Whether the encrypted packet has ended, and nothing followed.
    pub fn is_complete(&self) -> bool {
        self.encrypted && self.left == 0 && !self.partial && self.header.is_empty()
    }

    /// Checks the first octet of a packet.
    fn packet(&mut self, octet: u8) -> Result<(), Refusal> {
        if self.encrypted {
            return Err(Refusal::Damaged("bytes follow the end of the message".into()));
        }
        let tag = if octet & 0x40 == 0 { octet >> 2 & 0x0f } else { octet & 0x3f };
        let other = |what: &str| Err(Refusal::Malformed(what.into()));
        match tag {
            _ if octet & 0x80 == 0 && self.keys > 0 => Err(Refusal::Damaged("its packets are garbled".into())),
            _ if octet & 0x80 == 0 => other("it is not a binary OpenPGP message"),
            1 | 3 if self.keys == MAX_KEYS => other("it is encrypted to more than 64 keys"),
            1 | 3 => {
                self.keys += 1;
                Ok(())
            }
            10 => Ok(()), // a marker: means nothing
            18 => {
                self.encrypted = true;
                Ok(())
            }
            9 => other("it is encrypted without integrity protection"),
            20 => other(
                "it is in GnuPG's own OCB format: encrypt with gpg --rfc4880, or to keys made by zsnap-ingest keygen",
            ),
            _ if self.keys > 0 => Err(Refusal::Damaged("its packets are garbled".into())),
            _ => other("it is not an encrypted OpenPGP message"),
        }
    }

    /// Returns the length in the header, once that is complete, and whether more parts follow.
    fn length(&self) -> Result<Option<(u64, bool)>, Refusal> {
        let garbled = || Err(Refusal::Damaged("its packets are garbled".into()));
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
            (None, [one @ 224..=254]) if self.encrypted => Some((1 << (one & 0x1f), true)),
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

    fn follow(bytes: &[u8], step: usize) -> Result<bool, Refusal> {
        let mut framing = Framing::new(bytes.len() as u64);
        bytes.chunks(step).try_for_each(|chunk| framing.feed(chunk))?;
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
        let mut framing = Framing::new(m.len() as u64 - 700);
        let encrypted = m.windows(2).position(|w| w == [0xd2, 224 + 9]).unwrap();
        assert!(framing.feed(&m[..encrypted + 2 + 512]).is_ok());
        assert!(matches!(framing.feed(&m[encrypted + 2 + 512..][..1]), Err(Refusal::Damaged(_))));
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
        let keys: Vec<u8> = [0xc1, 1, 3].repeat(65);
        assert!(follow(&keys[..64 * 3], 1).is_ok());
        assert!(matches!(follow(&keys, 1), Err(Refusal::Malformed(_))));
        assert!(matches!(follow(&[0xc1, 1, 3, 0x41], 1), Err(Refusal::Damaged(_))));
        assert!(matches!(follow(&[0xc1, 224], 1), Err(Refusal::Damaged(_))));
    }
}
