//! The destinations of a run.

use std::collections::HashSet;

use zsnap_common::durable::dest::{Dest, Transport};

/// A destination that has an outbox.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The name of the outbox.
    pub id: String,
    pub dest: Dest,
    pub transport: Transport,
    /// Whether the destination is set in the configuration or on the command line.
    pub configured: bool,
}

/// Returns each configured destination once, except standard output, which has no outbox.
pub fn configured(dests: &[Dest], transport: &Transport) -> Vec<Destination> {
    let destination =
        |dest: &Dest| Destination { id: dest.id(), dest: dest.clone(), transport: transport.clone(), configured: true };
    let mut seen = HashSet::new();
    dests.iter().filter(|dest| **dest != Dest::Stdout && seen.insert(*dest)).map(destination).collect()
}
