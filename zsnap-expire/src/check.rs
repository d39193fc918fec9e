//! `check`: prints what the configuration means, and reports what would stop a run.

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::findings::{Findings, can_be_made};
use zsnap_common::cli::options;
use zsnap_common::process::zfs::Zfs;

use crate::cli::Cli;
use crate::config::Config;
use crate::table;

/// Prints what the configuration means, and logs findings. The exit status is 78 if there are any.
pub fn check(cli: &Cli, config: &Config) -> Result<Exit> {
    let mut text = format!("days begin in {}\n", config.clock.zone_name());
    for (glob, policy) in config.policies() {
        let received = if policy.received { ", received" } else { "" };
        let (method, newest) = (&policy.method, policy.newest);
        text += &format!("{glob}: {method}, and the newest {newest}{received}; {}\n", policy.max_destroy);
    }
    table::write(&text).or_exit(Exit::Io, "standard output")?;
    let o = &cli.options;
    if o.filter {
        return Ok(Exit::Done);
    }
    let mut findings = Findings::default();
    findings.add("programs", Zfs::find(&o.zfs, &o.zpool).map(|_| Vec::new()));
    let state = options::state_dir(o.state.as_deref(), "expire").and_then(|dir| can_be_made(&dir));
    findings.add("state", state.map(|()| Vec::new()));
    if o.needed.is_empty() && !o.no_needed && config.policies().any(|(_, policy)| policy.received) {
        findings.add("received datasets", Ok(vec!["a run needs --needed, see zsnap-expire(8)".into()]));
    }
    Ok(findings.exit())
}
