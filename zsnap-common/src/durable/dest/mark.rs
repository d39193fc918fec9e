//! The mark of a `dir:`: a file in its root that contains the name of the drive. The mount point of an unmounted drive
//! has no mark, and another drive has a different one, so nothing is ever written to the wrong place.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::Mode;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cli::exit::{Exit, OrExit};
use crate::durable::publish::{NewFile, REGULAR, at_path, sweep_at};
use crate::names::random::random_hex;
use crate::names::shell::quoted;

/// The name of the mark.
pub const MARKER: &str = ".zsnap-drive";

/// The mark that a `dir:` must have; otherwise the destination is away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// It needs no mark.
    #[default]
    Unneeded,
    /// It needs a mark with any name.
    Any,
    /// It needs a mark with this name.
    Named(String),
}

impl Mark {
    /// Returns why a drive at `path` does not have this mark, or `None` if it does. `there` is the name in its mark, if it
    /// has one.
    pub(super) fn lacks(&self, there: Option<&str>, path: &Path) -> Option<String> {
        let wanted = match self {
            Mark::Unneeded => return None,
            Mark::Any => None,
            Mark::Named(name) => Some(name.as_str()),
        };
        match (there, wanted) {
            (None, _) => {
                Some(format!("{} has no {MARKER}: the drive is not mounted, or was never marked", path.display()))
            }
            (Some(_), None) => None,
            (there, wanted) if there == wanted => None,
            (Some(there), _) => Some(format!("{} is the drive \"{}\"", path.display(), there.escape_default())),
        }
    }
}

/// Returns the name in the mark of the drive whose open root is `root`, or `None` if it has no mark. A mark that cannot
/// be read is an error: if it counted as away, nobody would hear of the fault.
pub fn read(root: &File, path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    let read = rustix::fs::openat(root, MARKER, REGULAR, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).take(256).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            let odd =
                [Errno::LOOP, Errno::ISDIR, Errno::NXIO].iter().any(|odd| e.raw_os_error() == Some(odd.raw_os_error()));
            let remedy = if odd || e.kind() == io::ErrorKind::InvalidData {
                "what is there is no mark: remove it: "
            } else {
                ""
            };
            Err(io::Error::new(e.kind(), format!("{remedy}{}: {e}", path.join(MARKER).display())))
        }
    }
}

/// Writes the mark into the open directory `root`, durably. Fails with `AlreadyExists` if it has one by now.
pub(super) fn write(root: &File, path: &Path, name: &str) -> io::Result<()> {
    let mut new = NewFile::create_at(root.try_clone()?, path)?;
    new.file().write_all(format!("{name}\n").as_bytes())?;
    new.sync()?;
    new.name_as(MARKER.as_ref())?;
    rustix::fs::fsync(root).map_err(at_path(path))
}

/// Returns a name for a new drive that is mounted at `path`: the last part of the path, and random digits, because
/// other drives may be mounted at a path like this one.
///
/// # Errors
/// There are no random numbers.
pub fn new_name(path: &Path) -> io::Result<String> {
    let last = path.file_name().map(|last| last.to_string_lossy().into_owned()).unwrap_or_default();
    let good = |c: &char| c.is_ascii_alphanumeric() || "_-".contains(*c);
    let last: String = last.chars().filter(good).take(40).collect();
    let digits = random_hex(4)?;
    Ok(if last.is_empty() || last.starts_with('-') { format!("drive-{digits}") } else { format!("{last}-{digits}") })
}

/// Marks the directory `path` with the name that `wanted` requires. For [`Mark::Any`], a mark that is there stays, and
/// a directory without one gets a new name. Returns the name in the mark.
///
/// # Errors
/// The directory does not exist or has another mark; or it is on the file system of one of `fixed` or of `/` although
/// `same_filesystem` is not set: then it is most likely the mount point of a drive that is away.
pub fn init(path: &Path, wanted: &Mark, fixed: &[&Path], same_filesystem: bool) -> Result<String> {
    let shown = path.display();
    let meta =
        fs::metadata(path).or_exit(Exit::Config, format_args!("{shown}: mount the drive, and make the directory"))?;
    for fixed in fixed.iter().copied().chain([Path::new("/")]) {
        if meta.dev() == fs::metadata(fixed).or_exit(Exit::Io, fixed.display())?.dev() && !same_filesystem {
            return Err(Exit::Config.error(format!(
                "{shown} is on the file system of {}: mount the drive, or say --same-filesystem if it is none",
                fixed.display()
            )));
        }
    }
    let root = File::open(path.join(".")).or_exit(Exit::Io, &shown)?;
    let name = match (read(&root, path).or_exit(Exit::Io, "cannot read the mark")?, wanted) {
        (Some(there), Mark::Named(name)) if there != *name => {
            return Err(Exit::Config.error(format!(
                "{shown} is the drive \"{}\" already: mount the right one, or remove {}",
                there.escape_default(),
                quoted(&path.join(MARKER))
            )));
        }
        (Some(there), _) => there,
        (None, wanted) => {
            let name = match wanted {
                Mark::Named(name) => name.clone(),
                Mark::Any | Mark::Unneeded => new_name(path).or_exit(Exit::Io, "no random numbers")?,
            };
            write(&root, path, &name).or_exit(Exit::CantCreate, "cannot mark the drive")?;
            name
        }
    };
    // Remove the temporary files of a process that was killed.
    sweep_at(&root, path).or_exit(Exit::Io, "cannot clear up")?;
    Ok(name)
}

/// Returns the mount point in the text of fstab(5) that is `path` or one of its parents, other than `/`, if there is
/// one. The deepest counts.
pub(super) fn mount_point(fstab: &str, path: &Path) -> Option<PathBuf> {
    let second = |line: &str| {
        let point =
            line.trim_start().split_ascii_whitespace().nth(1).filter(|_| !line.trim_start().starts_with('#'))?;
        // Spaces and the like are octal there.
        let point = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(point.to_owned(), |point, (from, to)| point.replace(from, to));
        Some(PathBuf::from(point))
    };
    let above = fstab.lines().filter_map(second).filter(|point| point.parent().is_some() && path.starts_with(point));
    above.max_by_key(|point| point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_keeps_its_name_and_another_one_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my stick.");
        let named = |name: &str| Mark::Named(name.into());
        let init = |wanted: &Mark| init(&path, wanted, &[], true);
        assert!(init(&Mark::Any).unwrap_err().to_string().contains("make the directory"));
        fs::create_dir(&path).unwrap();
        for mark in [Mark::Any, named("x")] {
            assert!(mark.lacks(None, &path).unwrap().contains("never marked"));
        }
        assert_eq!(Mark::Unneeded.lacks(None, &path), None);
        let name = init(&Mark::Any).unwrap();
        assert!(name.starts_with("mystick-") && init(&Mark::Any).unwrap() == name, "{name}");
        assert_eq!(init(&named(&name)).unwrap(), name);
        let e = init(&named("x")).unwrap_err().to_string();
        assert!(e.contains("already: mount the right one, or remove '"), "{e}");
        assert!(named("x").lacks(Some(&name), &path).unwrap().contains(&name));
        assert_eq!((Mark::Any.lacks(Some(&name), &path), named(&name).lacks(Some(&name), &path)), (None, None));
    }

    #[test]
    fn a_directory_on_a_fixed_file_system_needs_consent() {
        let dir = tempfile::tempdir().unwrap();
        let fixed = dir.path().join("fixed");
        fs::create_dir(&fixed).unwrap();
        let e = init(dir.path(), &Mark::Any, &[&fixed], false).unwrap_err();
        assert!(Exit::of(&e) == Exit::Config && e.to_string().contains("--same-filesystem"), "{e}");
        assert!(!dir.path().join(MARKER).exists());
    }

    #[test]
    fn mount_points_are_found_in_fstab() {
        let fstab = "# /dev/sda /media/old ext4\nUUID=1 / ext4 defaults 0 1\n/dev/sdb1 /media/my\\040stick vfat noauto\n\
                     /dev/sdb2\t/media/my\\040stick/deep ext4\nnone none swap\n\n  /dev/sdc /srv xfs";
        let of = |path: &str| mount_point(fstab, Path::new(path));
        assert_eq!(of("/media/my stick"), Some("/media/my stick".into()));
        assert_eq!(of("/media/my stick/deep/er"), Some("/media/my stick/deep".into()));
        assert_eq!(of("/srv/x"), Some("/srv".into()));
        assert_eq!((of("/media/old/x"), of("/srvx"), of("/")), (None, None, None));
    }
}
