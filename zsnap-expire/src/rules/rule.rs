//! A native rule, such as `daily=15d` or `last=10`.

use std::fmt;
use std::str::FromStr;

use crate::calendar::Age;

/// Of which the last snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Each snapshot by itself.
    Each,
    /// Hours of the clock on the wall.
    Hour,
    /// Days.
    Day,
    /// ISO weeks, which begin on Monday.
    Week,
    /// Months.
    Month,
    /// Years.
    Year,
}

/// How many, or how far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many periods that have a snapshot, and the oldest snapshot while some are left.
    Count(u64),
    /// Periods up to this age.
    Within(Age),
}

/// `daily=15d`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which periods.
    pub period: Period,
    /// Which of them.
    pub amount: Amount,
}

impl FromStr for Rule {
    type Err = String;
    fn from_str(text: &str) -> Result<Rule, String> {
        let wrong = || {
            format!("\"{text}\" is not a rule; write all=48h, last=10, hourly=, daily=, weekly=, monthly= or yearly=")
        };
        let (name, amount) = text.split_once('=').ok_or_else(wrong)?;
        let count = amount.parse().ok().filter(|n: &u64| *n > 0).or((amount == "unlimited").then_some(u64::MAX));
        let amount = match count {
            Some(count) => Amount::Count(count),
            None => Amount::Within(amount.parse()?),
        };
        let period = match (name, amount) {
            ("all", Amount::Within(_)) | ("last", Amount::Count(_)) => Period::Each,
            ("all", _) => return Err(format!("\"{text}\": all= takes a length of time; last=N is the newest N")),
            ("last", _) => return Err(format!("\"{text}\": last= takes a count; all=48h is all of that time")),
            ("hourly", _) => Period::Hour,
            ("daily", _) => Period::Day,
            ("weekly", _) => Period::Week,
            ("monthly", _) => Period::Month,
            ("yearly", _) => Period::Year,
            _ => return Err(wrong()),
        };
        Ok(Rule { period, amount })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.period, self.amount) {
            (Period::Each, Amount::Within(_)) => "all",
            (Period::Each, Amount::Count(_)) => "last",
            (Period::Hour, _) => "hourly",
            (Period::Day, _) => "daily",
            (Period::Week, _) => "weekly",
            (Period::Month, _) => "monthly",
            (Period::Year, _) => "yearly",
        };
        match self.amount {
            Amount::Count(u64::MAX) => write!(f, "{name}=unlimited"),
            Amount::Count(count) => write!(f, "{name}={count}"),
            Amount::Within(age) => write!(f, "{name}={age}"),
        }
    }
}

/// From where ages are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reference {
    /// The newest snapshot: what is no longer backed up does not age away.
    #[default]
    Newest,
    /// The clock.
    Now,
}
