//! The code that the zsnap tools share, in layers: each module uses only those above it.
//!
//! - [`names`]: hosts, datasets, labels, queue files, globs, digests, quoting
//! - [`cli`]: options, units, exit statuses, signals, messages, progress, reports, findings, trusted files
//! - [`stream`]: the gate for ZFS streams
//! - [`process`]: child processes and `zfs`
//! - [`locks`]: flock(2) and dotlocks
//! - [`durable`]: files that survive a crash: publishing, notices, outboxes, destinations, incoming directories,
//!   the lock of a whole tool
//!
//! The package `zsnap-message` has queue files as OpenPGP messages; zsnap-fanout and zsnap-expire do not use it.

pub mod cli;
pub mod durable;
pub mod locks;
pub mod names;
pub mod process;
pub mod stream;
