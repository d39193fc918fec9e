//! zsnap-queue keeps its promise when everything dies around it: whatever is killed, full or
//! broken at whatever moment, status 0 means that the stream arrives, whole, and nothing that
//! was refused ever does.

mod destinations;
mod disk;
mod kill;
mod syscalls;
mod together;
