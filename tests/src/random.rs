//! Reproducible random numbers.

use std::time::Duration;

/// Returns the number of moments or histories per test: 200, or ZSNAP_TORTURE.
pub fn moments() -> u64 {
    std::env::var("ZSNAP_TORTURE").map_or(200, |n| n.parse().expect("ZSNAP_TORTURE"))
}

/// Splits a number of moments into rounds of at most 100. Each round begins with an empty directory, so that there are
/// few files to check.
pub fn rounds(moments: u64) -> impl Iterator<Item = u64> {
    (0..moments).step_by(100).map(move |done| (moments - done).min(100))
}

/// A reproducible random number generator. A failing test prints the seed for ZSNAP_SEED.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Makes a generator with the seed ZSNAP_SEED. Without it the seed is 1, or the clock if ZSNAP_TORTURE is set.
    pub fn new() -> Random {
        let now = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
        let default = || if std::env::var_os("ZSNAP_TORTURE").is_some() { now() } else { 1 };
        let seed = std::env::var("ZSNAP_SEED").map_or_else(|_| default(), |s| s.parse().expect("ZSNAP_SEED"));
        eprintln!("ZSNAP_SEED={seed}");
        Random(seed)
    }

    /// Makes a generator with this seed (splitmix64).
    pub fn seeded(seed: u64) -> Random {
        Random(seed)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns a number from 0 to n - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }

    /// Returns a duration of at most `length`.
    pub fn within(&mut self, length: Duration) -> Duration {
        length.mul_f64(self.number() as f64 / u64::MAX as f64)
    }
}

impl Default for Random {
    fn default() -> Random {
        Random::new()
    }
}

/// Returns bytes that do not compress and differ for each `id`.
pub fn noise(id: u64, length: usize) -> Vec<u8> {
    let mut random = Random::seeded(id);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.number().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}
