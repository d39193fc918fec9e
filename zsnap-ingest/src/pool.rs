//! The pool that the store lies on, and what lies there of one host.

use std::collections::btree_map::Entry::Vacant;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use zsnap_common::names::target::{Dataset, Host, Target};
use zsnap_common::process::zfs::{Snapshot, Zfs};
use zsnap_common::stream::{Guid, SubStream};

use crate::config::Config;
use crate::plan::{self, There};

/// The pool.
pub struct Pool<'a> {
    /// Its identity: what was given to another drive says nothing about this one.
    pub guid: Guid,
    /// Where received datasets go.
    pub store: &'a str,
    /// The programs.
    pub zfs: &'a Zfs,
    datasets: BTreeMap<String, u64>,
}

impl<'a> Pool<'a> {
    /// Looks for the store; `None`: none is configured, or it is absent.
    pub fn open(config: &'a Config) -> Result<Option<Pool<'a>>> {
        let Some((store, zfs)) = &config.store else { return Ok(None) };
        let Some(datasets) = zfs.datasets(store)? else { return Ok(None) };
        let Some(guid) = zfs.pool_guid(store.split('/').next().unwrap_or(store))? else { return Ok(None) };
        Ok(Some(Pool { guid, store, zfs, datasets }))
    }

    /// The hosts that have something here.
    pub fn hosts(&self) -> impl Iterator<Item = Host> + '_ {
        let of = |name: &String| name.strip_prefix(self.store)?.strip_prefix('/')?.parse().ok();
        self.datasets.keys().filter_map(of)
    }

    /// What lies here of `host`, now.
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

/// What lies below `STORE/HOST`.
#[derive(Debug, Default)]
pub struct Tree {
    root: String,
    /// With the bytes written since the newest snapshot.
    datasets: BTreeMap<String, u64>,
    /// Oldest first.
    snapshots: BTreeMap<String, Vec<Snapshot>>,
    /// What the next run will make.
    expected: BTreeSet<String>,
}

impl Tree {
    /// The name of a target's dataset on the pool.
    pub fn name(&self, target: &Target) -> String {
        format!("{}/{}", self.root, target.dataset)
    }

    /// A target as the planner sees it.
    pub fn there<'a>(&'a self, name: &'a str, parent: Option<&'a Dataset>) -> There<'a> {
        let written = self.datasets.get(name).copied();
        There { name, snapshots: written.map(|_| self.snapshots(name)), written: written.unwrap_or(0), parent }
    }

    /// The snapshots of a dataset, oldest first.
    pub fn snapshots(&self, name: &str) -> &[Snapshot] {
        self.snapshots.get(name).map_or(&[], Vec::as_slice)
    }

    /// The datasets that have snapshots.
    pub fn targets(&self, host: &Host) -> impl Iterator<Item = Target> + '_ {
        let of = |name: &String| name.strip_prefix(&self.root)?.strip_prefix('/')?.parse().ok();
        let host = host.clone();
        self.snapshots.keys().filter_map(of).map(move |dataset| Target { host: host.clone(), dataset })
    }

    /// The target's dataset will be there before those that lie in it are received.
    pub fn expect(&mut self, target: &Target) {
        self.expected.insert(self.name(target));
    }

    /// The parent that must come first: one that is neither here nor to be made by us.
    pub fn missing_parent(&self, target: &Target, create: &[Dataset]) -> Option<Dataset> {
        plan::missing_parent(target, |parent| {
            let name = format!("{}/{parent}", self.root);
            create.contains(parent) || self.datasets.contains_key(&name) || self.expected.contains(&name)
        })
    }

    /// Makes the host's own file system and the parents that the configuration lists, where they
    /// are missing.
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

    /// The first of these snapshots, as they are received one after the other, that is dated before the one that
    /// it builds on; and the date of that, in seconds since 1970.
    pub fn back_dated<'s>(&self, name: &str, subs: &'s [SubStream]) -> Option<(&'s SubStream, u64)> {
        let mut dates: BTreeMap<Guid, u64> = self.snapshots(name).iter().map(|s| (s.guid, s.creation)).collect();
        subs.iter().find_map(|sub| {
            dates.insert(sub.to, sub.created);
            let base = *dates.get(&sub.from?)?;
            (sub.created < base).then_some((sub, base))
        })
    }

    /// A dataset has one snapshot more.
    pub fn received(&mut self, name: &str, sub: &SubStream) {
        self.datasets.insert(name.to_owned(), 0);
        let snapshots = self.snapshots.entry(name.to_owned()).or_default();
        let createtxg = snapshots.last().map_or(0, |last| last.createtxg + 1);
        snapshots.push(Snapshot { name: sub.snap.clone(), guid: sub.to, createtxg, creation: sub.created });
    }

    /// Looks at one dataset again.
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
