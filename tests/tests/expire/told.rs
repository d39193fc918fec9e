//! Notices: zsnap-expire reports persistent conditions when they are new, when they change and once a day, because
//! cron mails what it prints.

use zsnap_tests::expirer::{DAY, Expirer, NOON};

const BRAKED: [&str; 3] = ["-k", "last=2", "tank/a"];

/// Changes the state as if all notices had been printed a day earlier.
fn a_day_passes(e: &Expirer) {
    let path = e.scene.path("expire-state/told.json");
    let mut notices: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (_, line) in notices.as_object_mut().unwrap() {
        line["at"] = (line["at"].as_u64().unwrap() - DAY).into();
    }
    std::fs::write(&path, notices.to_string()).unwrap();
}

#[test]
fn a_safety_limit_is_reported_once_a_day_and_in_every_dry_run() {
    let e = Expirer::new();
    e.daily("tank/a", 30);
    let says = "tank/a: nothing is destroyed: 28 of 30 would be destroyed, more than --max-destroy allows";
    e.expire(&BRAKED).expect(1).says(says);
    e.silent(&BRAKED);
    for _ in 0..2 {
        let ran = e.expire(&[&BRAKED[..], &["-n", "--max-destroy", "50%"]].concat()).expect(1);
        ran.says(says);
    }
    // A run over another dataset does not forget the notice, and other numbers are not a change.
    for other in ["tank/b", "tank/a/b"] {
        e.create(other);
        e.daily(other, 1);
        e.silent(&["-k", "last=2", other]);
    }
    e.take("tank/a", [("more", NOON + DAY)]);
    e.silent(&BRAKED);
    assert_eq!(e.left("tank/a").split(' ').count(), 31);
    a_day_passes(&e);
    e.expire(&BRAKED).expect(1).says("29 of 31 would be destroyed");
    e.silent(&BRAKED);
    // The condition ends and comes back.
    e.expire(&[&BRAKED[..], &["--force"]].concat()).expect(0);
    e.silent(&BRAKED);
    let again: Vec<String> = (0..30).map(|n| format!("again{n}")).collect();
    e.take("tank/a", (0..).zip(&again).map(|(n, name)| (name.as_str(), NOON + (2 + n) * DAY)));
    e.expire(&BRAKED).expect(1).says("would be destroyed");
}

#[test]
fn back_dated_snapshots_are_reported_once_beside_a_safety_limit() {
    let e = Expirer::new();
    e.daily("tank/a", 30);
    e.take("tank/a", [("old", NOON - 9 * DAY)]);
    let ran =
        e.expire(&BRAKED).expect(1).says("would be destroyed, more than").says("tank/a@old, are dated more than a day");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    e.silent(&BRAKED);
    e.create("tank/a/b");
    e.daily("tank/a/b", 1);
    e.silent(&["-k", "last=2", "tank/a/b"]);
    e.silent(&BRAKED);
    a_day_passes(&e);
    let ran = e.expire(&BRAKED).expect(1).says("would be destroyed, more than");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    let keep = ["-k", "last=40", "tank/a"];
    e.silent(&keep);
    e.expire(&[&keep[..], &["-n"]].concat()).expect(0).says("tank/a@old, are dated more than a day");
}

#[test]
fn an_inherited_malformed_property_is_reported_once_for_all_datasets() {
    let e = Expirer::new();
    let set = |property: &str, value: &str| {
        e.scene.zfs(&["set", &format!("{property}={value}"), "tank/guest"]).expect(0);
    };
    e.create("tank/guest");
    set("zrep:src-fs", "tank/guest");
    set("zrep:sent", "1\n2");
    e.daily("tank/guest", 3);
    for n in 0..6 {
        e.create(&format!("tank/guest/{n}"));
        e.daily(&format!("tank/guest/{n}"), 3);
    }
    let keep = ["-k", "last=1", "-k", "1", "tank"];
    let says = "tank/guest and 6 more: nothing is destroyed: zrep:sent of tank/guest is not one line of text: zfs inherit zrep:sent tank/guest";
    let ran = e.expire(&keep).expect(1).says(says);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    e.silent(&keep);
    // A run over one of these datasets knows the notice as well, and a dry run always reports it.
    let of_one = ["-k", "last=1", "-k", "1", "tank/guest/3"];
    e.silent(&of_one);
    e.silent(&keep);
    let ran = e.expire(&[&keep[..], &["-n", "--json"]].concat()).expect(1).says(says);
    let json: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    let of = json.as_array().unwrap().iter().find(|of| of["dataset"] == "tank/guest/5").unwrap();
    assert!(of["braked"].as_str().unwrap().contains("is not one line of text"), "{of}");
    assert_eq!((&of["keep"], &of["destroy"]), (&serde_json::json!([]), &serde_json::json!([])));
    e.silent(&["-k", "last=1", "-k", "1", "tank/a"]);
    a_day_passes(&e);
    e.expire(&keep).expect(1).says("nothing is destroyed");
    // The property is fixed, which a run over one dataset also notices, and broken again.
    e.scene.zfs(&["inherit", "zrep:sent", "tank/guest"]).expect(0);
    e.silent(&of_one);
    set("zrep:sent", "1\n2");
    e.expire(&keep).expect(1).says(says);
    e.scene.zfs(&["inherit", "zrep:sent", "tank/guest"]).expect(0);
    e.silent(&keep);
}

#[test]
fn a_fixed_property_of_a_snapshot_is_reported_when_broken_again() {
    let e = Expirer::new();
    e.create("tank/guest");
    e.scene.zfs(&["set", "zrep:src-fs=tank/guest", "tank/guest"]).expect(0);
    e.take("tank/guest", [("zrep_000001", NOON - DAY), ("zrep_000002", NOON)]);
    let keep = ["-k", "last=1", "-k", "1", "tank"];
    e.scene.zfs(&["set", "zrep:sent=1", "tank/guest@zrep_000002"]).expect(0);
    for _ in 0..2 {
        e.scene.zfs(&["set", "zrep:sent=1\n2", "tank/guest@zrep_000001"]).expect(0);
        e.expire(&keep).expect(1).says("zrep:sent of tank/guest@zrep_000001 is not one line of text");
        e.silent(&keep);
        e.scene.zfs(&["inherit", "zrep:sent", "tank/guest@zrep_000001"]).expect(0);
        e.silent(&keep);
    }
}

/// A failed action is reported as often as it fails.
#[test]
fn a_failure_to_destroy_is_reported_each_time() {
    let e = Expirer::new();
    e.daily("tank/a", 6);
    let zfs = e.wrapper("case \"$1\" in destroy) echo 'dataset is busy' >&2; exit 1 ;; esac");
    for _ in 0..2 {
        e.expire(&["-k", "last=5", "--zfs", &zfs, "tank/a"]).expect(1).says("tank/a@d5: ").says("busy");
    }
}
