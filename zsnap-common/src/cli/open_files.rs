//! The limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files: each destination has a batch of files open, and so has each file in parts. The usual
/// 1024 descriptors would be scarce with ten destinations, or with one host that sends many parts.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Best effort: if this fails, the limit stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
