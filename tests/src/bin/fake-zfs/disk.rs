//! The pools of the fake `zfs`: a directory for each dataset, which contains a file `@` (no component of a name has an
//! `@`). Each change replaces that file by a rename, under one lock for all. Whenever the program is killed, the
//! dataset is in the old or in the new state.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::pool::{Dataset, Kind, Pool, Receiving, Snapshot};

const DATASET: &str = "@";
/// The file that a process locks as long as it receives into the dataset.
const RECEIVER: &str = "@receiver";
const TXG: &str = "@txg";
const GUID: &str = "@guid";

/// All pools.
pub struct Disk {
    root: PathBuf,
}

/// The exclusive right to change pools.
pub struct Locked(#[expect(dead_code, reason = "unlocks when dropped")] File);

impl Disk {
    /// Opens the pools in a directory, which is made if it is absent.
    pub fn open(root: PathBuf) -> io::Result<Disk> {
        fs::create_dir_all(&root)?;
        Ok(Disk { root })
    }

    /// Whether a file with this name lies beside the programs.
    pub fn knob(&self, name: &str) -> bool {
        self.root.with_file_name(name).exists()
    }

    /// Waits for the exclusive right to change pools.
    pub fn lock(&self) -> io::Result<Locked> {
        let file = File::create(self.root.join("@lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Locked(file))
    }

    fn of(&self, dataset: &str) -> PathBuf {
        self.root.join(dataset)
    }

    /// Makes an empty pool.
    pub fn create_pool(&self, name: &str, guid: u64) -> io::Result<()> {
        fs::create_dir(self.of(name))?;
        fs::write(self.of(name).join(GUID), guid.to_string())?;
        let pool = Pool::new(name, guid);
        self.save(name, &Pool { guid: pool.guid, txg: 0, datasets: BTreeMap::new() }, &pool)
    }

    /// Returns the names of the pools.
    pub fn pools(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.root)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        let names: io::Result<Vec<String>> = names.collect();
        Ok(names?.into_iter().filter(|name| !name.starts_with('@')).collect())
    }

    /// Returns the guid of a pool, if it exists.
    pub fn pool_guid(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.of(name).join(GUID)).ok()?.parse().ok()
    }

    /// Loads the pool with only these datasets, if they exist: `single` ones, and `trees` with all below them. Lock
    /// first to change them.
    pub fn load(&self, single: &[&str], trees: &[&str]) -> io::Result<Pool> {
        let any = single.iter().chain(trees).next().copied().unwrap_or_default();
        let name = any.split('/').next().unwrap_or_default();
        let txg = fs::read_to_string(self.of(name).join(TXG)).ok().and_then(|text| text.parse().ok());
        let guid = self.pool_guid(name).unwrap_or_default();
        let mut pool = Pool { guid, txg: txg.unwrap_or_default(), datasets: BTreeMap::new() };
        for dataset in single {
            self.read(dataset, &mut pool)?;
        }
        for root in trees {
            self.read_tree((*root).to_owned(), &mut pool)?;
        }
        Ok(pool)
    }

    /// Reads a dataset. Returns whether it exists.
    fn read(&self, dataset: &str, pool: &mut Pool) -> io::Result<bool> {
        let dir = self.of(dataset);
        let text = match fs::read_to_string(dir.join(DATASET)) {
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => return Ok(false),
            other => other?,
        };
        let read = parse(&text).ok_or_else(|| io::Error::other(format!("{dataset}: unreadable: {text}")))?;
        let lost = read.receiving.is_some() && !locked(&dir.join(RECEIVER));
        pool.datasets.insert(dataset.to_owned(), read);
        if lost {
            pool.abandon(dataset);
        }
        Ok(true)
    }

    fn read_tree(&self, dataset: String, pool: &mut Pool) -> io::Result<()> {
        if dataset.is_empty() || !self.read(&dataset, pool)? {
            return Ok(());
        }
        for entry in fs::read_dir(self.of(&dataset))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('@')) else { continue };
            self.read_tree(format!("{dataset}/{name}"), pool)?;
        }
        Ok(())
    }

    /// Marks the dataset as being received into, as long as the returned file is open.
    pub fn receiver(&self, dataset: &str) -> io::Result<File> {
        fs::create_dir_all(self.of(dataset))?;
        let file = File::create(self.of(dataset).join(RECEIVER))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Writes the differences between `before` and `after`.
    pub fn save(&self, any: &str, before: &Pool, after: &Pool) -> io::Result<()> {
        let name = any.split('/').next().unwrap_or_default();
        if after.txg != before.txg {
            replace(&self.of(name).join(TXG), &after.txg.to_string())?;
        }
        for (name, dataset) in &after.datasets {
            if before.datasets.get(name) != Some(dataset) {
                fs::create_dir_all(self.of(name))?;
                replace(&self.of(name).join(DATASET), &text(dataset))?;
            }
        }
        for name in before.datasets.keys().rev().filter(|name| !after.datasets.contains_key(*name)) {
            fs::remove_file(self.of(name).join(DATASET))?;
            let _ = fs::remove_dir_all(self.of(name));
        }
        Ok(())
    }
}

/// Whether a running process holds the lock.
fn locked(path: &Path) -> bool {
    File::open(path)
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

fn text(dataset: &Dataset) -> String {
    use std::fmt::Write;
    let kind = if dataset.kind == Kind::Volume { "volume" } else { "filesystem" };
    let receiving = match dataset.receiving {
        None => "-".to_owned(),
        Some(Receiving::New) => "new".to_owned(),
        Some(Receiving::Increment(base)) => base.to_string(),
    };
    let mut out = format!("{kind}\t{}\t{}\t{receiving}\n", dataset.raw, dataset.head);
    for (key, value) in &dataset.properties {
        let _ = writeln!(out, "p\t{key}\t{}", escaped(value));
    }
    for (name, (guid, content)) in &dataset.bookmarks {
        let _ = writeln!(out, "b\t{name}\t{}\t{content}", guid);
    }
    if let Some(origin) = &dataset.origin {
        let _ = writeln!(out, "o\t{origin}");
    }
    for (s, content) in dataset.snapshots.iter().zip(&dataset.contents) {
        let _ = writeln!(out, "s\t{}\t{}\t{}\t{}\t{content}", s.name, s.guid, s.createtxg, s.creation);
        for tag in &s.holds {
            let _ = writeln!(out, "hold\t{tag}");
        }
        for (key, value) in &s.properties {
            let _ = writeln!(out, "user\t{key}\t{}", escaped(value));
        }
    }
    out
}

/// The characters that end a field or a line, which values may contain.
const ESCAPES: [(char, &str); 4] = [('\\', "\\\\"), ('\n', "\\n"), ('\t', "\\t"), ('\r', "\\r")];

fn escaped(value: &str) -> String {
    let one = |c: char| ESCAPES.iter().find(|(from, _)| *from == c).map_or(c.to_string(), |(_, to)| (*to).to_owned());
    value.chars().map(one).collect()
}

fn plain(mut escaped: &str) -> String {
    let mut value = String::new();
    while let Some(c) = escaped.chars().next() {
        let found = ESCAPES.iter().find_map(|(c, to)| Some((*c, escaped.strip_prefix(to)?)));
        let (c, rest) = found.unwrap_or((c, &escaped[c.len_utf8()..]));
        value.push(c);
        escaped = rest;
    }
    value
}

fn parse(text: &str) -> Option<Dataset> {
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let first = lines.next()?;
    let [kind, raw, head, receiving] = first[..] else { return None };
    let kind = if kind == "volume" { Kind::Volume } else { Kind::Filesystem };
    let mut dataset = Dataset::new(kind, raw == "true", head.parse().ok()?);
    dataset.receiving = match receiving {
        "-" => None,
        "new" => Some(Receiving::New),
        base => Some(Receiving::Increment(base.parse().ok()?)),
    };
    for line in lines {
        match line[..] {
            ["p", key, value] => drop(dataset.properties.insert(key.to_owned(), plain(value))),
            ["b", name, guid, content] => {
                let entry = (guid.parse().ok()?, content.parse().ok()?);
                dataset.bookmarks.insert(name.to_owned(), entry);
            }
            ["s", name, guid, createtxg, creation, content] => {
                dataset.snapshots.push(Snapshot {
                    name: name.to_owned(),
                    guid: guid.parse().ok()?,
                    createtxg: createtxg.parse().ok()?,
                    creation: creation.parse().ok()?,
                    ..Snapshot::default()
                });
                dataset.contents.push(content.parse().ok()?);
            }
            ["o", origin] => dataset.origin = Some(origin.to_owned()),
            // These belong to the snapshot in the line before.
            ["hold", tag] => drop(dataset.snapshots.last_mut()?.holds.insert(tag.to_owned())),
            ["user", key, value] => {
                dataset.snapshots.last_mut()?.properties.insert(key.to_owned(), plain(value));
            }
            _ => return None,
        }
    }
    Some(dataset)
}
