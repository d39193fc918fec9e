//! The stream gate: what it accepts and what it rejects.

mod gate;
mod kinds;
mod mutants;
mod rules;
mod senders;
