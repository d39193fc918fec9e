//! `zfs` and `zpool` for the tests: the subcommands that zsnap and the scripts of the tests call, on pools that are
//! files. The rules are those of `zsnap_tests::pool`, which `tests/lab/zfs-script` compares with the real ones.
//!
//! It is linked under these two names into a directory of its own, where it keeps `pools` and appends each call to
//! `calls` (one line with the arguments, separated by tabs). Files in this directory change how it receives: `delay`
//! (milliseconds before the commit), `refuse` (prints the content and exits with 1), `die-before-commit`,
//! `die-after-commit` (is killed with SIGKILL), `fail-after-commit` (exits with 1 although it committed). With
//! `readonly` there, all pools are imported read-only, and with `keystatus`, no key is loaded.
//!
//! The real program does not have these: `zfs write DATASET` writes something to the dataset, `zfs fake` succeeds and
//! so identifies the fake, `zfs snapshot-at DATASET@SNAP SECONDS...` makes snapshots with these times.

mod disk;
// Included as files, because the library links OpenPGP, which takes two thirds of the time of a call.
#[path = "../../pool.rs"]
#[allow(dead_code)]
mod pool;
#[path = "../../random.rs"]
#[allow(dead_code)]
mod random;
mod receive;
mod send;
#[path = "../../stream.rs"]
#[allow(dead_code)]
mod stream;
#[cfg(test)]
use zsnap_tests::{SAMPLES, sample};

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use disk::Disk;
use pool::{Dataset, Kind, Pool, Refused};

/// The reason for a status other than 0.
enum Fail {
    /// A usage error: status 2.
    Usage(String),
    /// Any other error: status 1.
    Refused(Refused),
}

impl From<Refused> for Fail {
    fn from(why: Refused) -> Fail {
        Fail::Refused(why)
    }
}

impl From<io::Error> for Fail {
    fn from(e: io::Error) -> Fail {
        Fail::Refused(format!("fake-zfs: {e}"))
    }
}

type Done = Result<(), Fail>;

fn main() -> ExitCode {
    let home = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let mut args = std::env::args();
    let program = PathBuf::from(args.next().unwrap_or_default());
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let args: Vec<String> = args.collect();
    let done = note(&home, &program, &args).and_then(|()| {
        let disk = Disk::open(home.join("pools"))?;
        if program == "zpool" { zpool(&disk, &args) } else { zfs(&disk, &home, &args) }
    });
    let (status, why) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Fail::Usage(why)) => (2, why),
        Err(Fail::Refused(why)) => (1, why),
    };
    let _ = writeln!(io::stderr(), "{why}");
    ExitCode::from(status)
}

fn note(home: &Path, program: &str, args: &[String]) -> Done {
    let escaped = args.iter().map(|arg| arg.escape_default().to_string());
    let line: Vec<String> = std::iter::once(program.to_owned()).chain(escaped).collect();
    let mut calls = fs::File::options().append(true).create(true).open(home.join("calls"))?;
    Ok(calls.write_all((line.join("\t") + "\n").as_bytes())?)
}

/// The properties that the tests use.
const PROPERTIES: [&str; 8] =
    ["readonly", "canmount", "volmode", "mountpoint", "encryption", "keyformat", "compression", "refquota"];

/// Options and operands. `with` has the letters of the options that have a value.
struct Args<'a> {
    options: Vec<(char, &'a str)>,
    operands: Vec<&'a str>,
}

impl<'a> Args<'a> {
    fn parse(args: &'a [String], plain: &str, with: &str) -> Result<Args<'a>, Fail> {
        let mut parsed = Args { options: Vec::new(), operands: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                parsed.operands.push(arg);
                continue;
            };
            for (at, letter) in letters.char_indices() {
                if plain.contains(letter) {
                    parsed.options.push((letter, ""));
                } else if with.contains(letter) {
                    let rest = &letters[at + 1..];
                    let value = if rest.is_empty() { args.next().map(String::as_str) } else { Some(rest) };
                    let value = value.ok_or_else(|| Fail::Usage(format!("missing argument for -{letter}")))?;
                    parsed.options.push((letter, value));
                    break;
                } else {
                    return Err(Fail::Usage(format!("invalid option '{letter}'")));
                }
            }
        }
        Ok(parsed)
    }

    fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(l, _)| *l == letter)
    }

    fn value(&self, letter: char) -> Option<&'a str> {
        self.options.iter().find(|(l, _)| *l == letter).map(|(_, value)| *value)
    }

    /// Returns the values of all `-o NAME=VALUE`. A property may be specified only once, with `-o` or `-x`.
    fn properties(&self) -> Result<Vec<(&'a str, &'a str)>, Fail> {
        let mut names = BTreeSet::new();
        let mut set = Vec::new();
        for (letter, text) in self.options.iter().filter(|(l, _)| "ox".contains(*l)) {
            let (name, value) = match letter {
                'o' => text.split_once('=').ok_or_else(|| Fail::Usage("missing '='".into()))?,
                _ => (*text, ""),
            };
            if !names.insert(name) {
                return Err(Fail::Usage(format!("property '{name}' specified multiple times")));
            }
            if !PROPERTIES.contains(&name) && !name.contains(':') {
                return Err(Fail::Refused(format!("invalid property '{name}'")));
            }
            if *letter == 'o' {
                set.push((name, value));
            }
        }
        Ok(set)
    }

    fn one(&self) -> Result<&'a str, Fail> {
        match self.operands[..] {
            [one] => Ok(one),
            _ => Err(Fail::Usage("one operand, please".into())),
        }
    }

    fn two(&self) -> Result<(&'a str, &'a str), Fail> {
        match self.operands[..] {
            [one, two] => Ok((one, two)),
            _ => Err(Fail::Usage("two operands, please".into())),
        }
    }
}

fn zpool(disk: &Disk, args: &[String]) -> Done {
    let [verb, rest @ ..] = args else { return Err(Fail::Usage("zpool VERB".into())) };
    match verb.as_str() {
        "create" => {
            let args = Args::parse(rest, "f", "mo")?;
            let name = args.operands.first().ok_or_else(|| Fail::Usage("zpool create NAME".into()))?;
            let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
            disk.create_pool(name, now)?;
        }
        "list" => {
            let args = Args::parse(rest, "Hp", "o")?;
            let name = args.one()?;
            let guid = disk.pool_guid(name).ok_or_else(|| format!("cannot open '{name}': no such pool"))?;
            match args.value('o').filter(|_| args.has('H')) {
                Some("guid") => writeln!(io::stdout(), "{guid}")?,
                Some("readonly") => writeln!(io::stdout(), "{}", if disk.knob("readonly") { "on" } else { "off" })?,
                _ => return Err(Fail::Usage("zpool list -Hp -o guid|readonly POOL".into())),
            }
        }
        _ => return Err(Fail::Usage(format!("zpool {verb}: not in the fake one"))),
    }
    Ok(())
}

/// Changes the datasets that `single` and `trees` name.
fn change(disk: &Disk, single: &[&str], trees: &[&str], how: impl FnOnce(&mut Pool) -> Result<(), Refused>) -> Done {
    let _locked = disk.lock()?;
    let before = disk.load(single, trees)?;
    let mut after = before.clone();
    how(&mut after)?;
    let any = single.iter().chain(trees).next().copied().unwrap_or_default();
    Ok(disk.save(any, &before, &after)?)
}

fn parent(dataset: &str) -> &str {
    dataset.rsplit_once('/').map_or(dataset, |(parent, _)| parent)
}

/// Returns the part of a name before the `@` or `#`.
fn dataset_of(name: &str) -> &str {
    name.split(['@', '#']).next().unwrap_or_default()
}

fn zfs(disk: &Disk, home: &Path, args: &[String]) -> Done {
    let [verb, rest @ ..] = args else { return Err(Fail::Usage("zfs VERB".into())) };
    match verb.as_str() {
        "fake" => Ok(()),
        "list" => list(disk, rest),
        "get" => get(disk, rest),
        "receive" => receive::receive(disk, home, rest),
        "send" => send::send(disk, rest),
        "create" => {
            let args = Args::parse(rest, "s", "oV")?;
            let properties = args.properties()?;
            let name = args.one()?;
            change(disk, &[name, parent(name)], &[], |pool| {
                pool.create(name, &properties)?;
                if let Some(made) = pool.datasets.get_mut(name) {
                    made.raw = properties.contains(&("encryption", "on"));
                    made.kind = if args.has('V') { Kind::Volume } else { Kind::Filesystem };
                }
                Ok(())
            })
        }
        "write" => {
            let args = Args::parse(rest, "", "")?;
            let name = args.one()?;
            change(disk, &[name], &[], |pool| pool.write(name))
        }
        "snapshot" => {
            let args = Args::parse(rest, "r", "")?;
            let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs());
            for name in &args.operands {
                let (of, snap) = name.split_once('@').ok_or_else(|| Fail::Usage("DATASET@NAME".into()))?;
                if !args.has('r') {
                    change(disk, &[of], &[], |pool| pool.snapshot(name, now).map(drop))?;
                    continue;
                }
                change(disk, &[], &[of], |pool| {
                    let all: Vec<String> = pool.tree(of).map(|(name, _)| format!("{name}@{snap}")).collect();
                    all.iter().try_for_each(|name| pool.snapshot(name, now).map(drop))
                })?;
            }
            Ok(())
        }
        "snapshot-at" => rest.chunks(2).try_for_each(|pair| match pair {
            [name, seconds] => {
                let seconds = seconds.parse().map_err(|_| Fail::Usage("SECONDS".into()))?;
                change(disk, &[dataset_of(name)], &[], |pool| pool.snapshot(name, seconds).map(drop))
            }
            _ => Err(Fail::Usage("zfs snapshot-at DATASET@SNAP SECONDS...".into())),
        }),
        "clone" => {
            let args = Args::parse(rest, "", "o")?;
            let (name, clone) = args.two()?;
            change(disk, &[dataset_of(name), clone, parent(clone)], &[], |pool| pool.clone_of(name, clone))
        }
        "hold" => hold(disk, rest, true),
        "release" => hold(disk, rest, false),
        "holds" => holds(disk, rest),
        "set" => set(disk, rest),
        "inherit" => inherit(disk, rest),
        "bookmark" => {
            let args = Args::parse(rest, "", "")?;
            let (snapshot, bookmark) = args.two()?;
            change(disk, &[dataset_of(snapshot)], &[], |pool| pool.bookmark(snapshot, bookmark))
        }
        "rollback" => {
            let args = Args::parse(rest, "r", "")?;
            let name = args.one()?;
            change(disk, &[dataset_of(name)], &[], |pool| pool.rollback(name, args.has('r')))
        }
        "rename" => {
            let args = Args::parse(rest, "", "")?;
            let (old, new) = args.two()?;
            change(disk, &[parent(new)], &[dataset_of(old), dataset_of(new)], |pool| pool.rename(old, new))
        }
        "destroy" => {
            let args = Args::parse(rest, "rnvp", "")?;
            let name = args.one()?;
            match name.split_once('@') {
                // Clones may be anywhere in the pool.
                Some((of, spec)) => change(disk, &[of], &[of.split('/').next().unwrap_or_default()], |pool| {
                    let names = named(pool.datasets.get(of), spec);
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    if !args.has('n') {
                        return pool.destroy_snapshots(of, &names);
                    }
                    pool.destroyable(of, &names)?;
                    let there = pool.datasets[of].snapshots.iter().map(|s| s.name.as_str());
                    let lines = there.filter(|s| names.contains(s)).map(|s| format!("destroy\t{of}@{s}\n"));
                    let text = lines.chain(["reclaim\t43008\n".to_owned()]).collect::<String>();
                    io::stdout().write_all(text.as_bytes()).map_err(|e| e.to_string())?;
                    Ok(())
                }),
                None => change(disk, &[], &[name], |pool| pool.destroy(name, args.has('r'))),
            }
        }
        _ => Err(Fail::Usage(format!("zfs {verb}: not in the fake one"))),
    }
}

/// Expands `a,b%c` to the names of snapshots.
fn named(dataset: Option<&Dataset>, spec: &str) -> Vec<String> {
    let all: Vec<&str> = dataset.iter().flat_map(|d| &d.snapshots).map(|s| s.name.as_str()).collect();
    let mut names = Vec::new();
    for part in spec.split(',') {
        let Some((from, to)) = part.split_once('%') else {
            names.push(part.to_owned());
            continue;
        };
        let at = |name: &str| all.iter().position(|n| *n == name);
        let first = if from.is_empty() { Some(0) } else { at(from) };
        let last = if to.is_empty() { all.len().checked_sub(1) } else { at(to) };
        if let (Some(first), Some(last)) = (first, last) {
            names.extend(all.iter().take(last + 1).skip(first).map(|name| (*name).to_owned()));
        }
    }
    names
}

/// The request to `zfs list`.
struct Wanted<'a> {
    columns: Vec<&'a str>,
    types: Vec<&'a str>,
    depth: usize,
}

/// Rows by dataset and by rank in the dataset, which is the order of the real `zfs list`.
type Rows = BTreeMap<(String, usize), (u64, String)>;

fn list(disk: &Disk, args: &[String]) -> Done {
    let args = Args::parse(args, "Hpr", "dtos")?;
    if !args.has('H') {
        return Err(Fail::Usage("zfs list without -H is for people".into()));
    }
    let columns: Vec<&str> = args.value('o').unwrap_or("name").split(',').collect();
    let types: Vec<&str> = args.value('t').unwrap_or("filesystem,volume").split(',').collect();
    let depth = match (args.has('r') || args.operands.is_empty(), args.value('d')) {
        (true, None) => usize::MAX,
        (false, None) => types.contains(&"snapshot").into(),
        (_, Some(depth)) => depth.parse().map_err(|_| Fail::Usage("-d DEPTH".into()))?,
    };
    let wanted = Wanted { columns, types, depth };
    let mut roots: Vec<String> = args.operands.iter().map(|name| (*name).to_owned()).collect();
    if roots.is_empty() {
        roots = disk.pools()?;
    }
    let mut rows = Rows::new();
    let mut absent = Vec::new();
    for root in &roots {
        if !list_root(disk, root, &wanted, &mut rows)? {
            absent.push(format!("cannot open '{root}': dataset does not exist"));
        }
    }
    let mut rows: Vec<(u64, String)> = rows.into_values().collect();
    match args.value('s') {
        None => {}
        Some("createtxg") => rows.sort_by_key(|(txg, _)| *txg),
        Some(other) => return Err(Fail::Usage(format!("-s {other}: not in the fake one"))),
    }
    let text: String = rows.into_iter().map(|(_, row)| row + "\n").collect();
    io::stdout().write_all(text.as_bytes())?;
    if absent.is_empty() { Ok(()) } else { Err(Fail::Refused(absent.join("\n"))) }
}

/// Adds the rows of a dataset or snapshot. Returns whether it exists.
fn list_root(disk: &Disk, name: &str, wanted: &Wanted<'_>, rows: &mut Rows) -> Result<bool, Fail> {
    let Wanted { columns, types, depth } = wanted;
    let root = dataset_of(name);
    let pool = if columns.iter().any(|c| *c == "clones" || c.contains(':')) {
        // Clones may be anywhere, and properties are inherited.
        disk.load(&[], &[root.split('/').next().unwrap_or_default()])
    } else if *depth < 2 {
        disk.load(&[root], &[])
    } else {
        disk.load(&[], &[root])
    }?;
    let level = |name: &str| name.matches('/').count() - root.matches('/').count();
    let mut found = false;
    for (of, dataset) in pool.tree(root) {
        let kind = if dataset.kind == Kind::Volume { "volume" } else { "filesystem" };
        found |= of == name;
        if types.contains(&kind) && level(of) <= *depth && !name.contains('@') {
            let cells = columns.iter().map(|column| match *column {
                "name" => of.to_owned(),
                "type" => kind.into(),
                "written" => dataset.written().to_string(),
                "guid" | "createtxg" | "creation" => "1".into(),
                key if key.contains(':') => pool.user_property(of, key).unwrap_or("-").to_owned(),
                _ => "-".into(),
            });
            rows.insert((of.to_owned(), 0), (1, cells.collect::<Vec<_>>().join("\t")));
        }
        for (rank, snapshot) in dataset.snapshots.iter().enumerate() {
            let full = format!("{of}@{}", snapshot.name);
            let asked = if name.contains('@') { full == name } else { level(of) < *depth };
            found |= full == name;
            if !types.contains(&"snapshot") || !asked {
                continue;
            }
            let cells = columns.iter().map(|column| match *column {
                "name" => full.clone(),
                "type" => "snapshot".into(),
                "guid" => snapshot.guid.to_string(),
                "createtxg" => snapshot.createtxg.to_string(),
                "creation" => snapshot.creation.to_string(),
                "userrefs" => snapshot.holds.len().to_string(),
                "clones" => Some(pool.clones(&full).join(",")).filter(|all| !all.is_empty()).unwrap_or("-".into()),
                key if key.contains(':') => pool.user_property(&full, key).unwrap_or("-").to_owned(),
                _ => "0".into(),
            });
            rows.insert((of.to_owned(), rank + 1), (snapshot.createtxg, cells.collect::<Vec<_>>().join("\t")));
        }
    }
    Ok(found)
}

/// Runs `zfs hold` or `zfs release`.
fn hold(disk: &Disk, args: &[String], hold: bool) -> Done {
    let args = Args::parse(args, "", "")?;
    let (tag, name) = args.two()?;
    change(disk, &[dataset_of(name)], &[], |pool| {
        let verb = if hold { "hold snapshot" } else { "release hold from snapshot" };
        let why = |what: &str| format!("cannot {verb} '{name}': {what}");
        let snapshot = pool.snapshot_mut(name).ok_or_else(|| why("dataset does not exist"))?;
        match (hold, snapshot.holds.contains(tag)) {
            (true, true) => Err(why("tag already exists on this dataset")),
            (false, false) => Err(why("no such tag on this dataset")),
            (true, false) => {
                snapshot.holds.insert(tag.to_owned());
                Ok(())
            }
            (false, true) => {
                snapshot.holds.remove(tag);
                Ok(())
            }
        }
    })
}

fn holds(disk: &Disk, args: &[String]) -> Done {
    let args = Args::parse(args, "H", "")?;
    let name = args.one()?;
    let mut pool = disk.load(&[dataset_of(name)], &[])?;
    let snapshot = pool.snapshot_mut(name).ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))?;
    let lines: String = snapshot.holds.iter().map(|tag| format!("{name}\t{tag}\tSun Nov 22 10:00 2026\n")).collect();
    Ok(io::stdout().write_all(lines.as_bytes())?)
}

/// Runs `zfs set NAME:PROPERTY=VALUE`, for user properties only.
fn set(disk: &Disk, args: &[String]) -> Done {
    let args = Args::parse(args, "", "")?;
    let (text, name) = args.two()?;
    let (key, value) = text.split_once('=').ok_or_else(|| Fail::Usage("missing '='".into()))?;
    if !key.contains(':') {
        return Err(Fail::Usage("zfs set: only user properties in the fake one".into()));
    }
    change_property(disk, name, |properties| drop(properties.insert(key.to_owned(), value.to_owned())))
}

/// Runs `zfs inherit PROPERTY NAME`.
fn inherit(disk: &Disk, args: &[String]) -> Done {
    let args = Args::parse(args, "", "")?;
    let (key, name) = args.two()?;
    change_property(disk, name, |properties| drop(properties.remove(key)))
}

fn change_property(disk: &Disk, name: &str, how: impl FnOnce(&mut BTreeMap<String, String>)) -> Done {
    change(disk, &[dataset_of(name)], &[], |pool| {
        let why = || format!("cannot open '{name}': dataset does not exist");
        how(match name.contains('@') {
            true => &mut pool.snapshot_mut(name).ok_or_else(why)?.properties,
            false => &mut pool.datasets.get_mut(name).ok_or_else(why)?.properties,
        });
        Ok(())
    })
}

/// Runs `zfs get -H -o value|source PROPERTY NAME`. A value is printed unchanged, with any characters.
fn get(disk: &Disk, args: &[String]) -> Done {
    let args = Args::parse(args, "Hp", "o")?;
    let (property, name) = args.two()?;
    let of = dataset_of(name);
    let user = property.contains(':');
    // User properties are inherited.
    let pool = if user { disk.load(&[], &[of.split('/').next().unwrap_or_default()]) } else { disk.load(&[of], &[]) }?;
    let dataset = pool.datasets.get(of).ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))?;
    if let Some((_, snap)) = name.split_once('@') {
        dataset.snapshot(snap).ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))?;
    }
    if user {
        let text = match (pool.user_property_of(name, property), args.value('o')) {
            (None, _) => "-".to_owned(),
            (Some((value, _)), Some("value")) => value.to_owned(),
            (Some((_, of)), Some("source")) if of == name => "local".to_owned(),
            (Some((_, of)), Some("source")) => format!("inherited from {of}"),
            _ => return Err(Fail::Usage("zfs get -o value or -o source".into())),
        };
        return Ok(writeln!(io::stdout(), "{text}")?);
    }
    let default = match (property, dataset.kind) {
        ("readonly", _) => "off",
        ("keystatus", _) if disk.knob("keystatus") => "unavailable",
        ("canmount", Kind::Filesystem) => "on",
        ("mounted", Kind::Filesystem) => "no",
        ("volmode", _) => "default",
        _ => "-",
    };
    let value = dataset.properties.get(property).map_or(default, String::as_str);
    Ok(writeln!(io::stdout(), "{value}")?)
}
