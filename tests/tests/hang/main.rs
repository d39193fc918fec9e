//! Programs and destinations that never return. These tests wait most of the time, so `runner` sets more threads for
//! them.

mod deliveries;
mod receivers;
