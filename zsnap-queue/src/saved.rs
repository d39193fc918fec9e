//! What is known of a destination: `.dest.json` in its outbox, with which an outbox is drained after its destination
//! was removed from the configuration, and the mark by which the drive of a `dir:` is recognised.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use zsnap_common::cli::log;
use zsnap_common::durable::dest::dir::Look;
use zsnap_common::durable::dest::mark::{self, MARKER};
use zsnap_common::durable::dest::{Courier, Dest, Mark, Transport};
use zsnap_common::durable::publish;
use zsnap_common::names::shell::quoted;

use crate::destination::Destination;

/// The name of the file.
pub const DEST: &str = ".dest.json";

/// The contents of `.dest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub dest: Dest,
    pub user: Option<String>,
    pub nncp_config: Option<PathBuf>,
    pub nice: Option<String>,
    #[serde(default)]
    pub max_file: Option<u64>,
    /// Whether a drive was ever found mounted at the path of a `dir:`.
    #[serde(default)]
    mounted: bool,
    /// The drive of a `dir:`.
    #[serde(default)]
    pub drive: Drive,
}

/// The drive of a `dir:`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drive {
    /// The destination was in use before drives needed marks. The next delivery marks its drive.
    #[default]
    Unmarked,
    /// Nothing was delivered yet. The drive needs a mark.
    New,
    /// The drive has a mark with this name.
    Named(String),
}

impl Drive {
    /// Returns the mark that the drive needs.
    pub fn mark(&self) -> Mark {
        match self {
            Drive::Unmarked | Drive::New => Mark::Any,
            Drive::Named(name) => Mark::Named(name.clone()),
        }
    }
}

impl Saved {
    /// Reads what is known of the destination with this outbox.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn read(outbox: &Path) -> anyhow::Result<Saved> {
        let path = outbox.join(DEST);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }

    /// Changes what is known of a destination, durably. What is not known yet or cannot be read begins anew.
    pub fn change(outbox: &Path, destination: &Destination, change: impl FnOnce(&mut Saved)) -> io::Result<()> {
        let before = Saved::read(outbox).ok();
        let Transport { user, nncp_config, nice, max_file, .. } = destination.transport.clone();
        let (mounted, drive) =
            before.as_ref().map_or((false, Drive::New), |before| (before.mounted, before.drive.clone()));
        let mut now = Saved { dest: destination.dest.clone(), user, nncp_config, nice, max_file, mounted, drive };
        change(&mut now);
        if before.as_ref() != Some(&now) {
            publish::write_durably(&outbox.join(DEST), &serde_json::to_vec_pretty(&now)?)?;
        }
        Ok(())
    }

    /// Returns the beginning of the reason why a drive without a mark needs `init`, or `None` if it may be marked now:
    /// if the destination was in use before drives needed marks, and nothing suggests that the drive is not mounted.
    pub fn needs_init(&self, look: &Look) -> Option<&'static str> {
        match self.drive {
            Drive::New | Drive::Named(_) => Some(""),
            Drive::Unmarked if self.mounted && !look.mounted => Some("nothing is mounted there, as was before; "),
            Drive::Unmarked if look.unmounted => Some("fstab lists a mount point there, and nothing is mounted; "),
            Drive::Unmarked => None,
        }
    }
}

/// Returns how to deliver to the destination with this outbox: a `dir:` needs the mark that is recorded.
pub fn transport(outbox: &Path, how: &Transport) -> Transport {
    let mark = Saved::read(outbox).map_or(Mark::Any, |saved| saved.drive.mark());
    Transport { mark, ..how.clone() }
}

/// Finds out whether the right drive is mounted at a `dir:`, and records and requires its mark from then on. Returns
/// why the destination is away, if it is.
pub fn recognise(
    outbox: &Path,
    destination: &Destination,
    courier: &mut Courier<'_>,
) -> anyhow::Result<Option<String>> {
    let Dest::Dir(path) = &destination.dest else { return Ok(None) };
    let look = courier.look()?;
    let name = match (&look.away, &look.name) {
        (None, Some(name)) => name.clone(),
        (Some(why), _) if look.real().is_none() => {
            return Ok(Some(format!("{why}: mount the drive, or make the directory")));
        }
        (Some(why), None) => match first_mark(outbox, path, &look, courier)? {
            Ok(name) => name,
            Err(more) => return Ok(Some(format!("{more}{why}; {}", remedy(path)))),
        },
        (away, _) => return Ok(away.as_ref().map(|why| format!("{why}; {}", remedy(path)))),
    };
    Saved::change(outbox, destination, |saved| {
        saved.mounted |= look.mounted;
        saved.drive = Drive::Named(name.clone());
    })?;
    courier.require(Mark::Named(name))?;
    Ok(None)
}

/// Marks the drive of a destination that was in use before drives needed marks. Returns its name, or the beginning of
/// the reason why it was not marked.
fn first_mark(
    outbox: &Path,
    path: &Path,
    look: &Look,
    courier: &mut Courier<'_>,
) -> anyhow::Result<Result<String, String>> {
    if let Some(why) = Saved::read(outbox).map_or(Some(""), |saved| saved.needs_init(look)) {
        return Ok(Err(why.to_owned()));
    }
    let name = mark::new_name(path)?;
    if let Err(e) = courier.mark(&name) {
        return Ok(Err(format!("it needs a mark now, which cannot be written ({e:#}); ")));
    }
    let (file, shown) = (path.join(MARKER), quoted(path));
    log::warn(format_args!(
        "{} now has the mark {MARKER}: while that is missing, as below the mount point of a drive that is away, nothing \
         is delivered there. If the drive is not mounted now, \"rm {}\", mount it, and \"zsnap-queue init {shown}\"",
        path.display(),
        quoted(&file),
    ));
    Ok(Ok(name))
}

/// Returns what to do about a drive that is not recognised.
pub fn remedy(path: &Path) -> String {
    format!("if the right one is mounted there: zsnap-queue init {}", quoted(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{deliver, prepare};
    use crate::destination::configured;
    use zsnap_common::durable::dest::dir::look;
    use zsnap_common::durable::outbox::Outboxes;
    use zsnap_common::durable::publish::make_dirs;

    const NAME: &str = "bakfsfmt2-1700000000.000000001.1_h@a";

    /// A drive that was in use before drives needed marks, and a file that waits for it.
    struct Used {
        dir: tempfile::TempDir,
        boxes: Outboxes,
        destinations: Vec<Destination>,
    }

    impl Used {
        fn new(mounted: bool) -> Used {
            let dir = tempfile::tempdir().unwrap();
            let boxes = Outboxes::new(dir.path().join("split"), dir.path().join("to"));
            let dest = Dest::Dir(dir.path().join("drive"));
            fs::create_dir(dir.path().join("drive")).unwrap();
            let old =
                serde_json::json!({"dest": dest, "user": null, "nncp_config": null, "nice": null, "mounted": mounted});
            let destinations = configured(&[dest], &Transport::default());
            make_dirs(&boxes.dir(&destinations[0].id)).unwrap();
            fs::write(boxes.dir(&destinations[0].id).join(DEST), old.to_string()).unwrap();
            // A run does this before it delivers.
            prepare(&boxes, &"h".parse().unwrap(), &destinations).unwrap();
            let used = Used { dir, boxes, destinations };
            used.queue();
            used
        }
        fn queue(&self) {
            fs::write(self.boxes.dir(&self.destinations[0].id).join("h").join(NAME), "x").unwrap();
        }
        fn saved(&self) -> Saved {
            Saved::read(&self.boxes.dir(&self.destinations[0].id)).unwrap()
        }
        fn run(&self) -> Vec<String> {
            deliver(&self.boxes, self.destinations.clone(), false).remove(0).delivered
        }
        fn mark(&self) -> PathBuf {
            self.dir.path().join("drive").join(MARKER)
        }
    }

    #[test]
    fn a_drive_that_was_in_use_gets_its_mark_once() {
        let used = Used::new(false);
        assert_eq!((used.saved().drive, used.run()), (Drive::Unmarked, vec![NAME.to_owned()]));
        let name = fs::read_to_string(used.mark()).unwrap().trim_end().to_owned();
        assert_eq!(used.saved().drive, Drive::Named(name.clone()));
        // From now on it needs this mark, and gets none by itself.
        for other in [None, Some("other\n")] {
            fs::write(used.mark(), "").and_then(|()| fs::remove_file(used.mark())).unwrap();
            other.iter().for_each(|text| fs::write(used.mark(), text).unwrap());
            used.queue();
            assert!(used.run().is_empty() && used.mark().exists() == other.is_some());
        }
        fs::write(used.mark(), format!("{name}\n")).unwrap();
        assert_eq!(used.run(), [NAME]);
    }

    #[test]
    fn an_empty_mount_point_gets_no_mark() {
        assert!(look(Path::new("/proc"), &Mark::Unneeded).unwrap().mounted);
        let used = Used::new(true);
        assert!(used.run().is_empty() && !used.mark().exists());
        let seen = look(used.dir.path(), &Mark::Unneeded).unwrap();
        let unmounted = Look { unmounted: true, ..seen.clone() };
        let saved = |mounted, drive| Saved { mounted, drive, ..used.saved() };
        assert!(saved(false, Drive::Unmarked).needs_init(&unmounted).is_some());
        assert!(saved(false, Drive::New).needs_init(&Look::default()).is_some());
        assert!(saved(false, Drive::Unmarked).needs_init(&Look::default()).is_none());
        let mounted = Look { mounted: true, ..seen };
        assert!(saved(true, Drive::Unmarked).needs_init(&mounted).is_none());
    }

    #[test]
    fn a_lost_record_needs_a_mark_and_learns_it() {
        let used = Used::new(false);
        fs::remove_file(used.boxes.dir(&used.destinations[0].id).join(DEST)).unwrap();
        assert!(used.run().is_empty() && !used.mark().exists());
        fs::write(used.mark(), "disk1\n").unwrap();
        assert_eq!((used.run(), used.saved().drive), (vec![NAME.to_owned()], Drive::Named("disk1".into())));
    }
}
