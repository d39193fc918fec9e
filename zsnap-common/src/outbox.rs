//! (skeleton: owned by the queue helper)
