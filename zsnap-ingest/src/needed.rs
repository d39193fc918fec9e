//! Writes `STATE/<pool guid>/needed-guids`: the snapshots of the pool that zsnap-expire must not destroy, because a
//! waiting file, or the next file, builds on them. It is marked `complete` only if everything is known that a run can
//! find out; from before the first change of a run until its end it is marked `running`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::publish;
use zsnap_common::stream::Guid;

use crate::host::HostRun;
use crate::journal;
use crate::known::{Entry, Knowledge};
use crate::plan::Past;

/// Returns the path of the file for a pool.
pub fn path(state: &Path, pool: Guid) -> PathBuf {
    state.join(pool.to_string()).join("needed-guids")
}

/// Writes the file, from the remaining queue files and the journals. `now`: seconds since 1970.
pub fn write(state: &Path, pool: Guid, hosts: &[HostRun<'_>], complete: bool, now: u64) -> Result<()> {
    let mut lines = BTreeSet::new();
    for host in hosts {
        let (name, inbox, tree) = (host.host(), host.inbox(), host.tree());
        for (_, file) in inbox.remaining() {
            let named = file.named().map_or_else(|| name.to_string(), |target| target.to_string());
            pending(&mut lines, file.entry(), &named);
        }
        for entry in inbox.absent().values() {
            pending(&mut lines, entry, name.as_str());
        }
        // The newest snapshot, even if no journal has it: it was committed when a run ended early, or remained after a
        // rollback.
        for target in tree.targets(name) {
            let newest = tree.snapshots(&tree.name(&target)).last();
            lines.extend(newest.map(|s| format!("{} {target}", s.guid)));
        }
        // A program failed, so it is unknown what is on the pool.
        lines.extend(host.stopped().iter().map(|target| format!("all {target}")));
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

/// Adds the bases of a waiting file. All of them, because which one it will need depends on what exists by then. A
/// file whose facts are not known needs everything.
fn pending(lines: &mut BTreeSet<String>, entry: &Entry, named: &str) {
    match &entry.what {
        // It was applied, or never will be.
        _ if entry.kept => {}
        Knowledge::Bad(_) => {}
        Knowledge::Facts(facts) => {
            let bases = facts.links.iter().filter_map(|link| link.from);
            lines.extend(bases.map(|from| format!("{from} {}", facts.target)));
        }
        Knowledge::New | Knowledge::Held(_) => drop(lines.insert(format!("all {named}"))),
    }
}

/// Adds the newest snapshot of every chain, because the next file builds on it.
fn chains(lines: &mut BTreeSet<String>, state: &Path, pool: Guid) -> Result<()> {
    for (target, path) in journal::of_pool(state, pool)? {
        match journal::read::<Past>(&path) {
            // The journal was rebuilt from the pool: only the next file will show which snapshots belong to the chain,
            // and which were made by hand.
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
