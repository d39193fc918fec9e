//! Locks: at most one process does a thing at a time.

pub mod dotlock;
pub mod flock;
