//! `check`: reports what the configuration means, and what would stop a run.

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{CheckOptions, Finding, Findings, can_be_made, failure};
use zsnap_common::cli::options;
use zsnap_common::process::zfs::Zfs;

use crate::cli::Options;
use crate::config::{Config, Tables};
use crate::run;

/// Prints the findings; see [`Findings::exit`] for the status. `now` is in seconds since 1970.
pub fn check(o: &Options, asked: CheckOptions, tables: Tables, now: i64) -> Result<Exit> {
    let mut findings = Findings::new(asked);
    let (config, errors) = Config::examine(o, tables, now);
    if errors.is_empty() {
        findings.add("days", [Finding::Note(format!("begin in {}", config.clock.zone_name()))]);
    } else {
        findings.add("configuration", errors.into_iter().map(Finding::from));
    }
    for (glob, policy) in config.policies() {
        let received = if policy.received { ", received" } else { "" };
        let (method, newest) = (&policy.method, policy.newest);
        let meaning = format!("{method}, and the newest {newest}{received}; {}", policy.max_destroy);
        findings.add(glob, [Finding::Note(meaning)]);
    }
    if o.filter {
        return findings.exit();
    }
    findings.add("programs", failure(Zfs::find(&o.zfs, &o.zpool)));
    let state = options::state_dir(o.state.as_deref(), "expire").and_then(|dir| can_be_made(&dir));
    findings.add("state", failure(state));
    for path in &o.needed {
        findings.add("needed", failure(run::list(path)));
    }
    if o.needed.is_empty() && !o.no_needed && config.policies().any(|(_, policy)| policy.received) {
        findings.add("received datasets", [Finding::Warning("a run needs --needed, see zsnap-expire(8)".into())]);
    }
    findings.exit()
}
