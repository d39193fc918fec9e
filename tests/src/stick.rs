//! Sticks: file systems of removable media in images, on loop devices, mounted as a desktop mounts them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{have, needs_root, run};

/// A stick with exFAT, mounted by FUSE: the driver has neither links nor RENAME_NOREPLACE nor modes, and ignores case.
/// It is unmounted on drop.
pub struct Stick {
    device: String,
    at: PathBuf,
}

impl Stick {
    /// Makes a stick of so many MiB and mounts it at `at`, which exists. All its files belong to the user 1000. `None`:
    /// the programs for it are not installed, which is printed.
    pub fn exfat(image: &Path, size: u64, at: &Path) -> Option<Stick> {
        needs_root();
        if !["mkfs.exfat", "mount.exfat-fuse", "losetup"].into_iter().all(have) {
            return None;
        }
        File::create(image).unwrap().set_len(size << 20).unwrap();
        run(Command::new("mkfs.exfat").arg(image), b"").expect(0);
        let loops = run(Command::new("losetup").args(["--find", "--show"]).arg(image), b"").expect(0);
        let device = String::from_utf8(loops.out).unwrap().trim_end().to_owned();
        let stick = Stick { device, at: at.to_owned() };
        stick.plug();
        Some(stick)
    }

    /// Mounts it.
    pub fn plug(&self) {
        let mut mount = Command::new("mount.exfat-fuse");
        mount.arg(&self.device).arg(&self.at).args(["-o", "uid=1000,gid=1000"]);
        // Its daemon keeps the pipes of `run` open.
        let status = mount.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap();
        assert!(status.success(), "mount.exfat-fuse {}: {status}", self.device);
    }

    /// Unmounts it.
    pub fn unplug(&self) {
        run(Command::new("umount").arg(&self.at), b"").expect(0);
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.at).output());
        drop(Command::new("losetup").arg("-d").arg(&self.device).output());
    }
}
