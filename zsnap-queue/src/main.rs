//! zsnap-queue: turns one stream into one queue file.

mod aboard;
mod admit;
mod check;
mod cli;
mod delivery;
mod destination;
mod flush;
mod host;
mod init;
mod job;
mod pipeline;
mod producer;
mod recover;
mod redirect;
mod run;
mod saved;
mod state;
mod status;
mod summary;

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use cli::{Cli, Command, KeygenOptions};
use serde::Deserialize;
use zsnap_common::cli::cancel::{self, Cancelled};
use zsnap_common::cli::exit::{Exit, OrExit, Undone, run_tool};
use zsnap_common::cli::log;
use zsnap_common::cli::options::{self, ConfigFile};
use zsnap_common::durable::dest::worker;
use zsnap_common::durable::success;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Host;
use zsnap_message::keys::{self, Purpose};

/// queue.toml has no tables.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {}

impl options::Tables for Tables {}

fn main() -> ExitCode {
    run_tool("zsnap-queue", run)
}

fn run() -> anyhow::Result<Exit> {
    if let Some((path, outbox)) = worker::asked() {
        return worker::serve(&path, &outbox);
    }
    let (cli, Tables {}): (Cli, Tables) = ConfigFile::of("queue").parse()?;
    log::set_verbose(cli.options.verbose);
    let Some(command) = &cli.command else { return queue(&cli) };
    if cli.target.is_some() || !cli.producer.is_empty() {
        return Err(Exit::Usage.error("a subcommand takes no stream: leave out what stands before it or behind --"));
    }
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match command {
        Command::Flush => flush::flush(&cli.options),
        Command::Init { path, same_filesystem } => init::init(&cli.options, path, *same_filesystem),
        Command::Redirect { old, new } => redirect::redirect(&cli.options, old, new),
        Command::Drop { old } => redirect::discard(&cli.options, old),
        Command::Status(status) => status::status(&cli.options, status, seconds),
        Command::Adopt { targets } => flush::adopt(&cli.options, targets, seconds),
        Command::Check(asked) => check::check(&cli.options, *asked, now),
        Command::Keygen(new) => keygen(new, &cli.options.host),
    }
}

/// Makes a signing key, and prints what comes next.
fn keygen(new: &KeygenOptions, hosts: &[Host]) -> anyhow::Result<Exit> {
    let [host] = hosts else {
        return Err(Exit::Usage.error("specify one --host NAME: the host that signs with the key"));
    };
    let fingerprint = keys::keygen(&new.out, Purpose::Sign(host), new.aead)?;
    writeln!(std::io::stdout(), "{fingerprint}").or_exit(Exit::Io, "standard output")?;
    let base = std::path::absolute(&new.out).or_exit(Exit::Io, new.out.display())?;
    let (key, cert) = keys::files(&base);
    log::outcome(format_args!("{}: secret key, for signing-key in queue.toml", key.display()));
    log::outcome(format_args!("{}: certificate, for signers of {}", cert.display(), host.table()));
    log::outcome(format_args!("next: scp {} BACKUPSERVER:/etc/zsnap/", quoted(&cert)));
    Ok(Exit::Done)
}

/// Queues a stream, and records that this succeeded.
fn queue(cli: &Cli) -> anyhow::Result<Exit> {
    let exit = run::queue(cli).map_err(|e| match cancel::pending() {
        // Ctrl-C ends the program at the other end of the pipe, too, so that the stream looks truncated.
        Some(signal) if [Exit::Data, Exit::Unavailable].contains(&Exit::of(&e)) => {
            log::info(format_args!("{e:#}"));
            Undone::after(Cancelled(signal).into(), "nothing queued")
        }
        _ => Undone::after(e, "nothing queued"),
    })?;
    success::note(&options::state_dir(cli.options.state.as_deref(), "queue")?, exit, false);
    Ok(exit)
}
