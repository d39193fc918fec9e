//! Names of destinations, and `NAME=DEST` on the command line.

use std::str::FromStr;

use serde::Deserialize;
use zsnap_common::durable::dest::Dest;

/// The argument `NAME=DEST` of `--to`.
#[derive(Clone, Debug)]
pub struct Given {
    /// The name of the destination.
    pub name: Name,
    /// The address of the destination.
    pub dest: Dest,
}

impl FromStr for Given {
    type Err = String;
    fn from_str(text: &str) -> Result<Given, String> {
        let (name, dest) = text.split_once('=').ok_or("write NAME=DEST: disk1=nncp-file:backupdisk1")?;
        Ok(Given { name: name.parse()?, dest: dest.parse()? })
    }
}

/// The name of a destination, which is also the name of its outbox directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = String;
    fn from_str(text: &str) -> Result<Name, String> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= 64 && text.bytes().all(good) {
            return Ok(Name(text.to_owned()));
        }
        Err(format!("\"{}\" is not a name of a drive: use A-Z a-z 0-9 _ . and -, at most 64", text.escape_default()))
    }
}

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Name, String> {
        text.parse()
    }
}
