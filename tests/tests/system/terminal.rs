//! What the tools show on a real terminal: progress, summaries, colours, and what Ctrl-C leaves.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use zsnap_tests::random::noise;
use zsnap_tests::scene::{Scene, files, have, run, tool};
use zsnap_tests::terminal::{Terminal, line, on_terminal};

/// A slow reader of standard input, which reads on only while `what` has not been shown on the terminal with this log.
fn reads_until_shown(what: &str, log: &Path) -> String {
    format!(
        "for i in $(seq 600); do grep -q '{what}' '{}' && break; head -c 200000 >/dev/null; sleep 0.1; done; cat >/dev/null",
        log.display()
    )
}

/// Waits until something is so. The limit is only for a test that fails.
fn wait_until(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "it does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect::<String>()
}

/// Returns a report without the notes below it, which are as long as they are.
fn table(text: &str) -> String {
    text.lines().take_while(|line| !line.contains(": ")).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn fits(text: &str, width: usize) {
    let text = plain(text);
    let long: Vec<_> = text.split(['\n', '\r']).filter(|line| line.len() > width).collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn progress_has_a_percentage_where_the_size_is_known() {
    if !have("script") {
        return;
    }
    let scene = Scene::new();
    fs::write(scene.path("stream"), noise(7, 64 << 20)).unwrap();
    let log = scene.path("log");
    let command = scene.queue_command(["--opaque", "--full", "--threads", "1", "--to", "-", "laptop/etc"]);
    let reader = reads_until_shown("queuing laptop/etc .*%", &log);
    let shell = format!("{} < '{}' | ( {reader} )", line(&command), scene.path("stream").display());
    let shown = Terminal::start(&shell, &log, Path::new("/")).end(0);
    assert!(shown.contains(" of 64.00 MiB"), "{shown}");
    assert!(shown.contains("laptop/etc: 64.0 MiB queued to standard output"), "{shown}");

    // zsnap-ingest shows what its receiver has read.
    scene.queue(&["--opaque", "--full", "laptop/etc"], &fs::read(scene.path("stream")).unwrap()).expect(0);
    let log = scene.path("log2");
    let reader = reads_until_shown("applying laptop/etc .*%", &log);
    scene.write("reader", &reader);
    let old = format!("\"cat >> {}/target/all\"", scene.path("").display().to_string().trim_end_matches('/'));
    scene.edit("ingest.toml", &old, &format!("\". '{}'\"", scene.path("reader").display()));
    let shown = Terminal::start(&line(&scene.ingest_command([""; 0])), &log, Path::new("/")).end(0);
    assert!(shown.contains(" of 64.00 MiB") && shown.contains("% "), "{shown}");
    assert!(scene.spooled("laptop").is_empty());
}

#[test]
fn a_run_says_what_was_queued_and_what_was_delivered() {
    if !have("script") {
        return;
    }
    let scene = Scene::new();
    scene.write("stream", "hello");
    let spool = scene.path("spool").display().to_string();
    let gone = scene.path("gone").display().to_string();
    let command =
        scene.queue_command(["--opaque", "--full", "laptop/etc", "--to", &format!("dir:{spool}"), "--to", "cmd:false"]);
    let shell = format!("{} < '{}'", line(&command), scene.path("stream").display());
    let log = scene.path("log");
    let shown = Terminal::start(&shell, &log, Path::new("/")).end(0);
    assert!(shown.contains("laptop/etc: 5 B queued, compressed and encrypted to "), "{shown}");
    assert!(shown.contains(&format!("dir:{spool}: 1 file delivered\n")), "{shown}");
    assert!(shown.contains("cmd:false: waits; zsnap-queue flush tries again\n"), "{shown}");
    assert!(!shown.contains(&gone));
    let flushed = on_terminal(&scene.queue_command(["flush"]), 0);
    assert!(flushed.contains("cmd:false: 1 file waiting; zsnap-queue status shows more"), "{flushed}");
    // Without a terminal there is nothing for cron to mail.
    scene.queue(&["drop", "cmd:false"], b"").expect(0);
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"hello").silent();
    scene.queue(&["flush"], b"").silent();
}

#[test]
fn ctrl_c_says_that_nothing_was_queued() {
    if !have("script") {
        return;
    }
    let scene = Scene::new();
    run(std::process::Command::new("mkfifo").arg(scene.path("stream")), b"").expect(0);
    let shell = format!(
        "exec {} < '{}'",
        line(&scene.queue_command(["--opaque", "--full", "laptop/etc"])),
        scene.path("stream").display()
    );
    let mut terminal = Terminal::start(&shell, &scene.path("log"), Path::new("/"));
    // This returns when zsnap-queue has opened the pipe.
    let stream = fs::File::options().write(true).open(scene.path("stream")).unwrap();
    let split = scene.path("queue-state/outbox/split/laptop");
    wait_until(|| fs::read_dir(&split).is_ok_and(|mut entries| entries.next().is_some()));
    terminal.press(b"\x03");
    let shown = terminal.end(130);
    drop(stream);
    assert!(shown.contains("zsnap-queue: interrupted, nothing queued\n"), "{shown}");
    assert!(scene.spooled("laptop").is_empty() && files(&split).is_empty());
}

#[test]
fn states_have_colours_on_a_terminal_only() {
    if !have("script") {
        return;
    }
    let scene = Scene::new();
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"hello").expect(0);
    scene.queue(&["--opaque", "--full", "laptop/tar", "--to", "cmd:false"], b"hello").expect(0);
    let status = scene.queue_command(["status"]);
    let shown = on_terminal(&status, 0);
    assert!(shown.contains("\x1b[32mdelivered\x1b[0m") && shown.contains("\x1b[33mwaiting\x1b[0m"), "{shown}");
    let mut plain = std::process::Command::new("env");
    plain.arg("NO_COLOR=1").arg(status.get_program()).args(status.get_args());
    let plain = on_terminal(&plain, 0);
    assert!(plain.contains("delivered") && !plain.contains('\x1b'), "{plain}");
    let piped = String::from_utf8(scene.queue(&["status"], b"").expect(0).out).unwrap();
    assert!(!piped.contains('\x1b'), "{piped}");
    fits(&table(&plain), 80);
    let checked = on_terminal(&scene.queue_command(["check"]), 1);
    assert!(checked.contains("\x1b[32mok  \x1b[0m  signer"), "{checked}");
}

#[test]
fn tables_fit_a_terminal_of_80_columns() {
    if !have("script") {
        return;
    }
    let scene = Scene::with_pool();
    scene.write("fanout.toml", "spool = \"spool\"\n[to.disk1]\ndest = \"nncp-file:backupdisk1\"\n");
    let mut fanout = tool("zsnap-fanout", &scene.path("fanout.toml"));
    fanout.arg("status");
    // Its row fits only because the table is made narrower.
    let dataset = "laptop/tank/home/documents/2026";
    scene.queue(&["--opaque", "--full", dataset, "--to", "nncp-file:backupserver"], b"hello").expect(0);
    let piped = String::from_utf8(scene.queue(&["status"], b"").expect(0).out).unwrap();
    assert!(table(&piped).lines().any(|line| line.len() > 80), "{piped}");
    for command in [scene.queue_command(["status"]), scene.ingest_command(["status"]), fanout] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let shell = format!("NO_COLOR=1 {} || true", line(&command));
        let shown = Terminal::start(&shell, log.path(), Path::new("/")).end(0);
        let table = table(&shown);
        assert!(table.contains("STATE"), "{shown}");
        fits(&table, 80);
    }
    for name in ["zsnap-queue", "zsnap-fanout", "zsnap-ingest", "zsnap-expire"] {
        let mut help = tool(name, Path::new("/dev/null"));
        help.arg("--help");
        fits(&on_terminal(&help, 0), 80);
    }
}
