//! The state directory: `STATE/epoch.json`, and for each dataset
//! `STATE/datasets/HOST/DATASET/{lock,state.json}` (with `@` for `/`: no dataset name contains `@`).
//!
//! A stream is queued when the `state.json` of its dataset has been replaced. State that exists but
//! cannot be read is an error: if a new epoch began instead, the receivers would reject its files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::trusted;
use zsnap_common::durable::dest::Dest;
use zsnap_common::durable::listing::entries;
use zsnap_common::durable::outbox::Outboxes;
use zsnap_common::durable::publish::{self, NewFile, TEMPORARY};
use zsnap_common::locks::flock::Lock;
use zsnap_common::names::queue_name::{Label, QueueName};
use zsnap_common::names::random::random_hex;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Target;
use zsnap_message::payload::Epoch;

use crate::admit::Chain;
use crate::producer::Advance;

/// The version of `epoch.json` and `state.json`.
const VERSION: u32 = 1;
const EPOCH: &str = "epoch.json";
const STATE: &str = "state.json";

/// An opened state directory.
pub struct State {
    dir: PathBuf,
    pub epoch: Epoch,
    secret: String,
}

#[derive(Serialize, Deserialize)]
struct EpochFile {
    zsnap: u32,
    id: String,
    started: u64,
    /// The key of the digests that hide dataset names.
    secret: String,
}

/// The contents of `state.json`: what was queued for a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The version of the file, set by [`Locked::commit`].
    pub zsnap: u32,
    pub chain: Chain,
    /// When the newest file was queued, in seconds since 1970; 0 if none was.
    pub at: u64,
    /// The id in the manifest of the newest file.
    pub id: String,
    /// The name of the newest file in the outbox, or `None` if it went to standard output.
    pub file: Option<String>,
    /// The ids of the destinations of the newest file.
    pub destinations: Vec<String>,
    /// How to advance the state of the producer of the newest file, if it has one.
    pub producer: Option<Advance>,
    /// The files on drives that do not have their places there yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aboard: Vec<Aboard>,
}

/// A file that is queued on a drive and does not have its place there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aboard {
    /// The directory that `--outbox` named.
    pub outbox: PathBuf,
    /// The name of the file in the outbox.
    pub entry: String,
    /// The name of the queue file.
    pub file: String,
    /// The `dir:` that gets it.
    pub dest: Dest,
    /// The length in bytes.
    pub bytes: u64,
    /// When it was queued, in seconds since 1970.
    pub at: u64,
}

impl State {
    /// Opens the directory, and begins an epoch if it is absent or empty.
    pub fn open(dir: &Path, now: u64) -> anyhow::Result<State> {
        publish::make_dirs(dir).or_exit(Exit::CantCreate, "cannot make the state directory")?;
        safe(dir)?;
        publish::sweep(dir).or_exit(Exit::Io, "clearing up")?;
        if let Some(state) = State::read(dir)? {
            return Ok(state);
        }
        begin(dir, now).or_exit(Exit::CantCreate, dir.join(EPOCH).display())?;
        State::read(dir)?.ok_or_else(|| Exit::TryAgain.error(format!("{} has gone", dir.join(EPOCH).display())))
    }

    /// Opens the directory without changing it. Returns `None` if nothing was ever queued.
    pub fn read(dir: &Path) -> anyhow::Result<Option<State>> {
        let path = dir.join(EPOCH);
        let remedy = || {
            format!(
                "restore it; or deliver what waits with \"zsnap-queue flush\", then start over by moving {} away \
                 (receivers then need full streams)",
                quoted(dir)
            )
        };
        let read = || read_json::<EpochFile>(&path, remedy);
        let mut file = read()?;
        if file.is_none() {
            if is_empty(dir).or_exit(Exit::TryAgain, dir.display())? {
                return Ok(None);
            }
            // Another process may have begun the epoch since the first read.
            file = read()?;
        }
        let Some(file) = file else {
            let what = format!("{} is missing, but there is other state: {}", path.display(), remedy());
            return Err(Exit::TryAgain.error(what));
        };
        known_version(file.zsnap, &path)?;
        let epoch = Epoch { id: file.id, started: file.started };
        Ok(Some(State { dir: dir.to_owned(), epoch, secret: file.secret }))
    }

    pub fn outboxes(&self) -> Outboxes {
        outboxes(&self.dir)
    }

    /// Returns the label that hides the dataset of `target`. Only the owner of the secret in the state can compute it.
    pub fn digest(&self, target: &Target) -> [u8; 16] {
        let mut label = [0; 16];
        label.copy_from_slice(&hmac_sha256(self.secret.as_bytes(), target.to_string().as_bytes())[..16]);
        label
    }

    /// Returns whether the queue file `name` belongs to `target`.
    pub fn is_of(&self, name: &QueueName, target: &Target) -> bool {
        name.host == target.host
            && match &name.label {
                Label::Dataset(dataset) => *dataset == target.dataset,
                Label::Digest(digest) => *digest == self.digest(target),
            }
    }

    /// Returns all datasets that have state, sorted.
    pub fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let mut targets = Vec::new();
        let names = |dir: &Path| -> anyhow::Result<Vec<String>> {
            let all = entries(dir).or_exit(Exit::TryAgain, "cannot read the state")?;
            Ok(all.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        };
        let root = self.dir.join("datasets");
        for host in names(&root)? {
            for dataset in names(&root.join(&host))? {
                targets.extend(format!("{host}/{}", dataset.replace('@', "/")).parse::<Target>());
            }
        }
        targets.sort();
        Ok(targets)
    }

    fn dataset_dir(&self, target: &Target) -> PathBuf {
        self.dir.join("datasets").join(target.host.as_str()).join(target.dataset.as_str().replace('/', "@"))
    }

    /// Returns what was queued for `target`, or an empty state if nothing was.
    pub fn acknowledged(&self, target: &Target) -> anyhow::Result<Acknowledged> {
        let path = self.dataset_dir(target).join(STATE);
        // With an older state file, `recover` would withdraw the files that were queued after it was written.
        let remedy = || {
            let (outbox, host) = (quoted(&self.dir.join("outbox")), &target.host);
            format!(
                "do not restore an old one; copy what lies in {outbox}/split/{host} into each {outbox}/to/*/{host}, \
                 remove it there, and remove the damaged file; then run \"zsnap-queue adopt {}\", or queue the \
                 next opaque stream with --full",
                quoted(&target.to_string())
            )
        };
        let state = read_json::<Acknowledged>(&path, remedy)?;
        state.as_ref().map_or(Ok(()), |state| known_version(state.zsnap, &path))?;
        Ok(state.unwrap_or_default())
    }

    /// Locks a dataset. Returns `None` if another process holds the lock.
    pub fn try_lock<'a>(&'a self, target: &'a Target) -> anyhow::Result<Option<Locked<'a>>> {
        let dir = self.dataset_dir(target);
        publish::make_dirs(&dir).or_exit(Exit::CantCreate, "cannot make the state of a dataset")?;
        publish::sweep(&dir).or_exit(Exit::Io, "clearing up")?;
        let lock = Lock::try_new(&dir.join("lock"))?;
        Ok(lock.map(|lock| Locked { _lock: lock, state: self, target, dir }))
    }
}

/// A dataset that is locked by this process.
pub struct Locked<'a> {
    _lock: Lock,
    pub state: &'a State,
    pub target: &'a Target,
    dir: PathBuf,
}

/// How a commit failed.
#[derive(Debug)]
pub enum CommitError {
    /// The old state is still in effect.
    Old(anyhow::Error),
    /// Either state may be in effect after a power failure.
    Unknown(anyhow::Error),
}

impl CommitError {
    pub fn into_inner(self) -> anyhow::Error {
        let (CommitError::Old(e) | CommitError::Unknown(e)) = self;
        e
    }
}

impl Locked<'_> {
    /// Replaces the state with `new`, durably. From then on the stream is queued.
    pub fn commit(&self, new: &Acknowledged) -> Result<(), CommitError> {
        let new = Acknowledged { zsnap: VERSION, ..new.clone() };
        let path = self.dir.join(STATE);
        let failed = |e: io::Error| anyhow::Error::new(e).context(format!("cannot commit {}", path.display()));
        let bytes = serde_json::to_vec_pretty(&new).map_err(|e| CommitError::Old(e.into()))?;
        let file = NewFile::with(&self.dir, &bytes).map_err(|e| CommitError::Old(failed(e)))?;
        file.replace(STATE.as_ref()).map_err(|e| match fs::read(&path) {
            Ok(there) if there != bytes => CommitError::Old(failed(e)),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => CommitError::Old(failed(e)),
            _ => CommitError::Unknown(failed(e)),
        })
    }
}

/// Returns the outboxes below the state directory `dir`, which work even if its state cannot be read.
pub fn outboxes(dir: &Path) -> Outboxes {
    Outboxes::new(dir.join("outbox/split"), dir.join("outbox/to"))
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with(TEMPORARY) && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn begin(dir: &Path, now: u64) -> anyhow::Result<()> {
    let file = EpochFile { zsnap: VERSION, id: random_hex(16)?, started: now, secret: random_hex(32)? };
    match NewFile::with(dir, &serde_json::to_vec_pretty(&file)?)?.link_as(EPOCH.as_ref()) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => Ok(other?),
    }
}

/// Checks that no other user can write to the state directory or could have placed files in it.
pub fn safe(dir: &Path) -> anyhow::Result<()> {
    let refused = |why: String| Err(Exit::Config.error(why));
    let doubt = "look for what others may have put there, or begin with another --state";
    let meta = fs::metadata(dir).or_exit(Exit::TryAgain, dir.display())?;
    let uid = rustix::process::geteuid().as_raw();
    if meta.uid() != uid {
        return refused(format!(
            "{0} belongs to another user: run as that one; or {doubt}, then run \"chown {uid} {0}\"",
            quoted(dir)
        ));
    }
    if meta.mode() & 0o022 != 0 {
        return refused(format!("others can write to {0}: {doubt}; then run \"chmod 700 {0}\"", quoted(dir)));
    }
    trusted::check_directory(dir).or_exit(Exit::Config, dir.display())?;
    trusted::check_below(dir).or_else(|e| refused(format!("{e}: {doubt}")))
}

fn read_json<T: DeserializeOwned>(path: &Path, remedy: impl Fn() -> String) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.or_exit(Exit::TryAgain, format!("cannot read the state {}", path.display()))?,
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| Exit::TryAgain.error(format!("{} is damaged ({e}): {}", path.display(), remedy())))
}

fn known_version(version: u32, path: &Path) -> anyhow::Result<()> {
    if version == VERSION {
        return Ok(());
    }
    Err(Exit::TryAgain.error(format!("{} has version {version}: a newer zsnap-queue wrote it", path.display())))
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC accepts keys of every length, so there is no error.
    let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(message).finalize());
    mac.map(|mac| mac.into_bytes().into()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
