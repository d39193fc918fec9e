//! Trusted files: configuration, keys, certificates. Whoever can change or replace one decides
//! in the administrator's place, so only root and the user who runs us may be able to do so.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::names::shell::quoted;

/// Opens a regular file that nobody else can change or replace: the file and its directory (of a
/// symlink, also that of its destination) belong to root or us, and others cannot write to them. A
/// directory to which others can write must be sticky, like `/tmp`.
///
/// # Errors
/// `PermissionDenied` with the remedy; `InvalidInput` for what is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // NONBLOCK, because to open a FIFO would otherwise hang.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    only_ours(&meta, false).map_err(|(why, remedy)| denied(format!("{why}: {remedy} {}", quoted(path))))?;
    check_directory(path)?;
    Ok(file)
}

/// Makes those checks of [`open`] that concern the directory, for files that are opened in another way, or
/// do not exist yet.
pub fn check_directory(path: &Path) -> io::Result<()> {
    let real = match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    for path in [std::path::absolute(path)?].into_iter().chain(real) {
        if let Some(dir) = path.parent() {
            only_ours(&fs::metadata(dir)?, true)
                .map_err(|(why, remedy)| denied(format!("its directory {why}: {remedy} {}", quoted(dir))))?;
        }
    }
    Ok(())
}

/// Checks that everything below `dir` belongs to root or us and is not writable by others. For a directory to which
/// others could once write: what they put there then would be trusted now. Symlinks are not followed.
///
/// # Errors
/// `PermissionDenied`, without remedy, for the first entry that fails the check.
pub fn check_below(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = match fs::symlink_metadata(&path) {
            // Another process of ours has just removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        only_ours(&meta, false).map_err(|(why, _)| denied(format!("{} {why}", path.display())))?;
        if meta.is_dir() {
            check_below(&path)?;
        }
    }
    Ok(())
}

/// Checks that only root and we can write to a file. The error is the reason, and the command that is the remedy, without
/// the path.
fn only_ours(meta: &Metadata, may_be_sticky: bool) -> Result<(), (String, &'static str)> {
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err((format!("belongs to user {}, who may change it", meta.uid()), "chown root"));
    }
    // The mode of a symlink means nothing.
    if meta.mode() & 0o022 != 0 && !meta.is_symlink() && !(may_be_sticky && meta.mode() & 0o1000 != 0) {
        return Err(("may be changed by others".into(), "chmod go-w"));
    }
    Ok(())
}

fn denied(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[track_caller]
    fn assert_rejected(path: &Path, says: &str) {
        let e = open(path).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }

    #[test]
    fn a_file_that_others_may_change_or_replace_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        mode(&file, 0o644);
        assert!(open(&file).is_ok());
        for open_to_others in [0o664, 0o646] {
            mode(&file, open_to_others);
            assert_rejected(&file, &format!("may be changed by others: chmod go-w {}", quoted(&file)));
        }
        mode(&file, 0o600);
        for (of_directory, accepted) in [(0o755, true), (0o1777, true), (0o775, false), (0o757, false)] {
            mode(dir.path(), of_directory);
            assert_eq!(open(&file).is_ok(), accepted, "{of_directory:o}");
        }
        assert_rejected(&file, "its directory");
        // Both the directory of a symlink and that of its destination count.
        let other = tempfile::tempdir().unwrap();
        symlink(&file, other.path().join("link")).unwrap();
        assert_rejected(&other.path().join("link"), "its directory");
        mode(dir.path(), 0o700);
        assert!(open(&other.path().join("link")).is_ok());
        mode(other.path(), 0o777);
        assert_rejected(&other.path().join("link"), "its directory");
        assert_rejected(dir.path(), "is not a regular file");
    }

    #[test]
    fn a_file_of_another_user_is_rejected_as_root() {
        assert!(rustix::process::geteuid().is_root(), "only root can do this: make test-root");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        mode(&file, 0o644);
        assert!(open(&file).is_ok());
        chown(&file, Some(65534), None).unwrap();
        assert_rejected(&file, "belongs to user 65534");
        chown(&file, Some(0), None).unwrap();
        chown(dir.path(), Some(65534), None).unwrap();
        assert_rejected(&file, "belongs to user 65534");
    }
}
