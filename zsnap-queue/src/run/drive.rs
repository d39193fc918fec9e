//! The bare command with `--outbox`: `O1` to `O6` are the rows of the table in ARCHITECTURE.md.

use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::log;
use zsnap_common::durable::publish::NewFile;

use super::sealed::{Sealed, commit};
use super::{Run, advance};
use crate::aboard::{self, Outbox};
use crate::delivery;
use crate::pipeline::{Begun, io_failed};
use crate::producer::StateCopy;
use crate::state::{Aboard, Locked};
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
        // O2
        let ids = vec![outbox.destination.id.clone()];
        let Sealed { passed, name, bytes: sealed_bytes, mut new } = self.seal_to(&dataset, &file, begun, &copy, ids)?;
        let aboard = self.aboard(outbox, &name, sealed_bytes, new.at);
        new.aboard.push(aboard.clone());
        // O3: no other file can have this name, because this run holds the lock of the dataset.
        cancel::check()?;
        // If the removal fails too, the next run with this outbox does it.
        let undo = || drop(outbox.remove(&aboard.entry));
        // O4
        commit(&dataset, &new, file.replace(aboard.entry.as_ref()), &mut copy, undo)?;
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
