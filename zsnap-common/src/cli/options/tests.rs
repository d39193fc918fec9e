//! Tests of options and configuration files.

use super::*;
use clap::{Parser, Subcommand};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Parser)]
struct Cli {
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[arg(long, global = true)]
    to: Vec<String>,
    #[arg(long, global = true)]
    level: Option<u32>,
    #[arg(long, global = true, default_value_t = 2)]
    threads: u32,
    #[arg(long, global = true)]
    quick: bool,
    #[arg(long, global = true)]
    once: bool,
    #[arg(long, global = true, value_parser = ["red", "green"])]
    color: Vec<String>,
    #[arg(long, global = true, conflicts_with = "color")]
    plain: bool,
    #[arg(long, required = true)]
    must: Option<String>,
    target: Option<OsString>,
    #[arg(last = true)]
    producer: Vec<OsString>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    hosts: BTreeMap<String, Host>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    trust: String,
}

fn with(config: &str, args: &[&str]) -> Result<(Cli, Tables)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, config).unwrap();
    let args = ["tool"].iter().chain(args).map(OsString::from).collect();
    parse_from(args, &path, |_| true, |value| u8::from(value.parse::<u64>().is_ok()), &["once"])
}

#[test]
fn the_file_supplies_options_that_the_command_line_lacks() {
    let config = "to = [\"a\", \"b\"]\nlevel = 8\nthreads = 5\nquick = true\nmust = \"x\"\n[hosts.h]\ntrust = \"t\"\n";
    let (cli, tables) = with(config, &["h/d"]).unwrap();
    assert_eq!((cli.to, cli.level, cli.threads, cli.quick), (vec!["a".into(), "b".into()], Some(8), 5, true));
    assert_eq!(cli.target, Some("h/d".into()));
    assert_eq!(tables.hosts["h"].trust, "t");
    let (cli, _) = with(config, &["--to", "c", "status", "--level", "1"]).unwrap();
    assert_eq!((cli.to, cli.level, cli.threads), (vec!["c".into()], Some(1), 5));
    assert!(matches!(cli.verb, Some(Verb::Status)));
    assert!(!cli.once && with(config, &["--once"]).unwrap().0.once);
    // A key that is `false` counts as absent.
    assert!(!with(&format!("once = false\n{config}"), &[]).unwrap().0.once);
    // In a list, only values of the same kind are replaced.
    for (list, expected) in [("[\"a\", 7, \"8\"]", &["a", "5"][..]), ("\"a\"", &["a", "5"]), ("7", &["5"])] {
        let (cli, _) = with(&format!("to = {list}\nmust = \"x\""), &["--to", "5"]).unwrap();
        assert_eq!(cli.to, expected, "{list}");
    }
    // Keys that conflict with the command line are left out.
    let (cli, _) = with("color = \"red\"\nmust = \"x\"", &["--plain"]).unwrap();
    assert!(cli.plain && cli.color.is_empty());
    let (cli, _) = with("plain = true\nmust = \"x\"", &["--color", "red"]).unwrap();
    assert!(!cli.plain && cli.color == ["red"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "level = 4").unwrap();
    let x = dir.path().join("x").into_os_string().into_string().unwrap();
    let (cli, _) = with("level = 8", &["--must", "x", "status", "--config", &x]).unwrap();
    assert_eq!(cli.level, Some(4));
    let (cli, _) = with("quick = false\nmust = \"-y\"", &["h/d", "--", "tar", "--to", "x"]).unwrap();
    assert_eq!((cli.quick, cli.must), (false, Some("-y".into())));
    assert_eq!(cli.producer, ["tar", "--to", "x"]);
    assert!(cli.to.is_empty());
    let (cli, _) = with("to = [\"-a\"]\nmust = \"x\"", &["h/d", "--", "--must"]).unwrap();
    assert_eq!((cli.to, cli.producer), (vec!["-a".into()], vec!["--must".into()]));
}

#[test]
fn errors_of_the_command_line_are_usage_errors() {
    let usage = |config: &str, args: &[&str]| {
        let error = with(config, args).unwrap_err();
        assert!(error.downcast_ref::<clap::Error>().is_some(), "{error:#}");
    };
    usage("must = \"x\"\nlevel = 1", &["--level", "y"]);
    usage("level = 1", &[]);
    usage("must = \"x\"\nlevel = 1", &["--wrong"]);
    usage("must = \"x\"\n[hosts]", &["--help"]);
}

#[test]
fn errors_of_the_file_have_path_and_line() {
    for (config, line, says) in [
        ("must = \"x\"\nleve = 1", 2, "unknown key \"leve\""),
        ("\n\nconfig = \"x\"", 3, "unknown key"),
        ("level = 1\nonce = true", 2, "once concerns one run: specify --once on the command line"),
        ("quick = 1", 1, "true or false"),
        ("to = [1.5]", 1, "string or a number"),
        ("a = ", 1, ""),
        ("level = 1\n[hosts.h]\ntrust = \"t\"\nx = 1\n", 4, "unknown field"),
        ("to = [\n \"ü\" ]\n[other]\n", 3, "unknown field"),
        ("\nlevel = \"y\"", 2, "invalid value 'y' for '--level"),
        ("color = [\n\"red\",\n\"blue\"]", 3, "invalid value 'blue' for '--color"),
        ("color = \"red\"\nplain = true", 1, "cannot be used with"),
    ] {
        let e = with(config, &["--must", "x"]).unwrap_err();
        assert_eq!(Exit::of(&e), Exit::Config, "{config}");
        let text = format!("{e:#}");
        assert!(text.contains(&format!("t.toml:{line}: ")) && text.contains(says), "{config}: {text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_named_file_must_exist_but_the_default_file_may_be_absent() {
    let args = |list: &[&str]| list.iter().map(OsString::from).collect();
    let none = Path::new("/nonexistent/t.toml");
    assert!(parse_from::<Cli, Tables>(args(&["tool", "--must", "x"]), none, |_| true, |_| 0, &[]).is_ok());
    let e = parse_from::<Cli, Tables>(
        args(&["tool", "--must", "x", "--config", "/nonexistent/u"]),
        none,
        |_| true,
        |_| 0,
        &[],
    )
    .unwrap_err();
    assert_eq!(Exit::of(&e), Exit::Config);
    let e = parse_from::<Cli, Tables>(args(&["tool"]), none, |_| true, |_| 0, &[]).unwrap_err();
    assert!(e.downcast_ref::<clap::Error>().is_some());
}

#[test]
fn a_file_that_others_may_change_is_rejected() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let args = || ["tool", "--must", "x", "--config"].iter().map(OsString::from).chain([file.path().into()]).collect();
    assert!(parse_from::<Cli, Tables>(args(), Path::new("/"), |_| true, |_| 0, &[]).is_ok());
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
    let e = parse_from::<Cli, Tables>(args(), Path::new("/"), |_| true, |_| 0, &[]).unwrap_err();
    assert_eq!(Exit::of(&e), Exit::Config);
    assert_eq!(format!("{e:#}"), format!("{}: may be changed by others: chmod go-w", file.path().display()));
    let fifo = file.path().with_extension("fifo");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(read(&fifo).is_err());
    std::fs::remove_file(fifo).unwrap();
}
