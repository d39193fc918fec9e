//! `check`: reports whether the bare command would work. Each finding includes its remedy.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{
    CheckOptions, Finding, Findings, can_be_made, failure, of_parts, warnings, writable,
};
use zsnap_common::cli::options;
use zsnap_common::durable::dest::{self, Dest};
use zsnap_common::names::target::Host;
use zsnap_message::keys::{Recipients, SigningKey};

use crate::cli::Options;
use crate::flush::existing;
use crate::job;
use crate::state;

/// How long the examination of a directory may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the findings; see [`Findings::exit`] for the status.
pub fn check(o: &Options, asked: CheckOptions, now: SystemTime) -> Result<Exit> {
    let mut findings = Findings::new(asked);
    findings.add("recipients", recipients(o, now));
    let mut of_key = None;
    findings.add(
        "signer",
        warnings(match (&o.signing_key, o.unsigned) {
            (Some(file), false) => SigningKey::load(file, now).map(|key| {
                of_key = key.host;
                key.warnings
            }),
            (None, true) => Ok(vec!["files are not signed: whoever has the certificates can make such files".into()]),
            _ => Err(Exit::Config.error("give either --signing-key (zsnap-queue keygen makes one) or --unsigned")),
        }),
    );
    let hosts: Vec<_> = if o.host.is_empty() { of_key.into_iter().collect() } else { o.host.clone() };
    let names = hosts.iter().map(Host::as_str).collect::<Vec<_>>().join(", ");
    findings
        .add("host", [Finding::Note(if names.is_empty() { "any, because none is specified".into() } else { names })]);
    findings.add("state", state(o));
    if o.to.is_empty() {
        findings.add("destinations", [Exit::Config.error("none: name one with --to").into()]);
    }
    for dest in &o.to {
        findings.add(&dest.to_string(), destination(o, dest));
    }
    findings.exit()
}

fn recipients(o: &Options, now: SystemTime) -> Vec<Finding> {
    match Recipients::load(&o.encrypt_to, o.format, now) {
        Ok(recipients) => warnings(Ok(recipients.warnings)),
        Err(e) => {
            let alone = |file: &PathBuf| Recipients::load(std::slice::from_ref(file), o.format, now);
            of_parts(e, o.encrypt_to.iter().map(alone)).into_iter().map(Finding::from).collect()
        }
    }
}

/// Checks that the state of every dataset is readable, and that the directory is writable or can be created.
fn state(o: &Options) -> Vec<Finding> {
    let read = || {
        let dir = options::state_dir(o.state.as_deref(), "queue")?;
        let Some(state) = existing(&dir)? else {
            return can_be_made(&dir).map(|()| Vec::new());
        };
        let targets = state.targets()?;
        let datasets = targets.iter().flat_map(|target| failure(state.acknowledged(target)));
        Ok(failure(writable(&dir)).into_iter().chain(datasets).collect())
    };
    read().unwrap_or_else(|e: anyhow::Error| vec![e.into()])
}

fn destination(o: &Options, dest: &Dest) -> Vec<Finding> {
    let how = job::transport(o);
    let Dest::Dir(path) = dest else {
        let note = dest.warning(&how).map(Finding::Note);
        return note.into_iter().chain(failure(dest.is_equipped(&how))).collect();
    };
    let usable = || {
        // If the destination hangs, it hangs in this call, which has a timeout.
        let outboxes = state::outboxes(&options::state_dir(o.state.as_deref(), "queue")?);
        dest::look(dest, &how, &outboxes.dir(&dest.id()), PATIENCE)?;
        let meta =
            fs::metadata(path).with_context(|| format!("{}: create it, or plug the drive in", path.display()))?;
        if !meta.is_dir() {
            return Err(Exit::Config.error(format!("{} is not a directory", path.display())));
        }
        writable(path)?;
        let probe = dest::probe(dest, &how, &outboxes.dir(&dest.id()), PATIENCE)?;
        match probe.and_then(|probe| probe.clash(&hosts(o).unwrap_or_default())) {
            Some(why) => Err(Exit::Config.error(format!("{}: {why}", path.display()))),
            None => Ok(()),
        }
    };
    failure(usable())
}

/// Returns the hosts of which something was queued here.
fn hosts(o: &Options) -> Result<Vec<Host>> {
    let state = existing(&options::state_dir(o.state.as_deref(), "queue")?)?;
    let targets = state.map(|state| state.targets()).transpose()?.unwrap_or_default();
    let hosts: BTreeSet<Host> = targets.into_iter().map(|target| target.host).collect();
    Ok(hosts.into_iter().collect())
}
