//! A line on the terminal that shows how far long work is.

use std::io::IsTerminal;
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Bytes so far on a terminal; nothing where stderr is none. Gone when dropped.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// `what` stands in front; `total` in bytes where known.
    pub fn new(what: &str, total: Option<u64>) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{prefix} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
            None => (ProgressBar::no_length(), "{prefix} {bytes}, {bytes_per_sec}"),
        };
        let bar = BARS.add(bar).with_prefix(super::escape::escape(what));
        // The templates are constants: an error cannot come, and a plain bar would do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress(Some(bar))
    }

    /// Adds bytes.
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

/// Writes to stderr with the bars out of the way.
pub(crate) fn aside(write: impl FnOnce()) {
    if std::io::stderr().is_terminal() { BARS.suspend(write) } else { write() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid_and_counts() {
        // On no terminal there is no bar, and nothing fails.
        let progress = Progress::new("x\x1b", Some(10));
        progress.add(11);
        assert_eq!(progress.0.is_some(), std::io::stderr().is_terminal());
        let mut said = false;
        aside(|| said = true);
        assert!(said);
    }
}
