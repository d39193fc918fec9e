//! The bare command with `--outbox`: `O1` to `O6` are the rows of the table in ARCHITECTURE.md.

use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::log;
use zsnap_common::durable::publish::NewFile;
use zsnap_common::names::queue_name::{QueueName, Stamp};

use super::{Run, advance};
use crate::aboard::{self, Outbox};
use crate::delivery;
use crate::pipeline::{Begun, io_failed, seal_failed};
use crate::producer::StateCopy;
use crate::state::{Aboard, CommitError, Locked};
use crate::summary;

impl Run<'_> {
    /// Seals on the drive, commits, and gives the file its place there.
    pub fn publish_aboard(
        &self,
        dataset: Locked<'_>,
        outbox: &Outbox,
        begun: Begun,
        mut copy: Option<StateCopy>,
    ) -> anyhow::Result<Exit> {
        let (state, target) = (dataset.state, &self.job.target);
        // O1
        let dir = outbox.dir.try_clone().map_err(io_failed("cannot use the outbox"))?;
        let file = NewFile::create_at(dir, &outbox.path).map_err(io_failed("cannot create a file in the outbox"))?;
        let passed = self
            .seal(file.file(), begun, copy.as_ref())
            .map_err(seal_failed(&format!("cannot write {}", file.path().display())))?;
        // O2
        file.sync().map_err(io_failed("cannot write to the outbox"))?;
        let stamp = Stamp::from_seq(self.place.seq, std::process::id());
        let name = QueueName::new(stamp, target, state.digest(target), self.options.opaque_names).to_string();
        let sealed_bytes = file.file().metadata().map_or(0, |meta| meta.len());
        let mut new = self.acknowledged(&passed, Some(name.clone()), copy.as_ref())?;
        new.destinations = vec![outbox.destination.id.clone()];
        let aboard = self.aboard(outbox, &name, sealed_bytes, new.at);
        new.aboard.push(aboard.clone());
        // O3: no other file can have this name, because this run holds the lock of the dataset.
        cancel::check()?;
        let committed = file.replace(aboard.entry.as_ref()).map_err(|e| CommitError::Old(e.into()));
        // O4
        let committed = committed.and_then(|()| {
            cancel::check().map_err(|e| CommitError::Old(e.into()))?;
            dataset.commit(&new)
        });
        match committed {
            Ok(()) => copy.iter_mut().for_each(StateCopy::keep),
            Err(CommitError::Old(e)) => {
                // If this fails too, the next run with this outbox does it.
                let _ = outbox.remove(&aboard.entry);
                return Err(e);
            }
            Err(CommitError::Unknown(e)) => {
                copy.iter_mut().for_each(StateCopy::keep);
                return Err(e);
            }
        }
        // The stream is queued now: if a later step fails, the next run repeats it.
        advance(&new);
        log::info(format_args!("{name}: {} bytes queued as {sealed_bytes}", passed.trailer.bytes));
        // O5, O6
        let settled = aboard::settle(&dataset, new, self.options);
        drop(dataset);
        // What was queued for the drive without this outbox.
        let boxes = state.outboxes();
        let mut outcomes = delivery::deliver(&boxes, vec![outbox.destination.clone()], true);
        match settled {
            Ok(settled) => {
                outcomes.iter_mut().for_each(|outcome| outcome.delivered.extend_from_slice(&settled.placed));
                settled.logged();
            }
            Err(e) => log::error(format_args!("{e:#}; the next run tries again")),
        }
        summary::queued(target, &name, passed.trailer.bytes, sealed_bytes, &outcomes);
        delivery::report_forgotten(&boxes, &self.job.dests, true);
        if self.options.json {
            self.tell(&name, sealed_bytes, &passed, &outcomes);
        }
        Ok(Exit::Done)
    }

    fn aboard(&self, outbox: &Outbox, name: &str, bytes: u64, at: u64) -> Aboard {
        Aboard {
            outbox: outbox.given.clone(),
            entry: aboard::entry(&self.job.target, self.place.seq),
            file: name.to_owned(),
            dest: outbox.destination.dest.clone(),
            bytes,
            at,
        }
    }
}
