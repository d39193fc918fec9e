//! Files that survive a crash: publishing, outboxes, destinations, incoming directories, notices, and the lock of a
//! tool's state directory.

pub mod abilities;
pub mod dest;
pub mod filesystem;
pub mod incoming;
pub mod listing;
pub mod notices;
pub mod outbox;
pub mod publish;
pub mod success;
pub mod tool_lock;
