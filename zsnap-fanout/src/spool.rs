//! The spool: `DIR/HOST/FILE`, and all that we keep, in `DIR/.zsnap-fanout`. The file system is the
//! only ledger.

use std::path::{Path, PathBuf};

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::durable::outbox::Outboxes;

use crate::drive::Drive;

const STATE: &str = ".zsnap-fanout";

/// A spool that belongs to us.
pub struct Spool {
    /// The directory of the hosts' directories.
    pub incoming: Incoming,
    state: PathBuf,
}

impl Spool {
    /// Opens it and makes `.zsnap-fanout` if need be.
    ///
    /// # Errors
    /// [`Exit::Config`]: there is none, or it belongs to another user: what we cannot own we cannot
    /// hard-link (protected_hardlinks in proc(5)), nor would its owner get rid of what we make.
    pub fn open(dir: Option<&Path>) -> Result<Spool> {
        let Spool { incoming, state } = Spool::look(dir)?;
        if incoming.owner() != rustix::process::geteuid().as_raw() {
            let owner = user(incoming.owner());
            return Err(Exit::Config.error(format!(
                "{} belongs to {owner}, and only {owner} can hard-link the files: runuser -u {owner} -- zsnap-fanout",
                incoming.path().display(),
            )));
        }
        incoming.private_inside(STATE.as_ref()).or_exit(Exit::Config, "cannot keep state in the spool")?;
        Ok(Spool { incoming, state })
    }

    /// The same to look only, as whoever may.
    pub fn look(dir: Option<&Path>) -> Result<Spool> {
        let Some(dir) = dir else {
            return Err(Exit::Config.error("no spool: specify --spool, or write it into the configuration"));
        };
        let dir = std::path::absolute(dir).or_exit(Exit::Config, "--spool")?;
        let incoming = Incoming::open(&dir).or_exit(Exit::Config, "--spool: no directory to take files from")?;
        Ok(Spool { incoming, state: dir.join(STATE) })
    }

    /// A path in `.zsnap-fanout`.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// What was taken from the spool and not yet delivered.
    pub fn outboxes(&self) -> Outboxes {
        Outboxes::new(self.state("split"), self.state("out"))
    }

    /// Where delivered files of a drive are kept: one directory a day.
    pub fn kept(&self, drive: &str) -> PathBuf {
        self.state("kept").join(drive)
    }

    /// A drive whose name was misspelt, or removed while files wait for it, must not lose these in
    /// silence.
    pub fn all_configured(&self, drives: &[Drive]) -> Result<()> {
        for name in self.outboxes().names().or_exit(Exit::Io, "cannot read the outboxes")? {
            if !drives.iter().any(|drive| drive.name == name) {
                return Err(Exit::Config.error(format!(
                    "the drive {name} has an outbox, but is not in the configuration: correct its name there, or zsnap-fanout retire {name}"
                )));
            }
        }
        Ok(())
    }

    /// What is delivered into the spool would come from there again. `to` is where a drive is, without
    /// symlinks; `None`: it is not there.
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

/// The name of a user, or the number.
fn user(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    found.map_or(uid.to_string(), |user| user.name)
}
