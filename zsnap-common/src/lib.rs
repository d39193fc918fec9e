//! What the zsnap tools share, in layers: each module uses only those above it.
//!
//! - [`names`]: hosts, datasets, labels, queue files, globs, digests
//! - [`cli`]: options, exit statuses, messages, progress, reports, findings, notices; files that only we may change
//! - [`process`]: child processes, `zfs`, signals
//! - [`stream`]: the gate for ZFS streams
//! - [`durable`]: files that survive a crash: publishing, outboxes, destinations, incoming directories
//! - [`locks`]: flock(2) and dotlocks
//!
//! Queue files as OpenPGP messages are the package `zsnap-message`, which zsnap-fanout and zsnap-expire do not use.

pub mod cli;
pub mod durable;
pub mod locks;
pub mod names;
pub mod process;
pub mod stream;
