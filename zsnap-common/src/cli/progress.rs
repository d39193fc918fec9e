//! A line on the terminal that shows the progress of long work.

use std::io::IsTerminal;
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Shows the number of bytes so far, if stderr is a terminal. Drop removes it.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Shows a line that begins with `what`. `total` is the number of bytes, if known.
    pub fn new(what: &str, total: Option<u64>) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{prefix} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
            None => (ProgressBar::no_length(), "{prefix} {bytes}, {bytes_per_sec}"),
        };
        let bar = BARS.add(bar).with_prefix(super::escape::escape(what));
        // The templates are constants, so there is no error; if there were, a plain bar would do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress(Some(bar))
    }

    /// Adds `bytes` to the number shown.
    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Hides the bars while `write` writes to stderr.
pub(crate) fn aside(write: impl FnOnce()) {
    if std::io::stderr().is_terminal() { BARS.suspend(write) } else { write() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_without_a_terminal_does_not_fail() {
        // Without a terminal there is no bar, and nothing fails.
        let progress = Progress::new("x\x1b", Some(10));
        progress.add(11);
        assert_eq!(progress.0.is_some(), std::io::stderr().is_terminal());
        let mut called = false;
        aside(|| called = true);
        assert!(called);
    }
}
