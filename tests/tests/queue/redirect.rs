//! Files that wait for a destination that is not configured any more.

use std::fs;

use zsnap_tests::scene::{Scene, run};

use super::{DATA, real};

/// A scene in which a file waits for a misspelt destination, and another destination is configured now.
fn misspelt() -> Scene {
    let h = Scene::new();
    run(h.sealing().args(["--to=cmd:exit 3", DATA]), &real("full")).expect(0).says("not delivered to cmd:exit 3");
    let config = format!(
        "encrypt-to = [{:?}]\nsigning-key = {:?}\nto = [\"dir:{}\"]\n",
        h.path("backup.cert"),
        h.path("laptop.key"),
        h.path("spool").display()
    );
    h.write("bare.toml", &config);
    h
}

#[test]
fn what_waits_for_a_misspelt_destination_is_reported_and_redirected() {
    let h = misspelt();
    let remedy = format!("zsnap-queue redirect 'cmd:exit 3' dir:{}", h.path("spool").display());
    let says = format!(
        "1 file waits for cmd:exit 3, which is not in the configuration: if it was misspelt or replaced, {remedy}; if"
    );
    run(h.bare().arg("check"), b"").expect(1).prints(&format!("warn  cmd:exit 3: {says}"));
    run(h.bare().arg("status"), b"").expect(0).prints(&says);
    // The run and flush report it once, and then daily.
    run(h.bare().arg(DATA), &real("incr-i-s1-s2")).expect(0).says(&says);
    run(h.bare().arg("flush"), b"").expect(0).says(&says);
    for _ in 0..2 {
        run(h.bare().arg("flush"), b"").silent();
    }
    assert_eq!((h.outbox().len(), h.spooled("laptop").len()), (1, 1));
    // A destination in use is not touched, and the new one must be configured.
    let to = format!("dir:{}", h.path("spool").display());
    run(h.bare().args(["redirect", &to, "cmd:true"]), b"")
        .expect(78)
        .says("is in the configuration: remove it there first");
    run(h.bare().args(["redirect", "cmd:exit 3", "cmd:true"]), b"").expect(78).says("name one of the key \"to\"");
    run(h.bare().args(["redirect", "cmd:exit 4", &to]), b"").expect(2).says("nothing waits for cmd:exit 4");
    run(h.bare().args(["redirect", "cmd:exit 3", &to]), b"").silent();
    run(h.bare().arg("flush"), b"").silent();
    // The chain begins at the new destination.
    let spooled = h.spooled("laptop");
    assert!(h.open(&spooled[0]).bytes == real("full") && spooled.len() == 2 && h.outbox().is_empty());
    run(h.bare().arg("check"), b"").expect(0);
    run(h.bare().args(["redirect", "cmd:exit 3", &to]), b"").expect(2);
}

#[test]
fn what_waits_for_a_removed_destination_can_be_dropped() {
    let h = misspelt();
    run(h.bare().args(["drop", "cmd:exit 3"]), b"").silent();
    assert!(h.outbox().is_empty() && h.spooled("laptop").is_empty());
    run(h.bare().args(["drop", "cmd:exit 3"]), b"").expect(2);
    let to = format!("dir:{}", h.path("spool").display());
    run(h.bare().args(["drop", &to]), b"").expect(2);
}

/// A crash left both links.
#[test]
fn a_redirection_can_be_repeated() {
    let h = misspelt();
    let to = format!("dir:{}", h.path("spool").display());
    let old = h.outbox().remove(0);
    let id = to.parse::<zsnap_common::durable::dest::Dest>().unwrap().id();
    let new = h.path("queue-state/outbox/to").join(id).join("laptop");
    fs::create_dir_all(&new).unwrap();
    fs::hard_link(&old, new.join(old.file_name().unwrap())).unwrap();
    run(h.bare().args(["redirect", "cmd:exit 3", &to]), b"").silent();
    run(h.bare().arg("flush"), b"").silent();
    assert_eq!((h.spooled("laptop").len(), h.outbox().len()), (1, 0));
}
