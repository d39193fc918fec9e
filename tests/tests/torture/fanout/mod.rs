//! zsnap-fanout loses nothing and doubles nothing, whatever dies at whatever moment, also of
//! several runs at once: each `dir:` drive has each file once, NNCP at most once more per death.

mod kill;
mod play;
mod syscalls;
mod together;
