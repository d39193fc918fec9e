//! Examines a queue file: verifies that its host sent it, and finds out what it says about its place in a chain, or
//! why it is rejected.

use std::io;
use std::time::{Duration, SystemTime};

use zsnap_common::cli::report;
use zsnap_common::durable::incoming::Unsafe;
use zsnap_common::names::queue_name::Label;
use zsnap_common::names::target::Host;

use crate::inbox::{File, Place};
use crate::joined::Joined;
use crate::opened::{Opened, Reader, Rejection};
use crate::plan::Facts;
use crate::seen::{self, Seen};
use crate::shared::{MemoryReservation, OpenSlots, Shared, seconds};

/// A damaged file that was modified more recently than this may still be arriving.
const ARRIVING: Duration = Duration::from_secs(600);

/// A verified file that is open.
pub struct VerifiedFile<'a> {
    /// Its verified content, which can write the stream.
    pub opened: Opened,
    /// The open files. A file is removed by name only if it is still one of these.
    pub content: Joined,
    /// The memory that it uses.
    pub room: Option<MemoryReservation<'a>>,
    /// Its slots among the files that are kept open until they are applied.
    pub slot: Option<OpenSlots<'a>>,
}

impl<'a> VerifiedFile<'a> {
    /// Keeps the file open until it is applied. If too many are open already, it is closed, and will be verified again.
    pub fn keep_open(self, shared: &'a Shared<'_>) -> Option<VerifiedFile<'a>> {
        shared.slots(self.content.files().count()).map(|slot| VerifiedFile { slot: Some(slot), ..self })
    }
}

/// A file that was opened and examined.
pub struct Examined<'a> {
    /// The open files.
    pub content: Joined,
    /// Its identity when it was opened.
    pub seen: Seen,
    /// The digest of its ends, if its file system does not keep inode numbers.
    pub ends: Option<String>,
    /// What it says and contains, or why it is rejected.
    pub result: Result<(Facts, VerifiedFile<'a>), Rejection>,
}

/// Opens and examines `file` of `host` in `place`. Changes nothing, so that it may be done ahead of time.
pub fn examine<'a>(shared: &'a Shared<'a>, host: &Host, place: &Place, file: &File) -> Result<Examined<'a>, Unsafe> {
    let content = place.open(file.stored())?;
    let seen = Seen::of_open(&content).map_err(Unsafe::Io)?;
    let result = verify(shared, host, place, file, &content, seen.size);
    let ends = if place.is_lasting { None } else { seen::ends(content.clone(), seen.size).ok() };
    Ok(Examined { content, seen, ends, result })
}

fn verify<'a>(
    shared: &'a Shared<'a>,
    host: &Host,
    place: &Place,
    file: &File,
    content: &Joined,
    size: u64,
) -> Result<(Facts, VerifiedFile<'a>), Rejection> {
    let mut room = shared.room(size);
    let keep = room.as_ref().map_or(0, MemoryReservation::bytes);
    // Not the name of the file, of which a narrow terminal would show only the beginning, which is a number.
    let what = match &file.queue().label {
        Label::Dataset(dataset) => format!("{host}/{dataset}"),
        Label::Digest(_) => file.shown().to_string(),
    };
    let reader = if place.exec { Reader::Exec } else { Reader::Run };
    let opened = Opened::verify(shared.config, host, reader, (content, &what), keep, shared.now)?;
    let target = opened.target(host, file.queue())?;
    opened.fits(shared.config, &target)?;
    if let Some(room) = &mut room {
        room.shrink(opened.kept());
    }
    let facts = Facts::of(target, file.queue().stamp.seq(), opened.manifest(), opened.stream());
    Ok((facts, VerifiedFile { opened, content: content.clone(), room, slot: None }))
}

/// Whether a damaged file may still be arriving. A time of modification more than a day ahead does not count, because
/// whoever writes the file now did not set it.
pub fn is_arriving(place: &Place, content: &Joined) -> io::Result<bool> {
    // The current time, not the time when the run began, which may be an hour ago.
    let modified = content.modified()?;
    Ok(!place.exec && !report::is_late(seconds(modified), seconds(SystemTime::now()), ARRIVING))
}
