//! `check`: reports what would stop a run before it does, with the remedies.

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{CheckOptions, Finding, Findings, can_be_made, failure, writable};
use zsnap_common::cli::{options, trusted};
use zsnap_common::durable::filesystem::{self, Use};
use zsnap_common::process::child;

use crate::beside;
use crate::cli::Options;
use crate::command;
use crate::config::{CommandTable, Config, Tables};

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
            Some(dir) => {
                let unwritable = failure(writable(dir));
                if unwritable.is_empty() { filesystem::examined(dir, Use::Incoming) } else { unwritable }
            }
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
        findings.add(&format!("[[command]] {}", command.target.display()), examine(command));
    }
    match Config::examine(options, tables) {
        Ok(config) => {
            findings.add("keys, certificates and programs", []);
            if let Some((store, zfs)) = &config.store {
                findings.add(
                    "store",
                    match zfs.datasets(store) {
                        Ok(Some(_)) => vec![],
                        Ok(None) => {
                            vec![Finding::Warning(format!("{store} is absent: import the pool, or zfs create {store}"))]
                        }
                        Err(e) => vec![e.into()],
                    },
                );
            }
        }
        Err(errors) => findings.add("keys, certificates and programs", errors.into_iter().map(Finding::from)),
    }
    findings.exit()
}

fn examine(command: &CommandTable) -> Vec<Finding> {
    let target = command::check_target(&command.target).map_err(|e| format!("target: {e}"));
    let mut failed: Vec<String> = target.err().into_iter().collect();
    if failed.is_empty() {
        failed.extend(beside::check(&command.target, false).err().map(|e| format!("target: {e}")));
        // Whoever can write to the target's parent directory can remove the journal; then streams would be applied
        // again.
        failed.extend(trusted::check_directory(&command.target).err().map(|e| format!("target: {e}")));
    }
    let program = command.run.first().map(|program| child::find(program.as_ref()));
    failed.extend(program.and_then(Result::err).map(|e| format!("run: {e:#}")));
    let mut nothing = std::process::Command::new("");
    let user = command.user.as_ref().map(|user| child::run_as(&mut nothing, user));
    failed.extend(user.and_then(Result::err).map(|e| format!("user: {e:#}")));
    failed.into_iter().map(Finding::Failure).collect()
}
