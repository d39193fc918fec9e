//! The configuration, checked: nothing behind this module sees TOML.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::options::{self, size};
use zsnap_common::names::digest::sha256_hex;
use zsnap_common::names::glob::Glob;
use zsnap_common::names::target::{Dataset, Host, Target};
use zsnap_common::process::zfs::Zfs;
use zsnap_message::keys::Keyring;
use zsnap_message::open::Signers;
use zsnap_message::payload::PayloadKind;

use crate::cli::{Options, TrustLevel, count};
use crate::property::AllowedProperty;
use crate::receive::Receiving;

/// The tables of `ingest.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// Who may send.
    #[serde(default)]
    pub hosts: BTreeMap<Host, HostTable>,
    /// Who receives what is not a ZFS stream: the first match.
    #[serde(default)]
    pub command: Vec<CommandTable>,
}

/// `[hosts.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostTable {
    /// How the host proves itself.
    #[serde(default)]
    pub trust: TrustLevel,
    /// Certificates that sign for it.
    #[serde(default)]
    pub signers: Vec<PathBuf>,
    /// Its NNCP node id, as in `NNCP_SENDER`.
    #[serde(default)]
    pub nncp_sender: Option<String>,
    /// Datasets that it never sends, made for others to lie in.
    #[serde(default)]
    pub create_parents: Vec<Dataset>,
    /// Its own bounds, instead of the general ones.
    #[serde(default, deserialize_with = "some_count")]
    pub max_files: Option<u64>,
    #[serde(default, deserialize_with = "some_size")]
    pub max_bytes: Option<u64>,
    #[serde(default, deserialize_with = "some_size")]
    pub max_size: Option<u64>,
    #[serde(default, deserialize_with = "some_count")]
    pub max_ratio: Option<u64>,
    /// Properties of its datasets, `PROPERTY=VALUE`, beside the general ones.
    #[serde(default)]
    pub set: Vec<String>,
    /// Properties that its datasets inherit, beside the general ones.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Told when nothing came for longer.
    #[serde(default, deserialize_with = "maybe_duration")]
    pub max_age: Option<Duration>,
}

/// `[[command]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandTable {
    /// Glob on HOST/DATASET.
    #[serde(rename = "match", deserialize_with = "glob")]
    pub matches: Glob,
    /// The command; it gets the plain stream on stdin.
    pub run: Vec<String>,
    /// Whom it runs as; `None`: as we do.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory that it changes.
    pub target: PathBuf,
    /// An increment over a newer state does no harm.
    #[serde(default)]
    pub overlap: bool,
}

fn maybe_duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    options::duration(&String::deserialize(d)?).map(Some).map_err(serde::de::Error::custom)
}

fn glob<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Glob, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

/// A string or a number, as the option of the same name takes it.
fn like_option<'de, D: serde::Deserializer<'de>, T>(
    d: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a number")]
    enum Given {
        Text(String),
        Number(i64),
    }
    let parsed = match Given::deserialize(d)? {
        Given::Text(text) => parse(&text),
        Given::Number(number) => parse(&number.to_string()),
    };
    parsed.map(Some).map_err(serde::de::Error::custom)
}

fn some_count<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    like_option(d, count)
}

fn some_size<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    like_option(d, size)
}

/// What a host may cost us: in one run, and by one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Queue files decrypted in one run.
    pub max_files: u64,
    /// Bytes of queue files read in one run.
    pub max_bytes: Option<u64>,
    /// Bytes of one plain stream.
    pub max_size: Option<u64>,
    /// Bytes of one plain stream for each byte of its file.
    pub max_ratio: u64,
}

/// All that decides whether a file is believed and who receives it. Another version may decide otherwise.
fn fingerprint(options: &Options, tables: &Tables) -> Result<String> {
    let bounds = (options.window_log, options.max_size, options.max_ratio);
    let version = (env!("CARGO_PKG_VERSION"), PayloadKind::ALL);
    let mut text = format!("{tables:?} {:?} {bounds:?} {version:?}", options.store).into_bytes();
    for path in options.keys.iter().chain(tables.hosts.values().flat_map(|table| &table.signers)) {
        text.extend(std::fs::read(path).or_exit(Exit::Config, path.display())?);
    }
    Ok(sha256_hex(&text))
}

/// Everything that a run needs, loaded and valid.
pub struct Config {
    /// Directory of one directory per host.
    pub incoming: Option<PathBuf>,
    /// Where ZFS streams go, and with what; `None`: they are held.
    pub store: Option<(String, Zfs)>,
    /// The state directory.
    pub state: PathBuf,
    /// Decrypts.
    pub keyring: Keyring,
    /// Verifies.
    pub signers: Signers,
    /// Who may send.
    pub hosts: BTreeMap<Host, HostTable>,
    /// Receivers of opaque streams.
    pub commands: Vec<CommandTable>,
    /// Messages up to this many bytes are held in memory: all hosts' together.
    pub verify_buffer: u64,
    /// Largest zstd window, log2.
    pub window_log: u32,
    /// When a receiver is given up.
    pub receive_timeout: Duration,
    /// What waits longer is told again.
    pub max_wait: Duration,
    /// Hosts that are served at the same time.
    pub jobs: usize,
    /// Tells one configuration from another: tables, keys, certificates.
    pub fingerprint: String,
    /// For hosts that have no bounds of their own.
    bounds: Bounds,
    properties: Vec<AllowedProperty>,
    /// Each host's own.
    host_properties: BTreeMap<Host, Vec<AllowedProperty>>,
}

impl Config {
    /// Loads keys and certificates and finds the programs.
    pub fn load(options: &Options, tables: Tables) -> Result<Config> {
        let store = match &options.store {
            Some(store) => {
                let dataset: Dataset = store.parse().or_exit(Exit::Config, "--store")?;
                // It stands in front of the last argument of `zfs receive`.
                if store.starts_with('-') {
                    return Err(Exit::Config.error(format!("--store: no pool is called \"{store}\"")));
                }
                Some((dataset.into(), Zfs::find(&options.zfs, &options.zpool)?))
            }
            None => None,
        };
        for command in &tables.command {
            let program = command.run.first().map_or("", String::as_str);
            if !program.starts_with('/') {
                return Err(Exit::Config.error(format!(
                    "[[command]] run: \"{program}\" is not an absolute path; write where the program is"
                )));
            }
            if !command.target.is_absolute() {
                let target = command.target.display();
                return Err(Exit::Config.error(format!("[[command]] target: \"{target}\" is not an absolute path")));
            }
        }
        let mut nodes = BTreeMap::new();
        for (host, table) in &tables.hosts {
            if let Some(other) = table.nncp_sender.as_ref().and_then(|node| nodes.insert(node, host)) {
                return Err(Exit::Config.error(format!(
                    "[hosts.{other}] and [hosts.{host}] have the same nncp-sender: who is it that sends?"
                )));
            }
            if table.trust == TrustLevel::Signature && table.signers.is_empty() {
                return Err(Exit::Config.error(format!(
                    "[hosts.{host}] lists no signers; add signers = [\"…{host}.cert\"] (zsnap-queue keygen makes one)"
                )));
            }
        }
        let general = properties(&options.set, &options.exclude, "--")?;
        let of_host = |(host, table): (&Host, &HostTable)| {
            Ok((host.clone(), properties(&table.set, &table.exclude, &format!("[hosts.{host}] "))?))
        };
        let host_properties = tables.hosts.iter().map(of_host).collect::<Result<_>>()?;
        if options.keys.is_empty() {
            return Err(Exit::Config.error("no key to decrypt with; specify --keys (zsnap-ingest keygen makes one)"));
        }
        let fingerprint = fingerprint(options, &tables)?;
        let of: HashMap<Host, Vec<PathBuf>> =
            tables.hosts.iter().map(|(host, table)| (host.clone(), table.signers.clone())).collect();
        Ok(Config {
            incoming: options.incoming.clone(),
            store,
            state: options::state_dir(options.state.as_deref(), "ingest")?,
            keyring: Keyring::load(&options.keys)?,
            signers: Signers::load(&of)?,
            hosts: tables.hosts,
            commands: tables.command,
            verify_buffer: options.verify_buffer,
            window_log: options.window_log,
            receive_timeout: options.receive_timeout,
            max_wait: options.max_wait,
            jobs: usize::from(options.jobs),
            fingerprint,
            bounds: Bounds {
                max_files: options.max_files,
                max_bytes: options.max_bytes,
                max_size: options.max_size,
                max_ratio: options.max_ratio,
            },
            properties: general,
            host_properties,
        })
    }

    /// What a host may cost: its own bounds, or the general ones.
    pub fn bounds(&self, host: &Host) -> Bounds {
        let Some(table) = self.hosts.get(host) else { return self.bounds };
        Bounds {
            max_files: table.max_files.unwrap_or(self.bounds.max_files),
            max_bytes: table.max_bytes.or(self.bounds.max_bytes),
            max_size: table.max_size.or(self.bounds.max_size),
            max_ratio: table.max_ratio.unwrap_or(self.bounds.max_ratio),
        }
    }

    /// How a host's ZFS streams are received; of a property that is said twice its own word counts.
    pub fn receiving(&self, host: &Host) -> Receiving {
        let own = self.host_properties.get(host).into_iter().flatten();
        Receiving { timeout: self.receive_timeout, properties: self.properties.iter().chain(own).cloned().collect() }
    }

    /// The receiver of an opaque target: the first whose glob fits.
    pub fn command_for(&self, target: &Target) -> Option<&CommandTable> {
        let name = target.to_string();
        self.commands.iter().find(|command| command.matches.matches(&name))
    }
}

fn properties(set: &[String], exclude: &[String], place: &str) -> Result<Vec<AllowedProperty>> {
    let wrong = |key: &str, why| Exit::Config.error(format!("{place}{key}: {why}"));
    let set = set.iter().map(|text| AllowedProperty::set(text).map_err(|why| wrong("set", why)));
    let exclude = exclude.iter().map(|name| AllowedProperty::exclude(name).map_err(|why| wrong("exclude", why)));
    set.chain(exclude).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use zsnap_message::keys::{Purpose, keygen};

    fn config(args: &[&str], tables: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("backup"), Purpose::Encrypt, false).unwrap();
        let key = dir.path().join("backup.key").display().to_string();
        let all = ["zsnap-ingest", "--state=/nonexistent", "--keys", &key].into_iter().chain(args.iter().copied());
        let options = crate::cli::Cli::try_parse_from(all).unwrap().options;
        Config::load(&options, toml::from_str(tables).unwrap()).unwrap()
    }

    #[test]
    fn a_host_has_its_own_bounds_or_the_general_ones() {
        let [a, b, unknown]: [Host; 3] = ["a", "b", "unknown"].map(|name| name.parse().unwrap());
        let trust = "trust = \"recipient\"";
        let own = "max-files = 7\nmax-bytes = \"10GiB\"\nmax-size = 1000\nmax-ratio = \"20\"";
        let tables = format!("[hosts.a]\n{trust}\n{own}\n[hosts.b]\n{trust}\nmax-size = \"1K\"");
        let default = Bounds { max_files: 10_000, max_bytes: None, max_size: None, max_ratio: 10_000 };
        let of_a = Bounds { max_files: 7, max_bytes: Some(10 << 30), max_size: Some(1000), max_ratio: 20 };
        let plain = config(&[], &tables);
        assert_eq!(plain.bounds(&a), of_a);
        assert_eq!(plain.bounds(&b), Bounds { max_size: Some(1024), ..default });
        assert_eq!(plain.bounds(&unknown), default);
        let given = config(&["--max-files=3", "--max-bytes=5", "--max-size=6", "--max-ratio=4"], &tables);
        let general = Bounds { max_files: 3, max_bytes: Some(5), max_size: Some(6), max_ratio: 4 };
        assert_eq!(given.bounds(&a), of_a);
        assert_eq!(given.bounds(&b), Bounds { max_size: Some(1024), ..general });
        assert_eq!(given.bounds(&unknown), general);
        assert_ne!(plain.fingerprint, given.fingerprint);
    }
}
