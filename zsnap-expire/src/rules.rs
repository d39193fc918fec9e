//! Retention rules: native, and of both versions of zrep-expire. Each decides on the snapshots of one dataset.

pub mod native;
pub mod rule;
pub mod zrep_v1;
pub mod zrep_v2;
