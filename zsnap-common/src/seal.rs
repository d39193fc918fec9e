//! (skeleton: signatures are the contract)
use crate::keys::{Format, Recipients, SigningKey};
use crate::payload::{Manifest, Trailer};
use std::io::{self, Write};
/// How a queue file is sealed.
pub struct Sealing<'a> {
    /// To whom.
    pub recipients: &'a Recipients,
    /// `None`: unsigned.
    pub signer: Option<&'a SigningKey>,
    /// OpenPGP flavour.
    pub format: Format,
    /// zstd level.
    pub level: i32,
    /// zstd worker threads; 0 or 1: compress in one thread.
    pub threads: u32,
}
/// Seals what `body` writes into `out`: OpenPGP(encrypt(sign(literal(manifest, zstd(body), trailer)))). Compression, signing, encryption and
/// writing overlap in threads; memory is bounded. An error of `body` or `out` ends all threads; `out` then holds garbage for the caller to discard.
/// Returns `out`.
pub fn seal<W: Write + Send + Sync>(
    _out: W,
    _how: &Sealing<'_>,
    _manifest: &Manifest,
    _body: impl FnOnce(&mut dyn Write) -> anyhow::Result<Trailer>,
) -> anyhow::Result<W> {
    let _ = io::empty();
    unimplemented!()
}
