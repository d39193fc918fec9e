use super::*;
use crate::durable::dest::mark::MARKER;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const NAME: &str = "bakfsfmt2-1700000000.000000001.1_h@a";

fn source(dir: &Path, bytes: &[u8]) -> File {
    let path = dir.join("source");
    fs::write(&path, bytes).unwrap();
    File::open(path).unwrap()
}

fn item(name: &str, file: &File) -> Item {
    Item { name: name.into(), entry: name.into(), parsed: name.parse().unwrap(), file: file.try_clone().unwrap() }
}

fn deliver(to: &Path, file: &File, drive: Option<&str>) -> Result<Delivered> {
    let mark = drive.map_or(Mark::Unneeded, |name| Mark::Named(name.into()));
    one(to, &item(NAME, file), &Transport { mark, ..Transport::default() }, &|_| {})
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_arrives_once_and_other_content_gets_another_name() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = source(from.path(), &[7; 100_000]);
    assert_eq!(deliver(to.path(), &file, None).unwrap(), Delivered::New);
    assert_eq!(deliver(to.path(), &file, None).unwrap(), Delivered::Already);
    let host = to.path().join("h");
    assert_eq!(fs::read(host.join(NAME)).unwrap(), [7; 100_000]);
    assert_eq!(fs::metadata(host.join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
    let mut other = vec![7; 100_000];
    other[99_999] = 8;
    let other = source(from.path(), &other);
    assert_eq!(deliver(to.path(), &other, None).unwrap(), Delivered::New);
    assert_eq!(deliver(to.path(), &other, None).unwrap(), Delivered::Already);
    assert_eq!(listing(&host), [NAME.to_owned(), format!("{NAME}.0")]);
}

#[test]
fn nothing_is_created_while_the_drive_is_away() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = source(from.path(), b"x");
    let away = |to: &Path, drive| matches!(deliver(to, &file, drive).unwrap(), Delivered::Away(_));
    assert!(away(&to.path().join("absent"), None));
    assert!(away(to.path(), Some("disk1")));
    fs::write(to.path().join(MARKER), "disk2\n").unwrap();
    assert!(away(to.path(), Some("disk1")));
    assert_eq!(listing(to.path()), [MARKER]);
    assert_eq!(deliver(to.path(), &file, Some("disk2")).unwrap(), Delivered::New);
}

#[test]
fn symlinks_are_not_followed_out_of_the_directory() {
    let (from, to, elsewhere) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = source(from.path(), b"x");
    std::os::unix::fs::symlink(elsewhere.path(), to.path().join("h")).unwrap();
    assert!(deliver(to.path(), &file, None).is_err());
    fs::remove_file(to.path().join("h")).unwrap();
    fs::create_dir(to.path().join("h")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("new"), to.path().join("h").join(NAME)).unwrap();
    assert_eq!(deliver(to.path(), &file, None).unwrap(), Delivered::New);
    assert_eq!(listing(&to.path().join("h")), [NAME.to_owned(), format!("{NAME}.0")]);
    assert!(listing(elsewhere.path()).is_empty());
}

#[test]
fn temporary_files_of_killed_deliveries_are_removed() {
    let to = tempfile::tempdir().unwrap();
    for dir in ["h", "no host@"] {
        fs::create_dir(to.path().join(dir)).unwrap();
        // Another drive may be mounted at this path, with a mark of its own.
        for name in [".zsnap-0123456789abcdef", ".zsnap-0123", ".stfolder", MARKER] {
            fs::write(to.path().join(dir).join(name), "").unwrap();
        }
    }
    tidy(to.path(), None).unwrap();
    assert_eq!(listing(&to.path().join("h")), [".stfolder", ".zsnap-0123", MARKER]);
    assert_eq!(listing(&to.path().join("no host@")).len(), 4);
}
