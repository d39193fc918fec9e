//! `init`: marks the drive of a `dir:` destination.

use std::path::Path;

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::options;
use zsnap_common::durable::dest::{self, Dest, Mark, Transport, mark};

use crate::cli::Options;
use crate::destination;
use crate::flush::is_there;
use crate::job::{self, PATIENCE};
use crate::saved::{Drive, Saved};
use crate::state;

/// Writes the mark. A directory on the file system of the state or of `/` requires `same_filesystem`. A mark that is
/// there stays: other machines may deliver to this drive, too.
pub fn init(o: &Options, path: &Path, same_filesystem: bool) -> anyhow::Result<Exit> {
    let path = &std::path::absolute(path).or_exit(Exit::Usage, path.display())?;
    let is_it = |dest: &&Dest| matches!(dest, Dest::Dir(other) if other == path);
    let configured = o.to.iter().find(is_it);
    let dest = configured.cloned().unwrap_or_else(|| Dest::Dir(path.clone()));
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let has_state = is_there(&dir)?;
    let outbox = state::outboxes(&dir).dir(&dest.id());
    let saved = Saved::read(&outbox).ok();
    let transport = Transport { mark: Mark::Unneeded, ..job::transport(o) };
    // If the drive hangs, it hangs in this call, which has a timeout.
    let look = dest::look(&dest, &transport, &outbox, PATIENCE)?;
    let known = saved.as_ref().map_or(Mark::Any, |saved| saved.drive.mark());
    let wanted = if look.name.is_some() { Mark::Any } else { known };
    let fixed: Vec<&Path> = if has_state { vec![&dir] } else { Vec::new() };
    let name = mark::init(path, &wanted, &fixed, same_filesystem)?;
    if saved.is_some() {
        let destinations = destination::configured(std::slice::from_ref(&dest), &transport);
        for destination in &destinations {
            Saved::change(&outbox, destination, |saved| saved.drive = Drive::Named(name.clone()))
                .or_exit(Exit::CantCreate, "cannot record the drive")?;
        }
    }
    let next = match configured {
        Some(_) => "the next run delivers to it".to_owned(),
        None => format!("now add \"{dest}\" to the key \"to\" of queue.toml, or name it with --to"),
    };
    log::outcome(format_args!("{} is the drive \"{name}\"; {next}", path.display()));
    Ok(Exit::Done)
}
