//! Files that lie on the drive already, in an outbox of their own, and only get their names in the directory.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use anyhow::Result;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::drive::{COPIES, Drive};
use super::{is_same, open_root};
use crate::cli::exit::Exit;
use crate::durable::abilities::has_name;
use crate::durable::dest::{Delivered, Item, Transport};
use crate::durable::publish::{self, at_path};
use crate::names::stored::is_at_risk;

/// Moves the durable file `item.entry` from the open directory `from`, which is on the same file system, to its place
/// in the directory `path`, durably. No file is replaced, and nothing is copied.
///
/// # Errors
/// The directory cannot be written, or no name is free. The file is then in `from` still.
pub fn adopt(path: &Path, item: &Item, from: &File, how: &Transport) -> Result<Delivered> {
    let drive = match open_root(path, &how.mark)? {
        Ok(root) => Drive::new(root, path, how, &|_| {}),
        Err(away) => return Ok(Delivered::Away(away)),
    };
    let mut hosts = HashMap::new();
    let dir = drive.host(item, &mut hosts)?;
    let delivered = drive.rename_from(from, item, dir)?;
    rustix::fs::fsync(dir).map_err(at_path(path))?;
    rustix::fs::fsync(from).map_err(at_path(path))?;
    Ok(delivered)
}

impl Drive<'_> {
    fn rename_from(&self, from: &File, item: &Item, dir: &File) -> Result<Delivered> {
        let entry = item.entry.as_str();
        for n in 0..COPIES {
            let name = if n == 0 { item.name.clone() } else { format!("{}.{}", item.name, n - 1) };
            let form = self.form(&name)?;
            match is_same(dir, &form, &item.file)? {
                // A crash may have left both names.
                Some(true) => {
                    rustix::fs::unlinkat(from, entry, AtFlags::empty())?;
                    return Ok(Delivered::Already);
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
            return Ok(Delivered::New);
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
        let adopt = |bytes: &str| {
            fs::write(outbox.path().join("1"), bytes).unwrap();
            let file = File::open(outbox.path().join("1")).unwrap();
            let item = Item { name: name.into(), entry: "1".into(), parsed: name.parse().unwrap(), file };
            let delivered = adopt(drive.path(), &item, &from, &Transport::default()).unwrap();
            assert!(!outbox.path().join("1").exists());
            delivered
        };
        assert_eq!((adopt("x"), adopt("x"), adopt("y")), (Delivered::New, Delivered::Already, Delivered::New));
        let read = |name: String| fs::read_to_string(drive.path().join("h").join(name)).unwrap();
        assert_eq!((read(name.into()), read(format!("{name}.0"))), ("x".into(), "y".into()));
        assert_eq!(fs::read_dir(drive.path().join("h")).unwrap().count(), 2);
    }
}
