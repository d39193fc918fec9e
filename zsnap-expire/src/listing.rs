//! Snapshots as `zfs list` shows them.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use zsnap_common::exit::Exit;
use zsnap_common::log;
use zsnap_common::zfs::Zfs;

use crate::snapshot::{Snapshot, is_tagged};

/// What was listed; [`Listing::snapshots`] has slices of it.
#[derive(Debug)]
pub struct Listing {
    text: String,
    tags: Vec<String>,
    /// Datasets that carry no properties of a tag, with the tag.
    untagged: HashSet<(String, String)>,
    /// A tag's word counts for all snapshots, not only for those that zrep made.
    everywhere: bool,
}

impl Listing {
    /// Lists at and below `roots`, or only these themselves (`exact`), or everything (no roots).
    ///
    /// # Errors
    /// [`Exit::Unavailable`]: a failed listing is no listing, for what it lacks would not be protected.
    pub fn take(zfs: &Zfs, roots: &[String], exact: bool, tags: &[String], everywhere: bool) -> Result<Listing> {
        let absent = || Exit::Unavailable.error(format!("{} is not here; the log says more", roots.join(" or ")));
        let with = |columns: &str, property: &str| {
            tags.iter().fold(columns.to_owned(), |columns, tag| format!("{columns},{tag}:{property}"))
        };
        let columns = with("name,guid,createtxg,creation,userrefs,clones", "sent");
        let whole = |text: Option<String>| match text.ok_or_else(absent)? {
            text if text.is_empty() || text.ends_with('\n') => Ok(text),
            _ => Err(Exit::Unavailable.error("zfs list: its last line has no end")),
        };
        let text = whole(zfs.list("snapshot", &columns, roots, exact.then_some(1))?)?;
        let mut untagged = HashSet::new();
        if !tags.is_empty() {
            // zrep init sets it on both sides.
            let text = zfs.list("filesystem,volume", &with("name", "src-fs"), roots, exact.then_some(0))?;
            for line in whole(text)?.lines() {
                let mut fields = line.split('\t');
                let dataset = fields.next().unwrap_or_default();
                let unset = tags.iter().zip(fields).filter(|(_, value)| *value == "-");
                untagged.extend(unset.map(|(tag, _)| (dataset.to_owned(), tag.clone())));
            }
        }
        Ok(Listing { text, tags: tags.to_vec(), untagged, everywhere })
    }

    /// By dataset.
    pub fn snapshots(&self) -> Result<BTreeMap<&str, Vec<Snapshot<'_>>>> {
        let mut all: BTreeMap<&str, Vec<Snapshot<'_>>> = BTreeMap::new();
        for line in self.text.lines() {
            let (dataset, snapshot) = self
                .snapshot(line)
                .ok_or_else(|| Exit::Unavailable.error(format!("zfs list: cannot read \"{}\"", log::escape(line))))?;
            all.entry(dataset).or_default().push(snapshot);
        }
        Ok(all)
    }

    fn snapshot<'a>(&'a self, line: &'a str) -> Option<(&'a str, Snapshot<'a>)> {
        let mut fields = line.split('\t');
        let name = fields.next()?;
        let (dataset, _) = name.split_once('@')?;
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (guid, createtxg, creation, holds) = (number()?, number()?, number()?, number()?);
        let clones = fields.next()?;
        let mut sent = None;
        for tag in &self.tags {
            let value = fields.next()?;
            // One that is not listed may be zrep's.
            let foreign = || !self.everywhere && self.untagged.contains(&(dataset.to_owned(), tag.clone()));
            if is_tagged(name, tag) && !foreign() {
                sent = Some(value);
            } else if self.everywhere {
                sent = sent.or(Some(value));
            }
        }
        let clones = if clones == "-" { "" } else { clones };
        // The sender says when it was made. What no calendar has is far in the future.
        let creation = i64::try_from(creation).unwrap_or(i64::MAX);
        Some((dataset, Snapshot { name, creation, createtxg, guid, holds, clones, sent }))
    }
}
