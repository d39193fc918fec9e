//! Memory for the uncompressed stream of a message.

use std::ops::Deref;

use memmap2::{Advice, MmapMut};

/// The length of a message in bytes from which on its memory is asked for in huge pages. The kernel clears each page
/// that is used, and takes three times as long for small pages; but a huge one takes as long as 512 small ones.
const HUGE: u64 = 4 << 20;

/// Bytes up to a limit. Only what is written takes memory.
pub struct Memory {
    bytes: MmapMut,
    is_huge: bool,
    filled: usize,
}

impl Memory {
    /// Reserves memory for up to `most` bytes of a message that has `length` bytes. Returns `None` if `most` is 0, or
    /// the system refuses.
    pub fn reserve(most: u64, length: u64) -> Option<Memory> {
        let most = usize::try_from(most).ok().filter(|most| *most > 0)?;
        let bytes = MmapMut::map_anon(most).ok()?;
        // A kernel without huge pages is only slower.
        let is_huge = length >= HUGE && bytes.advise(Advice::HugePage).is_ok();
        Some(Memory { bytes, is_huge, filled: 0 })
    }

    /// Returns how many bytes of the machine's memory it takes at most.
    pub fn resident(&self) -> u64 {
        (self.filled as u64).next_multiple_of(if self.is_huge { 2 << 20 } else { 4 << 10 })
    }

    /// Returns all of it, to be filled from its beginning.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes the first `n` bytes as filled. Returns `None` if there are not as many.
    pub fn filled(self, n: u64) -> Option<Memory> {
        let filled = usize::try_from(n).ok().filter(|n| *n <= self.bytes.len())?;
        Some(Memory { filled, ..self })
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
        let filled = |n| {
            let mut memory = Memory::reserve(5, HUGE).unwrap();
            memory.space().copy_from_slice(b"abxyz");
            memory.filled(n)
        };
        assert_eq!(filled(3).unwrap()[..], *b"abx");
        assert_eq!(filled(5).unwrap()[..], *b"abxyz");
        assert!(filled(6).is_none());
        assert!(Memory::reserve(0, 1).is_none() && Memory::reserve(1 << 62, 1).is_none());
    }
}
