//! Sealed messages: opening one returns what was sealed, or fails.

mod containers;
mod seal;
mod sizes;
