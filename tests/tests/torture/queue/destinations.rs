//! Destinations that fail, are away, or hang delay no others and lose no file.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use zsnap_tests::scene::{files, run};
use zsnap_tests::torture::{Play, Source, send, status};

/// The number of waiting files by destination.
fn waiting(play: &Play) -> Vec<(String, u64)> {
    let ran = run(&mut play.scene.queue_command(["status", "--json"]), b"").expect(0);
    let rows: Value = serde_json::from_slice(&ran.out).unwrap();
    let row = |row: &Value| (row["destination"].as_str().unwrap().into(), row["waiting_files"].as_u64().unwrap());
    let mut waiting: Vec<_> = rows.as_array().unwrap().iter().map(row).collect();
    waiting.sort();
    waiting
}

#[test]
fn failing_destinations_delay_no_others_and_get_their_files_later() {
    let mut play = Play::new(Source::Zfs);
    play.bytes = 1024;
    let path = |name: &str| play.scene.path(name);
    let (tried, taken, works, away) = (path("tried"), path("taken"), path("mended"), path("away"));
    let hang = format!("sleep 1000.{}", std::process::id());
    let (failing, unplugged, hanging) = (
        format!(
            "cmd:echo $ZSNAP_FILE >> {}; test -e {} && echo $ZSNAP_FILE >> {}",
            tried.display(),
            works.display(),
            taken.display()
        ),
        format!("dir:{}", away.display()),
        format!("cmd:test -e {} || {hang}; cat > /dev/null", works.display()),
    );
    let spool = format!("dir:{}", path("spool").display());
    for dest in [&failing, &unplugged, &hanging] {
        play.also_to(dest);
    }
    let all = |bad: u64| {
        let mut all =
            vec![(failing.clone(), bad), (unplugged.clone(), bad), (hanging.clone(), bad), (spool.clone(), 0)];
        all.sort();
        all
    };

    // The good destination gets the file while another one hangs. A signal then stops the delivery, and the status is
    // still 0.
    let (id, mut child) = play.start();
    let start = Instant::now();
    let both_reported = |play: &Play| {
        let said = fs::read_to_string(play.scene.path("stderr")).unwrap_or_default();
        [&failing, &unplugged].iter().all(|dest| said.contains(&format!("not delivered to {dest}")))
    };
    while files(&play.scene.path("spool/laptop")).is_empty() || waiting(&play) != all(1) || !both_reported(&play) {
        let hangs = child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(120);
        assert!(hangs, "{:?} wait, messages: {}", waiting(&play), play.said());
        sleep(Duration::from_millis(20));
    }
    send(Signal::TERM, child.id(), false);
    assert_eq!(status(child.wait().unwrap()), 0);
    play.ended(id, 0, &[], &[]);
    let said = play.said();
    for dest in [&failing, &unplugged] {
        assert!(said.contains(&format!("not delivered to {dest}")), "{said}");
    }

    // Later files wait behind the first one, and each run reports only what is new.
    play.args.push("--delivery-timeout=10s".into());
    play.queue();
    let said = play.said();
    assert!(said.contains(&format!("not delivered to {hanging}")) && !said.contains("not delivered to dir:"), "{said}");
    play.queue();
    assert_eq!(play.said(), "");
    assert_eq!(waiting(&play), all(3));
    let table = String::from_utf8(play.scene.queue(&["status"], b"").expect(0).out).unwrap();
    assert!(table.lines().any(|line| line.split_whitespace().nth(1) == Some("away")), "{table}");
    assert!(!hangs(&hang), "the hanging command still runs");
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().map(String::from).collect::<Vec<_>>();
    let names: Vec<String> = files(&play.scene.path("spool/laptop"))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 3);
    assert_eq!(lines(&tried), vec![names[0].clone(); 3]);

    // All destinations work again.
    fs::write(&works, "").unwrap();
    fs::create_dir(&away).unwrap();
    play.scene.mark("away");
    run(&mut play.scene.queue_command(["flush", "--delivery-timeout=60s"]), b"").expect(0);
    assert_eq!(waiting(&play), all(0));
    assert_eq!(lines(&taken), names);
    play.settle(&[&away]);
}

/// Whether a process with this command line exists.
fn hangs(command: &str) -> bool {
    let command = command.replace(' ', "\0");
    let line = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
    fs::read_dir("/proc").unwrap().any(|entry| line(entry.unwrap()).starts_with(&command))
}
