//! The command line of zsnap-queue. Every option in [`Options`] is also a key of `/etc/zsnap/queue.toml`, except those
//! that concern one run ([`ONE_RUN`]). `job.rs` checks which options are required or exclude each other, because
//! subcommands require fewer options than the bare command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use zsnap_common::cli::findings::CheckOptions;
use zsnap_common::cli::options::{ADVANCED, ONE_RUN};
use zsnap_common::cli::status;
use zsnap_common::cli::units;
use zsnap_common::durable::dest::{Dest, max_file, nice};
use zsnap_common::names::target::Host;
use zsnap_message::keys::Format;

/// Turn one stream into one queue file: checked, compressed, signed, encrypted, and delivered
#[derive(Debug, Parser)]
#[command(
    name = "zsnap-queue",
    version,
    override_usage = "zsnap-queue [OPTIONS] HOST/DATASET < STREAM\n       \
                      zsnap-queue [OPTIONS] --opaque HOST/DATASET [-- PRODUCER...]\n       \
                      zsnap-queue [OPTIONS] init|flush|status|redirect|drop|keygen|adopt|check",
    after_help = "Exit status 0: the stream is whole and safe on this disk or further. See zsnap-queue(8)."
)]
pub struct Cli {
    /// Name of the stream: HOST/DATASET, or PREFIX/HOST/DATASET with --strip
    #[arg(value_name = "HOST/DATASET")]
    pub target: Option<OsString>,
    /// The command whose standard output is queued, with --opaque
    #[arg(last = true, value_name = "PRODUCER")]
    pub producer: Vec<OsString>,
    #[command(subcommand)]
    pub command: Option<Command>,
    // Must be the last field: its help heading would apply to all fields after it.
    #[command(flatten)]
    pub options: Options,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command, or keys in queue.toml")]
pub struct Options {
    /// Remove PREFIX, the store that simplesnap adds, from the operand
    #[arg(long, global = true, value_name = "PREFIX")]
    pub strip: Option<String>,
    /// Host whose streams are queued [default: the host of the signing key]; may be repeated
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Vec<Host>,
    /// Encrypt to the certificates in FILE; may be repeated
    #[arg(long, global = true, value_name = "FILE", alias = "recipient-file")]
    pub encrypt_to: Vec<PathBuf>,
    /// Sign with the secret key in FILE
    #[arg(long, global = true, value_name = "FILE", alias = "signer-file")]
    pub signing_key: Option<PathBuf>,
    /// Do not sign: anyone who has the certificates can create such files
    #[arg(long, global = true, conflicts_with = "signing_key")]
    pub unsigned: bool,
    /// Destination of the file: dir:PATH, nncp-file:NODE[/SUB], nncp-exec:NODE:HANDLE, cmd:COMMAND, or - alone; may be repeated
    #[arg(long, global = true, value_name = "DEST")]
    pub to: Vec<Dest>,
    /// Deliver files larger than SIZE to a dir: destination in parts of at most SIZE (FAT: 4GiB); cat joins them
    #[arg(long, global = true, value_name = "SIZE", value_parser = max_file)]
    pub max_file: Option<u64>,
    /// Seal on the drive of the only destination, dir:PATH, in DIR there: no copy needs space in the state
    #[arg(long, global = true, value_name = "DIR")]
    pub outbox: Option<PathBuf>,
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
    /// Accept a stream of any bytes, not only of zfs send
    #[arg(long, global = true)]
    pub opaque: bool,
    /// State file of the producer, which gets a copy as {state}; the copy replaces FILE when the stream is safe
    #[arg(long, global = true, value_name = "FILE")]
    pub producer_state: Option<PathBuf>,
    /// Hide the dataset's name in the file's name
    #[arg(long, global = true)]
    pub opaque_names: bool,
    /// Run transports as USER
    #[arg(long, global = true, value_name = "USER")]
    pub user: Option<String>,
    /// Configuration file [default: /etc/zsnap/queue.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// With --opaque: the stream is complete in itself
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub full: bool,
    /// With --opaque: the stream builds on the one queued before
    #[arg(long, global = true, conflicts_with = "full", help_heading = ONE_RUN)]
    pub increment: bool,
    /// With --increment: the stream may be received twice without harm
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub overlap: bool,
    /// Machine-readable output: one JSON object for the queued file, an array for status
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub json: bool,
    /// Report each action on standard error
    #[arg(short, long, global = true, help_heading = ONE_RUN)]
    pub verbose: bool,
    /// zstd level; raw and compressed streams use level 1
    #[arg(long, global = true, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19), help_heading = ADVANCED)]
    pub level: i32,
    /// Compression threads; 0: as many as the cores and --memory allow
    #[arg(long, global = true, default_value_t = 0, value_name = "N", help_heading = ADVANCED)]
    pub threads: u32,
    /// Memory for compression
    #[arg(long, global = true, default_value = "256MiB", value_name = "SIZE", value_parser = units::size, help_heading = ADVANCED)]
    pub memory: u64,
    /// Exit statuses of the producer that count as success
    #[arg(long, global = true, value_name = "LIST", value_delimiter = ',', default_value = "0", help_heading = ADVANCED)]
    pub producer_ok: Vec<i32>,
    /// Niceness of NNCP packets
    #[arg(long, global = true, value_name = "NICE", value_parser = nice, help_heading = ADVANCED)]
    pub nice: Option<String>,
    /// Configuration file of NNCP
    #[arg(long, global = true, value_name = "FILE", value_parser = units::absolute, help_heading = ADVANCED)]
    pub nncp_config: Option<PathBuf>,
    /// The program nncp-file
    #[arg(long, global = true, default_value = "nncp-file", value_name = "PROGRAM", value_hint = ValueHint::CommandName, help_heading = ADVANCED)]
    pub nncp_file_program: PathBuf,
    /// The program nncp-exec
    #[arg(long, global = true, default_value = "nncp-exec", value_name = "PROGRAM", value_hint = ValueHint::CommandName, help_heading = ADVANCED)]
    pub nncp_exec_program: PathBuf,
    /// Stop a delivery that reads and writes nothing for TIME, and leave it to flush; 0: never
    #[arg(long, global = true, value_name = "TIME", default_value = "1h", value_parser = units::duration, help_heading = ADVANCED)]
    pub delivery_timeout: Duration,
    /// Directory of the state and the outbox [default: /var/lib/zsnap/queue]
    #[arg(long, global = true, value_name = "DIR", help_heading = ADVANCED)]
    pub state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mark the drive of a dir: destination: nothing is delivered to a drive without a mark
    Init {
        /// The directory, as in dir:PATH
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Allow a directory on the file system of the state or of /
        #[arg(long)]
        same_filesystem: bool,
    },
    /// Deliver waiting files
    Flush,
    /// Move the files that wait for a destination that is no longer configured to one that is
    Redirect {
        /// The destination that is not configured, as status shows it
        old: String,
        /// A configured destination
        new: Dest,
    },
    /// Remove the files that wait for a destination that is no longer configured
    Drop {
        /// The destination that is not configured, as status shows it
        old: String,
    },
    /// Report when each dataset was last queued, and which files wait
    Status(StatusOptions),
    /// Create a signing key of --host NAME: BASE.key and BASE.cert
    Keygen(KeygenOptions),
    /// Accept the next incremental of a dataset whatever its base
    Adopt {
        /// Datasets that the receiver has got in another way
        #[arg(value_name = "HOST/DATASET", required = true)]
        targets: Vec<OsString>,
    },
    /// Check configuration, keys, permissions, programs and destinations
    Check(CheckOptions),
}

#[derive(Args, Debug)]
pub struct StatusOptions {
    /// Only these hosts or datasets
    #[arg(value_name = "HOST/DATASET")]
    pub targets: Vec<OsString>,
    #[command(flatten)]
    pub common: status::ReportOptions,
}

#[derive(Args, Debug)]
pub struct KeygenOptions {
    /// Path of the files without .key and .cert
    #[arg(long, value_name = "BASE")]
    pub out: PathBuf,
    /// Advertise AEAD
    #[arg(long)]
    pub aead: bool,
}
