//! The second pass over a message that is too large to be kept: it is decrypted again. The first pass authenticated
//! its payload, and a chunk of payload is released only if it is the same as then, so whoever can still write to the
//! file gains nothing.

use std::io::{Read, Write};

use super::Refusal;
use super::digests::{CHUNK, Digest, digest};
use super::framing::{Framing, Piece};
use super::message::{Decrypting, each_piece};
use super::seipd::Session;
use crate::pipe::PipeWriter;
use zsnap_common::cli::exit::Exit;

/// Reads and decrypts a message that was authenticated before, and writes its payload, if that still is the same,
/// chunk by chunk.
pub fn decrypt_again<R: Read>(
    src: &mut R,
    length: u64,
    digests: &[Digest],
    session: &Session,
    to: PipeWriter<'static>,
) -> anyhow::Result<()> {
    let mut payload = Same {
        to,
        framing: Framing::of_encrypted(),
        head: LiteralHead::default(),
        chunk: Vec::with_capacity(CHUNK),
        digests: digests.iter(),
    };
    let mut decrypting = Decrypting::new(length, |_, start| start.decrypt(session, false)?.ok_or_else(changed));
    let read = each_piece(src, length, |piece| decrypting.feed(piece, &mut |plain: &[u8]| payload.feed(plain)));
    let result = read.and_then(|()| decrypting.finish(&mut |plain: &[u8]| payload.feed(plain)));
    match result.and_then(|()| payload.finish()) {
        Ok(()) => Ok(()),
        Err(Refusal::Io(e)) => Err(e.into()),
        // Whatever is wrong with it was not wrong before.
        Err(_) => Err(Exit::Io.error("the file was changed while it was read")),
    }
}

fn changed() -> Refusal {
    Refusal::Damaged("it is not the same any more".into())
}

/// The payload of the second pass: a chunk is released only if it is the same as in the first.
struct Same<'a> {
    to: PipeWriter<'static>,
    framing: Framing,
    head: LiteralHead,
    chunk: Vec<u8>,
    digests: std::slice::Iter<'a, Digest>,
}

impl Same<'_> {
    /// Takes decrypted bytes.
    fn feed(&mut self, mut plain: &[u8]) -> Result<(), Refusal> {
        while !plain.is_empty() {
            let piece = self.framing.step(plain)?;
            let (Piece::Content(n) | Piece::Other(n)) = piece;
            let (now, later) = plain.split_at(n);
            plain = later;
            if let Piece::Content(_) = piece {
                let data = self.head.skip(now);
                self.payload(data)?;
            }
        }
        Ok(())
    }

    fn payload(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.release()?;
            }
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), Refusal> {
        if self.digests.next() != Some(&digest(&self.chunk)) {
            return Err(changed());
        }
        self.to.write_all(&self.chunk).map_err(Refusal::Io)?;
        self.chunk.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), Refusal> {
        if !self.chunk.is_empty() {
            self.release()?;
        }
        match self.framing.is_complete() && self.digests.as_slice().is_empty() {
            true => self.to.finish().map_err(Refusal::Io),
            false => Err(changed()),
        }
    }
}

/// The beginning of a literal packet: a format, the length of a name, the name, a date of four bytes (RFC 9580, 5.9).
#[derive(Default)]
struct LiteralHead {
    seen: usize,
    name: usize,
}

impl LiteralHead {
    /// Returns what of `bytes` is not the head, but the data.
    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while let [first, later @ ..] = rest {
            if self.seen == 2 + self.name + 4 {
                break;
            }
            if self.seen == 1 {
                self.name = usize::from(*first);
            }
            self.seen += 1;
            rest = later;
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_literal_packet_is_skipped() {
        for name in [0, 1, 255] {
            let bytes = [&[b'b', name][..], &vec![b'n'; usize::from(name)], &[0; 4], b"data"].concat();
            for step in [1, 2, 7, 1000] {
                let mut head = LiteralHead::default();
                let data: Vec<u8> = bytes.chunks(step).flat_map(|piece| head.skip(piece).to_vec()).collect();
                assert_eq!(data, b"data", "{name} {step}");
            }
        }
    }
}
