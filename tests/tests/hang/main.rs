//! Programs and destinations that never return. These tests wait for most of their time, so `runner` gives them more threads.

mod deliveries;
mod receivers;
