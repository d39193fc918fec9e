//! Delivers what waits in an outbox, oldest first, and removes what was delivered.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::CWD;

use super::entry::{place, remove, same_file};
use super::{Outboxes, Queued};
use crate::cli::cancel;
use crate::cli::findings::writable;
use crate::durable::dest::{Delivered, Item, hangs};
use crate::durable::publish::{self, at_path};
use crate::locks::flock::Lock;
use crate::names::queue_name::Label;
use crate::names::target::Host;

/// The result of draining an outbox.
#[derive(Debug, Default)]
pub struct Drained {
    /// The names of the files that the destination received.
    pub delivered: Vec<String>,
    /// The names of the files that the destination rejected, or that could not be read or be removed from the outbox,
    /// and why. Later files of the same label were not tried.
    pub failed: Vec<(String, anyhow::Error)>,
    /// Why the drain ended early, if it did.
    pub broken: Option<anyhow::Error>,
    /// Why the destination is away, if it is.
    pub away: Option<String>,
    /// Whether it is away because its directory is there, but has no mark.
    pub unmarked: bool,
    /// Whether another process drains this outbox. That process will see the files that were there.
    pub busy: bool,
}

impl Drained {
    /// Returns the result of a drain that tried nothing because of this error.
    pub fn broken(e: anyhow::Error) -> Drained {
        Drained { broken: Some(e), ..Drained::default() }
    }
}

/// How an outbox is drained.
#[derive(Clone, Default)]
pub struct DrainOptions<'a> {
    /// The maximum number of files delivered at once; at least one.
    pub at_once: usize,
    /// Returns the directory to move delivered files to, into HOST; it is asked for each batch. `None`: they are
    /// removed.
    pub keep: Option<&'a dyn Fn() -> PathBuf>,
    /// The hosts and labels whose files come after all others, in this order, because a delivery of theirs hung.
    pub last: Vec<(Host, Label)>,
}

/// The function that delivers files, see [`Courier::deliver`](crate::durable::dest::Courier::deliver).
pub type Deliver<'a> = dyn FnMut(&[Item]) -> anyhow::Result<Vec<anyhow::Result<Delivered>>> + 'a;

/// The maximum number of bytes that several files delivered at once may have. They are synced together, and a sync
/// reports no progress.
const BYTES_AT_ONCE: u64 = 64 << 20;

type Line = (Host, Label);

fn line(queued: &Queued) -> Line {
    (queued.parsed.host.clone(), queued.parsed.label.clone())
}

impl Outboxes {
    /// Delivers what waits for `name`, oldest first, and then removes the links. The first failure of a label stops
    /// that label; a destination that is away or hangs, or a signal, stops everything. `lock` is the outbox's lock,
    /// if the caller holds it already.
    pub fn drain(
        &self,
        name: &str,
        lock: Option<Lock>,
        options: DrainOptions<'_>,
        deliver: &mut Deliver<'_>,
    ) -> Drained {
        let (tried, stopped, done) = Default::default();
        let mut drain = Drain { boxes: self, name, options, deliver, tried, stopped, done };
        drain.done.broken = drain.run(lock).err();
        drain.done
    }
}

/// A drain of one outbox.
struct Drain<'a, 'd> {
    boxes: &'a Outboxes,
    name: &'a str,
    options: DrainOptions<'a>,
    deliver: &'a mut Deliver<'d>,
    /// The hosts and names in the outbox of the files that were tried.
    tried: HashSet<(Host, String)>,
    /// The hosts and labels of which a file failed.
    stopped: HashSet<Line>,
    done: Drained,
}

/// The files that are ready to be delivered.
type Ready = Peekable<std::vec::IntoIter<Queued>>;

impl Drain<'_, '_> {
    fn run(&mut self, mut lock: Option<Lock>) -> anyhow::Result<()> {
        // A process that finds our lock relies on us to see the links that it has made. So look once more after the
        // lock is released.
        loop {
            let held = lock.take();
            let mut ready = self.ready()?.into_iter().peekable();
            if ready.peek().is_none() {
                if held.is_some() {
                    continue;
                }
                return Ok(());
            }
            let lock = match held {
                None => Lock::try_new(&self.boxes.lock(self.name))?,
                held => held,
            };
            let Some(_lock) = lock else {
                self.done.busy = true;
                return Ok(());
            };
            while ready.peek().is_some() {
                if !self.batch(&mut ready)? {
                    return Ok(());
                }
            }
        }
    }

    /// Returns what waits, is fully split, and was not tried yet, in the order of delivery.
    fn ready(&self) -> io::Result<Vec<Queued>> {
        // List the outbox first: a file that is split between the two steps is then missing from the list, rather
        // than listed without its other links.
        let (mut ready, mut held) = (Vec::new(), HashSet::new());
        for queued in self.boxes.waiting(self.name)? {
            let line = line(&queued);
            let host = &queued.parsed.host;
            // SPLIT may have another file of this name, which does not concern this one.
            let entry = self.boxes.dir(self.name).join(host.as_str()).join(&queued.name);
            if same_file(&self.boxes.split_dir(host).join(queued.original()), &entry)? {
                held.insert(line.clone());
            }
            let tried = self.tried.contains(&(host.clone(), queued.name.clone()));
            if !held.contains(&line) && !self.stopped.contains(&line) && !tried {
                ready.push(queued);
            }
        }
        let last = |queued: &Queued| self.options.last.iter().position(|last| *last == line(queued));
        ready.sort_by_key(|queued| last(queued).map_or(0, |at| at + 1));
        Ok(ready)
    }

    /// Delivers the next files of `ready` at once, and removes their links. Returns whether to go on.
    fn batch(&mut self, ready: &mut Ready) -> anyhow::Result<bool> {
        cancel::check()?;
        let keep = self.options.keep.map(|at| at());
        keep.as_deref().map_or(Ok(()), can_keep)?;
        let items = self.next_items(ready, keep.as_deref());
        if items.is_empty() {
            return Ok(true);
        }
        let (mut delivered, mut hung) = (Vec::new(), false);
        for (item, result) in items.iter().zip((self.deliver)(&items)?) {
            match result {
                Ok(Delivered::New | Delivered::Already) => delivered.push(item),
                Ok(Delivered::Away(why)) => self.done.away = Some(why),
                Ok(Delivered::Behind) => {}
                Err(e) => {
                    hung |= hangs(&e);
                    self.failed(item.line(), &item.name, e);
                }
            }
        }
        self.done.delivered.extend(delivered.iter().map(|item| item.name.clone()));
        for (item, e) in self.settle(keep.as_deref(), &delivered)? {
            let e = anyhow::Error::new(e).context("it was delivered, but stays in the outbox");
            self.failed(item.line(), &item.name, e);
        }
        Ok(self.done.away.is_none() && !hung)
    }

    /// Opens the next files that are delivered at once.
    fn next_items(&mut self, ready: &mut Ready, keep: Option<&Path>) -> Vec<Item> {
        let (mut items, mut bytes, most) = (Vec::new(), 0, self.options.at_once);
        while let Some(queued) =
            ready.next_if(|next| items.is_empty() || items.len() < most && bytes + next.bytes <= BYTES_AT_ONCE)
        {
            self.tried.insert((queued.parsed.host.clone(), queued.name.clone()));
            if self.stopped.contains(&line(&queued)) {
                continue;
            }
            // A file that cannot be kept would be delivered again and again.
            let kept = keep.map_or(Ok(()), |keep| can_keep(&keep.join(queued.parsed.host.as_str())));
            match kept.and_then(|()| self.open(&queued)) {
                Ok(Some(item)) => {
                    bytes += queued.bytes;
                    items.push(item);
                }
                Ok(None) => {}
                Err(e) => self.failed(line(&queued), queued.original(), e),
            }
        }
        items
    }

    /// Opens a file of the outbox. `None`: another process has delivered it since the outbox was listed.
    fn open(&self, queued: &Queued) -> anyhow::Result<Option<Item>> {
        let (entry, name) = (queued.name.clone(), queued.original().to_owned());
        match Item::open(&self.boxes.dir(self.name), &queued.parsed.host, entry, name) {
            Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Records that a file failed, and stops the later ones of its host and label.
    fn failed(&mut self, line: Line, name: &str, e: anyhow::Error) {
        self.stopped.insert(line);
        self.done.failed.push((name.to_owned(), e));
    }

    /// Removes the links of delivered files, or moves them to KEEP/HOST, durably. Returns those for which this
    /// failed.
    fn settle<'i>(&self, keep: Option<&Path>, delivered: &[&'i Item]) -> io::Result<Vec<(&'i Item, io::Error)>> {
        let (mut changed, mut failed) = (BTreeSet::new(), Vec::new());
        for item in delivered {
            let host = item.parsed.host.as_str();
            let dir = self.boxes.dir(self.name).join(host);
            let kept = keep.map(|keep| keep.join(host));
            let done = kept.as_ref().map_or_else(|| remove(&dir, &item.entry), |kept| keep_one(&dir, item, kept));
            match done {
                Ok(()) => changed.extend(kept.into_iter().chain([dir])),
                Err(e) => failed.push((*item, e)),
            }
        }
        // Sync each of them, even if one fails.
        let synced: Vec<_> = changed.iter().map(|dir| publish::sync_dir(dir)).collect();
        synced.into_iter().collect::<io::Result<()>>()?;
        Ok(failed)
    }
}

fn can_keep(dir: &Path) -> anyhow::Result<()> {
    let can = publish::make_dirs(dir).map_err(Into::into).and_then(|()| writable(dir));
    can.context("nothing is delivered, because delivered files cannot be kept")
}

/// Moves a delivered file from the outbox to the directory `kept`.
fn keep_one(dir: &Path, item: &Item, kept: &Path) -> io::Result<()> {
    let path = dir.join(&item.entry);
    let fd = File::open(kept).map_err(at_path(kept))?;
    // After the rename a new file may get the name in the outbox, so nothing is removed then. If the file is kept
    // already, a run died before its rename was durable.
    match place(&path, &item.name, &fd, kept, |to| publish::rename_new(CWD, &path, &fd, to)) {
        Ok(true) => Ok(()),
        Ok(false) => remove(dir, &item.entry),
        // It will never get a name, and must not be delivered again and again.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            crate::cli::log::warn(format_args!("{} was delivered, but is not kept: {e}", item.name));
            remove(dir, &item.entry)
        }
        Err(e) => {
            cancel::check()?;
            Err(e)
        }
    }
}
