//! Files that survive a crash: how they are written, where they wait, where they go, and how they are read.

pub mod dest;
pub mod incoming;
pub mod listing;
pub mod outbox;
pub mod publish;
