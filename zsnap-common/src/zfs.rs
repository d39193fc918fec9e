//! What the pools hold: `zfs list` and `zpool list`, in their script forms only.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::child::{self, Child};
use crate::exit::Exit;
use crate::log;
use crate::zstream::Guid;

/// A snapshot of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, without the dataset and the `@`.
    pub name: String,
    /// Its identity, the same wherever it was received.
    pub guid: Guid,
    /// Transaction group of this pool that made it: orders the snapshots of a dataset.
    pub createtxg: u64,
}

/// The programs `zfs` and `zpool`.
#[derive(Clone, Debug)]
pub struct Zfs {
    zfs: PathBuf,
    zpool: PathBuf,
}

impl Zfs {
    /// Finds the programs: `Exit::Unavailable` where one is missing.
    pub fn find(zfs: &std::path::Path, zpool: &std::path::Path) -> Result<Zfs> {
        Ok(Zfs { zfs: child::find(zfs)?, zpool: child::find(zpool)? })
    }

    /// The path of `zfs`.
    pub fn program(&self) -> &std::path::Path {
        &self.zfs
    }

    /// Guid of a pool; `None`: it is not imported.
    pub fn pool_guid(&self, pool: &str) -> Result<Option<Guid>> {
        let Some(text) = output(&self.zpool, &["list", "-Hp", "-o", "guid", pool])? else { return Ok(None) };
        let guid = text.trim().parse().ok().map(Guid);
        guid.map(Some)
            .ok_or_else(|| Exit::Unavailable.error(format!("zpool list: no guid in \"{}\"", log::escape(&text))))
    }

    /// The file systems and volumes at and below `root`; `None`: it does not exist.
    pub fn datasets(&self, root: &str) -> Result<Option<BTreeSet<String>>> {
        let text = output(&self.zfs, &["list", "-Hp", "-r", "-t", "filesystem,volume", "-o", "name", root])?;
        Ok(text.map(|text| text.lines().map(str::to_owned).collect()))
    }

    /// The snapshots of one dataset, oldest first; `None`: the listing failed.
    pub fn snapshots(&self, dataset: &str) -> Result<Option<Vec<Snapshot>>> {
        let args =
            ["list", "-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", "name,guid,createtxg", dataset];
        let Some(text) = output(&self.zfs, &args)? else { return Ok(None) };
        text.lines().map(snapshot).collect::<Result<Vec<_>>>().map(Some)
    }

    /// Guid of the snapshot `dataset@snap`; `None`: it does not exist.
    pub fn snapshot_guid(&self, name: &str) -> Result<Option<Guid>> {
        let Some(text) = output(&self.zfs, &["list", "-Hp", "-t", "snapshot", "-o", "guid", name])? else {
            return Ok(None);
        };
        Ok(text.trim().parse().ok().map(Guid))
    }

    /// Makes a file system that is never mounted, for others to lie in.
    pub fn create_parent(&self, dataset: &str) -> Result<()> {
        match output(&self.zfs, &["create", "-o", "canmount=off", dataset])? {
            Some(_) => Ok(()),
            None => Err(Exit::Unavailable.error(format!("zfs create {dataset} failed; the log has its words"))),
        }
    }
}

/// A line of `zfs list -Hp -o name,guid,createtxg`.
fn snapshot(line: &str) -> Result<Snapshot> {
    let parse = || {
        let mut fields = line.split('\t');
        let (_, name) = fields.next()?.split_once('@')?;
        let guid = Guid(fields.next()?.parse().ok()?);
        Some(Snapshot { name: name.to_owned(), guid, createtxg: fields.next()?.parse().ok()? })
    };
    parse().ok_or_else(|| Exit::Unavailable.error(format!("zfs list: cannot read \"{}\"", log::escape(line))))
}

/// What the program prints; `None` if its status is not 0 (its stderr is in the log).
fn output(program: &std::path::Path, args: &[&str]) -> Result<Option<String>> {
    let mut command = child::command(program);
    command.args(args).stdout(Stdio::piped());
    let label = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let mut child = Child::spawn(command, &label)?;
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout() {
        stdout.read_to_string(&mut text).with_context(|| format!("{label} {}", args.join(" ")))?;
    }
    Ok(child.wait(None)?.success().then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_zfs_list_are_read() {
        let read = snapshot("tank/a b@__simplesnap_x__\t13447218371902839\t42").unwrap();
        assert_eq!(read, Snapshot { name: "__simplesnap_x__".into(), guid: Guid(13447218371902839), createtxg: 42 });
        for bad in ["", "tank/a\t1\t2", "tank/a@s\tx\t2", "tank/a@s\t1"] {
            assert!(snapshot(bad).is_err(), "{bad:?}");
        }
    }
}
