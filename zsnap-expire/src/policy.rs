//! The policy of a dataset: its retention rules and its limits.

use std::fmt;

use crate::brakes::MaxDestroy;
use crate::calendar::Clock;
use crate::reason::Reason;
use crate::rules::rule::{Reference, Rule};
use crate::rules::zrep_v1::DatedRule;
use crate::rules::zrep_v2::Window;
use crate::rules::{native, zrep_v1, zrep_v2};
use crate::snapshot::{Sent, Snapshot, Verdict, is_tagged};

/// The kind of rules that a policy uses.
#[derive(Clone, Debug)]
pub enum Method {
    /// Native rules.
    Rules(Vec<Rule>, Reference),
    /// The windows of zrep-expire's second version.
    Spacing(Vec<Window>),
    /// The dated rules of zrep-expire's first version.
    Dated(Vec<DatedRule>),
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: Vec<String>| all.join(" ");
        match self {
            Method::Rules(rules, reference) => {
                let from = if *reference == Reference::Now { ", ages from now" } else { "" };
                write!(f, "{}{from}", list(rules.iter().map(Rule::to_string).collect()))
            }
            Method::Spacing(windows) => {
                write!(f, "zrep-expire, spacing {}", list(windows.iter().map(Window::to_string).collect()))
            }
            Method::Dated(rules) => write!(f, "zrep-expire, {} dated rules", rules.len()),
        }
    }
}

/// The policy of a dataset.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The rules that decide which snapshots stay.
    pub method: Method,
    /// How many of the newest snapshots always stay.
    pub newest: u64,
    /// Whether the datasets were received. Then simplesnap's snapshots may go, and needed guids count.
    pub received: bool,
    /// The safety limit for the number of snapshots to destroy.
    pub max_destroy: MaxDestroy,
    /// Whether that limit is only reported: a dry run without `--max-destroy` shows what `--force` would do.
    pub only_reported: bool,
    /// The tags of zrep. With spacing, only snapshots named `TAG_` and six hex digits are decided on. If empty, all
    /// are, and zrep's properties do not count.
    pub tags: Vec<String>,
}

impl Policy {
    /// Returns whether the policy comes from a file of zrep-expire.
    pub fn is_zrep(&self) -> bool {
        !matches!(self.method, Method::Rules(..))
    }

    /// Returns the verdict of the policy alone on each snapshot of one dataset, in the same order.
    pub fn decide(&self, snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<Verdict> {
        match &self.method {
            Method::Rules(rules, reference) => native::decide(rules, *reference, snapshots, clock),
            Method::Dated(rules) => {
                let mut verdicts = zrep_v1::decide(rules, snapshots, clock);
                // zrep-expire destroys only snapshots whose `TAG:sent` is a number of seconds.
                let unsent = |s: &Snapshot<'_>| !self.tags.is_empty() && s.sent != Sent::Time;
                let unsent = verdicts.iter_mut().zip(snapshots).filter(|(_, snapshot)| unsent(snapshot));
                unsent.for_each(|(verdict, _)| verdict.also(Reason::Unsent));
                verdicts
            }
            Method::Spacing(windows) => self.spaced(windows, snapshots, clock),
        }
    }

    /// Decides by spacing, separately for each tag. The newest snapshots stay, whatever their names, and are not
    /// among those that are spaced.
    fn spaced(&self, windows: &[Window], snapshots: &[Snapshot<'_>], clock: &Clock) -> Vec<Verdict> {
        let mut verdicts = vec![None; snapshots.len()];
        let mut order: Vec<usize> = (0..snapshots.len()).collect();
        order.sort_unstable_by(|a, b| snapshots[*b].by_time(&snapshots[*a]));
        // Back-dated snapshots do not count as the newest, and are spaced with the rest.
        let newest = usize::try_from(self.newest).unwrap_or(usize::MAX);
        let (mut aside, mut left) = (newest, Vec::new());
        for i in order {
            match aside {
                1.. if !snapshots[i].is_back_dated() => {
                    aside -= 1;
                    verdicts[i] = Some(Verdict::keep(Reason::Among(self.newest)));
                }
                _ => left.push(i),
            }
        }
        let mut walk = |of: &dyn Fn(&str) -> bool, unsent: &dyn Fn(&Snapshot<'_>) -> bool| {
            let chosen: Vec<usize> = left.iter().copied().filter(|i| of(snapshots[*i].name)).collect();
            let list: Vec<&Snapshot<'_>> = chosen.iter().map(|i| &snapshots[*i]).collect();
            let decided = zrep_v2::decide(windows, &list, unsent, clock);
            chosen.into_iter().zip(decided).for_each(|(i, verdict)| verdicts[i] = Some(verdict));
        };
        if self.tags.is_empty() {
            walk(&|_| true, &|_| false);
        }
        for tag in &self.tags {
            walk(&|name| is_tagged(name, tag), &|snapshot| snapshot.sent == Sent::No);
        }
        let other = || Verdict::keep(Reason::OtherName);
        verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(other)).collect()
    }
}
