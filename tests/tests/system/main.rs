//! Several tools together: exit statuses, the journal of a command's target, upgrades, memory and the demonstration.

mod beside;
mod cli;
mod demo;
mod memory;
mod upgrade;
