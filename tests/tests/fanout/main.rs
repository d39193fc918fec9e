//! zsnap-fanout: what each drive gets, what waits, and what it reports.

mod faults;
mod locks;
mod places;
mod run;
mod split;
mod status;
