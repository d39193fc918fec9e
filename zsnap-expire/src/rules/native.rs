//! Native rules such as `all=48h daily=15d weekly=4w`. Each rule is independent, and a snapshot stays if
//! any rule keeps it. A rule with a length of time means the same as restic's `--keep-within-daily` etc.,
//! and a rule with a count the same as restic's `--keep-daily` etc. and `--keep-last`.

use jiff::civil::DateTime;

use super::rule::{Amount, Period, Reference, Rule};
use crate::calendar::Clock;
use crate::reason::Reason;
use crate::snapshot::{Snapshot, Verdict};

#[cfg(test)]
mod tests;

/// Returns a verdict for each snapshot of one dataset, in the same order. Back-dated ones ([`crate::backdated`])
/// do not affect the others: they are never the last of a period, and `all=` and `last=` keep one for as long as
/// they keep the snapshot that the pool made right before it.
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
            // A count that is not used up keeps the oldest too, so that the history does not become shorter.
            let oldest = cutoff.is_none() && nr + 1 == present.len();
            if last == Some(period) && !oldest {
                continue;
            }
            verdicts[*i].also(if last == Some(period) { Reason::Oldest(*rule) } else { Reason::Rule(*rule) });
            (last, reached) = (Some(period), Some(&snapshots[*i]));
            left -= 1;
        }
        if let (Period::Each, Some(oldest)) = (rule.period, reached) {
            let later = back.iter().filter(|i| snapshots[**i].by_txg(oldest).is_gt());
            later.for_each(|i| verdicts[*i].also(Reason::Rule(*rule)));
        }
    }
    verdicts
}

/// Returns a number that is equal for snapshots of the same period only.
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
