//! Other processes: child processes, and `zfs`.

pub mod child;
pub mod hung;
pub(crate) mod proc;
pub mod zfs;
