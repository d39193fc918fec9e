//! A queue file whose sender and form are verified, and the target that it is for.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::progress::{Progress, Watched};
use zsnap_common::cli::report;
use zsnap_common::names::queue_name::{Label, QueueName};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::{Host, MAX_NAME, Target};
use zsnap_common::stream::gate::Gate;
use zsnap_common::stream::{StreamError, StreamFacts, record};
use zsnap_message::open::{self, Limits, Refusal, Trust, Verified};
use zsnap_message::payload::{self, Manifest};

use crate::cli::TrustLevel;
use crate::config::Config;
use crate::joined::Joined;
use crate::memory;
use crate::shared::seconds;

/// A file that may be applied.
pub enum Opened {
    /// A sealed stream: decrypted, authenticated and checked.
    Sealed(Box<Verified<Joined>>),
    /// A bare `zfs send` stream, which is accepted only by exec, with `trust = "transport"`.
    Plain(Joined, StreamFacts),
}

/// A rejection: why a file is not applied, and what happens to it.
#[derive(Debug)]
pub enum Rejection {
    /// To be moved to quarantine, unless it may still be arriving.
    Damaged(String),
    /// To be moved to quarantine. The exit status is for exec: a forgery is distinguished from damage.
    Bad(Exit, String),
    /// It is held.
    Held {
        /// The exit status, for exec.
        exit: Exit,
        /// The reason and the remedy.
        why: String,
        /// When to examine it again although neither it nor the configuration has changed: seconds since 1970. By then
        /// a future date in it has passed, or zsnap-ingest may have been upgraded.
        again: Option<u64>,
    },
    /// Reading failed, or a resource of this machine is exhausted: to be tried again.
    Io(std::io::Error),
}

/// The last time that OpenPGP can express, in seconds since 1970: nothing was made after it.
const LAST: u64 = u32::MAX as u64;
/// A day, in seconds: an upgraded version may know a file that this one does not.
const DAY: u64 = 24 * 3600;

impl Rejection {
    /// Returns the rejection of a file that is held until it, the configuration, a key or a certificate changes.
    fn held(exit: Exit, why: String) -> Rejection {
        Rejection::Held { exit, why, again: None }
    }

    /// Returns the exit status and the reason, for the commands that handle one file.
    pub fn explained(self) -> (Exit, String) {
        match self {
            Rejection::Damaged(why) => (Exit::Data, why),
            Rejection::Bad(exit, why) | Rejection::Held { exit, why, .. } => (exit, why),
            Rejection::Io(e) => (Exit::Io, e.to_string()),
        }
    }
}

/// Who wants a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A run, of a file in the incoming directory.
    Run,
    /// exec, or a run of a file that exec published: its sender was known.
    Exec,
    /// A person, who restores by hand whatever is authentic, also if this clock is wrong, and whatever its stream is.
    Person,
}

impl Opened {
    /// Verifies that `host` sent `file`. Up to `keep` bytes of it are kept in memory; a larger file is decrypted again
    /// when its stream is written. `what` is the name of the file for the user.
    pub fn verify(
        config: &Config,
        host: &Host,
        reader: Reader,
        (file, what): (&Joined, &str),
        keep: u64,
        now: SystemTime,
    ) -> Result<Opened, Rejection> {
        let Some(table) = config.hosts.get(host) else {
            let why = format!("unknown host; add {} to the configuration if it may send", host.table());
            return Err(Rejection::held(Exit::Refused, why));
        };
        let bounds = config.bounds(host);
        let (exec, person) = (reader == Reader::Exec, reader == Reader::Person);
        let now = if person { UNIX_EPOCH + Duration::from_secs(LAST) } else { now };
        if table.trust == TrustLevel::Transport && exec && starts_like_zfs(file.clone()).map_err(Rejection::Io)? {
            let size = file.length();
            if bounds.max_size.is_some_and(|most| size > most) {
                return Err(explain(Refusal::TooLarge(format!("it has {size} bytes")), host, now));
            }
            let opened = Opened::Plain(file.clone(), walk(file.clone())?);
            return opened.check_times(host, now).map(|()| opened);
        }
        // Nothing proves who wrote a file in the incoming directory, so `trust = "transport"` applies only to exec.
        let unsigned = match table.trust {
            TrustLevel::Signature => false,
            TrustLevel::Recipient => true,
            TrustLevel::Transport => exec,
        };
        let (max_size, max_ratio) = (bounds.max_size, bounds.max_ratio);
        let limits = Limits { verify_buffer: keep, window_log: config.window_log, max_size, max_ratio };
        let (keyring, signers) = (&config.keyring, &config.signers);
        let trust = Trust { keyring, signers, host, unsigned, any_stream: person, now };
        let size = file.length();
        let progress = Progress::new(&format!("verifying {what}"), Some(size));
        let watched = Watched { inner: file.clone(), progress: Some(&progress) };
        let verified = open::verify(watched, &trust, &limits).map_err(|refusal| match refusal {
            refusal @ (Refusal::Io(_) | Refusal::Newer(_) | Refusal::Clock(_)) => explain(refusal, host, now),
            // With too little memory anything may fail, and not every library reports the cause.
            refusal if !memory::is_enough(memory::most(config.jobs, config.window_log, config.verify_buffer)) => {
                let short = payload::out_of_memory();
                Rejection::Io(std::io::Error::new(short.kind(), format!("{short}; not believed until then: {refusal}")))
            }
            refusal => explain(refusal, host, now),
        })?;
        let opened = Opened::Sealed(Box::new(verified.with_source(|watched| watched.inner)));
        opened.check_times(host, now).map(|()| opened)
    }

    /// Returns the signed manifest; `None`: a file without one, or a bare stream.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Opened::Sealed(verified) => verified.manifest(),
            Opened::Plain(..) => None,
        }
    }

    /// Returns what the gate found in the stream; `None`: an opaque stream.
    pub fn stream(&self) -> Option<&StreamFacts> {
        match self {
            Opened::Sealed(verified) => verified.stream(),
            Opened::Plain(_, facts) => Some(facts),
        }
    }

    /// Returns how many bytes of the file are kept in memory.
    pub fn kept(&self) -> u64 {
        match self {
            Opened::Sealed(verified) => verified.kept(),
            Opened::Plain(..) => 0,
        }
    }

    /// Returns the length of the uncompressed stream, in bytes.
    fn bytes(&self) -> u64 {
        match self {
            Opened::Sealed(verified) => verified.bytes(),
            Opened::Plain(file, _) => file.length(),
        }
    }

    /// Writes the uncompressed stream to `out`, and shows the progress. `what` describes this to the user.
    pub fn replay(self, what: &str, out: &mut dyn Write) -> Result<()> {
        let progress = Progress::new(what, Some(self.bytes()));
        let out = &mut Watched { inner: out, progress: Some(&progress) };
        match self {
            Opened::Sealed(verified) => verified.replay(out),
            Opened::Plain(mut file, _) => {
                file.seek(SeekFrom::Start(0))?;
                copy(&mut file, |bytes| Ok(out.write_all(bytes)?))
            }
        }
    }

    /// Holds a stream with a future snapshot until the date has passed. It is not quarantined, because the sender may
    /// have created the snapshot while its clock was wrong, and later ones build on it; or the clock of this machine
    /// is wrong.
    fn check_times(&self, host: &Host, now: SystemTime) -> Result<(), Rejection> {
        let Some(late) = self.stream().and_then(|stream| stream.ahead(now)) else { return Ok(()) };
        Err(ahead(&format!("snapshot {} is dated", quoted(&late.snap)), late.created, host))
    }

    /// Checks that the names of its snapshots below the store are not too long for ZFS.
    pub fn fits(&self, config: &Config, target: &Target) -> Result<(), Rejection> {
        let snaps = self.stream().map_or(&[][..], |stream| &stream.substreams).iter().map(|s| s.snap.len());
        let (Some(store), Some(longest)) = (&config.store, snaps.max()) else { return Ok(()) };
        let store = &store.name;
        let length = format!("{store}/{target}@").len() + longest;
        if length > MAX_NAME {
            let why = format!("a snapshot's name would have {length} bytes below {store}, and ZFS allows {MAX_NAME}");
            return Err(Rejection::held(Exit::Data, format!("{why}; a shorter store helps")));
        }
        Ok(())
    }

    /// Returns the target of the file. The manifest determines it, and the file name must agree. Without a manifest
    /// only the name determines it; of the two readings of `NAME.0`, the one that matches the dataset in the stream is
    /// used.
    pub fn target(&self, host: &Host, queue: &QueueName) -> Result<Target, Rejection> {
        let refused = |why| Err(Rejection::Bad(Exit::Refused, why));
        if let Some(manifest) = self.manifest() {
            let target = Target { host: manifest.host.clone(), dataset: manifest.dataset.clone() };
            return match (target.host == *host, queue.may_be(&target)) {
                (false, _) => refused(format!("its manifest says host {}, not {host}", target.host)),
                (_, false) => refused(format!("its manifest says {target}, its name another dataset")),
                _ => Ok(target),
            };
        }
        let of = |name: &QueueName| match &name.label {
            Label::Dataset(dataset) => Some(Target { host: host.clone(), dataset: dataset.clone() }),
            Label::Digest(_) => None,
        };
        if queue.host != *host {
            return refused(format!("its name says host {}, its directory {host}", queue.host));
        }
        let Some(target) = of(queue) else {
            let why = "neither its name nor a manifest says which dataset it is for".into();
            return Err(Rejection::Bad(Exit::Data, why));
        };
        let fs = self.stream().and_then(|s| s.substreams.first()).map(|s| s.fs.as_str());
        let mut readings = queue.readings().filter_map(|name| of(&name));
        Ok(readings.find(|reading| fs == Some(reading.dataset.as_str())).unwrap_or(target))
    }
}

/// Converts a refusal to what it means for the file.
fn explain(refusal: Refusal, host: &Host, now: SystemTime) -> Rejection {
    let (held, table) = (Rejection::held, host.table());
    match refusal {
        Refusal::Damaged(why) => Rejection::Damaged(format!("damaged: {why}")),
        Refusal::Malformed(why) => Rejection::Bad(Exit::Data, format!("not as a queue file should be: {why}")),
        Refusal::Forged(why) => Rejection::Bad(Exit::Refused, format!("forged: {why}")),
        Refusal::WrongHost { said } => Rejection::Bad(Exit::Refused, format!("it comes from {said}, not from {host}")),
        Refusal::NoKey(ids) => held(
            Exit::TryAgain,
            format!("encrypted to {ids}, none of our keys; add that key to keys, or give {host} our certificate"),
        ),
        Refusal::Unsigned => held(
            Exit::Refused,
            format!("not signed; let {host} sign, or set trust = \"recipient\" in {table} to take it"),
        ),
        Refusal::UnknownSigner(id) => held(
            Exit::Refused,
            format!("signed by {id}, which no host has; add its certificate to signers in {table} if it is {host}'s"),
        ),
        Refusal::BadSigner(why) => held(
            Exit::Refused,
            format!("its signing key was not valid when it signed: {why}; get {host}'s renewed certificate"),
        ),
        Refusal::TooLarge(why) => held(
            Exit::Refused,
            format!("{why}; if {host} means it, raise max-size or max-ratio in {table}, or window-log"),
        ),
        Refusal::Newer(why) => Rejection::Held {
            exit: Exit::TryAgain,
            why: format!("made by a newer zsnap-queue: {why}; upgrade zsnap-ingest here"),
            again: Some(seconds(now).saturating_add(DAY)),
        },
        Refusal::Clock(signed) => ahead("signed", seconds(signed), host),
        Refusal::Io(e) => Rejection::Io(e),
    }
}

/// Returns the rejection of a file with a future date, in seconds since 1970.
fn ahead(what: &str, date: u64, host: &Host) -> Rejection {
    let until = date.saturating_sub(report::AHEAD.as_secs());
    let (date, day) = (report::time(date), report::time(until));
    let whose = format!("if this clock is wrong, set it; if that of {host} was, the file is taken from {day} on");
    let sooner = "to have it sooner, set the clock there and queue a new stream: a full one (zsnap-queue --opaque \
                  --full), of a ZFS dataset a new snapshot sent with zfs send -i from the newest one that is here, or in \
                  full; then remove this file";
    let why = format!("{what} more than a day ahead ({date}): {whose}; {sooner}");
    Rejection::Held { exit: Exit::TryAgain, why, again: Some(until) }
}

/// Calls `each` for every piece of the file, from its present position.
fn copy(file: &mut Joined, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        cancel::check()?;
        match file.read(&mut buffer).or_exit(Exit::Io, "queue file")? {
            0 => return Ok(()),
            n => each(buffer.get(..n).unwrap_or_default())?,
        }
    }
}

fn starts_like_zfs(mut file: Joined) -> std::io::Result<bool> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(16).read_to_end(&mut head)?;
    Ok(record::order_of_first(&head).is_some())
}

fn walk(mut file: Joined) -> Result<StreamFacts, Rejection> {
    let mut gate = Gate::new();
    let bad = |e: &StreamError| Rejection::Bad(Exit::Data, e.to_string());
    let mut refused = None;
    let read = copy(&mut file, |bytes| {
        gate.feed(bytes, &mut |_| Ok(())).map_err(|e| {
            refused = Some(bad(&e));
            anyhow::anyhow!("refused")
        })
    });
    match (read, refused) {
        (_, Some(no)) => Err(no),
        (Err(e), None) => Err(Rejection::Io(std::io::Error::other(format!("{e:#}")))),
        (Ok(()), None) => gate.finish().map_err(|e| match e {
            StreamError::Truncated { .. } => Rejection::Damaged(e.to_string()),
            e => bad(&e),
        }),
    }
}
