//! The model of what must become of the present files: a dataset is the list of the numbers of its snapshots. It is
//! written from what zsnap-ingest promises and simple enough to be right: it tries all ways.

/// A queue file.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Its name in the host's directory.
    pub name: String,
    /// Its number.
    pub order: u64,
    /// The base of its first substream; `None`: full.
    pub from: Option<usize>,
    /// The snapshots in it.
    pub tos: Vec<usize>,
}

impl File {
    /// The base and the snapshot of each substream.
    fn links(&self) -> impl Iterator<Item = (Option<usize>, usize)> + '_ {
        let froms = std::iter::once(self.from).chain(self.tos.iter().map(|to| Some(*to)));
        froms.zip(self.tos.iter().copied())
    }

    pub fn last(&self) -> usize {
        self.tos[self.tos.len() - 1]
    }
}

/// The dataset on the target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The sender's snapshots in the order in which they were received; `None`: the dataset does not exist.
    pub present: Option<Vec<usize>>,
    /// All snapshots that were ever received and not undone by a rollback.
    pub committed: Vec<usize>,
    /// The dataset was written to since its newest snapshot.
    pub written: bool,
    /// Its newest snapshot was made on the target.
    pub local: bool,
    /// Snapshots were lost by a rollback, and none was received since.
    pub rewound: bool,
}

/// The value of a way: the highest number of a file on it, then the number of its snapshots.
type Worth = (u64, usize);

impl Dataset {
    fn newest(&self) -> Option<usize> {
        self.present.as_ref().and_then(|present| present.last().copied())
    }

    fn has(&self, number: usize) -> bool {
        self.present.as_ref().is_some_and(|present| present.contains(&number))
    }

    /// Whether a file has nothing new: its last snapshot is present, or was pruned since.
    pub fn needless(&self, file: &File) -> bool {
        let place = |number: usize| self.committed.iter().position(|c| *c == number);
        let pruned = |at| self.committed.iter().skip(at + 1).any(|later| self.has(*later));
        self.has(file.last()) || place(file.last()).is_some_and(pruned)
    }

    fn commit(&mut self, number: usize) {
        self.present.get_or_insert_default().push(number);
        self.committed.retain(|c| *c != number);
        self.committed.push(number);
        (self.local, self.rewound) = (false, false);
    }

    /// Records that the dataset has these snapshots now.
    pub fn observe(&mut self, now: &[usize]) {
        for number in &now[self.present.as_ref().map_or(0, Vec::len)..] {
            self.commit(*number);
        }
    }

    /// Rolls back to one of its snapshots.
    pub fn rollback(&mut self, to: usize) {
        if let Some(present) = &mut self.present {
            let at = present.iter().position(|number| *number == to).unwrap();
            self.rewound |= at + 1 < present.len();
            for lost in present.drain(at + 1..) {
                self.committed.retain(|c| *c != lost);
            }
        }
        let at = self.committed.iter().position(|c| *c == to).unwrap();
        self.committed.truncate(at + 1);
        (self.written, self.local) = (false, false);
    }

    /// The snapshots that a file adds when it is applied to `newest`.
    fn rest<'f>(&self, newest: Option<usize>, file: &'f File) -> Option<&'f [usize]> {
        let skip = file.links().position(|(from, _)| from == newest)?;
        let rest = &file.tos[skip..];
        (!rest.iter().any(|to| self.has(*to))).then_some(rest)
    }

    /// The best way from `newest`: its value, and its snapshots in order.
    fn way(&self, newest: Option<usize>, files: &[File]) -> (Worth, Vec<usize>) {
        let mut best = ((0, 0), Vec::new());
        for file in files.iter().filter(|file| !self.needless(file)) {
            let Some(rest) = self.rest(newest, file) else { continue };
            let ((order, count), on) = self.way(Some(file.last()), files);
            let worth = (order.max(file.order), count + rest.len());
            if worth > best.0 {
                best = (worth, [rest, &on].concat());
            }
        }
        best
    }

    /// The best way from an older snapshot with the same content as the newest one.
    fn beside(&self, files: &[File], content: &impl Fn(usize) -> usize) -> Option<Vec<usize>> {
        let newest = self.newest()?;
        let bases = self.present.iter().flatten().rev().filter(|base| content(**base) == content(newest));
        bases.map(|base| self.way(Some(*base), files).1).find(|way| !way.is_empty())
    }

    /// Applies the files that can be applied and removes those that are needless. Returns whether a snapshot was
    /// received.
    pub fn run(&mut self, files: &mut Vec<File>, content: &impl Fn(usize) -> usize) -> bool {
        files.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        let mut any = false;
        loop {
            files.retain(|file| !self.needless(file));
            if self.written {
                return any;
            }
            let mut way = if self.local { Vec::new() } else { self.way(self.newest(), files).1 };
            if way.is_empty() {
                way = self.beside(files, content).unwrap_or_default();
            }
            if way.is_empty() {
                return any;
            }
            any = true;
            way.into_iter().for_each(|number| self.commit(number));
        }
    }
}
