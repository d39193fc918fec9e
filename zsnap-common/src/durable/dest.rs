//! Destinations, to which whole queue files are delivered. zsnap-queue and zsnap-fanout use one grammar: `dir:PATH`,
//! `nncp-file:NODE[/SUB]`, `nncp-exec:NODE:HANDLE`, `cmd:SHELL COMMAND`, `-`.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{CWD, Mode};
use serde::{Deserialize, Serialize};

use crate::cli::units;
use crate::durable::publish::{REGULAR, at_path};
use crate::names::digest::sha256_hex;
use crate::names::queue_name::{Label, QueueName};
use crate::names::target::{Host, check_component};

mod courier;
pub mod dir;
mod hang;
pub mod mark;
pub mod nncp;
mod program;
pub mod worker;

pub use crate::process::hung::hangs;
pub use courier::{Courier, look, probe};
pub use mark::Mark;

/// The default of `--delivery-timeout`.
const DEFAULT: Duration = Duration::from_secs(3600);

/// A destination. `Display` and `FromStr` are each other's inverse.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dest {
    /// `dir:PATH`: a file becomes HOST/FILE below a directory, exactly once.
    Dir(PathBuf),
    /// `nncp-file:NODE[/SUB]`: a file is sent by nncp-file, at least once.
    NncpFile {
        /// The name or id of a node, or `area:AREA`.
        node: String,
        /// A directory below the receiver's `incoming`.
        sub: Option<String>,
    },
    /// `nncp-exec:NODE:HANDLE`: a file is sent to the standard input of an NNCP exec handle, at least once.
    NncpExec {
        /// The name or id of a node, or `area:AREA`.
        node: String,
        /// The name of the handle.
        handle: String,
    },
    /// `cmd:SHELL COMMAND`: a file is the standard input of a command, at least once.
    Command(String),
    /// `-`: standard output, to which finished files cannot be delivered.
    Stdout,
}

/// A file to deliver.
#[derive(Debug)]
pub struct Item {
    /// The original name of the queue file.
    pub name: String,
    /// The name of the link in the outbox, see [`Queued`](crate::durable::outbox::Queued).
    pub entry: String,
    /// The original name, parsed.
    pub parsed: QueueName,
    /// The file, open for reading.
    pub file: File,
}

impl Item {
    /// Opens the file HOST/ENTRY of the outbox whose directory, OUT/NAME, is `outbox`. `name` is its original name.
    pub fn open(outbox: &Path, host: &Host, entry: String, name: String) -> anyhow::Result<Item> {
        let path = outbox.join(host.as_str()).join(&entry);
        let file = rustix::fs::openat(CWD, &path, REGULAR, Mode::empty()).map_err(at_path(&path))?.into();
        Ok(Item { parsed: name.parse()?, name, entry, file })
    }

    /// Returns the host and label, whose files must be delivered in order.
    pub fn line(&self) -> (Host, Label) {
        (self.parsed.host.clone(), self.parsed.label.clone())
    }
}

/// The options of deliveries.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// The user to run programs as. `None`: the user of this process.
    pub user: Option<String>,
    /// The path of NNCP's configuration file. `None`: NNCP's default.
    pub nncp_config: Option<PathBuf>,
    /// The niceness of NNCP packets. `None`: NNCP's default.
    pub nice: Option<String>,
    /// The program nncp-file.
    pub nncp_file: PathBuf,
    /// The program nncp-exec.
    pub nncp_exec: PathBuf,
    /// How long a process may neither read nor write before it is aborted. `None`: no limit.
    pub timeout: Option<Duration>,
    /// Whether a separate process ([`worker`]) accesses a `dir:`. The program must then call [`worker::serve`].
    pub apart: bool,
    /// Whether nncp-file sends `HOST/FILE` rather than `FILE`, for senders of several hosts' files.
    pub host_directory: bool,
    /// The mark that a `dir:` must have; otherwise the destination is away.
    pub mark: Mark,
    /// The number of bytes that must stay free on the file system of a `dir:`.
    pub min_free: u64,
    /// Whether what was written to a `dir:` is read back and compared.
    pub verify: bool,
    /// The size in bytes from which on a `dir:` gets a file in parts of at most this size. `None`: it gets whole files
    /// only.
    pub max_file: Option<u64>,
}

/// The result of one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivered {
    /// The destination received the file.
    New,
    /// The destination already had the same bytes.
    Already,
    /// The destination is away (an unplugged drive), and why. Nothing was written.
    Away(String),
    /// The file was not tried, because an earlier file of the same host and label was not delivered.
    Behind,
}

impl Dest {
    /// Returns how many files are delivered at once, at most. Programs receive one at a time: each delivery is
    /// recorded before the next begins, so that a crash repeats at most one.
    pub fn at_once(&self) -> usize {
        match self {
            // Each needs three file descriptors.
            Dest::Dir(_) => 64,
            _ => 1,
        }
    }

    /// Checks that the programs that the destination needs, NNCP's configuration file and the user exist.
    pub fn is_equipped(&self, how: &Transport) -> anyhow::Result<()> {
        match self {
            Dest::Dir(_) | Dest::Stdout => Ok(()),
            _ => program::is_equipped(self, how),
        }
    }

    /// Returns a warning for a command whose timeout is not longer than the default: a command that still works after
    /// it has read the whole file needs a longer one.
    pub fn warning(&self, how: &Transport) -> Option<String> {
        let timeout = how.timeout.filter(|timeout| *timeout <= DEFAULT && matches!(self, Dest::Command(_)))?.as_secs();
        Some(format!(
            "is killed when it takes and writes nothing for {timeout} s: where it works on after it has taken all, as \
             zsnap-ingest exec does, give delivery-timeout a longer time, or 0"
        ))
    }

    /// Returns the state of a destination that has received all files, as one word or three. Only NNCP itself knows
    /// whether they have arrived.
    pub fn done(&self) -> &'static str {
        match self {
            Dest::Dir(_) => "delivered",
            Dest::NncpFile { .. } | Dest::NncpExec { .. } => "handed to NNCP",
            Dest::Command(_) | Dest::Stdout => "handed over",
        }
    }

    /// Returns a short name for tables, such as that of the node.
    fn short(&self) -> String {
        match self {
            Dest::Dir(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            Dest::NncpFile { node, .. } | Dest::NncpExec { node, .. } => node.clone(),
            Dest::Command(command) => {
                let program = command.split_ascii_whitespace().next().unwrap_or_default();
                format!("cmd:{}", program.rsplit('/').next().unwrap_or_default())
            }
            Dest::Stdout => self.to_string(),
        }
    }

    /// Returns the first 12 hex digits of the SHA-256 of the destination's text: a name for its outbox.
    pub fn id(&self) -> String {
        let mut id = sha256_hex(self.to_string().as_bytes());
        id.truncate(12);
        id
    }
}

/// Returns short names of destinations for tables. Where several would be the same, the whole texts are returned.
pub fn short_names(dests: &[&Dest]) -> Vec<String> {
    let short: Vec<String> = dests.iter().map(|dest| dest.short()).collect();
    let is_alone = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let named = |(dest, name): (&&Dest, &String)| if is_alone(name) { name.clone() } else { dest.to_string() };
    dests.iter().zip(&short).map(named).collect()
}

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dest::Dir(path) => write!(f, "dir:{}", path.display()),
            Dest::NncpFile { node, sub: None } => write!(f, "nncp-file:{node}"),
            Dest::NncpFile { node, sub: Some(sub) } => write!(f, "nncp-file:{node}/{sub}"),
            Dest::NncpExec { node, handle } => write!(f, "nncp-exec:{node}:{handle}"),
            Dest::Command(command) => write!(f, "cmd:{command}"),
            Dest::Stdout => f.write_str("-"),
        }
    }
}

/// Converts the value of `--delivery-timeout` to that of [`Transport::timeout`]: 0 means no limit.
pub fn patience(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

/// Parses the value of `--max-file`: a size in bytes, at least 1 MiB.
pub fn max_file(text: &str) -> Result<u64, String> {
    match units::size(text)? {
        size if size >= 1 << 20 => Ok(size),
        _ => Err(format!("\"{text}\" is too small for the parts of a file; write 4GiB, for FAT")),
    }
}

/// Checks a niceness in NNCP's notation: `B`, `PRIORITY`, `B+5`, `96`. It becomes an argument of a command.
pub fn nice(text: &str) -> Result<String, String> {
    let name = text.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['+', '-']);
    let number = text.get(name.len()..).unwrap_or_default();
    let good = name.len() <= 8 && name.bytes().all(|b| b.is_ascii_alphabetic()) && number.len() <= 4;
    if good && !text.is_empty() && !text.starts_with(['+', '-']) && !text.ends_with(['+', '-']) {
        return Ok(text.to_owned());
    }
    Err(format!("\"{}\" is not a niceness of NNCP: use B, P, B+5 or 96", text.escape_default()))
}

/// Whether a text may be part of an argument of NNCP: it must not be an option or contain a separator.
fn word(text: &str) -> bool {
    let body = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    !text.is_empty() && !text.starts_with('-') && body
}

fn node(text: &str) -> bool {
    word(text.strip_prefix("area:").unwrap_or(text))
}

impl FromStr for Dest {
    type Err = String;
    fn from_str(text: &str) -> Result<Dest, String> {
        let no = |why: &str| Err(format!("\"{}\" is not a destination: {why}", text.escape_default()));
        if text == "-" {
            return Ok(Dest::Stdout);
        }
        let Some((kind, rest)) = text.split_once(':') else {
            return no("use dir:PATH, nncp-file:NODE[/SUB], nncp-exec:NODE:HANDLE, cmd:SHELL COMMAND or -");
        };
        match kind {
            // Cron and simplesnap choose the working directory, so a relative path means nothing.
            "dir" if !rest.starts_with('/') => no("the path must begin with /"),
            "dir" => Ok(Dest::Dir(PathBuf::from(rest))),
            "nncp-file" => {
                let (name, sub) = match rest.split_once('/') {
                    Some((name, sub)) => (name, Some(sub)),
                    None => (rest, None),
                };
                if !node(name) {
                    return no("NODE is not an NNCP node or area:AREA");
                }
                // NNCP allows 255 bytes for the path, of which a queue file's name may need 200.
                if sub.is_some_and(|s| s.len() > 54 || s.split('/').any(|part| check_component(part).is_err())) {
                    return no("SUB must be components of A-Z a-z 0-9 _ . : - and space, at most 54 bytes");
                }
                Ok(Dest::NncpFile { node: name.to_owned(), sub: sub.map(str::to_owned) })
            }
            "nncp-exec" => match rest.rsplit_once(':') {
                Some((name, handle)) if node(name) && word(handle) => {
                    Ok(Dest::NncpExec { node: name.to_owned(), handle: handle.to_owned() })
                }
                _ => no("write nncp-exec:NODE:HANDLE"),
            },
            "cmd" if rest.trim().is_empty() => no("the command is empty"),
            "cmd" => Ok(Dest::Command(rest.to_owned())),
            _ => no("use dir:, nncp-file:, nncp-exec:, cmd: or -"),
        }
    }
}

impl TryFrom<String> for Dest {
    type Error = String;
    fn try_from(text: String) -> Result<Dest, String> {
        text.parse()
    }
}

impl From<Dest> for String {
    fn from(dest: Dest) -> String {
        dest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::hung::hung;

    #[test]
    fn a_destination_prints_as_it_was_written() {
        for text in [
            "-",
            "dir:/mnt/disk 1",
            "nncp-file:spooler",
            "nncp-file:JFYTKZ/a/b c",
            "nncp-file:area:backup",
            "nncp-file:area:backup/x",
            "nncp-exec:spooler:zsnap",
            "nncp-exec:area:a:zsnap",
            "cmd:ssh host 'cat > $ZSNAP_FILE:x'",
        ] {
            let dest: Dest = text.parse().unwrap();
            assert_eq!(dest.to_string(), text);
            let json = serde_json::to_string(&dest).unwrap();
            assert_eq!(serde_json::from_str::<Dest>(&json).unwrap(), dest);
        }
    }

    #[test]
    fn other_texts_are_not_destinations() {
        for text in [
            "",
            "x",
            "dir:",
            "dir:relative",
            "nncp-file:",
            "nncp-file:-x",
            "nncp-file:a b",
            "nncp-file:a/",
            "nncp-file:a//b",
            "nncp-file:a/../b",
            "nncp-file:a/b\n",
            "nncp-file:a:b",
            "nncp-exec:a",
            "nncp-exec:a:",
            "nncp-exec::h",
            "nncp-exec:a:-h",
            "cmd:",
            "cmd: ",
            "file:/x",
            "/x",
        ] {
            assert!(text.parse::<Dest>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_niceness_that_looks_like_an_option_is_rejected() {
        for good in ["B", "PRIORITY", "B+5", "n-10", "96", "MAX"] {
            assert_eq!(nice(good).as_deref(), Ok(good));
        }
        for bad in ["", "-B", "-1", "+5", "B+", "B 5", "B\n", "B+5x", "B+-5x", "-cfg", "VERYVERYNICE", "123456"] {
            assert!(nice(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_part_has_at_least_a_mebibyte() {
        assert_eq!((max_file("4GiB"), max_file("1M")), (Ok(4 << 30), Ok(1 << 20)));
        assert!(["0", "1023K", "x", "-1"].iter().all(|text| max_file(text).is_err()));
    }

    #[test]
    fn a_timeout_that_was_answered_is_not_a_hang() {
        let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert!(!hangs(&anyhow::Error::from(timed_out).context("copying")));
        assert!(hangs(&hung("x").context("y")) && hung("x").to_string() == "x");
    }

    #[test]
    fn a_short_timeout_for_a_command_has_a_warning() {
        let warned = |dest: &str, timeout| {
            let how = Transport { timeout: patience(Duration::from_secs(timeout)), ..Transport::default() };
            dest.parse::<Dest>().unwrap().warning(&how).is_some()
        };
        assert!(warned("cmd:ssh host", 3600) && warned("cmd:ssh host", 2));
        assert!(!warned("cmd:ssh host", 6 * 3600) && !warned("cmd:ssh host", 0) && !warned("dir:/x", 3600));
    }

    #[test]
    fn each_short_name_means_one_destination() {
        let texts = ["dir:/mnt/disk1", "nncp-file:spooler/a", "cmd:/bin/ssh host x", "dir:/a/x", "dir:/b/x", "dir:/"];
        let dests: Vec<Dest> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let names = short_names(&dests.iter().collect::<Vec<_>>());
        assert_eq!(names, ["disk1", "spooler", "cmd:ssh", "dir:/a/x", "dir:/b/x", "/"]);
    }

    #[test]
    fn the_id_of_a_destination_is_the_digest_of_its_text() {
        // printf %s nncp-file:spooler | sha256sum
        assert_eq!("nncp-file:spooler".parse::<Dest>().unwrap().id(), "9d3dbc564e7b");
    }
}
