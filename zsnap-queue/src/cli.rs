//! The command line of zsnap-queue. Every long option but those of subcommands may stand in
//! /etc/zsnap/queue.toml as well; what must go together is checked in `job.rs`, because a
//! subcommand needs less than the bare command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use zsnap_common::cli::options;
use zsnap_common::durable::dest::{Dest, nice};
use zsnap_common::names::target::Host;
use zsnap_message::keys::Format;

/// Turn one stream into one queue file: checked, compressed, signed, encrypted, and delivered
#[derive(Debug, Parser)]
#[command(
    name = "zsnap-queue",
    version,
    override_usage = "zsnap-queue [OPTIONS] HOST/DATASET < STREAM\n       \
                      zsnap-queue [OPTIONS] --opaque HOST/DATASET [-- PRODUCER...]\n       \
                      zsnap-queue [OPTIONS] flush | status | keygen | adopt | check",
    after_help = "Exit status 0: the stream is whole and safe on this disk or further. See zsnap-queue(8)."
)]
pub struct Cli {
    /// Whose stream it is: HOST/DATASET, or with --strip PREFIX/HOST/DATASET
    #[arg(value_name = "HOST/DATASET")]
    pub target: Option<OsString>,
    /// The command whose standard output is queued, with --opaque
    #[arg(last = true, value_name = "PRODUCER")]
    pub producer: Vec<OsString>,
    #[command(subcommand)]
    pub command: Option<Command>,
    // Last: its heading would go on.
    #[command(flatten)]
    pub options: Options,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command, or keys in queue.toml")]
pub struct Options {
    /// Prefix of the operand that is not part of HOST/DATASET: the store that simplesnap names
    #[arg(long, global = true, value_name = "PREFIX")]
    pub strip: Option<String>,
    /// Encrypt to the certificates in FILE; may repeat
    #[arg(long, global = true, value_name = "FILE")]
    pub recipient_file: Vec<PathBuf>,
    /// Sign with the secret key in FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub signer_file: Option<PathBuf>,
    /// Do not sign: whoever has the certificates can make such files
    #[arg(long, global = true)]
    pub unsigned: bool,
    /// Where the file goes: dir:PATH, nncp-file:NODE[/SUB], nncp-exec:NODE:HANDLE, cmd:COMMAND, or - alone; may repeat
    #[arg(long, global = true, value_name = "DEST")]
    pub to: Vec<Dest>,
    /// OpenPGP flavour: gpg for every GnuPG, aead for Sequoia (4 times faster, no GnuPG reads it)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "gpg",
        value_name = "gpg|aead",
        hide_possible_values = true
    )]
    pub format: Format,
    /// zstd level; streams that are raw or compressed get 1
    #[arg(long, global = true, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Compression threads; 0: as many as cores and --memory allow
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: u32,
    /// Memory for compression
    #[arg(long, global = true, default_value = "256MiB", value_name = "SIZE", value_parser = options::size)]
    pub memory: u64,
    /// The stream is not from zfs send: carry any bytes
    #[arg(long, global = true)]
    pub opaque: bool,
    /// With --opaque: the stream is complete in itself
    #[arg(long, global = true)]
    pub full: bool,
    /// With --opaque: the stream builds on the one queued before
    #[arg(long, global = true)]
    pub increment: bool,
    /// With --increment: receiving it twice does no harm, or the receiver notices
    #[arg(long, global = true)]
    pub overlap: bool,
    /// The producer's own state; it gets a copy as {state}, which replaces FILE when the stream is safe
    #[arg(long, global = true, value_name = "FILE")]
    pub producer_state: Option<PathBuf>,
    /// Exit statuses of the producer that mean success
    #[arg(long, global = true, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    pub producer_ok: Vec<i32>,
    /// Hide the dataset's name in the file's name
    #[arg(long, global = true)]
    pub opaque_names: bool,
    /// Run transports as USER
    #[arg(long, global = true, value_name = "USER")]
    pub user: Option<String>,
    /// Niceness of NNCP packets
    #[arg(long, global = true, value_name = "NICE", value_parser = nice)]
    pub nice: Option<String>,
    /// Configuration file of NNCP; a path from / on
    #[arg(long, global = true, value_name = "FILE", value_parser = options::absolute)]
    pub nncp_config: Option<PathBuf>,
    /// The program nncp-file
    #[arg(long, global = true, default_value = "nncp-file", value_name = "PROGRAM")]
    pub nncp_file_program: PathBuf,
    /// The program nncp-exec
    #[arg(long, global = true, default_value = "nncp-exec", value_name = "PROGRAM")]
    pub nncp_exec_program: PathBuf,
    /// Give up a delivery that takes and writes nothing for TIME, and leave it to flush; 0: never
    #[arg(long, global = true, value_name = "TIME", default_value = "1h", value_parser = options::duration)]
    pub delivery_timeout: Duration,
    /// Where the state and the outbox are [default: /var/lib/zsnap/queue]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Configuration file [default: /etc/zsnap/queue.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Machine-readable output: one JSON object for the queued file, an array for status
    #[arg(long, global = true)]
    pub json: bool,
    /// Say on standard error what is done
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deliver what destinations did not take yet
    Flush,
    /// Tell what was queued when, and what waits
    Status(StatusOptions),
    /// Make a signing key: BASE.key and BASE.cert
    Keygen(KeygenOptions),
    /// Accept the next increment of a dataset whatever it builds on
    Adopt {
        /// Datasets that the receiver has by other means
        #[arg(value_name = "HOST/DATASET", required = true)]
        targets: Vec<OsString>,
    },
    /// Examine configuration, keys, permissions, programs and destinations
    Check,
}

#[derive(Args, Debug)]
pub struct StatusOptions {
    /// Only these
    #[arg(value_name = "HOST/DATASET")]
    pub targets: Vec<OsString>,
    /// Text for Prometheus
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Exit 1 if a dataset was not queued, or a file not delivered, for longer than TIME
    #[arg(long, value_name = "TIME", value_parser = options::duration)]
    pub max_age: Option<Duration>,
    /// Print only if the exit status is not 0
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct KeygenOptions {
    /// The host that will sign with it
    #[arg(long, value_name = "NAME")]
    pub host: Host,
    /// Path of the files without .key and .cert
    #[arg(long, value_name = "BASE")]
    pub out: PathBuf,
    /// Advertise AEAD
    #[arg(long)]
    pub aead: bool,
}
