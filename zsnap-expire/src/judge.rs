//! The whole decision about one dataset: what its policy says, what is protected, what brakes it.

use crate::backdated;
use crate::brakes::{Braked, brakes};
use crate::calendar::Clock;
use crate::policy::Policy;
use crate::protect::{Guards, protect};
use crate::snapshot::{Snapshot, Verdict};

/// What is to become of the snapshots of one dataset.
#[derive(Debug)]
pub struct Judged {
    /// For each snapshot, in the order given.
    pub verdicts: Vec<Verdict>,
    /// Nothing of it goes.
    pub braked: Option<Braked>,
    /// Nothing of it would go, were it not for `--force`.
    pub forced: Option<Braked>,
}

/// Decides; `force`: what may be overridden is. Finds the back-dated ones among the snapshots.
pub fn judge(
    policy: &Policy,
    snapshots: &mut [Snapshot<'_>],
    guards: &Guards<'_>,
    clock: &Clock,
    force: bool,
) -> Judged {
    backdated::find(snapshots, clock);
    let mut verdicts = policy.decide(snapshots, clock);
    // The newest ones of all are protected, not those of each layer.
    let decide = |history: &[Snapshot<'_>], own: usize| {
        // Where the rules are those of zrep-expire, none comes of age by what came later.
        let history = if policy.is_zrep() { &history[..own] } else { history };
        Policy { newest: 0, ..policy.clone() }.decide(history, clock)
    };
    backdated::keep_by_themselves(&mut verdicts, snapshots, clock, decide);
    protect(&mut verdicts, snapshots, guards, clock);
    backdated::keep_witnesses(&mut verdicts, snapshots, clock);
    let why = brakes(&verdicts, snapshots, guards.newest, policy.max_destroy, clock).err();
    let (forced, braked) = match why {
        Some(why) if force && why.can_be_forced() => (Some(why), None),
        why => (None, why),
    };
    Judged { verdicts, braked, forced }
}
