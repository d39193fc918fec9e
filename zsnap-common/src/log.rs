//! (skeleton: signatures are the contract)
use std::fmt::Display;
/// Call once, at the start of `main`. `verbose`: info and children's lines go to stderr too.
pub fn init(_tool: &'static str, _verbose: bool) {
    unimplemented!()
}
/// Something failed: syslog `err` and stderr.
pub fn error(_m: impl Display) {
    unimplemented!()
}
/// Something to look at: syslog `warning` and stderr.
pub fn warn(_m: impl Display) {
    unimplemented!()
}
/// What happened: syslog `info`; stderr only when verbose.
pub fn info(_m: impl Display) {
    unimplemented!()
}
/// A line that a child wrote to its stderr: as `info`, tagged `zsnap-ingest[pid/zfs]`.
pub fn child_line(_program: &str, _line: &[u8]) {
    unimplemented!()
}
/// Printable ASCII as it is, everything else escaped, at most 1,000 bytes and then `[...]`.
pub fn escape(_text: &str) -> String {
    unimplemented!()
}
