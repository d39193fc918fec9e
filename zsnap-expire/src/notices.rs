//! Notices: persistent conditions are printed when they are new, when they change and daily, so that cron does not
//! mail the same lines after each run. With -n or --at, a user is waiting for the answer, so everything is printed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use zsnap_common::cli::log;
use zsnap_common::durable::notices::Notices;

use crate::decided::{Decided, LeftAlone};
use crate::listing::is_at_or_below;

/// The kinds of notices, which follow the name of the dataset in a key. For an odd property, its name is the kind.
const BRAKE: &str = "brake";
const BACK_DATED: &str = "back-dated";

/// The notices of a run.
#[derive(Debug)]
pub struct RunNotices {
    notices: Notices,
    /// Whether the notices are recorded, so that the next run does not print them again.
    remember: bool,
}

impl RunNotices {
    /// Reads the notices of earlier runs from the state directory. If `state` is `None`, all notices are printed and
    /// none is recorded. `clock` is in seconds since 1970.
    pub fn read(state: Option<&Path>, clock: i64) -> RunNotices {
        let path = state.map_or_else(PathBuf::new, |state| state.join("told.json"));
        let notices = Notices::read(path, u64::try_from(clock).unwrap_or_default(), false);
        RunNotices { notices, remember: state.is_some() }
    }

    /// Prints a notice if a safety limit stops the dataset. Returns whether it was printed now.
    pub fn braked(&mut self, decided: &Decided<'_>) -> bool {
        let Some(why) = &decided.braked else { return false };
        let text = format!("{}: nothing is destroyed: {}", decided.dataset, why.with_remedy("-n"));
        self.notices.problem_in_words(&key(decided.dataset, BRAKE), &text)
    }

    /// Prints a notice, only once, if snapshots are back-dated by more than a day. Smaller differences, such as of a
    /// clock that was slightly ahead, are only shown in the table.
    pub fn back_dated(&mut self, decided: &Decided<'_>) {
        let long = || decided.snapshots.iter().filter(|snapshot| snapshot.is_long_back_dated());
        if let Some(first) = long().next() {
            let text = format!(
                "{}: {} of its snapshots, such as {}, are dated more than a day before ones that were made earlier: \
                 look with -n, and at the clock of the machine that made them",
                decided.dataset,
                long().count(),
                first.name
            );
            self.notices.oddity_in_words(&key(decided.dataset, BACK_DATED), &text);
        }
    }

    /// Prints a notice for each property that cannot be read, with the number of datasets that inherit it.
    /// Returns whether any was printed now.
    pub fn odd(&mut self, all: &[LeftAlone<'_>]) -> bool {
        let (mut seen, mut any) = (HashSet::new(), false);
        for LeftAlone { dataset, why } in all.iter().filter(|alone| seen.insert(&alone.why)) {
            let more = all.iter().filter(|alone| alone.why == *why).count() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let text = format!("{dataset}{more}: nothing is destroyed: {why}");
            // Which datasets share it depends on what the run is about.
            any |= self.notices.problem_in_state(&key(&why.of, &why.property), &why.to_string(), &text);
        }
        any
    }

    /// Records the notices of this run, and keeps those of earlier runs on datasets that are not in `looked_at`, the
    /// datasets that this run has examined.
    pub fn write(&mut self, looked_at: &HashSet<&str>) {
        if !self.remember {
            return;
        }
        let written = self.notices.write(|what| {
            let Some((name, kind)) = what.rsplit_once(' ') else { return false };
            let of = name.split_once('@').map_or(name, |(dataset, _)| dataset);
            match kind {
                BRAKE | BACK_DATED => !looked_at.contains(of),
                // A dataset below may inherit the property.
                _ => !looked_at.iter().any(|dataset| is_at_or_below(dataset, of)),
            }
        });
        if let Err(e) = written {
            // Harmless: the next run prints the notices again.
            log::info(format_args!("{e:#}"));
        }
    }
}

fn key(name: &str, kind: &str) -> String {
    format!("{name} {kind}")
}
