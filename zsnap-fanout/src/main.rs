//! zsnap-fanout: distributes the files of a spool to several destinations.

mod check;
mod cli;
mod day;
mod drive;
mod init;
mod kept;
mod name;
mod nncp;
mod run;
mod scarce;
mod seen;
mod since;
mod split;
mod spool;
mod status;

use std::process::ExitCode;
use std::time::SystemTime;

use cli::{Cli, Verb};
use drive::{Drive, Tables};
use zsnap_common::cli::exit::{Exit, Undone, run_tool};
use zsnap_common::cli::log;
use zsnap_common::cli::open_files;
use zsnap_common::cli::options::ConfigFile;
use zsnap_common::durable::dest::{self, worker};

use crate::run::seconds;
use crate::spool::Spool;

fn main() -> ExitCode {
    run_tool("zsnap-fanout", start)
}

fn start() -> anyhow::Result<Exit> {
    if let Some((path, outbox)) = worker::asked() {
        return worker::serve(&path, &outbox);
    }
    let (cli, tables): (Cli, Tables) = ConfigFile::of("fanout").parse()?;
    log::set_verbose(cli.options.verbose);
    let options = cli.options;
    let now = SystemTime::now();
    let verb = cli.verb.unwrap_or(Verb::Run);
    if let Verb::Check(asked) = verb {
        return check::check(&options, asked, tables);
    }
    let drives = drive::configured(&options, tables)?;
    if let Verb::Retire { name } = verb {
        if find(&drives, &name).is_ok() {
            return Err(Exit::Config.error(format!("{name} is in the configuration: remove it there first")));
        }
        return kept::retire(&Spool::open(options.spool.as_deref())?, &name);
    }
    if drives.is_empty() {
        return Err(Exit::Config.error("no drive is configured: specify --to NAME=DEST, or a table [to.NAME]"));
    }
    match verb {
        Verb::Init { name, same_filesystem } => {
            let (spool, drive) = (Spool::open(options.spool.as_deref())?, find(&drives, &name)?);
            let outbox = spool.outboxes().dir(&drive.name);
            let look = dest::look(&drive.dest, &drive.transport, &outbox, run::PATIENCE)?;
            spool.is_apart(look.real())?;
            init::init(&spool, drive, same_filesystem)
        }
        Verb::Status(asked) => status::status(&options, &drives, &asked, seconds(now)),
        Verb::Requeue { name, since } => {
            kept::requeue(&Spool::open(options.spool.as_deref())?, find(&drives, &name)?, since, seconds(now))
        }
        Verb::Run | Verb::Retire { .. } | Verb::Check(_) => {
            open_files::raise_limit();
            run::run(&options, &drives, now)
                .map_err(|e| Undone::after(e, "the next run goes on with what was not delivered"))
        }
    }
}

fn find<'a>(drives: &'a [Drive], name: &str) -> anyhow::Result<&'a Drive> {
    let names = || drives.iter().map(|drive| drive.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = drives.iter().find(|drive| drive.name == name);
    found.ok_or_else(|| Exit::Usage.error(format!("no drive is called {name}; there are {}", names())))
}
