//! What lies in the spool cannot be linked into the outboxes: one file, or all of them.

use std::fs;

use zsnap_tests::scene::run;
use zsnap_tests::spooler::{Spooler, tree};
use zsnap_tests::strace::can_trace;

/// Each of them would be told, and moved back by itself.
#[test]
fn a_spool_without_room_for_links_is_told_once_and_goes_on_where_it_was() {
    if !can_trace() {
        return;
    }
    for error in ["ENOSPC", "EDQUOT", "EROFS"] {
        let spooler = Spooler::with(&["disk1", "disk2"]);
        let files = [1, 2, 3].map(|n| format!("laptop/{}", spooler.put("laptop/a", n, n.to_string())));
        // The first one is of the lock file.
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

/// There may be a hundred thousand of them.
#[test]
fn to_take_back_one_file_the_others_in_the_outbox_are_not_looked_at() {
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
    let looked = |name: &str| trace.lines().any(|call| call.contains("out/away/laptop") && call.contains(name));
    assert_eq!((looked(&long), looked(&other)), (true, false), "{trace}");
}
