//! Delivery of the files in the outboxes. These are durable already, so a failure here never fails
//! the backup. It is printed as a notice, when it is new and then daily, and `status` shows it.

use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use zsnap_common::cli::cancel::Cancelled;
use zsnap_common::cli::log;
use zsnap_common::cli::report;
use zsnap_common::durable::dest::{Courier, Delivered, Dest, Transport, hangs};
use zsnap_common::durable::notices::Notices;
use zsnap_common::durable::outbox::{Amount, DrainOptions, Drained, Outboxes};
use zsnap_common::durable::publish;
use zsnap_common::locks::flock;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Host;

use crate::destination::{self, Destination};
use crate::pipeline::io_failed;
use crate::saved::{self, Saved};

/// A delivery that takes longer is reported.
const HUNG: Duration = Duration::from_secs(24 * 3600);
/// For how many seconds the bare command leaves a destination that hung to `flush`, because simplesnap
/// waits for the bare command.
const LEFT_TO_FLUSH: u64 = 24 * 3600;
/// The file that records the notices of a failing destination.
const TOLD: &str = ".told.json";
/// The prefix that keeps the notices of the bare command apart from those of `flush`: simplesnap sends
/// the standard error of the bare command only to syslog, where possibly nobody reads it.
const OF_BARE: &str = "bare/";
/// The notice that files wait for a destination that is not configured.
const FORGOTTEN: &str = "not configured";
/// The notice that files wait on the drive without their places.
const ABOARD: &str = "aboard";

/// Adds to `destinations` the destinations that are not in it but have an outbox, as they were when it was
/// filled. A destination whose `.dest.json` cannot be read is reported and left out.
pub fn all(
    boxes: &Outboxes,
    destinations: Vec<Destination>,
    transport: &Transport,
) -> anyhow::Result<Vec<Destination>> {
    let mut destinations = destinations;
    let none_configured = destinations.is_empty();
    for id in boxes.names().context("cannot read the outbox")? {
        if destinations.iter().any(|destination| destination.id == id) {
            continue;
        }
        match Saved::read(&boxes.dir(&id)) {
            Ok(Saved { dest, user, nncp_config, nice, max_file, .. }) => {
                let transport = Transport { user, nncp_config, nice, max_file, ..transport.clone() };
                destinations.push(Destination { id, dest, transport, configured: none_configured });
            }
            Err(e) => log::error(format_args!("{e:#}: name the destination with --to")),
        }
    }
    Ok(destinations)
}

/// Creates an outbox for `host` at each destination, durably, before anything refers to it.
pub fn prepare(boxes: &Outboxes, host: &Host, destinations: &[Destination]) -> anyhow::Result<()> {
    for destination in destinations {
        boxes.make(&destination.id, host).map_err(io_failed("cannot make an outbox"))?;
        // Do not look at the destination: that may hang, and the stream is not durable yet.
        Saved::change(&boxes.dir(&destination.id), destination, |_| ()).map_err(io_failed("cannot fill an outbox"))?;
    }
    Ok(())
}

/// The result of delivering to a destination.
pub struct Outcome {
    pub destination: Destination,
    /// The names of the files that were delivered.
    pub delivered: Vec<String>,
    /// Whether a notice was printed: the destination failed, and that is new or was last printed a day ago.
    pub reported: bool,
}

/// Delivers what waits in each destination. All destinations run in parallel, so that one that hangs does not delay
/// the others. `bare` is whether the bare command runs, rather than `flush`.
pub fn deliver(boxes: &Outboxes, destinations: Vec<Destination>, bare: bool) -> Vec<Outcome> {
    all_at_once(destinations, |destination| deliver_to(boxes, destination, bare))
}

/// Runs `work` for all destinations in parallel, and returns an outcome for each, even if its thread panics.
fn all_at_once(destinations: Vec<Destination>, work: impl Fn(Destination) -> Outcome + Sync) -> Vec<Outcome> {
    let died = |destination: Destination| {
        log::error(format_args!(
            "not delivered to {}, the next run tries again: its thread died, which is a defect of zsnap-queue",
            destination.dest
        ));
        Outcome { destination, delivered: Vec::new(), reported: true }
    };
    let work = &work;
    thread::scope(|scope| {
        let start = |destination: Destination| (destination.clone(), scope.spawn(move || work(destination)));
        let running: Vec<_> = destinations.into_iter().map(start).collect();
        running.into_iter().map(|(destination, thread)| thread.join().unwrap_or_else(|_| died(destination))).collect()
    })
}

/// Delivers what waits in a destination. Returns `None` if the destination hung lately and is left to `flush`.
fn drain(boxes: &Outboxes, destination: &Destination, bare: bool) -> Option<Drained> {
    let dir = boxes.dir(&destination.id);
    let transport = saved::transport(&dir, &destination.transport);
    let mut courier = Courier::new(&destination.dest, &transport, &dir);
    let hung = courier.hung_at().and_then(|at| report::ago(at, clock()));
    if bare && hung.is_some_and(|age| age < LEFT_TO_FLUSH) {
        return None;
    }
    if let Err(e) = publish::sweep(&dir) {
        return Some(Drained::broken(e.into()));
    }
    let options = DrainOptions { at_once: destination.dest.at_once(), keep: None, last: courier.last() };
    Some(boxes.drain(&destination.id, None, options, &mut |items| {
        if let Some(away) = saved::recognise(&dir, destination, &mut courier)? {
            return Ok(vec![Ok(Delivered::Away(away))]);
        }
        courier.deliver(items)
    }))
}

fn deliver_to(boxes: &Outboxes, destination: Destination, bare: bool) -> Outcome {
    let dir = boxes.dir(&destination.id);
    let Some(drained) = drain(boxes, &destination, bare) else {
        log::info(format_args!("{} hung: what waits there is left to zsnap-queue flush", destination.dest));
        return Outcome { destination, delivered: Vec::new(), reported: false };
    };
    for name in &drained.delivered {
        log::info(format_args!("{name} was delivered to {}", destination.dest));
    }
    let stopped = |e: &anyhow::Error| Cancelled::find(e).is_some();
    // The file, or "" for the destination as a whole, and the message.
    let mut problems: Vec<(&str, String)> = Vec::new();
    problems.extend(drained.broken.iter().filter(|e| !stopped(e)).map(|e| ("", format!("{e:#}"))));
    problems.extend(drained.away.iter().map(|why| ("", format!("away: {why}"))));
    for (name, e) in drained.failed.iter().filter(|(_, e)| !stopped(e)) {
        problems.push(match hangs(e) {
            // A problem of the destination as a whole: the file with which it hangs differs from run to run.
            true => {
                log::info(format_args!("{name} was given to {} when that hung", destination.dest));
                ("", format!("{e:#}"))
            }
            false => (name, format!("{name}: {e:#}")),
        });
    }
    let (age, who) = flock::holder(&boxes.lock(&destination.id));
    if drained.busy && age > HUNG {
        let hours = age.as_secs() / 3600;
        problems.push(("", format!("{who} has been at it for {hours} hours: check what it is doing, then kill it")));
    }
    let reported = match drained.broken.iter().chain(drained.failed.iter().map(|(_, e)| e)).any(stopped) {
        true => {
            log::info(format_args!("delivery to {} was stopped; the next run goes on", destination.dest));
            false
        }
        false => report_problems(&dir, &destination.dest, &problems, drained.busy, bare),
    };
    Outcome { destination, delivered: drained.delivered, reported }
}

/// Returns the destinations for which files wait although they are not in `configured`.
pub fn forgotten(boxes: &Outboxes, configured: &[Dest]) -> anyhow::Result<Vec<(Destination, Amount)>> {
    let known = destination::configured(configured, &Transport::default());
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for id in boxes.names().context("cannot read the outbox")? {
        let waiting: Amount = boxes.waiting(&id).context("cannot read the outbox")?.iter().collect();
        // `all` reports a destination that cannot be read.
        let saved = Saved::read(&boxes.dir(&id)).ok().filter(|_| waiting.files > 0);
        if let Some(saved) = saved.filter(|_| known.iter().all(|known| known.id != id)) {
            found.push((
                Destination { id, dest: saved.dest, transport: Transport::default(), configured: false },
                waiting,
            ));
        }
    }
    Ok(found)
}

/// Returns what to do about the files that wait for a destination that is not configured.
pub fn not_configured(waiting: Amount, old: &Dest, configured: &[Dest]) -> String {
    let new = configured.first().map_or_else(|| "NEW".to_owned(), |new| quoted(&new.to_string()));
    let name = quoted(&old.to_string());
    format!(
        "{} for {}, which is not in the configuration: if it was misspelt or replaced, zsnap-queue redirect {name} {new}; \
         if its files are not wanted any more, zsnap-queue drop {name}",
        waiting.waits(),
        old
    )
}

/// Reports the destinations for which files wait although they are not in `configured`.
pub fn report_forgotten(boxes: &Outboxes, configured: &[Dest], bare: bool) {
    for (old, waiting) in forgotten(boxes, configured).unwrap_or_default() {
        let text = not_configured(waiting, &old.dest, configured);
        let dir = boxes.dir(&old.id);
        let mut notices = Notices::read(dir.join(TOLD), clock(), false);
        notices.problem_in_words(&format!("{}{FORGOTTEN}", if bare { OF_BARE } else { "" }), &text);
        // Keep the notices of failed deliveries.
        if let Err(e) = notices.write(|what| what != format!("{}{FORGOTTEN}", if bare { OF_BARE } else { "" })) {
            log::info(format_args!("{e:#}"));
        }
    }
}

/// Reports the files that wait on the drives of these destinations without their places. Returns whether a notice of a
/// configured destination was printed.
pub fn report_left(boxes: &Outboxes, outcomes: &[Outcome], left: &[(&Dest, &str)]) -> bool {
    let mut any = false;
    for Destination { id, dest, configured, .. } in outcomes.iter().map(|outcome| &outcome.destination) {
        let mut notices = Notices::read(boxes.dir(id).join(TOLD), clock(), false);
        for (_, text) in left.iter().filter(|(of, _)| *of == dest) {
            notices.problem_in_words(ABOARD, text);
        }
        if let Err(e) = notices.write(|what| what != ABOARD) {
            log::info(format_args!("{e:#}"));
        }
        any |= notices.any && *configured;
    }
    any
}

/// Returns the current time in seconds since 1970.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Prints the problems that are new, have another text, or were last printed a day ago. Returns whether any was.
fn report_problems(dir: &Path, dest: &Dest, problems: &[(&str, String)], busy: bool, bare: bool) -> bool {
    let mut notices = Notices::read(dir.join(TOLD), clock(), false);
    for (what, problem) in problems {
        let line = format!("not delivered to {dest}, the next run tries again: {problem}");
        notices.problem_in_words(&format!("{}{what}", if bare { OF_BARE } else { "" }), &line);
    }
    // Keep the record while another process delivers there, which reports for itself. Keep the notices
    // of the other command for as long as their problem lasts.
    let lasts = |what: &str| what == FORGOTTEN || problems.iter().any(|(problem, _)| what == *problem);
    let of_other = |what: &str| match what.strip_prefix(OF_BARE) {
        Some(what) => !bare && lasts(what),
        None => bare && lasts(what),
    };
    if let Err(e) = notices.write(|what| busy || what == FORGOTTEN || what == ABOARD || of_other(what)) {
        // Harmless: the next run prints the notices again.
        log::info(format_args!("{e:#}"));
    }
    notices.any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::configured;
    use std::fs;
    use zsnap_common::durable::dest::mark::MARKER;
    use zsnap_common::durable::publish::make_dirs;

    const NAME: &str = "bakfsfmt2-1700000000.000000001.1_h@a";

    #[test]
    fn an_outbox_is_drained_after_its_removal_from_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let boxes = Outboxes::new(dir.path().join("split"), dir.path().join("to"));
        let host: Host = "h".parse().unwrap();
        let drive = dir.path().join("drive");
        let transport = Transport { nice: Some("B".into()), ..Transport::default() };
        let destinations = configured(&[Dest::Dir(drive.clone())], &transport);
        prepare(&boxes, &host, &destinations).unwrap();
        make_dirs(&boxes.split_dir(&host)).unwrap();
        fs::write(boxes.split_dir(&host).join(NAME), "x").unwrap();
        boxes.split(&host, &[NAME], &[destinations[0].id.clone()]).unwrap();

        let other = configured(&["cmd:true".parse().unwrap()], &Transport::default());
        let found = all(&boxes, other, &Transport::default()).unwrap();
        let old = found.iter().find(|destination| !destination.configured).unwrap();
        assert_eq!((&old.dest, old.transport.nice.as_deref()), (&destinations[0].dest, Some("B")));

        // While the destination is away, each of the two commands prints the notice once, because their readers may
        // differ.
        let outcome = |destination: &Destination| deliver(&boxes, vec![destination.clone()], false).remove(0);
        let bare = || deliver(&boxes, vec![old.clone()], true).remove(0).reported;
        assert!(bare() && !bare());
        let first = outcome(old);
        assert!(first.reported && first.delivered.is_empty());
        assert!(!outcome(old).reported && !bare() && !outcome(old).reported);
        // A change of the cause is printed.
        fs::write(&drive, "").unwrap();
        assert!(outcome(old).reported && !outcome(old).reported);
        fs::remove_file(&drive).unwrap();
        assert_eq!(boxes.waiting(&old.id).unwrap().len(), 1);
        // The drive is new, so it needs a mark.
        fs::create_dir(&drive).unwrap();
        assert!(outcome(old).reported && !outcome(old).reported && fs::read_dir(&drive).unwrap().count() == 0);
        fs::write(drive.join(MARKER), "disk1\n").unwrap();
        let third = outcome(old);
        assert_eq!(third.delivered, [NAME]);
        assert!(drive.join("h").join(NAME).exists());
        assert_eq!(fs::read_to_string(boxes.dir(&old.id).join(TOLD)).unwrap(), "{}\n");
    }

    #[test]
    fn a_thread_that_panics_is_an_error_of_its_destination() {
        let destinations =
            configured(&["cmd:true".parse().unwrap(), "cmd:false".parse().unwrap()], &Transport::default());
        let outcomes = all_at_once(destinations, |destination| {
            assert!(destination.dest.to_string() != "cmd:false", "as if it had a defect");
            Outcome { destination, delivered: vec![NAME.into()], reported: false }
        });
        let notices = |o: &Outcome| (o.destination.dest.to_string(), o.reported, o.delivered.len());
        assert_eq!(
            outcomes.iter().map(notices).collect::<Vec<_>>(),
            [("cmd:true".to_owned(), false, 1), ("cmd:false".to_owned(), true, 0)]
        );
    }

    #[test]
    fn a_delivery_that_hangs_is_reported_by_each_command_once() {
        let dir = tempfile::tempdir().unwrap();
        let boxes = Outboxes::new(dir.path().join("split"), dir.path().join("to"));
        let destinations = configured(&["cmd:true".parse().unwrap()], &Transport::default());
        prepare(&boxes, &"h".parse().unwrap(), &destinations).unwrap();
        fs::write(boxes.dir(&destinations[0].id).join("h").join(NAME), "x").unwrap();
        let path = boxes.lock(&destinations[0].id);
        let lock = flock::Lock::try_new(&path).unwrap().unwrap();
        let outcome = |bare| deliver(&boxes, destinations.clone(), bare).remove(0);
        assert!(!outcome(false).reported);
        let since = SystemTime::now() - HUNG - Duration::from_secs(60);
        fs::File::options().write(true).open(&path).unwrap().set_modified(since).unwrap();
        assert!(outcome(true).reported && outcome(false).reported && !outcome(false).reported);
        drop(lock);
        assert_eq!(outcome(false).delivered, [NAME]);
    }
}
