//! Reads zrep's user properties: `TAG:src-fs` is set on datasets where zrep is used, and `TAG:sent` on snapshots
//! that the other side has.
//!
//! A user who may set a user property can choose any text, and `zfs list` prints newlines and tabs in it unescaped.
//! Therefore a listing is used only if it has exactly the known names, line by line, with the expected number of
//! fields: a newline or a tab in a value adds a line or a field, and nothing can remove one. If it differs, each
//! dataset is listed separately, and if that differs, `zfs get` is run for each value. A dataset with a value that
//! is not one line of text is skipped.

use std::collections::HashMap;
use std::fmt;
use std::slice::IterMut;

use anyhow::Result;
use zsnap_common::cli::cancel::Cancelled;
use zsnap_common::names::shell::quoted;
use zsnap_common::process::zfs::Zfs;

use crate::listing::Listing;
use crate::snapshot::{Sent, Snapshot, is_tagged};

/// The tags of zrep, and where they count.
#[derive(Clone, Copy, Debug)]
pub struct Zrep<'a> {
    /// The tags. If there are none, zrep's properties do not count.
    pub tags: &'a [String],
    /// Whether the tags count for all snapshots, not only for those that zrep made in datasets where it is used.
    pub everywhere: bool,
}

/// The reason why a dataset is skipped: a user property that is not one line of text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Odd {
    /// The name of the property.
    pub property: String,
    /// The dataset or snapshot on which it is set. Others may inherit it.
    pub of: String,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Odd { property, of } = self;
        write!(f, "{property} of {of} is not one line of text: zfs inherit {property} {}", quoted(of))
    }
}

/// The name of a dataset, and its snapshots in the order of the listing.
pub type Of<'s, 'a> = (&'a str, &'s mut [Snapshot<'a>]);

/// How many bytes of a listing are allowed for a value on average. If there are more, values are read separately.
const VALUE: usize = 64;

/// The result of reading one property.
enum Asked {
    /// One line of text; `-` if the property is not set.
    Value(String),
    /// A value that is not one line of text.
    Odd(Odd),
    /// The dataset or snapshot does not exist any more.
    Gone,
}

/// Whether each tag counts in a dataset, and the snapshots that are still to be filled in.
type Rest<'s, 'a> = (Vec<bool>, IterMut<'s, Snapshot<'a>>);

impl Zrep<'_> {
    /// Fills in [`Snapshot::sent`]. Returns the datasets to skip, with the reason.
    ///
    /// # Errors
    /// An error of `zfs`.
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

    /// Returns, for each dataset, which tags have a property `TAG:src-fs`, which zrep sets on both sides. If nothing
    /// is known about a dataset, zrep may use it, so all tags count.
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

    /// Fills in snapshots from a listing at and below `roots`. Returns whether the listing has exactly `names`. If
    /// not, none of it is used.
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
            // A persistent failure of zfs is reported when each value is read.
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

    /// Reads each value of the snapshots of one dataset separately.
    fn ask_each(&self, zfs: &Zfs, counts: &[bool], snapshots: &mut [Snapshot<'_>]) -> Result<Option<Odd>> {
        for snapshot in snapshots {
            let mut values = Vec::new();
            for (nr, tag) in self.tags.iter().enumerate() {
                // Do not read values that do not count: where zrep is not used, setting one must not stop anything.
                if counts.get(nr) != Some(&true) {
                    values.push("-".to_owned());
                    continue;
                }
                match value(zfs, &format!("{tag}:sent"), snapshot.name)? {
                    Asked::Odd(why) => return Ok(Some(why)),
                    Asked::Value(value) => values.push(value),
                    // The snapshot is gone: zrep renames snapshots that it sends.
                    Asked::Gone => values.push("-".to_owned()),
                }
            }
            snapshot.sent = self.sent(snapshot.name, counts, values.iter().map(String::as_str));
        }
        Ok(None)
    }

    /// Selects the value of the tag in the name or, if tags count everywhere, of the first tag.
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

/// Returns whether a listing has exactly `names`, line by line, with this number of `values` each.
fn agrees<'n>(mut names: impl Iterator<Item = &'n str>, values: usize, text: &str) -> bool {
    let mut lines = text.split_inclusive('\n');
    let each = names.all(|name| {
        let line = lines.next().and_then(|line| line.strip_suffix('\n'));
        let of = line.and_then(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        of.is_some_and(|of| of.matches('\t').count() + 1 == values)
    });
    each && lines.next().is_none()
}

/// Reads one value.
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

    /// The names of snapshots, of which zrep did not make `a@x`.
    const NAMES: [&str; 3] = ["a@zrep_000001", "a@zrep_000002", "a@x"];

    /// Returns the values for the three snapshots, or `None` if the listing is rejected.
    fn read(tags: [&str; 2], everywhere: bool, counts: bool, text: &str) -> Option<[Sent; 3]> {
        let tags = tags.map(str::to_owned);
        let zrep = Zrep { tags: &tags, everywhere };
        let mut all = NAMES.map(|name| Snapshot { name, ..Snapshot::default() });
        let mut rest = HashMap::from([("a", (vec![counts; 2], all.iter_mut()))]);
        zrep.read(NAMES.into_iter(), text, &mut rest).then(|| all.map(|snapshot| snapshot.sent))
    }

    #[test]
    fn a_listing_with_other_names_or_fields_is_rejected() {
        let good = "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n";
        let read = |text| read(["zrep", "off"], false, true, text);
        assert_eq!(read(good), Some([Sent::Time, Sent::No, Sent::Unasked]));
        for bad in [
            // An extra line, a missing line, another order, another name.
            "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-\na@y\t-\t-\n",
            "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\n",
            "a@zrep_000002\t1\t-\na@zrep_000001\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\t1\t-\na@zrep_000003\t-\t-\na@x\t-\t-\n",
            // The value of the first snapshot contains the line of the second one.
            "a@zrep_000001\t1\t-\na@zrep_000002\t1\t-\n\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\t\n\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            // An extra field, missing fields.
            "a@zrep_000001\t1\t2\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\t1\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            "a@zrep_000001\na@zrep_000002\t-\t-\na@x\t-\t-\n",
            // Truncated; empty.
            "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_property_of_the_snapshots_own_tag_has_precedence() {
        let text = "a@zrep_000001\t-\t17\na@zrep_000002\t1\t-\na@x\tword\t-\n";
        let read = |everywhere, counts| read(["off", "zrep"], everywhere, counts, text).unwrap();
        assert_eq!(read(false, true), [Sent::Time, Sent::No, Sent::Unasked]);
        assert_eq!(read(true, true), [Sent::Time, Sent::No, Sent::Other]);
        // Where zrep is not used, names that look like zrep's mean nothing.
        assert_eq!(read(false, false), [Sent::Unasked; 3]);
    }
}
