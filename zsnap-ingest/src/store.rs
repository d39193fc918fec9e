//! The store as it is configured, and the programs for it.

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::names::target::Dataset;
use zsnap_common::process::zfs::Zfs;

use crate::cli::Options;

/// The store that ZFS streams are received into.
pub struct Store {
    /// The dataset.
    pub name: String,
    /// The programs for it, or why they were not found. Commands need none.
    zfs: Result<Zfs, (Exit, String)>,
}

impl Store {
    /// Returns the store and the programs for it; `None` if none is configured. Missing programs are not an error here.
    pub fn of(options: &Options) -> Result<Option<Store>> {
        let Some(store) = &options.store else { return Ok(None) };
        let dataset: Dataset = store.parse().or_exit(Exit::Config, "--store")?;
        // The store begins the last argument of `zfs receive`, where it would be taken for an option.
        if store.starts_with('-') {
            return Err(Exit::Config.error(format!("--store: no pool is called \"{store}\"")));
        }
        let zfs = Zfs::find(&options.zfs, &options.zpool).map_err(|e| (Exit::of(&e), format!("{e:#}")));
        Ok(Some(Store { name: dataset.into(), zfs }))
    }

    /// Returns the programs.
    ///
    /// # Errors
    /// They were not found.
    pub fn programs(&self) -> Result<&Zfs> {
        self.zfs.as_ref().map_err(|(exit, why)| exit.error(why))
    }

    /// Returns the name of the pool.
    pub fn pool(&self) -> &str {
        self.name.split('/').next().unwrap_or(&self.name)
    }
}
