//! The current tools continue with what older versions left on disk: nothing is lost, reordered, rejected or reported
//! wrongly. `data/upgrade/README` describes the trees and how they were made.
//!
//! With ZSNAP_UPGRADE_BINARIES=DIR the tools in DIR are tested instead: a release must pass with its own trees.

mod expire;
mod fanout;
mod ingest;
mod queue;
mod tree;
