//! The rules of the source tree: layers, pure decisions, linked libraries, man pages, installation, and the fake zfs.

mod fake_zfs;
mod install;
mod layers;
mod linked;
mod man;
mod promises;
mod pure;
