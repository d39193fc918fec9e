//! Removes a queue file that was applied, in one file or in parts.
//!
//! A crash may end the removal of parts. What is left must not look like a file that is still arriving. So the first
//! part is renamed before another one is removed: to `.zsnap-gone-` and its name. A run that finds such a file finishes
//! the removal.

use std::ffi::{OsStr, OsString};
use std::io;

use rustix::io::Errno;
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::durable::listing::GONE;
use zsnap_common::names::queue_name::QueueName;

use super::Stored;
use crate::joined::Joined;

/// Removes the files of a queue file, if they still are those that were opened. Returns `false` if another
/// file has one of the names by now.
pub fn remove(dir: &Incoming, stored: &Stored, content: &Joined) -> io::Result<bool> {
    let files: Vec<_> = stored.files().iter().zip(content.files()).collect();
    let Some((&(first, first_fd), others)) = files.split_first() else { return Ok(false) };
    if others.is_empty() {
        return dir.remove_if_same(first, first_fd);
    }
    for (at, copy) in stored.copies() {
        if let Some((_, fd)) = files.get(*at) {
            // What is left of it is reported as a file that waits.
            if let Err(e) = dir.remove_if_equal(copy, fd) {
                log::info(format_args!("{e}; it stays"));
            }
        }
    }
    let gone = gone(first);
    let is_marked = match dir.move_if_same(first, first_fd, dir, &gone) {
        Ok(false) => return Ok(false),
        // There is no room for a longer name.
        Err(e) if e.kind() == io::Error::from(Errno::NAMETOOLONG).kind() => {
            log::info(format_args!("{e}; the parts are removed nevertheless"));
            false
        }
        moved => moved?,
    };
    let mut all = true;
    for (name, fd) in others {
        all &= dir.remove_if_same(name, fd)?;
    }
    match is_marked {
        // The mark must not be lost before the others are.
        true => dir.sync().and_then(|()| dir.remove(&gone)).map(|()| all),
        false => Ok(dir.remove_if_same(first, first_fd)? && all),
    }
}

/// Finishes the removals that a crash has ended. `left`: the names with [`GONE`] in the directory; `all`: its queue
/// files, from which those that are left are taken out. `dry`: nothing is removed.
pub fn finish(dir: &Incoming, left: &[OsString], all: &mut Vec<(QueueName, Stored)>, dry: bool) -> io::Result<()> {
    let mut done = Ok(());
    for gone in left {
        let Some(first) = gone.as_encoded_bytes().strip_prefix(GONE.as_bytes()) else { continue };
        // If there is a first part again, the file was delivered again.
        let first = OsString::from(String::from_utf8_lossy(first).into_owned());
        let is_left = |stored: &Stored| stored.has_part(&first) && stored.lacks_the_first();
        let mut parts = all.iter().filter(|(_, stored)| is_left(stored)).flat_map(|(_, stored)| stored.files());
        if !dry && done.is_ok() {
            done =
                parts.try_for_each(|part| dir.remove(part)).and_then(|()| dir.sync()).and_then(|()| dir.remove(gone));
        }
        all.retain(|(_, stored)| !is_left(stored));
    }
    done
}

fn gone(first: &OsStr) -> OsString {
    let mut gone = OsString::from(GONE);
    gone.push(first);
    gone
}

#[cfg(test)]
mod tests {
    use super::super::stored::together;
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Stores a queue file in two parts, each of which contains its name, and opens it.
    fn two_parts(path: &Path, whole: &str, others: &[String]) -> (Incoming, Stored, Joined) {
        let names: Vec<_> = (1..=2).map(|number| format!("{whole}~p{number}of2")).collect();
        names.iter().for_each(|name| fs::write(path.join(name), name).unwrap());
        let all = names.iter().chain(others).map(|name| (names[0].parse().unwrap(), OsString::from(name))).collect();
        let (_, stored) = together(all).remove(0);
        let dir = Incoming::open(path).unwrap();
        let content = Joined::of(stored.files().iter().map(|name| dir.open_file(name).unwrap()).collect()).unwrap();
        (dir, stored, content)
    }

    const NAME: &str = "bakfsfmt2-1.000000002.3_h@a";

    #[test]
    fn only_a_name_that_is_too_long_lets_parts_go_without_a_mark() {
        let path = tempfile::tempdir().unwrap();
        let long = format!("{NAME}{}", "x".repeat(245 - NAME.len()));
        let (dir, stored, content) = two_parts(path.path(), &long, &[]);
        assert!(remove(&dir, &stored, &content).unwrap());
        assert!(dir.names().unwrap().is_empty());
        let (dir, stored, content) = two_parts(path.path(), NAME, &[]);
        let mark = gone(&stored.files()[0]);
        fs::write(path.path().join(&mark), "").unwrap();
        assert_eq!(remove(&dir, &stored, &content).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dir.names().unwrap().len(), 3);
        fs::remove_file(path.path().join(&mark)).unwrap();
        assert!(remove(&dir, &stored, &content).unwrap());
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_copy_that_cannot_be_compared_does_not_block_the_removal() {
        let path = tempfile::tempdir().unwrap();
        // The file system cannot have a file with this name, so it fails for another reason than that there is none.
        let whole = format!("{NAME}{}", "x".repeat(245 - NAME.len()));
        let copy = format!("{whole}~p2of2.12345");
        let (dir, stored, content) = two_parts(path.path(), &whole, std::slice::from_ref(&copy));
        assert_eq!(stored.copies().len(), 1);
        assert!(dir.remove_if_equal(copy.as_ref(), content.files().nth(1).unwrap()).is_err());
        assert!(remove(&dir, &stored, &content).unwrap());
        assert!(dir.names().unwrap().is_empty());
    }
}
