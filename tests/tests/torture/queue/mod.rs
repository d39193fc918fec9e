//! zsnap-queue keeps its promise whatever fails around it: whatever is killed, full or broken at whatever moment,
//! status 0 means that the stream arrives complete, and a rejected stream never arrives.

mod destinations;
mod disk;
mod kill;
mod syscalls;
mod together;
