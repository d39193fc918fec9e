//! File systems of sticks: what they cannot store, and what zsnap makes of it. The kernel's own drivers for FAT and
//! exFAT are tested by tests/lab/part-sticks.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "all of this is test code")]

mod exfat;
mod parts;
mod story;
