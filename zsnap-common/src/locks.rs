//! Locks that exclude other processes: flock(2) and dotlocks.

pub mod dotlock;
pub mod flock;
