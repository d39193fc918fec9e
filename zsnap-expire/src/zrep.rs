//! What zrep says of datasets and snapshots, in user properties: `TAG:src-fs` where zrep is used, `TAG:sent`
//! of a snapshot that the other side has.
//!
//! Whoever may set a user property chooses its text, and `zfs list` prints newlines and tabs in it as they are. So
//! a listing counts only if it has the names that are known, line by line, with as many fields as were asked for:
//! a newline or a tab adds a line or a field, and nothing takes one away. Where it differs, each dataset is listed
//! alone, and where that differs, `zfs get` is asked for each value. A dataset with a value that is not one line is
//! left alone.

use std::collections::HashMap;
use std::fmt;
use std::slice::IterMut;

use anyhow::Result;
use zsnap_common::cli::cancel::Cancelled;
use zsnap_common::names::shell::quoted;
use zsnap_common::process::zfs::Zfs;

use crate::listing::Listing;
use crate::snapshot::{Sent, Snapshot, is_tagged};

/// zrep's tags, and where they count.
#[derive(Clone, Copy, Debug)]
pub struct Zrep<'a> {
    /// Tags; none: whatever zrep says does not count.
    pub tags: &'a [String],
    /// A tag counts for all snapshots, not only for those that zrep made of datasets where zrep is used.
    pub everywhere: bool,
}

/// Why a dataset is left alone: a user property that is not one line of text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Odd {
    /// Its name.
    pub property: String,
    /// The dataset or snapshot that has it, from which others may inherit it.
    pub of: String,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Odd { property, of } = self;
        write!(f, "{property} of {of} is not one line of text: zfs inherit {property} {}", quoted(of))
    }
}

/// A dataset with its snapshots, in the order of the listing.
pub type Of<'s, 'a> = (&'a str, &'s mut [Snapshot<'a>]);

/// A value in a listing is no longer than this, or it is asked for alone.
const VALUE: usize = 64;

/// What was asked for.
enum Asked {
    /// One line of text; `-`: the property is not set.
    Value(String),
    /// Something else.
    Odd(Odd),
    /// What it is of does not exist any more.
    Gone,
}

/// The snapshots of a dataset that are still to be filled in, and of which tags the word counts.
type Rest<'s, 'a> = (Vec<bool>, IterMut<'s, Snapshot<'a>>);

impl Zrep<'_> {
    /// Fills in [`Snapshot::sent`]. Returns the datasets that are to be left alone, and why.
    ///
    /// # Errors
    /// `zfs` fails.
    pub fn ask<'a>(
        &self,
        zfs: &Zfs,
        listing: &'a Listing,
        exact: bool,
        all: &mut [Of<'_, 'a>],
    ) -> Result<HashMap<&'a str, Odd>> {
        let mut odd = HashMap::new();
        if self.tags.is_empty() || all.is_empty() {
            return Ok(odd);
        }
        let work = self.where_at_work(zfs, listing, exact, all, &mut odd)?;
        let counts = |dataset: &str| work.get(dataset).cloned().unwrap_or_else(|| vec![true; self.tags.len()]);
        let mut rest = all.iter_mut().map(|(dataset, of)| (*dataset, (counts(dataset), of.iter_mut()))).collect();
        if self.fill(zfs, listing.roots(), exact, listing.names(), &mut rest)? {
            return Ok(odd);
        }
        drop(rest);
        for (dataset, of) in all {
            let names: Vec<&str> = of.iter().map(|snapshot| snapshot.name).collect();
            let mut rest = HashMap::from([(*dataset, (counts(dataset), of.iter_mut()))]);
            if self.fill(zfs, &[(*dataset).to_owned()], true, names.iter().copied(), &mut rest)? {
                continue;
            }
            if let Some(why) = self.ask_each(zfs, &counts(dataset), of)? {
                odd.insert(dataset, why);
            }
        }
        Ok(odd)
    }

    /// Which tags have a `TAG:src-fs`, which zrep sets on both sides, by dataset. One of which nothing is
    /// known may be zrep's.
    fn where_at_work<'a>(
        &self,
        zfs: &Zfs,
        listing: &Listing,
        exact: bool,
        all: &[Of<'_, 'a>],
        odd: &mut HashMap<&'a str, Odd>,
    ) -> Result<HashMap<&'a str, Vec<bool>>> {
        let mut work = HashMap::new();
        if self.everywhere {
            return Ok(work);
        }
        let list = |columns: &str| {
            let text = zfs.list("filesystem,volume", columns, listing.roots(), exact.then_some(0))?;
            Ok::<_, anyhow::Error>(text.unwrap_or_default())
        };
        let (names, text) = (list("name")?, list(&self.columns("src-fs"))?);
        let known: HashMap<&str, &str> = match agrees(names.lines(), self.tags.len(), &text) {
            true => text.lines().filter_map(|line| line.split_once('\t')).collect(),
            false => HashMap::new(),
        };
        for (dataset, _) in all {
            let mut of = Vec::new();
            match known.get(dataset) {
                Some(values) => of.extend(values.split('\t').map(|value| value != "-")),
                None => {
                    for tag in self.tags {
                        match value(zfs, &format!("{tag}:src-fs"), dataset)? {
                            Asked::Odd(why) => drop(odd.insert(dataset, why)),
                            Asked::Value(value) => of.push(value != "-"),
                            Asked::Gone => of.push(true),
                        }
                    }
                }
            }
            work.insert(*dataset, of);
        }
        Ok(work)
    }

    /// From a listing at and below `roots` of snapshots that are to have these names. Whether it does; if not,
    /// nothing of it counts.
    fn fill<'n>(
        &self,
        zfs: &Zfs,
        roots: &[String],
        exact: bool,
        names: impl Iterator<Item = &'n str> + Clone,
        rest: &mut HashMap<&str, Rest<'_, '_>>,
    ) -> Result<bool> {
        let bytes: usize = names.clone().map(|name| name.len() + 1 + VALUE * self.tags.len()).sum();
        let text = zfs.list_at_most(bytes as u64, "snapshot", &self.columns("sent"), roots, exact.then_some(1));
        match text.map(Option::unwrap_or_default) {
            Ok(text) => Ok(self.read(names, &text, rest)),
            Err(e) if Cancelled::find(&e).is_some() => Err(e),
            // Where zfs fails, it fails again when it is asked for each value.
            Err(_) => Ok(false),
        }
    }

    fn read<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        text: &str,
        rest: &mut HashMap<&str, Rest<'_, '_>>,
    ) -> bool {
        if !agrees(names, self.tags.len(), text) {
            return false;
        }
        for (name, values) in text.lines().filter_map(|line| line.split_once('\t')) {
            let dataset = name.split_once('@').map_or(name, |(dataset, _)| dataset);
            let Some((counts, snapshots)) = rest.get_mut(dataset) else { continue };
            if let Some(snapshot) = snapshots.next() {
                snapshot.sent = self.sent(name, counts, values.split('\t'));
            }
        }
        true
    }

    /// Asks for each value of the snapshots of one dataset alone.
    fn ask_each(&self, zfs: &Zfs, counts: &[bool], snapshots: &mut [Snapshot<'_>]) -> Result<Option<Odd>> {
        for snapshot in snapshots {
            let mut values = Vec::new();
            for (nr, tag) in self.tags.iter().enumerate() {
                // What does not count cannot be odd either: whoever may set it stops nothing where zrep is not.
                if counts.get(nr) != Some(&true) {
                    values.push("-".to_owned());
                    continue;
                }
                match value(zfs, &format!("{tag}:sent"), snapshot.name)? {
                    Asked::Odd(why) => return Ok(Some(why)),
                    Asked::Value(value) => values.push(value),
                    // It is gone by now: zrep renames what it sends.
                    Asked::Gone => values.push("-".to_owned()),
                }
            }
            snapshot.sent = self.sent(snapshot.name, counts, values.iter().map(String::as_str));
        }
        Ok(None)
    }

    /// Of the tag that the name has, or everywhere of the first one.
    fn sent<'v>(&self, name: &str, counts: &[bool], values: impl Iterator<Item = &'v str>) -> Sent {
        let mut sent = Sent::Unasked;
        for ((tag, _), value) in self.tags.iter().zip(counts).zip(values).filter(|((_, counts), _)| **counts) {
            if is_tagged(name, tag) || self.everywhere && sent == Sent::Unasked {
                sent = Sent::of(value);
            }
        }
        sent
    }

    fn columns(&self, property: &str) -> String {
        self.tags.iter().fold("name".to_owned(), |columns, tag| format!("{columns},{tag}:{property}"))
    }
}

/// Whether a listing has these names, line by line, with as many values each.
fn agrees<'n>(mut names: impl Iterator<Item = &'n str>, values: usize, text: &str) -> bool {
    let mut lines = text.split_inclusive('\n');
    let each = names.all(|name| {
        let line = lines.next().and_then(|line| line.strip_suffix('\n'));
        let of = line.and_then(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        of.is_some_and(|of| of.matches('\t').count() + 1 == values)
    });
    each && lines.next().is_none()
}

/// Asks for one value alone.
fn value(zfs: &Zfs, property: &str, name: &str) -> Result<Asked> {
    let Some(value) = zfs.property(property, name)? else { return Ok(Asked::Gone) };
    if !value.contains(char::is_control) {
        return Ok(Asked::Value(value));
    }
    let source = zfs.property_source(property, name)?.unwrap_or_default();
    let of = source.strip_prefix("inherited from ").unwrap_or(name);
    Ok(Asked::Odd(Odd { property: property.to_owned(), of: of.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a@x` is not zrep's.
    const NAMES: [&str; 3] = ["a@zrep_000001", "a@zrep_000002", "a@x"];

    /// What is read of the three, if it is believed.
    fn read(tags: [&str; 2], everywhere: bool, counts: bool, text: &str) -> Option<[Sent; 3]> {
        let tags = tags.map(str::to_owned);
        let zrep = Zrep { tags: &tags, everywhere };
        let mut all = NAMES.map(|name| Snapshot { name, ..Snapshot::default() });
        let mut rest = HashMap::from([("a", (vec![counts; 2], all.iter_mut()))]);
        zrep.read(NAMES.into_iter(), text, &mut rest).then(|| all.map(|snapshot| snapshot.sent))
    }

    #[test]
    fn only_a_listing_of_the_names_that_are_known_is_believed() {
        let good = "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n";
        let read = |text| read(["zrep", "off"], false, true, text);
        assert_eq!(read(good), Some([Sent::Time, Sent::No, Sent::Unasked]));
        for bad in [
            // A line more, one less, others, in another order.
            "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-\na@y\t-\t-\n",
            "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\n",
            "a@zrep_000002\t1\t-\na@zrep_000001\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\t1\t-\na@zrep_000003\t-\t-\na@x\t-\t-\n",
            // The value of the first one holds the line of the second one.
            "a@zrep_000001\t1\t-\na@zrep_000002\t1\t-\n\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\t\n\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            // A field more, one less.
            "a@zrep_000001\t1\t2\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\t1\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            // Cut off at its end; nothing.
            "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_word_of_its_own_tag_counts_first() {
        let text = "a@zrep_000001\t-\t17\na@zrep_000002\t1\t-\na@x\tword\t-\n";
        let read = |everywhere, counts| read(["off", "zrep"], everywhere, counts, text).unwrap();
        assert_eq!(read(false, true), [Sent::Time, Sent::No, Sent::Unasked]);
        assert_eq!(read(true, true), [Sent::Time, Sent::No, Sent::Other]);
        // Where zrep is not at work, names that are like its mean nothing.
        assert_eq!(read(false, false), [Sent::Unasked; 3]);
    }
}
