//! `plan`: reports what `run` would do with each file, in its order. It verifies new files, and changes nothing.

use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::report::{Cell, Column, Form, Report};
use zsnap_common::durable::incoming::shown;
use zsnap_common::names::target::Host;

use crate::chain::State;
use crate::config::Config;
use crate::host::HostRun;
use crate::host::judge::Judgement;
use crate::plan::Verdict;
use crate::run;
use crate::shared::Shared;

/// Prints the report. Returns 1 if something needs attention. `only`: the hosts to report; empty: all.
pub fn preview(config: &Config, only: &[Host], json: bool, now: SystemTime) -> Result<Exit> {
    let shared = Shared::new(config, now, true)?;
    let keys = ["file", "verdict", "dataset", "bytes", "since", "behind", "why"];
    let heads = ["FILE", "VERDICT", "DATASET", "BYTES", "SINCE", "BEHIND", ""];
    let columns = keys.iter().zip(heads).map(|(key, head)| Column::new(key, head)).collect();
    let mut report = Report { columns, ..Report::default() };
    for mut host in run::survey(&shared)? {
        if only.is_empty() || only.contains(&host.host) {
            while host.step()? {}
            if let Err(e) = rows(&mut host, &mut report.rows) {
                shared.passed(&host.host, e)?;
            }
        }
    }
    report.print(Form::of(false, json)).or_exit(Exit::Io, "stdout")?;
    Ok(shared.exit())
}

fn rows(host: &mut HostRun<'_>, rows: &mut Vec<Vec<Cell>>) -> Result<()> {
    let shared = host.shared;
    for (at, judgement) in host.judge_all()? {
        let file = &host.files[at];
        let state = State::of(host, at, &judgement);
        shared.notices().any |= state.needs_attention() || state != State::Away && shared.is_long(file.entry.first);
        let mut front = Cell::None;
        let (word, why) = match &judgement {
            Judgement::Is(verdict) => {
                if let Verdict::Waiting { behind: Some(behind), .. } = verdict {
                    front = Cell::Text(shown(&host.files[*behind].name));
                }
                (verdict.word(), verdict.why())
            }
            Judgement::Held(why) => ("held", why.as_str()),
            Judgement::Later(why) => ("later", why.as_str()),
            Judgement::Ignored(why) => ("foreign", why.as_str()),
            Judgement::Failed => ("failed", ""),
        };
        let failed = file.entry.failed_over("it");
        let why = if state == State::Failed { failed.as_str() } else { why };
        rows.push(vec![
            Cell::Text(host.key(at)),
            Cell::Text(word.to_owned()),
            file.facts().map_or(Cell::None, |facts| Cell::Text(facts.target.to_string())),
            Cell::Bytes(file.entry.seen.size),
            Cell::Time(file.entry.first),
            front,
            Cell::Note(why.to_owned()),
        ]);
    }
    Ok(())
}
