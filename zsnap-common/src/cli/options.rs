//! Merges the command line and the configuration file. A tool has one clap struct. Top-level scalars
//! and lists of its TOML file become `--key=value` arguments in front of those of the command line, unless
//! the command line sets the key or an option that conflicts with it. Tables of the file have no flags and
//! become a serde struct.

use std::ffi::OsString;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::cli::exit::{Exit, OrExit};
use crate::cli::trusted;

/// Parses the command line and the tables of `--config FILE`. The default FILE is `/etc/zsnap/TOOL.toml`, which
/// may be absent. `C` must have an option `--config`, and every option that may be set in the file must be
/// global (valid before and after a subcommand).
///
/// # Errors
/// A `clap::Error` for the command line (also for `--help`), which
/// [`run_tool`](crate::cli::exit::run_tool) prints; [`Exit::Config`] with FILE:LINE for the file.
pub fn parse<C: CommandFactory + FromArgMatches, T: DeserializeOwned + Default>(tool: &str) -> Result<(C, T)> {
    parse_if(tool, |_| true, |_| 0, &[])
}

/// Like [`parse`], but the file that `--config` names is read only if it `is_toml`. The command line replaces only
/// those values of a list in the file that have the `kind` of one of its own. The options in `one_run`
/// (`force`, say), which would be dangerous if set for every run, are refused as keys.
pub fn parse_if<C: CommandFactory + FromArgMatches, T: DeserializeOwned + Default>(
    tool: &str,
    is_toml: fn(&Path) -> bool,
    kind: fn(&str) -> u8,
    one_run: &'static [&'static str],
) -> Result<(C, T)> {
    let default = PathBuf::from(format!("/etc/zsnap/{tool}.toml"));
    parse_from(std::env::args_os().collect(), &default, is_toml, kind, one_run)
}

fn parse_from<C: CommandFactory + FromArgMatches, T: DeserializeOwned + Default>(
    mut args: Vec<OsString>,
    default: &Path,
    is_toml: fn(&Path) -> bool,
    kind: fn(&str) -> u8,
    one_run: &'static [&'static str],
) -> Result<(C, T)> {
    let mut tables = T::default();
    // Options that the file supplies may be missing here, so errors are ignored. Options after
    // a subcommand are seen too, because they are global.
    let given = C::command().ignore_errors(true).try_get_matches_from(&args)?;
    let named = given.try_get_one::<PathBuf>("config").ok().flatten();
    let path = named.map_or(default, PathBuf::as_path);
    let text = match if is_toml(path) { read(path) } else { Ok(String::new()) } {
        Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
        text => text.or_exit(Exit::Config, path.display())?,
    };
    let config = Config { path, text: &text, kind, one_run };
    let (inserted, rest) = config.arguments(&C::command(), &given)?;
    if let Some(rest) = rest {
        tables = toml::from_str(&rest).map_err(|e| config.wrong(e.span(), e.message()))?;
    }
    args.splice(1..1, inserted.iter().map(|insert| insert.argument.clone()));
    let mut matches = C::command()
        .try_get_matches_from(args)
        .map_err(|e| config.blamed(&inserted, &e).unwrap_or_else(|| e.into()))?;
    Ok((C::from_arg_matches_mut(&mut matches)?, tables))
}

/// Reads a configuration file. It must be trusted, because it names programs, keys and commands.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    trusted::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// A configuration file.
struct Config<'a> {
    path: &'a Path,
    text: &'a str,
    /// Returns the kind of a value in a list.
    kind: fn(&str) -> u8,
    /// Options that are refused as keys.
    one_run: &'static [&'static str],
}

/// An argument made from a key of the file.
struct Insert {
    argument: OsString,
    /// `--key`
    flag: String,
    /// The position of its value in the file.
    span: Range<usize>,
}

impl Config<'_> {
    /// Returns the arguments that the file adds to those `given`, and, if it has tables, its text reduced to
    /// the tables (each in its old place, so that errors in them have the right line).
    fn arguments(&self, command: &clap::Command, given: &ArgMatches) -> Result<(Vec<Insert>, Option<String>)> {
        let document = DeTable::parse(self.text).map_err(|e| self.wrong(e.span(), e.message()))?;
        let mut inserted = Vec::new();
        let mut tables = false;
        let mut rest = self.text.as_bytes().to_vec();
        for (key, value) in document.get_ref() {
            let name: &str = key.get_ref();
            let of_tables = |items: &toml::de::DeArray<'_>| items.iter().any(|item| item.get_ref().is_table());
            match value.get_ref() {
                DeValue::Array(items) if !of_tables(items) => {}
                DeValue::Table(_) | DeValue::Array(_) => {
                    tables = true;
                    continue;
                }
                _ => {}
            }
            // A key that is `false` counts as absent.
            let off = matches!(value.get_ref(), DeValue::Boolean(false));
            if self.one_run.contains(&name) && !off {
                let remedy = format!("{name} concerns one run: specify --{name} on the command line");
                return Err(self.wrong(Some(key.span()), &remedy));
            }
            let known = command.get_arguments().find(|arg| arg.get_long() == Some(name) && name != "config");
            let Some(arg) = known else {
                return Err(
                    self.wrong(Some(key.span()), &format!("unknown key \"{name}\"; see the manual for the keys"))
                );
            };
            let blank = rest.get_mut(key.span().start..value.span().end).unwrap_or_default();
            blank.iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
            let is_given = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
            let excluded = |other: &&Arg| {
                let conflicts = |a, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
                is_given(other) && (conflicts(arg, other) || conflicts(other, arg))
            };
            if command.get_arguments().any(|other| excluded(&other)) {
                continue;
            }
            // The kinds of the values on the command line. `None` if it is not a list or they cannot be
            // read: then the command line replaces the whole key.
            let kinds: Option<Vec<u8>> = match given.try_get_raw(arg.get_id().as_str()) {
                Ok(Some(values)) if matches!(arg.get_action(), ArgAction::Append) => {
                    Some(values.map(|value| (self.kind)(&value.to_string_lossy())).collect())
                }
                _ => None,
            };
            let replaced = |value: &DeValue<'_>| {
                let text = match value {
                    DeValue::Integer(number) => number.as_str(),
                    value => value.as_str().unwrap_or_default(),
                };
                is_given(arg)
                    && kinds.as_ref().is_none_or(|kinds| kinds.is_empty() || kinds.contains(&(self.kind)(text)))
            };
            let flag = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count);
            let bare =
                || Insert { argument: format!("--{name}").into(), flag: format!("--{name}"), span: value.span() };
            match (value.get_ref(), flag) {
                (value, _) if replaced(value) && !value.is_array() => {}
                (DeValue::Boolean(true), true) => inserted.push(bare()),
                (DeValue::Boolean(false), true) => {}
                (_, true) => return Err(self.wrong(Some(value.span()), &format!("{name} is true or false"))),
                (DeValue::Array(items), false) => {
                    for item in items.iter().filter(|item| !replaced(item.get_ref())) {
                        inserted.push(self.argument(name, item.get_ref(), item.span())?);
                    }
                }
                (one, false) => inserted.push(self.argument(name, one, value.span())?),
            }
        }
        // This is valid UTF-8: TOML's spans begin and end at characters, so only whole ones were blanked.
        Ok((inserted, tables.then(|| String::from_utf8_lossy(&rest).into_owned())))
    }

    /// Returns `error` with its position in the file, if it is about an argument that came from the
    /// file and not from the command line.
    fn blamed(&self, inserted: &[Insert], error: &clap::Error) -> Option<anyhow::Error> {
        let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return None };
        let flag = arg.split([' ', '=']).next()?;
        // In a list, the bad value is the one that the message names.
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        let of_flag = || inserted.iter().filter(|insert| insert.flag == flag);
        let ends = |insert: &&Insert| insert.argument.as_encoded_bytes().ends_with(format!("={value}").as_bytes());
        let insert = of_flag().find(ends).or_else(|| of_flag().next())?;
        let text = error.to_string();
        let line = text.lines().next()?;
        Some(self.wrong(Some(insert.span.clone()), line.strip_prefix("error: ").unwrap_or(line)))
    }

    fn argument(&self, name: &str, value: &DeValue<'_>, span: Range<usize>) -> Result<Insert> {
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            _ => return Err(self.wrong(Some(span), &format!("{name} is a string or a number"))),
        };
        Ok(Insert { argument: format!("--{name}={text}").into(), flag: format!("--{name}"), span })
    }

    fn wrong(&self, span: Option<Range<usize>>, what: &str) -> anyhow::Error {
        let before = self.text.get(..span.map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Exit::Config.error(format!("{}:{line}: {}", self.path.display(), what.trim_end().replace('\n', "; ")))
    }
}

/// Returns the absolute path of the state directory: `given`, or `/var/lib/zsnap/TOOL` for root, or
/// `$XDG_STATE_HOME/zsnap/TOOL` for other users (by default in `~/.local/state`).
///
/// # Errors
/// [`Exit::Config`] for an empty path, and if neither XDG_STATE_HOME nor HOME is an absolute path.
pub fn state_dir(given: Option<&Path>, tool: &str) -> Result<PathBuf> {
    if let Some(dir) = given {
        return std::path::absolute(dir).or_exit(Exit::Config, "--state");
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/zsnap").join(tool));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let base = base.ok_or_else(|| Exit::Config.error("neither XDG_STATE_HOME nor HOME is set; specify --state"))?;
    Ok(base.join("zsnap").join(tool))
}

#[cfg(test)]
mod tests;
