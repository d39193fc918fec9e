//! Files that survive a crash: how they are written, where they wait, where they go, how they are read, and the lock of
//! their directory.

pub mod dest;
pub mod incoming;
pub mod listing;
pub mod notices;
pub mod outbox;
pub mod publish;
pub mod tool_lock;
