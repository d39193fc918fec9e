//! Decides the zstd level: data that does not compress gets the fastest one, until it compresses again.

/// The level for data that does not compress. Other levels look for matches that are not there, for a third of the
/// time that sealing takes.
const FASTEST: i32 = 1;
/// The number of bytes after which the level is decided again.
const STEP: u64 = 16 << 20;
/// A step compresses if this part of it, or more, is saved.
const SAVED: u64 = 64;
/// So many steps in a row must save nothing: what a thread writes comes up to two jobs of 8 MiB after it was read, so
/// that one step may seem to save nothing.
const PATIENCE: u32 = 3;
/// After so many steps at the fastest level, the given one is tried: it may find what the fastest does not.
const TRY: u32 = 16;

/// The state of the decision.
pub struct Effort {
    level: i32,
    /// The number of bytes read and written until the last decision.
    before: (u64, u64),
    /// The number of steps in a row that saved nothing.
    idle: u32,
}

impl Effort {
    /// Begins at the given level.
    pub fn new(level: i32) -> Effort {
        Effort { level, before: (0, 0), idle: 0 }
    }

    /// Returns the level from now on, if it is time to decide: after zstd has read and written so many bytes in all.
    pub fn decide(&mut self, read: u64, written: u64) -> Option<i32> {
        let (input, output) = (read - self.before.0, written.saturating_sub(self.before.1));
        if input < STEP || self.level <= FASTEST {
            return None;
        }
        self.before = (read, written);
        self.idle = match self.idle + 1 {
            _ if output < input - input / SAVED => 0,
            idle if idle > PATIENCE + TRY => PATIENCE - 1,
            idle => idle,
        };
        Some(if self.idle < PATIENCE { self.level } else { FASTEST })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the levels after steps that save so many percent.
    fn levels(level: i32, saved: &[u64]) -> Vec<Option<i32>> {
        let (mut effort, mut read, mut written) = (Effort::new(level), 0, 0);
        let step = |percent: &u64| {
            (read, written) = (read + STEP, written + STEP / 100 * (100 - percent));
            effort.decide(read, written)
        };
        saved.iter().map(step).collect()
    }

    #[test]
    fn data_that_does_not_compress_gets_the_fastest_level_until_it_does() {
        assert_eq!(levels(8, &[50, 0, 1, 0, 0, 2, 0, 0, 0]), [8, 8, 8, 1, 1, 8, 8, 8, 1].map(Some));
        assert_eq!(levels(1, &[0, 0, 0, 50]), [None; 4]);
        assert_eq!(Effort::new(8).decide(STEP - 1, STEP), None);
    }

    #[test]
    fn the_given_level_is_tried_again_and_again() {
        let all = levels(8, &[0; 60]);
        let tried: Vec<usize> = (2..60).filter(|&at| all[at] == Some(8)).collect();
        assert_eq!(tried, [19, 37, 55]);
    }
}
