//! A configuration file: the arguments that its keys become, and what is wrong in it, with FILE:LINE.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use toml::de::{DeTable, DeValue};

use super::{ConfigFile, ONE_RUN};
use crate::cli::exit::Exit;
use crate::cli::suggest::closest;

/// A configuration file.
pub struct Document<'a> {
    pub path: &'a Path,
    /// The absolute directory of the file, which its relative paths start from.
    pub dir: &'a Path,
    pub text: &'a str,
    pub file: ConfigFile,
    /// The command line that the keys belong to.
    pub command: &'a Command,
}

/// An argument made from a key of the file.
pub struct Insert {
    pub argument: OsString,
    /// `--key`
    flag: String,
    /// The position of its value in the file.
    span: Range<usize>,
}

/// What a file adds to the command line.
#[derive(Default)]
pub struct Additions {
    pub inserted: Vec<Insert>,
    /// If the file has tables, its text reduced to the tables (each in its old place, so that errors in them have the
    /// right line).
    pub tables: Option<String>,
    pub warnings: Vec<String>,
}

impl Document<'_> {
    /// Returns what the file adds to what is `given` on the command line.
    pub fn additions(&self, given: &ArgMatches) -> Result<Additions> {
        let document = DeTable::parse(self.text).map_err(|e| self.not_toml(&e))?;
        let mut additions = Additions::default();
        let mut tables = false;
        let mut rest = self.text.as_bytes().to_vec();
        for (key, value) in document.get_ref() {
            if is_table(value.get_ref()) {
                tables = true;
                continue;
            }
            let arg = self.option(key.get_ref(), key.span())?;
            let name = arg.get_long().unwrap_or_default();
            // A key that is `false` counts as absent.
            let off = matches!(value.get_ref(), DeValue::Boolean(false));
            if arg.get_help_heading() == Some(ONE_RUN) && !off {
                let remedy = format!("remove the key, and specify --{name} on the command line");
                if self.file.refuse_one_run {
                    return Err(self.wrong(Some(key.span()), &format!("{name} concerns one run: {remedy}")));
                }
                let later = format!("{name} concerns one run, and a later version refuses it here: {remedy}");
                additions.warnings.push(self.at(Some(key.span()), &later));
            }
            let blank = rest.get_mut(key.span().start..value.span().end).unwrap_or_default();
            blank.iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
            if !self.is_excluded(arg, given) {
                self.insert(arg, value.get_ref(), value.span(), given, &mut additions.inserted)?;
            }
        }
        // This is valid UTF-8: TOML's spans begin and end at characters, so only whole ones were blanked.
        additions.tables = tables.then(|| String::from_utf8_lossy(&rest).into_owned());
        Ok(additions)
    }

    /// The options that may be keys.
    fn options(&self) -> impl Iterator<Item = &Arg> {
        let own = |arg: &&Arg| {
            let action = arg.get_action();
            let help = matches!(action, ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong);
            !help && !matches!(action, ArgAction::Version) && arg.get_long().is_some_and(|long| long != "config")
        };
        self.command.get_arguments().filter(own)
    }

    /// Returns the option of a key, which may be an older name of it.
    fn option(&self, key: &str, span: Range<usize>) -> Result<&Arg> {
        if let Some(arg) = self.options().find(|arg| names(arg).any(|name| name == key)) {
            return Ok(arg);
        }
        let keys = || self.options().filter(|arg| arg.get_help_heading() != Some(ONE_RUN));
        let meant = closest(key, keys().flat_map(names)).and_then(|like| {
            let name = keys().find(|arg| names(arg).any(|name| name == like))?.get_long()?;
            let before = if name == like { String::new() } else { format!(", formerly \"{like}\"") };
            Some(format!("did you mean \"{name}\"{before}?"))
        });
        let remedy = meant.unwrap_or_else(|| "see the manual for the keys".to_owned());
        Err(self.wrong(Some(span), &format!("unknown key \"{key}\"; {remedy}")))
    }

    /// Returns whether the command line has an option that conflicts with this one.
    fn is_excluded(&self, arg: &Arg, given: &ArgMatches) -> bool {
        let conflicts = |command: &Command, a: &Arg, b: &Arg| {
            command.get_arg_conflicts_with(a).iter().any(|conflict| conflict.get_id() == b.get_id())
        };
        let excludes = |other: &Arg| conflicts(self.command, arg, other) || conflicts(self.command, other, arg);
        let by_general = self.command.get_arguments().any(|other| is_given(given, other) && excludes(other));
        let by_subcommand = || {
            let (name, given) = given.subcommand()?;
            let command = self.command.find_subcommand(name)?;
            let own = command.get_arguments().filter(|other| !other.is_global_set());
            Some(own.filter(|other| is_given(given, other)).any(|other| conflicts(command, other, arg)))
        };
        by_general || by_subcommand().unwrap_or(false)
    }

    /// Adds the arguments for a key, but not those that the command line replaces.
    fn insert(
        &self,
        arg: &Arg,
        value: &DeValue<'_>,
        span: Range<usize>,
        given: &ArgMatches,
        inserted: &mut Vec<Insert>,
    ) -> Result<()> {
        // The kinds of the values on the command line. `None` if it is not a list or they cannot be
        // read: then the command line replaces the whole key.
        let kinds: Option<Vec<u8>> = match given.try_get_raw(arg.get_id().as_str()) {
            Ok(Some(values)) if matches!(arg.get_action(), ArgAction::Append) => {
                Some(values.map(|value| (self.file.kind)(&value.to_string_lossy())).collect())
            }
            _ => None,
        };
        let replaced = |value: &DeValue<'_>| {
            let text = match value {
                DeValue::Integer(number) => number.as_str(),
                value => value.as_str().unwrap_or_default(),
            };
            is_given(given, arg)
                && kinds.as_ref().is_none_or(|kinds| kinds.is_empty() || kinds.contains(&(self.file.kind)(text)))
        };
        let name = arg.get_long().unwrap_or_default();
        let is_flag = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count);
        match (value, is_flag) {
            (value, _) if replaced(value) && !value.is_array() => {}
            (DeValue::Boolean(true), true) => {
                let flag = format!("--{name}");
                inserted.push(Insert { argument: flag.clone().into(), flag, span });
            }
            (DeValue::Boolean(false), true) => {}
            (_, true) => return Err(self.wrong(Some(span), &format!("{name} is true or false"))),
            (DeValue::Array(items), false) => {
                for item in items.iter().filter(|item| !replaced(item.get_ref())) {
                    inserted.push(self.argument(arg, item.get_ref(), item.span())?);
                }
            }
            (one, false) => inserted.push(self.argument(arg, one, span)?),
        }
        Ok(())
    }

    fn argument(&self, arg: &Arg, value: &DeValue<'_>, span: Range<usize>) -> Result<Insert> {
        let flag = format!("--{}", arg.get_long().unwrap_or_default());
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            _ => return Err(self.wrong(Some(span), &format!("{} is a string or a whole number", &flag[2..]))),
        };
        // A program without a slash is searched for; an empty path stays one.
        let hint = arg.get_value_hint();
        let is_path =
            hint == ValueHint::AnyPath && !text.is_empty() || hint == ValueHint::CommandName && text.contains('/');
        let value = if is_path { self.dir.join(text).into_os_string() } else { text.into() };
        let mut argument = OsString::from(format!("{flag}="));
        argument.push(value);
        Ok(Insert { argument, flag, span })
    }

    /// Returns `error` with its position in the file, if it is about an argument that came from the
    /// file and not from the command line.
    pub fn blamed(&self, inserted: &[Insert], error: &clap::Error) -> Option<anyhow::Error> {
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

    /// Returns the error for a file that is not TOML, most often because a string is not quoted.
    fn not_toml(&self, error: &toml::de::Error) -> anyhow::Error {
        let raw = error.span().and_then(|span| self.text.get(span)).unwrap_or_default();
        let bare = raw.starts_with(|c: char| !"\"'[]{}=#".contains(c) && !c.is_whitespace());
        let value = ["string values must be quoted", "invalid "].iter().any(|about| error.message().starts_with(about));
        let what = match (value && bare, raw.to_lowercase().as_str()) {
            (false, _) => error.message().to_owned(),
            (true, "true" | "yes" | "on") => format!("{raw} is not a value: write true"),
            (true, "false" | "no" | "off") => format!("{raw} is not a value: write false"),
            (true, _) => format!("{raw} is not in quotes: write {raw:?}"),
        };
        self.wrong(error.span(), &what)
    }

    /// Returns the error for a table that is not as serde expects it.
    pub fn wrong_table(&self, error: &toml::de::Error) -> anyhow::Error {
        let message = error.message();
        // serde writes: unknown field `x`, expected one of `a`, `b`
        let mut words = message.split('`').skip(1).step_by(2);
        let unknown = words.next().filter(|_| message.starts_with("unknown field"));
        let hint = unknown.and_then(|key| match closest(key, words) {
            Some(like) => Some(format!("unknown key \"{key}\"; did you mean \"{like}\"?")),
            None if self.option(key, 0..0).is_ok() => {
                Some(format!("\"{key}\" is not a key of this table: write it above the first line with [brackets]"))
            }
            None => None,
        });
        self.wrong(error.span(), hint.as_deref().unwrap_or(message))
    }

    fn wrong(&self, span: Option<Range<usize>>, what: &str) -> anyhow::Error {
        Exit::Config.error(self.at(span, what))
    }

    /// Returns the line of the file and what is to be said about it.
    fn at(&self, span: Option<Range<usize>>, what: &str) -> String {
        let before = self.text.get(..span.map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("{}:{line}: {}", self.path.display(), what.trim_end().replace('\n', "; "))
    }
}

/// Returns the name of an option without dashes, and its older names.
fn names(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())
}

fn is_table(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
        _ => false,
    }
}

fn is_given(given: &ArgMatches, arg: &Arg) -> bool {
    given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
}
