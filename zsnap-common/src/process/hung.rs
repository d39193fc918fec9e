//! The error of a process that did nothing for too long.

use std::fmt;

/// A process did nothing for too long, and was given up. No error of the system is one, not even
/// ETIMEDOUT: that is an answer.
#[derive(Debug)]
struct Hung(String);

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hung {}

/// An error that [`hangs`].
pub(crate) fn hung(what: impl fmt::Display) -> anyhow::Error {
    Hung(format!("{what:#}")).into()
}

/// Whether an error says that a process did nothing for too long: the next one would fare the same.
pub fn hangs(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| cause.is::<Hung>())
}
