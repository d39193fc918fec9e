//! Runs `zfs` and `zpool`: listings (only in the form for scripts, `-H`), properties, holds, create and destroy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::cli::cancel::Cancelled;
use crate::cli::escape::escape;
use crate::cli::exit::Exit;
use crate::names::target::check_component;
use crate::process::child::{self, Output};
use crate::stream::Guid;

/// A snapshot of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The name, without the dataset and the `@`.
    pub name: String,
    /// The identity of the snapshot, the same wherever it was received.
    pub guid: Guid,
    /// The transaction group of this pool in which it was made; it orders the snapshots of a dataset.
    pub createtxg: u64,
    /// When it was made, in seconds since 1970; for a received snapshot, as the sender claims.
    pub creation: u64,
}

/// The programs `zfs` and `zpool`.
#[derive(Clone, Debug)]
pub struct Zfs {
    zfs: PathBuf,
    zpool: PathBuf,
}

impl Zfs {
    /// Finds the programs; `Exit::Unavailable` if one is missing.
    pub fn find(zfs: &Path, zpool: &Path) -> Result<Zfs> {
        Ok(Zfs { zfs: child::find(zfs)?, zpool: child::find(zpool)? })
    }

    /// The path of `zfs`.
    pub fn program(&self) -> &Path {
        &self.zfs
    }

    /// Returns the guid of a pool; `None` if it is not imported.
    pub fn pool_guid(&self, pool: &str) -> Result<Option<Guid>> {
        let Some(text) = output(&self.zpool, &["list", "-Hp", "-o", "guid", pool])? else { return Ok(None) };
        guid(&text).map(Some)
    }

    /// Whether a pool is imported read-only. It is an error if it is not imported.
    pub fn pool_is_read_only(&self, pool: &str) -> Result<bool> {
        let text = output(&self.zpool, &["list", "-Hp", "-o", "readonly", pool])?;
        let text = text.ok_or_else(|| Exit::Unavailable.error(format!("pool {pool} is not imported")))?;
        Ok(text.trim_end() == "on")
    }

    /// Returns the file systems and volumes at and below `root`, each with the number of bytes written to it since its
    /// newest snapshot; `None` if `root` does not exist.
    pub fn datasets(&self, root: &str) -> Result<Option<BTreeMap<String, u64>>> {
        let args = ["list", "-Hp", "-r", "-t", "filesystem,volume", "-o", "name,written", root];
        let Some(text) = output(&self.zfs, &args)? else { return Ok(None) };
        text.lines().map(|line| dataset(root, line)).collect::<Result<_>>().map(Some)
    }

    /// Returns all snapshots at and below `root` by dataset, oldest first. It is an error if `root` does not exist.
    pub fn snapshots(&self, root: &str) -> Result<BTreeMap<String, Vec<Snapshot>>> {
        let args = ["list", "-Hp", "-r", "-t", "snapshot", "-s", "createtxg", "-o", SNAPSHOT, root];
        let text = output(&self.zfs, &args)?
            .ok_or_else(|| Exit::Unavailable.error(format!("cannot list the snapshots of {root}; the log says why")))?;
        let mut all: BTreeMap<String, Vec<Snapshot>> = BTreeMap::new();
        for line in text.lines() {
            let (dataset, snapshot) = snapshot(root, line)?;
            match all.get_mut(dataset) {
                Some(of) => of.push(snapshot),
                None => drop(all.insert(dataset.to_owned(), vec![snapshot])),
            }
        }
        Ok(all)
    }

    /// Runs `zfs list -Hp -t KIND -o COLUMNS` for what lies at and below each of `roots`, or in all
    /// pools if there are none. Returns lines of fields separated by tabs; `None` if one of the roots does not exist.
    pub fn list(&self, kind: &str, columns: &str, roots: &[String], depth: Option<u32>) -> Result<Option<String>> {
        self.list_at_most(MAX_OUTPUT, kind, columns, roots, depth)
    }

    /// Like [`Zfs::list`], but an output of more than `most` bytes is an error.
    pub fn list_at_most(
        &self,
        most: u64,
        kind: &str,
        columns: &str,
        roots: &[String],
        depth: Option<u32>,
    ) -> Result<Option<String>> {
        let depth = depth.map(|depth| depth.to_string());
        let mut args = vec!["list", "-Hp", "-t", kind, "-o", columns];
        match &depth {
            Some(depth) => args.extend(["-d", depth]),
            None => args.push("-r"),
        }
        args.extend(roots.iter().map(String::as_str));
        output_at_most(most, &self.zfs, &args)
    }

    /// Returns the value of a property of one dataset or snapshot (`-` if not set); `None` if `name` does not exist.
    /// The value is all that `zfs get` prints except the final newline, so that no content of a value can be misread.
    pub fn property(&self, property: &str, name: &str) -> Result<Option<String>> {
        self.get("value", property, name)
    }

    /// Returns where a property is set (`local`, `received`, `inherited from DATASET`, `-`); `None` if `name` does not
    /// exist.
    pub fn property_source(&self, property: &str, name: &str) -> Result<Option<String>> {
        self.get("source", property, name)
    }

    fn get(&self, column: &str, property: &str, name: &str) -> Result<Option<String>> {
        let Some(mut text) = output(&self.zfs, &["get", "-Hp", "-o", column, property, name])? else { return Ok(None) };
        match text.pop() {
            Some('\n') => Ok(Some(text)),
            _ => Err(Exit::Unavailable.error(format!("zfs get {property} {name}: its last line has no end"))),
        }
    }

    /// Runs `zfs destroy NAME@A,B,C`, which destroys all of these snapshots of one dataset or none. Returns `None` on
    /// success, or why `zfs` refused. It is an error if `zfs` cannot be run or hangs; the next call would fail as well.
    pub fn destroy(&self, dataset: &str, snaps: &[&str]) -> Result<Option<String>> {
        let name = format!("{dataset}@{}", snaps.join(","));
        Ok(match answer(PATIENCE, MAX_OUTPUT, &self.zfs, &["destroy", &name])? {
            Answer::Text(_) => None,
            Answer::Absent => Some("it does not exist".into()),
            Answer::Failed(why) => Some(why),
        })
    }

    /// Returns how many bytes destroying the snapshots would free, as estimated by `zfs destroy -nvp`; `None` if
    /// there is no estimate.
    pub fn reclaim(&self, dataset: &str, snaps: &[&str]) -> Option<u64> {
        let name = format!("{dataset}@{}", snaps.join(","));
        let text = output(&self.zfs, &["destroy", "-nvp", &name]).ok().flatten()?;
        text.lines().find_map(|line| line.strip_prefix("reclaim\t")?.trim().parse().ok())
    }

    /// Returns the tags of the holds on a snapshot.
    pub fn holds(&self, name: &str) -> Result<Vec<String>> {
        let text = output(&self.zfs, &["holds", "-H", name])?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.split('\t').nth(1)).map(str::to_owned).collect())
    }

    /// Returns the guid of the snapshot `dataset@snap`; `None` if it does not exist.
    pub fn snapshot_guid(&self, name: &str) -> Result<Option<Guid>> {
        let Some(text) = output(&self.zfs, &["list", "-Hp", "-t", "snapshot", "-o", "guid", name])? else {
            return Ok(None);
        };
        guid(&text).map(Some)
    }

    /// Creates a file system that is never mounted, as a parent of other datasets.
    pub fn create_parent(&self, dataset: &str) -> Result<()> {
        match output(&self.zfs, &["create", "-o", "canmount=off", dataset])? {
            Some(_) => Ok(()),
            None => Err(Exit::Unavailable.error(format!("zfs create {dataset}: its parent does not exist"))),
        }
    }
}

const SNAPSHOT: &str = "name,guid,createtxg,creation";

// Unlike user properties, these columns cannot contain a tab or a newline. Even so, a line is accepted
// only if it has exactly one field per column and names what was asked for.

/// Parses a line of `zfs list -Hp -o name,guid,createtxg,creation ROOT` into the dataset's name and the snapshot.
fn snapshot<'l>(root: &str, line: &'l str) -> Result<(&'l str, Snapshot)> {
    let parse = || {
        let [name, guid, createtxg, creation] = fields(line)?;
        let (dataset, name) = name.split_once('@').filter(|(dataset, _)| lies_in(dataset, root))?;
        check_component(name).ok()?;
        let (guid, createtxg, creation) = (Guid(guid.parse().ok()?), createtxg.parse().ok()?, creation.parse().ok()?);
        Some((dataset, Snapshot { name: name.to_owned(), guid, createtxg, creation }))
    };
    parse().ok_or_else(|| unreadable(line))
}

/// Parses a line of `zfs list -Hp -o name,written ROOT`.
fn dataset(root: &str, line: &str) -> Result<(String, u64)> {
    let parse = || {
        let [name, written] = fields(line)?;
        let name = lies_in(name, root).then(|| name.to_owned())?;
        Some((name, written.parse().ok()?))
    };
    parse().ok_or_else(|| unreadable(line))
}

/// Parses the output of a listing of one guid.
fn guid(text: &str) -> Result<Guid> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.parse().map(Guid).map_err(|_| unreadable(text))
}

fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split('\t').collect::<Vec<_>>().try_into().ok()
}

/// Whether `name` is a valid name of `root` or of a dataset below it.
fn lies_in(name: &str, root: &str) -> bool {
    let rest = name.strip_prefix(root);
    let lies = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    lies && name.split('/').all(|component| check_component(component).is_ok())
}

fn unreadable(line: &str) -> anyhow::Error {
    Exit::Unavailable.error(format!("zfs list: cannot read \"{}\"", escape(line)))
}

/// How long `zfs` and `zpool` may print nothing, and then take to end. They wait forever for a pool whose I/O
/// is suspended; to list a million snapshots takes less than this.
const PATIENCE: Duration = Duration::from_secs(600);
/// The maximum size of their output in bytes: several million snapshots.
const MAX_OUTPUT: u64 = 512 << 20;

/// Returns what the program prints; `None` if it reports that the object does not exist. To mistake another failure
/// for that would be fatal, because an existing object would seem to be gone.
fn output(program: &Path, args: &[&str]) -> Result<Option<String>> {
    output_at_most(MAX_OUTPUT, program, args)
}

fn output_at_most(most: u64, program: &Path, args: &[&str]) -> Result<Option<String>> {
    match answer(PATIENCE, most, program, args)? {
        Answer::Text(text) => Ok(Some(text)),
        Answer::Absent => Ok(None),
        Answer::Failed(why) => Err(Exit::Unavailable.error(why)),
    }
}

/// The outcome of a call of `zfs` or `zpool`.
#[derive(Debug)]
enum Answer {
    /// The call succeeded and printed this.
    Text(String),
    /// The object does not exist.
    Absent,
    /// The call failed: the arguments, and what the program reported.
    Failed(String),
}

/// How the last line of stderr ends if the object does not exist (libzfs, `LC_ALL=C`).
const ABSENT: [&str; 2] = ["does not exist", "no such pool"];

/// Whether a line reports that an object does not exist, as in `cannot open 'NAME': dataset does not exist`. Only the
/// text after the name counts, because the name itself may be "x does not exist". A name never contains a quote.
fn says_absent(line: &str) -> bool {
    let own = line.rsplit_once("': ").map(|(_, own)| own);
    own.is_some_and(|own| !own.contains('\'') && ABSENT.iter().any(|absent| own.ends_with(absent)))
}

fn answer(patience: Duration, most: u64, program: &Path, args: &[&str]) -> Result<Answer> {
    let mut command = child::command(program);
    command.args(args);
    let label = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    match child::output(command, &label, patience, most) {
        Ok(Output { status, text, .. }) if status.success() => Ok(Answer::Text(text)),
        Ok(Output { status, words, last_line, .. }) => {
            let absent = status.code() == Some(1) && says_absent(&last_line);
            let failed = || Answer::Failed(format!("{label} {}: {status}: {words}", args.join(" ")));
            Ok(if absent { Answer::Absent } else { failed() })
        }
        Err(e) if Cancelled::find(&e).is_some() => Err(e),
        Err(e) => Err(e.context(format!("{label} {}; look at dmesg and at zpool status", args.join(" ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_zfs_list_are_parsed_strictly() {
        let (of, read) = snapshot("tank", "tank/a b@__simplesnap_x__\t13447218371902839\t42\t1700000000").unwrap();
        let (name, guid) = ("__simplesnap_x__".into(), Guid(13447218371902839));
        assert_eq!((of, read), ("tank/a b", Snapshot { name, guid, createtxg: 42, creation: 1_700_000_000 }));
        for bad in [
            "",
            "tank/a\t1\t2\t3",
            "tank/a@s\tx\t2\t3",
            "tank/a@s\t1\t2",
            "tank/a@s\t1\t2\t3\t",
            "tank/a@s\t1\t2\t3\t4",
            "tank2/a@s\t1\t2\t3",
            "other/a@s\t1\t2\t3",
            "tank/a@s@t\t1\t2\t3",
            "tank/a@\t1\t2\t3",
            "tank//a@s\t1\t2\t3",
        ] {
            assert!(snapshot("tank", bad).is_err(), "{bad:?}");
        }
        assert_eq!(dataset("tank", "tank/a b\t512").unwrap(), ("tank/a b".into(), 512));
        assert_eq!(dataset("tank/a", "tank/a\t0").unwrap(), ("tank/a".into(), 0));
        for bad in ["tank/a\t-", "tank", "tank\t1\t", "tank2\t1", "other/tank\t1", "tank/.\t1"] {
            assert!(dataset("tank", bad).is_err(), "{bad:?}");
        }
        assert_eq!(super::guid("18446744073709551615\n").unwrap(), Guid(u64::MAX));
        assert!(["", "\n", "1\n2\n", "-\n", "1 \n"].into_iter().all(|bad| super::guid(bad).is_err()));
    }

    #[test]
    fn a_dataset_is_absent_only_if_zfs_reports_exactly_that() {
        let run = |script: &str| output(Path::new("/bin/sh"), &["-c", script]);
        assert_eq!(run("echo yes").unwrap().as_deref(), Some("yes\n"));
        assert_eq!(run("echo \"cannot open 'a/b': dataset does not exist\" >&2; exit 1").unwrap(), None);
        assert_eq!(run("echo \"cannot open 'a': no such pool\" >&2; exit 1").unwrap(), None);
        let open = "echo \"cannot open 'a/it does not exist'";
        for failure in [
            "kill -9 $$",
            "exit 1",
            "echo suspended >&2; exit 1",
            "echo \"cannot open 'a': dataset does not exist\" >&2; exit 2",
            // Here the name contains these words, not the message, or the line is not the last one.
            &format!("{open}: pool I/O is currently suspended\" >&2; exit 1"),
            &format!("{open}\" >&2; exit 1"),
            "echo it does not exist >&2; exit 1",
            &format!("{open}: dataset does not exist\" >&2; echo internal error >&2; exit 1"),
        ] {
            assert_eq!(Exit::of(&run(failure).unwrap_err()), Exit::Unavailable, "{failure}");
        }
        assert_eq!(run(&format!("{open}: dataset does not exist\" >&2; exit 1")).unwrap(), None);
    }

    #[test]
    fn a_program_that_hangs_or_prints_without_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("zfs");
        // The second script must first close its stdout, so it gets time for that on a busy machine.
        for (patience, does, says) in [
            (Duration::from_millis(50), "exec sleep 1000", "said nothing for 0 s and was killed"),
            (Duration::from_secs(10), "exec >&-; exec sleep 1000", "did not end in 10 s and was killed"),
            (PATIENCE, "exec yes", "says more than 1000 bytes and was killed"),
        ] {
            std::fs::write(&script, format!("echo here; {does}\n")).unwrap();
            let args = [script.to_str().unwrap()];
            let error = answer(patience, 1000, Path::new("/bin/sh"), &args).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Unavailable);
            let error = format!("{error:#}");
            assert!(error.contains(says) && error.contains("zpool status"), "{does}: {error}");
        }
        let echo = answer(PATIENCE, 5, Path::new("/bin/echo"), &["four"]).unwrap();
        assert!(matches!(echo, Answer::Text(text) if text == "four\n"));
        assert_eq!(Exit::of(&output(Path::new("/bin/false"), &[]).unwrap_err()), Exit::Unavailable);
    }
}
