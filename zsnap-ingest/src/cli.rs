//! The command line. Every option in [`Options`] is also a key of `/etc/zsnap/ingest.toml`, except those that concern
//! one run ([`ONE_RUN`]).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use zsnap_common::cli::findings::CheckOptions;
use zsnap_common::cli::options::{ADVANCED, ONE_RUN};
use zsnap_common::cli::status;
use zsnap_common::cli::units::{duration, size};
use zsnap_common::names::target::{Host, NameError, Target};

/// Receive queue files: authenticate, order and decompress them, and pass them to zfs receive
/// or to a command
///
/// Without a subcommand it receives the files of the incoming directory, as `run` does.
#[derive(Debug, Parser)]
#[command(name = "zsnap-ingest", version, max_term_width = 100, after_help = "The manual is zsnap-ingest(8).")]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The options, valid before and after a subcommand.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command, or keys in ingest.toml")]
pub struct Options {
    /// Configuration file [default: /etc/zsnap/ingest.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of queue files, with one directory for each sending host
    #[arg(long, global = true, value_name = "DIR")]
    pub incoming: Option<PathBuf>,
    /// Dataset below which datasets are received, as STORE/HOST/DATASET
    #[arg(long, global = true, value_name = "DATASET")]
    pub store: Option<String>,
    /// OpenPGP secret key that decrypts; may be repeated
    #[arg(long = "decryption-key", aliases = ["decryption-keys", "keys"], global = true, value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Report a waiting file again after this time
    #[arg(long, global = true, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub max_wait: Duration,
    /// Set a property of received datasets (zfs receive -o); may be repeated
    #[arg(long, global = true, value_name = "PROPERTY=VALUE")]
    pub set: Vec<String>,
    /// Let received datasets inherit a property (zfs receive -x); may be repeated
    #[arg(long, global = true, value_name = "PROPERTY")]
    pub exclude: Vec<String>,
    /// Name of the sending host: for exec as a forced ssh command, and for verify and cat of a renamed file
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Option<Host>,
    /// Print status and plan as a JSON array
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub json: bool,
    /// Report each action on standard error
    #[arg(long, short, global = true, help_heading = ONE_RUN)]
    pub verbose: bool,
    /// Directory of the state [default: /var/lib/zsnap/ingest]
    #[arg(long, global = true, value_name = "DIR", help_heading = ADVANCED)]
    pub state: Option<PathBuf>,
    /// Lock file in the format of dotlockfile [default: beside the state]
    #[arg(long, global = true, value_name = "FILE", help_heading = ADVANCED)]
    pub dotlock: Option<PathBuf>,
    /// Report a running instance that is older than TIME as an error
    #[arg(long, global = true, value_name = "TIME", default_value = "24h", value_parser = duration, help_heading = ADVANCED)]
    pub max_run: Duration,
    /// Number of hosts that are processed at the same time
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64), help_heading = ADVANCED)]
    pub jobs: u8,
    /// Keep verified streams up to this size in memory; longer ones are read twice [default: an eighth of the memory]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, help_heading = ADVANCED)]
    pub verify_buffer: Option<u64>,
    /// Largest zstd window, as a power of two
    #[arg(long, global = true, value_name = "LOG", default_value_t = 27, value_parser = clap::value_parser!(u32).range(10..=31), help_heading = ADVANCED)]
    pub window_log: u32,
    /// Decrypt at most N queue files of a host in one run; the next run continues
    #[arg(long, global = true, value_name = "N", default_value = "10000", value_parser = count, help_heading = ADVANCED)]
    pub max_files: u64,
    /// Read at most SIZE of queue files of a host in one run; the next run continues [default: no limit]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, help_heading = ADVANCED)]
    pub max_bytes: Option<u64>,
    /// Largest decompressed stream of a file; a larger one is held [default: no limit]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, help_heading = ADVANCED)]
    pub max_size: Option<u64>,
    /// Hold a file whose decompressed stream exceeds 1 GiB and N times the size of the file
    #[arg(long, global = true, value_name = "N", default_value = "10000", value_parser = count, help_heading = ADVANCED)]
    pub max_ratio: u64,
    /// Kill a receiver that reads nothing for TIME, or does not end within TIME after its last byte
    #[arg(long, global = true, value_name = "TIME", default_value = "6h", value_parser = timeout, help_heading = ADVANCED)]
    pub receive_timeout: Duration,
    /// The program zfs
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "zfs", help_heading = ADVANCED)]
    pub zfs: PathBuf,
    /// The program zpool
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "zpool", help_heading = ADVANCED)]
    pub zpool: PathBuf,
}

/// A number from 1.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("\"{text}\" is not a number from 1 up"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        short if short < Duration::from_secs(1) => Err(format!("\"{text}\" is too short; write 1s or more")),
        time => Ok(time),
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Receive the files of the incoming directory (the default)
    Run,
    /// Receive one queue file from standard input, sent by NNCP or ssh
    Exec {
        /// Name of the stream: HOST/DATASET
        target: Option<std::ffi::OsString>,
    },
    /// Check a queue file as run does, and describe it
    Verify {
        #[command(flatten)]
        file: OneFile,
    },
    /// Write the decompressed stream of a verified queue file to standard output
    Cat {
        #[command(flatten)]
        file: OneFile,
    },
    /// Report the state of every chain: what was received last, what waits, and what to do
    Status(StatusOptions),
    /// Verify new files and report what run would do with each file, without doing it
    Plan {
        /// Only these hosts
        #[arg(value_name = "HOST")]
        hosts: Vec<Host>,
    },
    /// Move quarantined files back for the next run
    Retry {
        /// Every file of every host
        #[arg(long)]
        all: bool,
        /// Hosts, or names of files
        #[arg(value_name = "FILE|HOST", required_unless_present = "all", conflicts_with = "all")]
        what: Vec<String>,
    },
    /// Forget what was applied to a target, so that its next full stream starts a new chain
    #[command(alias = "adopt")]
    Forget {
        /// For a command that was interrupted: it was applied
        #[arg(long)]
        applied: bool,
        /// For a command that was interrupted: it was not applied
        #[arg(long, conflicts_with = "applied")]
        not_applied: bool,
        #[arg(value_name = "HOST/DATASET")]
        target: Target,
    },
    /// Create a decryption key: BASE.key, and BASE.cert for the senders
    Keygen {
        /// Path of the files without .key and .cert
        #[arg(long, value_name = "BASE")]
        out: PathBuf,
        /// Advertise SEIPDv2, for senders with --format aead
        #[arg(long)]
        aead: bool,
    },
    /// Check configuration, keys, directories and programs, and print how to fix them
    Check(CheckOptions),
}

/// What `status` tells, and when its status is 1.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Only these hosts or datasets
    #[arg(value_name = "HOST|HOST/DATASET")]
    pub only: Vec<Only>,
    #[command(flatten)]
    pub common: status::ReportOptions,
    /// Print only the path of the needed-guids list of the imported pool, for zsnap-expire
    #[arg(long, conflicts_with_all = ["only", "prometheus", "max_age", "quiet", "json"])]
    pub needed_file: bool,
}

/// An operand of `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Only {
    /// All targets of a host.
    Host(Host),
    /// One.
    Target(Target),
}

impl FromStr for Only {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Only, NameError> {
        if name.contains('/') { name.parse().map(Only::Target) } else { name.parse().map(Only::Host) }
    }
}

/// A file to look into, and whom to believe.
#[derive(Debug, Args)]
pub struct OneFile {
    /// The queue file
    pub path: PathBuf,
    /// Accept signatures of this certificate, too; may be repeated
    #[arg(long, alias = "signer-file", value_name = "FILE")]
    pub signers: Vec<PathBuf>,
    /// Accept an unsigned file
    #[arg(long)]
    pub unsigned: bool,
}

/// How a host proves itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustLevel {
    /// Each file is signed by a key listed for the host.
    #[default]
    Signature,
    /// Files may be unsigned; whoever has our certificate can make one.
    Recipient,
    /// Files may be plain, in exec mode: the transport says who speaks.
    Transport,
}
