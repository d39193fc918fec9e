//! Memory for what is kept of a message: its payload, its uncompressed stream.

use std::ops::Deref;

use memmap2::{Advice, MmapMut};

/// The length of a message in bytes from which on its memory is asked for in huge pages. The kernel clears each page
/// that is used, and takes three times as long for small pages; but a huge one takes as long as 512 small ones.
const HUGE: u64 = 4 << 20;

/// Bytes that grow up to a limit. Only what is written takes memory.
pub struct Memory {
    bytes: MmapMut,
    filled: usize,
}

impl Memory {
    /// Reserves memory for up to `most` bytes of a message that has `length` bytes. Returns `None` if `most` is 0, or
    /// the system refuses.
    pub fn reserve(most: u64, length: u64) -> Option<Memory> {
        let most = usize::try_from(most).ok().filter(|most| *most > 0)?;
        let bytes = MmapMut::map_anon(most).ok()?;
        if length >= HUGE {
            // A kernel without huge pages is only slower.
            let _ = bytes.advise(Advice::HugePage);
        }
        Some(Memory { bytes, filled: 0 })
    }

    /// Returns what is not filled yet.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Takes the first `n` bytes of [`Memory::space`] as filled.
    pub fn advance(&mut self, n: usize) {
        self.filled = (self.filled + n).min(self.bytes.len());
    }

    /// Appends `bytes`. Returns `false` if they do not fit.
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(space) = self.space().get_mut(..bytes.len()) else { return false };
        space.copy_from_slice(bytes);
        self.advance(bytes.len());
        true
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_what_fits() {
        let mut memory = Memory::reserve(5, HUGE).unwrap();
        assert!(memory.append(b"ab") && memory.append(b"") && !memory.append(b"cdef"));
        memory.space()[..3].copy_from_slice(b"xyz");
        memory.advance(3);
        assert!(memory.space().is_empty());
        assert_eq!(memory[..], *b"abxyz");
        assert!(Memory::reserve(0, 1).is_none() && Memory::reserve(1 << 62, 1).is_none());
    }
}
