//! The decision of a run on a dataset.

use crate::brakes::Braked;
use crate::snapshot::{Snapshot, Verdict};
use crate::zrep::Odd;

/// A dataset with the verdicts on its snapshots.
#[derive(Debug)]
pub struct Decided<'a> {
    /// The name of the dataset.
    pub dataset: &'a str,
    /// The snapshots of the dataset.
    pub snapshots: Vec<Snapshot<'a>>,
    /// The verdicts on the snapshots, in the same order.
    pub verdicts: Vec<Verdict>,
    /// The safety limit that stops the dataset, if any: then none of its snapshots is destroyed.
    pub braked: Option<Braked>,
    /// The safety limit that would stop a real run, if this is a dry run that goes beyond it.
    pub would_stop: Option<Braked>,
}

impl Decided<'_> {
    /// Returns the snapshots to destroy: none if a safety limit stops the dataset.
    pub fn doomed(&self) -> Vec<&Snapshot<'_>> {
        let doomed = self.snapshots.iter().zip(&self.verdicts).filter(|(_, verdict)| !verdict.keep);
        if self.braked.is_some() { Vec::new() } else { doomed.map(|(snapshot, _)| snapshot).collect() }
    }
}

/// A dataset that is skipped, so that all its snapshots stay.
#[derive(Debug)]
pub struct LeftAlone<'a> {
    /// The name of the dataset.
    pub dataset: &'a str,
    /// The property that cannot be read.
    pub why: Odd,
}
