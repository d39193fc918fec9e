//! Interoperability with the real GnuPG, NNCP and dotlockfile.

mod dotlockfile;
mod gpg;
mod nncp;
mod nncp_fanout;
