//! How blocks are compressed: the numbers of OpenZFS `include/sys/zio.h`, `enum zio_compress`.

use super::record::{LZ4_FEATURE, ZSTD_FEATURE};

/// Not compressed (`ZIO_COMPRESS_OFF`); 0 is "inherit".
pub const OFF: u8 = 2;
const LZJB: u8 = 3;
const GZIP_1: u8 = 5;
const ZLE: u8 = 14;
const LZ4: u8 = 15;
const ZSTD: u8 = 16;

/// Whether OpenZFS 2.4 knows the number (`ZIO_COMPRESS_FUNCTIONS` is 17).
pub fn is_known(code: u8) -> bool {
    code <= ZSTD
}

/// Whether a number is an algorithm: LZJB, GZIP-1 to -9, ZLE, LZ4 or ZSTD. Nothing decompresses the others
/// ("inherit", "on", "off", "empty").
pub fn is_algorithm(code: u8) -> bool {
    code == LZJB || (GZIP_1..=ZLE).contains(&code) || code == LZ4 || code == ZSTD
}

/// Whether a stream with these features may have blocks with this compression: the receiver's pool must be able to
/// read them, and learns about them from the BEGIN record. The oldest algorithms need no feature.
pub fn is_announced(code: u8, features: u64) -> bool {
    match code {
        ZSTD => features & ZSTD_FEATURE != 0,
        LZ4.. => features & LZ4_FEATURE != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_openzfs_can_decompress_are_algorithms() {
        let all: Vec<u8> = (0..=255).filter(|code| is_algorithm(*code)).collect();
        assert_eq!(all, [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert!(all.iter().all(|code| is_known(*code)));
        let known: Vec<u8> = (0..=255).filter(|code| is_known(*code)).collect();
        assert_eq!(known, (0..17).collect::<Vec<_>>());
    }

    #[test]
    fn newer_compression_algorithms_need_their_feature() {
        for code in 0..=255 {
            assert_eq!(is_announced(code, 0), code < 15, "{code}");
            assert_eq!(is_announced(code, 1 << 17), code != 16, "{code}");
            assert_eq!(is_announced(code, 1 << 25), code < 15 || code == 16, "{code}");
        }
    }
}
