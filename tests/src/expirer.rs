//! Datasets with snapshots on the fake pools, and runs of zsnap-expire.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::SystemTime;

use crate::scene::{Ran, Scene, program, run, tool};

/// 15 June 2025, 12:00 UTC, a Sunday: the newest snapshot of [`Expirer::daily`].
pub const NOON: u64 = 1_749_988_800;
/// The seconds of a day.
pub const DAY: u64 = 86_400;

/// The pools `tank` and `backup`, with the dataset `tank/a`.
pub struct Expirer {
    /// The scene that contains the pools and the configuration.
    pub scene: Scene,
}

impl Default for Expirer {
    fn default() -> Expirer {
        Expirer::new()
    }
}

impl Expirer {
    /// Makes the pools. `tank/a` has no snapshots yet, and the configuration is empty.
    pub fn new() -> Expirer {
        let scene = Scene::with_pool();
        run(Command::new(scene.path("bin/zpool")).args(["create", "tank"]), b"").expect(0);
        scene.zfs(&["create", "tank/a"]).expect(0);
        scene.write("expire.toml", "");
        Expirer { scene }
    }

    /// Builds the command of zsnap-expire, with `expire.toml` unless the arguments name a configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match args.contains(&"-c") {
            true => Command::new(program("zsnap-expire")),
            false => tool("zsnap-expire", &self.scene.path("expire.toml")),
        };
        command.current_dir(self.scene.path("")).env("TZ", "UTC");
        for (option, path) in [("--zfs", "bin/zfs"), ("--zpool", "bin/zpool"), ("--state", "expire-state")] {
            if !args.contains(&option) {
                command.arg(option).arg(self.scene.path(path));
            }
        }
        command.args(args);
        command
    }

    /// Runs zsnap-expire.
    pub fn expire(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args), b"")
    }

    /// Runs zsnap-expire, which must not print anything, because cron would mail it.
    #[track_caller]
    pub fn silent(&self, args: &[&str]) {
        let ran = self.expire(args).expect(0);
        assert_eq!((ran.err.as_str(), ran.out.as_slice()), ("", &b""[..]));
    }

    /// Runs zsnap-expire, which must exit with this status, and returns its standard output.
    #[track_caller]
    pub fn prints(&self, status: i32, args: &[&str]) -> String {
        String::from_utf8(self.expire(args).expect(status).out).unwrap()
    }

    /// Makes a dataset below an existing one.
    pub fn create(&self, dataset: &str) {
        self.scene.zfs(&["create", dataset]).expect(0);
    }

    /// Makes snapshots with these times, in this order.
    pub fn take<'a>(&self, dataset: &str, snapshots: impl IntoIterator<Item = (&'a str, u64)>) {
        let pairs = snapshots.into_iter().flat_map(|(snap, at)| [format!("{dataset}@{snap}"), at.to_string()]);
        let pairs: Vec<String> = pairs.collect();
        let args: Vec<&str> = std::iter::once("snapshot-at").chain(pairs.iter().map(String::as_str)).collect();
        self.scene.zfs(&args).expect(0);
    }

    /// Makes `count` snapshots, one a day. The newest is `d0`, at [`NOON`].
    pub fn daily(&self, dataset: &str, count: u64) {
        self.daily_until(dataset, count, NOON);
    }

    /// Makes `count` snapshots, one a day. The newest is `d0`, at the time `newest`.
    pub fn daily_until(&self, dataset: &str, count: u64, newest: u64) {
        let names: Vec<String> = (0..count).map(|n| format!("d{n}")).collect();
        let all = names.iter().enumerate().map(|(n, name)| (name.as_str(), newest - n as u64 * DAY));
        self.take(dataset, all.rev());
    }

    /// Returns the remaining snapshots of a dataset: the names after the `@`, oldest first, separated by spaces.
    pub fn left(&self, dataset: &str) -> String {
        let ran = self.scene.zfs(&["list", "-Hp", "-d", "1", "-t", "snapshot", "-o", "name", dataset]).expect(0);
        let names = String::from_utf8(ran.out).unwrap();
        names.lines().map(|name| name.split_once('@').unwrap().1).collect::<Vec<_>>().join(" ")
    }

    /// Writes a program that replaces `zfs`, and returns its path. The script sees the arguments, `$real` is the fake
    /// `zfs`, and `once` succeeds the first time only.
    pub fn wrapper(&self, script: &str) -> String {
        let path = self.scene.path("wrapper");
        let real = self.scene.path("bin/zfs").display().to_string();
        self.scene.write(
            "wrapper",
            &format!(
                "#!/bin/sh\nreal={real}\nonce() {{ [ ! -e $0.once ] && : >$0.once; }}\n{script}\nexec $real \"$@\"\n"
            ),
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// Returns the number of snapshots in each call of `zfs destroy` since the last time.
    pub fn destroys(&self) -> Vec<usize> {
        let calls = self.scene.zfs_calls();
        let destroys = calls.iter().filter(|call| call[1] == "destroy" && call.len() == 3);
        destroys.map(|call| call[2].split(',').count()).collect()
    }
}

/// Returns the current time in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
