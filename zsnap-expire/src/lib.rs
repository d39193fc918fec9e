//! zsnap-expire: which snapshots stay and which go. The decisions (`policy`, `spacing`, `dated`,
//! `protect`, `brakes`) are pure; the binary, tests and benchmarks use them.

pub mod calendar;
pub mod dated;
pub mod policy;
pub mod snapshot;
pub mod spacing;
