//! (skeleton: signatures are the contract)
use std::io;
use std::os::fd::AsFd;
/// Call once at the start of `main`: SIGTERM, SIGINT and SIGHUP set a flag; a second one kills at once.
pub fn install() -> io::Result<()> {
    unimplemented!()
}
/// The signal that asked us to end, if any.
pub fn pending() -> Option<i32> {
    unimplemented!()
}
/// The error that [`Interruptible`] and [`check`] give; `downcast_ref::<Cancelled>()` finds it
/// (inside an `io::Error` of kind `Other`, never `Interrupted`, which std retries).
#[derive(Debug)]
pub struct Cancelled(pub i32);
impl std::fmt::Display for Cancelled {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        unimplemented!()
    }
}
impl std::error::Error for Cancelled {}
/// `Err` with [`Cancelled`] once a signal came.
pub fn check() -> io::Result<()> {
    unimplemented!()
}
/// Ends this process by `signal`'s default action, so that the caller sees 128+n.
pub fn die_of(_signal: i32) {
    unimplemented!()
}
/// Reads and writes a pipe or file so that a signal ends a blocked call at once (poll on the fd and a self-pipe).
pub struct Interruptible<F: AsFd>(pub F);
impl<F: AsFd> io::Read for Interruptible<F> {
    fn read(&mut self, _b: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
    }
}
impl<F: AsFd> io::Write for Interruptible<F> {
    fn write(&mut self, _b: &[u8]) -> io::Result<usize> {
        unimplemented!()
    }
    fn flush(&mut self) -> io::Result<()> {
        unimplemented!()
    }
}
