//! The stream gate: what it accepts, and what it refuses.

mod gate;
mod mutants;
