//! Durable records of what was applied: for ZFS, one journal per dataset and pool
//! (`STATE/<pool guid>/journal/HOST/<dataset>.json`); for commands, one per target directory (`beside.rs`). Only
//! zsnap-ingest writes them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::publish;
use zsnap_common::names::target::{Host, Target};
use zsnap_common::stream::Guid;

use crate::plan::Applied;

/// The journal of a command's target directory: one entry for each HOST/DATASET that is applied there.
pub type TargetJournal = BTreeMap<String, Applied>;

/// Returns the path of the journal for a dataset on a pool.
pub fn dataset_path(state: &Path, pool: Guid, target: &Target) -> PathBuf {
    let name = format!("{}.json", target.dataset.as_str().replace('/', "@"));
    // A path component is limited to 255 bytes; the name of a dataset can have as many.
    let name = if name.len() > 200 {
        format!("~{}.json", zsnap_common::names::digest::sha256_hex(name.as_bytes()))
    } else {
        name
    };
    state.join(pool.to_string()).join("journal").join(target.host.as_str()).join(name)
}

/// Returns the journals of a pool's datasets: HOST/DATASET (or HOST/~DIGEST if that is long), and the path of each.
pub fn of_pool(state: &Path, pool: Guid) -> Result<Vec<(String, PathBuf)>> {
    let root = state.join(pool.to_string()).join("journal");
    let mut all = Vec::new();
    for host in names(&root)? {
        for file in names(&root.join(&host))? {
            let (host, name) = (host.to_string_lossy(), file.to_string_lossy());
            let Some(dataset) = name.strip_suffix(".json").filter(|name| !name.starts_with('.')) else { continue };
            // Not a file of zsnap-ingest: a newline in a name would create a line of its own in needed-guids.
            if host.parse::<Host>().is_err() || dataset.contains(|c: char| c.is_control()) {
                continue;
            }
            all.push((format!("{host}/{}", dataset.replace('@', "/")), root.join(&*host).join(&file)));
        }
    }
    Ok(all)
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.or_exit(Exit::Io, dir.display())?,
    };
    let name = |entry: io::Result<std::fs::DirEntry>| entry.map(|entry| entry.file_name());
    entries.map(name).collect::<io::Result<_>>().or_exit(Exit::Io, dir.display())
}

/// Reads a journal; `None`: it does not exist.
///
/// # Errors
/// The journal cannot be read or understood.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.or_exit(Exit::TryAgain, path.display())?,
    };
    serde_json::from_slice(&text).or_exit(Exit::TryAgain, format!("{}: damaged journal", path.display())).map(Some)
}

/// Whether a journal is damaged. Any other error of [`read`] says nothing about its content: the disk fails, or too many
/// files are open, and the journal may be intact.
pub fn is_damaged(e: &anyhow::Error) -> bool {
    let invalid = |e: &io::Error| e.kind() == io::ErrorKind::InvalidData;
    e.chain().any(|cause| cause.is::<serde_json::Error>() || cause.downcast_ref().is_some_and(invalid))
}

/// Replaces a journal durably; its directory is created if it is missing.
pub fn write<T: Serialize>(path: &Path, journal: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(journal).context("journal")?;
    text.push(b'\n');
    write_text(path, &text)
}

/// Replaces a file durably; its directory is created if it is missing.
pub fn write_text(path: &Path, text: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        publish::make_dirs(dir).or_exit(Exit::CantCreate, "journal")?;
    }
    publish::write_durably(path, text).or_exit(Exit::Io, "journal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Past;

    #[test]
    fn a_journal_reads_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dataset_path(dir.path(), Guid(7), &"laptop/tank/home".parse().unwrap());
        assert!(path.ends_with("0000000000000007/journal/laptop/tank@home.json"));
        assert_eq!(read::<Past>(&path).unwrap(), None);
        let past = Past { committed: vec![Guid(1), Guid(u64::MAX)], last_seq: Some(3), ..Past::default() };
        write(&path, &past).unwrap();
        assert_eq!(read::<Past>(&path).unwrap(), Some(past));
        let journals = path.parent().unwrap();
        std::fs::write(journals.join("a\nall other.json"), "").unwrap();
        std::fs::create_dir(journals.with_file_name("x\nall other")).unwrap();
        std::fs::write(journals.with_file_name("x\nall other").join("a.json"), "").unwrap();
        assert_eq!(of_pool(dir.path(), Guid(7)).unwrap(), [("laptop/tank/home".to_owned(), path.clone())]);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(Exit::of(&read::<Past>(&path).unwrap_err()), Exit::TryAgain);
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_not_damaged() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_damaged(&read::<Past>(dir.path()).unwrap_err()));
        let path = dir.path().join("a.json");
        std::fs::write(&path, "{").unwrap();
        assert!(is_damaged(&read::<Past>(&path).unwrap_err()));
    }

    #[test]
    fn long_datasets_have_a_place() {
        let target = format!("h/{}", "d".repeat(255)).parse().unwrap();
        let path = dataset_path(Path::new("/s"), Guid(1), &target);
        assert!(path.file_name().unwrap().len() < 200);
    }
}
