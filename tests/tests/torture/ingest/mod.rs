//! zsnap-ingest loses no file and applies none twice, whatever is killed at whatever moment: itself, the receiver, or
//! both. Afterwards it recovers by itself, as each row of ARCHITECTURE.md, "What a crash leaves", promises.

mod kept;
mod kill;
mod play;
mod syscalls;
