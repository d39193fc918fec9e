//! The command line. Every option is also a key of `/etc/zsnap/ingest.toml`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use zsnap_common::cli::options::{duration, size};
use zsnap_common::names::target::{Host, NameError, Target};

/// Receives queue files: checks who sent them, authenticates and orders them, and feeds them to
/// zfs receive or to a command.
///
/// Without a subcommand it takes what lies in the incoming directory, as `run` does.
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
pub struct Options {
    /// Configuration file; every option below may stand in it
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of queue files: below it one directory for each sending host
    #[arg(long, global = true, value_name = "DIR")]
    pub incoming: Option<PathBuf>,
    /// Dataset below which received datasets go, as STORE/HOST/DATASET
    #[arg(long, global = true, value_name = "DATASET")]
    pub store: Option<String>,
    /// OpenPGP secret key that decrypts; may be given several times
    #[arg(long, global = true, value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Directory for what must be remembered [default: /var/lib/zsnap/ingest]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Lock file in dotlockfile's format [default: beside the state]
    #[arg(long, global = true, value_name = "FILE")]
    pub dotlock: Option<PathBuf>,
    /// A running instance older than this is an error
    #[arg(long, global = true, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub max_run: Duration,
    /// Hosts that are served at the same time
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// What waits longer than this is told again
    #[arg(long, global = true, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub max_wait: Duration,
    /// Messages up to this size are verified in memory, larger ones are read twice
    #[arg(long, global = true, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub verify_buffer: u64,
    /// Largest zstd window, as a power of two
    #[arg(long, global = true, value_name = "LOG", default_value_t = 27, value_parser = clap::value_parser!(u32).range(10..=31))]
    pub window_log: u32,
    /// Queue files decrypted for one host in one run; the others wait for the next
    #[arg(long, global = true, value_name = "N", default_value = "10000", value_parser = count)]
    pub max_files: u64,
    /// Bytes of queue files read for one host in one run; the others wait for the next [default: no limit]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub max_bytes: Option<u64>,
    /// Largest plain stream of one file; a larger one is held [default: no limit]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// How many times larger than its file a plain stream of more than 1 GiB may be; else it is held
    #[arg(long, global = true, value_name = "N", default_value = "10000", value_parser = count)]
    pub max_ratio: u64,
    /// Kill a receiver that takes nothing for this long, or does not end this long after its last byte
    #[arg(long, global = true, value_name = "TIME", default_value = "6h", value_parser = timeout)]
    pub receive_timeout: Duration,
    /// Property that received datasets get (zfs receive -o); may be given several times
    #[arg(long, global = true, value_name = "PROPERTY=VALUE")]
    pub set: Vec<String>,
    /// Property that received datasets inherit (zfs receive -x); may be given several times
    #[arg(long, global = true, value_name = "PROPERTY")]
    pub exclude: Vec<String>,
    /// The host that speaks, for exec as a forced ssh command, and for verify and cat of a file without its name
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Option<Host>,
    /// The program zfs
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "zfs")]
    pub zfs: PathBuf,
    /// The program zpool
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "zpool")]
    pub zpool: PathBuf,
    /// Machine-readable output of status and plan: an array
    #[arg(long, global = true)]
    pub json: bool,
    /// Tell on stderr what is done
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// A number from 1.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("\"{text}\" is no number from 1 up"))
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
    /// Take what lies in the incoming directory (the default)
    Run,
    /// Take one queue file on stdin: NNCP exec handler, or forced ssh command with --host
    Exec {
        /// What the stream is: HOST/DATASET
        target: Option<std::ffi::OsString>,
    },
    /// Check a queue file as run would, and say what it is
    Verify {
        #[command(flatten)]
        file: OneFile,
    },
    /// Write the plain stream of a verified queue file to stdout
    Cat {
        #[command(flatten)]
        file: OneFile,
    },
    /// Tell how every chain stands: what came last, what waits, and what to do
    Status(StatusOptions),
    /// Verify what is new, and tell what run would do with each file; do nothing
    Plan {
        /// Only these
        #[arg(value_name = "HOST")]
        hosts: Vec<Host>,
    },
    /// Put quarantined files back, for the next run
    Retry {
        /// Every file of every host
        #[arg(long)]
        all: bool,
        /// Hosts, or names of files
        #[arg(value_name = "FILE|HOST", required_unless_present = "all", conflicts_with = "all")]
        what: Vec<String>,
    },
    /// Forget what was applied of a target, so that its next full stream starts anew
    Adopt {
        /// For a command that was interrupted: it was applied
        #[arg(long)]
        applied: bool,
        /// For a command that was interrupted: it was not applied
        #[arg(long, conflicts_with = "applied")]
        not_applied: bool,
        #[arg(value_name = "HOST/DATASET")]
        target: Target,
    },
    /// Make a key pair that decrypts: BASE.key, and BASE.cert for the senders
    Keygen {
        /// Where the files go: BASE.key and BASE.cert
        #[arg(long, value_name = "BASE")]
        out: PathBuf,
        /// Advertise SEIPDv2, for senders with --format aead
        #[arg(long)]
        aead: bool,
    },
    /// Check configuration, keys, directories and programs, and say what to mend
    Check,
}

/// What `status` tells, and when its status is 1.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Only these
    #[arg(value_name = "HOST|HOST/DATASET")]
    pub only: Vec<Only>,
    /// Text for Prometheus
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Exit 1 if the newest of a target, or a file that waits, is older than TIME [default: the host's max-age]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_age: Option<Duration>,
    /// Print only if the exit status is not 0
    #[arg(long)]
    pub quiet: bool,
    /// Print where needed-guids of the present pool is, for zsnap-expire, and nothing else
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
    /// Certificate that may have signed it, beside those of the configuration; may be given several times
    #[arg(long, value_name = "FILE")]
    pub signer_file: Vec<PathBuf>,
    /// Take an unsigned file too
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
