//! When a run last succeeded, which `status --prometheus` prints.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::exit::Exit;
use crate::cli::log;

const FILE: &str = "last-success";

/// Records in the state directory `dir` that a run has ended now, if `exit` is that of success and no problem is
/// `unsolved`: a problem that was reported before does not change the exit status of the following runs. The record is
/// best effort and not synced: a lost one raises an alarm, and hides none.
pub fn note(dir: &Path, exit: Exit, unsolved: bool) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if exit == Exit::Done && !unsolved {
        if let Err(e) = fs::write(dir.join(FILE), format!("{now}\n")) {
            log::info(format_args!("{}: {e}", dir.join(FILE).display()));
        }
    }
}

/// Returns when the last run that succeeded ended, in seconds since 1970; `None` if none has.
pub fn last(dir: &Path) -> Option<u64> {
    fs::read_to_string(dir.join(FILE)).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_succeeds_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        note(dir.path(), Exit::SomeFailed, false);
        note(dir.path(), Exit::Done, true);
        assert_eq!(last(dir.path()), None);
        note(dir.path(), Exit::Done, false);
        assert!(last(dir.path()).unwrap() > 1_700_000_000);
        note(&dir.path().join("none"), Exit::Done, false);
    }
}
