//! The native policy: rules such as `all=48h daily=15d weekly=4w`, ORed and independent of each
//! other. A rule with a length of time means what restic's `--keep-within-daily` and so on mean,
//! one with a count what its `--keep-daily` and `--keep-last` mean.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;

use crate::calendar::{Age, Clock};
use crate::snapshot::{Snapshot, Verdict};

#[cfg(test)]
mod tests;

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
        let wrong =
            || format!("\"{text}\" is no rule; write all=48h, last=10, hourly=, daily=, weekly=, monthly= or yearly=");
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
    /// zrep's next increment begins with it.
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

/// For each snapshot of one dataset, in the order given. Back-dated ones ([`crate::backdated`]) change nothing
/// for the others: of no period are they the last, and `all=` and `last=` keep one for as long as they keep the
/// one that was made before it.
pub fn decide(rules: &[Rule], reference: Reference, snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::destroy(Reason::NoRule); snapshots.len()];
    let (mut present, mut back) = (Vec::with_capacity(snapshots.len()), Vec::new());
    for (i, snapshot) in snapshots.iter().enumerate() {
        match snapshot {
            future if future.is_future(clock.now) => verdicts[i].also(Reason::Future),
            dated if dated.is_back_dated() => back.push(i),
            _ => present.push(i),
        }
    }
    present.sort_unstable_by(|a, b| snapshots[*b].by_time(&snapshots[*a]));
    let Some(newest) = present.first() else { return verdicts };
    let from = match reference {
        Reference::Newest => snapshots[*newest].creation,
        Reference::Now => clock.now,
    };
    let civil: Vec<DateTime> = present.iter().map(|i| clock.civil(snapshots[*i].creation)).collect();
    for rule in rules {
        let (mut left, cutoff) = match rule.amount {
            Amount::Count(count) => (count, None),
            Amount::Within(age) => (u64::MAX, Some(clock.before(from, &age))),
        };
        let (mut last, mut reached) = (None, None);
        for (nr, i) in present.iter().enumerate() {
            if left == 0 || cutoff.is_some_and(|cutoff| snapshots[*i].creation <= cutoff) {
                break;
            }
            let period = period_of(rule.period, civil[nr], nr);
            // A count that is not used up holds the oldest as well: the history stays as long as it is.
            let oldest = cutoff.is_none() && nr + 1 == present.len();
            if last == Some(period) && !oldest {
                continue;
            }
            verdicts[*i].also(if last == Some(period) { Reason::Oldest(*rule) } else { Reason::Rule(*rule) });
            (last, reached) = (Some(period), Some(&snapshots[*i]));
            left -= 1;
        }
        if let (Period::Each, Some(oldest)) = (rule.period, reached) {
            let later = back.iter().filter(|i| snapshots[**i].by_making(oldest).is_gt());
            later.for_each(|i| verdicts[*i].also(Reason::Rule(*rule)));
        }
    }
    verdicts
}

/// Equal for snapshots of one period, and for no others.
fn period_of(period: Period, time: DateTime, nr: usize) -> i64 {
    let (year, month, day) = (i64::from(time.year()), i64::from(time.month()), i64::from(time.day()));
    match period {
        Period::Each => nr as i64,
        Period::Hour => ((year * 100 + month) * 100 + day) * 100 + i64::from(time.hour()),
        Period::Day => (year * 100 + month) * 100 + day,
        Period::Week => {
            let week = time.date().iso_week_date();
            i64::from(week.year()) * 100 + i64::from(week.week())
        }
        Period::Month => year * 100 + month,
        Period::Year => year,
    }
}
