//! zsnap-ingest: lock, list, check the sender, authenticate, order, receive. It is a library only for tests and
//! benchmarks, which use the pure parts.

mod apply;
mod beside;
mod chain;
mod check;
mod cli;
mod command;
mod config;
mod examine;
mod exec;
mod host;
mod inbox;
mod inspect;
mod joined;
mod journal;
mod known;
mod leftovers;
mod memory;
mod needed;
mod opened;
pub mod plan;
mod pool;
mod preview;
mod property;
mod quarantine;
mod receive;
mod run;
mod seen;
mod shared;
mod status;
mod store;

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit, Undone};
use zsnap_common::cli::log;
use zsnap_common::cli::open_files;
use zsnap_common::cli::options::{self, ConfigFile};
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::names::shell::quoted;
use zsnap_message::keys::{self, Purpose};

use cli::{Cli, Options, Verb};
use config::{Config, Tables};

/// Runs the program: parses the command line, runs, and returns the exit status.
pub fn main() -> ExitCode {
    zsnap_common::cli::exit::run_tool("zsnap-ingest", start)
}

fn start() -> Result<Exit> {
    let (cli, tables): (Cli, Tables) = ConfigFile::of("ingest").parse()?;
    log::set_verbose(cli.options.verbose);
    open_files::raise_limit();
    let options = cli.options;
    match cli.verb.unwrap_or(Verb::Run) {
        Verb::Run => {
            if options.incoming.is_none() && options.store.is_none() {
                return Err(Exit::Usage.error("specify --incoming and --store, or write them into the configuration"));
            }
            let config = Config::load(&options, tables)?;
            run::locked(&config, &options, None)
                .map_err(|e| Undone::after(e, "the next run goes on with what was not applied"))
        }
        Verb::Exec { target } => {
            let config = Config::load(&options, tables)?;
            exec::exec(&config, &options, target, std::env::var_os("NNCP_SENDER"))
        }
        Verb::Verify { file } => inspect::inspect(&options, tables, &file, false),
        Verb::Cat { file } => inspect::inspect(&options, tables, &file, true),
        Verb::Status(asked) => {
            let config = Config::load(&options, tables)?;
            status::status(&config, &asked, options.json, SystemTime::now())
        }
        Verb::Plan { hosts } => {
            let config = Config::load(&options, tables)?;
            preview::preview(&config, &hosts, options.json, SystemTime::now())
        }
        Verb::Retry { all, what } => retry(&options, all, &what),
        Verb::Forget { applied, not_applied, target } => {
            let config = Config::load(&options, tables)?;
            run::forget(&config, &options, &target, applied, not_applied)
        }
        Verb::Keygen { out, aead } => {
            let fingerprint = keys::keygen(&out, Purpose::Encrypt, aead)?;
            writeln!(std::io::stdout().lock(), "{fingerprint}").or_exit(Exit::Io, "stdout")?;
            let base = std::path::absolute(&out).or_exit(Exit::Io, out.display())?;
            let (key, cert) = keys::files(&base);
            log::outcome(format_args!("{}: secret key, for decryption-key here", key.display()));
            log::outcome("without it, no backup can be read: keep a copy of it in a safe");
            log::outcome(format_args!("{}: certificate, for encrypt-to in queue.toml", cert.display()));
            log::outcome(format_args!("next: scp {} MACHINE:/etc/zsnap/", quoted(&cert)));
            Ok(Exit::Done)
        }
        Verb::Check(asked) => check::check(&options, asked, tables),
    }
}

fn retry(options: &Options, all: bool, what: &[String]) -> Result<Exit> {
    let state = options::state_dir(options.state.as_deref(), "ingest")?;
    let Some(incoming) = &options.incoming else {
        return Err(Exit::Usage.error("specify --incoming, or write it into the configuration"));
    };
    let _lock = run::take_lock(&state, options)?;
    let (mut moved, mut exit) = (0, Exit::Done);
    for root in [incoming.clone(), state.join("exec")].into_iter().filter(|root| root.is_dir()) {
        let root = Incoming::open(&root).or_exit(Exit::Io, root.display());
        match root.and_then(|root| quarantine::retry(&root, all, what)) {
            Ok(count) => moved += count,
            Err(e) => {
                log::error(format_args!("{e:#}"));
                exit = exit.max(Exit::of(&e));
            }
        }
    }
    match known::retry(&state, all, what) {
        Ok(count) => moved += count,
        Err(e) => {
            log::error(format_args!("{e:#}"));
            exit = exit.max(Exit::of(&e));
        }
    }
    if exit != Exit::Done {
        return Ok(exit);
    }
    if moved == 0 && !all {
        return Err(Exit::Data.error(format!("nothing in quarantine is called {}", what.join(" or "))));
    }
    log::outcome(format_args!("{moved} files were put back; the next run examines them again"));
    Ok(Exit::Done)
}
