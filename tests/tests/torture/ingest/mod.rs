//! zsnap-ingest loses nothing and applies nothing twice, whatever dies at whatever moment: it, the
//! receiver, or both; and it gets on by itself afterwards, as ARCHITECTURE.md, "What a crash
//! leaves", promises row by row.

mod kill;
mod play;
mod syscalls;
