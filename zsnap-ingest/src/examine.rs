//! Examines a queue file: verifies that its host sent it, and finds out what it says about its place in a chain, or
//! why it is rejected.

use std::fs::File as Fd;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zsnap_common::cli::report;
use zsnap_common::durable::incoming::Unsafe;
use zsnap_common::names::target::Host;

use crate::inbox::{File, Place};
use crate::opened::{Opened, Reader, Rejection};
use crate::plan::Facts;
use crate::seen::{self, Seen};
use crate::shared::{MemoryReservation, OpenSlot, Shared, seconds};

/// A damaged file that was modified more recently than this may still be arriving.
const ARRIVING: Duration = Duration::from_secs(600);

/// A verified file that is open.
pub struct VerifiedFile<'a> {
    /// Its verified content, which can write the stream.
    pub opened: Opened,
    /// The open file. A file is removed by name only if it is still this one.
    pub fd: Arc<Fd>,
    /// The memory that it uses.
    pub room: Option<MemoryReservation<'a>>,
    /// Its slot among the files that are kept open until they are applied.
    pub slot: Option<OpenSlot<'a>>,
}

impl<'a> VerifiedFile<'a> {
    /// Keeps the file open until it is applied. If too many are open already, it is closed, and will be verified again.
    pub fn keep_open(self, shared: &'a Shared<'_>) -> Option<VerifiedFile<'a>> {
        shared.slot().map(|slot| VerifiedFile { slot: Some(slot), ..self })
    }
}

/// A file that was opened and examined.
pub struct Examined<'a> {
    /// The open file.
    pub fd: Arc<Fd>,
    /// Its identity when it was opened.
    pub seen: Seen,
    /// The digest of its ends, if its file system does not keep inode numbers.
    pub ends: Option<String>,
    /// What it says and contains, or why it is rejected.
    pub result: Result<(Facts, VerifiedFile<'a>), Rejection>,
}

/// Opens and examines `file` of `host` in `place`. Changes nothing, so that it may be done ahead of time.
pub fn examine<'a>(shared: &'a Shared<'a>, host: &Host, place: &Place, file: &File) -> Result<Examined<'a>, Unsafe> {
    let fd = Arc::new(place.dir.open_file(file.name())?);
    let seen = Seen::of(&rustix::fs::fstat(&*fd).map_err(|e| Unsafe::Io(e.into()))?);
    let result = verify(shared, host, place, file, &fd, seen.size);
    let ends = if place.is_lasting { None } else { seen::ends(&fd, seen.size).ok() };
    Ok(Examined { fd, seen, ends, result })
}

fn verify<'a>(
    shared: &'a Shared<'a>,
    host: &Host,
    place: &Place,
    file: &File,
    fd: &Arc<Fd>,
    size: u64,
) -> Result<(Facts, VerifiedFile<'a>), Rejection> {
    let mut room = shared.room(size);
    let keep = room.as_ref().map_or(0, MemoryReservation::bytes);
    let reader = if place.exec { Reader::Exec } else { Reader::Run };
    let opened = Opened::verify(shared.config, host, reader, fd, keep, shared.now)?;
    let target = opened.target(host, file.queue())?;
    opened.fits(shared.config, &target)?;
    if let Some(room) = &mut room {
        room.shrink(opened.kept());
    }
    let facts = Facts::of(target, file.queue().stamp.seq(), opened.manifest(), opened.stream());
    Ok((facts, VerifiedFile { opened, fd: fd.clone(), room, slot: None }))
}

/// Whether a damaged file may still be arriving. A time of modification more than a day ahead does not count, because
/// whoever writes the file now did not set it.
pub fn is_arriving(place: &Place, fd: &Fd) -> io::Result<bool> {
    // The current time, not the time when the run began, which may be an hour ago.
    let modified = fd.metadata()?.modified()?;
    Ok(!place.exec && !report::is_late(seconds(modified), seconds(SystemTime::now()), ARRIVING))
}
