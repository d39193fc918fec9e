//! The policies of datasets, from tables `[policy."GLOB"]`, from `--keep`, or from a file of zrep-expire. No
//! other module reads these files.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::{options, trusted, units};
use zsnap_common::names::glob::Glob;

use crate::brakes::MaxDestroy;
use crate::calendar::Clock;
use crate::cli::Options;
use crate::policy::{Method, Policy};
use crate::rules::rule::{Reference, Rule};
use crate::rules::{zrep_v1, zrep_v2};

/// How many of the newest snapshots stay by default.
const NEWEST: u64 = 2;
/// How many of the newest snapshots stay by default with a file of zrep-expire: its own default.
const NEWEST_ZREP: u64 = 5;

/// The tables of `expire.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    #[serde(default)]
    policy: BTreeMap<String, Table>,
}

impl options::Tables for Tables {}

/// A table `[policy."GLOB"]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    #[serde(deserialize_with = "rules")]
    keep: Vec<Rule>,
    #[serde(default, deserialize_with = "count")]
    newest: Option<u64>,
    #[serde(default)]
    received: bool,
    #[serde(default, deserialize_with = "reference")]
    relative_to: Option<Reference>,
    #[serde(default, deserialize_with = "max_destroy")]
    max_destroy: Option<MaxDestroy>,
}

fn rules<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Rule>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    if texts.is_empty() {
        return Err(serde::de::Error::custom("keep is empty, so nothing would stay: write a rule"));
    }
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn reference<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Reference>, D::Error> {
    let text = String::deserialize(d)?;
    relative_to(&text).map(Some).ok_or_else(|| serde::de::Error::custom("write newest or now"))
}

fn max_destroy<'de, D: Deserializer<'de>>(d: D) -> Result<Option<MaxDestroy>, D::Error> {
    units::like_option(d, str::parse)
}

fn count<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    units::like_option(d, |text| text.parse().map_err(|_| format!("\"{text}\" is not a count; write 5")))
}

fn relative_to(text: &str) -> Option<Reference> {
    match text {
        "newest" => Some(Reference::Newest),
        "now" => Some(Reference::Now),
        _ => None,
    }
}

/// The policies, and which datasets they are for.
#[derive(Debug)]
pub struct Config {
    policies: Vec<(String, Glob, Policy)>,
    /// The current time, or that of `--at`, and the time zone.
    pub clock: Clock,
    /// Whether the file is one of zrep-expire's second version. Then a run processes only the datasets that are
    /// named, not those below them, and none if none is named.
    pub exact: bool,
}

impl Config {
    /// Returns the policy of a dataset: that of the most specific glob that matches. This is the one with the
    /// most characters other than `*` and `?`, and of several such globs the one with the fewest of `*` and `?`.
    ///
    /// # Errors
    /// [`Exit::Config`] if two globs are equally specific.
    pub fn of(&self, dataset: &str) -> Result<Option<&Policy>> {
        let says = |text: &str| {
            let stars = text.bytes().filter(|b| b"*?".contains(b)).count();
            (text.len() - stars, Reverse(stars))
        };
        let fits = || self.policies.iter().filter(|(_, glob, _)| glob.matches(dataset));
        let Some((first, _, policy)) = fits().max_by_key(|(text, ..)| says(text)) else { return Ok(None) };
        if let Some((other, ..)) = fits().find(|(text, ..)| text != first && says(text) == says(first)) {
            return Err(Exit::Config.error(format!(
                "{dataset}: [policy.\"{other}\"] and [policy.\"{first}\"] are both for it: write a third one that says more"
            )));
        }
        Ok(Some(policy))
    }

    /// Returns all policies with their globs.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &Policy)> {
        self.policies.iter().map(|(glob, _, policy)| (glob.as_str(), policy))
    }

    /// Combines the options and files. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// The first of the errors of [`Config::examine`].
    pub fn load(options: &Options, tables: Tables, now: i64) -> Result<Config> {
        let (config, errors) = Config::examine(options, tables, now);
        errors.into_iter().next().map_or(Ok(config), Err)
    }

    /// Combines the options and files. `now` is in seconds since 1970. Returns what can be used of the configuration,
    /// and everything that is wrong with it.
    pub fn examine(options: &Options, tables: Tables, now: i64) -> (Config, Vec<anyhow::Error>) {
        let mut errors = Vec::new();
        let zone = options.timezone.clone().map_or_else(system_zone, Ok);
        let zone = zone.map_err(|e| errors.push(e)).unwrap_or(TimeZone::UTC);
        let clock = Clock { now: options.at.map_or(now, |at| at.as_second()), zone };
        let mut config = Config { policies: Vec::new(), clock, exact: false };
        let zrep = options.config.as_deref().filter(|path| !is_toml(path));
        let policies = match zrep {
            Some(path) => match of_zrep(path, options) {
                Ok((policy, exact)) => {
                    config.exact = exact;
                    vec![("**".to_owned(), policy)]
                }
                Err(e) => {
                    errors.push(e);
                    return (config, errors);
                }
            },
            None => native(options, tables),
        };
        if policies.is_empty() {
            errors
                .push(Exit::Config.error("no policy: specify --keep RULE, or -c FILE with a table [policy.\"GLOB\"]"));
        }
        for (glob, policy) in policies {
            match one(&glob, policy) {
                Ok(one) => config.policies.push(one),
                Err(e) => errors.push(e),
            }
        }
        (config, errors)
    }
}

/// Returns the policy of a file of zrep-expire, and whether it is one of its second version.
fn of_zrep(path: &Path, options: &Options) -> Result<(Policy, bool)> {
    if !options.rules().is_empty() {
        return Err(Exit::Usage.error("a file of zrep-expire has its own rules: leave --keep RULE out"));
    }
    let method = read_zrep(path)?;
    let exact = matches!(method, Method::Spacing(_));
    // A filter does not know what zrep has sent, and with tags the first version destroys only what was sent.
    let no_tags = options.zrep_ignore || options.filter && !exact;
    let policy = Policy {
        method,
        newest: options.newest().unwrap_or(NEWEST_ZREP),
        received: false,
        max_destroy: options.max_destroy.unwrap_or(MaxDestroy::NoLimit),
        only_reported: false,
        tags: if no_tags { Vec::new() } else { options.tags.clone() },
    };
    Ok((policy, exact))
}

/// Returns the policies of `--keep RULE` and of the tables, with their globs.
fn native(options: &Options, tables: Tables) -> Vec<(String, Policy)> {
    let (newest, given) = (options.newest(), options.rules());
    let reference = relative_to(&options.relative_to).unwrap_or_default();
    let policy = |keep: Vec<Rule>, reference| Policy {
        method: Method::Rules(keep, reference),
        newest: newest.unwrap_or(NEWEST),
        received: false,
        max_destroy: options.max_destroy.unwrap_or(MaxDestroy::Percent(50)),
        // With --filter, another program destroys what is printed, even with -n or --at: keep the limit.
        only_reported: options.max_destroy.is_none() && !options.filter && (options.noop || options.at.is_some()),
        tags: options.tags.clone(),
    };
    let all = (!given.is_empty()).then(|| ("**".to_owned(), policy(given.clone(), reference)));
    let of_table = |(glob, table): (String, Table)| {
        // --keep replaces only the rules, not facts about the datasets, such as that they were received.
        let keep = if given.is_empty() { table.keep } else { given.clone() };
        let general = policy(keep, table.relative_to.unwrap_or(reference));
        let policy = Policy {
            newest: table.newest.unwrap_or(general.newest).max(1),
            received: table.received,
            max_destroy: table.max_destroy.unwrap_or(general.max_destroy),
            only_reported: general.only_reported && table.max_destroy.is_none(),
            ..general
        };
        (glob, policy)
    };
    all.into_iter().chain(tables.policy.into_iter().map(of_table)).collect()
}

fn one(text: &str, policy: Policy) -> Result<(String, Glob, Policy)> {
    if text.is_empty() || text.ends_with('/') || text.contains('@') {
        return Err(
            Exit::Config.error(format!("[policy.\"{text}\"] is for no dataset: write a name, as tank/home or tank/**"))
        );
    }
    let glob = text.parse().map_err(|why: String| Exit::Config.error(format!("[policy]: {why}")))?;
    Ok((text.to_owned(), glob, policy))
}

/// Returns the time zone of the system. An unknown name is an error: it would be read as UTC, and days would
/// begin at the wrong time.
fn system_zone() -> Result<TimeZone> {
    TimeZone::try_system().or_else(|_| match std::env::var_os("TZ").filter(|name| !name.is_empty()) {
        Some(name) => Err(Exit::Config.error(format!(
            "TZ={} is not a known time zone (package tzdata): specify --timezone",
            name.to_string_lossy()
        ))),
        None => Ok(TimeZone::unknown()),
    })
}

/// Returns whether a file is a native one, which is named `*.toml`, rather than one of zrep-expire.
pub fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

/// Reads a file of zrep-expire. The first line with a rule determines the version.
fn read_zrep(path: &Path) -> Result<Method> {
    let mut bytes = Vec::new();
    trusted::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).or_exit(Exit::Config, path.display())?;
    // Lossy, because a comment may be in any character set.
    let text = String::from_utf8_lossy(&bytes);
    parse_zrep(text.trim_start_matches('\u{feff}')).map_err(|(line, why)| {
        let toml = if text.contains('=') { "; the name of a file with keys ends in .toml" } else { "" };
        Exit::Config.error(format!("{}:{line}: {why}{toml}", path.display()))
    })
}

/// Parses a file of zrep-expire. An error has the number of the line and what is wrong.
fn parse_zrep(text: &str) -> Result<Method, (usize, String)> {
    let (mut windows, mut rules) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let at = |why| (number + 1, why);
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        // A dated rule has no colon.
        if rules.is_empty() && (line.contains(':') || !windows.is_empty()) {
            windows.push(zrep_v2::window(line).map_err(at)?);
        } else {
            rules.push(zrep_v1::rule(line).map_err(at)?);
        }
    }
    match (windows.is_empty(), rules.is_empty()) {
        (true, true) => Err((1, "has no rule: write MAX_AGE : MIN_INTERVAL, or six fields".into())),
        (_, true) => Ok(Method::Spacing(windows)),
        _ => Ok(Method::Dated(rules)),
    }
}
