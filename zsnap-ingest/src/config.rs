//! The configuration, validated. Code that uses this module does not deal with TOML.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::findings::of_parts;
use zsnap_common::cli::options;
use zsnap_common::cli::units::{self, like_option, size};
use zsnap_common::names::digest::sha256_hex;
use zsnap_common::names::glob::Glob;
use zsnap_common::names::target::{Dataset, Host, Target};
use zsnap_message::keys::Keyring;
use zsnap_message::open::Signers;
use zsnap_message::payload::PayloadKind;

use crate::cli::{Options, TrustLevel, count};
use crate::memory;
use crate::property::AllowedProperty;
use crate::receive::Receiving;
use crate::store::Store;

/// The tables of `ingest.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// The hosts that may send.
    #[serde(default)]
    pub hosts: BTreeMap<Host, HostTable>,
    /// The commands that receive opaque streams; the first that matches is used.
    #[serde(default)]
    pub command: Vec<CommandTable>,
}

impl options::Tables for Tables {
    fn resolve(&mut self, dir: &Path) {
        let signers = self.hosts.values_mut().flat_map(|table| &mut table.signers);
        let paths = signers.chain(self.command.iter_mut().map(|command| &mut command.target));
        // An empty path is not the directory of the file.
        for path in paths.filter(|path| !path.as_os_str().is_empty()) {
            *path = dir.join(&*path);
        }
    }
}

/// The table `[hosts.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostTable {
    /// How the host proves that a file is its own.
    #[serde(default)]
    pub trust: TrustLevel,
    /// The certificates that may sign for the host.
    #[serde(default)]
    pub signers: Vec<PathBuf>,
    /// The NNCP node id of the host, as in `NNCP_SENDER`.
    #[serde(default)]
    pub nncp_sender: Option<String>,
    /// Datasets that the host never sends, and that are created as parents of those that it sends.
    #[serde(default)]
    pub create_parents: Vec<Dataset>,
    /// The limits for this host, in place of the general ones; see [`Bounds`].
    #[serde(default, deserialize_with = "some_count")]
    pub max_files: Option<u64>,
    #[serde(default, deserialize_with = "some_size")]
    pub max_bytes: Option<u64>,
    #[serde(default, deserialize_with = "some_size")]
    pub max_size: Option<u64>,
    #[serde(default, deserialize_with = "some_count")]
    pub max_ratio: Option<u64>,
    /// Properties of its datasets, `PROPERTY=VALUE`, in addition to the general ones.
    #[serde(default)]
    pub set: Vec<String>,
    /// Properties that its datasets inherit, in addition to the general ones.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// If nothing has arrived for longer than this, it is reported.
    #[serde(default, deserialize_with = "maybe_duration")]
    pub max_age: Option<Duration>,
}

/// A table `[[command]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandTable {
    /// The glob that is matched against HOST/DATASET.
    #[serde(rename = "match", deserialize_with = "glob")]
    pub matches: Glob,
    /// The command, which receives the uncompressed stream on stdin.
    pub run: Vec<String>,
    /// The user who runs the command; `None`: the user who runs zsnap-ingest.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory that the command changes.
    pub target: PathBuf,
    /// Whether an incremental does no harm when it is applied over a newer state.
    #[serde(default)]
    pub overlap: bool,
}

fn glob<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Glob, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

fn maybe_duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    like_option(d, units::duration)
}

fn some_count<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    like_option(d, count)
}

fn some_size<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    like_option(d, size)
}

/// The limits for a host, in one run and for one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most queue files that are decrypted in one run.
    pub max_files: u64,
    /// The most bytes of queue files that are read in one run.
    pub max_bytes: Option<u64>,
    /// The most bytes of one uncompressed stream.
    pub max_size: Option<u64>,
    /// The most bytes of an uncompressed stream for each byte of its queue file.
    pub max_ratio: u64,
}

/// Returns a digest of everything that decides whether a file is accepted and what receives it. This includes the
/// version, because another one may decide otherwise.
fn fingerprint(options: &Options, tables: &Tables) -> Result<String> {
    // Without one of the general limits, a held file would stay held after that limit is raised.
    let bounds = (options.window_log, options.max_size, options.max_ratio);
    let version = (env!("CARGO_PKG_VERSION"), PayloadKind::ALL);
    let mut text = format!("{tables:?} {:?} {bounds:?} {version:?}", options.store).into_bytes();
    for path in options.keys.iter().chain(tables.hosts.values().flat_map(|table| &table.signers)) {
        text.extend(std::fs::read(path).or_exit(Exit::Config, path.display())?);
    }
    Ok(sha256_hex(&text))
}

/// Everything that a run needs, loaded and validated.
pub struct Config {
    /// The directory that has one directory per host.
    pub incoming: Option<PathBuf>,
    /// The store that ZFS streams are received into; `None`: ZFS streams are held.
    pub store: Option<Store>,
    /// The state directory of zsnap-ingest.
    pub state: PathBuf,
    /// The keys that decrypt queue files.
    pub keyring: Keyring,
    /// The certificates that verify signatures.
    pub signers: Signers,
    /// The hosts that may send.
    pub hosts: BTreeMap<Host, HostTable>,
    /// The commands that receive opaque streams.
    pub commands: Vec<CommandTable>,
    /// The bytes of memory that all hosts together may use to keep messages; larger messages are decrypted twice.
    pub verify_buffer: u64,
    /// Whether a file is verified while a receiver works on another one of its host.
    pub ahead: bool,
    /// The log2 of the largest zstd window that is accepted.
    pub window_log: u32,
    /// How long a receiver may read nothing, or run after its last byte, before it is killed.
    pub receive_timeout: Duration,
    /// A file that has waited for longer than this is reported as such.
    pub max_wait: Duration,
    /// The number of hosts that are processed at the same time.
    pub jobs: usize,
    /// Distinguishes this configuration from another: a digest of tables, keys and certificates.
    pub fingerprint: String,
    /// The limits for hosts that have none of their own.
    bounds: Bounds,
    properties: Vec<AllowedProperty>,
    /// The properties that are set for one host only.
    host_properties: BTreeMap<Host, Vec<AllowedProperty>>,
}

impl Config {
    /// Loads keys and certificates, and finds the programs.
    ///
    /// # Errors
    /// The first of the errors of [`Config::examine`].
    pub fn load(options: &Options, tables: Tables) -> Result<Config> {
        Config::examine(options, tables).map_err(|errors| {
            errors.into_iter().next().unwrap_or_else(|| Exit::Config.error("the configuration cannot be used"))
        })
    }

    /// Loads keys and certificates, and finds the programs.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn examine(options: &Options, tables: Tables) -> Result<Config, Vec<anyhow::Error>> {
        let mut errors = Vec::new();
        let store = note(&mut errors, Store::of(options)).flatten();
        let missing = store.as_ref().filter(|_| tables.command.is_empty()).and_then(|store| store.programs().err());
        errors.extend(missing);
        errors.extend(tables.command.iter().flat_map(wrong_command));
        errors.extend(wrong_hosts(&tables.hosts));
        let general = note(&mut errors, properties(&options.set, &options.exclude, "--"));
        let mut host_properties = BTreeMap::new();
        for (host, table) in &tables.hosts {
            let own = properties(&table.set, &table.exclude, &format!("{} ", host.table()));
            host_properties.extend(note(&mut errors, own).map(|own| (host.clone(), own)));
        }
        let keyring = keyring(options).map_err(|e| errors.extend(e)).ok();
        let signers = signers(&tables.hosts).map_err(|e| errors.extend(e)).ok();
        let state = note(&mut errors, options::state_dir(options.state.as_deref(), "ingest"));
        // What cannot be read is among the errors already.
        let fingerprint = if errors.is_empty() { note(&mut errors, fingerprint(options, &tables)) } else { None };
        let (Some(keyring), Some(signers), Some(state), Some(properties), Some(fingerprint)) =
            (keyring, signers, state, general, fingerprint)
        else {
            return Err(errors);
        };
        Ok(Config {
            incoming: options.incoming.clone(),
            store,
            state,
            keyring,
            signers,
            hosts: tables.hosts,
            commands: tables.command,
            verify_buffer: options.verify_buffer.unwrap_or_else(memory::default_buffer),
            ahead: memory::is_plenty(usize::from(options.jobs), options.window_log),
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
            properties,
            host_properties,
        })
    }

    /// Returns the limits for a host: its own, or the general ones.
    pub fn bounds(&self, host: &Host) -> Bounds {
        let Some(table) = self.hosts.get(host) else { return self.bounds };
        Bounds {
            max_files: table.max_files.unwrap_or(self.bounds.max_files),
            max_bytes: table.max_bytes.or(self.bounds.max_bytes),
            max_size: table.max_size.or(self.bounds.max_size),
            max_ratio: table.max_ratio.unwrap_or(self.bounds.max_ratio),
        }
    }

    /// Returns how the ZFS streams of a host are received. If a property is set twice, the host's own setting applies.
    pub fn receiving(&self, host: &Host) -> Receiving {
        let own = self.host_properties.get(host).into_iter().flatten();
        Receiving { timeout: self.receive_timeout, properties: self.properties.iter().chain(own).cloned().collect() }
    }

    /// Returns the command for an opaque target: the first whose glob matches.
    pub fn command_for(&self, target: &Target) -> Option<&CommandTable> {
        let name = target.to_string();
        self.commands.iter().find(|command| command.matches.matches(&name))
    }
}

/// Returns the value, or adds the error to `errors`.
fn note<T>(errors: &mut Vec<anyhow::Error>, result: Result<T>) -> Option<T> {
    result.map_err(|e| errors.push(e)).ok()
}

/// Loads the keys that decrypt.
fn keyring(options: &Options) -> Result<Keyring, Vec<anyhow::Error>> {
    if options.keys.is_empty() {
        let message = "no key to decrypt with; specify --decryption-key (zsnap-ingest keygen makes one)";
        return Err(vec![Exit::Config.error(message)]);
    }
    let alone = |file| Keyring::load(std::slice::from_ref(file));
    Keyring::load(&options.keys).map_err(|e| of_parts(e, options.keys.iter().map(alone)))
}

/// Loads the certificates that verify signatures.
fn signers(hosts: &BTreeMap<Host, HostTable>) -> Result<Signers, Vec<anyhow::Error>> {
    let of: HashMap<Host, Vec<PathBuf>> =
        hosts.iter().map(|(host, table)| (host.clone(), table.signers.clone())).collect();
    let files = hosts.iter().flat_map(|(host, table)| table.signers.iter().map(move |file| (host, file)));
    let alone = |(host, file): (&Host, &PathBuf)| Signers::load(&[(host.clone(), vec![file.clone()])].into());
    Signers::load(&of).map_err(|e| of_parts(e, files.map(alone)))
}

/// Returns what is wrong with a table of a command: a program that cannot be found from its path, or no target.
fn wrong_command(command: &CommandTable) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let program = command.run.first().map_or("", String::as_str);
    if !program.starts_with('/') {
        errors.push(format!("[[command]] run: \"{program}\" is not an absolute path; write where the program is"));
    }
    if !command.target.is_absolute() {
        errors.push(format!("[[command]] target: \"{}\" is not a path", command.target.display()));
    }
    errors.into_iter().map(|why| Exit::Config.error(why)).collect()
}

/// Returns an error for each host that cannot be told from another one, or that nobody may sign for.
fn wrong_hosts(hosts: &BTreeMap<Host, HostTable>) -> Vec<anyhow::Error> {
    let (mut nodes, mut errors) = (BTreeMap::new(), Vec::new());
    for (host, table) in hosts {
        if let Some(other) = table.nncp_sender.as_ref().and_then(|node| nodes.insert(node, host)) {
            let (other, host) = (other.table(), host.table());
            errors.push(format!("{other} and {host} have the same nncp-sender: who is it that sends?"));
        }
        if table.trust == TrustLevel::Signature && table.signers.is_empty() {
            errors.push(format!(
                "{} lists no signers; add signers = [\"…{host}.cert\"] (zsnap-queue keygen makes one)",
                host.table()
            ));
        }
    }
    errors.into_iter().map(|why| Exit::Config.error(why)).collect()
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
        let all =
            ["zsnap-ingest", "--state=/nonexistent", "--decryption-key", &key].into_iter().chain(args.iter().copied());
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
