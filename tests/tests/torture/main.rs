//! Crashes at every moment, and complete histories; `make torture` runs them with many more crashes.

mod fanout;
mod histories;
mod ingest;
mod model;
mod queue;
