//! Several tools together: what is the same in all, exit statuses, the journal of a command's target, upgrades, memory and the demonstration.

mod alike;
mod beside;
mod cli;
mod demo;
mod memory;
mod mistakes;
mod terminal;
mod upgrade;
