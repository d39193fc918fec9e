//! Whether this machine has the memory that verifying a file may take. With less, anything in it may
//! fail, and a library that gets no memory often says no more than that it failed: then the file is
//! not to blame.

use std::hint::black_box;

/// What one file takes beside its zstd window and what is kept of it: the buffers of Sequoia (six times
/// 4 MiB), our pipes, stacks.
const EACH: u64 = 40 << 20;

/// The most bytes that are in use while `jobs` files are verified, with zstd windows of up to
/// 2^`window_log` bytes, and `buffer` bytes of payload, and as many of plain stream, kept of all
/// together.
pub fn most(jobs: usize, window_log: u32, buffer: u64) -> u64 {
    let window = 1_u64.checked_shl(window_log).unwrap_or(u64::MAX);
    let each = window.saturating_add(EACH);
    each.saturating_mul(jobs as u64).saturating_add(buffer.saturating_mul(2))
}

/// Whether the system gives so many bytes now; none is touched or kept.
pub fn is_enough(bytes: u64) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let given = usize::try_from(bytes).is_ok_and(|bytes| probe.try_reserve_exact(bytes).is_ok());
    // An allocation that nobody looks at may be left out by the compiler.
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
