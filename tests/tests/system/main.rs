//! Several tools together: exit statuses, what they share, older versions, memory, and the demonstration.

mod beside;
mod cli;
mod demo;
mod memory;
mod upgrade;
