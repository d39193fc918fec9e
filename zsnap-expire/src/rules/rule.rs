//! A native rule, such as `daily=15d` or `last=10`.

use std::fmt;
use std::str::FromStr;

use crate::calendar::Age;

/// The period of which the last snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Each snapshot on its own.
    Each,
    /// Hours in civil time.
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

/// The number of periods that are kept, or their maximum age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// This number of periods that have a snapshot. While it is not used up, the oldest snapshot is kept too.
    Count(u64),
    /// All periods up to this age.
    Within(Age),
}

/// A rule such as `daily=15d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The period, such as a day.
    pub period: Period,
    /// The number or maximum age of the periods.
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

/// The time from which ages are counted back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reference {
    /// The newest snapshot, so that nothing expires when a dataset is no longer backed up.
    #[default]
    Newest,
    /// The current time.
    Now,
}
