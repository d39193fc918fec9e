//! `check`: reports what would stop a run before it does, with the remedies. A finding never hides another one.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{CheckOptions, Finding, Findings, can_be_made, failure, warnings};
use zsnap_common::cli::{options, suggest};
use zsnap_common::durable::filesystem::{self, Use};
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::durable::listing::{is_ignored, may_hold_queue_files};
use zsnap_common::names::target::Host;

use crate::cli::Options;
use crate::config::{Config, HostTable, Tables};

mod receiver;
mod store;

/// Prints the findings; see [`Findings::exit`] for the status.
pub fn check(options: &Options, asked: CheckOptions, tables: Tables) -> Result<Exit> {
    let mut findings = Findings::new(asked);
    let fail = |text: &str| Finding::Failure(text.to_owned());
    findings.add(
        "incoming",
        match &options.incoming {
            None => vec![fail("no incoming directory: specify --incoming")],
            Some(dir) if !dir.is_dir() => {
                vec![Finding::Warning(format!("{} is absent: create it, or attach its drive", dir.display()))]
            }
            Some(dir) => incoming(dir, &tables.hosts).unwrap_or_else(|e| vec![e.into()]),
        },
    );
    let state = options::state_dir(options.state.as_deref(), "ingest").and_then(|dir| can_be_made(&dir));
    let dir = options::state_dir(options.state.as_deref(), "ingest").ok().filter(|dir| state.is_ok() && dir.is_dir());
    findings.add(
        "state",
        failure(state).into_iter().chain(dir.into_iter().flat_map(|dir| filesystem::examined(&dir, Use::State))),
    );
    if tables.hosts.is_empty() {
        findings.add("hosts", [fail("none may send: add [hosts.NAME] with its signers")]);
    }
    if options.store.is_none() && tables.command.is_empty() {
        findings.add("receivers", [fail("none: specify --store for ZFS streams, or a [[command]]")]);
    }
    for command in &tables.command {
        findings.add(&format!("[[command]] {}", command.target.display()), receiver::examine(command, &tables.hosts));
    }
    if options.store.is_some() {
        findings.add("store", store::examine(options));
    }
    // The store has a finding of its own.
    let of_keys = match Config::examine(&Options { store: None, ..options.clone() }, tables) {
        Ok(config) => warnings(Ok(config.signers.warnings())),
        Err(errors) => errors.into_iter().map(Finding::from).collect(),
    };
    findings.add("keys and certificates", of_keys);
    findings.exit()
}

/// Examines the directories from which files are removed, and those of hosts that are not configured.
fn incoming(dir: &Path, hosts: &BTreeMap<Host, HostTable>) -> Result<Vec<Finding>> {
    let root = Incoming::open(dir)?;
    let mut all: Vec<Finding> = access(&root).into_iter().collect();
    if all.is_empty() {
        all.extend(filesystem::examined(dir, Use::Incoming));
    }
    for name in root.names()? {
        let Some(host) = Host::of_directory(&name) else { continue };
        match (root.inside(&name), hosts.contains_key(&host)) {
            (Ok(dir), true) => all.extend(access(&dir).filter(|finding| !all.contains(finding))),
            (Err(e), true) => all.push(Finding::Failure(format!("{e}: correct its owner or mode"))),
            (Ok(dir), false) if !is_ignored(&root, &name) && may_hold_queue_files(&dir) => {
                all.push(Finding::Warning(format!(
                    "{host} is not configured, and its files are held: {}",
                    add(host.as_str(), hosts)
                )));
            }
            (_, false) => {}
        }
    }
    Ok(all)
}

/// Returns what is wrong with a directory whose files a run removes.
fn access(dir: &Incoming) -> Option<Finding> {
    let e = dir.writable().err()?;
    Some(match e.kind() {
        ErrorKind::ReadOnlyFilesystem => Finding::Note("is read-only: the files that are applied stay there".into()),
        _ => Finding::Failure(format!("{e}: correct its owner or mode")),
    })
}

/// Returns the heading of a host's table; of what is not the name of a host, as it would be if it were.
fn table(host: &str) -> String {
    host.parse().map_or_else(|_| format!("[hosts.{host}]"), |host: Host| host.table())
}

/// Returns the remedy for a host that is not configured.
fn add(host: &str, hosts: &BTreeMap<Host, HostTable>) -> String {
    match suggest::closest(host, hosts.keys().map(|host| host.as_str())) {
        Some(similar) => format!("add {}, or correct {} if that is meant", table(host), table(similar)),
        None => format!("add {} with its signers", table(host)),
    }
}
