//! `check`: reports whether the bare command would work. Each finding includes its remedy.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{Findings, can_be_made, writable};
use zsnap_common::cli::options;
use zsnap_common::durable::dest::{self, Dest};
use zsnap_message::keys::{Recipients, SigningKey};

use crate::cli::Options;
use crate::flush::existing;
use crate::job;
use crate::state;

/// How long the examination of a directory may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Logs each finding as an error. The exit status is 78 if there are any.
pub fn check(o: &Options, now: SystemTime) -> anyhow::Result<Exit> {
    let mut findings = Findings::default();
    findings.add(
        "recipients",
        match o.encrypt_to.as_slice() {
            [] => Err(Exit::Config.error("none: name certificates with --encrypt-to")),
            files => Recipients::load(files, o.format, now).map(|r| r.warnings),
        },
    );
    findings.add(
        "signer",
        match (&o.signing_key, o.unsigned) {
            (Some(file), false) => SigningKey::load(file, now).map(|key| key.warnings),
            (None, true) => Ok(vec!["files are not signed: whoever has the certificates can make such files".into()]),
            _ => Err(Exit::Config.error("give either --signing-key (zsnap-queue keygen makes one) or --unsigned")),
        },
    );
    findings.add("state", readable(o).map(|()| Vec::new()));
    if o.to.is_empty() {
        findings.add("destinations", Err(Exit::Config.error("none: name one with --to")));
    }
    for dest in &o.to {
        findings.add(&dest.to_string(), destination(o, dest));
    }
    Ok(findings.exit())
}

/// Checks that the state is readable, all of it, and that the directory is writable or can be created.
fn readable(o: &Options) -> anyhow::Result<()> {
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let Some(state) = existing(&dir)? else {
        return can_be_made(&dir);
    };
    writable(&dir)?;
    for target in state.targets()? {
        state.acknowledged(&target)?;
    }
    Ok(())
}

/// Examines a destination, and returns warnings.
fn destination(o: &Options, dest: &Dest) -> anyhow::Result<Vec<String>> {
    let how = job::transport(o);
    let Dest::Dir(path) = dest else {
        return dest.is_equipped(&how).map(|()| dest.warning(&how).into_iter().collect());
    };
    // If the destination hangs, it hangs in this call, which has a timeout.
    let outboxes = state::outboxes(&options::state_dir(o.state.as_deref(), "queue")?);
    dest::look(dest, &how, &outboxes.dir(&dest.id()), PATIENCE)?;
    let meta = fs::metadata(path).with_context(|| format!("{}: create it, or plug the drive in", path.display()))?;
    if !meta.is_dir() {
        return Err(Exit::Config.error(format!("{} is not a directory", path.display())));
    }
    writable(path).map(|()| Vec::new())
}
