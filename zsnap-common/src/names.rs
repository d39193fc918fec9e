//! Names of hosts, datasets and queue files; globs, digests, and quoting for a shell.

pub mod digest;
pub mod glob;
pub mod part;
pub mod queue_name;
pub mod random;
pub mod shell;
pub mod stored;
pub mod target;
