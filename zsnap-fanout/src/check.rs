//! `check`: reports whether a run would work. Each finding includes its remedy.

use anyhow::Result;
use zsnap_common::cli::cancel;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{Findings, writable};
use zsnap_common::durable::dest::{self, Dest};
use zsnap_common::process::child;

use crate::cli::Options;
use crate::drive::{self, Drive, Tables};
use crate::kept;
use crate::nncp;
use crate::run::PATIENCE;
use crate::spool::Spool;

/// Logs each finding as an error. The exit status is 78 if there are any.
pub fn check(options: &Options, tables: Tables) -> Result<Exit> {
    let mut findings = Findings::default();
    let drives = drive::configured(options, tables).and_then(|drives| match &drives[..] {
        [] => Err(Exit::Config.error("none: specify --to NAME=DEST, or a table [to.NAME]")),
        _ => Ok(drives),
    });
    let spool = match Spool::open(options.spool.as_deref()) {
        Ok(spool) => {
            let configured = drives.as_ref().map_or(Ok(()), |drives| spool.all_configured(drives));
            findings.add("spool", configured.map(|()| Vec::new()));
            Some(spool)
        }
        Err(e) => {
            findings.add("spool", Err(e));
            None
        }
    };
    match drives {
        Ok(drives) => {
            drives.iter().for_each(|drive| findings.add(&drive.name, examine(options, drive, spool.as_ref())));
        }
        Err(e) => findings.add("drives", Err(e)),
    }
    cancel::check()?;
    Ok(findings.exit())
}

fn examine(options: &Options, drive: &Drive, spool: Option<&Spool>) -> Result<Vec<String>> {
    let mut warnings: Vec<_> = drive.dest.warning(&drive.transport).into_iter().collect();
    drive.dest.is_equipped(&drive.transport)?;
    let outbox = spool.map(|spool| spool.outboxes().dir(&drive.name)).unwrap_or_default();
    let look = dest::look(&drive.dest, &drive.transport, &outbox, PATIENCE)?;
    spool.map_or(Ok(()), |spool| spool.is_apart(look.real()))?;
    // nncp-stat fails if the node does not exist.
    match nncp::packets(drive, &options.nncp_stat_program) {
        Err(e) if child::find(&options.nncp_stat_program).is_err() => warnings.push(format!("{e:#}; status needs it")),
        packets => drop(packets?),
    }
    if let Some(why) = look.away {
        let name = &drive.name;
        warnings.push(format!("away: {why}; if it is mounted and new: zsnap-fanout init {name}"));
    } else if let Dest::Dir(path) = &drive.dest {
        writable(path)?;
    }
    if let (None, Some(spool)) = (drive.keep, spool) {
        let kept = spool.kept(&drive.name);
        if !kept::days(&kept)?.is_empty() {
            warnings.push(format!("{} holds kept files, and without keep they stay: remove them", kept.display()));
        }
    }
    Ok(warnings)
}
