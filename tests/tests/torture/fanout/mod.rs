//! zsnap-fanout loses and doubles no file, whatever is killed at whatever moment, also with several runs at once: each
//! `dir:` drive gets each file once, and NNCP gets at most one more for each kill.

mod kill;
mod play;
mod syscalls;
mod together;
