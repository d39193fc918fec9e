//! Conditions that last: they are told when they are new, when they change and once a day, so that cron does not
//! mail the same lines after each run. A run that destroys nothing was asked by somebody, and always answers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use zsnap_common::cli::log;
use zsnap_common::durable::notices::Notices;

use crate::decided::{Decided, LeftAlone};
use crate::listing::is_at_or_below;

/// The kinds of what is told of a dataset, behind its name; odd properties have their own names.
const BRAKE: &str = "brake";
const BACK_DATED: &str = "back-dated";

/// What a run tells.
#[derive(Debug)]
pub struct RunNotices {
    notices: Notices,
    /// It is remembered, and not told again by the next run.
    remember: bool,
}

impl RunNotices {
    /// Reads what was told before, in the directory of the state. `None`: all is told, and nothing remembered.
    /// `clock` in seconds since 1970.
    pub fn read(state: Option<&Path>, clock: i64) -> RunNotices {
        let path = state.map_or_else(PathBuf::new, |state| state.join("told.json"));
        let notices = Notices::read(path, u64::try_from(clock).unwrap_or_default(), false);
        RunNotices { notices, remember: state.is_some() }
    }

    /// A brake holds. Returns whether that was told now.
    pub fn braked(&mut self, decided: &Decided<'_>) -> bool {
        let Some(why) = &decided.braked else { return false };
        let text = format!("{}: nothing is destroyed: {}", decided.dataset, why.with_remedy("-n"));
        self.notices.problem_in_words(&key(decided.dataset, BRAKE), &text)
    }

    /// Told once; a clock that was a little ahead is in the table only.
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

    /// Datasets of which a property cannot be read: one line for each property, whoever inherits it.
    /// Returns whether any was told now.
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

    /// Remembers what was told, and of the runs before what this one, which looked at these datasets, knows
    /// nothing of.
    pub fn write(&mut self, looked_at: &HashSet<&str>) {
        if !self.remember {
            return;
        }
        let written = self.notices.write(|what| {
            let Some((name, kind)) = what.rsplit_once(' ') else { return false };
            let of = name.split_once('@').map_or(name, |(dataset, _)| dataset);
            match kind {
                BRAKE | BACK_DATED => !looked_at.contains(of),
                // Inherited, perhaps.
                _ => !looked_at.iter().any(|dataset| is_at_or_below(dataset, of)),
            }
        });
        if let Err(e) = written {
            // It is told again: no harm.
            log::info(format_args!("{e:#}"));
        }
    }
}

fn key(name: &str, kind: &str) -> String {
    format!("{name} {kind}")
}
