//! Child processes, `zfs`, and what proc(5) shows of other processes.

pub mod child;
pub mod hung;
pub(crate) mod proc;
pub mod zfs;
