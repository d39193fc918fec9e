//! What must be the same in all tools: `check`, `status`, and names in a directory that are not zsnap's.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use zsnap_tests::expirer::Expirer;
use zsnap_tests::scene::{Ran, Scene};
use zsnap_tests::spooler::Spooler;

/// One tool whose `check` is examined: in order, with something that needs a look, and with several failures.
struct Checked<'a> {
    run: &'a dyn Fn(&[&str]) -> Ran,
    warned: (&'a dyn Fn(), &'a [&'a str]),
    failed: (&'a dyn Fn(), &'a [&'a str]),
}

#[test]
fn check_means_the_same_in_all_tools() {
    let (scene, spooler, expirer) = (Scene::with_pool(), Spooler::with(&["disk1"]), Expirer::new());
    let (none, store) = (scene.path("none"), scene.path("spool"));
    let policies = |text: &str| expirer.scene.write("expire.toml", text);
    policies("[policy.\"tank/**\"]\nkeep = [\"last=1\"]\n");
    let tools = [
        Checked {
            run: &|args| scene.queue(args, b""),
            warned: (
                &|| {
                    scene.edit(
                        "queue.toml",
                        &format!("signing-key = {:?}", scene.path("laptop.key")),
                        "unsigned = true",
                    )
                },
                &["signer: files are not signed"],
            ),
            failed: (
                &|| {
                    let backup = format!("{:?}", scene.path("backup.cert"));
                    scene.edit("queue.toml", &backup, "[\"/none.cert\", \"/none2.cert\"]");
                    scene.edit("queue.toml", "unsigned = true\n", "");
                    scene.edit("queue.toml", "\nto = [", "\nto = [\"dir:/none\", \"cmd:true\", ");
                },
                &["recipients: /none.cert", "recipients: /none2.cert", "signer: ", "dir:/none: "],
            ),
        },
        Checked {
            run: &|args| spooler.fanout(args),
            warned: (&|| spooler.to("disk2", "dir:/none", ""), &["disk2: away: "]),
            failed: (
                &|| {
                    spooler.to("disk3", "dir:/none", "");
                    spooler.to("disk4", "-", "");
                    spooler.to("disk5", "nncp-file:node", "nncp-config = \"/none.hjson\"");
                    let spool = spooler.path("spool").display().to_string();
                    spooler.edit(&spool, &format!("{spool}-none"));
                },
                &["spool: ", "destinations: the drives disk2 and disk3 ", "destinations: disk4: ", "disk5: "],
            ),
        },
        Checked {
            run: &|args| scene.ingest(args),
            warned: (&|| fs::rename(&store, &none).unwrap(), &["incoming: "]),
            failed: (
                &|| {
                    let key = format!("{:?}", scene.path("backup.key"));
                    scene.edit("ingest.toml", &key, "\"/none.key\", \"/none2.key\"");
                    scene.edit("ingest.toml", "[hosts.laptop]", "[hosts.laptop]\nset = [\"setuid=on\"]");
                    scene.edit("ingest.toml", "[hosts.other]", "[hosts.other]\nexclude = [\"readonly\"]");
                    scene.edit("ingest.toml", &format!("target = {:?}", scene.path("tar")), "target = \"/none/x\"");
                },
                &[
                    "keys and certificates: /none.key",
                    "keys and certificates: /none2.key",
                    "keys and certificates: [hosts.laptop] set: ",
                    "keys and certificates: [hosts.other] exclude: ",
                    "[[command]] /none/x: ",
                ],
            ),
        },
        Checked {
            run: &|args| expirer.expire(args),
            warned: (
                &|| policies("[policy.\"tank/**\"]\nkeep = [\"last=1\"]\nreceived = true\n"),
                &["received datasets: "],
            ),
            failed: (
                &|| {
                    let policy = |glob: &str| format!("[policy.\"{glob}\"]\nkeep = [\"last=1\"]\n");
                    policies(
                        &(["", "a@b", "good"].map(policy).concat().replacen(
                            "[policy",
                            "needed = \"/none\"\n[policy",
                            1,
                        )),
                    );
                },
                &["configuration: [policy.\"\"] ", "configuration: [policy.\"a@b\"] ", "needed: /none: "],
            ),
        },
    ];
    for (number, Checked { run, warned, failed }) in tools.iter().enumerate() {
        let check = |status: i32, level: &str, findings: &[&str]| {
            let ran = run(&["check"]).expect(status);
            assert_eq!(ran.err, "", "{number}");
            let text = String::from_utf8(ran.out).unwrap();
            let levels = ["ok    ", "warn  ", "fail  "];
            assert!(text.lines().all(|line| levels.iter().any(|level| line.starts_with(level))), "{text}");
            assert!(text.lines().any(|line| line.starts_with("ok    ")), "{text}");
            for finding in findings {
                assert!(text.contains(&format!("{level}  {finding}")), "{level} {finding}: {text}");
            }
            // For cron: what is ok is left out, and the status is the same.
            let quiet = String::from_utf8(run(&["check", "--quiet"]).expect(status).out).unwrap();
            let left: Vec<_> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
            assert_eq!(quiet.lines().collect::<Vec<_>>(), left, "{number}");
            assert_eq!(
                left.iter().filter(|line| line.starts_with("fail")).count(),
                if status == 78 { findings.len() } else { 0 },
                "{text}"
            );
        };
        check(0, "ok", &[]);
        warned.0();
        check(1, "warn", warned.1);
        failed.0();
        check(78, "fail", failed.1);
    }
}

/// Checks the forms of `status`: the columns of the table, the keys in JSON, and the metrics.
#[track_caller]
fn forms_are_alike(tool: &str, status: &dyn Fn(&[&str], i32) -> String) {
    let table = status(&[], 0);
    assert!(table.lines().all(|line| line.len() <= 100), "{table}");
    let heads: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let at = |head: &str| heads.iter().position(|h| *h == head).unwrap_or_else(|| panic!("{head}: {table}"));
    assert!(at("STATE") < at("WAITING") && at("WAITING") + 1 == at("BYTES") && at("BYTES") + 1 == at("AGE"), "{table}");
    assert!(heads.iter().filter(|head| **head == "AGE").count() == 1, "{table}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&status(&["--json"], 0)).unwrap();
    for key in ["state", "waiting_files", "waiting_bytes", "waiting_oldest", "waiting_age", "note"] {
        assert!(rows.iter().all(|row| row.as_object().unwrap().contains_key(key)), "{tool}: {key}: {rows:?}");
    }
    let metrics = status(&["--prometheus"], 0);
    let suffixes = ["_state", "_files", "_bytes", "_timestamp_seconds", "_attempts", "_packets"];
    let mut described = Vec::new();
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && suffixes.iter().any(|suffix| name.ends_with(suffix)), "{line}");
            described.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest, format!("{} gauge", described.last().unwrap()));
        } else {
            assert_eq!(line.split(['{', ' ']).next(), described.last().map(String::as_str), "{metrics}");
        }
    }
    assert!(described.iter().all(|name| name.starts_with(&format!("zsnap_{tool}_"))), "{metrics}");
    assert!(described.contains(&format!("zsnap_{tool}_last_success_timestamp_seconds")), "{metrics}");
    // Of the series of the states of a row, one is 1.
    let states: Vec<_> = metrics.lines().filter(|line| line.starts_with(&format!("zsnap_{tool}_state{{"))).collect();
    let rows: BTreeSet<_> = states.iter().map(|line| line.split("state=\"").next().unwrap()).collect();
    assert!(states.len() >= rows.len() * 5, "{metrics}");
    for row in rows {
        let values: Vec<_> = states.iter().filter(|line| line.starts_with(row)).map(|l| &l[l.len() - 2..]).collect();
        assert_eq!(values.iter().filter(|value| **value == " 1").count(), 1, "{metrics}");
        assert!(values.iter().all(|value| [" 0", " 1"].contains(value)), "{metrics}");
    }
}

#[test]
fn status_means_the_same_in_all_tools() {
    let (scene, spooler, receiver) = (Scene::new(), Spooler::with(&["disk1"]), Scene::new());
    let future = UNIX_EPOCH.elapsed().unwrap().as_secs() + 400 * 86_400 + 43_200;
    let edit = |path: PathBuf, change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    };
    type Step<'a> = &'a dyn Fn();
    type Run<'a> = &'a dyn Fn(&[&str]) -> Ran;
    let backup: [Step<'_>; 3] = [
        &|| drop(scene.queue(&["--opaque", "--full", "laptop/etc"], b"x").expect(0)),
        &|| {
            spooler.put("laptop/etc", 1, "x");
            spooler.silent_run();
        },
        &|| {
            receiver.queue(&["--opaque", "--full", "laptop/etc"], b"x").expect(0);
            receiver.ingest(&[]).expect(0);
        },
    ];
    let ahead: [Step<'_>; 3] = [
        &|| edit(scene.path("queue-state/datasets/laptop/etc/state.json"), &|state| state["at"] = future.into()),
        &|| edit(spooler.outbox("disk1").join(".seen.json"), &|seen| seen["delivered"] = future.into()),
        &|| edit(receiver.path(".zsnap/target.json"), &|journal| journal["laptop/etc"]["created"] = future.into()),
    ];
    let tools: [(&str, Run<'_>, &str); 3] = [
        ("queue", &|args| scene.queue(args, b""), "laptop/etc"),
        ("fanout", &|args| spooler.fanout(args), "disk1"),
        ("ingest", &|args| receiver.ingest(args), "laptop/etc"),
    ];
    for (((tool, run, operand), backup), ahead) in tools.into_iter().zip(backup).zip(ahead) {
        let status = |args: &[&str], status: i32| {
            let ran = run(&[&["status"], args].concat()).expect(status);
            assert_eq!(ran.err, "", "{tool}: what makes the status 1 is part of the report");
            String::from_utf8(ran.out).unwrap()
        };
        let age = ["--max-age", "1d", operand];
        // Who asks expects a backup, but only --max-age asks for its age.
        status(&[operand], 0);
        let text = status(&age, 1);
        assert!(text.contains(&format!("{operand}: nothing was ever ")), "{text}");
        assert_eq!(status(&[&age[..], &["--quiet"]].concat(), 1), text);
        backup();
        status(&age, 0);
        assert_eq!(status(&[&age[..], &["--quiet"]].concat(), 0), "");
        forms_are_alike(tool, &status);
        ahead();
        let text = status(&age, 1);
        let row = text.lines().find(|line| line.starts_with(operand)).unwrap();
        assert!(row.contains("  in 400d "), "{text}");
        assert!(text.contains(", a future time: set the clock if it is wrong"), "{text}");
        status(&[operand], 0);
    }
}

#[test]
fn foreign_names_in_a_directory_mean_the_same_in_all_tools() {
    let (scene, spooler) = (Scene::new(), Spooler::with(&["disk1"]));
    type Run<'a> = &'a dyn Fn() -> Ran;
    let tools: [(Run<'_>, &str); 2] = [(&|| scene.ingest(&[]), "ingest"), (&|| spooler.fanout(&[]), "fanout")];
    for (run, tool) in tools {
        let (spool, told) = match tool {
            "ingest" => (scene.path("spool"), scene.path("ingest-state/told.json")),
            _ => (spooler.path("spool"), spooler.path("spool/.zsnap-fanout/told.json")),
        };
        let silent = || assert_eq!(run().expect(0).err, "", "{tool}");
        // What belongs to file systems, to other programs and to NNCP.
        let windows = ["$RECYCLE.BIN", "System Volume Information", "FOUND.000", "laptop/$RECYCLE.BIN"];
        for dir in [&["lost+found", "laptop/lost+found", ".snapshots", "laptop/.stfolder"], &windows[..]].concat() {
            fs::create_dir_all(spool.join(dir)).unwrap();
        }
        let windows = ["FOUND.000/FILE0000.CHK", "System Volume Information/WPSettings.dat", "laptop/Thumbs.db"];
        for file in [&["lost+found/#12", "laptop/nncpfile123", "laptop/.x"], &windows[..]].concat() {
            fs::write(spool.join(file), "").unwrap();
        }
        silent();
        fs::write(spool.join("laptop/notes.txt"), "").unwrap();
        fs::create_dir(spool.join("no@host")).unwrap();
        fs::write(spool.join("file"), "").unwrap();
        let ran = run().expect(1);
        for says in [
            "laptop/notes.txt: is not the name of a queue file; ignored",
            "no@host: is not the name of a host; ignored",
            "file: is not a directory of a host (",
        ] {
            assert!(ran.err.contains(says), "{tool}: {says}: {}", ran.err);
        }
        assert_eq!(ran.err.lines().count(), 3, "{tool}: {}", ran.err);
        silent();
        // They need no fix, so they are reported once, not daily.
        let mut lines: serde_json::Value = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
        for line in lines.as_object_mut().unwrap().values_mut() {
            line["at"] = (line["at"].as_u64().unwrap() - 2 * 86_400).into();
        }
        fs::write(&told, lines.to_string()).unwrap();
        silent();
    }
}
