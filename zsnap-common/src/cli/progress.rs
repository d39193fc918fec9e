//! A line on the terminal that shows the progress of long work, and a line in the log from time to time.

use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{bars, log, report};

/// Work that takes less time is not shown, so that many small files do not make the terminal flicker.
const SHOWN_AFTER: Duration = Duration::from_millis(500);
/// How often the progress of long work is logged.
const LOGGED_EVERY: Duration = Duration::from_secs(600);

/// The progress of some work. It is shown while it lasts if stderr is a terminal, and is logged every ten minutes.
pub struct Progress {
    what: String,
    /// The number of bytes when the work is done, if known.
    total: Option<u64>,
    shown: bool,
    state: Mutex<State>,
}

struct State {
    pace: Pace,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins work that is described as `what`, such as `receiving laptop/tank/home`. `total` is the number of bytes, if
    /// known.
    pub fn new(what: &str, total: Option<u64>) -> Progress {
        let pace = Pace { began: Instant::now(), logged: Duration::ZERO, done: 0 };
        let state = Mutex::new(State { pace, bar: None });
        Progress { what: super::escape::escape(what), total, shown: io::stderr().is_terminal(), state }
    }

    /// Adds `bytes` to what is done.
    pub fn add(&self, bytes: u64) {
        let now = Instant::now();
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let line = state.pace.add(bytes, now).then(|| state.pace.line(&self.what, self.total, now));
        if self.shown && now.duration_since(state.pace.began) >= SHOWN_AFTER {
            match &state.bar {
                Some(bar) => bar.set_position(state.pace.done),
                None => state.bar = Some(self.bar(state.pace.done)),
            }
        }
        if let Some(line) = line {
            log::info(line);
        }
    }

    /// Makes the line on the terminal. It is not wider than the terminal: what does not fit of the description is cut.
    fn bar(&self, done: u64) -> ProgressBar {
        let (bar, template) = match self.total {
            Some(total) => (
                ProgressBar::new(total),
                "{wide_msg}  {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
            ),
            None => (ProgressBar::no_length(), "{wide_msg}  {bytes}  {bytes_per_sec}"),
        };
        let bar = bars::add(bar).with_message(self.what.clone()).with_position(done);
        // The rate counts from now on: what is done already did not take this moment.
        bar.reset_eta();
        // The templates are constants, so there is no error; if there were, a plain bar would do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.state.get_mut().unwrap_or_else(PoisonError::into_inner).bar {
            bar.finish_and_clear();
        }
    }
}

/// How much is done since when, and how much of it is logged.
struct Pace {
    began: Instant,
    /// How long the work had taken when it was logged last.
    logged: Duration,
    done: u64,
}

impl Pace {
    /// Adds `bytes`. Returns whether to log a line now.
    fn add(&mut self, bytes: u64, now: Instant) -> bool {
        self.done += bytes;
        let elapsed = now.duration_since(self.began);
        let due = elapsed - self.logged >= LOGGED_EVERY;
        if due {
            self.logged = elapsed;
        }
        due
    }

    /// Returns the line for the log: `receiving laptop/home: 40.0 GiB of 100.0 GiB, 20.0 MiB/s, 51 min left`.
    fn line(&self, what: &str, total: Option<u64>, now: Instant) -> String {
        let seconds = now.duration_since(self.began).as_secs().max(1);
        let rate = self.done / seconds;
        let of = total.map(|total| format!(" of {}", report::bytes(total))).unwrap_or_default();
        let left = total.filter(|_| rate > 0).map(|total| total.saturating_sub(self.done) / rate / 60);
        let left = left.map(|minutes| format!(", {minutes} min left")).unwrap_or_default();
        format!("{what}: {}{of}, {}/s{left}", report::bytes(self.done), report::bytes(rate))
    }
}

/// A reader or writer whose bytes are the progress of some work.
pub struct Watched<'a, T> {
    /// The reader or writer.
    pub inner: T,
    /// The progress; `None`: nothing is shown.
    pub progress: Option<&'a Progress>,
}

impl<T> Watched<'_, T> {
    fn passed(&self, bytes: usize) -> usize {
        if let Some(progress) = self.progress {
            progress.add(bytes as u64);
        }
        bytes
    }
}

impl<T: Read> Read for Watched<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        Ok(self.passed(n))
    }
}

impl<T: Seek> Seek for Watched<'_, T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<T: Write> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        Ok(self.passed(n))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_counted_without_a_terminal_too() {
        let progress = Progress::new("x\x1b", Some(10));
        let mut watched = Watched { inner: io::Cursor::new(vec![7; 11]), progress: Some(&progress) };
        io::copy(&mut watched, &mut io::sink()).unwrap();
        watched.seek(SeekFrom::Start(0)).unwrap();
        watched.write_all(&[1, 2]).unwrap();
        watched.progress = None;
        watched.write_all(&[3]).unwrap();
        assert_eq!(progress.state.lock().unwrap().pace.done, 13);
        assert_eq!(progress.shown, io::stderr().is_terminal());
    }

    #[test]
    fn long_work_is_logged_every_ten_minutes() {
        let began = Instant::now();
        let mut pace = Pace { began, logged: Duration::ZERO, done: 0 };
        let at = |minutes: u64| began + Duration::from_secs(60 * minutes);
        let logged: Vec<u64> = (0..=45).filter(|minute| pace.add(1 << 30, at(*minute))).collect();
        assert_eq!(logged, [10, 20, 30, 40]);
        let line = |total| pace.line("receiving laptop/a", total, at(46));
        assert_eq!(line(Some(92 << 30)), "receiving laptop/a: 46.0 GiB of 92.0 GiB, 17.0 MiB/s, 46 min left");
        assert_eq!(line(None), "receiving laptop/a: 46.0 GiB, 17.0 MiB/s");
        let none = Pace { began, logged: Duration::ZERO, done: 0 };
        assert_eq!(none.line("x", Some(1), at(1)), "x: 0 B of 1 B, 0 B/s");
    }
}
