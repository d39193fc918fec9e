//! `init`: marks a directory as a certain drive. An unmounted drive's mount point has no mark, and
//! another drive there has another one, so nothing is ever written to the wrong place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use zsnap_common::dest::Dest;
use zsnap_common::dest::dir::MARKER;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::publish::write_durably;

use crate::drive::Drive;
use crate::spool::Spool;

/// Writes the mark. What lies on the spool's own file system, or on that of `/`, is most likely a
/// mount point whose drive is away: it needs `same_filesystem`.
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
    let mark = path.join(MARKER);
    match fs::read_to_string(&mark) {
        Ok(name) if name.trim_end() == drive.name => Ok(Exit::Done),
        Ok(name) => Err(Exit::Config.error(format!(
            "{shown} is the drive \"{}\" already: mount the right one, or remove {}",
            name.trim_end().escape_default(),
            mark.display()
        ))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            write_durably(&mark, format!("{}\n", drive.name).as_bytes())
                .or_exit(Exit::CantCreate, "cannot mark the drive")?;
            Ok(Exit::Done)
        }
        Err(e) => Err(e).or_exit(Exit::Io, mark.display()),
    }
}
