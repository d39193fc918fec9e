//! `init`: marks a directory as a certain destination. The mount point of an unmounted drive has no
//! mark, and another drive has a different mark, so nothing is ever written to the wrong place.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::dest::Dest;
use zsnap_common::durable::dest::dir::{self, MARKER};
use zsnap_common::durable::publish::{sweep_at, write_durably};

use crate::drive::Drive;
use crate::spool::Spool;

/// Writes the mark. A directory on the file system of the spool or of `/` requires `same_filesystem`,
/// because it is most likely the mount point of a drive that is away.
pub fn init(spool: &Spool, drive: &Drive, same_filesystem: bool) -> Result<Exit> {
    let Dest::Dir(path) = &drive.dest else {
        return Err(Exit::Usage.error(format!("{} is {}, which needs no mark: only dir: does", drive.name, drive.dest)));
    };
    let shown = path.display();
    let meta =
        fs::metadata(path).or_exit(Exit::Config, format_args!("{shown}: mount the drive, and make the directory"))?;
    for fixed in [spool.incoming.path(), Path::new("/")] {
        if meta.dev() == fs::metadata(fixed).or_exit(Exit::Io, fixed.display())?.dev() && !same_filesystem {
            return Err(Exit::Config.error(format!(
                "{shown} is on the file system of {}: mount the drive, or say --same-filesystem if it is none",
                fixed.display()
            )));
        }
    }
    let root = File::open(path.join(".")).or_exit(Exit::Io, &shown)?;
    let file = path.join(MARKER);
    match dir::mark(&root, path).or_exit(Exit::Io, "cannot read the mark")? {
        Some(name) if name == drive.name => {}
        Some(name) => {
            return Err(Exit::Config.error(format!(
                "{shown} is the drive \"{}\" already: mount the right one, or remove {}",
                name.escape_default(),
                file.display()
            )));
        }
        None => write_durably(&file, format!("{}\n", drive.name).as_bytes())
            .or_exit(Exit::CantCreate, "cannot mark the drive")?,
    }
    // Remove the temporary files of a process that was killed.
    sweep_at(&root, path).or_exit(Exit::Io, "cannot clear up")?;
    log::outcome(format_args!("{shown} has the mark of {}; the next run delivers to it", drive.name));
    Ok(Exit::Done)
}
