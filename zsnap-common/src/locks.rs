//! Locks, which let only one process at a time do something.

pub mod dotlock;
pub mod flock;
