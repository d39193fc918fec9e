//! The spool: incoming files are `DIR/HOST/FILE`, and zsnap-fanout keeps its state in
//! `DIR/.zsnap-fanout`. The names and links in the file system are the only record of what is done.

use std::path::{Path, PathBuf};

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::durable::outbox::Outboxes;
use zsnap_common::names::shell::quoted;

use crate::drive::Drive;

const STATE: &str = ".zsnap-fanout";

/// An opened spool.
pub struct Spool {
    /// The directory that contains a directory for each host.
    pub incoming: Incoming,
    state: PathBuf,
}

impl Spool {
    /// Opens the spool and creates `.zsnap-fanout` if it is absent.
    ///
    /// # Errors
    /// [`Exit::Config`] if there is no spool, or it belongs to another user: only the owner can hard-link
    /// its files (protected_hardlinks in proc(5)), and the owner could not remove what another user creates.
    pub fn open(dir: Option<&Path>) -> Result<Spool> {
        let Spool { incoming, state } = Spool::look(dir)?;
        if incoming.owner() != rustix::process::geteuid().as_raw() {
            let owner = user(incoming.owner());
            return Err(Exit::Config.error(format!(
                "{} belongs to {owner}, and only {owner} can hard-link the files: runuser -u {owner} -- zsnap-fanout",
                quoted(incoming.path()),
            )));
        }
        incoming.private_inside(STATE.as_ref()).or_exit(Exit::Config, "cannot keep state in the spool")?;
        Ok(Spool { incoming, state })
    }

    /// Opens the spool without changing it, as any user who can read it.
    pub fn look(dir: Option<&Path>) -> Result<Spool> {
        let Some(dir) = dir else {
            return Err(Exit::Config.error("no spool: specify --spool, or write it into the configuration"));
        };
        let dir = std::path::absolute(dir).or_exit(Exit::Config, "--spool")?;
        let incoming = Incoming::open(&dir).or_exit(Exit::Config, "--spool: no directory to take files from")?;
        Ok(Spool { incoming, state: dir.join(STATE) })
    }

    /// Returns the path of `name` in `.zsnap-fanout`.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Returns the outboxes: the files that are no longer in the directories of the hosts and are not yet delivered.
    pub fn outboxes(&self) -> Outboxes {
        Outboxes::new(self.state("split"), self.state("out"))
    }

    /// Returns the directory of the delivered files that are kept for a destination. It has a directory for each day.
    pub fn kept(&self, drive: &str) -> PathBuf {
        self.state("kept").join(drive)
    }

    /// Checks that each outbox belongs to a configured destination. Otherwise files would wait unnoticed
    /// for a destination whose name was misspelled or was removed from the configuration.
    pub fn all_configured(&self, drives: &[Drive]) -> Result<()> {
        self.not_configured(drives)?.into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns an error for each outbox that belongs to no configured destination.
    pub fn not_configured(&self, drives: &[Drive]) -> Result<Vec<anyhow::Error>> {
        let mut names = self.outboxes().names().or_exit(Exit::Io, "cannot read the outboxes")?;
        names.retain(|name| !drives.iter().any(|drive| drive.name == *name));
        let error = |name: String| {
            Exit::Config.error(format!(
                "the drive {name} has an outbox, but is not in the configuration: correct its name there, or zsnap-fanout retire {}",
                quoted(&name)
            ))
        };
        Ok(names.into_iter().map(error).collect())
    }

    /// Checks that a destination and the spool do not contain each other: files delivered into the spool
    /// would be distributed again. `to` is the path of the destination without symlinks, or `None` if it is away.
    pub fn is_apart(&self, to: Option<&Path>) -> Result<()> {
        let (Some(to), Ok(spool)) = (to, self.incoming.path().canonicalize()) else { return Ok(()) };
        if !to.starts_with(&spool) && !spool.starts_with(to) {
            return Ok(());
        }
        Err(Exit::Config.error(format!(
            "{} and the spool {} contain each other: give the drive another directory",
            to.display(),
            spool.display()
        )))
    }
}

/// Returns the name of a user, or the number if the user has no name.
fn user(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    found.map_or(uid.to_string(), |user| user.name)
}
