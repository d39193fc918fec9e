//! Parses the output of `zfs list`. It lists only properties that the kernel sets, because a user property can
//! contain newlines and tabs, which `zfs list` prints unescaped. [`crate::zrep`] reads user properties
//! separately.

use std::collections::BTreeMap;

use anyhow::Result;
use zsnap_common::cli::escape::escape;
use zsnap_common::cli::exit::Exit;
use zsnap_common::process::zfs::Zfs;

use crate::snapshot::{Sent, Snapshot};

const COLUMNS: &str = "name,guid,createtxg,creation,userrefs,clones";

/// The output of `zfs list`. The result of [`Listing::snapshots`] has slices of it.
#[derive(Debug)]
pub struct Listing {
    text: String,
    roots: Vec<String>,
}

impl Listing {
    /// Lists the snapshots of `roots` and of all datasets below; with `exact`, only of `roots`; without roots, of all.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if `zfs` fails or its output is truncated: what is missing would not be protected.
    pub fn take(zfs: &Zfs, roots: &[String], exact: bool) -> Result<Listing> {
        let text = zfs.list("snapshot", COLUMNS, roots, exact.then_some(1))?;
        let absent = || Exit::Unavailable.error(format!("{} is absent; the log says more", roots.join(" or ")));
        match text.ok_or_else(absent)? {
            text if text.is_empty() || text.ends_with('\n') => Ok(Listing { text, roots: roots.to_vec() }),
            _ => Err(Exit::Unavailable.error("zfs list: its last line has no end")),
        }
    }

    /// Returns the datasets that were to be listed; empty for all.
    pub fn roots(&self) -> &[String] {
        &self.roots
    }

    /// Returns the names of all snapshots, line by line.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.text.lines().map(|line| line.split_once('\t').map_or(line, |(name, _)| name))
    }

    /// Returns the snapshots by dataset, in the order of the listing.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if a line cannot be parsed, belongs to a dataset that was not to be listed, or repeats a
    /// name.
    pub fn snapshots(&self) -> Result<BTreeMap<&str, Vec<Snapshot<'_>>>> {
        let mut all: BTreeMap<&str, Vec<Snapshot<'_>>> = BTreeMap::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.peek() {
            let (of, _) = snapshot(line).ok_or_else(|| unreadable(line))?;
            // The lines of a dataset are adjacent, so a dataset that reappears is an error.
            let asked = self.roots.is_empty() || self.roots.iter().any(|root| is_at_or_below(of, root));
            if !asked || all.contains_key(of) {
                return Err(unreadable(line));
            }
            let mut snapshots = Vec::new();
            while let Some((dataset, snapshot)) = lines.peek().and_then(|line| snapshot(line)) {
                if dataset != of {
                    break;
                }
                snapshots.push(snapshot);
                lines.next();
            }
            if let Some(twice) = twice(&snapshots) {
                return Err(unreadable(twice));
            }
            all.insert(of, snapshots);
        }
        Ok(all)
    }
}

/// Returns whether `dataset` is `root` or is below it.
pub fn is_at_or_below(dataset: &str, root: &str) -> bool {
    dataset.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn unreadable(what: &str) -> anyhow::Error {
    Exit::Unavailable.error(format!("zfs list: cannot read \"{}\"", escape(what)))
}

/// Returns a name that occurs more than once, if any.
fn twice<'a>(snapshots: &[Snapshot<'a>]) -> Option<&'a str> {
    if snapshots.is_sorted_by(|a, b| a.name < b.name) {
        return None;
    }
    let mut names: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.name).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn snapshot(line: &str) -> Option<(&str, Snapshot<'_>)> {
    let mut fields = line.split('\t');
    let name = fields.next()?;
    let (dataset, _) = name.split_once('@')?;
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (guid, createtxg, creation, holds) = (number()?, number()?, number()?, number()?);
    let clones = fields.next()?;
    let clones = if clones == "-" { "" } else { clones };
    // The sender of a stream sets the creation time. A value beyond i64 is read as far in the future.
    let creation = i64::try_from(creation).unwrap_or(i64::MAX);
    let all = Snapshot { name, creation, createtxg, guid, holds, clones, sent: Sent::Unasked, ..Snapshot::default() };
    fields.next().is_none().then_some((dataset, all))
}
