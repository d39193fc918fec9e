//! Tests of [`super`].

use super::*;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use openpgp::Profile;
use openpgp::serialize::Serialize;

fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(base);
    name.push(suffix);
    name.into()
}

fn keys(dir: &Path, aead: bool) -> (PathBuf, PathBuf) {
    let (sign, encrypt) = (dir.join("laptop.v1"), dir.join("backup"));
    keygen(&sign, Purpose::Sign(&"laptop".parse().unwrap()), aead).unwrap();
    keygen(&encrypt, Purpose::Encrypt, aead).unwrap();
    (sign, encrypt)
}

fn why<T>(result: anyhow::Result<T>) -> String {
    let e = result.err().unwrap();
    assert_eq!(Exit::of(&e), Exit::Config);
    format!("{e:#}")
}

#[test]
fn made_keys_are_of_version_4_and_for_one_purpose() {
    let dir = tempfile::tempdir().unwrap();
    let (sign, encrypt) = keys(dir.path(), false);
    let now = SystemTime::now();
    for (base, algorithms) in [(&sign, &[22_u8][..]), (&encrypt, &[22, 18])] {
        let (key, cert) = (with_suffix(base, ".key"), with_suffix(base, ".cert"));
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(&cert).unwrap().permissions().mode() & 0o7777, 0o644);
        let parsed = Cert::from_file(&cert).unwrap();
        assert!(!parsed.is_tsk());
        let found: Vec<u8> = parsed.keys().map(|ka| ka.key().pk_algo().into()).collect();
        assert_eq!(found, algorithms);
        assert!(parsed.keys().all(|ka| ka.key().version() == 4));
        let policy = policy();
        let valid = parsed.with_policy(&policy, now).unwrap();
        assert_eq!(valid.primary_key().key_expiration_time(), None);
        let features = valid.features().unwrap();
        assert!(features.supports_seipdv1() && !features.supports_seipdv2());
    }
    let (sign_key, backup_key) = (with_suffix(&sign, ".key"), with_suffix(&encrypt, ".key"));
    assert_eq!(SigningKey::load(&sign_key, now).unwrap().fingerprint().len(), 40);
    assert!(Keyring::load(std::slice::from_ref(&backup_key)).is_ok());
    assert!(why(SigningKey::load(&backup_key, now)).contains("no secret key that may sign"));
    assert!(why(Keyring::load(&[sign_key])).contains("no secret key that decrypts"));
    assert!(why(Recipients::load(&[with_suffix(&sign, ".cert")], Format::Gpg, now)).contains("no encryption"));
    assert!(why(Recipients::load(&[backup_key], Format::Gpg, now)).contains("is a secret key"));
    let cert = [with_suffix(&encrypt, ".cert")];
    assert!(Recipients::load(&cert, Format::Gpg, now).unwrap().warnings.is_empty());
    assert!(why(Recipients::load(&cert, Format::Aead, now)).contains("SEIPDv2"));
    assert!(why(Recipients::load(&[], Format::Gpg, now)).contains("no certificate"));
}

#[test]
fn with_aead_they_advertise_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_, encrypt) = keys(dir.path(), true);
    let cert = [with_suffix(&encrypt, ".cert")];
    for format in [Format::Aead, Format::Gpg] {
        assert!(Recipients::load(&cert, format, SystemTime::now()).is_ok());
    }
}

#[test]
fn nothing_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("k");
    fs::write(dir.path().join("k.cert"), "mine").unwrap();
    let e = keygen(&base, Purpose::Encrypt, false).unwrap_err();
    assert_eq!(Exit::of(&e), Exit::CantCreate);
    assert_eq!(fs::read(dir.path().join("k.cert")).unwrap(), b"mine");
    assert!(!dir.path().join("k.key").exists());
    fs::write(dir.path().join("k.key"), "mine").unwrap();
    assert!(keygen(&base, Purpose::Encrypt, false).is_err());
    assert_eq!(fs::read(dir.path().join("k.key")).unwrap(), b"mine");
}

#[test]
fn several_armored_blocks_are_all_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = String::new();
    for name in ["a", "b"] {
        keygen(&dir.path().join(name), Purpose::Encrypt, false).unwrap();
        both += &fs::read_to_string(dir.path().join(format!("{name}.cert"))).unwrap();
    }
    let file = dir.path().join("both");
    fs::write(&file, &both).unwrap();
    let now = SystemTime::now();
    let all = Recipients::load(&[file.clone(), dir.path().join("a.cert")], Format::Gpg, now).unwrap();
    assert_eq!((all.certs.len(), all.keys.len()), (2, 2));
    fs::write(&file, &both[..both.len() - 200]).unwrap();
    why(Recipients::load(std::slice::from_ref(&file), Format::Gpg, now));
    fs::write(&file, "hello").unwrap();
    why(Recipients::load(&[file], Format::Gpg, now));
}

#[test]
fn secret_files_that_others_could_touch_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (sign, _) = keys(dir.path(), false);
    let (key, now) = (with_suffix(&sign, ".key"), SystemTime::now());
    let link = dir.path().join("link");
    symlink(&key, &link).unwrap();
    why(SigningKey::load(&link, now));
    for mode in [0o640, 0o604, 0o610, 0o602] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert!(why(SigningKey::load(&key, now)).contains(&format!("others can read: chmod 600 {},", key.display())));
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    SigningKey::load(&key, now).unwrap();
    assert!(why(SigningKey::load(dir.path(), now)).contains("is not a regular file"));
}

#[test]
fn a_key_and_its_certificate_in_each_others_place_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let (sign, encrypt) = keys(dir.path(), false);
    let now = SystemTime::now();
    let ends = |why: String, path: PathBuf| assert!(why.ends_with(&format!("specify {}", path.display())), "{why}");
    for mode in [0o600, 0o644] {
        let cert = with_suffix(&sign, ".cert");
        fs::set_permissions(&cert, fs::Permissions::from_mode(mode)).unwrap();
        let said = why(SigningKey::load(&cert, now));
        assert!(said.contains("is a certificate, without the secret"), "{said}");
        ends(said, with_suffix(&sign, ".key"));
    }
    ends(why(Keyring::load(&[with_suffix(&encrypt, ".cert")])), with_suffix(&encrypt, ".key"));
    let key = with_suffix(&encrypt, ".key");
    ends(why(Recipients::load(std::slice::from_ref(&key), Format::Gpg, now)), with_suffix(&encrypt, ".cert"));
    fs::rename(with_suffix(&encrypt, ".cert"), dir.path().join("elsewhere")).unwrap();
    assert!(why(Recipients::load(&[key], Format::Gpg, now)).ends_with("specify the .cert file"));
}

#[test]
fn a_key_is_made_in_a_missing_directory_that_only_we_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("etc/zsnap/laptop");
    keygen(&base, Purpose::Sign(&"laptop".parse().unwrap()), false).unwrap();
    for made in ["etc", "etc/zsnap"] {
        assert_eq!(fs::metadata(dir.path().join(made)).unwrap().permissions().mode() & 0o7777, 0o700, "{made}");
    }
    let (key, cert) = files(&base);
    assert!(key.exists() && cert.exists());
    assert_eq!(SigningKey::load(&key, SystemTime::now()).unwrap().host, Some("laptop".parse().unwrap()));
    let e = keygen(&base, Purpose::Encrypt, false).unwrap_err();
    assert_eq!(Exit::of(&e), Exit::CantCreate);
    assert!(e.to_string().contains("laptop.key: exists, and a key is never replaced"), "{e}");
}

#[test]
fn a_secret_file_of_another_user_is_refused_as_root() {
    assert!(rustix::process::geteuid().is_root(), "only root can do this: make test-root");
    let dir = tempfile::tempdir().unwrap();
    let (sign, _) = keys(dir.path(), false);
    let (key, now) = (with_suffix(&sign, ".key"), SystemTime::now());
    SigningKey::load(&key, now).unwrap();
    std::os::unix::fs::chown(&key, Some(12345), None).unwrap();
    assert!(why(SigningKey::load(&key, now)).contains("another user"));
}

#[test]
fn recipients_are_judged_at_the_time_given() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let day = Duration::from_secs(DAY);
    let save = |name: &str, cert: &Cert| {
        let mut bytes = Vec::new();
        cert.serialize(&mut bytes).unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let make = |lives: Option<Duration>| {
        let builder = CertBuilder::new().add_transport_encryption_subkey().set_validity_period(lives);
        builder.set_creation_time(now - day).generate().unwrap()
    };
    let load = |file: &PathBuf, at| Recipients::load(std::slice::from_ref(file), Format::Gpg, at);
    let (cert, revocation) = make(Some(10 * day));
    let file = save("short", &cert);
    assert!(why(load(&file, now - 2 * day)).contains("not valid yet"));
    assert_eq!(load(&file, now).unwrap().warnings.len(), 1);
    assert!(why(load(&file, now + 10 * day)).contains("expired"));
    let (gone, _) = cert.insert_packets(revocation).unwrap();
    assert!(why(load(&save("gone", &gone), now)).contains("revoked"));
    let (long, _) = make(Some(100 * day));
    assert!(load(&save("long", &long), now).unwrap().warnings.is_empty());
    let v6 = CertBuilder::new().set_profile(Profile::RFC9580).unwrap().add_transport_encryption_subkey();
    let v6 = save("v6", &v6.generate().unwrap().0);
    assert!(why(load(&v6, now)).contains("version 6"));
    assert!(Recipients::load(&[v6], Format::Aead, now).is_ok());
}

#[test]
fn nothing_is_encrypted_to_a_revoked_subkey() {
    let dir = tempfile::tempdir().unwrap();
    let (now, file) = (SystemTime::now(), dir.path().join("cert"));
    let builder = CertBuilder::new().add_transport_encryption_subkey().add_transport_encryption_subkey();
    let (mut cert, _) = builder.set_creation_time(now - Duration::from_secs(DAY)).generate().unwrap();
    let mut primary = cert.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
    let subkeys: Vec<_> = cert.keys().subkeys().map(|ka| ka.key().clone()).collect();
    let mut load_without = |subkey| {
        let revocation = SubkeyRevocationBuilder::new().build(&mut primary, &cert, subkey, None).unwrap();
        cert = cert.clone().insert_packets(revocation).unwrap().0;
        let mut bytes = Vec::new();
        cert.serialize(&mut bytes).unwrap();
        fs::write(&file, bytes).unwrap();
        Recipients::load(std::slice::from_ref(&file), Format::Gpg, now)
    };
    let left = load_without(&subkeys[0]).unwrap().keys;
    let left: Vec<_> = left.iter().map(Key::fingerprint).collect();
    assert_eq!(left, [subkeys[1].fingerprint()]);
    assert!(why(load_without(&subkeys[1])).contains("revoked"));
}
