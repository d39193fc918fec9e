//! Temporaries of runs that ended early. Each is locked by its writer, so that what is still
//! being written stays.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use zsnap_common::incoming::Incoming;
use zsnap_common::publish;

use crate::config::Config;
use crate::{journal, quarantine};

/// Removes them from the state directory, from beside the commands' targets, and from quarantine.
pub fn remove(config: &Config) -> io::Result<()> {
    let journals = config.commands.iter().filter_map(|command| journal::target_path(&command.target).ok());
    let mut dirs: Vec<PathBuf> = journals.filter_map(|path| Some(path.parent()?.to_owned())).collect();
    dirs.push(config.state.clone());
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
