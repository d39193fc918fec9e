//! Tests of the state directory.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    (dir, state)
}

#[test]
fn an_epoch_begins_with_the_first_open_only() {
    let (_dir, path) = fresh();
    let first = State::open(&path, 7).unwrap();
    assert_eq!((first.epoch.started, first.epoch.id.len()), (7, 32));
    let second = State::open(&path, 8).unwrap();
    assert_eq!(first.epoch, second.epoch);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(path.join(EPOCH)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn unreadable_state_never_begins_a_new_epoch() {
    let (_dir, path) = fresh();
    let target = "h/a".parse().unwrap();
    State::open(&path, 7).unwrap().try_lock(&target).unwrap().unwrap().commit(&Acknowledged::default()).unwrap();
    for damage in [Some(""), Some("{\"zsnap\": 2, \"id\": \"\", \"started\": 1, \"secret\": \"\"}"), None] {
        match damage {
            Some(text) => fs::write(path.join(EPOCH), text).unwrap(),
            None => fs::remove_file(path.join(EPOCH)).unwrap(),
        }
        let e = State::open(&path, 8).map(|_| ()).unwrap_err();
        assert_eq!(Exit::of(&e), Exit::TryAgain, "{damage:?}");
    }
}

#[test]
fn a_state_that_others_can_write_to_is_rejected() {
    let (dir, path) = fresh();
    State::open(&path, 7).unwrap();
    let planted = path.join("outbox/to/0123456789ab");
    publish::make_dirs(&planted).unwrap();
    fs::write(planted.join(".dest.json"), "{}").unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let assert_rejected = |says: &str| {
        let e = State::open(&path, 7).map(|_| ()).unwrap_err();
        assert!(Exit::of(&e) == Exit::Config && e.to_string().contains(says), "{e:#}");
    };
    for (at, open, shut) in [
        (path.clone(), 0o770, 0o700),
        (path.join("outbox"), 0o702, 0o700),
        (planted.clone(), 0o1777, 0o700),
        (planted.join(".dest.json"), 0o620, 0o600),
    ] {
        mode(&at, open);
        assert_rejected("look for what others may have put there");
        mode(&at, shut);
    }
    mode(dir.path(), 0o777);
    assert_rejected("");
    mode(dir.path(), 0o700);
    State::open(&path, 7).unwrap();
}

#[test]
fn a_file_of_another_user_in_the_state_is_rejected_as_root() {
    assert!(rustix::process::geteuid().is_root(), "only root can do this: make test-root");
    let (_dir, path) = fresh();
    State::open(&path, 7).unwrap();
    let planted = path.join("outbox/to/0123456789ab");
    publish::make_dirs(&planted).unwrap();
    fs::write(planted.join(".dest.json"), "{}").unwrap();
    State::open(&path, 7).unwrap();
    std::os::unix::fs::chown(planted.join(".dest.json"), Some(65534), None).unwrap();
    let e = State::open(&path, 7).map(|_| ()).unwrap_err();
    assert!(Exit::of(&e) == Exit::Config && e.to_string().contains("look for what others may have put there"));
}

#[test]
fn a_commit_reads_back_and_a_damaged_one_is_an_error() {
    let (_dir, path) = fresh();
    let state = State::open(&path, 7).unwrap();
    let target: Target = "h/tank/a b".parse().unwrap();
    assert_eq!(state.acknowledged(&target).unwrap(), Acknowledged::default());
    let chain = Chain { seq: 9, guids: vec![zsnap_common::stream::Guid(5)], ..Chain::default() };
    let new = Acknowledged { chain, at: 3, file: Some("f".into()), ..Acknowledged::default() };
    let locked = state.try_lock(&target).unwrap().unwrap();
    assert!(state.try_lock(&target).unwrap().is_none());
    locked.commit(&new).unwrap();
    assert_eq!(state.acknowledged(&target).unwrap(), Acknowledged { zsnap: VERSION, ..new });
    assert_eq!(state.targets().unwrap(), std::slice::from_ref(&target));
    fs::write(path.join("datasets/h/tank@a b/state.json"), "{}").unwrap();
    assert_eq!(Exit::of(&state.acknowledged(&target).unwrap_err()), Exit::TryAgain);
}

#[test]
fn the_digest_is_hmac_sha256() {
    // RFC 4231, test case 1.
    let hex = zsnap_common::names::digest::hex(&hmac_sha256(&[0x0b; 20], b"Hi There"));
    assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
}
