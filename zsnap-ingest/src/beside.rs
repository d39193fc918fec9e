//! The journal of a command's target directory: `.zsnap/NAME.json` beside it, on the same file system, so that both
//! are lost or restored together. The parent directory may belong to the command's user, who can replace `.zsnap` with
//! anything. So it is opened in the same way as quarantine, and no symbolic link is followed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::FileType;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::incoming::Incoming;
use zsnap_common::names::shell::quoted;

use crate::journal::TargetJournal;

const DIRECTORY: &str = ".zsnap";

/// Opens the parent directory of the target, and returns it with the name of the journal.
fn above(target: &Path) -> Result<(Incoming, OsString)> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Exit::Config.error(format!("{}: a target must lie in a directory", target.display())));
    };
    let mut file = name.to_owned();
    file.push(".json");
    Ok((Incoming::open(parent).or_exit(Exit::TryAgain, "journal")?, file))
}

/// Reads the journal. It is empty if it, or the parent directory of the target, does not exist.
///
/// # Errors
/// The journal cannot be read or understood.
pub fn read(target: &Path) -> Result<TargetJournal> {
    // Its drive may be away. This is harmless: a file goes to the command only after the target was found.
    let above_it = target.parent().map(std::fs::symlink_metadata);
    if above_it.is_some_and(|found| found.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)) {
        return Ok(TargetJournal::new());
    }
    let (parent, file) = above(target)?;
    let dir = match parent.inside(OsStr::new(DIRECTORY)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TargetJournal::new()),
        other => other.or_exit(Exit::TryAgain, "journal")?,
    };
    let path = dir.path().join(&file);
    let Some(text) = dir.read_own(&file).or_exit(Exit::TryAgain, "journal")? else { return Ok(TargetJournal::new()) };
    serde_json::from_slice(&text).or_exit(Exit::TryAgain, format!("{}: damaged journal", path.display()))
}

/// Replaces the journal durably.
pub fn write(target: &Path, journal: &TargetJournal) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(journal).context("journal")?;
    text.push(b'\n');
    let (parent, file) = above(target)?;
    let dir = parent.private_inside(OsStr::new(DIRECTORY)).or_exit(Exit::CantCreate, "journal")?;
    let new = dir.new_file().or_exit(Exit::CantCreate, "journal")?;
    new.file().write_all(&text).and_then(|()| new.sync()).or_exit(Exit::Io, "journal")?;
    new.replace(&file).or_exit(Exit::Io, "journal")
}

/// Removes the temporary files of runs that ended early.
pub fn sweep(target: &Path) -> io::Result<()> {
    match above(target).map(|(parent, _)| parent.private(OsStr::new(DIRECTORY))) {
        Ok(Ok(dir)) => dir.sweep(),
        // There is no such directory, or it is not ours, which is reported when a file for the target arrives.
        _ => Ok(()),
    }
}

/// Checks that the journal can be kept beside the target. With `look`, which only reads, it may belong to another user.
///
/// # Errors
/// `PermissionDenied` or `Other` says what prevents it, and the remedy; any other error, that a system call failed.
pub fn check(target: &Path, look: bool) -> io::Result<()> {
    let Ok((parent, _)) = above(target) else { return Ok(()) };
    let name = OsStr::new(DIRECTORY);
    let path = parent.path().join(name);
    let Some(stat) = parent.stat(name)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let (path, above) = (quoted(&path), quoted(parent.path()));
        let why = format!("{path} is not a directory: remove it, and run \"chown root {above}\" if others own that");
        return Err(io::Error::other(why));
    }
    if look { parent.inside(name) } else { parent.private(name) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Applied, Number};
    use std::fs;
    use std::os::unix::fs::symlink;
    use zsnap_message::payload::{Base, Epoch};

    fn journal() -> TargetJournal {
        let number = Number {
            epoch: Epoch { id: "e".repeat(32), started: 1 },
            seq: 2,
            prev: None,
            id: "1".repeat(32),
            base: Base::None,
        };
        [("h/etc".to_owned(), Applied::of(&number, None))].into()
    }

    #[test]
    fn it_reads_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("etc");
        assert_eq!(read(&target).unwrap(), TargetJournal::new());
        check(&target, false).unwrap();
        write(&target, &journal()).unwrap();
        assert_eq!(read(&target).unwrap(), journal());
        let path = dir.path().join(".zsnap/etc.json");
        fs::write(dir.path().join(".zsnap/.zsnap-0123456789abcdef"), "dead").unwrap();
        sweep(&target).unwrap();
        assert_eq!(fs::read_dir(dir.path().join(".zsnap")).unwrap().count(), 1);
        fs::write(&path, b"{").unwrap();
        assert_eq!(Exit::of(&read(&target).unwrap_err()), Exit::TryAgain);
        assert_eq!(Exit::of(&read(Path::new("/")).unwrap_err()), Exit::Config);
    }

    #[test]
    fn no_link_is_followed() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = dir.path().join("etc");
        let dead = elsewhere.path().join(".zsnap-0123456789abcdef");
        fs::write(&dead, "").unwrap();
        fs::write(elsewhere.path().join("etc.json"), "{}").unwrap();
        symlink(elsewhere.path(), dir.path().join(".zsnap")).unwrap();
        assert!(read(&target).is_err());
        assert!(write(&target, &journal()).is_err());
        sweep(&target).unwrap();
        for look in [true, false] {
            let why = check(&target, look).unwrap_err().to_string();
            assert!(why.contains("/.zsnap is not a directory: remove it"), "{why}");
        }
        assert_eq!(fs::read(elsewhere.path().join("etc.json")).unwrap(), b"{}");
        assert!(dead.exists());
        // Nor is a link followed in place of the journal itself.
        fs::remove_file(dir.path().join(".zsnap")).unwrap();
        write(&target, &journal()).unwrap();
        fs::remove_file(dir.path().join(".zsnap/etc.json")).unwrap();
        symlink(elsewhere.path().join("etc.json"), dir.path().join(".zsnap/etc.json")).unwrap();
        assert!(read(&target).is_err());
        write(&target, &journal()).unwrap();
        assert_eq!(fs::read(elsewhere.path().join("etc.json")).unwrap(), b"{}");
        assert_eq!(read(&target).unwrap(), journal());
    }
}
