//! zsnap-expire: which snapshots stay and which go. The decisions (`policy`, `spacing`, `dated`,
//! `protect`, `brakes`, and `judge` of all of these) are pure; the binary, tests and benchmarks use them.

pub mod brakes;
pub mod calendar;
pub mod cli;
pub mod config;
pub mod dated;
pub mod destroy;
pub mod filter;
pub mod judge;
pub mod listing;
pub mod needed;
pub mod policy;
pub mod protect;
pub mod run;
pub mod snapshot;
pub mod spacing;
pub mod table;
pub mod timeline;

use std::time::{SystemTime, UNIX_EPOCH};

use zsnap_common::exit::{Exit, run_tool};
use zsnap_common::{log, options};

use crate::cli::{Cli, Verb};
use crate::config::{Config, Tables};

/// The binary's `main`.
pub fn main() -> std::process::ExitCode {
    run_tool("zsnap-expire", start)
}

fn start() -> anyhow::Result<Exit> {
    let (cli, tables): (Cli, Tables) = options::parse_if("expire", config::is_toml)?;
    let o = &cli.options;
    log::set_verbose(o.verbose || o.debug);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let config = Config::load(o, tables, i64::try_from(now).unwrap_or(i64::MAX))?;
    match cli.verb {
        Some(Verb::Check) => run::check(&config),
        None if o.filter => filter::filter(o, &config),
        None => run::run(&cli, &config),
    }
}
