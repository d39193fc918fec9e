//! Reads the list of snapshots that zsnap-ingest still needs, which it writes for each pool (see
//! zsnap-ingest(8), FILES). An incomplete list is rejected: a missing line could cost a chain its base.

use std::collections::{HashMap, HashSet};

/// The list of one pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The guids of the needed snapshots.
    pub guids: HashSet<u64>,
    /// The hosts (`HOST`) and datasets (`HOST/DATASET`) of which all snapshots are needed.
    pub all: HashSet<String>,
}

/// The maximum age of a list, in seconds. Files that arrived after it was written may need more.
const OLD: i64 = 24 * 3600;

impl Needed {
    /// Returns the guid of the pool in the first line of a list.
    fn pool(text: &str) -> Option<u64> {
        u64::from_str_radix(text.lines().next()?.split(' ').nth(2)?, 16).ok()
    }

    /// Merges the `lists` of these `pools`, which are by guid. A list is a pair of its path and its text. Lists of
    /// other pools, such as those of drives that are away, are ignored. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Which list cannot be used, or which pool in `must` has no list.
    pub fn unite(
        lists: &[(String, String)],
        pools: &HashMap<u64, &str>,
        must: &HashSet<&str>,
        now: i64,
    ) -> Result<Needed, String> {
        let (mut all, mut of) = (Needed::default(), HashSet::new());
        for (called, text) in lists {
            let pool = Needed::pool(text);
            if pool.is_none_or(|pool| pools.contains_key(&pool)) {
                let list = Needed::parse(text, now).map_err(|why| format!("{called} {why}"))?;
                all.guids.extend(list.guids);
                all.all.extend(list.all);
                of.extend(pool);
            }
        }
        match pools.iter().find(|(guid, name)| must.contains(**name) && !of.contains(*guid)) {
            None => Ok(all),
            Some((guid, name)) => Err(format!(
                "no list given by --needed is of the pool {name} (guid {guid:016x}): run zsnap-ingest there first"
            )),
        }
    }

    /// Parses a list. `now` is in seconds since 1970. The error is why the list cannot be used.
    pub fn parse(text: &str, now: i64) -> Result<Needed, String> {
        let mut lines = text.lines();
        let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let ["zsnap-needed", "1", _, written, state] = first[..] else {
            return Err("is not a list of needed snapshots (zsnap-needed 1)".into());
        };
        if state != "complete" {
            return Err("is not complete: zsnap-ingest is running or did not finish; run it first".into());
        }
        let age = now.saturating_sub(written.parse().map_err(|_| "has no time in its first line".to_owned())?);
        if !(-OLD..=OLD).contains(&age) {
            return Err(format!("is {} hours old: run zsnap-ingest first", age / 3600));
        }
        let (mut needed, mut count, mut end) = (Needed::default(), 0_u64, None);
        for line in lines {
            let bad = || format!("has the line \"{line}\", which is none of its kind");
            if end.is_some() {
                return Err("goes on behind its end".into());
            }
            match line.split_once(' ').ok_or_else(bad)? {
                ("end", number) => {
                    end = Some(number.parse::<u64>().map_err(|_| bad())?);
                    continue;
                }
                ("all", what) => drop(needed.all.insert(what.to_owned())),
                (guid, _) => drop(needed.guids.insert(u64::from_str_radix(guid, 16).map_err(|_| bad())?)),
            }
            count += 1;
        }
        match end {
            Some(number) if number == count => Ok(needed),
            _ => Err("has no end: it was cut off".into()),
        }
    }

    /// Returns whether all snapshots of the dataset `name` (STORE/HOST/DATASET) are needed. The store is not
    /// known here, so HOST may begin at any component of the name.
    pub fn is_all(&self, name: &str) -> bool {
        let starts = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
        starts.map(|at| &name[at..]).any(|tail| {
            let mut ends = tail.match_indices('/').map(|(at, _)| &tail[..at]).chain([tail]);
            ends.any(|what| self.all.contains(what))
        })
    }
}
