//! (to be written)
use super::{StreamError, StreamFacts, SubStream};
use std::io;
/// A piece of a stream, for whoever takes it apart.
pub enum Part<'a> {
    /// A sub-stream begins (before its first bytes).
    Begin(&'a SubStream),
    /// Bytes of it, BEGIN and END records included; checked up to here by the running checksum only at its END.
    Bytes(&'a [u8]),
    /// It ended, and its checksum was right. Wrapper records are not passed on.
    End,
}
/// The state machine: feed it bytes in any pieces.
pub struct Gate {
    _p: (),
}
impl Gate {
    /// A gate before the first byte.
    pub fn new() -> Gate {
        unimplemented!()
    }
    /// Takes the next bytes.
    pub fn feed(&mut self, _bytes: &[u8], _on: &mut dyn FnMut(Part<'_>) -> io::Result<()>) -> Result<(), StreamError> {
        unimplemented!()
    }
    /// The first sub-stream once its BEGIN record was fed, with the name in the outer record (`fs@snap`, the wrapper's or its own) and whether it is compound.
    pub fn head(&self) -> Option<Head<'_>> {
        unimplemented!()
    }
    /// The end of the input.
    pub fn finish(self) -> Result<StreamFacts, StreamError> {
        unimplemented!()
    }
}
/// What is known when the first sub-stream begins.
pub struct Head<'a> {
    /// The wrapper's toname, or the only stream's: its last snapshot.
    pub toname: String,
    /// A wrapper is around it.
    pub compound: bool,
    /// The wrapper carries properties.
    pub properties: bool,
    /// The first sub-stream.
    pub first: &'a SubStream,
}
