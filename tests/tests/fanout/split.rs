//! Files of the spool that cannot be linked into the outboxes: one, or all.

use std::fs;
use std::os::unix::fs::MetadataExt;

use zsnap_tests::scene::run;
use zsnap_tests::spooler::{Spooler, tree};
use zsnap_tests::strace::can_trace;

/// Otherwise each file would be reported and moved back separately.
#[test]
fn a_spool_without_room_for_links_is_reported_once_and_split_later() {
    if !can_trace() {
        return;
    }
    for error in ["ENOSPC", "EDQUOT", "EROFS"] {
        let spooler = Spooler::with(&["disk1", "disk2"]);
        let files = [1, 2, 3].map(|n| format!("laptop/{}", spooler.put("laptop/a", n, n.to_string())));
        // The first linkat is that of the lock file.
        let inject = format!("inject=linkat:error={error}:when=2+");
        let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let ran = run(&mut spooler.under(&before, &[]), b"").expect(1);
        let split = spooler.path("spool/.zsnap-fanout/split");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        ran.says("zsnap-fanout: laptop: ").says("the next run tries again");
        assert_eq!((spooler.left().len(), tree(&split)), (0, files.to_vec()), "{error}");
        spooler.silent_run();
        assert_eq!((spooler.on("disk1"), spooler.on("disk2"), tree(&split).len()), (files.to_vec(), files.to_vec(), 0));
    }
}

/// An outbox may have a hundred thousand files.
#[test]
fn moving_one_file_back_examines_no_others_in_the_outbox() {
    if !can_trace() {
        return;
    }
    let spooler = Spooler::with(&["here", "away"]);
    fs::rename(spooler.path("away"), spooler.path("shelf")).unwrap();
    let begin = "bakfsfmt2-1700000000.000001000.1_laptop@tank@";
    let long = format!("{begin}{}", "q".repeat(254 - begin.len()));
    spooler.put_as("laptop", &long, "first");
    let other = spooler.put("laptop/a", 1, "1");
    spooler.silent_run();
    spooler.put_as("laptop", &long, "second");
    let trace = spooler.path("trace");
    let before = ["strace", "-f", "-qq", "-y", "-s", "300", "-e", "trace=statx,newfstatat", "-o"];
    let before = [&before[..], &[trace.to_str().unwrap()]].concat();
    run(&mut spooler.under(&before, &[]), b"").expect(1).says("another file has this name");
    let trace = fs::read_to_string(&trace).unwrap();
    let examined = |name: &str| trace.lines().any(|call| call.contains("out/away/laptop") && call.contains(name));
    assert_eq!((examined(&long), examined(&other)), (true, false), "{trace}");
}

/// Otherwise the drive would get it in each run until the other one can, and a file with two names is not accepted.
#[test]
fn a_file_that_returns_to_the_spool_has_no_link_in_any_outbox() {
    // Links are made in the order of the names.
    let spooler = Spooler::with(&["1-here", "2-away"]);
    fs::rename(spooler.path("2-away"), spooler.path("shelf")).unwrap();
    let begin = "bakfsfmt2-1700000000.000001000.1_laptop@tank@";
    let long = format!("{begin}{}", "q".repeat(254 - begin.len()));
    spooler.put_as("laptop", &long, "first");
    spooler.silent_run();
    // zsnap-ingest removes the file.
    fs::remove_file(spooler.path("1-here/laptop").join(&long)).unwrap();
    spooler.put_as("laptop", &long, "second");
    spooler.fanout(&[]).expect(1).says("another file has this name").says("it stays in the spool");
    assert_eq!((spooler.on("1-here").len(), spooler.waiting("1-here").len()), (0, 0));
    assert_eq!(spooler.left(), [format!("laptop/{long}")]);
    assert_eq!(fs::metadata(spooler.path("spool/laptop").join(&long)).unwrap().nlink(), 1);
    assert_eq!(fs::read(spooler.outbox("2-away").join("laptop").join(&long)).unwrap(), b"first");
}
