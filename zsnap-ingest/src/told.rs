//! What the operator was told: a problem that lasts is told when its state changes and once a
//! day, so that cron mails something new, not the same lines every ten minutes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use zsnap_common::log;

use crate::journal;

const AGAIN_AFTER: u64 = 24 * 3600;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    message: String,
    /// Seconds UTC.
    at: u64,
}

/// The problems of this run and of the one before.
#[derive(Debug)]
pub struct Told {
    path: PathBuf,
    before: BTreeMap<String, Line>,
    now: BTreeMap<String, Line>,
    clock: u64,
    /// Nothing is told: somebody asked, and gets an answer.
    dry: bool,
    /// Something was told in this run.
    pub any: bool,
}

impl Told {
    /// Reads what was told. A damaged list only means that all is told again.
    pub fn read(state: &Path, clock: u64, dry: bool) -> Told {
        let path = state.join("told.json");
        let before = journal::read(&path).ok().flatten().unwrap_or_default();
        Told { path, before, now: BTreeMap::new(), clock, dry, any: false }
    }

    /// A problem of `what` (HOST/FILE, say). Told on stderr if it is new, changed, or a day old.
    pub fn problem(&mut self, what: &str, message: &str) {
        let text = format!("{what}: {message}");
        if self.dry {
            return log::info(text);
        }
        let recent =
            |line: &&Line| line.message == message && self.clock >= line.at && self.clock - line.at < AGAIN_AFTER;
        let at = match self.before.get(what).filter(recent) {
            Some(line) => {
                log::info(&text);
                line.at
            }
            None => {
                log::error(&text);
                self.any = true;
                self.clock
            }
        };
        self.now.insert(what.to_owned(), Line { message: message.to_owned(), at });
    }

    /// Something that happened once and needs a look.
    pub fn event(&mut self, message: String) {
        log::error(message);
        self.any = true;
    }

    /// Remembers this run. Problems of other hosts are kept when only one host was looked at.
    pub fn write(&mut self, only: Option<&str>) -> Result<()> {
        if let Some(host) = only {
            let other = |what: &String| !what.starts_with(&format!("{host}/"));
            let kept = std::mem::take(&mut self.before).into_iter().filter(|(what, _)| other(what));
            for (what, line) in kept {
                self.now.entry(what).or_insert(line);
            }
        } else if self.now == self.before {
            return Ok(());
        }
        journal::write(&self.path, &self.now)
    }
}
