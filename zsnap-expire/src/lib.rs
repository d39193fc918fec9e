//! zsnap-expire: decides which snapshots stay and destroys the others. The decisions (`rules`, `policy`,
//! `backdated`, `protect`, `brakes`, combined in `judge`) are pure. The binary, tests and benchmarks use them.

pub mod backdated;
pub mod brakes;
pub mod calendar;
pub mod check;
pub mod cli;
pub mod config;
pub mod decided;
pub mod destroy;
pub mod filter;
pub mod judge;
pub mod listing;
pub mod needed;
pub mod notices;
pub mod policy;
pub mod protect;
pub mod reason;
pub mod rules;
pub mod run;
pub mod snapshot;
pub mod table;
pub mod timeline;
pub mod zrep;

use std::time::{SystemTime, UNIX_EPOCH};

use zsnap_common::cli::exit::{Exit, run_tool};
use zsnap_common::cli::log;
use zsnap_common::cli::options::ConfigFile;

use crate::cli::{Cli, Verb};
use crate::config::{Config, Tables};

/// Runs the tool: the `main` of the binary.
pub fn main() -> std::process::ExitCode {
    run_tool("zsnap-expire", start)
}

/// Returns the kind of a value of `--keep`: 1 for a number, 0 for a rule. A value on the command line replaces
/// only those of its kind in the file, so `-k 3` does not replace the rules.
fn kind(value: &str) -> u8 {
    u8::from(value.parse::<u64>().is_ok())
}

fn start() -> anyhow::Result<Exit> {
    let file = ConfigFile { refuse_one_run: true, is_toml: config::is_toml, kind, ..ConfigFile::of("expire") };
    let (cli, tables): (Cli, Tables) = file.parse()?;
    let o = &cli.options;
    if !o.filter && (o.invert || o.null || o.group.is_some()) {
        return Err(Exit::Usage.error("--invert, --null and --group are for --filter: nothing was destroyed"));
    }
    if o.filter && !cli.datasets.is_empty() {
        return Err(Exit::Usage.error("--filter takes names from standard input, not from the command line"));
    }
    log::set_verbose(o.verbose || o.debug);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if let Some(Verb::Check(asked)) = &cli.verb {
        return check::check(o, *asked, tables, now);
    }
    let config = Config::load(o, tables, now)?;
    if o.filter { filter::filter(o, &config) } else { run::run(&cli, &config) }
}
