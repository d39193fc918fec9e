//! zsnap-queue: turns one stream into one queue file.

mod aboard;
mod admit;
mod check;
mod cli;
mod delivery;
mod destination;
mod flush;
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

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use cli::{Cli, Command};
use serde::Deserialize;
use zsnap_common::cli::exit::{Exit, OrExit, run_tool};
use zsnap_common::cli::log;
use zsnap_common::cli::options::{self, ConfigFile};
use zsnap_common::durable::dest::worker;
use zsnap_common::durable::success;
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
        Command::Keygen(new) => {
            let fingerprint = keys::keygen(&new.out, Purpose::Sign(&new.host), new.aead)?;
            writeln!(std::io::stdout(), "{fingerprint}").or_exit(Exit::Io, "standard output")?;
            log::outcome(format_args!(
                "{0}.key is the secret key, to be named by signing-key here; copy {0}.cert to the backup server, and \
                 list it there as signers of [hosts.{1}]",
                new.out.display(),
                new.host
            ));
            Ok(Exit::Done)
        }
    }
}

/// Queues a stream, and records that this succeeded.
fn queue(cli: &Cli) -> anyhow::Result<Exit> {
    let exit = run::queue(cli)?;
    success::note(&options::state_dir(cli.options.state.as_deref(), "queue")?, exit, false);
    Ok(exit)
}
