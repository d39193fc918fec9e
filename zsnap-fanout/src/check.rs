//! `check`: reports whether a run would work. Each finding includes its remedy.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::findings::{CheckOptions, Finding, Findings, failure, writable};
use zsnap_common::durable::dest::{self, Dest, nncp};
use zsnap_common::durable::filesystem::{self, Use};
use zsnap_common::names::target::Host;

use crate::cli::Options;
use crate::drive::{self, Drive, Tables};
use crate::kept;
use crate::run::PATIENCE;
use crate::seen::Seen;
use crate::spool::Spool;

/// Prints the findings; see [`Findings::exit`] for the status.
pub fn check(options: &Options, asked: CheckOptions, tables: Tables) -> Result<Exit> {
    let mut findings = Findings::new(asked);
    let (drives, mut errors) = drive::examine(options, tables);
    if drives.is_empty() && errors.is_empty() {
        errors.push(Exit::Config.error("none: specify --to NAME=DEST, or a table [to.NAME]"));
    }
    let spool = Spool::open(options.spool.as_deref());
    match &spool {
        // An outbox may belong to a destination whose table is wrong.
        Ok(spool) if errors.is_empty() => match spool.not_configured(&drives) {
            Ok(unknown) => {
                let here = filesystem::examined(spool.incoming.path(), Use::State);
                findings.add("spool", unknown.into_iter().map(Finding::from).chain(here));
            }
            Err(e) => findings.add("spool", [e.into()]),
        },
        Ok(spool) => findings.add("spool", filesystem::examined(spool.incoming.path(), Use::State)),
        Err(e) => findings.add("spool", [Finding::Failure(format!("{e:#}"))]),
    }
    if !errors.is_empty() {
        findings.add("destinations", errors.into_iter().map(Finding::from));
    }
    for drive in &drives {
        findings.add(&drive.name, examine(options, drive, spool.as_ref().ok()));
    }
    findings.exit()
}

/// Examines the file system of a `dir:` that is not away.
fn file_system(drive: &Drive, path: &Path, spool: Option<&Spool>, outbox: &Path) -> Result<Vec<Finding>> {
    let Some(probe) = dest::probe(&drive.dest, &drive.transport, outbox, PATIENCE)? else { return Ok(Vec::new()) };
    let free = filesystem::free(&File::open(path)?)?;
    let wanted = Use::Destination { max_file: drive.transport.max_file };
    let names = spool.map(|spool| spool.incoming.names()).transpose()?.unwrap_or_default();
    let hosts: Vec<_> =
        names.iter().filter_map(|name| Host::of_directory(name)).filter(|host| drive.takes(host)).collect();
    let mut findings = filesystem::findings(&probe.abilities, free.saturating_sub(drive.transport.min_free), wanted);
    findings.extend(probe.clash(&hosts).map(Finding::Failure));
    Ok(findings)
}

fn examine(options: &Options, drive: &Drive, spool: Option<&Spool>) -> Vec<Finding> {
    let mut findings: Vec<_> = drive.dest.warning(&drive.transport).map(Finding::Note).into_iter().collect();
    let equipped = failure(drive.dest.is_equipped(&drive.transport));
    if equipped.is_empty() {
        findings.extend(nncp::check(&drive.dest, &drive.transport, Some(&options.nncp_stat_program)));
    }
    findings.extend(equipped);
    let outbox = spool.map(|spool| spool.outboxes().dir(&drive.name)).unwrap_or_default();
    let was_here = spool.is_some() && Seen::read(&outbox).at.is_some();
    match dest::look(&drive.dest, &drive.transport, &outbox, PATIENCE) {
        Err(e) => findings.push(e.into()),
        Ok(look) => {
            findings.extend(failure(spool.map_or(Ok(()), |spool| spool.is_apart(look.real()))));
            match (look.away, &drive.dest) {
                // A drive of a rotation is often away. But one that was never here may lack its mark.
                (Some(why), _) if was_here => findings.push(Finding::Note(format!("away: {why}"))),
                (Some(why), _) => findings.push(Finding::Warning(format!(
                    "away: {why}; if it is mounted and new: zsnap-fanout init {}",
                    drive.name
                ))),
                (None, Dest::Dir(path)) => {
                    let unwritable = failure(writable(path));
                    if unwritable.is_empty() {
                        findings.extend(file_system(drive, path, spool, &outbox).unwrap_or_else(|e| vec![e.into()]));
                    }
                    findings.extend(unwritable);
                }
                (None, _) => {}
            }
        }
    }
    if let (None, Some(spool)) = (drive.keep, spool) {
        let kept = spool.kept(&drive.name);
        findings.extend(match kept::days(&kept) {
            Ok(days) if days.is_empty() => vec![],
            Ok(_) => vec![Finding::Warning(format!(
                "{} holds kept files, and without keep they stay: remove them",
                kept.display()
            ))],
            Err(e) => vec![e.into()],
        });
    }
    findings
}
