//! What both ways to queue a stream have in common: sealing it into a new file, and the commit of that file.

use std::io;

use zsnap_common::cli::cancel;
use zsnap_common::durable::publish::NewFile;
use zsnap_common::names::queue_name::{QueueName, Stamp};

use super::Run;
use crate::pipeline::{Begun, Passed, io_failed, seal_failed};
use crate::producer::StateCopy;
use crate::state::{Acknowledged, CommitError, Locked};

/// A stream that was sealed into a file which has no name of its own yet.
pub(super) struct Sealed {
    pub passed: Passed,
    /// The name of the queue file.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The state once it is queued.
    pub new: Acknowledged,
}

/// Commits a file that was given its name: from then on the stream is queued. `undo` removes the file again if the
/// state is certainly the old one.
pub(super) fn commit(
    dataset: &Locked<'_>,
    new: &Acknowledged,
    named: io::Result<()>,
    copy: &mut Option<StateCopy>,
    undo: impl FnOnce(),
) -> anyhow::Result<()> {
    let committed = named.map_err(|e| CommitError::Old(e.into())).and_then(|()| {
        cancel::check().map_err(|e| CommitError::Old(e.into()))?;
        dataset.commit(new)
    });
    match committed {
        Err(CommitError::Old(e)) => {
            undo();
            Err(e)
        }
        other => {
            copy.iter_mut().for_each(StateCopy::keep);
            other.map_err(CommitError::into_inner)
        }
    }
}

impl Run<'_> {
    /// Seals the stream into a new file, durably. `ids` are those of the destinations.
    pub(super) fn seal_to(
        &self,
        dataset: &Locked<'_>,
        file: &NewFile,
        begun: Begun,
        copy: &Option<StateCopy>,
        ids: Vec<String>,
    ) -> anyhow::Result<Sealed> {
        let (state, target) = (dataset.state, &self.job.target);
        let passed = self
            .seal(file.file(), begun, copy.as_ref())
            .map_err(seal_failed(&format!("cannot write {}", file.path().display())))?;
        file.sync().map_err(io_failed("cannot write to the outbox"))?;
        let stamp = Stamp::from_seq(self.place.seq, std::process::id());
        let name = QueueName::new(stamp, target, state.digest(target), self.options.opaque_names).to_string();
        let bytes = file.file().metadata().map_or(0, |meta| meta.len());
        let mut new = self.acknowledged(&passed, Some(name.clone()), copy.as_ref())?;
        new.destinations = ids;
        Ok(Sealed { passed, name, bytes, new })
    }
}
