//! The real peers: GnuPG, NNCP and dotlockfile.

mod dotlockfile;
mod gpg;
mod nncp;
mod nncp_fanout;
