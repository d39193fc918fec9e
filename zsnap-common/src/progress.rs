//! (skeleton: signatures are the contract)
/// Bytes so far on a terminal; nothing where stderr is none.
pub struct Progress {
    _p: (),
}
impl Progress {
    /// `what` stands in front; `total` in bytes where known.
    pub fn new(_what: &str, _total: Option<u64>) -> Progress {
        unimplemented!()
    }
    /// Adds bytes.
    pub fn add(&self, _bytes: u64) {
        unimplemented!()
    }
}
