//! A disk becomes full at each page, or at each new name, of a run.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use zsnap_tests::scene::{needs_root, run};
use zsnap_tests::torture::{Play, Source, status, walk};

/// A small tmpfs, which is unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, options: &str) -> Disk {
        needs_root();
        fs::create_dir_all(&path).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path), b"").expect(0);
        Disk(path)
    }

    fn grow(&self) {
        let grown =
            Command::new("mount").args(["-o", "remount,mode=700,size=64m,nr_inodes=10000"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The names of the queue files below a directory.
fn names(play: &Play, dir: &str) -> BTreeSet<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    walk(play.scene.path(dir)).into_iter().map(name).filter(|name| name.starts_with("bakfsfmt2-")).collect()
}

/// Runs zsnap-queue with a disk at `dir` of each of these sizes. Returns for each whether the stream was queued, and
/// whether it was delivered at once.
fn each_size(dir: &str, sizes: impl Iterator<Item = String>, rejections: &[i32], more: &[&str]) -> Vec<(bool, bool)> {
    let mut play = Play::new(Source::Zfs);
    play.bytes = 100 << 10;
    more.iter().for_each(|dest| play.also_to(dest));
    let mut results = Vec::new();
    for size in sizes {
        let disk = Disk::mount(play.scene.path(dir), &format!("mode=700,{size}"));
        match dir {
            "queue-state" => play.begin_anew(),
            _ => play.scene.mark(dir),
        }
        let before = names(&play, "spool");
        let (id, mut child) = play.start();
        let status = status(child.wait().unwrap());
        play.ended(id, status, rejections, &[]);
        let (all, waiting, said) = (names(&play, ""), names(&play, "queue-state"), play.said());
        let (queued, delivered) = (status == 0, status == 0 && waiting.is_empty());
        assert_eq!(said.is_empty(), delivered, "{size}: status {status}: {said}");
        assert_eq!(all.len() - before.len(), usize::from(queued), "{size}: status {status}, but {all:?}; {said}");
        play.finals_are_whole(1);
        disk.grow();
        // Now there is room for the queued stream and for more.
        play.flush();
        let spooled = names(&play, "spool");
        assert_eq!(spooled.len() - before.len(), usize::from(queued), "{size}: {spooled:?}");
        play.queue();
        play.tidy(true);
        play.finals_are_whole(1);
        assert_eq!(names(&play, "spool").len(), spooled.len() + 1);
        results.push((queued, delivered));
    }
    results
}

fn pages(n: std::ops::RangeInclusive<u32>) -> impl Iterator<Item = String> {
    n.map(|n| format!("size={}k", 4 * n))
}

fn inodes(n: std::ops::RangeInclusive<u32>) -> impl Iterator<Item = String> {
    n.map(|n| format!("size=64m,nr_inodes={n}"))
}

/// Asserts that the smallest size is too small and the largest one is not.
fn assert_both_outcomes(results: &[(bool, bool)], which: impl Fn(&(bool, bool)) -> bool) {
    if let [first, .., last] = results {
        assert!(!which(first) && which(last), "{results:?}");
        eprintln!("{} of {} sizes were enough", results.iter().filter(|r| which(r)).count(), results.len());
    }
}

// 74: an error of the disk; 73: a file or directory could not be created; 75: no space.

#[test]
fn a_state_on_a_full_disk_rejects_the_stream_or_queues_it_as_root() {
    assert_both_outcomes(&each_size("queue-state", pages(1..=64), &[73, 74, 75], &[]), |(queued, _)| *queued);
}

#[test]
fn a_state_without_inodes_rejects_the_stream_or_queues_it_as_root() {
    // The links for so many destinations need more names than the commit.
    let more = ["cmd:cat >/dev/null", "cmd:cat > /dev/null", "cmd:cat  > /dev/null"];
    let results = each_size("queue-state", inodes(2..=40), &[73, 74, 75], &more);
    assert_both_outcomes(&results, |(queued, _)| *queued);
    // After the commit a full disk only delays the delivery.
    assert!(results.contains(&(true, false)), "{results:?}");
}

#[test]
fn a_full_destination_only_delays_the_delivery_as_root() {
    for sizes in [pages(1..=64).collect::<Vec<_>>(), inodes(2..=8).collect()] {
        let results = each_size("spool", sizes.into_iter(), &[], &[]);
        assert!(results.iter().all(|(queued, _)| *queued));
        assert_both_outcomes(&results, |(_, delivered)| *delivered);
    }
}
