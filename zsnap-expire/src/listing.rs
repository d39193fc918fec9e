//! Snapshots as `zfs list` shows them: what the kernel says of them, and nothing that others may write. User
//! properties may hold newlines and tabs, which `zfs list` prints as they are, so they are asked for apart
//! ([`crate::zrep`]).

use std::collections::BTreeMap;

use anyhow::Result;
use zsnap_common::cli::escape::escape;
use zsnap_common::cli::exit::Exit;
use zsnap_common::process::zfs::Zfs;

use crate::snapshot::{Sent, Snapshot};

const COLUMNS: &str = "name,guid,createtxg,creation,userrefs,clones";

/// What was listed; [`Listing::snapshots`] has slices of it.
#[derive(Debug)]
pub struct Listing {
    text: String,
    roots: Vec<String>,
}

impl Listing {
    /// Lists at and below `roots`, or only these themselves (`exact`), or everything (no roots).
    ///
    /// # Errors
    /// [`Exit::Unavailable`]: a failed listing is not a listing, for what it lacks would not be protected.
    pub fn take(zfs: &Zfs, roots: &[String], exact: bool) -> Result<Listing> {
        let text = zfs.list("snapshot", COLUMNS, roots, exact.then_some(1))?;
        let absent = || Exit::Unavailable.error(format!("{} is absent; the log says more", roots.join(" or ")));
        match text.ok_or_else(absent)? {
            text if text.is_empty() || text.ends_with('\n') => Ok(Listing { text, roots: roots.to_vec() }),
            _ => Err(Exit::Unavailable.error("zfs list: its last line has no end")),
        }
    }

    /// What was asked for; none: everything.
    pub fn roots(&self) -> &[String] {
        &self.roots
    }

    /// The names of all snapshots, line by line.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.text.lines().map(|line| line.split_once('\t').map_or(line, |(name, _)| name))
    }

    /// By dataset, in the order of the listing.
    ///
    /// # Errors
    /// [`Exit::Unavailable`]: a line that is not one of its kind, is of a dataset that was not asked for, or
    /// names what another line names.
    pub fn snapshots(&self) -> Result<BTreeMap<&str, Vec<Snapshot<'_>>>> {
        let mut all: BTreeMap<&str, Vec<Snapshot<'_>>> = BTreeMap::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.peek() {
            let (of, _) = snapshot(line).ok_or_else(|| unreadable(line))?;
            // All of a dataset stands together.
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

/// Whether `dataset` is `root` or lies below it.
pub fn is_at_or_below(dataset: &str, root: &str) -> bool {
    dataset.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn unreadable(what: &str) -> anyhow::Error {
    Exit::Unavailable.error(format!("zfs list: cannot read \"{}\"", escape(what)))
}

/// A name that stands there more than once.
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
    // The sender says when it was made. What no calendar has is far in the future.
    let creation = i64::try_from(creation).unwrap_or(i64::MAX);
    let all = Snapshot { name, creation, createtxg, guid, holds, clones, sent: Sent::Unasked, ..Snapshot::default() };
    fields.next().is_none().then_some((dataset, all))
}
