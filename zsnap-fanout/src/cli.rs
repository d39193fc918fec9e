//! The command line. Every option in [`Options`] is also a key of `/etc/zsnap/fanout.toml`, except those that concern
//! one run ([`ONE_RUN`]).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use zsnap_common::cli::findings::CheckOptions;
use zsnap_common::cli::options::{ADVANCED, ONE_RUN};
use zsnap_common::cli::status;
use zsnap_common::cli::units::{absolute, duration, size};
use zsnap_common::durable::dest::{max_file, nice};

use crate::day::Since;
use crate::name::Given;

/// Distribute queue files from a spool to several destinations, such as drives that may be absent for weeks
///
/// Without a subcommand it distributes the files of the spool, as `run` does.
#[derive(Debug, Parser)]
#[command(name = "zsnap-fanout", version, max_term_width = 100, after_help = "The manual is zsnap-fanout(8).")]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The options, valid before and after a subcommand.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command, or keys in fanout.toml")]
pub struct Options {
    /// Configuration file [default: /etc/zsnap/fanout.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of queue files, with one directory for each sending host
    #[arg(long, global = true, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Name and address of a destination: dir:PATH, nncp-file:NODE[/SUB], nncp-exec:NODE:HANDLE or
    /// cmd:COMMAND; may be repeated. In the file also as a table [to.NAME]
    #[arg(long, global = true, value_name = "NAME=DEST")]
    pub to: Vec<Given>,
    /// Keep delivered files for TIME, so that requeue can deliver them again [default: not at all]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub keep: Option<Duration>,
    /// Leave SIZE free on the file system of a dir: destination
    #[arg(long, global = true, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub min_free: u64,
    /// Read back and compare what was written to a dir: destination
    #[arg(long, global = true)]
    pub verify: bool,
    /// Deliver files larger than SIZE to a dir: destination in parts of at most SIZE (FAT: 4GiB); cat joins them
    #[arg(long, global = true, value_name = "SIZE", value_parser = max_file)]
    pub max_file: Option<u64>,
    /// Print status as a JSON array of objects
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub json: bool,
    /// Report each action on standard error
    #[arg(long, short, global = true, help_heading = ONE_RUN)]
    pub verbose: bool,
    /// Niceness of NNCP packets
    #[arg(long, global = true, value_name = "NICE", value_parser = nice, help_heading = ADVANCED)]
    pub nice: Option<String>,
    /// Configuration file of NNCP
    #[arg(long, global = true, value_name = "FILE", value_parser = absolute, help_heading = ADVANCED)]
    pub nncp_config: Option<PathBuf>,
    /// The program nncp-file
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "nncp-file", help_heading = ADVANCED)]
    pub nncp_file_program: PathBuf,
    /// The program nncp-exec
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "nncp-exec", help_heading = ADVANCED)]
    pub nncp_exec_program: PathBuf,
    /// The program nncp-stat, which shows what is still in the spool of NNCP
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "nncp-stat", help_heading = ADVANCED)]
    pub nncp_stat_program: PathBuf,
    /// Stop a delivery that reads and writes nothing for TIME; the next run tries again; 0: never
    #[arg(long, global = true, value_name = "TIME", default_value = "1h", value_parser = duration, help_heading = ADVANCED)]
    pub delivery_timeout: Duration,
    /// Files on fewer than N destinations are scarce; status counts them
    #[arg(long, global = true, value_name = "N", default_value_t = 2, help_heading = ADVANCED)]
    pub copies: u64,
    /// Report a running instance that is older than TIME as an error
    #[arg(long, global = true, value_name = "TIME", default_value = "24h", value_parser = duration, help_heading = ADVANCED)]
    pub max_run: Duration,
    /// Lock file in the format of dotlockfile, held while files are taken from the spool [default: inside it]
    #[arg(long, global = true, value_name = "FILE", help_heading = ADVANCED)]
    pub dotlock: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Distribute the files of the spool (the default)
    Run,
    /// Mark the directory of a dir: destination
    ///
    /// zsnap-fanout never writes to a directory without the mark, or with the mark of another destination.
    Init {
        /// Name of the destination
        name: String,
        /// Allow a directory on the file system of the spool or of /
        #[arg(long)]
        same_filesystem: bool,
    },
    /// Report for each destination what was delivered and what waits
    Status(StatusOptions),
    /// Deliver again what a destination got since a day and --keep has kept
    Requeue {
        /// Name of the destination
        name: String,
        /// The first day, by UTC: 2026-11-20; or 3d: three days ago
        #[arg(long, value_name = "TIME")]
        since: Since,
    },
    /// Set aside the files that wait for a destination that is no longer configured
    Retire {
        /// Name of the destination
        name: String,
    },
    /// Check configuration, spool, programs and destinations
    Check(CheckOptions),
}

/// Of `status`.
#[derive(Args, Debug)]
pub struct StatusOptions {
    /// Only these destinations, and the spool
    #[arg(value_name = "NAME")]
    pub drives: Vec<String>,
    #[command(flatten)]
    pub common: status::ReportOptions,
}
