//! Snapshots that zsnap-ingest still needs: the list that it writes for each pool (zsnap-ingest(8),
//! FILES). A list that is not complete is not a list: a missing line could cost a chain its base.

use std::collections::{HashMap, HashSet};

/// The list of one pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Snapshots by guid.
    pub guids: HashSet<u64>,
    /// `HOST` or `HOST/DATASET` of which all is needed.
    pub all: HashSet<String>,
}

/// Older than this, a list does not count: in seconds. What came since may need more.
const OLD: i64 = 24 * 3600;

impl Needed {
    /// Guid of the pool that a list is of, by its first line.
    fn pool(text: &str) -> Option<u64> {
        u64::from_str_radix(text.lines().next()?.split(' ').nth(2)?, 16).ok()
    }

    /// All that these lists have of these pools, by guid; a list comes with what it is called. Lists of
    /// other pools, of drives that are away say, do not count; each pool in `must` needs one. `now` in
    /// seconds since 1970. The error says which list is missing or does not count.
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

    /// `now` in seconds since 1970. The error says why the list does not count.
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

    /// Whether all of the dataset `name` (STORE/HOST/DATASET) is needed: the store is not known here,
    /// so any end of the name counts.
    pub fn is_all(&self, name: &str) -> bool {
        let starts = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
        starts.map(|at| &name[at..]).any(|tail| {
            let mut ends = tail.match_indices('/').map(|(at, _)| &tail[..at]).chain([tail]);
            ends.any(|what| self.all.contains(what))
        })
    }
}
