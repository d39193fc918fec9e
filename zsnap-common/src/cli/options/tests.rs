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
    #[arg(long, global = true, help_heading = ONE_RUN)]
    once: bool,
    #[arg(long, global = true, alias = "old-path")]
    path: Option<PathBuf>,
    #[arg(long, global = true, value_hint = clap::ValueHint::CommandName)]
    program: Option<PathBuf>,
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
    Status {
        #[arg(long, conflicts_with_all = ["quick", "color"])]
        bare: bool,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestTables {
    hosts: BTreeMap<String, Host>,
}

impl Tables for TestTables {
    fn resolve(&mut self, dir: &Path) {
        self.hosts.values_mut().for_each(|host| host.key = dir.join(&host.key));
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    trust: String,
    #[serde(default)]
    key: PathBuf,
}

fn file() -> ConfigFile {
    ConfigFile { refuse_one_run: true, kind: |value| u8::from(value.parse::<u64>().is_ok()), ..ConfigFile::of("test") }
}

fn parse_from(args: Vec<OsString>, default: &Path) -> Result<(Cli, TestTables)> {
    file().parse_from(args, default).map(|(cli, tables, _)| (cli, tables))
}

fn with(config: &str, args: &[&str]) -> Result<(Cli, TestTables)> {
    let (cli, tables, warnings) = read_as(file(), config, args)?;
    assert!(warnings.is_empty(), "{warnings:?}");
    Ok((cli, tables))
}

fn read_as(file: ConfigFile, config: &str, args: &[&str]) -> Result<(Cli, TestTables, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, config).unwrap();
    let args = ["tool"].iter().chain(args).map(OsString::from).collect();
    file.parse_from(args, &path)
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
    assert!(matches!(cli.verb, Some(Verb::Status { .. })));
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
fn an_option_on_the_command_line_drops_the_keys_that_it_contradicts() {
    for config in ["quick = true\nmust = \"x\"", "color = \"red\"\nmust = \"x\""] {
        let (cli, _) = with(config, &["status", "--bare"]).unwrap();
        assert!(!cli.quick && cli.color.is_empty() && matches!(cli.verb, Some(Verb::Status { bare: true })));
        let (cli, _) = with(config, &["status"]).unwrap();
        assert!(cli.quick || cli.color == ["red"]);
    }
}

#[test]
fn a_key_that_concerns_one_run_is_obeyed_with_a_warning() {
    let obeying = ConfigFile { refuse_one_run: false, ..file() };
    let (cli, _, warnings) = read_as(obeying, "must = \"x\"\nonce = true", &[]).unwrap();
    assert!(cli.once);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning.contains("t.toml:2: once concerns one run") && warning.ends_with("specify --once on the command line")
    );
    let (cli, _, warnings) = read_as(obeying, "must = \"x\"\nonce = false", &[]).unwrap();
    assert!(!cli.once && warnings.is_empty(), "{warnings:?}");
}

#[test]
fn paths_in_the_file_are_relative_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    let read = |config: &str, args: &[&str]| {
        std::fs::write(&path, config).unwrap();
        let args = ["tool", "--must", "x"].iter().chain(args).map(OsString::from).collect();
        parse_from(args, &path).unwrap()
    };
    let (cli, tables) = read("path = \"a/b\"\nprogram = \"bin/p\"\n[hosts.h]\ntrust = \"t\"\nkey = \"k\"", &[]);
    assert_eq!((cli.path, cli.program), (Some(dir.path().join("a/b")), Some(dir.path().join("bin/p"))));
    assert_eq!(tables.hosts["h"].key, dir.path().join("k"));
    // The older name of the key. A program without a slash is searched for. An absolute path stays as it is.
    let (cli, _) = read("old-path = \"/a/b\"\nprogram = \"p\"", &[]);
    assert_eq!((cli.path, cli.program), (Some("/a/b".into()), Some("p".into())));
    // Paths on the command line are relative to the working directory.
    let (cli, _) = read("path = \"a/b\"", &["--path", "c", "--program", "d/e"]);
    assert_eq!((cli.path, cli.program), (Some("c".into()), Some("d/e".into())));
    // An empty path is not the directory of the file.
    assert!(with("path = \"\"\nmust = \"x\"", &[]).is_err());
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
        ("must = \"x\"\nleve = 1", 2, "unknown key \"leve\"; did you mean \"level\"?"),
        ("Threads = 1", 1, "unknown key \"Threads\"; did you mean \"threads\"?"),
        ("old_path = \"x\"", 1, "unknown key \"old_path\"; did you mean \"path\", formerly \"old-path\"?"),
        ("nonsense = 1", 1, "unknown key \"nonsense\"; see the manual for the keys"),
        // A key that is refused is not proposed.
        ("onse = true", 1, "see the manual"),
        ("\n\nconfig = \"x\"", 3, "unknown key"),
        ("help = true", 1, "unknown key"),
        ("level = 1\nonce = true", 2, "once concerns one run: remove the key, and specify --once on the command line"),
        ("quick = 1", 1, "true or false"),
        ("to = [1.5]", 1, "to is a string or a whole number"),
        ("a = ", 1, "string values must be quoted"),
        ("to = \"x", 1, "invalid basic string"),
        ("\nto = dir:/x # there", 2, "dir:/x is not in quotes: write \"dir:/x\""),
        ("to = [\"a\",\n/b]", 2, "/b is not in quotes: write \"/b\""),
        ("to = nncp", 1, "nncp is not in quotes: write \"nncp\""),
        ("to = tank/home", 1, "tank/home is not in quotes: write \"tank/home\""),
        ("level = 14d", 1, "14d is not in quotes: write \"14d\""),
        ("quick = True", 1, "True is not a value: write true"),
        ("quick = no", 1, "no is not a value: write false"),
        ("level = 1\n[hosts.h]\ntrust = \"t\"\nx = 1\n", 4, "unknown field `x`"),
        ("[hosts.h]\ntrsut = \"t\"\n", 2, "unknown key \"trsut\"; did you mean \"trust\"?"),
        ("[host.h]\ntrust = \"t\"\n", 1, "unknown key \"host\"; did you mean \"hosts\"?"),
        ("[hosts.h]\ntrust = \"t\"\nlevel = 1\n", 3, "\"level\" is not a key of this table: write it above the first"),
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
    assert!(parse_from(args(&["tool", "--must", "x"]), none).is_ok());
    let e = parse_from(args(&["tool", "--must", "x", "--config", "/nonexistent/u"]), none).unwrap_err();
    assert_eq!(Exit::of(&e), Exit::Config);
    let e = parse_from(args(&["tool"]), none).unwrap_err();
    assert!(e.downcast_ref::<clap::Error>().is_some());
}

#[test]
fn a_file_that_others_may_change_is_rejected() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let args = || ["tool", "--must", "x", "--config"].iter().map(OsString::from).chain([file.path().into()]).collect();
    assert!(parse_from(args(), Path::new("/")).is_ok());
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
    let e = parse_from(args(), Path::new("/")).unwrap_err();
    assert_eq!(Exit::of(&e), Exit::Config);
    assert_eq!(format!("{e:#}"), format!("{0}: may be changed by others: chmod go-w {0}", file.path().display()));
    let fifo = file.path().with_extension("fifo");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(read(&fifo).is_err());
    std::fs::remove_file(fifo).unwrap();
}
