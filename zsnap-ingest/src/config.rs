//! The configuration, checked: nothing behind this module sees TOML.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use zsnap_common::digest::sha256_hex;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::glob::Glob;
use zsnap_common::keys::Keyring;
use zsnap_common::open::{Limits, Signers};
use zsnap_common::options;
use zsnap_common::target::{Dataset, Host, Target};
use zsnap_common::zfs::Zfs;

use crate::cli::{Options, TrustLevel};

/// The tables of `ingest.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// Who may send.
    #[serde(default)]
    pub hosts: BTreeMap<Host, HostTable>,
    /// Who receives what is no ZFS stream: the first match.
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

/// All that decides whether a file is believed and who receives it.
fn fingerprint(options: &Options, tables: &Tables) -> Result<String> {
    let mut text = format!("{tables:?} {:?} {}", options.store, options.window_log).into_bytes();
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
    /// Bounds for one file.
    pub limits: Limits,
    /// Files of one host that are looked at in one run.
    pub max_files: u64,
    /// What waits longer is told again.
    pub max_wait: Duration,
    /// Hosts that are served at the same time.
    pub jobs: usize,
    /// Tells one configuration from another: tables, keys, certificates.
    pub fingerprint: String,
}

impl Config {
    /// Loads keys and certificates and finds the programs.
    pub fn load(options: &Options, tables: Tables) -> Result<Config> {
        let store = match &options.store {
            Some(store) => {
                let dataset: Dataset = store.parse().or_exit(Exit::Config, "--store")?;
                Some((dataset.into(), Zfs::find(&options.zfs, &options.zpool)?))
            }
            None => None,
        };
        for command in &tables.command {
            let program = command.run.first().map_or("", String::as_str);
            if !program.starts_with('/') {
                return Err(Exit::Config
                    .error(format!("[[command]] run: \"{program}\" is no absolute path; write where the program is")));
            }
            if !command.target.is_absolute() {
                let target = command.target.display();
                return Err(Exit::Config.error(format!("[[command]] target: \"{target}\" is no absolute path")));
            }
        }
        for (host, table) in &tables.hosts {
            if table.trust == TrustLevel::Signature && table.signers.is_empty() {
                return Err(Exit::Config.error(format!(
                    "[hosts.{host}] lists no signers; add signers = [\"…{host}.cert\"] (zsnap-queue keygen makes one)"
                )));
            }
        }
        if options.keys.is_empty() {
            return Err(Exit::Config.error("no key to decrypt with; give --keys (zsnap-ingest keygen makes one)"));
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
            limits: Limits { verify_buffer: options.verify_buffer, window_log: options.window_log },
            max_files: 10_000,
            max_wait: options.max_wait,
            jobs: usize::from(options.jobs),
            fingerprint,
        })
    }

    /// The receiver of an opaque target: the first whose glob fits.
    pub fn command_for(&self, target: &Target) -> Option<&CommandTable> {
        let name = target.to_string();
        self.commands.iter().find(|command| command.matches.matches(&name))
    }
}
