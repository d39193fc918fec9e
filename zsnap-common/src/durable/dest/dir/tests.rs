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
    tidy(to.path(), &Mark::Unneeded).unwrap();
    assert_eq!(listing(&to.path().join("h")), [".stfolder", ".zsnap-0123", MARKER]);
    assert_eq!(listing(&to.path().join("no host@")).len(), 4);
}

fn in_parts(to: &Path, file: &File, max_file: u64) -> Delivered {
    let how = Transport { max_file: Some(max_file), verify: true, ..Transport::default() };
    one(to, &item(NAME, file), &how, &|_| {}).unwrap()
}

fn part(name: &str, number: u64, of: u64) -> String {
    format!("{name}~p{number}of{of}")
}

#[test]
fn a_file_larger_than_max_file_arrives_in_parts_that_cat_joins() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = source(from.path(), &bytes);
    let host = to.path().join("h");
    assert_eq!(in_parts(to.path(), &file, 150_000), Delivered::New);
    let names = [1, 2, 3].map(|number| part(NAME, number, 3));
    assert_eq!(listing(&host), names);
    let joined = || names.iter().flat_map(|name| fs::read(host.join(name)).unwrap()).collect::<Vec<_>>();
    let sizes = names.clone().map(|name| fs::metadata(host.join(name)).unwrap().len());
    assert_eq!((joined(), sizes), (bytes.clone(), [150_000, 150_000, 100_000]));
    // What is there is not copied again, whatever max-file is now.
    let inode = |name: &str| fs::metadata(host.join(name)).unwrap().ino();
    let first = inode(&names[0]);
    for max_file in [150_000, 70_000, 300_000] {
        assert_eq!(in_parts(to.path(), &file, max_file), Delivered::Already);
        // A delivery ended after the first part; the reader may have taken the last.
        fs::remove_file(host.join(&names[1])).unwrap();
        assert_eq!(in_parts(to.path(), &file, max_file), Delivered::New);
        assert_eq!((listing(&host), joined(), inode(&names[0])), (names.to_vec(), bytes.clone(), first));
    }
    // Without the first part nobody knows how large the others should be.
    fs::remove_file(host.join(&names[0])).unwrap();
    assert_eq!(in_parts(to.path(), &file, 200_000), Delivered::New);
    assert_eq!(listing(&host), [part(NAME, 1, 2), part(NAME, 2, 2), names[1].clone(), names[2].clone()]);
    // A file that fits is whole, and whole files are known, too.
    let small = source(from.path(), &bytes[..1000]);
    assert_eq!(in_parts(to.path(), &small, 1000), Delivered::New);
    assert_eq!(in_parts(to.path(), &small, 999), Delivered::Already);
    assert_eq!(fs::read(host.join(NAME)).unwrap(), &bytes[..1000]);
}

#[test]
fn parts_of_another_file_are_neither_replaced_nor_joined() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = to.path().join("h");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut bytes = vec![1; 1000];
    let one = source(from.path(), &bytes);
    bytes[999] = 2;
    let other = source(elsewhere.path(), &bytes);
    assert_eq!(in_parts(to.path(), &one, 500), Delivered::New);
    assert_eq!(in_parts(to.path(), &other, 500), Delivered::New);
    let copy = format!("{NAME}.0");
    assert_eq!(listing(&host), [part(&copy, 1, 2), part(&copy, 2, 2), part(NAME, 1, 2), part(NAME, 2, 2)]);
    assert_eq!(in_parts(to.path(), &one, 500), Delivered::Already);
    assert_eq!(in_parts(to.path(), &other, 500), Delivered::Already);
    // Nothing is divided into more parts than a name can tell, and no part is divided.
    let deliver = |name: &str, max_file| {
        let how = Transport { max_file: Some(max_file), ..Transport::default() };
        super::one(to.path(), &item(name, &one), &how, &|_| {}).unwrap_err().to_string()
    };
    let new = "bakfsfmt2-1700000000.000000002.1_h@a";
    let why = deliver(new, 1);
    assert!(why.contains("would have 1000 parts, and 999 are possible: raise max-file"), "{why}");
    assert!(deliver(&part(new, 1, 2), 500).contains("it is a part of 1000 B already"));
    assert_eq!(listing(&host).len(), 4);
}

#[test]
fn a_file_that_is_too_large_for_the_file_system_is_refused_before_it_is_copied() {
    let (from, to) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
    let file = source(from.path(), b"");
    let longer = |size| File::options().write(true).open(from.path().join("source"))?.set_len(size);
    let most = Abilities::of(&File::open(to.path()).unwrap(), to.path()).unwrap().largest;
    if longer(most + 1).is_err() {
        eprintln!("NOT TESTED: no file system here stores larger files than that of {}", to.path().display());
        return;
    }
    let why = format!("{:#}", deliver(to.path(), &file, None).unwrap_err());
    assert!(why.contains("the file system stores files of up to ") && why.contains("set max-file = \"4GiB\""), "{why}");
    assert!(listing(&to.path().join("h")).is_empty());
}

#[test]
fn names_stay_as_they_are_where_the_file_system_can_store_them() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = source(from.path(), b"x");
    for (seq, host, dataset) in [(1, "h:1", "co:lon"), (2, "h.", "dot."), (3, "con", "space ")] {
        let name = format!("bakfsfmt2-1700000000.{seq:09}.1_{host}@{dataset}");
        for delivered in [Delivered::New, Delivered::Already] {
            assert_eq!(one(to.path(), &item(&name, &file), &Transport::default(), &|_| {}).unwrap(), delivered);
        }
        assert_eq!(listing(&to.path().join(host)), [name]);
    }
    // A trial of the abilities was killed.
    fs::write(to.path().join(".zsnap-0123456789abcdef:"), "").unwrap();
    tidy(to.path(), &Mark::Unneeded).unwrap();
    assert_eq!(listing(to.path()), ["con", "h.", "h:1"]);
}

#[test]
fn hosts_that_differ_only_in_case_clash_where_case_is_ignored() {
    let to = tempfile::tempdir().unwrap();
    for name in ["Laptop", "server", "lost+found"] {
        fs::create_dir(to.path().join(name)).unwrap();
    }
    let found = probe(to.path(), &Mark::Unneeded).unwrap().unwrap();
    assert_eq!(found.hosts, ["Laptop", "server"].map(|host| host.parse().unwrap()));
    assert_eq!(probe(to.path(), &Mark::Named("disk1".into())).unwrap(), None);
    let ours = ["laptop".parse().unwrap()];
    assert_eq!(found.clash(&ours), None);
    let abilities = Abilities { case: false, ..found.abilities };
    let why = Probe { abilities, ..found.clone() }.clash(&ours).unwrap();
    assert!(why.contains("the hosts Laptop and laptop would have one directory"), "{why}");
    assert_eq!(Probe { abilities, ..found }.clash(&["server".parse().unwrap()]), None);
}
