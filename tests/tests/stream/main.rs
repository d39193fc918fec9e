//! The stream gate: what it accepts and what it rejects.

mod gate;
mod mutants;
mod senders;
