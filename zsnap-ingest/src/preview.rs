//! `plan`: reports what `run` would do with each file, in its order. It verifies new files, and changes nothing.

use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{Cell, Column, Form, Report};
use zsnap_common::names::target::Host;

use crate::config::Config;
use crate::host::HostRun;
use crate::plan::{Standing, State};
use crate::run;
use crate::shared::Shared;
use crate::status::tone;

/// Prints the report. Returns 1 if something needs attention. `only`: the hosts to report; empty: all.
pub fn preview(config: &Config, only: &[Host], json: bool, now: SystemTime) -> Result<Exit> {
    let shared = Shared::new(config, now, true)?;
    let keys = ["file", "verdict", "dataset", "bytes", "since", "behind", "why"];
    let heads = ["FILE", "VERDICT", "DATASET", "BYTES", "SINCE", "BEHIND", ""];
    let columns = keys.iter().zip(heads).map(|(key, head)| Column::new(key, head)).collect();
    let mut report = Report { columns, ..Report::default() };
    for mut host in run::survey(&shared)? {
        if only.is_empty() || only.contains(host.host()) {
            while host.step()? {}
            if let Err(e) = rows(&shared, &mut host, &mut report.rows) {
                shared.passed(host.host(), e)?;
            }
        }
    }
    report.print(Form::of(false, json)).or_exit(Exit::Io, "stdout")?;
    Ok(shared.exit())
}

fn rows(shared: &Shared<'_>, host: &mut HostRun<'_>, rows: &mut Vec<Vec<Cell>>) -> Result<()> {
    for (at, standing) in host.standings()? {
        let file = host.inbox().file(at);
        let state = standing.state();
        let may_be_late = !matches!(state, State::Away | State::Ok);
        shared.notices().any |= state.needs_attention() || may_be_late && shared.is_long(file.entry().first);
        let front = match &standing {
            Standing::Waiting { behind: Some(behind), .. } => Cell::Text(host.inbox().file(*behind).shown()),
            _ => Cell::None,
        };
        rows.push(vec![
            Cell::Text(host.inbox().key(at)),
            Cell::Word(standing.word(), tone(state)),
            file.facts().map_or(Cell::None, |facts| Cell::Text(facts.target.to_string())),
            Cell::Bytes(file.entry().seen.size),
            Cell::Time(file.entry().first),
            front,
            Cell::Note(standing.why().to_owned()),
        ]);
    }
    Ok(())
}
