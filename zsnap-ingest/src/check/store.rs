//! Examines the store: its programs, its pool, and whether streams can be received there.

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{Finding, warnings};
use zsnap_common::names::shell::quoted;

use crate::cli::Options;
use crate::store::Store;

/// Returns what is wrong with the store, if one is configured.
pub fn examine(options: &Options) -> Vec<Finding> {
    match Store::of(options) {
        Ok(None) => Vec::new(),
        Ok(Some(store)) => warnings(look(&store)),
        Err(e) => vec![e.into()],
    }
}

/// Returns the warnings about a store.
///
/// # Errors
/// Nothing can be received there.
fn look(store: &Store) -> Result<Vec<String>> {
    let (zfs, pool, name) = (store.programs()?, quoted(store.pool()), quoted(&store.name));
    if zfs.datasets(&store.name)?.is_none() {
        return Ok(vec![format!("{} is absent: import the pool, or run: zfs create {name}", store.name)]);
    }
    if zfs.pool_is_read_only(store.pool())? {
        let remedy = format!("zpool export {pool}, then zpool import {pool}");
        return Err(Exit::Unavailable.error(format!("the pool {} is imported read-only: {remedy}", store.pool())));
    }
    let locked = zfs.property("keystatus", &store.name)?.is_some_and(|status| status == "unavailable");
    let warning = format!(
        "the key of {} is not loaded, so that only raw streams can be received: zfs load-key {name}",
        store.name
    );
    Ok(locked.then_some(warning).into_iter().collect())
}
