//! A stick with a file system of Windows, in an image, mounted as a desktop does it: everything on it belongs to one
//! user, and nobody can change that or the mode of a file. The drivers are those for FUSE.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::scene::{have, needs_root, run};

/// A file system, and the programs for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// exFAT: no links, no rename that does not replace a file, times of two seconds.
    ExFat,
    /// NTFS.
    Ntfs,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 2] = [Format::ExFat, Format::Ntfs];

    fn programs(self) -> [&'static str; 2] {
        match self {
            Format::ExFat => ["mkfs.exfat", "mount.exfat-fuse"],
            Format::Ntfs => ["mkntfs", "mount.ntfs-3g"],
        }
    }
}

/// The options with which a desktop mounts a stick: everything on it belongs to the user 1000.
pub const DESKTOP: &str = "uid=1000,gid=1000";

/// A stick, which is unmounted when this is dropped.
#[derive(Debug)]
pub struct Removable {
    format: Format,
    image: PathBuf,
    at: PathBuf,
}

impl Removable {
    /// Formats a stick, and mounts it at `at`, which exists, for the user 1000. A drive's mark in `at` is then on the
    /// stick. `None`: the programs are not installed, or this machine has no FUSE or no loop devices.
    #[track_caller]
    pub fn new(format: Format, at: &Path) -> Option<Removable> {
        Removable::sized(format, at, 64 << 20)
    }

    /// Does what [`Removable::new`] does, with a stick of `bytes`. Its image is sparse.
    #[track_caller]
    pub fn sized(format: Format, at: &Path, bytes: u64) -> Option<Removable> {
        needs_root();
        if !format.programs().into_iter().all(have) {
            return None;
        }
        if let Some(device) = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|device| !Path::new(device).exists())
        {
            eprintln!("NOT TESTED: {format:?}: this machine has no {device}, so no stick can be mounted");
            return None;
        }
        let stick = Removable { format, image: at.with_extension("img"), at: at.to_owned() };
        fs::File::create(&stick.image).unwrap().set_len(bytes).unwrap();
        let [make, _] = format.programs();
        let mut make = Command::new(make);
        make.args(if format == Format::Ntfs { &["-F", "-Q"][..] } else { &[] });
        run(make.arg(&stick.image), b"").expect(0);
        let mark = at.join(".zsnap-drive");
        let marked = fs::read(&mark).ok();
        if marked.is_some() {
            fs::remove_file(&mark).unwrap();
        }
        stick.mount(DESKTOP);
        marked.into_iter().for_each(|text| fs::write(&mark, text).unwrap());
        Some(stick)
    }

    /// Mounts the stick with these options.
    #[track_caller]
    pub fn mount(&self, options: &str) {
        let kind = self.format.programs()[1].trim_start_matches("mount.");
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", &format!("loop,{options}")]).arg(&self.image).arg(&self.at);
        run(&mut mount, b"").expect(0);
    }

    /// Unmounts the stick.
    #[track_caller]
    pub fn unmount(&self) {
        // Somebody may look at a new drive for a moment.
        for _ in 0..50 {
            if run(Command::new("umount").arg(&self.at), b"").status == 0 {
                return;
            }
            sleep(Duration::from_millis(100));
        }
        panic!("{} cannot be unmounted", self.at.display());
    }

    /// Pulls the stick out: its driver is gone in the middle of whatever it does, so that all calls fail for processes
    /// that have files of the stick open, and its path is an empty directory for all others.
    #[track_caller]
    pub fn pull(&self) {
        let driver = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).find(|process| {
            let words = fs::read(process.join("cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(self.format.programs()[1].as_bytes()))
                && words.any(|word| word == self.at.as_os_str().as_encoded_bytes())
        });
        let driver = driver.unwrap();
        run(Command::new("kill").arg("-KILL").arg(driver.file_name().unwrap()), b"").expect(0);
        run(Command::new("umount").arg("-l").arg(&self.at), b"").expect(0);
    }

    /// Unmounts the stick and mounts it again with these options.
    #[track_caller]
    pub fn again(&self, options: &str) {
        self.unmount();
        self.mount(options);
    }
}

impl Drop for Removable {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.at), b"");
    }
}
