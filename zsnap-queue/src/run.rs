//! The bare command: queues one stream as one queue file. Crash safety depends on the order of the
//! durable steps: `Q1` to `Q10` are the rows of the table in ARCHITECTURE.md, "What a crash leaves".

mod drive;
mod sealed;

use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use zsnap_common::cli::cancel::{self, Interruptible};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::cli::options;
use zsnap_common::cli::progress::Progress;
use zsnap_common::durable::publish::{self, NewFile};
use zsnap_common::names::random::random_hex;
use zsnap_message::keys::{Format, Recipients, SigningKey};
use zsnap_message::payload::{Base, Manifest, PayloadKind, ZfsHead};
use zsnap_message::seal::{SealError, Sealing, max_threads, seal};

use sealed::{Sealed, commit};

use crate::aboard;
use crate::admit::{Body, Place, admit};
use crate::cli::{Cli, Options};
use crate::delivery::{self, Outcome};
use crate::destination;
use crate::host;
use crate::job::{self, Job, Source, Wanted};
use crate::pipeline::{Begun, Passed, io_failed, seal_failed};
use crate::producer::{self, Advance, StateCopy};
use crate::recover::recover;
use crate::state::{Acknowledged, CommitError, Locked, State};
use crate::summary;

/// Queues one stream, as specified on the command line.
pub fn queue(cli: &Cli) -> anyhow::Result<Exit> {
    let (job, o) = (Job::new(cli)?, &cli.options);
    if !matches!(job.source, Source::Producer { .. }) && io::stdin().is_terminal() {
        return Err(Exit::Usage.error("standard input is a terminal: give the stream there"));
    }
    if job.is_filter() && io::stdout().is_terminal() {
        return Err(Exit::Usage.error("standard output is a terminal: send it to a file or a command"));
    }
    if job.is_filter() && is_closed(&io::stdout()).or_exit(Exit::Io, "standard output")? {
        return Err(Exit::Io.error("standard output is closed: send it to a file or a command"));
    }
    let now = SystemTime::now();
    let keys = Keys::load(o, now)?;
    let operand = cli.target.as_deref().unwrap_or_default().to_string_lossy();
    host::check(o, keys.signer.as_ref().and_then(|key| key.host.as_ref()), &operand, &job.target)?;
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let state = State::open(&options::state_dir(o.state.as_deref(), "queue")?, since_1970.as_secs())?;
    let dataset = state.try_lock(&job.target)?.ok_or_else(|| {
        Exit::TryAgain.error(format!("another zsnap-queue works on {}: run again when it has ended", job.target))
    })?;
    let past = aboard::settle(&dataset, recover(&dataset)?, o)?.logged();
    let outbox = o.outbox.as_ref().zip(job.dests.first());
    let outbox = outbox.map(|(given, dest)| aboard::open(given, &dataset, &past, o, dest)).transpose()?;
    let length = match job.source {
        Source::Producer { .. } => None,
        _ => rest_of(&io::stdin()),
    };
    let (begun, body) = begin(&job.source, past.producer.as_ref())?;
    let micros = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
    let place = admit(&past.chain, &job.target, &body, micros).map_err(|why| Exit::Data.error(why))?;
    if let Some(warning) = &place.warning {
        log::warn(warning);
    }
    let zfs = if let Body::Zfs(head) = body { Some(head) } else { None };
    let manifest = Manifest {
        zsnap: 1,
        host: job.target.host.clone(),
        dataset: job.target.dataset.clone(),
        created: since_1970.as_secs(),
        kind: if zfs.is_some() { PayloadKind::Zfs } else { PayloadKind::Opaque },
        id: random_hex(16).or_exit(Exit::Io, "no random numbers")?,
        epoch: state.epoch.clone(),
        seq: place.seq,
        prev: place.prev,
        base: place.base,
        zfs,
    };
    let copy = match &job.source {
        Source::Producer { state: Some(file), .. } => Some(StateCopy::new(file, place.seq, place.base == Base::Prev)?),
        _ => None,
    };
    let run = Run { job: &job, options: o, keys: &keys, manifest: &manifest, place: &place, past: &past, length };
    match &outbox {
        Some(outbox) => run.publish_aboard(dataset, outbox, begun, copy),
        None if job.is_filter() => run.filter(dataset, begun),
        None => run.publish(dataset, begun, copy),
    }
}

/// Returns whether the caller closed standard output. The Rust runtime then opens /dev/null for reading
/// and writing in its place before `main`, and the sealed stream would be lost without an error.
fn is_closed(out: &io::Stdout) -> io::Result<bool> {
    let device = |meta: fs::Metadata| (meta.file_type().is_char_device(), meta.rdev());
    let here = device(File::from(out.as_fd().try_clone_to_owned()?).metadata()?);
    let null = fs::metadata("/dev/null").map(device);
    Ok(null.is_ok_and(|null| null == here) && rustix::fs::fcntl_getfl(out)?.contains(rustix::fs::OFlags::RDWR))
}

/// Returns how many bytes are left to be read of a regular file, or `None` if `input` is something else.
fn rest_of(input: &io::Stdin) -> Option<u64> {
    let meta = File::from(input.as_fd().try_clone_to_owned().ok()?).metadata().ok().filter(Metadata::is_file)?;
    let position = rustix::fs::tell(input).ok()?;
    Some(meta.len().saturating_sub(position))
}

struct Keys {
    recipients: Recipients,
    signer: Option<SigningKey>,
}

impl Keys {
    fn load(o: &Options, now: SystemTime) -> anyhow::Result<Keys> {
        let recipients = Recipients::load(&o.encrypt_to, o.format, now)?;
        let signer = o.signing_key.as_ref().map(|file| SigningKey::load(file, now)).transpose()?;
        recipients.warnings.iter().chain(signer.iter().flat_map(|s| &s.warnings)).for_each(log::warn);
        if o.format == Format::Aead {
            log::info("--format aead: no GnuPG reads this file; sq decrypt does");
        }
        Ok(Keys { recipients, signer })
    }
}

/// Reads as much of the stream as its place in the chain depends on. `last` is how the last run
/// advanced the state of its producer.
fn begin(source: &Source, last: Option<&Advance>) -> anyhow::Result<(Begun, Body)> {
    match source {
        Source::Zfs => {
            let (begun, beginning) = Begun::zfs(&mut Interruptible::new(io::stdin()))?;
            if beginning.properties {
                log::info("the stream carries properties: zsnap-ingest will drop them");
            }
            Ok((begun, Body::Zfs(beginning.head)))
        }
        Source::Opaque { increment } => Ok((Begun::opaque(), Body::Opaque { increment: *increment })),
        Source::Producer { state, wanted, .. } => {
            let has_state = match state {
                Some(file) => {
                    producer::safe(file)?;
                    producer::sweep(file)?;
                    producer::has_state(file)?
                }
                None => false,
            };
            let increment = match wanted {
                Some(wanted) => *wanted == Wanted::Increment,
                None => has_state,
            };
            if let (true, false, Some(file)) = (increment, has_state, state) {
                let what = format!("--increment, but {} holds no state: queue a stream with --full", file.display());
                return Err(Exit::Data.error(what));
            }
            if let (true, Some(file)) = (increment, state) {
                if !last.map_or(Ok(false), |last| last.left(file))? {
                    return Err(Exit::Data.error(format!(
                        "{} is not what the last stream of this dataset left, so an incremental could lack files: \
                         queue one with --full, and let nothing else use that file",
                        file.display()
                    )));
                }
            }
            Ok((Begun::opaque(), Body::Opaque { increment }))
        }
    }
}

/// What is known of a run when sealing begins.
struct Run<'a> {
    job: &'a Job,
    options: &'a Options,
    keys: &'a Keys,
    manifest: &'a Manifest,
    place: &'a Place,
    past: &'a Acknowledged,
    /// The length of the stream, if it is known before it is read.
    length: Option<u64>,
}

impl Run<'_> {
    /// Seals to standard output (`--to -`), without an outbox. The stream is queued when the last byte is written.
    fn filter(&self, dataset: Locked<'_>, begun: Begun) -> anyhow::Result<Exit> {
        let passed = self
            .seal(Interruptible::new(io::stdout()), begun, None)
            .map_err(seal_failed("cannot write to standard output"))?;
        match rustix::fs::fsync(io::stdout()) {
            // A pipe cannot be synced.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => {}
            Err(e) => return Err(io::Error::from(e)).or_exit(Exit::Io, "cannot write to standard output"),
        }
        let new = self.acknowledged(&passed, None, None)?;
        cancel::check()?;
        dataset.commit(&new).map_err(CommitError::into_inner)?;
        summary::written(&self.job.target, passed.trailer.bytes);
        Ok(Exit::Done)
    }

    /// Seals into the outbox, commits, and delivers.
    fn publish(&self, dataset: Locked<'_>, begun: Begun, mut copy: Option<StateCopy>) -> anyhow::Result<Exit> {
        let (state, target) = (dataset.state, &self.job.target);
        let boxes = state.outboxes();
        let destinations = destination::configured(&self.job.dests, &job::transport(self.options));
        // Q1
        let split = boxes.split_dir(&target.host);
        publish::make_dirs(&split).map_err(io_failed("cannot make the outbox"))?;
        let file = NewFile::create_in(&split).map_err(io_failed("cannot create a file in the outbox"))?;
        // Q2
        let ids = destinations.iter().map(|destination| destination.id.clone()).collect();
        let Sealed { passed, name, bytes: sealed_bytes, new } = self.seal_to(&dataset, &file, begun, &copy, ids)?;
        // Q3
        delivery::prepare(&boxes, &target.host, &destinations)?;
        // Q4
        cancel::check()?;
        // If the removal fails too, `recover` does it in the next run.
        let undo = || drop(boxes.unsplit(&target.host, &[&name]));
        // Q5
        commit(&dataset, &new, file.link_as(name.as_ref()), &mut copy, undo)?;
        // Q6
        advance(&new);
        // Q7, Q8
        drop(file);
        let split = boxes.split(&target.host, &[&name], &new.destinations);
        if let Err(e) = split.and_then(|failed| failed.into_iter().next().map_or(Ok(()), |(_, e)| Err(e))) {
            log::error(format_args!("{name} is queued but cannot be delivered now: {e}; the next run tries again"));
        }
        drop(dataset);
        log::info(format_args!("{name}: {} bytes queued as {sealed_bytes}", passed.trailer.bytes));
        // Q9, Q10
        let outcomes = delivery::deliver(&boxes, destinations, true);
        summary::queued(target, &name, passed.trailer.bytes, sealed_bytes, &outcomes);
        delivery::report_forgotten(&boxes, &self.job.dests, true);
        if self.options.json {
            self.tell(&name, sealed_bytes, &passed, &outcomes);
        }
        Ok(Exit::Done)
    }

    /// Seals the whole stream. A producer must also end with an accepted exit status.
    fn seal<W: Write + Send + Sync>(
        &self,
        out: W,
        begun: Begun,
        copy: Option<&StateCopy>,
    ) -> Result<Passed, SealError> {
        let o = self.options;
        // A higher level gains nothing on data that is already compressed or encrypted.
        let dense = |head: &ZfsHead| head.raw || head.compressed;
        let level = if self.manifest.zfs.as_ref().is_some_and(dense) { 1 } else { o.level };
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let wanted = if o.threads == 0 { cores } else { o.threads };
        let how = Sealing {
            recipients: &self.keys.recipients,
            signer: self.keys.signer.as_ref(),
            format: o.format,
            level,
            threads: wanted.min(max_threads(level, o.memory)),
        };
        let progress = Progress::new(&format!("queuing {}", self.job.target), self.length);
        let (_, passed) = seal(out, &how, self.manifest, |sink| {
            let passed = match &self.job.source {
                Source::Producer { argv, .. } => self.produce(argv, copy, begun, sink, &progress)?,
                _ => begun.pass(&mut Interruptible::new(io::stdin()), sink, &progress)?,
            };
            if passed.trailer.bytes == 0 {
                // The program at the other end of the pipe may have died before its first byte.
                return Err(
                    Exit::Data.error("the stream is empty, so nothing is queued: see why its producer wrote nothing")
                );
            }
            Ok(passed)
        })?;
        Ok(passed)
    }

    fn produce(
        &self,
        argv: &[std::ffi::OsString],
        copy: Option<&StateCopy>,
        begun: Begun,
        sink: &mut dyn Write,
        progress: &Progress,
    ) -> anyhow::Result<Passed> {
        let mut child = producer::start(argv, copy.map(StateCopy::path))?;
        let stdout = child.stdout().ok_or_else(|| Exit::Io.error("the producer has no standard output"))?;
        let mut stdout: Box<dyn Read> = Box::new(Interruptible::new(stdout));
        let passed = begun.pass(&mut stdout, sink, progress)?;
        let status = child.wait(None)?;
        if status.code().is_some_and(|code| self.options.producer_ok.contains(&code)) {
            return Ok(passed);
        }
        let (words, remedy) = (child.explanation(), status.code().map(|code| also_ok(&self.options.producer_ok, code)));
        let remedy = remedy.unwrap_or_default();
        Err(Exit::Unavailable.error(format!("the producer failed ({status}), so nothing is queued{words}{remedy}")))
    }

    fn acknowledged(
        &self,
        passed: &Passed,
        file: Option<String>,
        copy: Option<&StateCopy>,
    ) -> anyhow::Result<Acknowledged> {
        let substreams = passed.facts.iter().flat_map(|facts| &facts.substreams);
        let base = self.manifest.zfs.as_ref().and_then(|head| head.from);
        let to: Vec<_> = substreams.map(|s| s.to).collect();
        Ok(Acknowledged {
            chain: self.past.chain.acknowledge(self.place.seq, self.manifest.kind, base, &to),
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            id: self.manifest.id.clone(),
            file,
            producer: copy.map(StateCopy::settle).transpose()?,
            aboard: self.past.aboard.clone(),
            ..Acknowledged::default()
        })
    }

    /// Prints the result as one line of JSON.
    fn tell(&self, name: &str, sealed_bytes: u64, passed: &Passed, outcomes: &[Outcome]) {
        let delivered =
            |o: &Outcome| json!({"to": o.destination.dest, "delivered": o.delivered.iter().any(|n| n == name)});
        let line = json!({
            "host": self.manifest.host,
            "dataset": self.manifest.dataset,
            "file": name,
            "seq": self.manifest.seq,
            "prev": self.manifest.prev,
            "kind": self.manifest.kind,
            "base": self.manifest.base,
            "bytes": passed.trailer.bytes,
            "sealed_bytes": sealed_bytes,
            "sha256": passed.trailer.sha256,
            "to_guid": passed.trailer.to,
            "destinations": outcomes.iter().map(delivered).collect::<Vec<_>>(),
        });
        if let Err(e) = writeln!(io::stdout().lock(), "{line}") {
            log::error(format_args!("standard output: {e}"));
        }
    }
}

/// Returns the remedy for a producer whose exit status `code` does not mean that it failed. `ok` are the statuses that
/// count as success.
fn also_ok(ok: &[i32], code: i32) -> String {
    let list: Vec<String> = ok.iter().chain([&code]).map(i32::to_string).collect();
    let list = list.join(",");
    match code {
        1 => format!("; if it is GNU tar, and files have only changed while it read them: --producer-ok {list}"),
        _ => format!("; if the stream is complete nevertheless: --producer-ok {list}"),
    }
}

/// Replaces the producer's state file after the commit. A failure is only logged: the next run tries again.
fn advance(new: &Acknowledged) {
    if let Some(Err(e)) = new.producer.as_ref().map(producer::Advance::advance) {
        log::error(format_args!("{e:#}; the next run tries again"));
    }
}
