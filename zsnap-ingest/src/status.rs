//! `status`: reports the state of every chain. It uses the same data as `run`, but decrypts nothing, changes nothing,
//! and takes no lock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{self, Cell, Form, Report};

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
    let absent = rows.is_empty() || asked.only.iter().any(|only| !rows.keys().any(|name| is(only, name)));
    let mut attention = asked.max_age.is_some() && absent;
    for (name, row) in &mut rows {
        let host = chain::host_of(name);
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
