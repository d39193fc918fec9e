//! The configured destinations, validated. They come from `--to NAME=DEST` or from the tables
//! `[to.NAME]`; no other module handles TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Deserializer};
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::{options, units};
use zsnap_common::durable::dest::{self, Dest, Mark, Transport};
use zsnap_common::names::glob::Glob;
use zsnap_common::names::target::Host;

use crate::cli::Options;
use crate::name::Name;

/// The tables of `fanout.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    #[serde(default)]
    to: BTreeMap<Name, Table>,
}

impl options::Tables for Tables {
    fn resolve(&mut self, dir: &Path) {
        for config in self.to.values_mut().filter_map(|table| table.nncp_config.as_mut()) {
            *config = dir.join(&*config);
        }
    }
}

/// A table `[to.NAME]`. Its keys take precedence over the options of the same names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    dest: Dest,
    /// Globs for the hosts whose files the destination receives; `None` for all hosts.
    hosts: Option<Vec<String>>,
    nncp_config: Option<PathBuf>,
    #[serde(default, deserialize_with = "nice")]
    nice: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    keep: Option<Duration>,
    #[serde(default, deserialize_with = "size")]
    min_free: Option<u64>,
    verify: Option<bool>,
    #[serde(default, deserialize_with = "max_file")]
    max_file: Option<u64>,
    #[serde(default, deserialize_with = "duration")]
    delivery_timeout: Option<Duration>,
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    units::like_option(d, units::duration)
}

fn nice<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    units::like_option(d, dest::nice)
}

fn max_file<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    units::like_option(d, dest::max_file)
}

fn size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    units::like_option(d, units::size)
}

/// A destination with a name and an outbox.
#[derive(Clone, Debug)]
pub struct Drive {
    /// The name of the destination and of its outbox.
    pub name: String,
    /// The address of the destination.
    pub dest: Dest,
    /// How files are delivered to that address.
    pub transport: Transport,
    /// How long delivered files are kept; `None` if they are not kept.
    pub keep: Option<Duration>,
    /// Globs for the hosts whose files the destination receives; `None` for all hosts.
    hosts: Option<Vec<Glob>>,
}

impl Drive {
    /// Returns whether the destination receives the files of this host.
    pub fn takes(&self, host: &Host) -> bool {
        self.hosts.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(host.as_str())))
    }
}

/// Returns the configured destinations, sorted by name.
///
/// # Errors
/// The first of the errors of [`examine`].
pub fn configured(options: &Options, tables: Tables) -> Result<Vec<Drive>> {
    let (drives, errors) = examine(options, tables);
    errors.into_iter().next().map_or(Ok(drives), Err)
}

/// Returns the configured destinations, sorted by name, and everything that is wrong with them. Each error has the
/// status [`Exit::Config`]. Two names with the same address are one, because they would be counted as two copies.
pub fn examine(options: &Options, tables: Tables) -> (Vec<Drive>, Vec<anyhow::Error>) {
    let (mut drives, mut errors) = (Vec::new(), Vec::new());
    if options.to.is_empty() {
        for (name, table) in tables.to {
            match from_table(name, table, options) {
                Ok(drive) => drives.push(drive),
                Err(e) => errors.push(e),
            }
        }
    } else {
        // The option `--to` replaces all tables.
        drives.extend(options.to.iter().map(|given| plain(given.name.clone(), given.dest.clone(), options)));
        drives.sort_by(|a, b| a.name.cmp(&b.name));
    }
    for (i, drive) in drives.iter().enumerate() {
        errors.extend(wrong(drive, drives.get(..i).unwrap_or_default()).map(|why| Exit::Config.error(why)));
    }
    (drives, errors)
}

/// Returns what is wrong with a destination, alone or together with those before it.
fn wrong(drive: &Drive, before: &[Drive]) -> Option<String> {
    if drive.dest == Dest::Stdout {
        return Some(format!("{}: standard output takes no finished files", drive.name));
    }
    let same = |other: &&Drive| {
        let in_same_network = matches!(drive.dest, Dest::Dir(_) | Dest::Command(_))
            || other.transport.nncp_config == drive.transport.nncp_config;
        other.name == drive.name || other.dest == drive.dest && in_same_network
    };
    let other = before.iter().find(same)?;
    let (a, b, dest) = (&other.name, &drive.name, &drive.dest);
    Some(match a == b {
        true => format!("the drive {a} is given twice: one name, one drive"),
        false => format!("the drives {a} and {b} are both {dest}: two names would pass for two copies"),
    })
}

fn plain(Name(name): Name, dest: Dest, options: &Options) -> Drive {
    let transport = Transport {
        user: None,
        nncp_config: options.nncp_config.clone(),
        nice: options.nice.clone(),
        nncp_file: options.nncp_file_program.clone(),
        nncp_exec: options.nncp_exec_program.clone(),
        timeout: dest::patience(options.delivery_timeout),
        apart: true,
        host_directory: true,
        mark: Mark::Named(name.clone()),
        min_free: options.min_free,
        verify: options.verify,
        max_file: options.max_file,
    };
    Drive { name, dest, transport, keep: options.keep, hosts: None }
}

fn from_table(name: Name, table: Table, options: &Options) -> Result<Drive> {
    let drive = plain(name, table.dest, options);
    let glob = |text: &String| {
        text.parse::<Glob>().map_err(|why| Exit::Config.error(format!("[to.{}] hosts: {why}", drive.name)))
    };
    let hosts = table.hosts.map(|globs| globs.iter().map(glob).collect::<Result<Vec<_>>>()).transpose()?;
    let transport = Transport {
        nncp_config: table.nncp_config.or(drive.transport.nncp_config),
        nice: table.nice.or(drive.transport.nice),
        timeout: table.delivery_timeout.map_or(drive.transport.timeout, dest::patience),
        min_free: table.min_free.unwrap_or(drive.transport.min_free),
        verify: table.verify.unwrap_or(drive.transport.verify),
        max_file: table.max_file.or(drive.transport.max_file),
        ..drive.transport
    };
    Ok(Drive { transport, keep: table.keep.or(drive.keep), hosts, ..drive })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Given;
    use clap::Parser;

    fn drives(args: &[&str], tables: &str) -> Result<Vec<Drive>> {
        let args = ["zsnap-fanout", "--nice", "B"].iter().chain(args);
        let options = crate::cli::Cli::try_parse_from(args).unwrap().options;
        configured(&options, toml::from_str(tables)?)
    }

    #[track_caller]
    fn assert_rejected(args: &[&str], tables: &str, says: &str) {
        let e = drives(args, tables).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }

    #[test]
    fn the_table_of_a_drive_overrides_the_options() {
        let tables = "[to.b]\ndest = \"dir:/b\"\n\
            [to.a]\ndest = \"nncp-file:n\"\nnice = \"P\"\nhosts = [\"lap*\", \"srv\"]\nkeep = \"14d\"\nmin-free = 1073741824\nverify = true\nmax-file = \"4GiB\"\ndelivery-timeout = 0";
        let found = drives(&["--min-free=7", "--max-file=2M"], tables).unwrap();
        let [a, b] = &found[..] else { panic!("{found:?}") };
        assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
        assert_eq!((a.transport.nice.as_deref(), b.transport.nice.as_deref()), (Some("P"), Some("B")));
        assert_eq!((a.transport.min_free, b.transport.min_free), (1 << 30, 7));
        assert_eq!((a.transport.verify, b.transport.verify), (true, false));
        assert_eq!((a.transport.max_file, b.transport.max_file), (Some(4 << 30), Some(2 << 20)));
        assert_eq!((a.keep, b.keep), (Some(Duration::from_secs(14 * 86_400)), None));
        let takes = |drive: &Drive| ["laptop", "srv", "srv2"].map(|host| drive.takes(&host.parse().unwrap()));
        assert_eq!((takes(a), takes(b)), ([true, true, false], [true; 3]));
        assert_eq!(a.transport.mark, Mark::Named("a".into()));
    }

    #[test]
    fn drives_of_the_command_line_replace_the_tables() {
        let found = drives(&["--to=y=dir:/y", "--to=x=cmd:a=b"], "[to.a]\ndest = \"dir:/a\"").unwrap();
        assert_eq!(
            found.iter().map(|d| format!("{}={}", d.name, d.dest)).collect::<Vec<_>>(),
            ["x=cmd:a=b", "y=dir:/y"]
        );
    }

    #[test]
    fn drives_that_cannot_hold_separate_copies_are_rejected() {
        assert!(drives(&[], "").unwrap().is_empty());
        assert_rejected(&["--to=x=-"], "", "standard output");
        assert_rejected(&["--to=x=dir:/a", "--to=x=dir:/b"], "", "given twice");
        assert_rejected(&["--to=x=dir:/a", "--to=y=dir:/a"], "", "x and y are both dir:/a");
        assert_rejected(&["--to=x=cmd:a b", "--to=y=cmd:a b"], "", "x and y are both cmd:a b");
        let tables = "[to.a]\ndest = \"dir:/a\"\n[to.b]\ndest = \"dir:/a/\"\nnncp-config = \"/b.hjson\"";
        assert_rejected(&[], tables, "a and b are both dir:/a");
        let tables = "[to.a]\ndest = \"nncp-file:n\"\n[to.b]\ndest = \"nncp-file:n\"\n";
        assert_rejected(&[], tables, "both nncp-file:n");
        assert!(drives(&[], &format!("{tables}nncp-config = \"/b.hjson\"")).is_ok());
        let mut file: Tables = toml::from_str(&format!("{tables}nncp-config = \"b.hjson\"")).unwrap();
        options::Tables::resolve(&mut file, Path::new("/etc/zsnap"));
        assert_eq!(file.to[&Name("b".into())].nncp_config.as_deref(), Some(Path::new("/etc/zsnap/b.hjson")));
    }

    #[test]
    fn a_drive_name_is_a_visible_directory_name() {
        for (name, good) in
            [("disk1", true), ("a.b-c_D", true), ("", false), (".x", false), ("-x", false), ("a/b", false)]
        {
            assert_eq!(name.parse::<Name>().is_ok(), good, "{name}");
        }
        assert!("x".parse::<Given>().is_err() && "x=".parse::<Given>().is_err() && "x=dir:/a".parse::<Given>().is_ok());
    }
}
