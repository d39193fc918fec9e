//! What zrep says of datasets and snapshots, in user properties: `TAG:src-fs` where it is at work, `TAG:sent`
//! of a snapshot that the other side has.
//!
//! Whoever may set a user property chooses its text, and `zfs list` prints newlines and tabs in it as they are. So
//! a listing counts only if it has the names that are known, line by line, with as many fields as were asked for:
//! a newline or a tab adds a line or a field, and nothing takes one away. Where it differs, `zfs get` is asked for each
//! value alone. A dataset with a value that is not one line is left alone.

use anyhow::Result;
use zsnap_common::cancel::Cancelled;
use zsnap_common::zfs::Zfs;

use crate::snapshot::{Sent, Snapshot, is_tagged};
use crate::table::quoted;

/// zrep's tags, and where they count.
#[derive(Clone, Copy, Debug)]
pub struct Zrep<'a> {
    /// Tags; none: whatever zrep says does not count.
    pub tags: &'a [String],
    /// A tag counts for all snapshots, not only for those that zrep made of datasets where it is at work.
    pub everywhere: bool,
}

/// Why a dataset is left alone.
pub type Odd = String;

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

impl Zrep<'_> {
    /// Fills in [`Snapshot::sent`] of the snapshots of one dataset. `Some`: one of its properties is odd.
    ///
    /// # Errors
    /// `zfs` fails.
    pub fn ask(&self, zfs: &Zfs, dataset: &str, snapshots: &mut [Snapshot<'_>]) -> Result<Option<Odd>> {
        let mut tags: Vec<&str> = Vec::new();
        for tag in self.tags {
            if !self.everywhere {
                if !snapshots.iter().any(|snapshot| is_tagged(snapshot.name, tag)) {
                    continue;
                }
                // zrep init sets it on both sides.
                match value(zfs, &format!("{tag}:src-fs"), dataset)? {
                    Asked::Odd(why) => return Ok(Some(why)),
                    Asked::Value(value) if value == "-" => continue,
                    // One that is gone meanwhile may have been zrep's.
                    Asked::Value(_) | Asked::Gone => {}
                }
            }
            tags.push(tag);
        }
        if tags.is_empty() {
            return Ok(None);
        }
        let columns = tags.iter().fold("name".to_owned(), |columns, tag| format!("{columns},{tag}:sent"));
        let names: usize = snapshots.iter().map(|snapshot| snapshot.name.len() + 1 + VALUE * tags.len()).sum();
        let text = zfs.list_at_most(names as u64, "snapshot", &columns, &[dataset.to_owned()], Some(1));
        match text.map(Option::unwrap_or_default) {
            Ok(text) if self.read(&tags, snapshots, &text) => return Ok(None),
            Err(e) if Cancelled::find(&e).is_some() => return Err(e),
            // Where zfs fails, it fails below as well.
            Ok(_) | Err(_) => {}
        }
        for snapshot in snapshots {
            let mut values = Vec::new();
            for tag in &tags {
                if !self.everywhere && !is_tagged(snapshot.name, tag) {
                    values.push(String::new());
                    continue;
                }
                match value(zfs, &format!("{tag}:sent"), snapshot.name)? {
                    Asked::Odd(why) => return Ok(Some(why)),
                    Asked::Value(value) => values.push(value),
                    // It is gone by now: zrep renames what it sends.
                    Asked::Gone => values.push("-".to_owned()),
                }
            }
            snapshot.sent = self.sent(snapshot.name, &tags, values.iter().map(String::as_str));
        }
        Ok(None)
    }

    /// From a listing of names and values. Whether it can be believed; if not, nothing of it counts.
    fn read(&self, tags: &[&str], snapshots: &mut [Snapshot<'_>], text: &str) -> bool {
        let mut lines = text.split_inclusive('\n');
        for snapshot in &mut *snapshots {
            let line = lines.next().and_then(|line| line.strip_suffix('\n'));
            let values = line.and_then(|line| line.strip_prefix(snapshot.name)?.strip_prefix('\t'));
            match values {
                Some(values) if values.matches('\t').count() + 1 == tags.len() => {
                    snapshot.sent = self.sent(snapshot.name, tags, values.split('\t'));
                }
                _ => return false,
            }
        }
        lines.next().is_none()
    }

    /// Of the tag that the name has, or of the first one.
    fn sent<'a>(&self, name: &str, tags: &[&str], values: impl Iterator<Item = &'a str>) -> Sent {
        let mut sent = Sent::Unasked;
        for (tag, value) in tags.iter().zip(values) {
            if is_tagged(name, tag) || self.everywhere && sent == Sent::Unasked {
                sent = Sent::of(value);
            }
        }
        sent
    }
}

/// Asks for one value alone.
fn value(zfs: &Zfs, property: &str, name: &str) -> Result<Asked> {
    let Some(value) = zfs.property(property, name)? else { return Ok(Asked::Gone) };
    if !value.contains(char::is_control) {
        return Ok(Asked::Value(value));
    }
    let source = zfs.property_source(property, name)?.unwrap_or_default();
    let of = source.strip_prefix("inherited from ").unwrap_or(name);
    Ok(Asked::Odd(format!("{property} of {of} is not one line of text: zfs inherit {property} {}", quoted(of))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a@x` is not zrep's.
    fn known() -> Vec<Snapshot<'static>> {
        ["a@zrep_000001", "a@zrep_000002", "a@x"].map(|name| Snapshot { name, ..Snapshot::default() }).to_vec()
    }

    #[test]
    fn only_a_listing_of_the_names_that_are_known_is_believed() {
        let tags = ["zrep".to_owned(), "off".to_owned()];
        let good = "a@zrep_000001\t1\t-\na@zrep_000002\t-\t-\na@x\t-\t-\n";
        let zrep = Zrep { tags: &tags, everywhere: false };
        let mut snapshots = known();
        assert!(zrep.read(&["zrep", "off"], &mut snapshots, good));
        let sent: Vec<Sent> = snapshots.iter().map(|snapshot| snapshot.sent).collect();
        assert_eq!(sent, [Sent::Time, Sent::No, Sent::Unasked]);
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
            assert!(!zrep.read(&["zrep", "off"], &mut known(), bad), "{bad:?}");
        }
    }

    #[test]
    fn the_word_of_its_own_tag_counts_first() {
        let tags = ["off".to_owned(), "zrep".to_owned()];
        for (everywhere, sent) in [(false, [Sent::Time, Sent::Unasked]), (true, [Sent::Time, Sent::Other])] {
            let zrep = Zrep { tags: &tags, everywhere };
            let mut snapshots = vec![known()[0].clone(), known()[2].clone()];
            assert!(zrep.read(&["off", "zrep"], &mut snapshots, "a@zrep_000001\t-\t17\na@x\tword\t-\n"));
            assert_eq!([snapshots[0].sent, snapshots[1].sent], sent);
        }
    }
}
