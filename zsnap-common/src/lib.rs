//! What the zsnap tools share, in layers: each module uses only those above it.
//!
//! - [`names`]: hosts, datasets, labels, queue files, globs, digests, quoting
//! - [`cli`]: options, exit statuses, signals, messages, progress, reports, findings; files that only we may change
//! - [`stream`]: the gate for ZFS streams
//! - [`process`]: child processes and `zfs`
//! - [`locks`]: flock(2) and dotlocks
//! - [`durable`]: files that survive a crash: publishing, notices, outboxes, destinations, incoming directories, the lock of
//!   a whole tool
//!
//! Queue files as OpenPGP messages are the package `zsnap-message`, which zsnap-fanout and zsnap-expire do not use.

pub mod cli;
pub mod durable;
pub mod locks;
pub mod names;
pub mod process;
pub mod stream;
