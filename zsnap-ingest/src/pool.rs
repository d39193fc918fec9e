//! The pool that contains the store, and what it contains of one host.

use std::collections::btree_map::Entry::Vacant;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use zsnap_common::names::target::{Dataset, Host, Target};
use zsnap_common::process::zfs::{Snapshot, Zfs};
use zsnap_common::stream::{Guid, SubStream};

use crate::config::Config;
use crate::plan::{self, PoolState};

/// The pool that contains the store.
pub struct Pool<'a> {
    /// The identity of the pool: what another pool has received says nothing about this one.
    pub guid: Guid,
    /// The dataset below which streams are received.
    pub store: &'a str,
    /// The `zfs` and `zpool` programs.
    pub zfs: &'a Zfs,
    datasets: BTreeMap<String, u64>,
}

impl<'a> Pool<'a> {
    /// Opens the pool of the store; `None`: no store is configured, or it is away.
    pub fn open(config: &'a Config) -> Result<Option<Pool<'a>>> {
        let Some(store) = &config.store else { return Ok(None) };
        let zfs = store.programs()?;
        let Some(datasets) = zfs.datasets(&store.name)? else { return Ok(None) };
        let Some(guid) = zfs.pool_guid(store.pool())? else { return Ok(None) };
        Ok(Some(Pool { guid, store: &store.name, zfs, datasets }))
    }

    /// Returns the hosts that have datasets in the store.
    pub fn hosts(&self) -> impl Iterator<Item = Host> + '_ {
        let of = |name: &String| name.strip_prefix(self.store)?.strip_prefix('/')?.parse().ok();
        self.datasets.keys().filter_map(of)
    }

    /// Reads what the store contains of `host` now.
    pub fn tree(&self, host: &Host) -> Result<Tree> {
        let root = format!("{}/{host}", self.store);
        if !self.datasets.contains_key(&root) {
            return Ok(Tree { root, ..Tree::default() });
        }
        let datasets = self.zfs.datasets(&root)?.unwrap_or_default();
        let snapshots = self.zfs.snapshots(&root)?;
        Ok(Tree { root, datasets, snapshots, ..Tree::default() })
    }
}

/// The datasets and snapshots below `STORE/HOST`.
#[derive(Debug, Default)]
pub struct Tree {
    root: String,
    /// The datasets, with the bytes written since their newest snapshot.
    datasets: BTreeMap<String, u64>,
    /// The snapshots of each dataset, oldest first.
    snapshots: BTreeMap<String, Vec<Snapshot>>,
    /// The datasets that the next run will create.
    expected: BTreeSet<String>,
}

impl Tree {
    /// Returns the name of a target's dataset on the pool.
    pub fn name(&self, target: &Target) -> String {
        format!("{}/{}", self.root, target.dataset)
    }

    /// Returns the state of a target for the planner.
    pub fn there<'a>(&'a self, name: &'a str, parent: Option<&'a Dataset>) -> PoolState<'a> {
        let written = self.datasets.get(name).copied();
        PoolState { name, snapshots: written.map(|_| self.snapshots(name)), written: written.unwrap_or(0), parent }
    }

    /// Returns the snapshots of a dataset, oldest first.
    pub fn snapshots(&self, name: &str) -> &[Snapshot] {
        self.snapshots.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the targets that have snapshots.
    pub fn targets(&self, host: &Host) -> impl Iterator<Item = Target> + '_ {
        let of = |name: &String| name.strip_prefix(&self.root)?.strip_prefix('/')?.parse().ok();
        let host = host.clone();
        self.snapshots.keys().filter_map(of).map(move |dataset| Target { host: host.clone(), dataset })
    }

    /// Notes that the target's dataset will exist before its children are received.
    pub fn expect(&mut self, target: &Target) {
        self.expected.insert(self.name(target));
    }

    /// Returns the parent that must be received first: it does not exist, and `create` does not list it.
    pub fn missing_parent(&self, target: &Target, create: &[Dataset]) -> Option<Dataset> {
        plan::missing_parent(target, |parent| {
            let name = format!("{}/{parent}", self.root);
            create.contains(parent) || self.datasets.contains_key(&name) || self.expected.contains(&name)
        })
    }

    /// Creates the host's own file system, and the missing parents of the target. The planner makes a file wait unless
    /// the configuration lists those parents.
    pub fn make_parents(&mut self, zfs: &Zfs, target: &Target) -> Result<()> {
        let mut at = Some(target.dataset.clone());
        let mut names = Vec::new();
        while let Some(parent) = at.and_then(|dataset| dataset.parent()) {
            names.push(format!("{}/{parent}", self.root));
            at = Some(parent);
        }
        names.push(self.root.clone());
        for name in names.into_iter().rev() {
            if let Vacant(new) = self.datasets.entry(name) {
                zfs.create_parent(new.key())?;
                new.insert(0);
            }
        }
        Ok(())
    }

    /// Returns the first of these snapshots, in the order in which they were received, whose date is earlier than that
    /// of its base, together with the date of the base in seconds since 1970.
    pub fn back_dated<'s>(&self, name: &str, subs: &'s [SubStream]) -> Option<(&'s SubStream, u64)> {
        let mut dates: BTreeMap<Guid, u64> = self.snapshots(name).iter().map(|s| (s.guid, s.creation)).collect();
        subs.iter().find_map(|sub| {
            dates.insert(sub.to, sub.created);
            let base = *dates.get(&sub.from?)?;
            (sub.created < base).then_some((sub, base))
        })
    }

    /// Adds a received snapshot to a dataset.
    pub fn received(&mut self, name: &str, sub: &SubStream) {
        self.datasets.insert(name.to_owned(), 0);
        let snapshots = self.snapshots.entry(name.to_owned()).or_default();
        let createtxg = snapshots.last().map_or(0, |last| last.createtxg + 1);
        snapshots.push(Snapshot { name: sub.snap.clone(), guid: sub.to, createtxg, creation: sub.created });
    }

    /// Reads one dataset again.
    pub fn refresh(&mut self, zfs: &Zfs, name: &str) -> Result<()> {
        match zfs.datasets(name)? {
            Some(datasets) => {
                let mut snapshots = zfs.snapshots(name)?;
                self.datasets.extend(datasets);
                self.snapshots.insert(name.to_owned(), snapshots.remove(name).unwrap_or_default());
            }
            None => {
                self.datasets.remove(name);
                self.snapshots.remove(name);
            }
        }
        Ok(())
    }
}
