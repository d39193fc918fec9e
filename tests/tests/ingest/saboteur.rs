//! A saboteur, an unprivileged local user who owns the directories that root reads, changes their content all the
//! time: files become symlinks, FIFOs, directories, hard links, other files. Nothing outside is read or changed,
//! nothing hangs, and other hosts are served.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Gid, Uid};
use zsnap_tests::random::Random;
use zsnap_tests::scene::{Ran, Scene, manifest, name, needs_root, run};

const SEQ: u64 = 1_700_000_000_000_000;
const NOBODY: u32 = 65534;
/// The length of each test; it takes longer if the saboteur has made few changes by then.
const LENGTH: Duration = Duration::from_secs(15);
/// The secret in the canaries, which must never appear anywhere else.
const SECRET: &str = "CANARY-4c1d";

/// Files of root outside the saboteur's directories, which must not be read or changed.
struct Canaries {
    dir: PathBuf,
    before: Vec<String>,
}

impl Canaries {
    /// Creates a secret, a FIFO, and a directory that looks like an incoming one: its queue file is good and would
    /// be applied if zsnap-ingest followed a symlink to it.
    fn new(scene: &Scene) -> Canaries {
        let dir = scene.path("canaries");
        for sub in ["laptop", "other"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        fs::write(dir.join("secret"), SECRET).unwrap();
        let sealed = scene.seal(&manifest("laptop/etc", SEQ + 900), Some("laptop"), SECRET.as_bytes());
        for at in [name("laptop/etc", SEQ + 900), "laptop/".to_owned() + &name("laptop/etc", SEQ + 900)] {
            fs::write(dir.join(at), &sealed).unwrap();
        }
        fifo(&dir.join("fifo"));
        let mut canaries = Canaries { dir, before: Vec::new() };
        // The access time is before the modification time, so with relatime the next read changes it.
        let old = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        for path in canaries.paths().into_iter().rev() {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_file() {
                fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            }
            if meta.is_file() || meta.is_dir() {
                File::open(&path).unwrap().set_times(old).unwrap();
            }
        }
        canaries.before = canaries.state();
        canaries
    }

    fn paths(&self) -> Vec<PathBuf> {
        let mut all = vec![self.dir.clone()];
        let mut at = 0;
        while at < all.len() {
            if all[at].is_dir() {
                let inside: Vec<_> = fs::read_dir(&all[at]).unwrap().map(|e| e.unwrap().path()).collect();
                all.extend(inside);
            }
            at += 1;
        }
        all.sort();
        all
    }

    /// All metadata that a read or a change would alter.
    fn state(&self) -> Vec<String> {
        let describe = |path: PathBuf| {
            let m = fs::symlink_metadata(&path).unwrap();
            // `paths` itself reads the directories.
            let read = if m.is_file() { m.atime() } else { 0 };
            format!("{} {:o} {} {} {} {} {read}", path.display(), m.mode(), m.uid(), m.nlink(), m.size(), m.mtime())
        };
        self.paths().into_iter().map(describe).collect()
    }

    fn check(&self) {
        assert_eq!(self.state(), self.before, "a canary was read or changed");
    }
}

/// Whether a read changes the access time of a file on this file system.
fn reading_shows(scene: &Scene) -> bool {
    let path = scene.path("probe");
    fs::write(&path, "x").unwrap();
    File::open(&path).unwrap().set_times(FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH)).unwrap();
    fs::read(&path).unwrap();
    let shows = fs::metadata(&path).unwrap().atime() > 0;
    if !shows {
        eprintln!("NOT TESTED: whether canaries are read (this file system keeps no access times)");
    }
    shows
}

/// Tries to create a FIFO.
fn fifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    let _ = rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o666.into(), 0);
}

/// Opens a file for writing without waiting for the reader of a FIFO.
fn writable(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?))
}

/// Removes a file or a directory if it exists.
fn clear(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

/// The saboteur, who ignores errors.
struct Saboteur<'a> {
    incoming: PathBuf,
    canaries: &'a Path,
    random: Random,
    /// Good files of the host, and bad ones.
    files: Vec<Vec<u8>>,
    open: Vec<File>,
}

impl Saboteur<'_> {
    /// Drops the rights of the calling thread only, which Linux allows.
    fn become_nobody() {
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        assert!(fs::read("/etc/shadow").is_err(), "still has root's rights");
    }

    fn any(&mut self, n: usize) -> usize {
        self.random.below(n as u64) as usize
    }

    /// Makes one change in the host's directory.
    fn change(&mut self) {
        let host = self.incoming.join("laptop");
        let names = 6;
        let path = host.join(name("laptop/etc", SEQ + self.any(names) as u64));
        let other = host.join(name("laptop/etc", SEQ + self.any(names) as u64));
        let aside = host.join(".aside");
        let canary = ["secret", "fifo", "laptop", &name("laptop/etc", SEQ + 900)][self.any(4)].to_owned();
        let bytes = self.files[self.random.below(self.files.len() as u64) as usize].clone();
        let act = self.any(14);
        match act {
            // A complete file, renamed into place, old enough not to count as still arriving.
            0..=4 => {
                clear(&aside);
                let _ = fs::write(&aside, &bytes);
                if let Ok(file) = writable(&aside) {
                    let _ = file.set_modified(SystemTime::now() - Duration::from_secs(3600));
                }
                if path.is_dir() {
                    clear(&path);
                }
                let _ = fs::rename(&aside, &path);
            }
            5 => {
                clear(&path);
                let _ = symlink(self.canaries.join(canary), &path);
            }
            6 => {
                clear(&path);
                fifo(&path);
            }
            7 => {
                clear(&path);
                let _ = fs::create_dir(&path);
            }
            8 => {
                clear(&path);
                let _ = fs::hard_link(self.canaries.join(canary), &path).or_else(|_| fs::hard_link(&other, &path));
            }
            9 => drop(fs::rename(&path, &other)),
            // A write through a descriptor that stays open whatever becomes of the name.
            10 => {
                if let Ok(mut file) = writable(&path) {
                    let _ = file.seek(SeekFrom::Start(300)).and_then(|_| file.write_all(b"changed"));
                    self.open.push(file);
                    self.open.truncate(50);
                }
            }
            11 => {
                for file in &self.open {
                    let _ = file.set_len(200);
                    let _ = file.set_len(1 << 30);
                }
                self.open.clear();
            }
            12 => drop(std::os::unix::net::UnixListener::bind(&path)),
            _ => clear(&path),
        }
    }

    /// Makes one change to the incoming directory itself.
    fn change_above(&mut self) {
        let quarantine = self.incoming.join(".zsnap-quarantine");
        let (host, away) = (self.incoming.join("laptop"), self.incoming.join(".away"));
        match self.any(6) {
            // What root made there is moved away and replaced with a symlink.
            0..=2 => {
                let n = self.any(1_000_000);
                let _ = fs::rename(&quarantine, self.incoming.join(format!(".old{n}")));
                let _ = symlink(self.canaries, &quarantine);
                thread::yield_now();
                let _ = fs::remove_file(&quarantine);
            }
            3 => {
                let _ = fs::create_dir(&quarantine);
                let _ = symlink(self.canaries.join("laptop"), quarantine.join("laptop"));
                thread::yield_now();
                clear(&quarantine);
            }
            4 => {
                fifo(&quarantine);
                thread::yield_now();
                clear(&quarantine);
            }
            _ => {
                let _ = fs::rename(&host, &away);
                let _ = symlink(self.canaries.join("laptop"), &host);
                thread::yield_now();
                let _ = fs::remove_file(&host);
                let _ = fs::rename(&away, &host);
            }
        }
    }
}

/// Runs a command for at most a minute.
fn guarded(mut command: Command, input: &[u8]) -> Ran {
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        command.process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        seen.store(u64::from(child.id()), Ordering::Relaxed);
        let mut stdin = child.stdin.take().unwrap();
        scope.spawn(move || drop(stdin.write_all(input)));
        scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(60);
            while !done.load(Ordering::Relaxed) {
                if Instant::now() > until {
                    let pid = i32::try_from(seen.load(Ordering::Relaxed)).unwrap();
                    let pid = rustix::process::Pid::from_raw(pid).unwrap();
                    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
                    panic!("it hangs");
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let output = child.wait_with_output().unwrap();
        done.store(true, Ordering::Relaxed);
        Ran::of(output)
    })
}

/// Runs zsnap-ingest beside the saboteur. With `above` he owns the incoming directory as well, as NNCP's user does.
fn sabotage(above: bool) {
    needs_root();
    let scene = Scene::new();
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o711)).unwrap();
    scene.edit(
        "ingest.toml",
        "[[command]]\nmatch = \"laptop/tar\"",
        &format!(
            "[[command]]\nmatch = \"other/etc\"\nrun = [\"/bin/sh\", \"-c\", \"cat >> {0}/target/other; echo >> {0}/target/other\"]\n\
             target = \"{0}/tar\"\n[[command]]\nmatch = \"laptop/tar\"",
            scene.path("").display().to_string().trim_end_matches('/')
        ),
    );
    let canaries = Canaries::new(&scene);
    let shows = reading_shows(&scene);
    let incoming = scene.path("spool");
    for host in ["laptop", "other"] {
        fs::create_dir(incoming.join(host)).unwrap();
    }
    chown(incoming.join("laptop"), Some(NOBODY), Some(NOBODY)).unwrap();
    if above {
        chown(&incoming, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut files: Vec<Vec<u8>> = (0..6)
        .map(|n| scene.seal(&manifest("laptop/etc", SEQ + n), Some("laptop"), format!("laptop {n}\n").as_bytes()))
        .collect();
    files.push(b"rubbish".to_vec());
    files.push(scene.seal(&manifest("laptop/etc", SEQ), Some("other"), b"forged\n"));
    let big = zsnap_tests::random::noise(1, 3 << 20);
    files.push(scene.seal(&manifest("laptop/etc", SEQ + 3), Some("laptop"), &big)[..2 << 20].to_vec());

    let (over, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut runs, mut good) = (0, 0_u64);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut saboteur = Saboteur {
                incoming: incoming.clone(),
                canaries: &canaries.dir,
                random: Random::new(),
                files,
                open: Vec::new(),
            };
            Saboteur::become_nobody();
            while !over.load(Ordering::Relaxed) {
                saboteur.change();
                if above {
                    saboteur.change_above();
                }
                changes.fetch_add(1, Ordering::Relaxed);
            }
        });
        // The saboteur's thread must end even if an assertion below fails.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let end = End(&over);
        let until = Instant::now() + LENGTH;
        while Instant::now() < until || runs <= 3 || changes.load(Ordering::Relaxed) <= 100 {
            // Each round has a file for the other host, which nothing may delay.
            let sealed = scene.seal(&manifest("other/etc", SEQ + good), Some("other"), good.to_string().as_bytes());
            let ran = if above {
                // The other host's directory is not safe from him, but exec does not need it.
                guarded(scene.ingest_command(["exec", "--host", "other", "--", "other/etc"]), &sealed).expect(0)
            } else {
                scene.deliver("other", &name("other/etc", SEQ + good), &sealed);
                guarded(scene.ingest_command(["run"]), b"")
            };
            good += 1;
            check(&ran);
            for args in [&["run"][..], &["retry", "--all"], &["status"], &["plan"]] {
                if above || runs % 5 == 0 {
                    check(&guarded(scene.ingest_command(args), b""));
                }
            }
            let applied = fs::read_to_string(scene.path("target/other")).unwrap_or_default();
            let expected: String = (0..good).map(|n| format!("{n}\n")).collect();
            assert_eq!(applied, expected, "{}", ran.err);
            check_canaries(&canaries, shows);
            runs += 1;
        }
        drop(end);
        eprintln!("{runs} rounds, {} changes", changes.load(Ordering::Relaxed));
    });
    check_canaries(&canaries, shows);
    // Only complete good files of his own host were applied, and the secret appears nowhere else.
    let applied = String::from_utf8_lossy(&scene.applied()).into_owned();
    assert!(applied.lines().all(|line| line.starts_with("laptop ") && line.len() == 8), "{applied:.200}");
    let _ = fs::remove_dir_all(incoming.join("laptop"));
    let found = run(
        Command::new("grep").args(["-rlF", "--devices=skip", SECRET]).arg(scene.path("")).arg("--exclude-dir=canaries"),
        b"",
    );
    assert!(found.out.is_empty(), "{}", String::from_utf8_lossy(&found.out));
}

/// Checks the canaries, without the access times if reads do not change them.
fn check_canaries(canaries: &Canaries, shows: bool) {
    if shows {
        canaries.check();
    } else {
        let without =
            |lines: &[String]| lines.iter().map(|l| l.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
        assert_eq!(without(&canaries.state()), without(&canaries.before));
    }
}

/// Asserts that zsnap-ingest ended with a documented status and printed printable lines.
fn check(ran: &Ran) {
    assert!([0, 1, 65, 69, 73, 74].contains(&ran.status), "status {}: {}", ran.status, ran.err);
    assert!(ran.err.lines().all(|line| line.bytes().all(|b| (32..127).contains(&b))), "{}", ran.err);
    assert!(!ran.err.contains(SECRET) && !ran.err.contains("panicked"), "{}", ran.err);
}

#[test]
fn the_owner_of_a_hosts_directory_harms_no_other_host_as_root() {
    sabotage(false);
}

#[test]
fn the_owner_of_the_incoming_directory_cannot_misdirect_root_as_root() {
    sabotage(true);
}
