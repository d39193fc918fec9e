//! `check`: reports what would stop a run before it does, with the remedies.

use std::io::{self, Write};

use anyhow::Result;
use zsnap_common::cli::escape::escape;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::trusted;

use crate::beside;
use crate::cli::Options;
use crate::command;
use crate::config::{Config, Tables};

/// Prints a line for each finding. Returns 78 if one is a problem.
pub fn check(options: &Options, tables: Tables) -> Result<Exit> {
    let config = Config::load(options, tables)?;
    let mut problems = Vec::new();
    match &config.incoming {
        None => problems.push("no incoming directory: specify --incoming".to_owned()),
        Some(dir) if !dir.is_dir() => problems.push(format!("{} is absent (a drive that is away?)", dir.display())),
        Some(_) => {}
    }
    if let Some((store, zfs)) = &config.store {
        if zfs.datasets(store)?.is_none() {
            problems.push(format!("{store} is absent: import the pool, or zfs create {store}"));
        }
    } else if config.commands.is_empty() {
        problems.push("nothing receives: specify --store for ZFS streams, or a [[command]]".to_owned());
    }
    if config.hosts.is_empty() {
        problems.push("no host may send: add [hosts.NAME] with its signers".to_owned());
    }
    for command in &config.commands {
        let target = command.target.display();
        if let Err(e) = command::check_target(&command.target) {
            problems.push(format!("[[command]] target: {e}"));
        } else {
            if let Err(e) = beside::check(&command.target, false) {
                problems.push(format!("[[command]] target {target}: {e}"));
            }
            // Whoever can write to the target's parent directory can remove the journal; then streams would be applied
            // again.
            if let Err(e) = trusted::check_directory(&command.target) {
                problems.push(format!("[[command]] target {target}: {e}"));
            }
        }
        if let Some(Err(e)) = command.run.first().map(|program| zsnap_common::process::child::find(program.as_ref())) {
            problems.push(format!("[[command]] run: {e:#}"));
        }
        let mut nothing = std::process::Command::new("");
        if let Some(Err(e)) = command.user.as_ref().map(|user| zsnap_common::process::child::run_as(&mut nothing, user))
        {
            problems.push(format!("[[command]] user: {e:#}"));
        }
    }
    let mut out = io::stdout().lock();
    let mut print = || -> io::Result<()> {
        for problem in &problems {
            writeln!(out, "problem: {}", escape(problem))?;
        }
        if problems.is_empty() {
            writeln!(out, "all is well: keys, certificates, directories and programs")?;
        }
        out.flush()
    };
    print().or_exit(Exit::Io, "stdout")?;
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Config })
}
