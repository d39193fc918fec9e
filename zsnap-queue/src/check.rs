//! `check`: reports whether the bare command would work. Each finding includes its remedy.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{
    CheckOptions, Finding, Findings, can_be_made, failure, of_parts, warnings, writable,
};
use zsnap_common::cli::options;
use zsnap_common::durable::dest::{self, Dest, Mark, Transport, nncp};
use zsnap_common::durable::filesystem::{self, Use};
use zsnap_common::names::target::Host;
use zsnap_message::keys::{Recipients, SigningKey};

use crate::cli::Options;
use crate::delivery;
use crate::flush::existing;
use crate::job::{self, PATIENCE};
use crate::saved::{self, Drive, Saved};
use crate::state;

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
    if let Ok(dir) = options::state_dir(o.state.as_deref(), "queue") {
        for (old, waiting) in delivery::forgotten(&state::outboxes(&dir), &o.to)? {
            findings
                .add(&old.dest.to_string(), [Finding::Warning(delivery::not_configured(waiting, &old.dest, &o.to))]);
        }
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
        let unwritable = failure(writable(&dir));
        let here = if unwritable.is_empty() { filesystem::examined(&dir, Use::State) } else { unwritable };
        Ok(here.into_iter().chain(datasets).collect())
    };
    read().unwrap_or_else(|e: anyhow::Error| vec![e.into()])
}

fn destination(o: &Options, dest: &Dest) -> Vec<Finding> {
    let how = job::transport(o);
    let Dest::Dir(path) = dest else {
        let mut findings: Vec<_> = dest.warning(&how).map(Finding::Note).into_iter().collect();
        let equipped = failure(dest.is_equipped(&how));
        if equipped.is_empty() {
            findings.extend(nncp::check(dest, &how, None));
        }
        findings.extend(equipped);
        return findings;
    };
    directory(o, dest, path, how).unwrap_or_else(|e| vec![e.into()])
}

fn directory(o: &Options, dest: &Dest, path: &Path, how: Transport) -> Result<Vec<Finding>> {
    let dir = options::state_dir(o.state.as_deref(), "queue")?;
    let outbox = state::outboxes(&dir).dir(&dest.id());
    let saved = Saved::read(&outbox).ok();
    let mark = saved.as_ref().map_or(Mark::Any, |saved| saved.drive.mark());
    // If the destination hangs, it hangs in this call, which has a timeout.
    let how = Transport { mark, ..how };
    let look = dest::look(dest, &how, &outbox, PATIENCE)?;
    let Some(why) = &look.away else {
        let unwritable = writable_hosts(path, &outbox);
        if !unwritable.is_empty() {
            return Ok(unwritable);
        }
        let Some(probe) = dest::probe(dest, &how, &outbox, PATIENCE)? else { return Ok(Vec::new()) };
        let wanted = Use::Destination { max_file: how.max_file };
        let mut findings = filesystem::findings(&probe.abilities, filesystem::free(&File::open(path)?)?, wanted);
        findings.extend(probe.clash(&hosts(o).unwrap_or_default()).map(Finding::Failure));
        return Ok(findings);
    };
    let known = saved.as_ref().is_some_and(|saved| matches!(saved.drive, Drive::Named(_)));
    Ok(vec![match (look.real(), &look.name) {
        (None, _) if known => Finding::Warning(format!("away: {why}: plug the drive in and mount it")),
        (None, _) => Finding::Failure(format!("{why}: mount the drive, or make the directory")),
        (Some(_), None) if saved.is_some_and(|saved| saved.needs_init(&look).is_none()) => {
            Finding::Note("the next delivery marks the drive".to_owned())
        }
        (Some(_), _) if known => Finding::Warning(format!("away: {why}; {}", saved::remedy(path))),
        (Some(_), _) => Finding::Failure(format!("{why}; {}", saved::remedy(path))),
    }])
}

/// Checks that a directory, and those of the hosts that have files for it, are writable.
fn writable_hosts(path: &Path, outbox: &Path) -> Vec<Finding> {
    let hosts = fs::read_dir(outbox).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let of_hosts = hosts.map(|host| path.join(host)).filter(|dir| dir.is_dir());
    std::iter::once(path.to_owned()).chain(of_hosts).flat_map(|dir| failure(writable(&dir))).collect()
}

/// Returns the hosts of which something was queued here.
fn hosts(o: &Options) -> Result<Vec<Host>> {
    let state = existing(&options::state_dir(o.state.as_deref(), "queue")?)?;
    let targets = state.map(|state| state.targets()).transpose()?.unwrap_or_default();
    let hosts: BTreeSet<Host> = targets.into_iter().map(|target| target.host).collect();
    Ok(hosts.into_iter().collect())
}
