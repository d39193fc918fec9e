//! Tests of [`super`].

use super::entry::{files, original};
use super::*;
use crate::cli::exit::Exit;
use crate::durable::dest::{Delivered, Item};
use std::fs;
use std::os::unix::fs::MetadataExt;

struct Fixture {
    dir: tempfile::TempDir,
    boxes: Outboxes,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let boxes = Outboxes::new(dir.path().join("split"), dir.path().join("to"));
    publish::make_dirs(&boxes.split_dir(&host())).unwrap();
    Fixture { dir, boxes }
}

fn host() -> Host {
    "h".parse().unwrap()
}

fn name(seq: u32, dataset: &str) -> String {
    format!("bakfsfmt2-1700000000.{seq:09}.1_h@{dataset}")
}

impl Fixture {
    fn publish(&self, file: &str) {
        fs::write(self.boxes.split_dir(&host()).join(file), file).unwrap();
    }
    fn queue(&self, file: &str, to: &[&str]) {
        self.publish(file);
        let to: Vec<String> = to.iter().map(|t| (*t).to_owned()).collect();
        assert!(self.boxes.split(&host(), &[file], &to).unwrap().is_empty());
    }
    fn drain(
        &self,
        to: &str,
        keep: Option<&Path>,
        deliver: &mut dyn FnMut(&Item) -> anyhow::Result<Delivered>,
    ) -> Drained {
        let at = || keep.map(Path::to_owned).unwrap_or_default();
        let pace = DrainOptions { at_once: 1, keep: keep.map(|_| &at as &dyn Fn() -> PathBuf), last: Vec::new() };
        let done = self.boxes.drain(to, None, pace, &mut |items| Ok(items.iter().map(&mut *deliver).collect()));
        assert!(done.broken.is_none(), "{done:?}");
        done
    }
    fn waiting(&self, to: &str) -> Vec<String> {
        self.boxes.waiting(to).unwrap().into_iter().map(|q| q.name).collect()
    }
}

#[test]
fn each_outbox_gets_a_link_that_its_delivery_removes() {
    let f = fixture();
    let file = name(1, "a");
    f.queue(&file, &["x", "y"]);
    assert!(!f.boxes.split_dir(&host()).join(&file).exists());
    assert_eq!(fs::metadata(f.boxes.dir("x").join("h").join(&file)).unwrap().nlink(), 2);
    let mut seen = Vec::new();
    let done = f.drain("x", None, &mut |item| {
        let mut text = String::new();
        io::Read::read_to_string(&mut &item.file, &mut text)?;
        seen.push((item.name.to_owned(), text));
        Ok(Delivered::New)
    });
    assert_eq!(done.delivered, [file.as_str()]);
    assert_eq!(seen, [(file.clone(), file.clone())]);
    assert_eq!((f.waiting("x"), f.waiting("y")), (vec![], vec![file]));
}

#[test]
fn a_failed_delivery_stops_only_its_dataset() {
    let f = fixture();
    for file in [name(3, "a"), name(1, "a"), name(2, "b"), name(4, "b")] {
        f.queue(&file, &["x"]);
    }
    let mut tried = Vec::new();
    let done = f.drain("x", None, &mut |item| {
        tried.push(item.name.to_owned());
        if item.name == name(1, "a") { Err(Exit::Unavailable.error("no")) } else { Ok(Delivered::New) }
    });
    let done = done;
    assert_eq!(tried, [name(1, "a"), name(2, "b"), name(4, "b")]);
    assert_eq!((done.delivered.len(), done.failed.len()), (2, 1));
    assert_eq!(f.waiting("x"), [name(1, "a"), name(3, "a")]);
}

#[test]
fn a_destination_that_is_away_is_tried_once_and_loses_no_file() {
    let f = fixture();
    f.queue(&name(1, "a"), &["x"]);
    f.queue(&name(1, "b"), &["x"]);
    let mut tries = 0;
    let done = f.drain("x", None, &mut |_| {
        tries += 1;
        Ok(Delivered::Away("unplugged".into()))
    });
    assert_eq!((done.away, tries), (Some("unplugged".into()), 1));
    assert_eq!(f.waiting("x").len(), 2);
}

#[test]
fn a_partly_split_file_is_neither_delivered_nor_overtaken() {
    let f = fixture();
    f.queue(&name(1, "a"), &["x"]);
    f.queue(&name(2, "a"), &["x"]);
    f.queue(&name(3, "b"), &["x"]);
    // The state after a crash between the first and the second link.
    fs::hard_link(f.boxes.dir("x").join("h").join(name(1, "a")), f.boxes.split_dir(&host()).join(name(1, "a")))
        .unwrap();
    let done = f.drain("x", None, &mut |_| Ok(Delivered::New));
    assert_eq!(done.delivered, [name(3, "b")]);
    assert!(f.boxes.split(&host(), &[name(1, "a")], &["x".into(), "y".into()]).unwrap().is_empty());
    let done = f.drain("x", None, &mut |_| Ok(Delivered::New));
    assert_eq!(done.delivered, [name(1, "a"), name(2, "a")]);
    assert_eq!(f.waiting("y"), [name(1, "a")]);
}

#[test]
fn files_with_a_name_in_use_get_a_suffix_and_are_delivered() {
    let f = fixture();
    let file = name(1, "a");
    let keep = f.dir.path().join("kept");
    f.queue(&file, &["x"]);
    // The same file again, as after a crash before its entry in SPLIT was removed: nothing is added.
    f.queue(&file, &["x"]);
    assert_eq!(f.waiting("x"), [file.as_str()]);
    let arrive = |bytes: &str| {
        fs::write(f.boxes.split_dir(&host()).join(&file), bytes).unwrap();
        assert!(f.boxes.split(&host(), &[&file], &["x".into()]).unwrap().is_empty());
    };
    for bytes in ["other", "third", "other"] {
        arrive(bytes);
    }
    let all = [file.clone(), format!("{file}~1"), format!("{file}~2")];
    assert_eq!(f.waiting("x"), all);
    // One of them is not split yet, and later files wait; another file of that name does not count.
    let (outbox, split) = (f.boxes.dir("x").join("h"), f.boxes.split_dir(&host()));
    fs::hard_link(outbox.join(&file), split.join(&file)).unwrap();
    let none = f.drain("x", None, &mut |_| panic!("delivered before it was split"));
    assert!(none.delivered.is_empty());
    f.boxes.unsplit(&host(), &[&file]).unwrap();
    // They are delivered one after the other under the original name.
    let failed = f.drain("x", None, &mut |_| Err(Exit::Unavailable.error("no")));
    assert_eq!(failed.failed.len(), 1);
    let done = f.drain("x", Some(&keep), &mut |_| Ok(Delivered::New));
    assert_eq!(done.delivered, [file.as_str(); 3]);
    let kept = files(&keep.join("h")).unwrap();
    assert_eq!(kept.iter().map(|q| q.name.as_str()).collect::<Vec<_>>(), all);
    let kept = all.map(|name| fs::read_to_string(keep.join("h").join(name)).unwrap());
    assert_eq!(kept, [file.as_str(), "other", "third"]);
    // Files kept on one day, and one of the same name kept on another day: all can be sent again.
    assert_eq!(f.boxes.refill("x", &keep).unwrap().0, 3);
    assert_eq!(f.waiting("x").len(), 3);
}

#[test]
fn a_digest_in_a_name_is_not_the_number_of_a_copy() {
    let digest = name(1, &format!("~{:032}", 7));
    assert_eq!(original(&digest), (digest.as_str(), 0));
    assert_eq!(original(&format!("{digest}~12")), (digest.as_str(), 12));
    assert_eq!(original("a~"), ("a~", 0));
}

#[test]
fn links_that_are_made_during_a_drain_are_delivered() {
    let f = fixture();
    f.queue(&name(1, "a"), &["x"]);
    let mut more = vec![name(2, "a")];
    let done = f.drain("x", None, &mut |_| {
        if let Some(file) = more.pop() {
            // The writer finds the lock held and leaves the file to this drain.
            f.queue(&file, &["x"]);
            let other = f.drain("x", None, &mut |_| Ok(Delivered::New));
            assert!(other.busy && other.delivered.is_empty());
        }
        Ok(Delivered::New)
    });
    assert_eq!(done.delivered, [name(1, "a"), name(2, "a")]);
}

#[test]
fn delivered_files_are_kept_on_request() {
    let f = fixture();
    let file = name(1, "a");
    let keep = f.dir.path().join("kept/x/2026-11-22");
    for _ in 0..2 {
        f.queue(&file, &["x"]);
        let done = f.drain("x", Some(&keep), &mut |_| Ok(Delivered::New));
        assert_eq!(done.delivered, [file.as_str()]);
        assert_eq!(fs::read_to_string(keep.join("h").join(&file)).unwrap(), file);
        assert!(f.waiting("x").is_empty());
    }
}

#[test]
fn each_batch_is_kept_under_its_own_day() {
    let f = fixture();
    f.queue(&name(1, "a"), &["x"]);
    f.queue(&name(2, "a"), &["x"]);
    let day = std::cell::Cell::new(1);
    let at = || f.dir.path().join(format!("kept/{}", day.get()));
    let done = f.boxes.drain("x", None, DrainOptions { at_once: 1, keep: Some(&at), last: Vec::new() }, &mut |_| {
        day.set(2);
        Ok(vec![Ok(Delivered::New)])
    });
    assert_eq!(done.delivered.len(), 2, "{done:?}");
    for day in [1, 2] {
        assert!(f.dir.path().join(format!("kept/{day}/h")).join(name(day, "a")).exists());
    }
}

#[test]
fn foreign_files_in_an_outbox_are_ignored() {
    let f = fixture();
    f.queue(&name(1, "a"), &["x"]);
    let dir = f.boxes.dir("x").join("h");
    fs::write(dir.join(".zsnap-0"), "").unwrap();
    fs::write(dir.join("notes"), "").unwrap();
    fs::create_dir(dir.join(name(2, "a"))).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join(name(3, "a"))).unwrap();
    let done = f.drain("x", None, &mut |_| Ok(Delivered::New));
    assert_eq!(done.delivered, [name(1, "a")]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
}

/// Returns a name of 254 bytes, which is too long for a `~1`.
fn long() -> String {
    let begin = name(1, "");
    format!("{begin}{}", "d".repeat(254 - begin.len()))
}

#[test]
fn a_file_without_a_free_name_delays_no_other_file() {
    let f = fixture();
    let long = long();
    f.queue(&long, &["x"]);
    fs::write(f.boxes.split_dir(&host()).join(&long), "other").unwrap();
    let all = [long.clone(), name(2, "a")];
    f.publish(&all[1]);
    let to = ["y".to_owned(), "x".to_owned(), "z".to_owned()];
    let failed = f.boxes.split(&host(), &all, &to).unwrap();
    assert_eq!(failed.iter().map(|(name, _)| name).collect::<Vec<_>>(), [&long]);
    assert!(failed[0].1.to_string().contains("another file has this name"), "{failed:?}");
    assert_eq!(f.boxes.in_split(&host()).unwrap().len(), 1);
    // Where the file has a link, it waits for its other links; the first file of that name is delivered.
    assert_eq!((f.waiting("y"), f.waiting("z")), (all.to_vec(), all[1..].to_vec()));
    let done = f.drain("x", None, &mut |_| Ok(Delivered::New));
    assert_eq!((done.delivered, f.waiting("x").len()), (all.to_vec(), 0));
    assert_eq!(f.drain("y", None, &mut |_| Ok(Delivered::New)).delivered, all[1..]);
    assert!(f.boxes.split(&host(), &all[..1], &to).unwrap().is_empty());
    // The file is withdrawn from all outboxes.
    fs::hard_link(f.boxes.dir("y").join("h").join(&long), f.boxes.split_dir(&host()).join(&long)).unwrap();
    f.boxes.withdraw(&host(), &long, &to).unwrap();
    assert_eq!((f.waiting("x"), f.waiting("y"), f.waiting("z")), (vec![], vec![], all[1..].to_vec()));
    assert_eq!(f.boxes.in_split(&host()).unwrap().len(), 1);
}

#[test]
fn a_file_that_cannot_be_kept_for_lack_of_a_name_is_delivered_once() {
    let f = fixture();
    let (long, keep) = (long(), f.dir.path().join("kept"));
    f.queue(&long, &["x"]);
    publish::make_dirs(&keep.join("h")).unwrap();
    fs::write(keep.join("h").join(&long), "other").unwrap();
    f.queue(&name(2, "b"), &["x"]);
    let done = f.drain("x", Some(&keep), &mut |_| Ok(Delivered::New));
    assert_eq!((done.delivered.len(), done.failed.len(), f.waiting("x").len()), (2, 0, 0));
    assert_eq!(fs::read_dir(keep.join("h")).unwrap().count(), 2);
}

#[test]
fn an_unreadable_file_delays_only_its_dataset() {
    let f = fixture();
    for file in [name(1, "a"), name(2, "a"), name(3, "b")] {
        f.queue(&file, &["x"]);
    }
    // A symlink is not opened: it stands for a file on a failing disk.
    let path = f.boxes.dir("x").join("h").join(name(1, "a"));
    let queued = f.boxes.waiting("x").unwrap();
    assert_eq!(queued.len(), 3);
    let boxes = f.boxes.clone();
    let mut first = true;
    let done = f.boxes.drain(
        "x",
        None,
        DrainOptions { at_once: 1, keep: None, last: vec![(host(), queued[0].parsed.label.clone())] },
        &mut |items| {
            // `b` comes first, because the last delivery of `a` did not end.
            if std::mem::take(&mut first) {
                assert_eq!(items[0].name, name(3, "b"));
                fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink("nowhere", &path).unwrap();
            }
            Ok(items.iter().map(|_| Ok(Delivered::New)).collect())
        },
    );
    assert_eq!((done.delivered, done.failed.len(), done.broken.is_some()), (vec![name(3, "b")], 1, false));
    assert_eq!(done.failed[0].0, name(1, "a"));
    assert_eq!(boxes.waiting("x").unwrap().len(), 1);
}

#[test]
fn a_hanging_destination_is_tried_once_in_a_drain() {
    let f = fixture();
    f.queue(&name(1, "a"), &["x"]);
    f.queue(&name(2, "b"), &["x"]);
    let mut tries = 0;
    let done = f.drain("x", None, &mut |_| {
        tries += 1;
        Err(crate::process::hung::hung("no answer"))
    });
    assert_eq!((tries, done.failed.len(), f.waiting("x").len()), (1, 1, 2));
}
