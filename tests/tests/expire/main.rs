//! zsnap-expire: which snapshots it keeps, what it destroys, and what stops it.

mod backdated;
mod destroy;
mod filter;
mod forged;
mod properties;
mod protect;
mod restic;
mod run;
mod told;
mod zrep;
