//! The reasons why snapshots stay or go, and their texts.

use std::fmt;
use std::ops::Deref;

use jiff::civil::DateTime;

use crate::calendar::length;
use crate::rules::rule::Rule;

/// Why a snapshot stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Kept by a native rule.
    Rule(Rule),
    /// Kept as the oldest, because the count of this rule is not used up.
    Oldest(Rule),
    /// Destroyed: no rule keeps it.
    NoRule,
    /// Kept: dated more than a day ahead of the clock.
    Future,
    /// Kept as the newest.
    Newest,
    /// Kept as one of the newest, of this number.
    Among(u64),
    /// Kept by this number of holds.
    Held(u64),
    /// Kept as the last one before a back-dated snapshot that stays.
    Witness,
    /// Kept because of these clones.
    Cloned(String),
    /// Kept because zrep has not sent it.
    Unsent,
    /// Kept as the base of zrep's next incremental.
    LastSent,
    /// Kept because simplesnap created it and destroys it itself.
    Simplesnap,
    /// Kept because a waiting file or a chain needs it.
    Needed,
    /// Kept because its name has none of the tags of the policy.
    OtherName,
    /// Kept as the first one in the time that the spacing covers.
    First,
    /// Kept: at least this interval, in seconds, after the previous one that was kept.
    Spaced(i64),
    /// Destroyed: less than this interval, in seconds, after the previous one that was kept.
    TooClose(i64),
    /// Destroyed: older than the oldest window.
    TooOld,
    /// Kept until this civil time, or destroyed because it has passed.
    Expires(DateTime),
    /// Kept because no dated rule matches it.
    NoDate,
}

/// At least one reason. One alone takes no memory of its own, because a million snapshots have one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasons {
    /// One reason.
    One([Reason; 1]),
    /// Several reasons.
    Several(Vec<Reason>),
}

impl Reasons {
    /// Adds a reason.
    pub fn push(&mut self, reason: Reason) {
        match self {
            Reasons::One([first]) => *self = Reasons::Several(vec![first.clone(), reason]),
            Reasons::Several(all) => all.push(reason),
        }
    }
}

impl Deref for Reasons {
    type Target = [Reason];

    fn deref(&self) -> &[Reason] {
        match self {
            Reasons::One(one) => one,
            Reasons::Several(all) => all,
        }
    }
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
