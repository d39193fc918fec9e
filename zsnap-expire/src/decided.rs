//! What a run has decided about a dataset.

use crate::brakes::Braked;
use crate::snapshot::{Snapshot, Verdict};
use crate::zrep::Odd;

/// A dataset with what is to become of its snapshots.
#[derive(Debug)]
pub struct Decided<'a> {
    /// Its name.
    pub dataset: &'a str,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot<'a>>,
    /// In the same order.
    pub verdicts: Vec<Verdict>,
    /// Nothing of it is destroyed.
    pub braked: Option<Braked>,
}

impl Decided<'_> {
    /// What may go: nothing if it was braked.
    pub fn doomed(&self) -> Vec<&Snapshot<'_>> {
        let doomed = self.snapshots.iter().zip(&self.verdicts).filter(|(_, verdict)| !verdict.keep);
        if self.braked.is_some() { Vec::new() } else { doomed.map(|(snapshot, _)| snapshot).collect() }
    }
}

/// A dataset that is left alone, with all its snapshots.
#[derive(Debug)]
pub struct LeftAlone<'a> {
    /// Its name.
    pub dataset: &'a str,
    /// What cannot be read of it.
    pub why: Odd,
}
