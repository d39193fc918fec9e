//! The command line. Every option in [`Options`] is also a key of `/etc/zsnap/fanout.toml`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use zsnap_common::cli::options::{duration, size};
use zsnap_common::durable::dest::nice;

use crate::day::Since;
use crate::name::Given;

/// Distributes queue files from one spool to several drives, which may be away for weeks
///
/// Without a subcommand it distributes what lies in the spool, as `run` does.
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
pub struct Options {
    /// Configuration file; all that `zsnap-fanout --help` lists may stand in it [default: /etc/zsnap/fanout.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of queue files: below it one directory for each sending host
    #[arg(long, global = true, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// A drive, and how it is reached: dir:PATH, nncp-file:NODE[/SUB], nncp-exec:NODE:HANDLE or
    /// cmd:COMMAND; may be given several times. In the file also a table [to.NAME]
    #[arg(long, global = true, value_name = "NAME=DEST")]
    pub to: Vec<Given>,
    /// Keep delivered files for so long: requeue can send them again [default: not at all]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub keep: Option<Duration>,
    /// Room that stays free on the file system of a dir: drive
    #[arg(long, global = true, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub min_free: u64,
    /// Read back from the drive what was written to a dir: drive, and compare it
    #[arg(long, global = true)]
    pub verify: bool,
    /// Niceness of NNCP packets
    #[arg(long, global = true, value_name = "NICE", value_parser = nice)]
    pub nice: Option<String>,
    /// Configuration file of NNCP; a path from / on
    #[arg(long, global = true, value_name = "FILE")]
    pub nncp_config: Option<PathBuf>,
    /// The program nncp-file
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "nncp-file")]
    pub nncp_file_program: PathBuf,
    /// The program nncp-exec
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "nncp-exec")]
    pub nncp_exec_program: PathBuf,
    /// The program nncp-stat, which tells status what still lies in NNCP's spool
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "nncp-stat")]
    pub nncp_stat_program: PathBuf,
    /// Give up a drive that takes and writes nothing for TIME; the next run tries again; 0: never
    #[arg(long, global = true, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub delivery_timeout: Duration,
    /// What fewer drives than this have got is scarce: status counts it
    #[arg(long, global = true, value_name = "N", default_value_t = 2)]
    pub copies: u64,
    /// A running instance older than this is an error
    #[arg(long, global = true, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub max_run: Duration,
    /// Lock file in dotlockfile's format, held while files are taken from the spool [default: inside it]
    #[arg(long, global = true, value_name = "FILE")]
    pub dotlock: Option<PathBuf>,
    /// Machine-readable output of status: an array of objects
    #[arg(long, global = true)]
    pub json: bool,
    /// Tell on stderr what is done
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Distribute what lies in the spool (the default)
    Run,
    /// Mark the directory of a dir: drive as that drive
    ///
    /// Nothing is ever written to a directory without the mark, or with another drive's.
    Init {
        /// Name of the drive
        name: String,
        /// The directory may lie on the file system of the spool or of /: it is no drive that could be away
        #[arg(long)]
        same_filesystem: bool,
    },
    /// Tell for each drive what it got and what waits for it
    Status(StatusOptions),
    /// Send a drive once more what it got since a day, if --keep has kept it
    Requeue {
        /// Name of the drive
        name: String,
        /// The first day, by UTC: 2026-11-20; or 3d: three days ago
        #[arg(long, value_name = "TIME")]
        since: Since,
    },
    /// Put away what waits for a drive that is no longer in the configuration
    Retire {
        /// Name of the drive
        name: String,
    },
    /// Look for what would stop a run: configuration, spool, programs, drives
    Check,
}

/// Of `status`.
#[derive(Args, Debug)]
pub struct StatusOptions {
    /// Only these drives, and the spool
    #[arg(value_name = "NAME")]
    pub drives: Vec<String>,
    /// Text for Prometheus
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Exit 1 if a file waits, or a drive has got nothing, for longer than TIME
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_age: Option<Duration>,
    /// Print only if the exit status is not 0
    #[arg(long)]
    pub quiet: bool,
}
