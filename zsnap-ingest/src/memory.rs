//! Checks whether this machine has the memory that verifying a file may need. With less, anything may fail, and a
//! library that cannot allocate memory often reports no cause. Then the file must not be blamed.

use std::hint::black_box;

/// The memory for one file besides its zstd window and what is kept of it: the buffers of Sequoia (six times 4 MiB),
/// pipes, stacks.
const EACH: u64 = 40 << 20;

/// Returns the most bytes that are in use while `jobs` files are verified, with zstd windows of up to 2^`window_log`
/// bytes. Of all files together, `buffer` bytes of payload are kept, and as many of uncompressed streams.
pub fn most(jobs: usize, window_log: u32, buffer: u64) -> u64 {
    let window = 1_u64.checked_shl(window_log).unwrap_or(u64::MAX);
    let each = window.saturating_add(EACH);
    each.saturating_mul(jobs as u64).saturating_add(buffer.saturating_mul(2))
}

/// Whether the system can allocate so many bytes now. They are neither touched nor kept.
pub fn is_enough(bytes: u64) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let given = usize::try_from(bytes).is_ok_and(|bytes| probe.try_reserve_exact(bytes).is_ok());
    // Without this, the compiler may remove an allocation that is not used.
    black_box(&probe);
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_for_what_all_files_take_together() {
        assert_eq!(most(1, 27, 64 << 20), (128 + 40 + 128) << 20);
        assert_eq!(most(2, 27, 64 << 20), (2 * (128 + 40) + 128) << 20);
        assert_eq!(most(usize::MAX, 64, u64::MAX), u64::MAX);
        assert!(is_enough(1 << 20));
        assert!(!is_enough(1 << 62) && !is_enough(u64::MAX));
    }
}
