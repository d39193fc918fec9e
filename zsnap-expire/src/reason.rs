//! Why a snapshot stays or goes.

use std::fmt;

use jiff::civil::DateTime;

use crate::calendar::length;
use crate::rules::rule::Rule;

/// Why a snapshot stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A native rule keeps it.
    Rule(Rule),
    /// It is the oldest, and a rule with a count has some left.
    Oldest(Rule),
    /// No rule keeps it.
    NoRule,
    /// Its time is more than a day ahead.
    Future,
    /// It is the newest.
    Newest,
    /// It is one of the newest so many.
    Among(u64),
    /// So many holds are on it.
    Held(u64),
    /// The last one before a back-dated one that stays.
    Witness,
    /// These are clones of it.
    Cloned(String),
    /// zrep has not sent it.
    Unsent,
    /// zrep's next incremental begins with it.
    LastSent,
    /// simplesnap made it, and removes it itself.
    Simplesnap,
    /// A file that waits, or a chain, needs it.
    Needed,
    /// Its name is none that the policy is for.
    OtherName,
    /// The first one of the whole time that the spacing covers.
    First,
    /// At least this interval, in seconds, after the one that was kept before it.
    Spaced(i64),
    /// Less than this interval, in seconds, after the one that was kept before it.
    TooClose(i64),
    /// Older than the oldest window.
    TooOld,
    /// It expires then, or has: by the clock on the wall.
    Expires(DateTime),
    /// No dated rule is for it.
    NoDate,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Rule(rule) => write!(f, "{rule}"),
            Reason::Oldest(rule) => write!(f, "the oldest, while {rule} has some left"),
            Reason::NoRule => f.write_str("no rule keeps it"),
            Reason::Future => f.write_str("dated in the future"),
            Reason::Newest => f.write_str("the newest"),
            Reason::Among(n) => write!(f, "one of the newest {n}"),
            Reason::Held(1) => f.write_str("held"),
            Reason::Held(n) => write!(f, "{n} holds"),
            Reason::Witness => f.write_str("the last one before a back-dated one that stays"),
            Reason::Cloned(clones) => write!(f, "cloned to {clones}"),
            Reason::Unsent => f.write_str("not sent by zrep"),
            Reason::LastSent => f.write_str("the last that zrep has sent"),
            Reason::Simplesnap => f.write_str("simplesnap's own"),
            Reason::Needed => f.write_str("zsnap-ingest needs it"),
            Reason::OtherName => f.write_str("its name has none of the tags"),
            Reason::First => f.write_str("the oldest that is not too old"),
            Reason::Spaced(seconds) => write!(f, "{} after the last one kept", length(*seconds)),
            Reason::TooClose(seconds) => write!(f, "less than {} after the last one kept", length(*seconds)),
            Reason::TooOld => f.write_str("older than every MAX_AGE"),
            Reason::Expires(then) => write!(f, "expires {}", then.strftime("%F %T")),
            Reason::NoDate => f.write_str("no rule matches it"),
        }
    }
}
