//! The command line, which includes that of zrep-expire. Every option in [`Options`] is also a key of
//! `/etc/zsnap/expire.toml`, except those that concern one run ([`ONE_RUN`]).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use regex::Regex;
use zsnap_common::cli::findings::CheckOptions;
use zsnap_common::cli::options::{ADVANCED, ONE_RUN};
use zsnap_common::cli::units::duration;

use crate::brakes::MaxDestroy;
use crate::rules::rule::Rule;

/// Destroy ZFS snapshots that no retention rule keeps
#[derive(Debug, Parser)]
#[command(
    name = "zsnap-expire",
    version,
    max_term_width = 100,
    override_usage = "zsnap-expire [OPTIONS] [-c FILE] [DATASET...]\n       \
                      zsnap-expire --filter --keep RULE... < NAMES-AND-TIMES\n       \
                      zsnap-expire [OPTIONS] check",
    after_help = "The manual is zsnap-expire(8)."
)]
pub struct Cli {
    /// Only these datasets and those below them; with a file of zrep-expire, second version, only the
    /// datasets themselves [default: all for which there is a policy]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// Another job than to expire.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Everything else.
    #[command(flatten)]
    pub options: Options,
}

/// What to do, if not to expire.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check the configuration and report which policy applies to which datasets
    Check(CheckOptions),
}

/// Valid before and after a subcommand.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command, or keys in expire.toml")]
pub struct Options {
    /// Configuration: NAME.toml; any other name is a file of zrep-expire, either version
    /// [default: /etc/zsnap/expire.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// N: keep the newest N of each dataset [default: 2, with a file of zrep-expire 5]. RULE: keep what
    /// the rule says, instead of the configured policies: all=48h, daily=15d, weekly=4w, monthly=6mo,
    /// yearly=5y, or with counts last=10, daily=15. May be repeated
    #[arg(short, long, global = true, value_name = "N|RULE")]
    pub keep: Vec<Keep>,
    /// With --filter: names that have the same first group of REGEX are one dataset, and others stay;
    /// by default those that have the same text before their last at sign
    #[arg(long, global = true, value_name = "REGEX")]
    pub group: Option<Regex>,
    /// Time zone in which days begin, such as Europe/Berlin or UTC [default: the system's]
    #[arg(long, global = true, value_name = "ZONE", value_parser = zone)]
    pub timezone: Option<TimeZone>,
    /// Destroy nothing of a dataset of which more than N, or P% (if it has more than 20 snapshots),
    /// would be destroyed [default: 50%; with -n, --at or a file of zrep-expire none, with --filter and --at 50%]
    #[arg(long, global = true, value_name = "N|P%|none")]
    pub max_destroy: Option<MaxDestroy>,
    /// Keep the snapshots in this list of zsnap-ingest, whose path zsnap-ingest status --needed-file prints;
    /// may be repeated, for several pools
    #[arg(long, global = true, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub needed: Vec<PathBuf>,
    /// Destroy nothing; print what a run would do with each snapshot, and why
    #[arg(short, long, global = true, help_heading = ONE_RUN)]
    pub noop: bool,
    /// Print what the run does with each snapshot, and why, before it destroys any; with --filter
    /// on standard error
    #[arg(short, long, global = true, help_heading = ONE_RUN)]
    pub verbose: bool,
    /// The same as --verbose
    #[arg(short, long, global = true, help_heading = ONE_RUN)]
    pub debug: bool,
    /// With a file of zrep-expire's second version: all file systems; with --keep RULE: all datasets
    #[arg(short, long, global = true, help_heading = ONE_RUN)]
    pub all: bool,
    /// Read lines of NAME, tab and SECONDS-SINCE-1970, print the names that no rule keeps, and destroy nothing
    #[arg(long, global = true, conflicts_with_all = [
        "noop", "all", "json", "timeline", "needed", "no_needed"
    ], help_heading = ONE_RUN
    )]
    pub filter: bool,
    /// With --filter: print the names that are kept
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub invert: bool,
    /// With --filter: records end with a zero byte, in and out, not with a newline
    #[arg(short = '0', long, global = true, help_heading = ONE_RUN)]
    pub null: bool,
    /// Print what a run at TIME, such as 2026-12-24T18:00Z, would do with today's snapshots; destroy nothing
    #[arg(long, global = true, value_name = "TIME", value_parser = time, help_heading = ONE_RUN)]
    pub at: Option<Timestamp>,
    /// Allow this run to exceed --max-destroy
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub force: bool,
    /// Run without that list, though a policy says received = true
    #[arg(long, global = true, conflicts_with = "needed", help_heading = ONE_RUN)]
    pub no_needed: bool,
    /// Print a JSON array of datasets: what is kept and destroyed, why, and how much space that frees. Add
    /// -n to destroy nothing
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub json: bool,
    /// Draw a row for each dataset that shows what is kept and destroyed. Add -n to destroy nothing
    #[arg(long, global = true, help_heading = ONE_RUN)]
    pub timeline: bool,
    /// Tags of zrep, separated by commas. With a file of zrep-expire's second version only snapshots
    /// whose names are TAG_ and 6 hex digits may go
    #[arg(short, long, global = true, value_name = "TAG", value_delimiter = ',', default_value = "zrep", value_parser = tag, help_heading = ADVANCED)]
    pub tags: Vec<String>,
    /// Ignore the properties of zrep: snapshots of any name may be destroyed, sent or not
    #[arg(long, global = true, help_heading = ADVANCED)]
    pub zrep_ignore: bool,
    /// Ages in rules count back from the newest snapshot of the dataset, or from now
    #[arg(long, global = true, value_name = "newest|now", default_value = "newest", value_parser = ["newest", "now"], help_heading = ADVANCED)]
    pub relative_to: String,
    /// Directory of the state and the lock [default: /var/lib/zsnap/expire]
    #[arg(long, global = true, value_name = "DIR", help_heading = ADVANCED)]
    pub state: Option<PathBuf>,
    /// Lock file in the format of dotlockfile [default: in the state directory]
    #[arg(long, global = true, value_name = "FILE", help_heading = ADVANCED)]
    pub dotlock: Option<PathBuf>,
    /// Report a running instance that is older than TIME as an error
    #[arg(long, global = true, value_name = "TIME", default_value = "24h", value_parser = duration, help_heading = ADVANCED)]
    pub max_run: Duration,
    /// The program zfs
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "zfs", help_heading = ADVANCED)]
    pub zfs: PathBuf,
    /// The program zpool
    #[arg(long, global = true, value_name = "PROGRAM", value_hint = ValueHint::CommandName, default_value = "zpool", help_heading = ADVANCED)]
    pub zpool: PathBuf,
}

impl Options {
    /// The last `--keep N`.
    pub fn newest(&self) -> Option<u64> {
        let newest = |keep: &Keep| if let Keep::Newest(n) = keep { Some(*n) } else { None };
        self.keep.iter().rev().find_map(newest)
    }

    /// All `--keep RULE`.
    pub fn rules(&self) -> Vec<Rule> {
        let rule = |keep: &Keep| if let Keep::Rule(rule) = keep { Some(*rule) } else { None };
        self.keep.iter().filter_map(rule).collect()
    }
}

/// `5`, or `daily=15d`.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// The newest so many.
    Newest(u64),
    /// A native rule.
    Rule(Rule),
}

impl FromStr for Keep {
    type Err = String;
    fn from_str(text: &str) -> Result<Keep, String> {
        match text.parse() {
            // zrep-expire treats 0 as 1.
            Ok(n) => Ok(Keep::Newest(u64::max(n, 1))),
            Err(_) => text.parse().map(Keep::Rule),
        }
    }
}

/// A tag becomes part of the name of a property, which is an argument of `zfs`.
fn tag(text: &str) -> Result<String, String> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.:-".contains(&b);
    match text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.len() <= 200 && text.bytes().all(known)
    {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is not a tag of zrep; write a-z 0-9 _ . : and -, a letter or a digit first")),
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a time; write 2026-12-24T18:00Z"))
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("\"{name}\" is not a known time zone (package tzdata)"))
}
