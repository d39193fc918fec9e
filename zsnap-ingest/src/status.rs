//! `status`: reports the state of every chain. It uses the same data as `run`, but decrypts nothing, changes nothing,
//! and takes no lock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{self, Cell, Form, Report};
use zsnap_common::durable::incoming::{Incoming, shown};
use zsnap_common::names::queue_name::{Entry as Name, Label, QueueName, classify};
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Host;

use crate::beside;
use crate::chain::Chain;
use crate::cli::{Only, StatusOptions};
use crate::config::Config;
use crate::host::HostRun;
use crate::inbox::INCOMING;
use crate::known::{Entry, Knowledge};
use crate::plan::{Applied, Past, State};
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
    let absent = rows.is_empty() || asked.only.iter().any(|only| !rows.keys().any(|name| is(only, name)));
    let mut attention = asked.max_age.is_some() && absent;
    for (name, row) in &mut rows {
        let host = host_of(name);
        let of_host = || config.hosts.iter().find(|(h, _)| h.as_str() == host).and_then(|(_, table)| table.max_age);
        if asked.max_age.or_else(of_host).is_some_and(|max| row.is_late(max, now)) {
            attention = true;
            let see = format!("see whether {host} still sends it");
            row.is(row.state, match row.ahead(now) {
                Some(time) => {
                    let time = report::time(time);
                    format!("{time} lies ahead, so its age is not known: set this clock if it is wrong, and {see}; what comes next has the right time")
                }
                None => format!("nothing new for longer than max-age; {see}"),
            });
        }
        let long = row.oldest.is_some_and(|oldest| shared.is_long(oldest));
        if long && row.state != State::Away {
            attention = true;
            row.is(row.state, "something lies here for longer than max-wait; zsnap-ingest plan tells of each file");
        }
        attention |= row.state.needs_attention();
    }
    shared.notices().any = attention;
    let exit = shared.exit();
    if exit != Exit::Done || !asked.quiet {
        let form = Form::of(asked.prometheus, json);
        table(&rows, now, form).print(form).or_exit(Exit::Io, "stdout")?;
        if form == Form::Prometheus {
            states(&rows).print(form).or_exit(Exit::Io, "stdout")?;
        }
    }
    Ok(exit)
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
            // `forget` empties the journal. The file name of a long dataset's journal does not contain the dataset; the
            // pool shows it.
            let forgotten = journal::read::<Past>(&path).is_ok_and(|past| past.is_none_or(|p| p.committed.is_empty()));
            if !forgotten && !name.contains('~') {
                let mut row = Chain::default();
                let forget = format!("zsnap-ingest forget {}", quoted(&name));
                row.is(State::Gone, format!("is not on the pool any more; to forget it: {forget}"));
                rows.insert(name, row);
            }
        }
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
    for host in hosts.iter().filter(|host| config.hosts.contains_key(host.host())) {
        if !rows.keys().any(|name| host_of(name) == host.host().as_str()) {
            let row = rows.entry(format!("{}/-", host.host())).or_default();
            let last_came = host.inbox().last_came();
            row.came = Some(last_came);
            let known = last_came != shared.seconds();
            let since = if known { format!("since {}", report::time(last_came)) } else { "yet".into() };
            let state = shared.away().map_or(State::Ok, |away| away.state());
            row.is(state, format!("nothing came {since}"));
        }
    }
    for host in &hosts {
        let beyond = host.inbox().beyond();
        if beyond > 0 {
            let row = rows.entry(format!("{}/-", host.host())).or_default();
            let what =
                format!("{beyond} more queue files lie here than a run looks at; they wait until others are gone");
            row.is(State::Held, what);
        }
        // Nobody can know now what the directory contains.
        if host.inbox().is_away() && config.hosts.contains_key(host.host()) {
            for (_, row) in rows.iter_mut().filter(|(name, _)| host_of(name) == host.host().as_str()) {
                row.is(State::Away, INCOMING_AWAY);
            }
        }
    }
    Ok(rows)
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
        row.waits(file.entry());
        row.is(standing.state(), standing.message(shared.is_long(file.entry().first)));
    }
    for (key, entry) in host.inbox().absent() {
        if let Name::Queue(queue) = classify(key.trim_start_matches(INCOMING).as_bytes()) {
            let row = row_of(rows, host.host(), entry, &queue);
            row.waits(entry);
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

fn table(rows: &BTreeMap<String, Chain>, now: u64, form: Form) -> Report {
    let age = |time: u64| report::ago(time, now).map_or(Cell::None, Cell::Age);
    // As a label, the text would start a new time series with each change.
    let text = |text: String| if form == Form::Prometheus { Cell::None } else { Cell::Text(text) };
    let cells = |(name, row): (&String, &Chain)| {
        vec![
            Cell::Text(name.clone()),
            text(row.state.word()),
            row.newest.map_or(Cell::None, Cell::Time),
            row.newest.map_or(Cell::None, age),
            Cell::Count(row.files),
            Cell::Bytes(row.bytes),
            row.oldest.map_or(Cell::None, age),
            Cell::Count(row.quarantined),
            Cell::Count(row.attempts.into()),
            row.snapshot.clone().map_or(Cell::None, text),
            Cell::Note(row.remedy.clone()),
        ]
    };
    let columns = vec![
        "dataset",
        "state",
        "newest",
        "age",
        "waiting_files",
        "waiting_bytes",
        "waiting_age",
        "quarantined",
        "attempts",
        "snapshot",
        "remedy",
    ];
    Report { columns, rows: rows.iter().map(cells).collect(), metric: "zsnap_ingest" }
}

/// Returns the metrics `zsnap_ingest_chain{dataset="...",state="..."} 1`.
fn states(rows: &BTreeMap<String, Chain>) -> Report {
    let cells =
        |(name, row): (&String, &Chain)| vec![Cell::Text(name.clone()), Cell::Text(row.state.word()), Cell::Count(1)];
    let columns = vec!["dataset", "state", "chain"];
    Report { columns, rows: rows.iter().map(cells).collect(), metric: "zsnap_ingest" }
}
