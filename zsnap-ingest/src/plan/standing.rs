//! The standing of a queue file: what is known and decided about it. A run, `plan` and `status` all derive what they
//! do and report from it, so that they cannot disagree.

/// The standing of a queue file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was not examined yet; the next run examines it.
    New,
    /// To be applied without its first `skip` substreams, whose snapshots exist by then.
    Ready {
        /// How many substreams to skip.
        skip: usize,
        /// It was received before, but it and all later snapshots are gone: the pool was rewound.
        again: bool,
    },
    /// Its last snapshot exists, or the file was applied: to be removed.
    AlreadyThere,
    /// What was applied came after it: to be removed.
    Stale,
    /// A Ready file contains all of it. Once that is applied, this one is AlreadyThere or Stale.
    Superseded,
    /// It was applied, or need not be, and cannot be removed: it stays, and counts as if it were gone.
    Kept,
    /// It was not processed for a reason that passes by itself, for example because it may still be arriving. Contains
    /// the reason.
    Skipped(String),
    /// Its pool, its directory or its target is away. Contains what is away.
    Away(String),
    /// It stays until something that it needs arrives.
    Waiting {
        /// What it waits for.
        why: String,
        /// The index of the pending file that brings it, if any.
        behind: Option<usize>,
    },
    /// To be moved to quarantine. Contains the reason.
    Refused(String),
    /// It stays: it is not proven to come from its host, or nothing is configured to receive it. Contains the remedy.
    Held(String),
    /// It stays: the dataset was changed on the target, or continued without it. Contains the remedy.
    Diverged(String),
    /// It stays: it contradicts what exists on the target. Contains the remedy.
    Conflict(String),
    /// It stays, and nothing that arrives by itself will help. Contains the remedy.
    Broken(String),
    /// A program or a disk failed while it was processed; the next run tries again. Contains the failure.
    Failed(String),
}

/// The state of a chain, which is that of its worst file. The variants are ordered from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No file waits; some may be kept that were applied.
    #[default]
    Ok,
    /// The journal lists the target, but its dataset is no longer on the pool.
    Gone,
    /// The next run will process what has arrived.
    New,
    /// Its pool or directory is away.
    Away,
    /// A file waits for what it builds on.
    Waiting,
    /// A file is in quarantine, or the next run will move it there.
    Quarantined,
    /// A file is not proven to come from its host, or nothing is configured to receive it.
    Held,
    /// The dataset was changed on the target, or continued without a file.
    Diverged,
    /// A file contradicts what exists on the target.
    Conflict,
    /// The chain cannot continue: nothing that arrives by itself will help.
    Broken,
    /// A program or a disk failed while a file was processed.
    Failed,
}

impl Standing {
    /// Returns the standing of a file in parts of which one vanished during the run.
    pub fn part_gone() -> Standing {
        Standing::Skipped("a part of it is gone".into())
    }

    /// Returns the standing as one word, for `plan`.
    pub fn word(&self) -> &'static str {
        match self {
            Standing::New => "new",
            Standing::Ready { .. } => "ready",
            Standing::AlreadyThere => "there",
            Standing::Stale => "stale",
            Standing::Superseded => "superseded",
            Standing::Kept => "kept",
            Standing::Skipped(_) => "skipped",
            Standing::Away(_) => "away",
            Standing::Waiting { .. } => "waiting",
            Standing::Refused(_) => "refused",
            Standing::Held(_) => "held",
            Standing::Diverged(_) => "diverged",
            Standing::Conflict(_) => "conflict",
            Standing::Broken(_) => "broken",
            Standing::Failed(_) => "failed",
        }
    }

    /// Returns the state of a chain that has only this file, for `status`.
    pub fn state(&self) -> State {
        match self {
            Standing::Kept => State::Ok,
            Standing::New | Standing::Ready { .. } | Standing::AlreadyThere | Standing::Stale => State::New,
            Standing::Superseded | Standing::Skipped(_) => State::New,
            Standing::Away(_) => State::Away,
            Standing::Waiting { .. } => State::Waiting,
            Standing::Refused(_) => State::Quarantined,
            Standing::Held(_) => State::Held,
            Standing::Diverged(_) => State::Diverged,
            Standing::Conflict(_) => State::Conflict,
            Standing::Broken(_) => State::Broken,
            Standing::Failed(_) => State::Failed,
        }
    }

    /// Returns the reason and the remedy; empty if the word says it all.
    pub fn why(&self) -> &str {
        match self {
            Standing::New | Standing::Ready { .. } | Standing::AlreadyThere => "",
            Standing::Stale | Standing::Superseded | Standing::Kept => "",
            Standing::Waiting { why, .. } => why,
            Standing::Skipped(why) | Standing::Away(why) | Standing::Refused(why) | Standing::Held(why) => why,
            Standing::Diverged(why) | Standing::Conflict(why) | Standing::Broken(why) | Standing::Failed(why) => why,
        }
    }

    /// Whether a run applies the file.
    pub fn is_ready(&self) -> bool {
        matches!(self, Standing::Ready { .. })
    }

    /// Whether a run removes the file, or moves it to quarantine, without applying it.
    pub fn is_needless(&self) -> bool {
        matches!(self, Standing::AlreadyThere | Standing::Stale | Standing::Refused(_))
    }

    /// Whether a run reports a file of this standing that it leaves. A failure was reported when it occurred; and if
    /// the file waits for another one that is here, that is the one to report.
    pub fn is_reported(&self) -> bool {
        let elsewhere = matches!(self, Standing::Waiting { behind: Some(_), .. } | Standing::Failed(_));
        !elsewhere && self.state() >= State::Waiting
    }

    /// Returns the reason and the remedy, as a run and `status` report them; empty: nothing need be done. `long`: the
    /// file has been here for longer than max-wait.
    pub fn message(&self, long: bool) -> String {
        match self {
            Standing::Waiting { why, behind: None } if long => {
                format!("waiting {why}; for longer than max-wait: look where that was lost, or queue a full stream")
            }
            Standing::Waiting { why, .. } => format!("waiting {why}"),
            Standing::Broken(why) => format!("broken chain: {why}"),
            Standing::Refused(why) | Standing::Held(why) | Standing::Diverged(why) | Standing::Conflict(why) => {
                format!("{}: {why}", self.word())
            }
            _ => self.why().to_owned(),
        }
    }

    /// Returns the standing of a file on which a program or a disk has failed before (`failure`), if the next run will
    /// process it: until then the failure is what counts.
    pub fn after(self, failure: Option<String>) -> Standing {
        match failure {
            Some(failure) if self.state() == State::New => Standing::Failed(failure),
            _ => self,
        }
    }
}

impl State {
    /// Whether somebody must do something.
    pub fn needs_attention(self) -> bool {
        self > State::Waiting
    }

    /// The words for all states, in their order.
    pub const WORDS: [&str; 11] =
        ["ok", "gone", "new", "away", "waiting", "quarantined", "held", "diverged", "conflict", "broken", "failed"];

    /// Returns the state as one word, for reports.
    pub fn word(self) -> &'static str {
        State::WORDS.get(self as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the place of a standing in the table of the test. A new one needs a row there.
    fn place(standing: &Standing) -> usize {
        match standing {
            Standing::New => 0,
            Standing::Ready { .. } => 1,
            Standing::AlreadyThere => 2,
            Standing::Stale => 3,
            Standing::Superseded => 4,
            Standing::Skipped(_) => 5,
            Standing::Away(_) => 6,
            Standing::Waiting { .. } => 7,
            Standing::Refused(_) => 8,
            Standing::Held(_) => 9,
            Standing::Diverged(_) => 10,
            Standing::Conflict(_) => 11,
            Standing::Broken(_) => 12,
            Standing::Failed(_) => 13,
            Standing::Kept => 14,
        }
    }

    #[test]
    fn each_standing_has_one_word_state_and_message() {
        let waiting = |behind| Standing::Waiting { why: "for x".into(), behind };
        let x = || "x".to_owned();
        // The standing; the word of `plan`; the state of `status`; the message of both `status` and a run; whether a
        // run reports it.
        let rows: [(Standing, &str, &str, &str, bool); 15] = [
            (Standing::New, "new", "new", "", false),
            (Standing::Ready { skip: 0, again: true }, "ready", "new", "", false),
            (Standing::AlreadyThere, "there", "new", "", false),
            (Standing::Stale, "stale", "new", "", false),
            (Standing::Superseded, "superseded", "new", "", false),
            (Standing::Skipped(x()), "skipped", "new", "x", false),
            (Standing::Away(x()), "away", "away", "x", false),
            (waiting(None), "waiting", "waiting", "waiting for x", true),
            (Standing::Refused(x()), "refused", "quarantined", "refused: x", true),
            (Standing::Held(x()), "held", "held", "held: x", true),
            (Standing::Diverged(x()), "diverged", "diverged", "diverged: x", true),
            (Standing::Conflict(x()), "conflict", "conflict", "conflict: x", true),
            (Standing::Broken(x()), "broken", "broken", "broken chain: x", true),
            (Standing::Failed(x()), "failed", "failed", "x", false),
            (Standing::Kept, "kept", "ok", "", false),
        ];
        for (at, (standing, word, state, message, is_reported)) in rows.into_iter().enumerate() {
            assert_eq!(place(&standing), at);
            assert_eq!((standing.word(), standing.state().word()), (word, state));
            assert_eq!((standing.message(false).as_str(), standing.is_reported()), (message, is_reported), "{word}");
            // What a run reports, or has reported when it occurred, makes the status 1, and nothing else does.
            let attention = is_reported && word != "waiting" || word == "failed";
            assert_eq!(standing.state().needs_attention(), attention, "{word}");
            // An earlier failure counts for what the next run will process, and for nothing else.
            let after = standing.clone().after(Some("failed".into()));
            let expected = if state == "new" { Standing::Failed("failed".into()) } else { standing.clone() };
            assert_eq!(after, expected, "{word}");
            assert_eq!(standing.clone().after(None), standing);
        }
        assert!(!waiting(Some(1)).is_reported());
        assert_eq!(waiting(Some(1)).message(true), "waiting for x");
        assert!(waiting(None).message(true).contains("look where that was lost"));
        assert!(State::Ok < State::Gone && State::Gone < State::New && State::Away < State::Waiting);
    }
}
