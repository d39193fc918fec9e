//! Opens a file, and verifies that its host sent it. Notes what it says; moves a bad file to quarantine.

use std::fs::File as Fd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report;
use zsnap_common::durable::incoming::Unsafe;

use crate::file::HeldFile;
use crate::host::HostRun;
use crate::known::{Entry, Seen, What};
use crate::opened::{Opened, Rejection};
use crate::plan::{Facts, Standing};
use crate::quarantine;
use crate::shared::{MemoryReservation, seconds};

/// A damaged file that was modified more recently than this may still be arriving.
const ARRIVING: Duration = Duration::from_secs(600);

/// Whether a damaged file that was modified at that time may still be arriving. A time more than a day ahead does not
/// count, because whoever writes the file now did not set it.
fn is_arriving(modified: SystemTime, now: SystemTime) -> bool {
    !report::is_late(seconds(modified), seconds(now), ARRIVING)
}

impl<'a> HostRun<'a> {
    /// Opens and verifies a file. Notes what it says, or handles its rejection. Returns the verified file, if it is
    /// one.
    pub fn verify(&mut self, at: usize) -> Result<Option<HeldFile<'a>>> {
        match self.look(at) {
            Err(e) => {
                self.note(at);
                self.failed_over(at, e)?;
                Ok(None)
            }
            Ok(kept) => {
                self.note(at);
                Ok(kept)
            }
        }
    }

    /// Returns the standing of a file that is, by its name, for a pool that is away. Such a file need not be decrypted
    /// in every run until the drive returns.
    pub fn away(&self, at: usize) -> Option<Standing> {
        let named = self.files[at].named().filter(|named| self.shared.config.command_for(named).is_none());
        named.and(self.shared.away())
    }

    fn look(&mut self, at: usize) -> Result<Option<HeldFile<'a>>> {
        let shared = self.shared;
        let away = self.away(at);
        let file = &mut self.files[at];
        let Some(place) = self.places.get(file.place) else { return Ok(None) };
        let is_held = matches!(file.entry.what, What::Held(_));
        if let Some(away) = away {
            file.settled = Some(away).filter(|_| !is_held);
            return Ok(None);
        }
        let bounds = shared.config.bounds(&self.host);
        let bytes = self.read.saturating_add(file.entry.seen.size);
        // At least one file is always processed; otherwise one that exceeds max-bytes would never be.
        if self.looked > 0 && (self.looked >= bounds.max_files || bounds.max_bytes.is_some_and(|most| bytes > most)) {
            let enough = Standing::Skipped("enough of this host for one run (max-files, max-bytes)".into());
            file.settled = Some(enough).filter(|_| !is_held);
            return Ok(None);
        }
        let fd = match place.dir.open_file(&file.name) {
            Ok(fd) => Arc::new(fd),
            Err(Unsafe::Gone) => {
                file.is_gone = true;
                return Ok(None);
            }
            Err(Unsafe::Not(what)) => {
                let why = format!(
                    "it {what}; a queue file is a regular file with one name, and its directory's owner owns it"
                );
                // This is checked in every run: it is cheap, and depends not only on the file itself.
                (file.entry.what, file.entry.again) = (What::Held(why), Some(0));
                return Ok(None);
            }
            Err(Unsafe::Io(e)) => return Err(e.into()),
        };
        self.looked += 1;
        self.read = bytes;
        let seen = Seen::of(&rustix::fs::fstat(&*fd)?);
        if file.entry.seen != seen {
            file.entry = Entry::new(seen, file.entry.first);
        }
        let mut room = shared.room(seen.size);
        let keep = room.as_ref().map_or(0, MemoryReservation::bytes);
        let verified =
            Opened::verify(shared.config, &self.host, place.exec, &fd, keep, shared.now).and_then(|opened| {
                let target = opened.target(&self.host, &file.queue)?;
                opened.fits(shared.config, &target).map(|()| (opened, target))
            });
        let no = match verified {
            Ok((opened, target)) => {
                let order = file.queue.stamp.seq();
                file.entry.what = What::Says(Facts::of(target, order, opened.manifest(), opened.stream()));
                file.entry.again = None;
                if let Some(room) = &mut room {
                    room.shrink(opened.kept());
                }
                return Ok(Some(HeldFile { opened, fd, room, slot: None }));
            }
            Err(no) => no,
        };
        (file.entry.what, file.entry.again) = (What::New, None);
        match no {
            // A signal must end the run, whatever it interrupted.
            Rejection::Io(e) => cancel::check().map_err(anyhow::Error::from).and(Err(e.into())),
            Rejection::Held { why, again, .. } => {
                (file.entry.what, file.entry.again) = (What::Held(why), again);
                Ok(None)
            }
            Rejection::Damaged(why) => {
                let modified = fd.metadata().and_then(|m| m.modified()).or_exit(Exit::Io, "queue file")?;
                // The current time, not the time when the run began, which may be an hour ago.
                if !place.exec && is_arriving(modified, SystemTime::now()) {
                    file.settled = Some(Standing::Skipped(format!("{why}; it may still be arriving")));
                    return Ok(None);
                }
                self.quarantine(at, &fd, &why).map_err(|e| e.context(why))?;
                Ok(None)
            }
            Rejection::Bad(_, why) => {
                self.quarantine(at, &fd, &why).map_err(|e| e.context(why))?;
                Ok(None)
            }
        }
    }

    /// Moves a file to quarantine, unless it has changed since it was opened.
    pub fn quarantine(&mut self, at: usize, fd: &Fd, why: &str) -> Result<()> {
        let key = self.key(at);
        let file = &mut self.files[at];
        let Some(place) = self.places.get(file.place) else { return Ok(()) };
        if self.shared.dry {
            file.settled = Some(Standing::Refused(why.to_owned()));
            return Ok(());
        }
        // A file that is still being written would continue to grow in quarantine.
        if Seen::of(&rustix::fs::fstat(fd)?) != file.entry.seen {
            file.settled = Some(Standing::Skipped(format!("{why}; it may still be arriving")));
            return Ok(());
        }
        if quarantine::put(&place.root, &place.dir, self.host.as_str().as_ref(), &file.name, fd, why)? {
            file.is_gone = true;
            self.shared.notices().event(format!("{key}: in quarantine: {why}"));
        } else {
            file.settled = Some(Standing::Skipped("it was replaced meanwhile".into()));
        }
        Ok(())
    }
}
