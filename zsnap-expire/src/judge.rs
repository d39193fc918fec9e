//! The complete decision on one dataset: its policy, what is protected, and the safety limits.

use crate::backdated;
use crate::brakes::{Braked, brakes};
use crate::calendar::Clock;
use crate::policy::Policy;
use crate::protect::{Guards, protect};
use crate::snapshot::{Snapshot, Verdict};

/// The decision on the snapshots of one dataset.
#[derive(Debug)]
pub struct Judged {
    /// The verdicts, in the order of the snapshots.
    pub verdicts: Vec<Verdict>,
    /// The safety limit that stops the dataset, if any: then none of its snapshots is destroyed.
    pub braked: Option<Braked>,
    /// The safety limit that `--force` overrides, or a dry run only reports, if any.
    pub forced: Option<Braked>,
}

/// Decides on one dataset, and marks the back-dated ones among its snapshots. With `force`, the safety limits that
/// may be overridden are.
pub fn judge(
    policy: &Policy,
    snapshots: &mut [Snapshot<'_>],
    guards: &Guards<'_>,
    clock: &Clock,
    force: bool,
) -> Judged {
    backdated::find(snapshots, clock);
    let mut verdicts = policy.decide(snapshots, clock);
    // newest: 0, because the newest of all snapshots are protected below, not the newest of each layer.
    let decide = |history: &[Snapshot<'_>], own: usize| {
        // With the rules of zrep-expire, snapshots that were made later do not make others older.
        let history = if policy.is_zrep() { &history[..own] } else { history };
        Policy { newest: 0, ..policy.clone() }.decide(history, clock)
    };
    backdated::keep_by_themselves(&mut verdicts, snapshots, clock, decide);
    protect(&mut verdicts, snapshots, guards, clock);
    backdated::keep_witnesses(&mut verdicts, snapshots, clock);
    let why = brakes(&verdicts, snapshots, guards.newest, policy.max_destroy, clock).err();
    let (forced, braked) = match why {
        Some(why) if (force || policy.only_reported) && why.can_be_forced() => (Some(why), None),
        why => (None, why),
    };
    Judged { verdicts, braked, forced }
}
