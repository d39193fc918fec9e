//! `status`: reports the state of every chain. It uses the same data as `run`, but decrypts nothing, changes nothing,
//! and takes no lock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::colour::Tone;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{Cell, Column, Report};
use zsnap_common::durable::success;

use crate::chain::{self, Chain};
use crate::cli::{Only, StatusOptions};
use crate::config::Config;
use crate::needed;
use crate::plan::State;
use crate::shared::Shared;

/// Prints the report. Returns 1 if something needs attention.
pub fn status(config: &Config, asked: &StatusOptions, json: bool, now: SystemTime) -> Result<Exit> {
    let shared = Shared::new(config, now, true)?;
    if asked.needed_file {
        return needed_file(&shared);
    }
    let now = shared.seconds();
    let mut rows = chain::gather(&shared)?;
    let is = |only: &Only, name: &str| match only {
        Only::Host(host) => chain::host_of(name) == host.as_str(),
        Only::Target(target) => *name == target.to_string(),
    };
    rows.retain(|name, _| asked.only.is_empty() || asked.only.iter().any(|only| is(only, name)));
    if asked.common.max_age.is_some() {
        add_absent(&mut rows, asked, is);
    }
    let mut attention = false;
    for (name, row) in &mut rows {
        let host = chain::host_of(name);
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

/// Returns what determines the colour of a state.
pub fn tone(state: State) -> Tone {
    match state {
        State::Ok | State::New => Tone::Good,
        _ if state.needs_attention() => Tone::Bad,
        _ => Tone::Pending,
    }
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
        vec![
            Cell::Text(name.clone()),
            Cell::State(row.state.word(), &State::WORDS, tone(row.state)),
            Cell::known(row.newest, Cell::Ago),
            Cell::known(row.newest, Cell::Age),
            Cell::Count(row.files),
            Cell::Bytes(row.bytes),
            Cell::known(row.oldest, Cell::Ago),
            Cell::known(row.oldest, Cell::Age),
            Cell::Count(row.quarantined),
            Cell::Count(row.attempts.into()),
            Cell::known(row.snapshot.clone(), Cell::Text),
            // The old name of the note.
            if row.remedy.is_empty() { Cell::None } else { Cell::Text(row.remedy.clone()) },
            Cell::Note(row.remedy.clone()),
        ]
    };
    let rows = rows.iter().map(cells).collect();
    Report { columns: COLUMNS.to_vec(), rows, metric: "zsnap_ingest", now, succeeded: None }
}
