//! zsnap-fanout: which files each drive gets, which wait, and what it reports.

mod faults;
mod locks;
mod places;
mod run;
mod split;
mod status;
