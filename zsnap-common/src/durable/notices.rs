//! Notices: a persistent problem is reported when it is new, when it changes, and then daily, so that cron does not mail
//! the same lines after every run. A file remembers what was reported.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::exit::{Exit, OrExit};
use crate::cli::log;
use crate::durable::publish;

/// The time after which a problem that persists is reported again, in seconds: cron mails it once a day.
const AGAIN_AFTER: u64 = 24 * 3600;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    message: String,
    /// When it was reported: seconds UTC.
    at: u64,
}

/// The notices of this run and of the one before, which are read from a JSON file.
#[derive(Debug)]
pub struct Notices {
    path: PathBuf,
    before: BTreeMap<String, Line>,
    now: BTreeMap<String, Line>,
    clock: u64,
    /// Whether nothing is reported, because a command of the user runs that prints its own answer.
    dry: bool,
    /// Whether this run has reported something.
    pub any: bool,
    /// Whether this run has met a problem, even if it was not reported because it had been before.
    pub unsolved: bool,
}

impl Notices {
    /// Reads what was reported; `clock` in seconds since 1970. After a missing or damaged file, everything is
    /// reported again.
    pub fn read(path: PathBuf, clock: u64, dry: bool) -> Notices {
        let text = fs::read(&path).unwrap_or_default();
        let before = serde_json::from_slice(&text).unwrap_or_default();
        Notices { path, before, now: BTreeMap::new(), clock, dry, any: false, unsolved: false }
    }

    /// Reports a persistent problem of `what`, such as HOST/FILE, if it is new, has changed, or was reported a day ago.
    pub fn problem(&mut self, what: &str, message: &str) {
        self.lasting(what, message, &format!("{what}: {message}"), AGAIN_AFTER);
    }

    /// Reports a persistent problem as [`Notices::problem`] does, but numbers in it (times, process ids, names of
    /// temporary files) may differ from run to run: only other words are a change. `text` is the whole line.
    /// Returns whether it was reported now.
    pub fn problem_in_words(&mut self, what: &str, text: &str) -> bool {
        self.lasting(what, &without_numbers(text), text, AGAIN_AFTER)
    }

    /// Reports a persistent problem as [`Notices::problem`] does, where more than numbers differs from run to run, such
    /// as the name of the first of many files: only other words in `state` are a change. `text` is the whole line.
    /// Returns whether it was reported now.
    pub fn problem_in_state(&mut self, what: &str, state: &str, text: &str) -> bool {
        self.lasting(what, &without_numbers(state), text, AGAIN_AFTER)
    }

    /// Reports a condition that needs no fix, once.
    pub fn oddity(&mut self, what: &str, message: &str) {
        self.lasting(what, message, &format!("{what}: {message}"), u64::MAX);
    }

    /// Reports a condition that needs no fix, once. Numbers in it may differ, as in [`Notices::problem_in_words`].
    pub fn oddity_in_words(&mut self, what: &str, text: &str) -> bool {
        self.lasting(what, &without_numbers(text), text, u64::MAX)
    }

    fn lasting(&mut self, what: &str, state: &str, text: &str, again_after: u64) -> bool {
        if self.dry {
            log::info(text);
            return false;
        }
        self.unsolved |= again_after == AGAIN_AFTER;
        // One report of the same problem in a run is enough.
        if self.now.get(what).is_some_and(|line| line.message == state) {
            return false;
        }
        let recent =
            |line: &&Line| line.message == state && self.clock >= line.at && self.clock - line.at < again_after;
        let told_at = self.before.get(what).filter(recent).map(|line| line.at);
        if told_at.is_some() {
            log::info(text);
        } else {
            log::error(text);
            self.any = true;
        }
        let at = told_at.unwrap_or(self.clock);
        self.now.insert(what.to_owned(), Line { message: state.to_owned(), at });
        told_at.is_none()
    }

    /// Reports something that has happened once and needs attention.
    pub fn event(&mut self, message: String) {
        log::error(message);
        self.any = true;
        self.unsolved = true;
    }

    /// Remembers the notices of this run, and those of the run before whose subjects this run did not examine.
    pub fn write(&mut self, not_looked_at: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for (what, line) in self.before.iter().filter(|(what, _)| not_looked_at(what)) {
            self.now.entry(what.clone()).or_insert_with(|| line.clone());
        }
        if self.now == self.before {
            return Ok(());
        }
        let mut text = serde_json::to_vec_pretty(&self.now)?;
        text.push(b'\n');
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        publish::make_dirs(dir)
            .and_then(|()| publish::write_durably(&self.path, &text))
            .or_exit(Exit::Io, "what was told")
    }
}

/// Replaces each run of letters, digits and dots that contains a digit by `#`.
fn without_numbers(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let mut plain = String::new();
    for piece in text.split_inclusive(|c| !inside(c)) {
        let (word, end) = piece.split_at(piece.trim_end_matches(|c| !inside(c)).len());
        plain.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
        plain.push_str(end);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_printed_when_it_is_new_changed_or_a_day_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/told.json");
        let run = |clock: u64, problems: &[(&str, &str)]| {
            let mut notices = Notices::read(path.clone(), clock, false);
            problems.iter().for_each(|(what, message)| notices.problem(what, message));
            notices.write(|what| what.starts_with("other/")).unwrap();
            notices.any
        };
        assert!(run(1000, &[("h/f", "waits"), ("other/f", "waits")]));
        assert!(!run(2000, &[("h/f", "waits")]));
        // It was not examined in between, so it is still remembered.
        assert!(!run(2000, &[("h/f", "waits"), ("other/f", "waits")]));
        assert!(run(3000, &[("h/f", "broken")]));
        assert!(!run(3000 + AGAIN_AFTER - 1, &[("h/f", "broken")]));
        assert!(run(3000 + AGAIN_AFTER, &[("h/f", "broken")]));
        // The problem is fixed and comes back.
        assert!(!run(100_000, &[]));
        assert!(run(100_001, &[("h/f", "broken")]));
        // A clock that was set back hides no problem.
        assert!(run(100, &[("h/f", "broken")]));
    }

    #[test]
    fn a_problem_that_occurs_twice_in_a_run_is_printed_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut notices = Notices::read(dir.path().join("told.json"), 1000, false);
        notices.problem("h/...", "more");
        assert!(std::mem::take(&mut notices.any));
        notices.problem("h/...", "more");
        assert!(!notices.any);
        notices.problem("h/...", "less");
        assert!(notices.any);
    }

    #[test]
    fn an_oddity_is_printed_once_and_other_numbers_are_not_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let run = |clock: u64, words: &str| {
            let mut notices = Notices::read(dir.path().join("told.json"), clock, false);
            notices.oddity("x", "is not a queue file");
            let odd = notices.any;
            assert!(!notices.unsolved);
            notices.problem_in_words("disk", words);
            assert!(notices.unsolved, "a problem that was reported before is not solved");
            notices.write(|_| false).unwrap();
            (odd, notices.any)
        };
        assert_eq!(run(1000, "pid 1: 1.5 GiB, /d/.zsnap-0123456789abcdef: no"), (true, true));
        assert_eq!(run(2000, "pid 22: 17 GiB, /d/.zsnap-a1b2c3d4e5f60718: no"), (false, false));
        assert_eq!(run(1000 + AGAIN_AFTER, "pid 3: 0 GiB, /d/.zsnap-5: no"), (false, true));
        // The cause has changed, and so has the remedy.
        assert_eq!(run(1001 + AGAIN_AFTER, "pid 3: 0 GiB, /d/.zsnap-5: yes"), (false, true));
    }
}
