//! The quarantine of files that must never be applied: `INCOMING/.zsnap-quarantine/HOST/`, with the reason in a file
//! beside each. Nothing is deleted here; `retry` puts files back.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use rustix::fs::FileType;
use serde::Serialize;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::incoming::{Incoming, shown};
use zsnap_common::names::digest::sha256_hex;
use zsnap_common::names::part::Part;
use zsnap_common::names::stored::name_of;

/// The name of the directory in the incoming directory. It is hidden, so that no scan reads it.
pub const DIRECTORY: &str = ".zsnap-quarantine";
const REASON: &str = ".why.json";

#[derive(Serialize)]
struct Why<'a> {
    file: String,
    host: String,
    why: &'a str,
    /// When the file was moved, in seconds since 1970.
    at: u64,
}

/// Moves a file to quarantine. The reason is written first, so that a crash leaves a reason without a file, never a
/// file without a reason. If the name is taken, the file becomes `NAME.N`. The caller's lock ensures that only one run
/// at a time does this. Returns `false` if the name refers to another file by now.
pub fn put(root: &Incoming, dir: &Incoming, host: &OsStr, name: &OsStr, file: &File, why: &str) -> Result<bool> {
    let place = || -> io::Result<Incoming> { root.private_inside(DIRECTORY.as_ref())?.private_inside(host) };
    let to = place().or_exit(Exit::CantCreate, "quarantine")?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let reason = Why { file: shown(name), host: shown(host), why, at };
    let mut text = serde_json::to_vec_pretty(&reason)?;
    text.push(b'\n');
    // A file whose name is that of a reason file must not get a name that a reason file would need.
    let first = if shown(name).ends_with(REASON) { 0 } else { -1 };
    for copy in first.. {
        let mut put_as = name.to_owned();
        if copy >= 0 {
            put_as.push(format!(".{copy}"));
        }
        if !is_free(&to, &put_as).or_exit(Exit::Io, "quarantine")? {
            continue;
        }
        // Not created by path, because the owner of the incoming directory may have put something else there.
        let new = to.new_file().or_exit(Exit::CantCreate, "quarantine")?;
        new.file().write_all(&text).and_then(|()| new.sync()).or_exit(Exit::Io, "quarantine")?;
        new.replace(&reason_name(&put_as)).or_exit(Exit::CantCreate, "quarantine")?;
        return dir.move_to_private(name, file, &to, &put_as).or_exit(Exit::Io, "quarantine");
    }
    Ok(false)
}

/// Whether no file can be moved to quarantine there, whatever is tried: the file system is read-only or keeps no owners
/// and modes, or the directory belongs to somebody else. Otherwise a disk failed or is full.
pub fn is_impossible(e: &anyhow::Error) -> bool {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let kinds = [NotADirectory, PermissionDenied, ReadOnlyFilesystem, Unsupported];
    e.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| kinds.contains(&e.kind()))
}

/// Whether a file can be stored as `name`, with its reason beside it. A reason without a file can be replaced: a run
/// ended before the move, or somebody has removed the file since.
fn is_free(to: &Incoming, name: &OsStr) -> io::Result<bool> {
    Ok(to.stat(name)?.is_none() && (to.stat(&reason_name(name))?.is_none() || why(to, name).is_some()))
}

fn reason_name(name: &OsStr) -> OsString {
    // A file name has at most 255 bytes.
    let fits = name.len() + REASON.len() <= 255;
    let mut reason = if fits { name.to_owned() } else { OsString::from(sha256_hex(name.as_encoded_bytes())) };
    reason.push(REASON);
    reason
}

/// Lists the files in quarantine: host, name and reason.
pub fn list(root: &Incoming) -> Result<Vec<(OsString, OsString, String)>> {
    let quarantine = match root.inside(DIRECTORY.as_ref()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.or_exit(Exit::Io, "quarantine")?,
    };
    let mut all = Vec::new();
    for host in hosts(&quarantine)? {
        let dir = quarantine.inside(&host).or_exit(Exit::Io, "quarantine")?;
        for name in dir.names().or_exit(Exit::Io, "quarantine")? {
            let text = shown(&name);
            if !text.ends_with(REASON) && !text.starts_with('.') {
                let why = why(&dir, &name).unwrap_or_else(|| "nobody knows why".into());
                all.push((host.clone(), name, why));
            }
        }
    }
    Ok(all)
}

/// Returns the names of the directories of hosts. What somebody else has put beside them is not ours.
fn hosts(quarantine: &Incoming) -> Result<Vec<OsString>> {
    let mut hosts = Vec::new();
    for name in quarantine.names().or_exit(Exit::Io, "quarantine")? {
        let stat = quarantine.stat(&name).or_exit(Exit::Io, "quarantine")?;
        let is_dir = stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if is_dir && !shown(&name).starts_with('.') {
            hosts.push(name);
        }
    }
    Ok(hosts)
}

/// Returns the reason beside a file; `None` if it is absent or unreadable.
fn why(dir: &Incoming, name: &OsStr) -> Option<String> {
    let mut text = Vec::new();
    dir.open_file(&reason_name(name)).ok()?.take(64 << 10).read_to_end(&mut text).ok()?;
    let reason: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(reason.get("why")?.as_str()?.to_owned())
}

/// Puts files back where they came from: all of them, those of a host, or those with a name. Returns how many. A file
/// that cannot be put back, for example because its name is taken, stays, and the others are still put back.
pub fn retry(root: &Incoming, all: bool, what: &[String]) -> Result<usize> {
    let quarantine = match root.inside(DIRECTORY.as_ref()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.or_exit(Exit::Io, "quarantine")?,
    };
    let mut moved = 0;
    let mut failed = Exit::Done;
    for host in hosts(&quarantine)? {
        let asked = |name: &str| all || what.iter().any(|what| is_called(&host, name, what));
        if let Err(e) = retry_host(root, &quarantine, &host, asked, &mut moved) {
            log::error(format!("{e:#}"));
            failed = failed.max(Exit::of(&e));
        }
    }
    match failed {
        Exit::Done => Ok(moved),
        exit => Err(exit.error(format!("{moved} files were put back, others were not"))),
    }
}

/// Whether `what` is the host of a file in quarantine or of one that stays although it is bad, or its name, in either form, also that of the file of which it is
/// a part.
pub fn is_called(host: &OsStr, name: &str, what: &str) -> bool {
    let real = name_of(name.as_ref());
    let whole = Part::parse(&real).map_or(&*real, |part| part.whole);
    [name, &real, whole, &shown(host), &name_of(host)].contains(&what)
}

fn retry_host(
    root: &Incoming,
    quarantine: &Incoming,
    host: &OsStr,
    asked: impl Fn(&str) -> bool,
    moved: &mut usize,
) -> Result<()> {
    let from = quarantine.inside(host).or_exit(Exit::Io, "quarantine")?;
    let to = root.inside(host).or_exit(Exit::Io, "the host's directory is gone")?;
    let mut failed = Ok(());
    for name in from.names().or_exit(Exit::Io, "quarantine")? {
        let text = shown(&name);
        if !asked(&text) || text.ends_with(REASON) || text.starts_with('.') {
            continue;
        }
        match from.rename_into(&name, &to, &name).and_then(|()| from.remove(&reason_name(&name))) {
            Ok(()) => {
                log::info(format!("put back {}", to.path().join(&name).display()));
                *moved += 1;
            }
            Err(e) if failed.is_ok() => failed = Err(e),
            Err(_) => {}
        }
    }
    failed.or_exit(Exit::Io, "retry")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn no_file_takes_the_place_of_a_reason_nor_a_reason_that_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = Incoming::open(dir.path()).unwrap();
        let there = dir.path().join(".zsnap-quarantine/h");
        fs::create_dir(dir.path().join("h")).unwrap();
        let host = root.inside("h".as_ref()).unwrap();
        let quarantined = |name: &str, bytes: &[u8]| {
            fs::write(dir.path().join("h").join(name), bytes).unwrap();
            let file = host.open_file(name.as_ref()).unwrap();
            assert!(put(&root, &host, "h".as_ref(), name.as_ref(), &file, name).unwrap());
        };
        quarantined("f.why.json", b"hostile");
        assert_eq!(fs::read(there.join("f.why.json.0")).unwrap(), b"hostile");
        // The state that an earlier version left.
        fs::rename(there.join("f.why.json.0"), there.join("f.why.json")).unwrap();
        fs::remove_file(there.join("f.why.json.0.why.json")).unwrap();
        quarantined("f", b"x");
        assert_eq!(fs::read(there.join("f.why.json")).unwrap(), b"hostile");
        assert_eq!(fs::read(there.join("f.0")).unwrap(), b"x");
        assert_eq!(list(&root).unwrap(), [("h".into(), "f.0".into(), "f".into())]);
    }

    #[test]
    fn a_name_that_leaves_no_room_for_that_of_its_reason_has_one_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let root = Incoming::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("h")).unwrap();
        let host = root.inside("h".as_ref()).unwrap();
        let names = [245, 246, 247, 255].map(|length| "f".repeat(length));
        for name in &names {
            fs::write(dir.path().join("h").join(name), name).unwrap();
            let file = host.open_file(name.as_ref()).unwrap();
            assert!(put(&root, &host, "h".as_ref(), name.as_ref(), &file, &name.len().to_string()).unwrap());
        }
        let mut listed = list(&root).unwrap();
        listed.sort();
        assert_eq!(listed, names.clone().map(|name| ("h".into(), name.clone().into(), name.len().to_string())));
        assert_eq!(retry(&root, false, &["h".into()]).unwrap(), names.len());
        assert!(names.iter().all(|name| fs::read_to_string(dir.path().join("h").join(name)).unwrap() == *name));
        assert_eq!(fs::read_dir(dir.path().join(".zsnap-quarantine/h")).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_stands_for_another_file_by_now_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h/f");
        fs::create_dir(dir.path().join("h")).unwrap();
        fs::write(&path, b"bad").unwrap();
        let root = Incoming::open(dir.path()).unwrap();
        let host = root.inside("h".as_ref()).unwrap();
        let bad = host.open_file("f".as_ref()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"good").unwrap();
        assert!(!put(&root, &host, "h".as_ref(), "f".as_ref(), &bad, "forged").unwrap());
        assert_eq!((fs::read(&path).unwrap(), list(&root).unwrap()), (b"good".to_vec(), vec![]));
    }

    #[test]
    fn what_is_no_directory_of_a_host_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = dir.path().join(DIRECTORY);
        fs::create_dir_all(quarantine.join("h")).unwrap();
        fs::create_dir(quarantine.join(".Trash")).unwrap();
        fs::create_dir(dir.path().join("h")).unwrap();
        for name in ["a-file", ".DS_Store", ".Trash/g", "h/f"] {
            fs::write(quarantine.join(name), b"x").unwrap();
        }
        let root = Incoming::open(dir.path()).unwrap();
        assert_eq!(list(&root).unwrap(), [("h".into(), "f".into(), "nobody knows why".into())]);
        assert_eq!(retry(&root, true, &[]).unwrap(), 1);
    }

    #[test]
    fn the_parts_of_a_file_come_back_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("h%3A1")).unwrap();
        let root = Incoming::open(dir.path()).unwrap();
        let host = root.inside("h%3A1".as_ref()).unwrap();
        let names = ["a%3Ab~p1of2", "a%3Ab~p2of2", "a%2E"];
        let put_all = || {
            for name in names {
                fs::write(dir.path().join("h%3A1").join(name), name).unwrap();
                let file = host.open_file(name.as_ref()).unwrap();
                assert!(put(&root, &host, "h%3A1".as_ref(), name.as_ref(), &file, "bad").unwrap());
            }
        };
        for (what, count) in [("a:b", 2), ("a%3Ab", 0), ("a:b~p1of2", 1), ("a%3Ab~p2of2", 1), ("a.", 1), ("h:1", 3)] {
            put_all();
            assert_eq!(retry(&root, false, &[what.into()]).unwrap(), count, "{what}");
            retry(&root, true, &[]).unwrap();
        }
    }

    #[test]
    fn a_file_goes_and_comes_back_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("h")).unwrap();
        fs::write(dir.path().join("h/f"), b"x").unwrap();
        let root = Incoming::open(dir.path()).unwrap();
        let host = root.inside("h".as_ref()).unwrap();
        let file = host.open_file("f".as_ref()).unwrap();
        // The state after a crash between the reason and the move, or after somebody removed the file by hand.
        root.private_inside(DIRECTORY.as_ref()).unwrap().private_inside("h".as_ref()).unwrap();
        fs::write(dir.path().join(".zsnap-quarantine/h/f.why.json"), br#"{"why": "an older reason"}"#).unwrap();
        assert!(put(&root, &host, "h".as_ref(), "f".as_ref(), &file, "forged").unwrap());
        assert!(!dir.path().join("h/f").exists());
        assert_eq!(fs::read(dir.path().join(".zsnap-quarantine/h/f")).unwrap(), b"x");
        assert_eq!(list(&root).unwrap(), [("h".into(), "f".into(), "forged".into())]);
        // Another file with the same name.
        fs::write(dir.path().join("h/f"), b"y").unwrap();
        let second = host.open_file("f".as_ref()).unwrap();
        assert!(put(&root, &host, "h".as_ref(), "f".as_ref(), &second, "forged too").unwrap());
        assert_eq!(fs::read(dir.path().join(".zsnap-quarantine/h/f")).unwrap(), b"x");
        assert_eq!(fs::read(dir.path().join(".zsnap-quarantine/h/f.0")).unwrap(), b"y");
        let why = fs::read_to_string(dir.path().join(".zsnap-quarantine/h/f.0.why.json")).unwrap();
        assert!(why.contains("forged too"));
        assert_eq!(retry(&root, false, &["f.0".into()]).unwrap(), 1);
        assert_eq!(fs::read(dir.path().join("h/f.0")).unwrap(), b"y");
        // The name of `f.0` is taken: it stays, and the others are put back.
        fs::write(dir.path().join(".zsnap-quarantine/h/f.0"), b"z").unwrap();
        fs::write(dir.path().join(".zsnap-quarantine/h/g"), b"g").unwrap();
        fs::write(dir.path().join(".zsnap-quarantine/a-file"), b"").unwrap();
        assert!(retry(&root, false, &["f.0".into(), "g".into()]).is_err());
        assert_eq!(fs::read(dir.path().join("h/f.0")).unwrap(), b"y");
        assert!(dir.path().join("h/g").exists());
        for path in [".zsnap-quarantine/h/f.0", ".zsnap-quarantine/a-file"] {
            fs::remove_file(dir.path().join(path)).unwrap();
        }
        assert_eq!(retry(&root, false, &["other".into()]).unwrap(), 0);
        assert_eq!(retry(&root, false, &["f".into()]).unwrap(), 1);
        assert_eq!(fs::read(dir.path().join("h/f")).unwrap(), b"x");
        assert_eq!(fs::read_dir(dir.path().join(".zsnap-quarantine/h")).unwrap().count(), 0);
    }
}
