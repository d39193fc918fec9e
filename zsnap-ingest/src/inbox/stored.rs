//! How a queue file is stored in a directory: as one file, or in parts, of which some may be missing. The names may
//! have the form for file systems that cannot store every name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use zsnap_common::names::part::Part;
use zsnap_common::names::queue_name::QueueName;
use zsnap_common::names::stored::name_of;

/// A queue file as it is stored in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// One file with this name.
    Whole(OsString),
    /// Parts.
    Parts(Box<Parts>),
}

/// The parts of a queue file that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The real name of the whole file.
    name: String,
    /// The number of parts that it has.
    of: u64,
    /// The number of the first part that is missing, and how many are. Others choose how many these are.
    missing: Option<(u64, u64)>,
    /// The names of the files that contain it, in order.
    files: Vec<OsString>,
    /// Further files with the name of a part, and which of `files` that is: NNCP puts `.N` behind the name of a
    /// repetition.
    copies: Vec<(usize, OsString)>,
}

impl Stored {
    /// Returns the names of the files that contain it, in order.
    pub fn files(&self) -> &[OsString] {
        match self {
            Stored::Whole(name) => std::slice::from_ref(name),
            Stored::Parts(parts) => &parts.files,
        }
    }

    /// Returns further files with the name of a part, and which of [`Stored::files`] that is.
    pub fn copies(&self) -> &[(usize, OsString)] {
        match self {
            Stored::Whole(_) => &[],
            Stored::Parts(parts) => &parts.copies,
        }
    }

    /// Returns the real name of the whole file.
    pub fn name(&self) -> String {
        match self {
            Stored::Whole(name) => name_of(name),
            Stored::Parts(parts) => parts.name.clone(),
        }
    }

    /// Returns the name under which what is known of it is saved: its name as stored, because a file with the escaped
    /// name may lie beside one with the real name; for parts, which are one file in whatever form their names are, the
    /// real name of the first one.
    pub fn key(&self) -> String {
        match self {
            Stored::Whole(name) => name.to_string_lossy().into_owned(),
            Stored::Parts(parts) => Part { whole: &parts.name, number: 1, of: parts.of }.name(),
        }
    }

    /// Returns what it waits for, if parts are missing.
    pub fn waits_for(&self) -> Option<String> {
        let Stored::Parts(parts) = self else { return None };
        let (first, count) = parts.missing?;
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        Some(format!("for part {first}{more} of {}", parts.of))
    }

    /// Whether its first part is missing.
    pub fn lacks_the_first(&self) -> bool {
        matches!(self, Stored::Parts(parts) if matches!(parts.missing, Some((1, _))))
    }

    /// Whether `stored` is the name of one of its parts, also of one that is missing.
    pub fn has_part(&self, stored: &OsStr) -> bool {
        let name = name_of(stored);
        let part = Part::parse(&name).map(|part| (part.whole, part.of));
        matches!(self, Stored::Parts(parts) if part == Some((&parts.name, parts.of)))
    }
}

/// The names of the files with each part, by its number.
type Numbers = BTreeMap<u64, Vec<OsString>>;

/// Puts the parts of each queue file together. `listed`: the queue files of one directory and their names.
pub fn together(listed: Vec<(QueueName, OsString)>) -> Vec<(QueueName, Stored)> {
    let mut all = Vec::new();
    // By name and number of parts: the files of each part.
    let mut parts: BTreeMap<(String, u64), (QueueName, Numbers)> = BTreeMap::new();
    for (queue, stored) in listed {
        let name = name_of(&stored);
        match Part::parse(&name) {
            Some(Part { whole, number, of }) => {
                let set = parts.entry((whole.to_owned(), of)).or_insert_with(|| (queue, BTreeMap::new()));
                set.1.entry(number).or_default().push(stored);
            }
            None => all.push((queue, Stored::Whole(stored))),
        }
    }
    for ((name, of), (queue, mut numbers)) in parts {
        let first = (1..=of).find(|number| !numbers.contains_key(number));
        let missing = first.map(|first| (first, of - numbers.len() as u64));
        let (mut files, mut copies) = (Vec::new(), Vec::new());
        for stored in numbers.values_mut() {
            // The shortest name has no suffix.
            stored.sort_by_key(|name| (name.len(), name.clone()));
            copies.extend(stored.drain(1..).map(|copy| (files.len(), copy)));
            files.append(stored);
        }
        all.push((queue, Stored::Parts(Box::new(Parts { name, of, missing, files, copies }))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "bakfsfmt2-1.000000002.3_h@co:lon";

    fn of(names: &[String]) -> Vec<Stored> {
        let listed = names.iter().map(|name| (name.parse().unwrap(), OsString::from(name))).collect();
        let all = together(listed);
        assert!(all.iter().all(|(queue, stored)| queue.to_string() == stored.name()));
        all.into_iter().map(|(_, stored)| stored).collect()
    }

    #[test]
    fn parts_are_put_together_in_their_order_and_copies_apart() {
        let form = "bakfsfmt2-1.000000002.3_h@co%3Alon";
        let part = |number: u64, end: &str| format!("{form}~p{number}of10{end}");
        let mut names: Vec<String> = (1..=10).map(|number| part(number, "")).collect();
        names.extend([form.to_owned(), part(2, ".0"), part(2, ".1")]);
        let found = of(&names);
        let [whole, parts] = &found[..] else { panic!("{found:?}") };
        assert_eq!((whole.name().as_str(), whole.key().as_str(), whole.waits_for()), (NAME, form, None));
        assert_eq!((whole.files(), whole.copies()), (&[OsString::from(form)][..], &[][..]));
        assert_eq!(parts.files(), names[..10].iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(parts.copies(), [(1, part(2, ".0").into()), (1, part(2, ".1").into())]);
        assert_eq!((parts.key(), parts.waits_for()), (format!("{NAME}~p1of10"), None));
        assert!(parts.has_part(part(7, ".3").as_ref()) && !parts.has_part(form.as_ref()));
        assert!(!parts.lacks_the_first() && !whole.lacks_the_first() && !whole.has_part(form.as_ref()));
    }

    #[test]
    fn a_file_waits_for_the_parts_that_are_missing() {
        let waits = |numbers: &[u64]| {
            let names: Vec<_> = numbers.iter().map(|number| format!("{NAME}~p{number}of4")).collect();
            let stored = of(&names).remove(0);
            (stored.waits_for().unwrap(), stored.lacks_the_first(), stored.files().len())
        };
        assert_eq!(waits(&[1, 3, 4]), ("for part 2 of 4".into(), false, 3));
        assert_eq!(waits(&[2]), ("for part 1 and 2 more of 4".into(), true, 1));
        // Files that were divided otherwise do not complete each other.
        let found = of(&[format!("{NAME}~p1of2"), format!("{NAME}~p2of3")]);
        let waits: Vec<_> = found.iter().filter_map(Stored::waits_for).collect();
        assert_eq!(waits, ["for part 2 of 2", "for part 1 and 1 more of 3"]);
    }
}
