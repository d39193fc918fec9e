//! The files in a directory of queue files. Whoever fills the directory decides how many these are, and the file
//! system in which order it lists them. So all of it is read, the files of transports take no memory, and of the
//! others the first are kept and the rest counted.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use crate::durable::incoming::{Incoming, shown};
use crate::durable::notices::Notices;
use crate::durable::publish::at_path;
use crate::names::queue_name::{Entry, QueueName, classify, is_of_system, is_others};
use crate::names::target::Host;

/// The listing of one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The queue files, parsed and with their names, oldest first.
    pub queue: Vec<(QueueName, OsString)>,
    /// How many more queue files there are, all newer than those in `queue`.
    pub more: u64,
    /// The first names, sorted, of files that are neither queue files nor a transport's.
    pub foreign: Vec<OsString>,
    /// How many more foreign files there are.
    pub more_foreign: u64,
    /// The first names, sorted, that begin with [`GONE`].
    pub gone: Vec<OsString>,
}

/// The prefix of the first part of a file that was applied, while its other parts are removed.
pub const GONE: &str = ".zsnap-gone-";

impl Listing {
    /// The maximum number of queue files of one directory that a run examines; they take about 50 MB.
    pub const MOST: usize = 100_000;
    /// The maximum number of foreign files that are reported by name. The owner of the directory must not fill the
    /// log.
    const FOREIGN: usize = 20;

    /// Reads the whole directory, and keeps at most `most` queue files.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn of(dir: &Incoming, most: usize) -> io::Result<Listing> {
        let [mut foreign, mut gone] = [(); 2].map(|()| First::of(Listing::FOREIGN));
        let mut queue = First::of(most);
        dir.each_name(|name: &OsStr| {
            match classify(name.as_encoded_bytes()) {
                Entry::Queue(parsed) => queue.add((parsed, name.to_owned())),
                Entry::Foreign => foreign.add(name.to_owned()),
                Entry::Transport if name.as_encoded_bytes().starts_with(GONE.as_bytes()) => gone.add(name.to_owned()),
                Entry::Transport => {}
            }
            Ok(())
        })?;
        let ((queue, more), (foreign, more_foreign)) = (queue.sorted(), foreign.sorted());
        Ok(Listing { queue, more, foreign, more_foreign, gone: gone.sorted().0 })
    }
}

/// Returns the entries of a directory, in the order of the file system; none if it does not exist.
pub fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let all = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.and_then(Iterator::collect),
    };
    all.map_err(at_path(dir))
}

impl Listing {
    /// Reports the foreign files in the directory of `host`, once: they need no fix, and may be somebody's mistake.
    pub fn report_foreign(&self, host: &Host, notices: &mut Notices) {
        for name in &self.foreign {
            notices.oddity(&format!("{host}/{}", shown(name)), "is not the name of a queue file; ignored");
        }
        if self.more_foreign > 0 {
            notices.oddity(&format!("{host}/..."), "holds more files that are not queue files; ignored");
        }
    }
}

/// Whether a directory holds a queue file. One that cannot be read may hold one.
pub fn may_hold_queue_files(dir: &Incoming) -> bool {
    let mut found = false;
    let read = dir.each_name(|name: &OsStr| {
        found = matches!(classify(name.as_encoded_bytes()), Entry::Queue(_));
        // An error ends the loop.
        if found { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    found || read.is_err()
}

/// Whether a name in a directory of hosts or queue files is one that is ignored and not reported: a hidden one, or one
/// of the operating system, unless it is a directory that may hold queue files.
pub fn is_ignored(parent: &Incoming, name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    is_others(bytes) || is_of_system(bytes) && !parent.inside(name).is_ok_and(|dir| may_hold_queue_files(&dir))
}

/// Reports, once, a name in a directory of hosts that is not the name of a host.
pub fn report_not_a_host(name: &OsStr, notices: &mut Notices) {
    notices.oddity(&shown(name), "is not the name of a host; ignored");
}

/// The smallest of many values, and the number of the others.
struct First<T> {
    kept: BinaryHeap<T>,
    most: usize,
    more: u64,
}

impl<T: Ord> First<T> {
    fn of(most: usize) -> First<T> {
        First { kept: BinaryHeap::new(), most, more: 0 }
    }

    fn add(&mut self, one: T) {
        self.kept.push(one);
        if self.kept.len() > self.most {
            self.kept.pop();
            self.more += 1;
        }
    }

    fn sorted(self) -> (Vec<T>, u64) {
        (self.kept.into_sorted_vec(), self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_queue_files_are_listed_and_the_others_counted() {
        let dir = tempfile::tempdir().unwrap();
        let queue = |number: u32| format!("bakfsfmt2-{number}.000000000.1_h@etc");
        // The older prefix would sort last by its letters.
        let mut names = vec!["backupsfmt2-99.000000000.1_h@etc".to_owned()];
        names.extend([104, 101, 103, 102, 100].map(queue));
        names.extend((0..30).map(|number| format!("notes{number:02}")));
        names.extend((0..200).map(|number| format!("nncpfile{number}")));
        names.push(".hidden".into());
        names.iter().for_each(|name| fs::write(dir.path().join(name), "").unwrap());
        let incoming = Incoming::open(dir.path()).unwrap();
        let all = Listing::of(&incoming, 6).unwrap();
        let shown = |listing: &Listing| {
            listing.queue.iter().map(|(_, name)| name.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let oldest = [names[0].clone(), queue(100), queue(101), queue(102), queue(103), queue(104)];
        assert_eq!((shown(&all), all.more), (oldest.to_vec(), 0));
        let some = Listing::of(&incoming, 2).unwrap();
        assert_eq!((shown(&some), some.more), (oldest[..2].to_vec(), 4));
        assert_eq!((some.foreign.first(), some.foreign.len()), (Some(&"notes00".into()), 20));
        assert_eq!((some.foreign.last(), some.more_foreign), (Some(&"notes19".into()), 10));
        assert_eq!(some.foreign, all.foreign);
    }
}
