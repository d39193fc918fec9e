//! A model of a ZFS pool: datasets, their snapshots, and what `zfs receive` and the other commands accept.
//! `tests/lab/zfs-script` runs the same operations on a real pool. The rules are those of OpenZFS
//! (`module/zfs/dmu_recv.c`, `lib/libzfs/libzfs_sendrecv.c`).
//!
//! ```
//! use zsnap_tests::pool::{Pool, Taken, begin};
//!
//! let mut pool = Pool::new("backup", 1);
//! pool.create("backup/hosts", &[]).unwrap();
//! assert_eq!(pool.receive("backup/hosts/a@s1", &begin(None, 10)), Ok(Taken::Committed));
//! assert_eq!(pool.receive("backup/hosts/a@s2", &begin(Some(10), 11)), Ok(Taken::Committed));
//! assert_eq!(pool.receive("backup/hosts/a@s2", &begin(Some(10), 11)), Ok(Taken::Ignored));
//! pool.write("backup/hosts/a").unwrap();
//! let why = pool.receive("backup/hosts/a@s3", &begin(Some(11), 12)).unwrap_err();
//! assert!(why.contains("has been modified"));
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::random::Random;

/// The error message that `zfs` prints.
pub type Refused = String;

/// A snapshot as `zfs list` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub name: String,
    pub guid: u64,
    pub createtxg: u64,
    pub creation: u64,
    /// Tags of the holds.
    pub holds: BTreeSet<String>,
    /// User properties that were set on it.
    pub properties: BTreeMap<String, String>,
}

/// The kind of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Filesystem,
    Volume,
}

/// What `zfs receive` reads from a BEGIN record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The guid of the base, or `None` for a full stream.
    pub from: Option<u64>,
    /// The guid of the snapshot.
    pub to: u64,
    /// File system or volume.
    pub kind: Kind,
    /// Whether the stream is raw.
    pub raw: bool,
    /// The creation time in seconds UTC.
    pub created: u64,
}

/// The outcome of a stream that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The snapshot was made.
    Committed,
    /// A snapshot with its name and guid existed.
    Ignored,
}

/// A receive in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// It makes the dataset, which is destroyed if the receive ends early.
    New,
    /// It is based on the snapshot with this guid, which cannot be destroyed meanwhile.
    Increment(u64),
}

/// A file system or volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// File system or volume.
    pub kind: Kind,
    /// Whether it is encrypted: received raw, or created with encryption.
    pub raw: bool,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// The content of each snapshot. Equal numbers mean equal contents.
    pub contents: Vec<u64>,
    /// Its current content.
    pub head: u64,
    /// The properties that were set on it.
    pub properties: BTreeMap<String, String>,
    /// The snapshot that it is a clone of.
    pub origin: Option<String>,
    /// Its bookmarks by name, with guid and content of the snapshot.
    pub bookmarks: BTreeMap<String, (u64, u64)>,
    /// The receive in progress.
    pub receiving: Option<Receiving>,
}

/// A pool. The names of its datasets begin with its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its guid.
    pub guid: u64,
    /// The number of the last transaction group.
    pub txg: u64,
    /// All datasets by name, including that of the pool.
    pub datasets: BTreeMap<String, Dataset>,
}

/// Describes a stream of a file system, which is full if `from` is `None`.
pub fn begin(from: Option<u64>, to: u64) -> Begin {
    Begin { from, to, kind: Kind::Filesystem, raw: false, created: 1_700_000_000 + to % 1_000_000 }
}

/// Splits `dataset@snap`.
fn split(name: &str) -> Result<(&str, &str), Refused> {
    match name.split_once('@') {
        Some((dataset, snap)) if valid(dataset) && component(snap) => Ok((dataset, snap)),
        _ => Err(format!("cannot receive: invalid name '{name}'")),
    }
}

fn component(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.: ".contains(&b);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(known)
}

fn valid(dataset: &str) -> bool {
    dataset.len() < 256 && dataset.split('/').all(component)
}

fn parent(dataset: &str) -> Option<&str> {
    dataset.rsplit_once('/').map(|(parent, _)| parent)
}

/// Whether `name` is `root` or lies below it.
fn within(name: &str, root: &str) -> bool {
    name.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Dataset {
    /// Makes a dataset without snapshots, with the content `head`.
    pub fn new(kind: Kind, raw: bool, head: u64) -> Dataset {
        Dataset {
            kind,
            raw,
            snapshots: Vec::new(),
            contents: Vec::new(),
            head,
            properties: BTreeMap::new(),
            origin: None,
            bookmarks: BTreeMap::new(),
            receiving: None,
        }
    }

    /// Returns the snapshot with this name.
    pub fn snapshot(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| s.name == name)
    }

    /// Returns the bytes written since the newest snapshot, as `zfs list -o written` shows them: 0 if nothing has
    /// changed.
    pub fn written(&self) -> u64 {
        if self.contents.last() == Some(&self.head) { 0 } else { 8192 }
    }

    fn keep(&mut self, snapshot: Snapshot, content: u64) {
        self.snapshots.push(snapshot);
        self.contents.push(content);
    }

    fn cut(&mut self, mut keep: impl FnMut(usize, &Snapshot) -> bool) {
        let keep: Vec<bool> = self.snapshots.iter().enumerate().map(|(n, s)| keep(n, s)).collect();
        let mut of = keep.iter();
        self.snapshots.retain(|_| *of.next().unwrap());
        let mut of = keep.iter();
        self.contents.retain(|_| *of.next().unwrap());
    }
}

impl Pool {
    /// Makes a pool that has only its own dataset.
    pub fn new(name: &str, guid: u64) -> Pool {
        let datasets = [(name.to_owned(), Dataset::new(Kind::Filesystem, false, guid))].into();
        Pool { guid, txg: 100, datasets }
    }

    /// Returns a dataset, except a new one that is still being received.
    pub fn get(&self, dataset: &str) -> Option<&Dataset> {
        self.datasets.get(dataset).filter(|d| d.receiving != Some(Receiving::New))
    }

    /// Returns the snapshots of a dataset, oldest first, or `None` if it does not exist.
    pub fn snapshots(&self, dataset: &str) -> Option<&[Snapshot]> {
        self.datasets.get(dataset).map(|d| d.snapshots.as_slice())
    }

    /// Returns `root` and all datasets below it, sorted by name.
    pub fn tree<'a>(&'a self, root: &'a str) -> impl Iterator<Item = (&'a str, &'a Dataset)> {
        let all = self.datasets.iter().map(|(name, dataset)| (name.as_str(), dataset));
        all.filter(move |(name, _)| within(name, root))
    }

    /// Returns a number that was not used before.
    fn unique(&mut self) -> u64 {
        self.txg += 1;
        Random::seeded(self.guid ^ self.txg << 20).number()
    }

    fn present(&mut self, dataset: &str) -> Result<&mut Dataset, Refused> {
        self.datasets.get_mut(dataset).ok_or_else(|| format!("cannot open '{dataset}': dataset does not exist"))
    }

    /// Does what `zfs create` does.
    pub fn create(&mut self, dataset: &str, properties: &[(&str, &str)]) -> Result<(), Refused> {
        let why = |what: &str| Err(format!("cannot create '{dataset}': {what}"));
        if !valid(dataset) {
            return why("invalid name");
        }
        match parent(dataset).map(|parent| self.datasets.get(parent)) {
            _ if self.datasets.contains_key(dataset) => return why("dataset already exists"),
            Some(Some(parent)) if parent.kind == Kind::Filesystem => {}
            Some(Some(_)) => return why("parent is not a filesystem"),
            _ => return why("parent does not exist"),
        }
        let mut made = Dataset::new(Kind::Filesystem, false, self.unique());
        made.properties = properties.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        self.datasets.insert(dataset.into(), made);
        Ok(())
    }

    /// Writes something to a dataset.
    pub fn write(&mut self, dataset: &str) -> Result<(), Refused> {
        let content = self.unique();
        self.present(dataset)?.head = content;
        Ok(())
    }

    /// Does what `zfs snapshot DATASET@NAME` does at the time `creation` (seconds UTC). Returns the guid.
    pub fn snapshot(&mut self, name: &str, creation: u64) -> Result<u64, Refused> {
        let (dataset, snap) = split(name)?;
        let guid = self.unique();
        let createtxg = self.txg;
        let dataset = self.present(dataset)?;
        if dataset.snapshot(snap).is_some() {
            return Err(format!("cannot create snapshot '{name}': dataset already exists"));
        }
        let made = Snapshot { name: snap.into(), guid, createtxg, creation, ..Snapshot::default() };
        dataset.keep(made, dataset.head);
        Ok(guid)
    }

    /// Does what `zfs clone DATASET@NAME OTHER` does.
    pub fn clone_of(&mut self, name: &str, clone: &str) -> Result<(), Refused> {
        let (dataset, snap) = split(name)?;
        let of = self.present(dataset)?;
        let Some(at) = of.snapshots.iter().position(|s| s.name == snap) else {
            return Err(format!("cannot open '{name}': dataset does not exist"));
        };
        let content = of.contents[at];
        self.create(clone, &[])?;
        let made = self.present(clone)?;
        (made.head, made.origin) = (content, Some(name.to_owned()));
        Ok(())
    }

    /// Returns the clones of a snapshot, as `zfs list -o clones` shows them.
    pub fn clones(&self, name: &str) -> Vec<&str> {
        let all = self.datasets.iter().filter(|(_, d)| d.origin.as_deref() == Some(name));
        all.map(|(clone, _)| clone.as_str()).collect()
    }

    /// Returns a snapshot to change it, for example to hold it.
    pub fn snapshot_mut(&mut self, name: &str) -> Option<&mut Snapshot> {
        let (dataset, snap) = name.split_once('@')?;
        self.datasets.get_mut(dataset)?.snapshots.iter_mut().find(|s| s.name == snap)
    }

    /// Returns a user property of a dataset or snapshot, its own or an inherited one.
    pub fn user_property<'a>(&'a self, name: &'a str, key: &str) -> Option<&'a str> {
        self.user_property_of(name, key).map(|(value, _)| value)
    }

    /// Returns a user property of a dataset or snapshot, and the name of what it is set on.
    pub fn user_property_of<'a>(&'a self, name: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
        let (mut dataset, snap) = name.split_once('@').map_or((name, None), |(dataset, snap)| (dataset, Some(snap)));
        let own = snap.and_then(|snap| self.datasets.get(dataset)?.snapshot(snap)?.properties.get(key));
        if let Some(own) = own {
            return Some((own, name));
        }
        loop {
            if let Some(value) = self.datasets.get(dataset).and_then(|d| d.properties.get(key)) {
                return Some((value, dataset));
            }
            (dataset, _) = dataset.rsplit_once('/')?;
        }
    }

    /// Does what `zfs destroy -n DATASET@NAME[,NAME...]` does, which ignores holds.
    pub fn destroyable(&self, dataset: &str, names: &[&str]) -> Result<(), Refused> {
        let named: Vec<&Snapshot> = match self.datasets.get(dataset) {
            Some(of) => of.snapshots.iter().filter(|s| names.contains(&s.name.as_str())).collect(),
            None => return Err(format!("cannot open '{dataset}': dataset does not exist")),
        };
        if named.is_empty() {
            return Err("could not find any snapshots to destroy; check snapshot names.".into());
        }
        for snapshot in named {
            let name = format!("{dataset}@{}", snapshot.name);
            let clones = self.clones(&name).join("\n");
            if !clones.is_empty() {
                let words = "snapshot has dependent clones\nuse '-R' to destroy the following datasets:";
                return Err(format!("cannot destroy '{name}': {words}\n{clones}"));
            }
        }
        Ok(())
    }

    /// Does what `zfs destroy DATASET@NAME[,NAME...]` does: destroys all or none. Absent ones are ignored if one
    /// exists.
    pub fn destroy_snapshots(&mut self, dataset: &str, names: &[&str]) -> Result<(), Refused> {
        self.destroyable(dataset, names)?;
        let of = self.present(dataset)?;
        let named = |s: &Snapshot| names.contains(&s.name.as_str());
        if let Some(held) = of.snapshots.iter().find(|s| named(s) && !s.holds.is_empty()) {
            return Err(format!("cannot destroy snapshot {dataset}@{}: dataset is busy", held.name));
        }
        if let Some(Receiving::Increment(base)) = of.receiving {
            if let Some(held) = of.snapshots.iter().find(|s| named(s) && s.guid == base) {
                let name = format!("{dataset}@{}", held.name);
                return Err(format!("cannot destroy '{name}': snapshot has dependent clones"));
            }
        }
        of.cut(|_, s| !named(s));
        Ok(())
    }

    /// Does what `zfs destroy [-r] DATASET` does.
    pub fn destroy(&mut self, dataset: &str, recursive: bool) -> Result<(), Refused> {
        let has_snapshots = !self.present(dataset)?.snapshots.is_empty();
        if !recursive && (has_snapshots || self.tree(dataset).count() > 1) {
            return Err(format!("cannot destroy '{dataset}': filesystem has children\nuse '-r' to destroy"));
        }
        if self.tree(dataset).any(|(_, d)| d.receiving.is_some()) {
            return Err(format!("cannot destroy '{dataset}': dataset is busy"));
        }
        self.datasets.retain(|name, _| !within(name, dataset));
        Ok(())
    }

    /// Does what `zfs rollback [-r] DATASET@NAME` does.
    pub fn rollback(&mut self, name: &str, destroy_newer: bool) -> Result<(), Refused> {
        let (dataset, snap) = split(name)?;
        let of = self.present(dataset)?;
        let Some(at) = of.snapshots.iter().position(|s| s.name == snap) else {
            return Err(format!("cannot open '{name}': snapshot does not exist"));
        };
        if at + 1 < of.snapshots.len() && !destroy_newer {
            return Err(format!("cannot rollback to '{name}': more recent snapshots exist"));
        }
        if of.receiving.is_some() {
            return Err(format!("cannot rollback '{dataset}': dataset is busy"));
        }
        of.cut(|n, _| n <= at);
        of.head = of.contents[at];
        Ok(())
    }

    /// Does what `zfs rename` does with a dataset and all below it, or with a snapshot.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), Refused> {
        let why = |what: &str| Err(format!("cannot rename '{old}': {what}"));
        if let Ok((dataset, snap)) = split(old) {
            let Ok((other, name)) = split(new) else { return why("invalid name") };
            let of = self.present(dataset)?;
            let there = of.snapshot(name).is_some();
            return match of.snapshots.iter_mut().find(|s| s.name == snap) {
                _ if other != dataset => why("snapshots must be part of same dataset"),
                None => why("snapshot does not exist"),
                Some(_) if there => why("dataset already exists"),
                Some(snapshot) => {
                    name.clone_into(&mut snapshot.name);
                    Ok(())
                }
            };
        }
        self.present(old)?;
        if !valid(new) || within(new, old) {
            return why("invalid name");
        }
        match parent(new) {
            _ if self.datasets.contains_key(new) => return why("dataset already exists"),
            Some(parent) if self.datasets.contains_key(parent) => {}
            _ => return why("parent does not exist"),
        }
        let names: Vec<String> = self.tree(old).map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let moved = self.datasets.remove(&name).unwrap();
            self.datasets.insert(format!("{new}{}", &name[old.len()..]), moved);
        }
        Ok(())
    }

    /// Does what `zfs bookmark DATASET@NAME DATASET#BOOKMARK` does.
    pub fn bookmark(&mut self, name: &str, bookmark: &str) -> Result<(), Refused> {
        let (dataset, snap) = split(name)?;
        let of = self.present(dataset)?;
        let found = of.snapshots.iter().zip(&of.contents).find(|(s, _)| s.name == snap);
        let Some((snapshot, content)) = found else {
            return Err(format!("cannot create bookmark '{bookmark}': snapshot does not exist"));
        };
        let entry = (snapshot.guid, *content);
        of.bookmarks.insert(bookmark.rsplit('#').next().unwrap_or_default().into(), entry);
        Ok(())
    }

    /// Does what `zfs receive DATASET@NAME` does with a whole stream that changes something.
    pub fn receive(&mut self, name: &str, stream: &Begin) -> Result<Taken, Refused> {
        match self.begin(name, stream)? {
            Taken::Ignored => Ok(Taken::Ignored),
            Taken::Committed => self.commit(name, stream, true).map(|()| Taken::Committed),
        }
    }

    /// Does what a receive does after it has read the BEGIN. After `Taken::Committed` the receive is in progress until
    /// [`Pool::commit`] or [`Pool::abandon`].
    pub fn begin(&mut self, name: &str, stream: &Begin) -> Result<Taken, Refused> {
        let (dataset, snap) = split(name)?;
        match stream.from {
            None => self.begin_full(dataset, stream),
            Some(from) => self.begin_increment(dataset, snap, from, stream),
        }
    }

    fn begin_full(&mut self, dataset: &str, stream: &Begin) -> Result<Taken, Refused> {
        let why = |what: &str| Err(format!("cannot receive new filesystem stream: {what}"));
        if self.datasets.contains_key(dataset) {
            return why(&format!("destination '{dataset}' exists\nmust specify -F to overwrite it"));
        }
        match parent(dataset).map(|parent| self.datasets.get(parent)) {
            Some(Some(parent)) if parent.kind == Kind::Filesystem => {}
            Some(Some(_)) => return why("parent is not a filesystem"),
            _ => {
                return Err(format!(
                    "cannot open '{dataset}': dataset does not exist\n\
                     cannot receive new filesystem stream: unable to restore to destination"
                ));
            }
        }
        let mut made = Dataset::new(stream.kind, stream.raw, self.unique());
        made.receiving = Some(Receiving::New);
        self.datasets.insert(dataset.into(), made);
        Ok(Taken::Committed)
    }

    fn begin_increment(&mut self, dataset: &str, snap: &str, from: u64, stream: &Begin) -> Result<Taken, Refused> {
        let why = |what: &str| Err(format!("cannot receive incremental stream: {what}"));
        let Some(of) = self.datasets.get_mut(dataset) else {
            return why(&format!("destination '{dataset}' does not exist"));
        };
        if matches!(of.receiving, Some(Receiving::Increment(_))) {
            return why("dataset is busy");
        }
        match of.snapshot(snap) {
            Some(there) if there.guid == stream.to => return Ok(Taken::Ignored),
            Some(_) => return Err(format!("cannot restore to {dataset}@{snap}: destination already exists")),
            None => {}
        }
        let Some(base) = of.snapshots.iter().rposition(|s| s.guid == from) else {
            return why(&format!("most recent snapshot of {dataset} does not\nmatch incremental source"));
        };
        if of.raw != stream.raw {
            return why(if of.raw {
                "inherited key must be loaded"
            } else {
                "cannot perform raw receive on top of existing unencrypted dataset"
            });
        }
        let newest = of.snapshots.len() - 1;
        if of.head != of.contents[base] || stream.raw && base != newest {
            return why(&format!("destination {dataset} has been modified\nsince most recent snapshot"));
        }
        of.receiving = Some(Receiving::Increment(of.snapshots[newest].guid));
        Ok(Taken::Committed)
    }

    /// Does what a receive does at the END: makes the snapshot or fails. `changes` is whether there were records before
    /// it.
    pub fn commit(&mut self, name: &str, stream: &Begin, changes: bool) -> Result<(), Refused> {
        let (dataset, snap) = split(name)?;
        self.txg += 1;
        let createtxg = self.txg;
        let of = self.present(dataset)?;
        let content = match of.receiving.take() {
            None => return Err(format!("cannot receive: {dataset} is not being received")),
            Some(Receiving::New) => stream.to,
            Some(Receiving::Increment(base)) => {
                let at = of.snapshots.iter().position(|s| s.guid == base);
                let before = at.map(|at| of.contents[at]).filter(|content| *content == of.head);
                let Some(before) = before else {
                    return Err(format!("destination {dataset} has been modified\nsince most recent snapshot"));
                };
                if of.snapshot(snap).is_some() {
                    return Err(format!("cannot restore to {name}: destination already exists"));
                }
                if changes { stream.to } else { before }
            }
        };
        of.head = content;
        let (guid, creation) = (stream.to, stream.created);
        of.keep(Snapshot { name: snap.into(), guid, createtxg, creation, ..Snapshot::default() }, content);
        Ok(())
    }

    /// Does what happens when a receive into a dataset ends early.
    pub fn abandon(&mut self, dataset: &str) {
        if let Some(Some(Receiving::New)) = self.datasets.get_mut(dataset).map(|d| d.receiving.take()) {
            self.datasets.remove(dataset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/lab/zfs-script` compares the rules with the real ones. This test does what a script cannot do.
    #[test]
    fn a_change_during_a_receive_makes_its_commit_fail() {
        let mut pool = Pool::new("p", 1);
        assert_eq!(pool.begin("p/a@1", &begin(None, 1)), Ok(Taken::Committed));
        assert!(pool.get("p/a").is_none() && pool.snapshots("p/a").unwrap().is_empty());
        pool.abandon("p/a");
        assert!(pool.snapshots("p/a").is_none());
        pool.receive("p/a@1", &begin(None, 1)).unwrap();
        pool.begin("p/a@2", &begin(Some(1), 2)).unwrap();
        pool.write("p/a").unwrap();
        assert!(pool.commit("p/a@2", &begin(Some(1), 2), true).unwrap_err().contains("modified"));
        assert_eq!(pool.snapshots("p/a").unwrap().len(), 1);
        pool.rollback("p/a@1", false).unwrap();
        pool.begin("p/a@2", &begin(Some(1), 2)).unwrap();
        let ours = pool.snapshot("p/a@2", 0).unwrap();
        assert!(pool.commit("p/a@2", &begin(Some(1), 2), true).unwrap_err().contains("already exists"));
        assert_eq!(pool.snapshots("p/a").unwrap()[1].guid, ours);
    }
}
