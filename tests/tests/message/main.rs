//! Sealed messages: opening one returns what was sealed, or fails.

mod seal;
mod sizes;
