//! The command line: options, exit statuses, signals, messages, reports, and files that only root and we may change.

mod bars;
pub mod cancel;
pub mod colour;
pub mod escape;
pub mod exit;
pub mod findings;
pub mod log;
pub mod open_files;
pub mod options;
pub mod progress;
pub mod report;
pub mod status;
pub mod suggest;
pub mod trusted;
pub mod units;
