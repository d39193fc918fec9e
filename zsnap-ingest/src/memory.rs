//! Decides how much memory the verification of files may take, and checks whether this machine has it. With less,
//! anything may fail, and a library that cannot allocate memory often reports no cause. Then the file must not be
//! blamed.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// The memory for one file besides its zstd window and what is kept of it: AEAD chunks of up to 4 MiB, pipes, stacks.
const EACH: u64 = 40 << 20;
/// The smallest and largest default of `--verify-buffer`, in bytes.
const BUFFER: (u64, u64) = (64 << 20, 1 << 30);

/// Returns the default of `--verify-buffer`: an eighth of the memory that this process may use, within [`BUFFER`]. The rest
/// belongs to the receivers: `zfs` and its cache.
pub fn default_buffer() -> u64 {
    buffer_for(usable())
}

fn buffer_for(usable: u64) -> u64 {
    (usable / 8).clamp(BUFFER.0, BUFFER.1)
}

/// Returns the bytes of memory that this process may use: those of the machine, or a limit (`MemoryMax=` of a systemd
/// unit, `ulimit -v`) that is lower.
fn usable() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").ok();
    let group = groups.and_then(|text| limit_of_groups(&text, Path::new("/sys/fs/cgroup")));
    let limits = [machine, group, getrlimit(Resource::As).current];
    limits.into_iter().flatten().min().unwrap_or(0)
}

/// Returns the memory of the machine in bytes, from /proc/meminfo (proc(5)).
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the lowest limit of a control group (cgroups(7), version 2) and of those that contain it, in bytes.
/// `groups` is the text of /proc/self/cgroup, `root` where the groups are mounted.
fn limit_of_groups(groups: &str, root: &Path) -> Option<u64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| fs::read_to_string(root.join(group).join("memory.max")).ok()?.trim().parse().ok();
    Path::new(path).ancestors().filter_map(limit).min()
}

/// Returns the most bytes that are in use while `jobs` files are verified, with zstd windows of up to 2^`window_log`
/// bytes. Of all files together, `buffer` bytes of uncompressed streams are kept.
pub fn most(jobs: usize, window_log: u32, buffer: u64) -> u64 {
    work(jobs, window_log).saturating_add(buffer)
}

/// Returns the bytes that the verification of `jobs` files needs, without what is kept of them.
fn work(jobs: usize, window_log: u32) -> u64 {
    let window = 1_u64.checked_shl(window_log).unwrap_or(u64::MAX);
    window.saturating_add(EACH).saturating_mul(jobs as u64)
}

/// Whether there is so much memory that each of `jobs` may verify a file while it applies another one. The verification
/// must not take the memory that applying needs: then a good file would fail only because of another one. With a limit
/// of the address space (`ulimit -v`) nobody knows how much that is, because each thread reserves some.
pub fn is_plenty(jobs: usize, window_log: u32) -> bool {
    getrlimit(Resource::As).current.is_none() && is_plenty_in(usable(), jobs, window_log)
}

fn is_plenty_in(usable: u64, jobs: usize, window_log: u32) -> bool {
    work(jobs, window_log) <= usable / 8
}

/// Whether the system can allocate so many bytes now. They are neither touched nor kept.
pub fn is_enough(bytes: u64) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let given = usize::try_from(bytes).is_ok_and(|bytes| probe.try_reserve_exact(bytes).is_ok());
    // Without this, the compiler may remove an allocation that is not used.
    black_box(&probe);
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_for_what_all_files_take_together() {
        assert_eq!(most(1, 27, 64 << 20), (128 + 40 + 64) << 20);
        assert_eq!(most(2, 27, 64 << 20), (2 * (128 + 40) + 64) << 20);
        assert_eq!(most(usize::MAX, 64, u64::MAX), u64::MAX);
        assert!(is_enough(1 << 20));
        assert!(!is_enough(1 << 62) && !is_enough(u64::MAX));
    }

    #[test]
    fn memory_is_plenty_if_verification_takes_an_eighth_of_it() {
        let eight = 8 * ((128 + 40) << 20);
        assert!(is_plenty_in(eight, 1, 27) && !is_plenty_in(eight - 8, 1, 27) && !is_plenty_in(eight, 2, 27));
        assert!(!is_plenty_in(u64::MAX, usize::MAX, 64));
    }

    #[test]
    fn the_default_buffer_is_an_eighth_of_the_memory_within_bounds() {
        assert_eq!(
            [0, 512 << 20, 1 << 30, 8 << 30, 1 << 40].map(buffer_for),
            [64, 64, 128, 1024, 1024].map(|n| n << 20)
        );
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(usable() > 64 << 20);
    }

    #[test]
    fn the_lowest_limit_of_the_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("system.slice/zsnap.service");
        fs::create_dir_all(&unit).unwrap();
        let limit = || limit_of_groups("1:name=systemd:/other\n0::/system.slice/zsnap.service\n", root.path());
        assert_eq!(limit(), None);
        fs::write(unit.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(), None);
        fs::write(root.path().join("system.slice/memory.max"), "3000\n").unwrap();
        assert_eq!(limit(), Some(3000));
        fs::write(unit.join("memory.max"), "2000\n").unwrap();
        assert_eq!(limit(), Some(2000));
        assert_eq!(limit_of_groups("", root.path()), None);
    }
}
