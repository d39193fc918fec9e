//! What older versions left on disk goes on with the tools of today: nothing is lost, reordered, refused or
//! reported wrongly. `data/upgrade/README` says what is there and how it was made.
//!
//! With ZSNAP_UPGRADE_BINARIES=DIR the tools in DIR are tested instead: a release must pass with its
//! own trees.

mod expire;
mod fanout;
mod ingest;
mod queue;
mod tree;
