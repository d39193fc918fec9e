//! The man pages and the README are correct: options, exit statuses, examples and configurations.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use zsnap_tests::sample;
use zsnap_tests::scene::{Ran, Scene, files, have, program, run, tool};

const TOOLS: [&str; 4] = ["zsnap-queue", "zsnap-fanout", "zsnap-ingest", "zsnap-expire"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads a file of the source tree, such as `man/zsnap.7`.
fn source(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("man")).unwrap();
    let mut pages: Vec<_> = entries.map(|e| format!("man/{}", e.unwrap().file_name().into_string().unwrap())).collect();
    pages.sort();
    assert!(pages.len() >= 6, "{pages:?}");
    pages
}

/// Returns a line without requests as the reader of the page sees it.
fn plain(line: &str) -> String {
    line.replace("\\-", "-").replace("\\(dq", "\"").replace("\\e", "\\")
}

/// Returns the blocks of lines between two requests, each as one text.
fn blocks(page: &str, begin: &str, end: &str) -> Vec<String> {
    let (text, begin, end) = (source(page), format!("\n{begin}\n"), format!("\n{end}\n"));
    text.split(&begin).skip(1).map(|rest| plain(rest.split(&end).next().unwrap())).collect()
}

/// Returns the long options in a text.
fn options(text: &str) -> impl Iterator<Item = String> {
    text.split("--").skip(1).filter_map(|rest| {
        let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        name.starts_with(|c: char| c.is_ascii_lowercase()).then_some(name)
    })
}

/// Returns the options that `--help` of the tool and of its subcommands lists, without `--help` itself.
fn listed_in_help(tool: &str) -> BTreeSet<String> {
    let help = |args: &[&str]| {
        let ran = run(Command::new(program(tool)).args(args).arg("--help").current_dir("/"), b"").expect(0);
        String::from_utf8(ran.out).unwrap()
    };
    let top = help(&[]);
    let list = top.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs = list.lines().map(|line| line.split_whitespace().next().unwrap()).filter(|verb| *verb != "help");
    let texts: Vec<_> = verbs.map(|verb| help(&[verb])).chain([top.clone()]).collect();
    assert!(texts.len() >= 2, "{top}");
    let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim_start).filter(|line| line.starts_with('-'));
    lines.filter_map(|line| options(line).next()).collect()
}

/// Returns the options that the man page explains: the tags of its OPTIONS section.
fn explained_in_page(tool: &str) -> BTreeSet<String> {
    let page = source(&format!("man/{tool}.8"));
    let section = page.split("\n.SH OPTIONS\n").nth(1).unwrap().split("\n.SH ").next().unwrap();
    let lines: Vec<_> = section.lines().collect();
    let tags = lines.windows(2).filter(|pair| pair[0] == ".TP" || pair[0] == ".TQ").map(|pair| plain(pair[1]));
    tags.flat_map(|tag| options(&tag).collect::<Vec<_>>()).collect()
}

#[test]
fn man_pages_explain_exactly_the_options_in_help() {
    for tool in TOOLS {
        let (listed, explained) = (listed_in_help(tool), explained_in_page(tool));
        assert!(listed.len() > 10);
        assert_eq!(listed, explained, "{tool}: help on the left, page on the right");
        // The options in examples of the page exist.
        let page = plain(&source(&format!("man/{tool}.8")));
        for line in page.lines().filter(|line| line.starts_with(&format!("{tool} "))) {
            let own = line.split(" -- ").next().unwrap();
            options(own).for_each(|option| assert!(listed.contains(&option), "{tool}: --{option}"));
        }
    }
}

#[test]
fn the_table_of_exit_statuses_agrees_with_the_code() {
    // The enum has `/// Words.` and `Name = NUMBER,` for each status.
    let code = source("zsnap-common/src/cli/exit.rs");
    let variants = code.split("pub enum Exit {").nth(1).unwrap().split("\n}").next().unwrap();
    let lines: Vec<_> = variants.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let in_code: Vec<(u8, String)> = lines
        .chunks(2)
        .map(|pair| {
            let number = pair[1].split_once(" = ").unwrap().1.trim_end_matches(',').parse().unwrap();
            (number, pair[0].trim_start_matches("/// ").trim_end_matches('.').to_lowercase())
        })
        .collect();
    assert_eq!(in_code.len(), 10);
    let section = source("man/zsnap.7");
    let section = section.split("\n.SH EXIT STATUS\n").nth(1).unwrap().split("\n.TE").next().unwrap();
    let rows = section.split("|T{\n").zip(section.split("|T{\n").skip(1));
    let in_page: Vec<(u8, String)> = rows
        .map(|(before, row)| {
            (before.lines().last().unwrap().parse().unwrap(), row.split("\nT}").next().unwrap().to_lowercase())
        })
        .collect();
    assert_eq!(
        in_page.iter().map(|row| row.0).collect::<Vec<_>>(),
        in_code.iter().map(|row| row.0).collect::<Vec<_>>()
    );
    for (in_page, in_code) in in_page.iter().zip(&in_code) {
        assert!(
            in_page.1.starts_with(&in_code.1),
            "{}: \"{}\", but \"{}\" in the code",
            in_page.0,
            in_page.1,
            in_code.1
        );
    }
    // The page of each tool names no other statuses.
    for tool in TOOLS {
        let page = source(&format!("man/{tool}.8"));
        let section = page.split("\n.SH EXIT STATUS\n").nth(1).unwrap().split("\n.SH ").next().unwrap();
        let list = section.split("(7):").nth(1).unwrap();
        for word in list.split([' ', '\n', ',', ';', '.']).filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        {
            let number: u8 = word.parse().unwrap();
            assert!(in_code.iter().any(|row| row.0 == number), "{tool}: {number}");
        }
    }
}

#[test]
fn groff_reports_no_warnings_for_the_man_pages() {
    if !have("groff") {
        return;
    }
    for page in pages() {
        let ran = run(Command::new("groff").args(["-man", "-Tutf8", "-t", "-ww", "-z"]).arg(root().join(&page)), b"");
        assert!(ran.status == 0 && ran.err.is_empty() && ran.out.is_empty(), "{page}: {}", ran.err);
    }
}

/// Runs lines of a man page as a user would type them, on a machine without configuration. Returns the standard error.
fn shell(script: &str, dir: &Path) -> String {
    shell_ran(script, dir).err
}

fn shell_ran(script: &str, dir: &Path) -> Ran {
    let bin = tempfile::tempdir().unwrap();
    for name in TOOLS {
        let tool = bin.path().join(name);
        fs::write(tool.with_extension("toml"), "").unwrap();
        let script = format!(
            "#!/bin/sh\nfor arg; do case $arg in --) break ;; -c | --config) exec {0} \"$@\" ;; esac; done\n\
             exec {0} --config $0.toml \"$@\"\n",
            program(name).display()
        );
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-e", "-o", "pipefail", "-c", script]).current_dir(dir).env("PATH", path).env("TZ", "UTC");
    let ran = run(bash.env("XDG_STATE_HOME", dir.join("state")), b"");
    assert_eq!(ran.status, 0, "{script}\n{}", ran.err);
    ran
}

#[test]
fn the_examples_of_zsnap_queue_work() {
    let scene = Scene::new();
    let dir = scene.path("try");
    fs::create_dir_all(dir.join("docs")).unwrap();
    fs::write(dir.join("docs/letter"), "Dear reader").unwrap();
    fs::write(dir.join("full.zfs"), sample("full.zfs")).unwrap();
    fs::copy(scene.path("backup.cert"), dir.join("backup.cert")).unwrap();
    let examples = blocks("man/zsnap-queue.8", ".EX", ".EE");
    assert_eq!(examples.len(), 3);
    for example in examples {
        let err = shell(&example, &dir);
        assert!(err.is_empty(), "{example}\n{err}");
    }
    assert!(dir.join("laptop.cert").exists() && dir.join("docs.snar").exists());
    let queued = fs::read_dir(dir.join("spool/laptop")).unwrap().count();
    assert_eq!(queued, 2);
    let restore =
        "zsnap-ingest --decryption-key ../backup.key cat --host laptop --signers laptop.cert packet | cmp - full.zfs";
    shell(restore, &dir);
}

#[test]
fn the_examples_of_zsnap_ingest_work() {
    let scene = Scene::new();
    let dir = scene.path("try");
    fs::create_dir(&dir).unwrap();
    for key in ["backup.key", "laptop.cert"] {
        fs::copy(scene.path(key), dir.join(key)).unwrap();
    }
    let tar =
        run(Command::new("tar").args(["--create", "--file=-"]).arg("backup.key").current_dir(&dir), b"").expect(0);
    scene.queue(&["--opaque", "--full", "laptop/etc"], &tar.out).expect(0);
    for file in scene.spooled("laptop") {
        fs::rename(&file, dir.join(file.file_name().unwrap())).unwrap();
    }
    let examples = blocks("man/zsnap-ingest.8", ".EX", ".EE");
    assert_eq!(examples.len(), 4);
    for example in examples {
        // The configuration of the scene replaces that of the system.
        let example = example.replace("zsnap-ingest status", "zsnap-ingest --config ../ingest.toml status");
        let err = shell(&example, &dir);
        assert!(err.is_empty(), "{example}\n{err}");
    }
    let metrics = fs::read_to_string(dir.join("zsnap.prom")).unwrap();
    assert!(metrics.contains("zsnap_ingest_state{dataset=\"laptop/-\",state=\"ok\"} 1\n"), "{metrics}");
    assert!(fs::read(dir.join("etc.tar")).unwrap() == tar.out);
    assert!(dir.join("newserver.key").exists() && dir.join("newserver.cert").exists());
}

#[test]
fn the_examples_of_zsnap_fanout_work() {
    let scene = Scene::new();
    let dir = scene.path("try");
    // disk2 is away.
    fs::create_dir_all(dir.join("mnt/disk1")).unwrap();
    scene.queue(&["--opaque", "--full", "laptop/etc"], b"hello").expect(0);
    let with_local_paths = |text: &str| {
        text.replace("/var/spool/zsnap", &scene.path("spool").display().to_string())
            .replace("/mnt/", &format!("{}/", dir.join("mnt").display()))
            .replace("/incoming", "")
    };
    // The configuration of the CONFIGURATION section, with a directory instead of the NNCP node.
    let page = blocks("man/zsnap-fanout.8", ".RS", ".RE");
    let toml = page.iter().find(|block| is_toml(block)).unwrap();
    let toml = with_local_paths(toml).replace("nncp-file:backupdisk2", &format!("dir:{}/mnt/disk2", dir.display()));
    scene.write("fanout.toml", &toml.replace("10GiB", "1MiB"));
    let examples = blocks("man/zsnap-fanout.8", ".EX", ".EE");
    assert_eq!(examples.len(), 5);
    for example in examples {
        let mut example = with_local_paths(&example).replace("init ", "init --same-filesystem ");
        if !example.contains("--spool") {
            example = example.replace("zsnap-fanout", "zsnap-fanout --config ../fanout.toml");
        }
        let err = shell(&example, &dir);
        assert!(err.is_empty(), "{example}\n{err}");
    }
    let delivered = files(&dir.join("mnt/disk1/laptop"));
    assert_eq!(delivered.len(), 1, "{delivered:?}");
    let metrics = fs::read_to_string(dir.join("zsnap.prom")).unwrap();
    for (disk, state) in [("disk1", "delivered"), ("disk2", "away")] {
        let line = format!("_state{{destination=\"{disk}\",state=\"{state}\"}} 1\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    // While the lock is held, nothing is delivered, and that is not an error.
    let run = "zsnap-fanout --config ../fanout.toml";
    fs::remove_file(&delivered[0]).unwrap();
    shell(&format!("{run} requeue disk1 --since 3d"), &dir);
    let unmount = page.iter().find(|block| block.starts_with("flock ")).unwrap();
    shell(&with_local_paths(&unmount.replace("umount /mnt/disk1", run)), &dir);
    assert!(!delivered[0].exists());
    shell(run, &dir);
    assert!(delivered[0].exists());
}

/// Makes a `zfs` with 40 snapshots of tank/home, one every 12 hours until now. It records what it is asked to destroy.
fn twice_a_day(scene: &Scene) -> PathBuf {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let snap = |i: u64| format!("tank/home@s{i}\t{}\t{i}\t{}\t0\t-\n", 1000 + i, now - (39 - i) * 12 * 3600);
    scene.write("snaps", &(0..40).map(snap).collect::<String>());
    let script = "#!/bin/sh\ncd SCENE\ncase \"$*\" in *src-fs*) printf 'tank/home\\t-\\n' ;; *filesystem*) echo tank/home ;; \
                  *clones*) cat snaps ;; *zrep:sent*) sed 's/\\t.*/\\t-/' snaps ;; \
                  *name,guid*) cut -f 1,2 snaps ;; *) echo \"$*\" >> destroyed ;; esac\n";
    executable(scene, "zfs", &script.replace("SCENE", &scene.path("").display().to_string()));
    scene.path("zfs")
}

fn executable(scene: &Scene, name: &str, script: &str) {
    scene.write(name, script);
    fs::set_permissions(scene.path(name), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_examples_of_zsnap_expire_work() {
    let scene = Scene::new();
    let dir = scene.path("try");
    fs::create_dir_all(dir.join("archives/laptop")).unwrap();
    for (name, time) in [("z", 0), ("a", 24), ("b", 36), ("c", 48)] {
        let file = fs::File::create(dir.join(format!("archives/laptop/{name}.tar"))).unwrap();
        // 9 o'clock.
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_794_992_400 + time * 3600)).unwrap();
    }
    // The other programs print a list, and record what they are asked to remove.
    fs::create_dir(scene.path("bin")).unwrap();
    let times = [(1, "09"), (2, "09"), (2, "21"), (9, "09")];
    let list = |line: &dyn Fn(i32, &str) -> String| times.map(|(day, hour)| line(day, hour)).concat();
    let btrfs = |day, hour: &str| {
        format!("ID 257 gen 7 cgen 7 top level 5 otime 2026-11-0{day} {hour}:00:00 path snapshots/home.{day}-{hour}\n")
    };
    let aws = |day, hour: &str| format!("2026-11-0{day} {hour}:00:00       4096 pc/my {day}-{hour}.tar\n");
    for (name, list) in [
        ("borg", "pc-a\t1794992400\npc-b\t1795035600\npc-c\t1795078800\npc-d\t1795122000\n".to_owned()),
        ("btrfs", list(&btrfs)),
        ("aws", list(&aws)),
    ] {
        scene.write(&format!("{name}.list"), &list);
        let script =
            "#!/bin/sh\ncase \"$*\" in *delete*|*\" rm \"*) echo \"$*\" >> removed ;; *) cat ../NAME.list ;; esac\n";
        executable(&scene, &format!("bin/{name}"), &script.replace("NAME", name));
    }
    let page = blocks("man/zsnap-expire.8", ".RS", ".RE");
    scene.write("expire.toml", page.iter().find(|block| is_toml(block)).unwrap());
    let zfs = twice_a_day(&scene).display().to_string();
    let ours = format!("zsnap-expire -c ../expire.toml --zfs {zfs} --zpool {zfs}");
    let examples = blocks("man/zsnap-expire.8", ".EX", ".EE");
    assert_eq!(examples.len(), 7);
    let mut printed = String::new();
    for example in examples {
        let mut example = format!("PATH=$PWD/../bin:$PATH\n{example}");
        if !example.contains("--filter") {
            example = example.replace("zsnap-expire", &ours);
        }
        let ran = shell_ran(&example, &dir);
        assert!(ran.err.is_empty(), "{example}\n{}", ran.err);
        printed += std::str::from_utf8(&ran.out).unwrap();
    }
    // The table, the chart, and what the table in RULES shows.
    for part in ["tank/home@s0", "daily=30", "no rule keeps it", "# stays, x goes"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let rows = plain(&source("man/zsnap-expire.8"));
    let rows = rows.lines().filter(|line| line.starts_with("2026-11-") && line.ends_with("|stays"));
    let kept: String = rows.map(|row| format!("{}T{}\n", &row[..10], &row[11..13])).collect();
    assert!(kept.lines().count() == 5 && printed.ends_with(&kept), "{kept}: {printed}");
    let left = files(&dir.join("archives/laptop"));
    assert_eq!(left.len(), 3);
    assert!(!dir.join("archives/laptop/a.tar").exists());
    let removed = fs::read_to_string(dir.join("removed")).unwrap();
    let expected = "delete :: pc-a\nsubvolume delete /mnt/snapshots/home.2-09\ns3 rm s3://backups/pc/my 2-09.tar\n";
    assert_eq!(removed, expected);
    let destroyed = fs::read_to_string(scene.path("destroyed")).unwrap();
    assert!(destroyed.starts_with("destroy tank/home@") && destroyed.lines().count() == 1, "{destroyed}");
}

#[test]
fn zrep_expire_files_in_the_page_are_accepted() {
    let scene = Scene::new();
    let shown: Vec<_> =
        blocks("man/zsnap-expire.8", ".RS", ".RE").into_iter().filter(|block| block.starts_with("# M")).collect();
    let [first, second] = &shown[..] else { panic!("{shown:?}") };
    for (text, says) in [(first, "5 dated rules"), (second, "spacing 1h:1min 12h:5min 8d:1h 32d:1d 1y:7d 5y:31d")] {
        scene.write("zrep-expire.conf", text);
        let check = || run(tool("zsnap-expire", &scene.path("zrep-expire.conf")).args(["--filter", "check"]), b"");
        let out = String::from_utf8(check().expect(0).out).unwrap();
        assert!(out.contains(says), "{out}");
        scene.write("zrep-expire.conf", &format!("\nnonsense\n{text}"));
        check().expect(78).prints("zrep-expire.conf:2: ");
    }
}

/// Returns the indented blocks of the README.
fn readme_blocks() -> Vec<String> {
    let text = source("README.md");
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(line) => *blocks.last_mut().unwrap() += &format!("{line}\n"),
            None if blocks.last().unwrap().is_empty() => {}
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

fn is_toml(block: &str) -> bool {
    let first = block.lines().next().unwrap_or_default();
    first.starts_with("[policy.")
        || first
            .split_once('=')
            .is_some_and(|(key, _)| key.trim_end().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
}

/// Returns the tool that a configuration belongs to.
fn tool_of(toml: &str) -> &'static str {
    match toml {
        _ if toml.contains("encrypt-to") => "zsnap-queue",
        _ if toml.contains("[to.") => "zsnap-fanout",
        _ if toml.contains("[policy.") => "zsnap-expire",
        _ => "zsnap-ingest",
    }
}

#[test]
fn configurations_in_the_pages_and_the_readme_are_accepted() {
    let scene = Scene::new();
    let shown: Vec<(String, String)> = readme_blocks()
        .into_iter()
        .map(|block| ("README.md".to_owned(), block))
        .chain(
            pages()
                .into_iter()
                .flat_map(|page| blocks(&page, ".RS", ".RE").into_iter().map(move |b| (page.clone(), b))),
        )
        .filter(|(_, block)| is_toml(block))
        .collect();
    assert_eq!(shown.len(), 11, "{shown:?}");
    for (page, toml) in shown {
        let toml = toml.replace("/etc/zsnap/", &format!("{}/", scene.path("").display()));
        let name = tool_of(&toml);
        let check = |toml: &str| {
            scene.write("shown.toml", toml);
            let mut command = tool(name, &scene.path("shown.toml"));
            command.arg("check");
            if name == "zsnap-ingest" {
                // OpenZFS may be missing on this machine.
                command.args(["--zfs", "/bin/true", "--zpool", "/bin/true"]);
            }
            run(&mut command, b"")
        };
        let ran = check(&toml);
        // The user, directory and pool do not exist on this machine; the file itself must be correct.
        assert!(ran.err.is_empty() && [0, 1, 78].contains(&ran.status), "{page}: {}\n{toml}", ran.err);
        let text = String::from_utf8(ran.out).unwrap();
        for what in ["keys and certificates", "hosts", "destinations", "configuration", "recipients", "signer"] {
            assert!(!text.contains(&format!("fail  {what}: ")), "{page}: {text}");
        }
        // This test detects a mistake.
        check(&format!("nonsense = 1\n{toml}")).expect(78).says("shown.toml:1: ");
    }
}

#[test]
fn the_commands_of_the_readme_work() {
    let scene = Scene::new();
    let dir = scene.path("try");
    for made in ["etc", "lib", "files", "spool"] {
        fs::create_dir_all(dir.join(made)).unwrap();
    }
    fs::write(dir.join("files/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(dir.join("spool/.zsnap-drive"), "drive\n").unwrap();
    let with_local_paths = |text: &str| {
        text.replace("/etc/zsnap", &dir.join("etc").display().to_string())
            .replace("/var/lib/zsnap", &dir.join("lib").display().to_string())
            .replace("--file=- /etc\n", &format!("--file=- --directory={} files\n", dir.display()))
    };
    let blocks = readme_blocks();
    let keygens: Vec<_> = blocks.iter().flat_map(|b| b.lines()).filter(|line| line.contains(" keygen ")).collect();
    assert_eq!(keygens.len(), 2, "{keygens:?}");
    for line in keygens {
        shell(&with_local_paths(line), &dir);
    }
    let toml = blocks.iter().find(|b| is_toml(b) && tool_of(b) == "zsnap-queue").unwrap();
    fs::write(dir.join("etc/queue.toml"), with_local_paths(toml)).unwrap();
    let tar: Vec<_> = blocks.iter().filter(|b| b.contains("--listed-incremental")).collect();
    let [tar] = tar[..] else { panic!("{tar:?}") };
    // A directory replaces the destination of the configuration, an NNCP node.
    let to = format!("zsnap-queue --config etc/queue.toml --state lib/queue --to dir:{}/spool ", dir.display());
    let line = with_local_paths(tar).replacen("zsnap-queue ", &to, 1);
    for _ in 0..2 {
        let err = shell(&line, &dir);
        assert!(err.is_empty(), "{err}");
    }
    assert_eq!(fs::read_dir(dir.join("spool/laptop")).unwrap().count(), 2);
    assert!(dir.join("lib/etc.snar").exists());
    // Nothing waits, so cron does not send mail.
    for page in ["README.md", "man/zsnap.7"] {
        let text = plain(&source(page));
        let lines: Vec<_> = text.lines().filter_map(|line| line.split_once(" root zsnap-queue ")).collect();
        assert_eq!(lines.len(), 2, "{page}");
        for (_, rest) in lines {
            let ran = shell_ran(&format!("{to}{rest}"), &dir);
            assert!(ran.out.is_empty() && ran.err.is_empty(), "{rest}: {}", ran.err);
        }
    }
    // The make targets of the README exist.
    let makefile = source("Makefile");
    let targets = blocks.iter().flat_map(|b| b.lines()).filter_map(|line| line.strip_prefix("make "));
    for target in
        targets.filter_map(|rest| rest.split_whitespace().next()).filter(|word| word.starts_with(char::is_alphabetic))
    {
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}

#[test]
fn documentation_does_not_name_the_build_environment() {
    let registries = ["crates.io", "docs.rs", "pypi.", "npmjs", "proxy.golang", "deb.debian", "artifact", "mirror"];
    for page in
        pages().into_iter().chain(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from))
    {
        let text = source(&page).to_lowercase();
        for word in registries.into_iter().chain(["/work/", "/root/", "/home/", "/tmp/", "../shared", "localhost"]) {
            assert!(!text.contains(word), "{page} contains {word}");
        }
    }
}
