//! Producers: commands whose standard output is queued, such as tar. zsnap-queue starts them itself,
//! because an end of file does not show whether they succeeded.
//!
//! A producer's own state (tar's `--listed-incremental`) must not advance before the stream is
//! queued, or the next incremental lacks files. So the producer works on a copy, `FILE.zsnap-SEQ`,
//! which replaces FILE after the commit.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::trusted;
use zsnap_common::durable::publish;
use zsnap_common::names::digest::Hasher;
use zsnap_common::process::child::Child;

/// The placeholder for the path of the copy in the producer's arguments.
const PLACEHOLDER: &[u8] = b"{state}";
const SUFFIX: &[u8] = b".zsnap-";

/// Checks that no other user can replace FILE or its copy: the producer writes to the copy with the
/// rights of the user who runs zsnap-queue.
pub fn safe(file: &Path) -> anyhow::Result<()> {
    trusted::check_directory(file).or_exit(Exit::Config, file.display())
}

/// Returns whether FILE holds the state of an earlier run: an absent or empty file does not.
pub fn has_state(file: &Path) -> anyhow::Result<bool> {
    match fs::metadata(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(other.or_exit(Exit::Io, file.display())?.len() > 0),
    }
}

/// Returns whether an argument contains the placeholder `{state}`.
pub fn takes_state(argv: &[OsString]) -> bool {
    argv.iter().any(|arg| arg.as_bytes().windows(PLACEHOLDER.len()).any(|w| w == PLACEHOLDER))
}

/// Starts `argv` in the environment of zsnap-queue, with `{state}` replaced.
pub fn start(argv: &[OsString], state: Option<&Path>) -> anyhow::Result<Child> {
    let argv: Vec<OsString> = argv.iter().map(|arg| state.map_or(arg.clone(), |path| replaced(arg, path))).collect();
    let [program, arguments @ ..] = argv.as_slice() else {
        return Err(Exit::Usage.error("no producer behind --"));
    };
    let mut command = Command::new(program);
    // Its own process group, so that all its processes can be killed together.
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let label = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    Child::spawn(command, &label)
}

fn replaced(argument: &OsStr, path: &Path) -> OsString {
    let (mut rest, mut out) = (argument.as_bytes(), Vec::new());
    while let Some(at) = rest.windows(PLACEHOLDER.len()).position(|w| w == PLACEHOLDER) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(path.as_os_str().as_bytes());
        rest = &rest[at + PLACEHOLDER.len()..];
    }
    out.extend_from_slice(rest);
    OsString::from_vec(out)
}

/// The copy of a producer's state, removed on drop.
pub struct StateCopy {
    file: PathBuf,
    copy: PathBuf,
    keep: bool,
}

impl StateCopy {
    /// Prepares `FILE.zsnap-SEQ`: a copy of FILE for an incremental, nothing for a full stream.
    pub fn new(file: &Path, seq: u64, increment: bool) -> anyhow::Result<StateCopy> {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".zsnap-{seq}"));
        let copy = StateCopy { file: file.to_owned(), copy: PathBuf::from(name), keep: false };
        if increment {
            let write = || {
                let bytes = fs::read(file)?;
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy.copy)?.write_all(&bytes)
            };
            write()
                .or_exit(Exit::CantCreate, format!("cannot copy the producer's state to {}", copy.copy.display()))?;
        }
        Ok(copy)
    }

    /// Returns the path of the copy.
    pub fn path(&self) -> &Path {
        &self.copy
    }

    /// Makes the copy durable, with mode 0600, because it lists the name of every file.
    pub fn settle(&self) -> anyhow::Result<Advance> {
        let file = rustix::fs::open(&self.copy, publish::REGULAR, Mode::empty())
            .or_exit(Exit::Unavailable, format!("the producer left no state in {}", self.copy.display()))?;
        let file = File::from(file);
        let kept = file.set_permissions(Permissions::from_mode(0o600)).and_then(|()| file.sync_all());
        kept.or_exit(Exit::Io, self.copy.display())?;
        sync_parent(&self.copy)?;
        let sha256 = digest(file).or_exit(Exit::Io, self.copy.display())?;
        Ok(Advance { file: self.file.clone(), new: self.copy.clone(), sha256 })
    }

    /// Keeps the copy on drop: from now on [`Advance::advance`] needs it.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for StateCopy {
    fn drop(&mut self) {
        if !self.keep {
            // Best effort: the next run removes what is left.
            let _ = fs::remove_file(&self.copy);
        }
    }
}

/// The last step of a run with a producer: replaces FILE with its copy. Stored in `state.json` until the next run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// The producer's state file, FILE.
    file: PathBuf,
    /// The copy that replaces FILE.
    new: PathBuf,
    /// The SHA-256 of the copy.
    sha256: String,
}

impl Advance {
    /// Returns whether `file` is FILE and is unchanged since that run. If another program has advanced it,
    /// what that program dumped is missing from the streams of this dataset.
    pub fn left(&self, file: &Path) -> anyhow::Result<bool> {
        let now = || File::open(file).and_then(digest).or_exit(Exit::Io, file.display());
        Ok(self.file == file && now()? == self.sha256)
    }

    /// Replaces FILE with its copy, durably. Does nothing if that is already done.
    pub fn advance(&self) -> anyhow::Result<()> {
        let there = match File::open(&self.new).and_then(digest) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.or_exit(Exit::TryAgain, self.new.display())?,
        };
        if there != self.sha256 {
            return Err(Exit::TryAgain.error(format!(
                "{} is not what the producer left: remove it and {}, then queue a full stream",
                self.new.display(),
                self.file.display()
            )));
        }
        fs::rename(&self.new, &self.file).or_exit(Exit::Io, self.file.display())?;
        sync_parent(&self.file)
    }
}

/// Removes the copies of runs whose streams were not queued. Call it with the dataset locked and
/// after [`Advance::advance`], which needs the copy of a queued stream.
pub fn sweep(file: &Path) -> anyhow::Result<()> {
    let (Some(dir), Some(name)) = (file.parent(), file.file_name()) else { return Ok(()) };
    let prefix = [name.as_bytes(), SUFFIX].concat();
    let mut removed = false;
    for entry in fs::read_dir(dir).or_exit(Exit::Io, dir.display())? {
        let path = entry.or_exit(Exit::Io, dir.display())?.path();
        let number = path.file_name().and_then(|name| name.as_bytes().strip_prefix(prefix.as_slice()));
        if number.is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit)) {
            fs::remove_file(&path).or_exit(Exit::Io, path.display())?;
            removed = true;
        }
    }
    if removed { sync_parent(file) } else { Ok(()) }
}

fn sync_parent(path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().context("no directory")?;
    publish::sync_dir(dir).or_exit(Exit::Io, "making the producer's state durable")
}

fn digest(mut file: File) -> io::Result<String> {
    let mut sum = Hasher::default();
    io::copy(&mut file, &mut sum)?;
    Ok(sum.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_state_advances_only_with_the_settled_copy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s");
        assert!(!has_state(&file).unwrap());
        fs::write(&file, "").unwrap();
        assert!(!has_state(&file).unwrap());
        fs::write(&file, "old").unwrap();
        assert!(has_state(&file).unwrap());
        drop(StateCopy::new(&file, 7, true).unwrap());
        assert_eq!(names(dir.path()), ["s"]);
        let mut copy = StateCopy::new(&file, 8, true).unwrap();
        assert_eq!(fs::read_to_string(copy.path()).unwrap(), "old");
        fs::write(copy.path(), "new").unwrap();
        let advance = copy.settle().unwrap();
        copy.keep();
        drop(copy);
        fs::write(dir.path().join("s.zsnap-8"), "damaged").unwrap();
        assert_eq!(Exit::of(&advance.advance().unwrap_err()), Exit::TryAgain);
        fs::write(dir.path().join("s.zsnap-8"), "new").unwrap();
        advance.advance().unwrap();
        advance.advance().unwrap();
        assert!(advance.left(&file).unwrap() && !advance.left(&dir.path().join("t")).unwrap());
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), names(dir.path())), ("new", vec!["s".to_owned()]));
    }

    #[test]
    fn a_full_stream_starts_without_a_copy_and_must_leave_a_state() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s");
        fs::write(&file, "old").unwrap();
        let copy = StateCopy::new(&file, 7, false).unwrap();
        assert!(!copy.path().exists());
        assert_eq!(Exit::of(&copy.settle().unwrap_err()), Exit::Unavailable);
        fs::write(copy.path(), "new").unwrap();
        copy.settle().unwrap();
        assert_eq!(fs::metadata(copy.path()).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(copy.path()).unwrap();
        symlink(&file, copy.path()).unwrap();
        assert_eq!(Exit::of(&copy.settle().unwrap_err()), Exit::Unavailable);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        // FILE may be absent.
        let file = dir.path().join("s");
        safe(&file).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        for there in [false, true] {
            let e = safe(&file).unwrap_err();
            assert!(Exit::of(&e) == Exit::Config && format!("{e:#}").contains("chmod go-w"), "{e:#} {there}");
            fs::write(&file, "").unwrap();
        }
    }

    #[test]
    fn a_sweep_removes_only_copies_of_the_state() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["s", "s.zsnap-7", "s.zsnap-", "s.zsnap-x", "t.zsnap-7", "s.bak"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(&dir.path().join("s")).unwrap();
        assert_eq!(names(dir.path()), ["s", "s.bak", "s.zsnap-", "s.zsnap-x", "t.zsnap-7"]);
    }

    #[test]
    fn the_placeholder_is_replaced_everywhere_in_an_argument() {
        let path = Path::new("/x y");
        assert_eq!(replaced("--a={state}:{state}".as_ref(), path), "--a=/x y:/x y");
        assert!(takes_state(&["a".into(), "-f{state}".into()]) && !takes_state(&["{stat}".into()]));
    }
}
