//! `status`: reports the state of every chain. It uses the same data as `run`, but decrypts nothing, changes nothing,
//! and takes no lock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{self, Cell, Column, Report};
use zsnap_common::durable::incoming::{Incoming, shown};
use zsnap_common::durable::success;
use zsnap_common::names::queue_name::{Entry as Name, Label, QueueName, classify};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Host;

use crate::beside;
use crate::chain::{Chain, State};
use crate::cli::{Only, StatusOptions};
use crate::config::Config;
use crate::file::INCOMING;
use crate::host::HostRun;
use crate::host::judge::Judgement;
use crate::known::{Entry, What};
use crate::plan::{Applied, Past, Verdict};
use crate::shared::Shared;
use crate::{journal, needed, quarantine, run};

const INCOMING_AWAY: &str = "the incoming directory is absent";

/// Prints the report. Returns 1 if something needs attention.
pub fn status(config: &Config, asked: &StatusOptions, json: bool, now: SystemTime) -> Result<Exit> {
    let shared = Shared::new(config, now, true)?;
    if asked.needed_file {
        return needed_file(&shared);
    }
    let now = shared.seconds();
    let mut rows = gather(&shared)?;
    let is = |only: &Only, name: &str| match only {
        Only::Host(host) => host_of(name) == host.as_str(),
        Only::Target(target) => *name == target.to_string(),
    };
    rows.retain(|name, _| asked.only.is_empty() || asked.only.iter().any(|only| is(only, name)));
    if asked.common.max_age.is_some() {
        add_absent(&mut rows, asked, is);
    }
    let mut attention = false;
    for (name, row) in &mut rows {
        let host = host_of(name);
        let of_host = || config.hosts.iter().find(|(h, _)| h.as_str() == host).and_then(|(_, table)| table.max_age);
        let max = asked.common.max_age.or_else(of_host);
        let sender = if host == "-" { "any host" } else { host };
        let mut sentences = max.map_or(Vec::new(), |max| row.late(sender, max, now));
        if row.oldest.is_some_and(|oldest| shared.is_long(oldest)) && row.state != State::Away {
            sentences.push("a file has waited for longer than max-wait; zsnap-ingest plan shows each file".to_owned());
        }
        if row.state.needs_attention() && row.remedy.is_empty() {
            sentences.push("zsnap-ingest plan shows each file".to_owned());
        }
        attention |= row.state.needs_attention() || !sentences.is_empty();
        sentences.iter().for_each(|sentence| row.also(sentence));
    }
    shared.notices().any = attention;
    let report = Report { succeeded: success::last(&config.state), ..table(&rows, now) };
    asked.common.print(&report, json, shared.exit())
}

/// Adds a row for each operand of which nothing is known, or for all if there is none: who asks for one expects it.
fn add_absent(rows: &mut BTreeMap<String, Chain>, asked: &StatusOptions, is: impl Fn(&Only, &str) -> bool) {
    let absent = asked.only.iter().filter(|only| !rows.keys().any(|name| is(only, name)));
    let mut names: Vec<String> = absent
        .map(|only| match only {
            Only::Host(host) => format!("{host}/-"),
            Only::Target(target) => target.to_string(),
        })
        .collect();
    if asked.only.is_empty() && rows.is_empty() {
        names.push("-".to_owned());
    }
    rows.extend(names.into_iter().map(|name| (name, Chain::default())));
}

fn needed_file(shared: &Shared<'_>) -> Result<Exit> {
    let Some(pool) = &shared.pool else {
        return Err(Exit::SomeFailed.error("no pool is here, or no store is configured"));
    };
    let path = needed::path(&shared.config.state, pool.guid);
    if !path.exists() {
        return Err(Exit::SomeFailed.error(format!("{} is missing; zsnap-ingest run writes it", path.display())));
    }
    let mut line = path.into_os_string().into_encoded_bytes();
    line.push(b'\n');
    io::stdout().lock().write_all(&line).or_exit(Exit::Io, "stdout")?;
    Ok(Exit::Done)
}

fn host_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// Collects the rows by HOST/DATASET, by `HOST/~DIGEST` if only the sender knows the dataset, and by `HOST/-` for a
/// host without any.
fn gather(shared: &Shared<'_>) -> Result<BTreeMap<String, Chain>> {
    let config = shared.config;
    let mut rows = BTreeMap::new();
    let mut hosts = run::survey(shared)?;
    if let Some(pool) = &shared.pool {
        for (name, path) in journal::of_pool(&config.state, pool.guid)? {
            // `adopt` empties the journal. The file name of a long dataset's journal does not contain the dataset; the
            // pool shows it.
            let forgotten = journal::read::<Past>(&path).is_ok_and(|past| past.is_none_or(|p| p.committed.is_empty()));
            if !forgotten && !name.contains('~') {
                let mut row = Chain::default();
                let adopt = format!("zsnap-ingest adopt {}", quoted(&name));
                row.is(State::Gone, format!("is not on the pool any more; to forget it: {adopt}"));
                rows.insert(name, row);
            }
        }
        for host in pool.hosts() {
            if !hosts.iter().any(|run| run.host == host) {
                hosts.push(HostRun::open(shared, host, Vec::new(), false)?);
            }
        }
    }
    for host in &mut hosts {
        if let Err(e) = received(host, &mut rows) {
            shared.passed(&host.host, e)?;
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
        if let Err(e) = pending(host, &mut rows) {
            shared.passed(&host.host, e)?;
        }
    }
    for root in config.incoming.iter().map(|path| path.as_path()).chain([config.state.join("exec").as_path()]) {
        in_quarantine(root, &mut rows)?;
    }
    for host in hosts.iter().filter(|host| config.hosts.contains_key(&host.host)) {
        if !rows.keys().any(|name| host_of(name) == host.host.as_str()) {
            let row = rows.entry(format!("{}/-", host.host)).or_default();
            row.came = Some(host.last_came);
            let known = host.last_came != shared.seconds();
            let since = if known { format!("since {}", report::time(host.last_came)) } else { "yet".into() };
            let state = if shared.is_pool_away() { State::Away } else { State::Ok };
            row.is(state, format!("nothing came {since}"));
        }
    }
    for host in &hosts {
        if host.beyond > 0 {
            let row = rows.entry(format!("{}/-", host.host)).or_default();
            let what = format!(
                "{} more queue files lie here than a run looks at; they wait until others are gone",
                host.beyond
            );
            row.is(State::Held, what);
        }
        // Nobody can know now what the directory contains.
        if host.is_away && config.hosts.contains_key(&host.host) {
            for (_, row) in rows.iter_mut().filter(|(name, _)| host_of(name) == host.host.as_str()) {
                row.is(State::Away, INCOMING_AWAY);
            }
        }
    }
    Ok(rows)
}

/// Adds the datasets of a host that are on the pool.
fn received(host: &mut HostRun<'_>, rows: &mut BTreeMap<String, Chain>) -> Result<()> {
    if host.files.is_empty() {
        host.load_tree()?;
    }
    for target in host.tree.targets(&host.host) {
        let newest = host.tree.snapshots(&host.tree.name(&target)).last();
        let (newest, snapshot) = newest.map(|s| (s.creation, s.name.clone())).unzip();
        rows.insert(target.to_string(), Chain { newest, snapshot, ..Chain::default() });
    }
    Ok(())
}

/// Adds the files of a host that wait, including those in an incoming directory that is away.
fn pending(host: &mut HostRun<'_>, rows: &mut BTreeMap<String, Chain>) -> Result<()> {
    for (at, judgement) in host.judge_all()? {
        let state = State::of(host, at, &judgement);
        let file = &host.files[at];
        let remedy = match judgement {
            _ if state == State::Failed => file.entry.failed_over(&shown(&file.name)),
            Judgement::Is(verdict) => host.remedy(file.entry.first, &verdict).unwrap_or_else(|| match verdict {
                Verdict::Waiting { why, .. } => format!("waiting {why}"),
                _ => String::new(),
            }),
            Judgement::Later(_) if host.is_away(at) => "its pool is absent".into(),
            Judgement::Later(_) if state == State::New => String::new(),
            Judgement::Later(why) | Judgement::Held(why) | Judgement::Ignored(why) => why,
            Judgement::Failed => String::new(),
        };
        let row = row_of(rows, &host.host, &file.entry, &file.queue);
        row.waits(&file.entry);
        row.is(state, remedy);
    }
    for (key, entry) in &host.absent {
        if let Name::Queue(queue) = classify(key.trim_start_matches(INCOMING).as_bytes()) {
            let row = row_of(rows, &host.host, entry, &queue);
            row.waits(entry);
            row.is(State::Away, INCOMING_AWAY);
        }
    }
    Ok(())
}

fn row_of<'r>(rows: &'r mut BTreeMap<String, Chain>, host: &Host, entry: &Entry, queue: &QueueName) -> &'r mut Chain {
    let name = match &entry.what {
        What::Says(facts) => facts.target.to_string(),
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
        let (Ok(host), Name::Queue(queue)) = (shown(&host).parse(), classify(file.as_encoded_bytes())) else {
            continue;
        };
        let row = rows.entry(named(rows, &host, &queue)).or_default();
        row.quarantined += 1;
        let file = shown(&file);
        let retry = format!("zsnap-ingest retry {}", quoted(&file));
        row.is(State::Quarantined, format!("{file} is in quarantine: {why}; {retry}, or remove it"));
    }
    Ok(())
}

const COLUMNS: [Column; 13] = [
    Column::new("dataset", "DATASET").label("dataset"),
    Column::new("state", "STATE").metric("state", "Whether the dataset is in this state."),
    Column::new("newest", "NEWEST").metric(
        "newest_timestamp_seconds",
        "When the newest snapshot or file that was received was made, in seconds since 1970.",
    ),
    Column::new("age", ""),
    Column::new("waiting_files", "WAITING").metric("waiting_files", "Files that were not applied."),
    Column::new("waiting_bytes", "BYTES").metric("waiting_bytes", "Size of the files that were not applied."),
    Column::new("waiting_oldest", "")
        .metric("waiting_oldest_timestamp_seconds", "When the oldest of the files that were not applied arrived."),
    Column::new("waiting_age", "AGE"),
    Column::new("quarantined", "QUARANTINED").metric("quarantined_files", "Files in quarantine."),
    Column::new("attempts", "").metric("failed_attempts", "How often a program or disk failed on one of the files."),
    Column::new("snapshot", ""),
    Column::new("remedy", ""),
    Column::new("note", ""),
];

fn table(rows: &BTreeMap<String, Chain>, now: u64) -> Report {
    let cells = |(name, row): (&String, &Chain)| {
        let at = |time: Option<u64>, cell: fn(u64) -> Cell| time.map_or(Cell::None, cell);
        vec![
            Cell::Text(name.clone()),
            Cell::State(row.state.word(), &State::WORDS),
            at(row.newest, Cell::Ago),
            at(row.newest, Cell::Age),
            Cell::Count(row.files),
            Cell::Bytes(row.bytes),
            at(row.oldest, Cell::Ago),
            at(row.oldest, Cell::Age),
            Cell::Count(row.quarantined),
            Cell::Count(row.attempts.into()),
            row.snapshot.clone().map_or(Cell::None, Cell::Text),
            // The old name of the note.
            if row.remedy.is_empty() { Cell::None } else { Cell::Text(row.remedy.clone()) },
            Cell::Note(row.remedy.clone()),
        ]
    };
    let rows = rows.iter().map(cells).collect();
    Report { columns: COLUMNS.to_vec(), rows, metric: "zsnap_ingest", now, succeeded: None }
}
