//! The courier, which delivers the files of an outbox to its destination.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::dir::{self, Look, Probe, Shown};
use super::hang::Hang;
use super::worker::{self, Answer, Entry, Request, Worker};
use super::{Delivered, Dest, Item, Mark, Transport, program};
use crate::cli::cancel::Cancelled;
use crate::cli::exit::Exit;
use crate::cli::log;
use crate::cli::report;
use crate::names::queue_name::Label;
use crate::names::target::Host;
use crate::process::hung::hung;

/// Delivers to one destination until it is dropped. A delivery that hangs for longer than [`Transport::timeout`] is
/// aborted, and recorded in the outbox.
pub struct Courier<'a> {
    dest: &'a Dest,
    how: Cow<'a, Transport>,
    outbox: &'a Path,
    hang: Hang,
    worker: Option<Worker>,
    /// Whether a `dir:` was cleared of what killed deliveries left there.
    tidy: bool,
    notes: bool,
}

impl<'a> Courier<'a> {
    /// Creates a courier for the outbox whose directory, OUT/NAME, is `outbox`.
    pub fn new(dest: &'a Dest, how: &'a Transport, outbox: &'a Path) -> Courier<'a> {
        let how = Cow::Borrowed(how);
        Courier { dest, how, outbox, hang: Hang::read(outbox, dest), worker: None, tidy: false, notes: true }
    }

    /// Returns when a delivery hung, if none has ended since, or when its process was left behind, if that still
    /// exists: seconds since 1970.
    pub fn hung_at(&self) -> Option<u64> {
        self.hang.hung_at()
    }

    /// Returns the hosts and labels with whose files a program hung, the latest last. Their files are delivered after
    /// all others, in this order.
    pub fn last(&self) -> Vec<(Host, Label)> {
        self.hang.lines()
    }

    /// Examines a `dir:`. For other destinations, of which nothing is known, returns the default.
    pub fn look(&mut self) -> Result<Look> {
        let Dest::Dir(path) = self.dest else { return Ok(Look::default()) };
        let mark = self.how.mark.clone();
        match self.ask(path, &Request::Look, || Ok(Answer::Look(dir::look(path, &mark)?)))? {
            Answer::Look(look) => Ok(look),
            _ => Err(misunderstood()),
        }
    }

    /// Tries what the file system of a `dir:` is able to do. `None`: it is away, or the destination is of another kind.
    pub fn probe(&mut self) -> Result<Option<Probe>> {
        let Dest::Dir(path) = self.dest else { return Ok(None) };
        let mark = self.how.mark.clone();
        match self.ask(path, &Request::Probe, || Ok(Answer::Probe(dir::probe(path, &mark)?)))? {
            Answer::Probe(probe) => Ok(probe),
            _ => Err(misunderstood()),
        }
    }

    /// Marks a `dir:` that has no mark yet with this name.
    pub fn mark(&mut self, name: &str) -> Result<()> {
        let Dest::Dir(path) = self.dest else { return Ok(()) };
        let here = || dir::mark(path, name).map(|()| Answer::Mark).map_err(Into::into);
        match self.ask(path, &Request::Mark(name.to_owned()), here)? {
            Answer::Mark => Ok(()),
            _ => Err(misunderstood()),
        }
    }

    /// Sets the mark that a `dir:` must have from now on.
    pub fn require(&mut self, mark: Mark) -> Result<()> {
        let Dest::Dir(path) = self.dest else { return Ok(()) };
        if self.how.mark != mark {
            self.ask(path, &Request::Require(mark.clone()), || Ok(Answer::Mark))?;
            self.how.to_mut().mark = mark;
        }
        Ok(())
    }

    /// Delivers whole files, and returns when the destination has them: one result for each, in order. There are fewer
    /// results if the destination is away (the last one is [`Delivered::Away`]), or if a program hangs (the last one is
    /// an error that [`super::hangs`]) or a signal arrives. Before the first delivery, it removes the temporary files
    /// that killed deliveries left in a `dir:`; not earlier, so that a disk may sleep while nothing is to be delivered.
    ///
    /// # Errors
    /// The delivery failed as a whole: for example, the directory cannot be opened, its process hangs, or an earlier
    /// process still hangs.
    pub fn deliver(&mut self, items: &[Item]) -> Result<Vec<Result<Delivered>>> {
        let Dest::Dir(path) = self.dest else { return self.deliver_to_program(items) };
        if !std::mem::replace(&mut self.tidy, true) {
            let mark = self.how.mark.clone();
            let here = || dir::tidy(path, &mark).map(|()| Answer::Tidy).map_err(Into::into);
            self.ask(path, &Request::Tidy, here)?;
        }
        let how = self.how.clone();
        let here = || {
            let shown = std::cell::RefCell::new(Shown::default());
            let results = dir::deliver(path, items, &how, &|beat| shown.borrow_mut().beat(beat))?;
            Ok(Answer::Deliver(results.into_iter().map(|result| result.map_err(Into::into)).collect()))
        };
        let entries = Request::Deliver(items.iter().map(Entry::of).collect());
        let Answer::Deliver(results) = self.ask(path, &entries, here)? else { return Err(misunderstood()) };
        self.ended(items);
        Ok(results.into_iter().map(|result| result.map_err(Into::into)).collect())
    }

    fn deliver_to_program(&mut self, items: &[Item]) -> Result<Vec<Result<Delivered>>> {
        self.is_free()?;
        if *self.dest == Dest::Stdout {
            return Err(Exit::Usage.error("standard output takes no finished files"));
        }
        let mut results = Vec::new();
        for item in items {
            let (result, left) = program::deliver(self.dest, item, &self.how);
            let (given_up, stopped) = match &result {
                Err(e) => (self.given_up(e, Some(item), left), Cancelled::find(e).is_some()),
                Ok(_) => (false, false),
            };
            results.push(result);
            if given_up || stopped {
                break;
            }
            self.ended([item]);
        }
        Ok(results)
    }

    /// Gets the answer to a request from the worker, or from `here` if the program has no worker.
    fn ask(&mut self, path: &Path, request: &Request, here: impl FnOnce() -> Result<Answer>) -> Result<Answer> {
        if !self.how.apart || !worker::can_start() {
            return here();
        }
        self.is_free()?;
        let worker = match &mut self.worker {
            Some(worker) => worker,
            none => none.insert(Worker::start(path, self.outbox, &self.how)?),
        };
        let answer = worker.ask(request);
        if let Err(e) = &answer {
            // Even after a signal it must be known whether the process is gone.
            worker.end();
            let left = worker.left_behind();
            self.worker = None;
            self.given_up(e, None, left);
        }
        answer
    }

    /// Checks that no aborted process still hangs: each run would add another one to it.
    fn is_free(&self) -> Result<()> {
        let Some((pid, left)) = self.hang.process() else { return Ok(()) };
        let since = report::time(left);
        Err(hung(format!("a delivery aborted at {since} still hangs (pid {pid}): see what holds it (dmesg)")))
    }

    /// Records that a delivery hung or that its process was left behind, and returns whether it was so.
    fn given_up(&mut self, why: &anyhow::Error, item: Option<&Item>, left: Option<u32>) -> bool {
        let news = self.hang.given_up(why, item, left);
        self.note(news);
        news
    }

    fn ended<'i>(&mut self, items: impl IntoIterator<Item = &'i Item>) {
        let news = self.hang.ended(items);
        self.note(news);
    }

    fn note(&self, news: bool) {
        let written = if news && self.notes { self.hang.write(self.outbox) } else { Ok(()) };
        if let Err(e) = written {
            log::info(format_args!("{e:#}"));
        }
    }
}

/// Examines a destination within `patience`, and changes nothing.
///
/// # Errors
/// The destination cannot be examined, or the error is one that [`super::hangs`].
pub fn look(dest: &Dest, how: &Transport, outbox: &Path, patience: Duration) -> Result<Look> {
    let how = Transport { timeout: Some(patience), ..how.clone() };
    Courier { notes: false, ..Courier::new(dest, &how, outbox) }.look()
}

/// Tries what the file system of a destination is able to do, within `patience`; see [`Courier::probe`].
///
/// # Errors
/// Nothing can be written there, or the error is one that [`super::hangs`].
pub fn probe(dest: &Dest, how: &Transport, outbox: &Path, patience: Duration) -> Result<Option<Probe>> {
    let how = Transport { timeout: Some(patience), ..how.clone() };
    Courier { notes: false, ..Courier::new(dest, &how, outbox) }.probe()
}

fn misunderstood() -> anyhow::Error {
    Exit::Io.error("the process that delivers there gave another answer than it was asked for")
}
