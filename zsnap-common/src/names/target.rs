//! Targets: a host and a dataset on it, as in `laptop/tank/home`.
//!
//! Names follow ZFS's own grammar (OpenZFS `module/zcommon/zfs_namecheck.c`): components of
//! `[A-Za-z0-9_.: -]`, never empty, `.` or `..`. So a name never contains `@` or `~`, on which the
//! names of queue files rely, and never leads out of a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stored::real;

/// The maximum length of a dataset name in bytes, as in ZFS; it also limits the name below a store.
pub const MAX_NAME: usize = 255;
const MAX_HOST: usize = 40;
/// The maximum number of slashes in a dataset name (OpenZFS `zfs_max_dataset_nesting`).
const MAX_DEPTH: usize = 49;

/// Why a name is refused, as a text for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError(String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NameError {}

impl NameError {
    /// Makes an error from a name and `why`, which continues the sentence: "is longer than 40 bytes".
    pub fn new(name: &str, why: &str) -> NameError {
        NameError(format!("\"{}\" {why}", name.escape_default()))
    }
}

fn refuse<T>(name: &str, why: &str) -> Result<T, NameError> {
    Err(NameError::new(name, why))
}

/// Checks one component of a ZFS name. The same rules apply to the name of a snapshot.
pub fn check_component(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return refuse(name, "has an empty component");
    }
    if name == "." || name == ".." {
        return refuse(name, "is not a name");
    }
    match name.bytes().find(|b| !b.is_ascii_alphanumeric() && !b"_.: -".contains(b)) {
        Some(_) => refuse(name, "holds a character other than A-Z a-z 0-9 _ . : - and space"),
        None => Ok(()),
    }
}

/// Checks the name of a dataset or a pool of this machine (`tank`, `tank/home`) before it becomes an
/// argument of `zfs` or `zpool`. The name of a pool begins with a letter, so an accepted name is never an
/// option, a snapshot, or several names.
///
/// # Errors
/// If ZFS would not accept the name; the error quotes it and states why.
pub fn check_dataset(name: &str) -> Result<(), NameError> {
    name.parse::<Dataset>()?;
    match name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        true => Ok(()),
        false => refuse(name, "is not a dataset name: a pool's name begins with a letter"),
    }
}

/// The name of a machine that is backed up: one component, at most 40 bytes, not starting with
/// `.` (hidden files) or `-` (options).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

/// A dataset on a host, with its pool: `tank/home`. The names of opaque streams have the same grammar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dataset(String);

/// A dataset of a host: `laptop/tank/home`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The host, which is the first component.
    pub host: Host,
    /// The dataset, which is the rest.
    pub dataset: Dataset,
}

impl FromStr for Host {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        check_component(name)?;
        if name.starts_with(['.', '-']) {
            return refuse(name, "starts with . or -");
        }
        if name.len() > MAX_HOST {
            return refuse(name, "is longer than 40 bytes");
        }
        Ok(Host(name.to_owned()))
    }
}

impl Host {
    /// Returns the host whose files a directory with this name has, in whichever form the file system stores it.
    pub fn of_directory(name: &OsStr) -> Option<Host> {
        real(name.to_str()?)?.parse().ok()
    }
}

/// Returns two hosts whose names differ only in case, if there are such: a file system that ignores case has only one
/// directory for both.
pub fn differ_in_case<'h>(hosts: impl IntoIterator<Item = &'h Host>) -> Option<(&'h Host, &'h Host)> {
    let mut seen: HashMap<String, &Host> = HashMap::new();
    hosts.into_iter().find_map(|host| {
        let first = *seen.entry(host.as_str().to_ascii_lowercase()).or_insert(host);
        (first != host).then_some((first, host))
    })
}

impl FromStr for Dataset {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        if name.len() > MAX_NAME {
            return refuse(name, "is longer than 255 bytes");
        }
        if name.matches('/').count() > MAX_DEPTH {
            return refuse(name, "has more than 49 slashes");
        }
        name.split('/')
            .try_for_each(check_component)
            .or_else(|e| refuse(name, &format!("is not a dataset name: {e}")))?;
        Ok(Dataset(name.to_owned()))
    }
}

impl FromStr for Target {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        let Some((host, dataset)) = name.split_once('/') else {
            return refuse(name, "is not HOST/DATASET");
        };
        Ok(Target { host: host.parse()?, dataset: dataset.parse()? })
    }
}

impl Target {
    /// Returns the target that an operand names. With `strip`, the operand must lie below that prefix
    /// (`tank/simplesnap/laptop/tank/home` below `tank/simplesnap`), so that a wrong `--strip`
    /// never queues under a wrong name.
    pub fn from_operand(raw: &OsStr, strip: Option<&str>) -> Result<Target, NameError> {
        let Some(name) = raw.to_str() else {
            return refuse(&raw.to_string_lossy(), "is not valid UTF-8");
        };
        let Some(prefix) = strip else { return name.parse() };
        match name.strip_prefix(prefix.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => rest.parse(),
            None => refuse(name, &format!("does not lie below \"{}\", which --strip names", prefix.escape_default())),
        }
    }

    /// Returns the name of the target's dataset below `store`, or an error if it is too long or deep for ZFS.
    pub fn under(&self, store: &str) -> Result<String, NameError> {
        let name = format!("{store}/{self}");
        name.parse::<Dataset>().map(|_| name)
    }
}

impl Dataset {
    /// Returns the parent dataset, if any: `tank` for `tank/home`.
    pub fn parent(&self) -> Option<Dataset> {
        self.0.rsplit_once('/').map(|(parent, _)| Dataset(parent.to_owned()))
    }
}

macro_rules! is_a_string {
    ($name:ident) => {
        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}
is_a_string!(Host);
is_a_string!(Dataset);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.dataset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn only_names_that_zfs_allows_are_targets() {
        for good in ["laptop/tank", "h/tank/a b", "h/tank/-a", "h/tank/.a", "h/a..b", "h_1/x:y", "h/ "] {
            assert_eq!(good.parse::<Target>().map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "", "/", "laptop", "laptop/", "/tank", "a//b", "a/..", "../a", "a/./b", "a/b/", "-a/b", ".a/b", "a/b@c",
            "a/b\n", "a/b%c", "a/ü", "a/b~", "a/b\\c", "a/b;c",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_dataset_name_never_looks_like_an_option() {
        for good in ["tank", "tank/home", "tank/-r", "tank/a b", "t", "T-1/x:y"] {
            assert_eq!(check_dataset(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-",
            "-r",
            "--",
            "-r/a",
            "/tank",
            "tank/",
            "1tank",
            "_tank",
            ".tank",
            " tank",
            "tank@s",
            "tank/a@s",
            "tank#b",
            "a,b",
            "a%b",
            "tank/..",
            "tank\n",
            "tank\t-r",
            "t\u{e4}nk",
            "../tank",
        ] {
            assert!(check_dataset(bad).is_err(), "{bad:?}");
        }
        assert!(check_dataset(&format!("t{}", "d".repeat(255))).is_err());
    }

    #[test]
    fn the_lengths_of_names_are_limited_as_in_zfs() {
        assert!(format!("{}/a", "h".repeat(40)).parse::<Target>().is_ok());
        assert!(format!("{}/a", "h".repeat(41)).parse::<Target>().is_err());
        assert!("d".repeat(255).parse::<Dataset>().is_ok());
        assert!("d".repeat(256).parse::<Dataset>().is_err());
        assert!(["d"; 50].join("/").parse::<Dataset>().is_ok());
        assert!(["d"; 51].join("/").parse::<Dataset>().is_err());
        let target: Target = format!("h/{}", "d".repeat(250)).parse().unwrap();
        assert!(target.under("pp").is_ok());
        assert!(target.under("ppp").is_err());
    }

    #[test]
    fn a_directory_belongs_to_one_host_in_either_form() {
        let of = |name: &str| Host::of_directory(name.as_ref()).map(String::from);
        for name in ["laptop", "a:b", "con", "h."] {
            assert_eq!((of(name), of(&crate::names::stored::stored(name))), (Some(name.into()), Some(name.into())));
        }
        for other in [".zsnap-fanout", "a%3ab", "a%", "a@b"] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(Host::of_directory(OsStr::from_bytes(b"\xff")), None);
    }

    #[test]
    fn hosts_that_differ_only_in_case_are_found() {
        let found = |names: &[&str]| {
            let hosts: Vec<Host> = names.iter().map(|name| name.parse().unwrap()).collect();
            differ_in_case(&hosts).map(|(a, b)| [a.to_string(), b.to_string()])
        };
        assert_eq!(found(&["a", "Laptop", "b", "laptop"]), Some(["Laptop".into(), "laptop".into()]));
        assert_eq!(found(&["a", "b", "a", "ab"]), None);
    }

    #[test]
    fn an_operand_must_lie_below_the_prefix() {
        let of = |raw: &str, strip| Target::from_operand(raw.as_ref(), strip).map(|t| t.to_string());
        assert_eq!(of("tank/simplesnap/laptop/tank/home", Some("tank/simplesnap")), Ok("laptop/tank/home".into()));
        assert_eq!(of("tank/simplesnap/laptop/tank", Some("tank/simplesnap/")), Ok("laptop/tank".into()));
        for wrong in ["tank/simplesnap2/laptop/tank", "laptop/tank", "tank/simplesnap", "tank/simplesnap/"] {
            assert!(of(wrong, Some("tank/simplesnap")).is_err(), "{wrong}");
        }
        assert!(Target::from_operand(OsStr::from_bytes(b"a/\xff"), None).is_err());
    }
}
