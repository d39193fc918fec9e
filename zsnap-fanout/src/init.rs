//! `init`: marks a directory as a certain destination.

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::log;
use zsnap_common::durable::dest::{Dest, mark};

use crate::drive::Drive;
use crate::spool::Spool;

/// Writes the mark. A directory on the file system of the spool or of `/` requires `same_filesystem`.
pub fn init(spool: &Spool, drive: &Drive, same_filesystem: bool) -> Result<Exit> {
    let Dest::Dir(path) = &drive.dest else {
        return Err(Exit::Usage.error(format!("{} is {}, which needs no mark: only dir: does", drive.name, drive.dest)));
    };
    mark::init(path, &drive.transport.mark, &[spool.incoming.path()], same_filesystem)?;
    log::outcome(format_args!("{} has the mark of {}; the next run delivers to it", path.display(), drive.name));
    Ok(Exit::Done)
}
