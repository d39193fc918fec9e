//! The steps with one file: examines it, and does what the plan says with it.

use std::thread;

use anyhow::Result;
use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::Unsafe;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;

use super::{Ahead, HostRun, Todo};
use crate::apply::{self, Received};
use crate::examine::{self, Examined, VerifiedFile};
use crate::inbox::{Inbox, Stored};
use crate::joined::Joined;
use crate::known::Knowledge;
use crate::opened::Rejection;
use crate::plan::{Facts, Standing};
use crate::quarantine;
use crate::seen::Seen;
use crate::shared::Shared;

/// The time in seconds after which a bad file that could not be moved to quarantine is examined again.
const DAY: u64 = 24 * 3600;

impl<'a> HostRun<'a> {
    /// Examines a file, and records what it says or why it is rejected. Returns its content if it may be applied.
    pub(super) fn examine(&mut self, at: usize) -> Result<Option<VerifiedFile<'a>>> {
        if let Some(standing) = self.postponed(at) {
            // The reason for which a file stays says more than that it is not examined now.
            if !matches!(self.inbox.file(at).entry().what, Knowledge::Held(_) | Knowledge::Bad(_)) {
                self.inbox.settle(at, standing);
            }
            return Ok(None);
        }
        self.read(at).or_else(|e| self.failed_over(at, e).map(|()| None))
    }

    /// Returns the standing of a file that is not examined in this run; `None`: it is examined.
    fn postponed(&self, at: usize) -> Option<Standing> {
        let bounds = self.shared.config.bounds(self.inbox.host());
        let bytes = self.bytes.saturating_add(self.inbox.file(at).entry().seen.size);
        let enough = self.looked >= bounds.max_files || bounds.max_bytes.is_some_and(|most| bytes > most);
        // At least one file is always processed; otherwise one that exceeds max-bytes would never be.
        let enough = (self.looked > 0 && enough)
            .then(|| Standing::Skipped("enough of this host for one run (max-files, max-bytes)".into()));
        self.away(at).or(enough)
    }

    /// Has a file examined, unless that was done ahead of time.
    fn read(&mut self, at: usize) -> Result<Option<VerifiedFile<'a>>> {
        let examined = match self.ahead.take_if(|(ahead, _)| *ahead == at) {
            Some((_, examined)) => examined,
            None => examine::examine(self.shared, self.inbox.host(), self.inbox.place(at), self.inbox.file(at)),
        };
        let Examined { content: files, seen, ends, result } = match examined {
            Ok(examined) => examined,
            Err(Unsafe::Gone) => {
                // The other parts are still here, and wait for what vanished.
                match self.inbox.file(at).stored() {
                    Stored::Whole(_) => self.inbox.gone(at),
                    Stored::Parts(_) => self.inbox.settle(at, Standing::part_gone()),
                }
                return Ok(None);
            }
            Err(Unsafe::Not(what)) => {
                let why = format!(
                    "it {what}; a queue file is a regular file with one name, and its directory's owner owns it"
                );
                // This is checked in every run: it is cheap, and depends not only on the file itself.
                self.inbox.learn(at, Knowledge::Held(why), Some(0));
                return Ok(None);
            }
            Err(Unsafe::Io(e)) => return Err(e.into()),
        };
        self.looked += 1;
        self.bytes = self.bytes.saturating_add(seen.size);
        self.inbox.opened(at, seen, ends);
        match result {
            Ok((facts, content)) => {
                self.inbox.learn(at, Knowledge::Facts(facts), None);
                Ok(Some(content))
            }
            Err(rejection) => self.reject(at, &files, rejection).map(|()| None),
        }
    }

    /// Returns the file that will be examined next. `None`: nobody knows yet, it was examined ahead of time already, or
    /// there is not enough memory to verify or keep it beside the file that is applied now.
    fn next_to_examine(&self) -> Option<usize> {
        if !self.shared.config.ahead {
            return None;
        }
        let at = self.todo.iter().find_map(|todo| match todo {
            Todo::Examine(at) => Some(*at),
            Todo::Act(_, at, _) => (!self.open_files.contains_key(at)).then_some(*at),
            _ => None,
        })?;
        let size = self.inbox.file(at).entry().seen.size;
        let is_ahead = self.ahead.as_ref().is_some_and(|(ahead, _)| *ahead == at);
        let has_room = self.shared.has_room(size) || size > self.shared.config.verify_buffer;
        (!is_ahead && has_room && self.postponed(at).is_none()).then_some(at)
    }

    /// Records why a file is rejected, or moves it to quarantine.
    fn reject(&mut self, at: usize, content: &Joined, rejection: Rejection) -> Result<()> {
        self.inbox.learn(at, Knowledge::New, None);
        let (why, damaged) = match rejection {
            // A signal must end the run, whatever it interrupted.
            Rejection::Io(e) => return cancel::check().map_err(anyhow::Error::from).and(Err(e.into())),
            Rejection::Held { why, again, .. } => {
                self.inbox.learn(at, Knowledge::Held(why), again);
                return Ok(());
            }
            Rejection::Damaged(why) => (why, true),
            Rejection::Bad(_, why) => (why, false),
        };
        if damaged && examine::is_arriving(self.inbox.place(at), content).or_exit(Exit::Io, "queue file")? {
            self.inbox.settle(at, arriving(&why));
            return Ok(());
        }
        self.quarantine(at, content, &why).map_err(|e| e.context(why))
    }

    /// Moves a file to quarantine, unless it has changed since it was opened. Where that is impossible, its badness is
    /// remembered, and the file stays.
    fn quarantine(&mut self, at: usize, content: &Joined, why: &str) -> Result<()> {
        let file = self.inbox.file(at);
        if self.shared.dry {
            self.inbox.settle(at, Standing::Refused(why.to_owned()));
        } else if Seen::of_open(content)? != file.entry().seen {
            // A file that is still being written would continue to grow in quarantine.
            self.inbox.settle(at, arriving(why));
        } else {
            match self.put_away(at, content, why) {
                Ok(moved) if moved == file.stored().files().len() => {
                    self.inbox.gone(at);
                    self.shared.notices().event(format!("{}: in quarantine: {why}", self.inbox.key(at)));
                }
                Ok(0) => self.inbox.settle(at, replaced()),
                Ok(moved) => self.inbox.settle(at, half_replaced(moved, why)),
                Err(e) if quarantine::is_impossible(&e) => {
                    let retry = format!("zsnap-ingest retry {}", quoted(&file.shown()));
                    let why = format!("{why}; it stays here, because {e:#}; remove it, or try again: {retry}");
                    // Somebody may have replaced it with a good file that looks the same, or made quarantine possible.
                    self.inbox.learn(at, Knowledge::Bad(why), Some(self.shared.seconds().saturating_add(DAY)));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Moves the parts of a file to quarantine, up to the first whose name another file has by now. Returns how many.
    fn put_away(&self, at: usize, content: &Joined, why: &str) -> Result<usize> {
        let (place, file) = (self.inbox.place(at), self.inbox.file(at));
        let host = place.dir.path().file_name().unwrap_or_default();
        let mut moved = 0;
        for (name, fd) in file.stored().files().iter().zip(content.files()) {
            if !quarantine::put(&place.root, &place.dir, host, name, fd, why)? {
                break;
            }
            moved += 1;
        }
        Ok(moved)
    }

    /// Examines a file if it is not open, and does what the plan says with it.
    pub(super) fn act(&mut self, target: &Target, at: usize, standing: Standing) -> Result<()> {
        let planned = self.inbox.file(at).facts().cloned();
        let kept = match self.open_files.remove(&at) {
            Some(kept) => Some(kept),
            None => self.examine(at)?,
        };
        let same = planned.filter(|facts| self.inbox.file(at).facts() == Some(facts));
        let (Some(facts), Some(kept)) = (same, kept) else {
            // Somebody has changed the file since it was planned. It is examined again only once; otherwise somebody
            // who changes it again and again could keep the run busy forever.
            let file = self.inbox.file(at);
            // A reason to hold it says more.
            if file.is_open() && file.facts().is_some() {
                self.inbox.settle(at, replaced());
            }
            self.plan_again();
            return Ok(());
        };
        let result = match standing {
            Standing::Ready { skip, again } => {
                if again {
                    let key = self.inbox.key(at);
                    log::warn(format!("{key}: was received before, and is gone: was the pool rewound?"));
                }
                self.apply(&facts, at, kept, skip)
            }
            Standing::Refused(why) => self.quarantine(at, &kept.content, &why),
            Standing::AlreadyThere => self.remove_needless(&facts, at, &kept.content, false),
            Standing::Stale => self.remove_needless(&facts, at, &kept.content, true),
            _ => Ok(()),
        };
        result.or_else(|e| {
            self.plan_again();
            self.fail(target, Some(at), e)
        })
    }

    /// Passes a file to its receiver.
    fn apply(&mut self, facts: &Facts, at: usize, kept: VerifiedFile<'_>, skip: usize) -> Result<()> {
        let target = &facts.target;
        let shared = self.shared;
        let next = self.next_to_examine();
        // What is kept of the file is dropped, and the file removed, when it is applied, whatever the next one takes.
        let VerifiedFile { opened, content, room, slot } = kept;
        let kept = (room, slot);
        let (place, file) = (self.inbox.place(at), self.inbox.file(at));
        if opened.stream().is_none() {
            let Some(table) = shared.config.command_for(target) else { return Ok(()) };
            let run = move || {
                let _kept = kept;
                apply::run_command(shared, table, target, &file.shown(), opened)?;
                apply::remove(place, file, &content)
            };
            let (ran, ahead) = while_examining(shared, &self.inbox, next, run);
            self.ahead = ahead.or(self.ahead.take());
            self.done(at, ran?);
            return Ok(());
        }
        let Some(pool) = shared.pool.as_ref() else { return Ok(()) };
        let Some(past) = self.pasts.get_mut(target) else { return Ok(()) };
        let tree = &mut self.tree;
        let receive = move || {
            let _kept = kept;
            match apply::receive(shared, pool, tree, past, facts, opened, skip)? {
                Received::All => apply::remove(place, file, &content).map(Some),
                Received::Modified => Ok(None),
            }
        };
        let (received, ahead) = while_examining(shared, &self.inbox, next, receive);
        self.ahead = ahead.or(self.ahead.take());
        match received? {
            Some(removed) => self.done(at, removed),
            None => {
                let name = self.tree.name(target);
                self.inbox.refused(at, self.tree.there(&name, None).head());
                self.plan_again();
            }
        }
        Ok(())
    }

    /// Removes a file that contains nothing new, and records that in the journal. `is_stale`: what was applied came
    /// after it.
    fn remove_needless(&mut self, facts: &Facts, at: usize, content: &Joined, is_stale: bool) -> Result<()> {
        let why = if is_stale { "what was applied came after it" } else { "it is there already" };
        if is_stale {
            apply::passed(self.shared, facts)?;
        }
        if let Some(past) = self.pasts.get_mut(&facts.target) {
            apply::learn(self.shared, &self.tree, past, facts)?;
        }
        log::info(format!("{}: to be removed: {why}", self.inbox.key(at)));
        let removed = apply::remove(self.inbox.place(at), self.inbox.file(at), content)?;
        self.done(at, removed);
        Ok(())
    }

    /// Records that a file was applied, or need not be. `removed`: whether it could be removed.
    fn done(&mut self, at: usize, removed: bool) {
        match removed {
            true => self.inbox.gone(at),
            false => self.inbox.keep(at),
        }
    }

    /// Handles the failure of a program or disk: this target is skipped for the rest of the run; others continue.
    pub(super) fn fail(&mut self, target: &Target, at: Option<usize>, e: anyhow::Error) -> Result<()> {
        self.stopped.insert(target.clone());
        match at {
            Some(at) => self.failed_over(at, e),
            None => self.shared.passed(target, e),
        }
    }

    /// Records and reports that a program or disk failed while a file was processed.
    fn failed_over(&mut self, at: usize, e: anyhow::Error) -> Result<()> {
        let why = format!("{e:#}");
        self.shared.passed(self.inbox.key(at), e)?;
        self.inbox.failed(at, why);
        Ok(())
    }
}

fn arriving(why: &str) -> Standing {
    Standing::Skipped(format!("{why}; it may still be arriving"))
}

fn replaced() -> Standing {
    Standing::Skipped("it was replaced meanwhile".into())
}

fn half_replaced(moved: usize, why: &str) -> Standing {
    Standing::Skipped(format!("a part was replaced meanwhile; the {moved} before it are in quarantine: {why}"))
}

/// Does `work`, which waits for a receiver most of the time, while another thread examines the file `next`.
fn while_examining<'a, T>(
    shared: &'a Shared<'a>,
    inbox: &Inbox,
    next: Option<usize>,
    work: impl FnOnce() -> T,
) -> (T, Option<Ahead<'a>>) {
    thread::scope(|scope| {
        let ahead = next.and_then(|at| {
            let examine = move || examine::examine(shared, inbox.host(), inbox.place(at), inbox.file(at));
            // Without a thread, it is examined afterwards.
            Some((at, thread::Builder::new().spawn_scoped(scope, examine).ok()?))
        });
        let done = work();
        let ahead = ahead.and_then(|(at, thread)| Some((at, thread.join().ok()?)));
        (done, ahead.filter(|(_, examined)| !is_temporary(examined)))
    })
}

/// Whether a file could not be examined only for lack of a resource, or because of a read error. What it lacked may be
/// there when its turn has come, so it is examined again then.
fn is_temporary(examined: &Result<Examined<'_>, Unsafe>) -> bool {
    matches!(examined, Err(Unsafe::Io(_)) | Ok(Examined { result: Err(Rejection::Io(_)), .. }))
}
