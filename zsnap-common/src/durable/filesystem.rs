//! What `check` finds about the file system of a directory: one line for each thing that matters to its user.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::cli::findings::Finding;
use crate::cli::report;
use crate::durable::abilities::Abilities;

/// What a directory is for, which decides what its file system must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Whole queue files are put there; `max_file` is the size in bytes from which on they are put there in parts.
    Destination {
        /// The value of `--max-file`.
        max_file: Option<u64>,
    },
    /// Queue files are taken from there, and bad ones are set aside.
    Incoming,
    /// It holds state and outboxes, in which a file has several names.
    State,
}

/// The size in bytes of the largest file below which a file system is worth a finding.
const LARGE: u64 = 1 << 40;
/// The free space in bytes below which a file system is worth a warning.
const LITTLE: u64 = 16 << 20;

/// Returns what a user should know about the file system of a directory. Nothing, if it is one of Linux with space.
pub fn findings(abilities: &Abilities, free: u64, wanted: Use) -> Vec<Finding> {
    let mut findings = Vec::new();
    let note = |text: &str| Finding::Note(text.to_owned());
    if !abilities.links {
        findings.push(match wanted {
            Use::State => Finding::Failure(
                "the file system has no hard links, which outboxes need: use one of Linux, such as ext4".to_owned(),
            ),
            _ => note("the file system has no hard links: files are renamed, which is as safe"),
        });
    }
    if !abilities.modes {
        let text = "the file system keeps no modes and owners: whoever may use the mount can read, replace and remove the files";
        findings.push(match wanted {
            Use::State => Finding::Failure(format!("{text}: use one of Linux, such as ext4")),
            Use::Incoming | Use::Destination { .. } => note(text),
        });
    }
    if !abilities.names {
        findings.push(note(
            "the file system cannot store every name: a character that it lacks is stored as % and two digits",
        ));
    }
    if abilities.largest < LARGE {
        let largest = report::bytes(abilities.largest);
        findings.push(match wanted {
            Use::Destination { max_file: Some(most) } if most <= abilities.largest.saturating_add(1) => {
                Finding::Note(format!("the file system stores files of up to {largest}: larger ones come in parts"))
            }
            Use::Destination { .. } => Finding::Warning(format!(
                "the file system stores files of up to {largest}: set max-file = \"4GiB\" for it, or use ext4 or exFAT"
            )),
            Use::Incoming => Finding::Note(format!("the file system stores files of up to {largest}")),
            Use::State => Finding::Warning(format!("the file system stores files of up to {largest}: use another one")),
        });
    }
    if !abilities.case {
        findings.push(note("the file system ignores case: hosts whose names differ only in case cannot share it"));
    }
    if free < LITTLE && wanted != Use::Incoming {
        findings.push(Finding::Warning(format!("{} are free there: make room", report::bytes(free))));
    }
    findings
}

/// Examines the file system of a directory for `check`, see [`examine`]; an error is a finding, too.
pub fn examined(path: &Path, wanted: Use) -> Vec<Finding> {
    examine(path, wanted).unwrap_or_else(|e| vec![Finding::Failure(format!("{}: {e}", path.display()))])
}

/// Examines the file system of a directory with a temporary file, and returns what a user should know about it. A
/// directory that is not writable has no findings here: other checks report that.
///
/// # Errors
/// The directory cannot be opened, or its disk fails.
pub fn examine(path: &Path, wanted: Use) -> io::Result<Vec<Finding>> {
    let dir = File::open(path)?;
    match Abilities::of(&dir, path) {
        Ok(abilities) => Ok(findings(&abilities, free(&dir)?, wanted)),
        Err(e) if [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].contains(&e.kind()) => {
            Ok(Vec::new())
        }
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {
            Ok(vec![Finding::Warning("the file system is full: make room".to_owned())])
        }
        Err(e) => Err(e),
    }
}

/// Returns how many bytes an unprivileged user may still write to the file system of an open directory.
pub fn free(dir: &File) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Abilities =
        Abilities { links: true, renames_new: true, modes: true, case: true, names: true, largest: 1 << 43 };
    const FAT: Abilities =
        Abilities { links: false, renames_new: true, modes: false, case: false, names: false, largest: (4 << 30) - 1 };

    #[test]
    fn each_lack_is_one_finding_and_weighs_as_much_as_the_use_needs() {
        let of = |abilities: &Abilities, free, wanted| {
            let level = |finding: &Finding| match finding {
                Finding::Note(_) => 'n',
                Finding::Warning(_) => 'w',
                Finding::Failure(_) => 'f',
            };
            findings(abilities, free, wanted).iter().map(level).collect::<String>()
        };
        let to = |max_file| Use::Destination { max_file };
        for wanted in [to(None), Use::Incoming, Use::State] {
            assert_eq!(of(&LINUX, LITTLE, wanted), "");
        }
        // Links, modes, names, the largest file, case, and free space.
        assert_eq!(of(&FAT, LITTLE, to(None)), "nnnwn");
        assert_eq!(of(&FAT, LITTLE - 1, to(Some(4 << 30))), "nnnnnw");
        assert_eq!(of(&FAT, LITTLE, to(Some(5 << 30))), "nnnwn");
        assert_eq!((of(&FAT, 0, Use::Incoming), of(&FAT, 0, Use::State)), ("nnnnn".into(), "ffnwnw".into()));
    }

    #[test]
    fn examining_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(examine(dir.path(), Use::State).unwrap(), []);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(examine(&dir.path().join("none"), Use::State).is_err());
    }
}
