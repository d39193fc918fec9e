//! (skeleton: signatures are the contract)
/// A glob on HOST/DATASET: `*` within a component, `**` across, `?` one character; all else is literal.
#[derive(Clone, Debug)]
pub struct Glob {
    _p: (),
}
impl Glob {
    /// Whether the whole of `text` fits.
    pub fn matches(&self, _text: &str) -> bool {
        unimplemented!()
    }
}
impl std::str::FromStr for Glob {
    type Err = String;
    fn from_str(_s: &str) -> Result<Self, String> {
        unimplemented!()
    }
}
