//! The error of a process that did nothing for too long.

use std::fmt;

/// The error of a process that did nothing for too long and was given up. An error of the system is not one,
/// not even ETIMEDOUT, because it is an answer.
#[derive(Debug)]
struct Hung(String);

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hung {}

/// Returns an error for which [`hangs`] is true.
pub(crate) fn hung(what: impl fmt::Display) -> anyhow::Error {
    Hung(format!("{what:#}")).into()
}

/// Whether the error is that a process did nothing for too long. If so, the next process would hang as well.
pub fn hangs(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| cause.is::<Hung>())
}
