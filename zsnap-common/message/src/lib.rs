//! Queue files: OpenPGP messages (zsnap-queue-file(5)) that hold a manifest, a compressed stream and a trailer.
//!
//! - [`keys`]: keys and certificates, and how they are chosen
//! - [`payload`]: what a message holds
//! - [`seal`]: from a stream to a signed and encrypted message
//! - [`open`]: from a message to an authenticated stream
//! - [`pipe`]: the pipes between the threads that do this

pub mod keys;
pub mod open;
pub mod payload;
pub mod pipe;
pub mod seal;
