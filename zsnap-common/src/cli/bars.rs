//! The lines on the terminal that show progress, and how other output gets past them.

use std::io::{self, IsTerminal};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Shows a bar below those that are shown already.
pub(crate) fn add(bar: ProgressBar) -> ProgressBar {
    BARS.add(bar)
}

/// Hides the bars while `write` writes to stderr.
pub(crate) fn aside(write: impl FnOnce()) {
    if io::stderr().is_terminal() { BARS.suspend(write) } else { write() }
}
