//! Files that lie on the drive already, in an outbox of their own, and only get their names in the directory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::drive::{COPIES, Drive};
use super::{DIRECTORY, is_same, open_root};
use crate::cli::exit::Exit;
use crate::durable::abilities::has_name;
use crate::durable::dest::{Item, Transport};
use crate::durable::publish::{self, REGULAR, at_path};
use crate::names::queue_name::QueueName;
use crate::names::stored::is_at_risk;

/// What [`adopt`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The file has its place, durably.
    Placed,
    /// The drive is away, and why. Nothing was done.
    Away(String),
    /// The file is neither in its outbox nor in its place: it was taken from there, or it is lost.
    Missing,
}

/// Moves the durable file `entry` to its place in the directory `path` as the file `name`, durably. It is in the
/// directory `below` (names, one below the other) of the open directory `given`, which is on the same mount. No file is
/// replaced, and nothing is copied. Nothing counts as missing unless it was looked for on the drive with the right mark.
///
/// # Errors
/// `given` is on another mount, the directory cannot be written, or no name is free. The file is then in its outbox
/// still.
pub fn adopt(
    path: &Path,
    (given, below): (&File, &[&str]),
    entry: &str,
    name: &str,
    how: &Transport,
) -> Result<Adopted> {
    let root = match open_root(path, &how.mark)? {
        Ok(root) => root,
        Err(away) => return Ok(Adopted::Away(away)),
    };
    // Both are open, so the drive cannot be exchanged from here on.
    if !is_same_mount(&root, given)? {
        return Err(Exit::Config.error(format!("its outbox is not on the drive that is mounted at {}", path.display())));
    }
    let drive = Drive::new(root, path, how, &|_| {});
    let mut from = Some(given.try_clone()?);
    for dir in below {
        from = from.map(|from| open_in(&from, dir, DIRECTORY | OFlags::NOFOLLOW)).transpose()?.flatten();
    }
    let file = from.as_ref().map(|from| open_in(from, entry, REGULAR)).transpose()?.flatten();
    let parsed: QueueName = name.parse()?;
    let mut hosts = HashMap::new();
    let dir = drive.host(&parsed.host, &mut hosts)?;
    let placed = match (&from, file) {
        (Some(from), Some(file)) => {
            let item = Item { name: name.to_owned(), entry: entry.to_owned(), parsed, file };
            drive.rename_from(from, &item, dir)?;
            true
        }
        // A crash kept it from being recorded that the file has its place, and perhaps from being durable.
        _ => open_in(dir, &drive.form(name)?, REGULAR)?.is_some(),
    };
    for dir in [Some(dir), from.as_ref()].into_iter().flatten() {
        rustix::fs::fsync(dir).map_err(at_path(path))?;
    }
    Ok(if placed { Adopted::Placed } else { Adopted::Missing })
}

/// Opens what has this name in a directory. Returns `None` if nothing has it.
fn open_in(dir: &File, name: &str, flags: OFlags) -> io::Result<Option<File>> {
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(at_path(Path::new(name))(e)),
    }
}

/// Returns whether a file can be renamed from one of these open directories to the other: not between file systems,
/// and not between two mounts of one. Linux before 5.8 does not tell mounts apart.
pub fn is_same_mount(one: &File, other: &File) -> io::Result<bool> {
    if rustix::fs::fstat(one)?.st_dev != rustix::fs::fstat(other)?.st_dev {
        return Ok(false);
    }
    let mount = |dir: &File| {
        let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
    };
    Ok(mount(one) == mount(other))
}

impl Drive<'_> {
    fn rename_from(&self, from: &File, item: &Item, dir: &File) -> Result<()> {
        let entry = item.entry.as_str();
        for n in 0..COPIES {
            let name = if n == 0 { item.name.clone() } else { format!("{}.{}", item.name, n - 1) };
            let form = self.form(&name)?;
            match is_same(dir, &form, &item.file)? {
                // A crash may have left both names.
                Some(true) => {
                    rustix::fs::unlinkat(from, entry, AtFlags::empty())?;
                    return Ok(());
                }
                Some(false) => continue,
                None => {}
            }
            match publish::rename_new(from, entry, dir, form.as_str()) {
                Err(Errno::EXIST) => continue,
                renamed => renamed?,
            }
            // The abilities were tried with another name.
            if is_at_risk(&form) && !has_name(dir, form.as_ref())? {
                rustix::fs::renameat(dir, form.as_str(), from, entry)?;
                return Err(Exit::CantCreate.error(format!(
                    "the file system stores {form} under another name: use another file system there"
                )));
            }
            return Ok(());
        }
        Err(Exit::CantCreate.error(format!("{COPIES} other files have the name {}", item.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_moves_to_its_place_and_replaces_none() {
        let (outbox, drive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = File::open(outbox.path()).unwrap();
        let name = "bakfsfmt2-1700000000.000000001.1_h@a";
        let again = || adopt(drive.path(), (&from, &[]), "1", name, &Transport::default()).unwrap();
        assert_eq!(again(), Adopted::Missing);
        for bytes in ["x", "x", "y"] {
            fs::write(outbox.path().join("1"), bytes).unwrap();
            // The second time a crash may have kept the first from being recorded.
            assert_eq!((again(), again()), (Adopted::Placed, Adopted::Placed));
            assert!(!outbox.path().join("1").exists());
        }
        let none = adopt(drive.path(), (&from, &["a", "b"]), "1", &name.replace("1_h", "2_h"), &Transport::default());
        assert_eq!(none.unwrap(), Adopted::Missing);
        let read = |name: String| fs::read_to_string(drive.path().join("h").join(name)).unwrap();
        assert_eq!((read(name.into()), read(format!("{name}.0"))), ("x".into(), "y".into()));
        assert_eq!(fs::read_dir(drive.path().join("h")).unwrap().count(), 2);
    }
}
