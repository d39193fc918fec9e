//! Merges the command line and the configuration file. A tool has one clap struct. Top-level scalars
//! and lists of its TOML file become `--key=value` arguments in front of those of the command line, unless
//! the command line sets the key or an option that conflicts with it. Tables of the file have no flags and
//! become a serde struct.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use serde::de::DeserializeOwned;

use crate::cli::exit::{Exit, OrExit};
use crate::cli::{log, suggest, trusted};
use document::Document;

mod document;

/// The heading, in `--help`, of options that concern one run. They are not keys of the configuration file.
pub const ONE_RUN: &str = "Options of one run, not keys of the configuration file";
/// The heading, in `--help`, of options that few users need.
pub const ADVANCED: &str = "Advanced";

/// The tables of a configuration file.
pub trait Tables: DeserializeOwned + Default {
    /// Makes relative paths in the tables absolute. `dir` is the absolute directory of the file.
    fn resolve(&mut self, _dir: &Path) {}
}

/// How a tool reads its configuration file.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFile {
    /// The default file is `/etc/zsnap/TOOL.toml`.
    pub tool: &'static str,
    /// Whether a key that concerns one run ([`ONE_RUN`]) is an error. Otherwise it is obeyed, with a warning.
    pub refuse_one_run: bool,
    /// Whether to read the file that `--config` names.
    pub is_toml: fn(&Path) -> bool,
    /// Returns the kind of a value in a list. The command line replaces only those values of a list in the file
    /// that have the kind of one of its own.
    pub kind: fn(&str) -> u8,
}

impl ConfigFile {
    /// Describes the file of a tool that reads only TOML, obeys every key, and replaces lists as a whole.
    pub fn of(tool: &'static str) -> ConfigFile {
        ConfigFile { tool, refuse_one_run: false, is_toml: |_| true, kind: |_| 0 }
    }

    /// Parses the command line and the tables of `--config FILE`. The default file may be absent. `C` must have an
    /// option `--config`, and every option that may be set in the file must be global (valid before and after a
    /// subcommand).
    ///
    /// # Errors
    /// A `clap::Error` for the command line (also for `--help`), which
    /// [`run_tool`](crate::cli::exit::run_tool) prints; [`Exit::Config`] with FILE:LINE for the file.
    pub fn parse<C: CommandFactory + FromArgMatches, T: Tables>(self) -> Result<(C, T)> {
        let default = PathBuf::from(format!("/etc/zsnap/{}.toml", self.tool));
        let (cli, tables, warnings) = self.parse_from(std::env::args_os().collect(), &default)?;
        warnings.iter().for_each(log::warn);
        Ok((cli, tables))
    }

    fn parse_from<C: CommandFactory + FromArgMatches, T: Tables>(
        self,
        mut args: Vec<OsString>,
        default: &Path,
    ) -> Result<(C, T, Vec<String>)> {
        let mut tables = T::default();
        // Options that the file supplies may be missing here, so errors are ignored. Options after
        // a subcommand are seen too, because they are global.
        let given = C::command().ignore_errors(true).try_get_matches_from(&args)?;
        let named = given.try_get_one::<PathBuf>("config").ok().flatten();
        let path = named.map_or(default, PathBuf::as_path);
        let text = match if (self.is_toml)(path) { read(path) } else { Ok(String::new()) } {
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
            text => text.or_exit(Exit::Config, path.display())?,
        };
        let absolute = std::path::absolute(path).or_exit(Exit::Config, path.display())?;
        let dir = absolute.parent().unwrap_or(&absolute);
        // Built, so that the options of the subcommands know the global ones that they conflict with.
        let mut command = C::command();
        command.build();
        let document = Document { path, dir, text: &text, file: self, command: &command };
        let additions = document.additions(&given)?;
        if let Some(rest) = additions.tables {
            tables = toml::from_str(&rest).map_err(|e| document.wrong_table(&e))?;
            tables.resolve(dir);
        }
        args.splice(1..1, additions.inserted.iter().map(|insert| insert.argument.clone()));
        let mut matches = C::command()
            .try_get_matches_from(args)
            .map_err(|e| document.blamed(&additions.inserted, &e).unwrap_or_else(|| hinted(e, &command, &given)))?;
        Ok((C::from_arg_matches_mut(&mut matches)?, tables, additions.warnings))
    }
}

/// Adds to a usage error the subcommand that the first operand may have been meant to be.
fn hinted(mut error: clap::Error, command: &Command, given: &ArgMatches) -> anyhow::Error {
    let raw = |arg: &Arg| given.try_get_raw(arg.get_id().as_str()).ok().flatten()?.next();
    let operand = command.get_positionals().find_map(raw);
    if let Some(meant) = operand.and_then(|operand| suggest::subcommand(operand, command)) {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![meant.to_owned()]));
    }
    error.into()
}

/// Reads a configuration file. It must be trusted, because it names programs, keys and commands.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    trusted::open(path)?.read_to_string(&mut text)?;
    Ok(text)
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
