//! Removes the temporary files of runs that ended early. Each is locked by its writer, so that those that are still
//! being written are not removed.

use std::ffi::OsStr;
use std::io;

use zsnap_common::durable::incoming::Incoming;
use zsnap_common::durable::publish;

use crate::config::Config;
use crate::{beside, quarantine};

/// Removes the temporary files from the state directory, from beside the commands' targets, and from quarantine.
pub fn remove(config: &Config) -> io::Result<()> {
    config.commands.iter().try_for_each(|command| beside::sweep(&command.target))?;
    let mut dirs = vec![config.state.clone()];
    while let Some(dir) = dirs.pop() {
        publish::sweep(&dir)?;
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    let quarantine =
        config.incoming.as_ref().map(|root| Incoming::open(root)?.inside(OsStr::new(quarantine::DIRECTORY)));
    if let Some(Ok(all)) = quarantine {
        for host in all.names()? {
            if let Ok(host) = all.inside(&host) {
                host.sweep()?;
            }
        }
    }
    Ok(())
}
