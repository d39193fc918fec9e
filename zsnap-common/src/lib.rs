//! What the zsnap tools share. Each module is one noun:
//!
//! - names: [`target`], [`queue_name`], [`glob`]; [`digest`]
//! - streams: [`zstream`] (the ZFS stream gate), [`payload`] (what a queue file holds)
//! - OpenPGP, with the feature `openpgp`: `keys`, `seal`, `open`, and `pipe` between their threads
//! - files that must survive a crash: [`publish`], [`outbox`], [`dest`], [`incoming`], [`listing`]
//! - being the only one: [`lock`], [`dotlock`]
//! - the outside: [`child`], [`zfs`], [`cancel`], [`log`], [`told`], [`progress`]
//! - the command line: [`options`], [`exit`], [`report`], [`findings`], [`shell`]; whose files we believe: [`trusted`]

pub mod cancel;
pub mod child;
pub mod dest;
pub mod digest;
pub mod dotlock;
pub mod exit;
pub mod findings;
pub mod glob;
pub mod incoming;
#[cfg(feature = "openpgp")]
pub mod keys;
pub mod listing;
pub mod lock;
pub mod log;
#[cfg(feature = "openpgp")]
pub mod open;
pub mod options;
pub mod outbox;
pub mod payload;
#[cfg(feature = "openpgp")]
pub mod pipe;
mod process;
pub mod progress;
pub mod publish;
pub mod queue_name;
pub mod report;
#[cfg(feature = "openpgp")]
pub mod seal;
pub mod shell;
pub mod target;
pub mod told;
pub mod trusted;
pub mod zfs;
pub mod zstream;
