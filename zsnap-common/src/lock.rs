//! (skeleton: signatures are the contract)
use std::path::Path;
use std::time::Duration;
/// A flock on a file that is never deleted; released on drop or any death. The fd is close-on-exec.
#[derive(Debug)]
pub struct Lock {
    _p: (),
}
impl Lock {
    /// `None`: somebody else holds it. Makes the file (0600) if need be; refuses symlinks, FIFOs, devices.
    pub fn try_new(_path: &Path) -> anyhow::Result<Option<Lock>> {
        unimplemented!()
    }
}
/// The lock of a whole tool: flock on `state_lock`, then the dotlock beside it (or at `dotlock`).
pub struct ToolLock {
    _p: (),
}
/// How taking the tool's lock went.
pub enum Taken {
    /// Ours.
    Ours(ToolLock),
    /// Another instance (flock), or a script with dotlockfile, holds it, for that long.
    Busy {
        /// Age of the lock (mtime of the file that the holder wrote at its start).
        age: Duration,
        /// For the message: "pid 123" and which file.
        who: String,
    },
}
impl ToolLock {
    /// Takes the lock. Errors: `Exit::Config` for an unsafe dotlock directory.
    pub fn take(_state_lock: &Path, _dotlock: Option<&Path>) -> anyhow::Result<Taken> {
        unimplemented!()
    }
}
