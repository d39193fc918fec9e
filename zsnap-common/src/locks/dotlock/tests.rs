//! Tests of [`super`].

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    (dir, path)
}

fn take(path: &Path) -> Result<DotLock, Holder> {
    DotLock::take(path, None).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn make_older(path: &Path, secs: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
}

/// Returns the pid of a process that has ended.
fn dead() -> u32 {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_dotlock_contains_our_pid_readable_by_all_and_is_removed() {
    let (dir, path) = dir();
    let ours = take(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(names(dir.path()), ["lock"]);
    drop(ours);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_dotlock_of_a_living_process_is_held_whatever_its_age() {
    let (dir, path) = dir();
    fs::write(&path, "1\n").unwrap();
    make_older(&path, 10_000);
    let holder = take(&path).unwrap_err();
    assert_eq!(holder.who, format!("pid 1 ({})", path.display()));
    assert!(holder.age >= Duration::from_secs(10_000));
    assert_eq!(names(dir.path()), ["lock"]);
}

#[test]
fn stale_dotlocks_are_broken() {
    let (dir, path) = dir();
    for text in [format!("{}\n", dead()), format!(" {}", dead()), format!("{}\n", std::process::id())] {
        fs::write(&path, text).unwrap();
        let ours = take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(names(dir.path()), ["lock"]);
        drop(ours);
    }
    for text in ["", "0\n", "x\n", "-1\n", "99999999999999999\n"] {
        fs::write(&path, text).unwrap();
        make_older(&path, 290);
        assert!(take(&path).unwrap_err().who.starts_with("a lock file without pid"));
        make_older(&path, 310);
        assert!(take(&path).is_ok());
    }
}

#[test]
fn a_dotlock_without_a_pid_is_not_broken_because_of_a_future_time() {
    let (dir, path) = dir();
    fs::write(&path, "").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(2 * 24 * 3600)).unwrap();
    let holder = take(&path).unwrap_err();
    assert_eq!(holder.who, format!("a lock file without pid ({})", path.display()));
    assert_eq!(holder.age, Duration::MAX);
    assert_eq!(names(dir.path()), ["lock"]);
}

#[test]
fn a_dotlock_is_broken_if_its_id_is_the_noted_one() {
    let (_dir, path) = dir();
    fs::write(&path, "1\n").unwrap();
    let id: FileId = FileId::of(&rustix::fs::stat(&path).unwrap()).to_string().parse().unwrap();
    assert!(DotLock::take(&path, Some(FileId { nanos: id.nanos ^ 1, ..id })).unwrap().is_err());
    assert!(DotLock::take(&path, Some(id)).unwrap().is_ok());
    assert!("1 2 3".parse::<FileId>().is_err());
}

#[test]
fn a_new_dotlock_in_place_of_the_stale_one_is_put_back() {
    let (dir, path) = dir();
    fs::write(&path, format!("{}\n", dead())).unwrap();
    let (fd, name) = open_dir(&path).unwrap();
    let State::Stale(judged) = judge(&fd, &name, &path, None).unwrap() else { panic!() };
    fs::remove_file(&path).unwrap();
    fs::write(&path, "1\n").unwrap();
    break_stale(&fd, &name, &judged).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    assert_eq!(names(dir.path()), ["lock"]);
    fs::remove_file(&path).unwrap();
    break_stale(&fd, &name, &judged).unwrap();
}

#[test]
fn a_dotlock_that_is_not_a_regular_file_is_an_error_with_its_path() {
    let (_dir, path) = dir();
    let assert_rejected = || {
        let error = DotLock::take(&path, None).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Config);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    };
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_rejected();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert_rejected();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_rejected();
}

#[test]
fn a_dotlock_that_is_no_longer_ours_is_not_removed() {
    let (_dir, path) = dir();
    let ours = take(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "1\n").unwrap();
    drop(ours);
    assert!(path.exists());
}

#[test]
fn a_dotlock_in_an_unsafe_directory_is_rejected() {
    let (dir, path) = dir();
    let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    for unsafe_mode in [0o777, 0o770, 0o707] {
        mode(unsafe_mode);
        assert_eq!(Exit::of(&DotLock::take(&path, None).unwrap_err()), Exit::Config);
    }
    for safe in [0o1777, 0o755] {
        mode(safe);
        assert!(take(&path).is_ok());
    }
    assert_eq!(Exit::of(&DotLock::take(Path::new("/"), None).unwrap_err()), Exit::Config);
    assert_eq!(Exit::of(&DotLock::take(&dir.path().join("none/x"), None).unwrap_err()), Exit::Config);
}

#[test]
fn a_dotlock_in_a_directory_of_another_user_is_rejected_as_root() {
    assert!(geteuid().is_root(), "only root can do this: make test-root");
    let (dir, path) = dir();
    assert!(take(&path).is_ok());
    std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
    assert_eq!(Exit::of(&DotLock::take(&path, None).unwrap_err()), Exit::Config);
}

#[test]
fn a_dotlock_of_another_user_is_never_broken_as_root() {
    assert!(geteuid().is_root(), "only root can do this: make test-root");
    let (dir, path) = dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(&path, format!("{}\n", dead())).unwrap();
    make_older(&path, 10_000);
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    assert_eq!(take(&path).unwrap_err().who, format!("a lock file of uid 65534 ({})", path.display()));
    assert!(path.exists());
}
