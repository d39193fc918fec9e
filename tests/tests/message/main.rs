//! Sealed messages: they are opened as they were sealed, or not at all.

mod seal;
mod sizes;
