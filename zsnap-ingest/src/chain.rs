//! The status of each target: what arrived last, what waits, the worst state of its files, and what to do. It uses the
//! same data as a run, but decrypts nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};

use zsnap_common::cli::report;
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::names::part::Part;
use zsnap_common::names::queue_name::{Entry as Name, Label, QueueName, classify};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::stored::name_of;
use zsnap_common::names::target::Host;

use crate::config::Config;
use crate::host::HostRun;
use crate::known::{Entry, Knowledge};
use crate::plan::{Applied, Past, Standing, State};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::{beside, journal, quarantine, run};

const INCOMING_AWAY: &str = "the incoming directory is absent";

/// The status of one target, or of a host that has none.
#[derive(Debug, Default)]
pub struct Chain {
    /// The worst state of its files.
    pub state: State,
    /// What to do; empty: nothing.
    pub remedy: String,
    /// When the newest snapshot or file that was received was made: seconds since 1970.
    pub newest: Option<u64>,
    /// The name of the newest snapshot.
    pub snapshot: Option<String>,
    /// For a host without targets: when a file last arrived, or the host was first seen. Seconds since 1970.
    pub came: Option<u64>,
    /// The number of files that were not applied.
    pub files: u64,
    /// The total size of these files in bytes.
    pub bytes: u64,
    /// When the oldest of these files arrived: seconds since 1970.
    pub oldest: Option<u64>,
    /// The number of files in quarantine.
    pub quarantined: u64,
    /// The highest number of failures of any of the files.
    pub attempts: u32,
}

impl Chain {
    /// Counts a file that was not applied.
    pub fn waits(&mut self, entry: &Entry) {
        self.files += 1;
        self.bytes += entry.seen.size;
        self.oldest = Some(self.oldest.map_or(entry.first, |oldest| oldest.min(entry.first)));
        self.attempts = self.attempts.max(entry.attempts);
    }

    /// Counts a file that is here: as one in quarantine if it is bad, and not at all if it was applied.
    fn counts(&mut self, entry: &Entry, is_kept: bool) {
        match &entry.what {
            Knowledge::Bad(_) => self.quarantined += 1,
            _ if is_kept => {}
            _ => self.waits(entry),
        }
    }

    /// Sets the state and remedy if the state is worse; if it is equal, only in place of an empty remedy.
    pub fn is(&mut self, state: State, remedy: impl Into<String>) {
        if state > self.state || state == self.state && self.remedy.is_empty() {
            (self.state, self.remedy) = (state, remedy.into());
        }
    }

    /// Adds a sentence to the remedy.
    pub fn also(&mut self, sentence: &str) {
        let before = if self.remedy.is_empty() { "" } else { "; " };
        self.remedy += &format!("{before}{sentence}");
    }

    /// Returns a sentence for each thing that is late: nothing new was received, or a file has waited, for longer than
    /// `max`. A target without any date is late if no file waits, unless it is away: then nobody knows how new its data
    /// is. `host` is the host that sends it.
    pub fn late(&self, host: &str, max: Duration, now: u64) -> Vec<String> {
        let late = |time: &u64| report::is_late(*time, now, max);
        let still = format!("see whether {host} still sends it");
        let newest = match self.newest.or(self.came) {
            None if self.files == 0 && self.state != State::Away => Some(format!("nothing was ever received; {still}")),
            newest => newest.filter(late).map(|time| format!("nothing new {}; {still}", report::since(time, now))),
        };
        let oldest = self.oldest.filter(late).map(|time| format!("a file has waited {}", report::since(time, now)));
        newest.into_iter().chain(oldest).collect()
    }
}

/// Collects the rows by HOST/DATASET, by `HOST/~DIGEST` if only the sender knows the dataset, and by `HOST/-` for a
/// host without any.
pub fn gather(shared: &Shared<'_>) -> Result<BTreeMap<String, Chain>> {
    let config = shared.config;
    let mut rows = BTreeMap::new();
    let mut hosts = run::survey(shared)?;
    if let Some(pool) = &shared.pool {
        from_journals(config, pool, &mut rows)?;
        for host in pool.hosts() {
            if !hosts.iter().any(|run| *run.host() == host) {
                hosts.push(HostRun::open(shared, host, Vec::new(), false)?);
            }
        }
    }
    for host in &mut hosts {
        if let Err(e) = received(host, &mut rows) {
            shared.passed(host.host(), e)?;
        }
    }
    for table in &config.commands {
        match beside::read(&table.target) {
            Ok(all) => {
                for (name, applied) in all {
                    let row: &mut Chain = rows.entry(name).or_default();
                    let done = if applied.applying { applied.before.as_deref() } else { Some(&applied) };
                    row.newest = row.newest.max(done.map(Applied::made));
                }
            }
            Err(e) => shared.passed(table.target.display(), e)?,
        }
    }
    for host in &mut hosts {
        if let Err(e) = pending(shared, host, &mut rows) {
            shared.passed(host.host(), e)?;
        }
    }
    for root in config.incoming.iter().map(|path| path.as_path()).chain([config.state.join("exec").as_path()]) {
        in_quarantine(root, &mut rows)?;
    }
    hosts.iter().for_each(|host| as_a_whole(shared, host, &mut rows));
    Ok(rows)
}

/// Adds the datasets in the journals of a pool: those that are on the pool replace them.
fn from_journals(config: &Config, pool: &Pool<'_>, rows: &mut BTreeMap<String, Chain>) -> Result<()> {
    for (name, path) in journal::of_pool(&config.state, pool.guid)? {
        // `forget` empties the journal. The file name of a long dataset's journal does not contain the dataset; the
        // pool shows it.
        let forgotten = journal::read::<Past>(&path).is_ok_and(|past| past.is_none_or(|p| p.committed.is_empty()));
        if !forgotten && !name.contains('~') {
            let forget = format!("zsnap-ingest forget {}", quoted(&name));
            let remedy = format!("is not on the pool any more; to forget it: {forget}");
            rows.insert(name, Chain { state: State::Gone, remedy, ..Chain::default() });
        }
    }
    Ok(())
}

/// Adds what is known of a host and not of a single chain.
fn as_a_whole(shared: &Shared<'_>, host: &HostRun<'_>, rows: &mut BTreeMap<String, Chain>) {
    let (name, inbox) = (host.host(), host.inbox());
    let is_configured = shared.config.hosts.contains_key(name);
    if is_configured && !rows.keys().any(|row| host_of(row) == name.as_str()) {
        let last_came = inbox.last_came();
        let row = rows.entry(format!("{name}/-")).or_default();
        row.came = Some(last_came);
        let known = last_came != shared.seconds();
        let since = if known { format!("since {}", report::time(last_came)) } else { "yet".into() };
        let state = shared.away().map_or(State::Ok, |away| away.state());
        row.is(state, format!("nothing came {since}"));
    }
    if inbox.beyond() > 0 {
        let what = format!(
            "{} more queue files lie here than a run looks at; they wait until others are gone",
            inbox.beyond()
        );
        rows.entry(format!("{name}/-")).or_default().is(State::Held, what);
    }
    // Nobody can know now what the directory contains.
    if inbox.is_away() && is_configured {
        for (_, row) in rows.iter_mut().filter(|(row, _)| host_of(row) == name.as_str()) {
            row.is(State::Away, INCOMING_AWAY);
        }
    }
}

/// Adds the datasets of a host that are on the pool.
fn received(host: &mut HostRun<'_>, rows: &mut BTreeMap<String, Chain>) -> Result<()> {
    if host.inbox().is_empty() {
        host.load_tree()?;
    }
    let tree = host.tree();
    for target in tree.targets(host.host()) {
        let newest = tree.snapshots(&tree.name(&target)).last();
        let (newest, snapshot) = newest.map(|s| (s.creation, s.name.clone())).unzip();
        rows.insert(target.to_string(), Chain { newest, snapshot, ..Chain::default() });
    }
    Ok(())
}

/// Adds the files of a host that wait, including those in an incoming directory that is away.
fn pending(shared: &Shared<'_>, host: &mut HostRun<'_>, rows: &mut BTreeMap<String, Chain>) -> Result<()> {
    for (at, standing) in host.standings()? {
        let file = host.inbox().file(at);
        let row = row_of(rows, host.host(), file.entry(), file.queue());
        row.counts(file.entry(), standing == Standing::Kept);
        row.is(standing.state(), standing.message(shared.is_long(file.entry().first)));
    }
    for (key, entry) in host.inbox().absent() {
        let file = key.rsplit_once('/').map_or(key.as_str(), |(_, file)| file);
        if let Name::Queue(queue) = classify(file.as_bytes()) {
            let row = row_of(rows, host.host(), entry, &queue);
            row.counts(entry, entry.kept);
            row.is(State::Away, INCOMING_AWAY);
        }
    }
    Ok(())
}

fn row_of<'r>(rows: &'r mut BTreeMap<String, Chain>, host: &Host, entry: &Entry, queue: &QueueName) -> &'r mut Chain {
    let name = match &entry.what {
        Knowledge::Facts(facts) => facts.target.to_string(),
        _ => named(rows, host, queue),
    };
    rows.entry(name).or_default()
}

/// Returns the row for the name of a file. The file may be a copy that NNCP has named `NAME.N`.
fn named(rows: &BTreeMap<String, Chain>, host: &Host, queue: &QueueName) -> String {
    let name = |queue: &QueueName| match &queue.label {
        Label::Dataset(dataset) => format!("{host}/{dataset}"),
        digest => format!("{host}/{digest}"),
    };
    // Of the readings that have a row, the shortest; if none has one, the name as it is.
    let known = queue.readings().map(|queue| name(&queue)).filter(|name| rows.contains_key(name)).last();
    known.unwrap_or_else(|| name(queue))
}

fn in_quarantine(root: &Path, rows: &mut BTreeMap<String, Chain>) -> Result<()> {
    let root = match Incoming::open(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.or_exit(Exit::Io, "--incoming")?,
    };
    for (host, file, why) in quarantine::list(&root)? {
        let (Some(host), Name::Queue(queue)) = (Host::of_directory(&host), classify(file.as_encoded_bytes())) else {
            continue;
        };
        let row = rows.entry(named(rows, &host, &queue)).or_default();
        row.quarantined += 1;
        let file = name_of(&file);
        // All parts come back together.
        let file = Part::parse(&file).map_or(&*file, |part| part.whole);
        let retry = format!("zsnap-ingest retry {}", quoted(file));
        row.is(State::Quarantined, format!("{file} is in quarantine: {why}; {retry}, or remove it"));
    }
    Ok(())
}

/// Returns the host of a row.
pub fn host_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_of_equals_the_first() {
        let mut row = Chain::default();
        row.is(State::Waiting, "");
        row.is(State::Waiting, "for a base");
        row.is(State::Waiting, "for another");
        row.is(State::New, "");
        assert_eq!((row.state, row.remedy.as_str()), (State::Waiting, "for a base"));
        row.is(State::Broken, "gone");
        assert_eq!((row.state, row.remedy.as_str()), (State::Broken, "gone"));
        assert!(
            [State::Ok, State::Quarantined, State::Failed].iter().all(|s| s.word() == format!("{s:?}").to_lowercase())
        );
        assert_eq!(State::Failed as usize + 1, State::WORDS.len());
    }

    #[test]
    fn late_is_what_did_not_come_and_what_was_not_applied() {
        let late = |row: Chain| !row.late("laptop", Duration::from_secs(100), 1000).is_empty();
        assert!(!late(Chain { newest: Some(900), ..Chain::default() }));
        assert!(late(Chain { newest: Some(899), ..Chain::default() }));
        assert!(late(Chain { newest: Some(999), oldest: Some(899), files: 1, ..Chain::default() }));
        assert!(late(Chain { came: Some(899), ..Chain::default() }));
        // Nothing ever arrived; a file waits, but not for long; the target is away, so nobody can know.
        assert!(late(Chain::default()));
        assert!(!late(Chain { oldest: Some(950), files: 1, ..Chain::default() }));
        assert!(!late(Chain { state: State::Away, ..Chain::default() }));
        // A clock was ahead: nobody can know the age, and without an alarm there would be silence until that time has
        // come.
        let ahead = 1000 + 86_401;
        assert!(late(Chain { newest: Some(ahead), ..Chain::default() }));
        assert!(late(Chain { newest: Some(u64::MAX), ..Chain::default() }));
        assert!(late(Chain { newest: Some(999), oldest: Some(ahead), files: 1, ..Chain::default() }));
        assert!(late(Chain { came: Some(ahead), ..Chain::default() }));
        // Each has its sentence.
        let both = Chain { newest: Some(899), oldest: Some(ahead), files: 1, ..Chain::default() };
        let told = both.late("laptop", Duration::from_secs(100), 1000).join("; ");
        assert!(
            told.starts_with("nothing new since 1970-01-01 00:14:59Z, longer than max-age; see whether laptop"),
            "{told}"
        );
        assert!(
            told.ends_with("; a file has waited since 1970-01-02 00:16:41Z, a future time: set the clock if it is wrong; what comes next has the right time"),
            "{told}"
        );
    }
}
