//! Names: of hosts and datasets, of queue files, by pattern, by content, and as a shell reads them.

pub mod digest;
pub mod glob;
pub mod queue_name;
pub mod shell;
pub mod target;
