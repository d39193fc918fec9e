//! Other processes: child processes, `zfs`, and the signals that end us.

pub mod cancel;
pub mod child;
pub mod hung;
pub(crate) mod proc;
pub mod zfs;
