//! Validates the command line of the bare command: which options are missing or exclude each other.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::suggest;
use zsnap_common::durable::dest::{self, Dest, Transport};
use zsnap_common::names::target::Target;

use crate::cli::{Cli, Options};
use crate::producer;

/// How long the examination of a directory may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One stream to queue.
pub struct Job {
    pub target: Target,
    pub source: Source,
    /// The destinations: at least one, and only one if it is standard output (`-`).
    pub dests: Vec<Dest>,
}

/// Where the stream comes from.
pub enum Source {
    /// A ZFS stream on standard input.
    Zfs,
    /// An opaque stream on standard input.
    Opaque { increment: bool },
    /// The standard output of a producer.
    Producer { argv: Vec<OsString>, state: Option<PathBuf>, wanted: Option<Wanted> },
}

/// The kind of stream that `--full` or `--increment` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Full,
    Increment,
}

fn usage<T>(message: &str) -> anyhow::Result<T> {
    Err(Exit::Usage.error(message))
}

impl Job {
    pub fn new(cli: &Cli) -> anyhow::Result<Job> {
        let o = &cli.options;
        let Some(operand) = &cli.target else {
            return usage("name the stream: zsnap-queue HOST/DATASET (see zsnap-queue --help)");
        };
        if let Some(meant) = suggest::subcommand(operand, &Cli::command()) {
            let word = operand.to_string_lossy();
            return usage(&format!("\"{word}\" is not HOST/DATASET; did you mean the subcommand \"{meant}\"?"));
        }
        let target = if o.opaque { lenient(operand, o.strip.as_deref()) } else { strict(operand, o.strip.as_deref()) }?;
        if o.encrypt_to.is_empty() {
            return usage(
                "--encrypt-to is missing: specify the certificate that zsnap-ingest keygen made on the backup server",
            );
        }
        if o.signing_key.is_none() && !o.unsigned {
            return usage("--signing-key is missing: specify the key that zsnap-queue keygen made, or --unsigned");
        }
        if o.to.is_empty() {
            return usage("--to is missing: specify where the file goes, such as nncp-file:NODE or dir:PATH");
        }
        let dests = o.to.clone();
        if dests.contains(&Dest::Stdout) && (dests.len() > 1 || o.json) {
            return usage("--to - allows no other --to, and no --json");
        }
        if o.outbox.is_some() && !matches!(dests[..], [Dest::Dir(_)]) {
            return usage(
                "--outbox takes one destination, --to dir:PATH on the same drive: send the stream again for others",
            );
        }
        if o.outbox.is_some() && o.max_file.is_some() {
            return usage("--outbox seals one file on the drive, and --max-file wants parts: leave one of them out");
        }
        if dests.contains(&Dest::Stdout) && o.producer_state.is_some() {
            // The reader of the stream may fail after the producer's state has advanced.
            return usage("--producer-state needs an outbox: --to - does not know what becomes of the stream");
        }
        Ok(Job { target, source: source(o, &cli.producer)?, dests })
    }

    /// Returns whether the file goes to standard output, without an outbox.
    pub fn is_filter(&self) -> bool {
        self.dests.contains(&Dest::Stdout)
    }
}

/// Parses the operand of a ZFS stream. It must lie below `strip`, so that a wrong prefix queues nothing.
fn strict(operand: &OsStr, strip: Option<&str>) -> anyhow::Result<Target> {
    Target::from_operand(operand, strip).map_err(|e| Exit::Usage.error(e.to_string()))
}

/// Parses an operand that may be below the prefix `strip`, which is then removed, or HOST/DATASET itself.
pub fn lenient(operand: &OsStr, strip: Option<&str>) -> anyhow::Result<Target> {
    // An operand below the prefix is always stripped, so that the prefix cannot be parsed as its host.
    let below = |prefix: &&str| {
        let rest = operand.to_str().and_then(|operand| operand.strip_prefix(prefix.trim_end_matches('/')));
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    strict(operand, strip.filter(below))
}

fn source(o: &Options, argv: &[OsString]) -> anyhow::Result<Source> {
    let wanted = if o.full { Some(Wanted::Full) } else { o.increment.then_some(Wanted::Increment) };
    if !o.opaque {
        if wanted.is_some() || o.overlap || o.producer_state.is_some() || !argv.is_empty() {
            return usage("--full, --increment, --overlap, --producer-state and a producer need --opaque");
        }
        return Ok(Source::Zfs);
    }
    if wanted == Some(Wanted::Increment) && o.producer_state.is_none() && !o.overlap {
        return usage(
            "--increment needs --overlap (receiving it twice does no harm, or the receiver notices) or --producer-state: \
             otherwise a repeated run could damage what was received",
        );
    }
    if argv.is_empty() {
        if o.producer_state.is_some() {
            return usage("--producer-state needs a producer: -- PRODUCER...");
        }
        return match wanted {
            None => usage("--opaque needs --full or --increment"),
            Some(wanted) => Ok(Source::Opaque { increment: wanted == Wanted::Increment }),
        };
    }
    let state = match &o.producer_state {
        Some(_) if !producer::takes_state(argv) => {
            return usage("--producer-state: no argument of the producer holds {state}");
        }
        // The state records this path, and a later run may have another working directory.
        Some(file) => Some(std::path::absolute(file)?),
        None if wanted.is_none() => return usage("specify --full or --increment, or --producer-state"),
        None => None,
    };
    Ok(Source::Producer { argv: argv.to_vec(), state, wanted })
}

/// Returns how transports are run, from the options.
pub fn transport(o: &Options) -> Transport {
    Transport {
        user: o.user.clone(),
        nncp_config: o.nncp_config.clone(),
        nice: o.nice.clone(),
        nncp_file: o.nncp_file_program.clone(),
        nncp_exec: o.nncp_exec_program.clone(),
        timeout: dest::patience(o.delivery_timeout),
        apart: true,
        max_file: o.max_file,
        ..Transport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn job(args: &str) -> Result<Job, Exit> {
        let argv = ["zsnap-queue"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(argv).map_err(|_| Exit::Usage)?;
        Job::new(&cli).map_err(|e| Exit::of(&e))
    }

    const BASE: &str = "--encrypt-to c --unsigned --to dir:/x";

    #[test]
    fn a_stream_needs_target_recipient_signer_and_destination() {
        assert!(job(&format!("{BASE} h/a")).is_ok());
        for wrong in [
            BASE,
            "--encrypt-to c --unsigned h/a",
            "--encrypt-to c --to dir:/x h/a",
            "--unsigned --to dir:/x h/a",
            "--encrypt-to c --unsigned --signing-key k --to dir:/x h/a",
            "--encrypt-to c --unsigned --to dir:/x --to - h/a",
            "--encrypt-to c --unsigned --to - --json h/a",
            "--encrypt-to c --unsigned --to - --outbox /x h/a",
            "--encrypt-to c --unsigned --to nncp-file:x --outbox /x h/a",
            "--encrypt-to c --unsigned --to dir:/x --to dir:/y --outbox /x h/a",
            "--encrypt-to c --unsigned --to dir:/x --outbox /x --max-file 4GiB h/a",
            "--encrypt-to c --unsigned --to - --opaque --producer-state s h/a -- tar -g{state}",
            "--encrypt-to c --unsigned --to dir:/x h",
            "--encrypt-to c --unsigned --to dir:/x --strip p h/a",
            "--encrypt-to c --unsigned --to dir:/x h/a -- tar",
        ] {
            assert_eq!(job(wrong).err(), Some(Exit::Usage), "{wrong}");
        }
    }

    #[test]
    fn opaque_streams_must_specify_what_they_build_on() {
        for (args, good) in [
            ("--opaque h/a", false),
            ("--opaque --full h/a", true),
            ("--full h/a", false),
            ("--opaque --full --increment h/a", false),
            ("--opaque --increment h/a", false),
            ("--opaque --increment --overlap h/a", true),
            ("--opaque --producer-state s h/a", false),
            ("--opaque --producer-state s h/a -- tar", false),
            ("--opaque --producer-state s h/a -- tar -g{state}", true),
            ("--opaque --producer-state s --increment h/a -- tar -g{state}", true),
            ("--opaque h/a -- tar", false),
            ("--opaque --full h/a -- tar", true),
            ("--opaque --increment h/a -- tar", false),
        ] {
            assert_eq!(job(&format!("{BASE} {args}")).is_ok(), good, "{args}");
        }
    }

    #[test]
    fn the_prefix_is_required_only_for_zfs_streams() {
        let target = |args: &str| job(&format!("{BASE} --strip p/q {args}")).map(|j| j.target.to_string()).ok();
        assert_eq!(target("p/q/h/a"), Some("h/a".into()));
        assert_eq!(target("h/a"), None);
        assert_eq!(target("--opaque --full p/q/h/a"), Some("h/a".into()));
        assert_eq!(target("--opaque --full h/a"), Some("h/a".into()));
    }
}
