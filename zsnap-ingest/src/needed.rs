//! `STATE/<pool guid>/needed-guids`: which snapshots of the pool zsnap-expire must not destroy, because
//! a file that waits builds on them, or the next one will. It says `complete` only when all is
//! known that a run can know; from before the first change of a run until its end it says
//! `running`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::publish;
use zsnap_common::stream::Guid;

use crate::file::Fate;
use crate::host::HostRun;
use crate::journal;
use crate::known::{Entry, What};
use crate::plan::Past;

/// Where it lies for a pool.
pub fn path(state: &Path, pool: Guid) -> PathBuf {
    state.join(pool.to_string()).join("needed-guids")
}

/// Writes it, from the files that are still here and from the journals. `now`: seconds since 1970.
pub fn write(state: &Path, pool: Guid, hosts: &[HostRun<'_>], complete: bool, now: u64) -> Result<()> {
    let mut lines = BTreeSet::new();
    for host in hosts {
        for file in host.files.iter().filter(|file| file.fate != Fate::Gone) {
            let named = file.named().map_or_else(|| host.host.to_string(), |target| target.to_string());
            pending(&mut lines, &file.entry, &named);
        }
        for entry in host.absent.values() {
            pending(&mut lines, entry, host.host.as_str());
        }
        // Also what no journal has: committed when a run ended early, or left by a rollback.
        for target in host.tree.targets(&host.host) {
            let newest = host.tree.snapshots(&host.tree.name(&target)).last();
            lines.extend(newest.map(|s| format!("{} {target}", s.guid)));
        }
        // A program failed, so it is not known what is there.
        lines.extend(host.stopped.iter().map(|target| format!("all {target}")));
    }
    chains(&mut lines, state, pool)?;
    let word = if complete { "complete" } else { "running" };
    let mut text = format!("zsnap-needed 1 {pool} {now} {word}\n");
    for line in &lines {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!("end {}\n", lines.len()));
    let path = path(state, pool);
    if let Some(dir) = path.parent() {
        publish::make_dirs(dir).or_exit(Exit::CantCreate, "needed-guids")?;
    }
    publish::write_durably(&path, text.as_bytes()).or_exit(Exit::Io, "needed-guids")
}

/// The bases of a file that waits: all of them, since which one it will need depends on what is
/// there by then. Of a file that does not say, everything.
fn pending(lines: &mut BTreeSet<String>, entry: &Entry, named: &str) {
    match &entry.what {
        What::Says(facts) => {
            let bases = facts.links.iter().filter_map(|link| link.from);
            lines.extend(bases.map(|from| format!("{from} {}", facts.target)));
        }
        What::New | What::Held(_) => drop(lines.insert(format!("all {named}"))),
    }
}

/// The newest snapshot of every chain: what comes next builds on it.
fn chains(lines: &mut BTreeSet<String>, state: &Path, pool: Guid) -> Result<()> {
    for (target, path) in journal::of_pool(state, pool)? {
        match journal::read::<Past>(&path) {
            // Rebuilt from the pool: which snapshot is the chain's, and which was made by hand, only the
            // next file will tell.
            Ok(Some(past)) if past.raw.is_none() && !past.committed.is_empty() => {
                lines.insert(format!("all {target}"));
            }
            Ok(past) => {
                let last = past.and_then(|past| past.committed.last().copied());
                lines.extend(last.map(|guid| format!("{guid} {target}")));
            }
            Err(_) => drop(lines.insert(format!("all {target}"))),
        }
    }
    Ok(())
}
