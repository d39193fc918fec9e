//! Receives one substream with one `zfs receive`. The arguments follow a fixed grammar: this code cannot produce -F,
//! -d, -e, -M or -s. The dataset is chosen here, never by the stream, of which only the name of the snapshot is used.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use anyhow::Result;
use zsnap_common::cli::cancel::{Cancelled, Interruptible};
use zsnap_common::cli::exit::Exit;
use zsnap_common::cli::log;
use zsnap_common::process::child::{self, Child};
use zsnap_common::process::zfs::Zfs;
use zsnap_common::stream::gate::{Gate, Part};
use zsnap_common::stream::{StreamError, SubStream};

use crate::property::{self, AllowedProperty};

/// Returns the arguments of `zfs receive` for one substream into `dataset`:
/// `receive -u (-o PROPERTY=VALUE | -x PROPERTY)* DATASET@SNAP`. The received dataset is not mounted, and not exposed
/// as a device, by default. `DATASET@SNAP` determines where the stream goes, whatever names it contains.
pub fn argv(dataset: &str, sub: &SubStream, extra: &[AllowedProperty]) -> Vec<OsString> {
    let properties = property::of(sub.kind, extra);
    let to = format!("{dataset}@{}", sub.snap);
    let words = ["receive".into(), "-u".into()].into_iter();
    words.chain(properties.iter().flat_map(AllowedProperty::arguments)).chain([to]).map(OsString::from).collect()
}

/// How the streams of a host are received.
#[derive(Clone, Debug)]
pub struct Receiving {
    /// A receiver that reads nothing for this long, or that has not ended this long after its last byte, is killed.
    pub timeout: Duration,
    /// Properties that are set or inherited in addition to what the stream contains.
    pub properties: Vec<AllowedProperty>,
}

/// Returns the error for a receiver that hung (see [`Child::give_up`]), with the remedy. An error that a signal caused
/// is returned unchanged.
pub fn hung(what: &str, error: anyhow::Error) -> anyhow::Error {
    match Cancelled::find(&error) {
        Some(_) => error,
        None => Exit::Unavailable.error(format!(
            "{what}: {error:#}; look at dmesg, the pool and the disks; the file stays for the next run"
        )),
    }
}

/// Splits a verified stream: every substream after the first `skip` goes to a `zfs receive` of its own. The wrappers
/// of a compound stream, and its properties, are dropped.
pub struct Unwrap<'a> {
    gate: Gate,
    feeder: Feeder<'a>,
}

/// The state while a stream passes through.
struct Feeder<'a> {
    zfs: &'a Zfs,
    dataset: &'a str,
    how: Receiving,
    skip: usize,
    seen: usize,
    current: Option<Current>,
    committed: Vec<SubStream>,
    failed: Option<anyhow::Error>,
    modified: bool,
}

/// The result of receiving a stream.
pub struct Ended {
    /// The substreams whose snapshots now exist.
    pub committed: Vec<SubStream>,
    /// The first error, if any.
    pub result: Result<()>,
    /// Whether `zfs receive` rejected an incremental because the dataset was modified after its base.
    pub modified: bool,
}

struct Current {
    sub: SubStream,
    /// The name of the snapshot: `DATASET@SNAP`.
    name: String,
    child: Child,
    stdin: Option<BufWriter<Interruptible<ChildStdin>>>,
}

impl Drop for Current {
    fn drop(&mut self) {
        // The child is killed before its pipe is closed, so that it cannot take the truncated stream for a complete
        // one. If the `BufWriter` were dropped as it is, it would write again what the receiver did not read.
        self.child.kill();
        drop(self.stdin.take().map(BufWriter::into_parts));
    }
}

impl<'a> Unwrap<'a> {
    /// Prepares to receive into `dataset`.
    pub fn new(zfs: &'a Zfs, dataset: &'a str, skip: usize, how: Receiving) -> Unwrap<'a> {
        let (committed, failed) = (Vec::new(), None);
        let feeder = Feeder { zfs, dataset, how, skip, seen: 0, current: None, committed, failed, modified: false };
        Unwrap { gate: Gate::new(), feeder }
    }

    /// Ends the stream and returns the result. It must be called also after a failed write: a child may have committed
    /// its snapshot nevertheless.
    pub fn end(mut self) -> Ended {
        if let Some(mut current) = self.feeder.current.take() {
            current.child.kill();
            // The error is why the receiver was killed, not that the pool could not be queried afterwards.
            let _ = self.feeder.committed(&current);
        }
        let result = match self.feeder.failed {
            Some(e) => Err(e),
            None => self.gate.finish().map(drop).map_err(|e| Exit::Data.error(e.to_string())),
        };
        Ended { committed: self.feeder.committed, result, modified: self.feeder.modified }
    }
}

impl Write for Unwrap<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let feeder = &mut self.feeder;
        match self.gate.feed(bytes, &mut |part| feeder.take(part)) {
            Ok(()) => Ok(bytes.len()),
            Err(StreamError::Sink(e)) => Err(e),
            Err(e) => Err(io::Error::other(e.to_string())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Feeder<'_> {
    fn take(&mut self, part: Part<'_>) -> io::Result<()> {
        let done = match part {
            Part::Begin(sub) => {
                self.seen += 1;
                if self.seen <= self.skip { Ok(()) } else { self.begin(sub) }
            }
            Part::Bytes(bytes) => self.bytes(bytes),
            Part::End => self.finish(),
        };
        done.map_err(|e| {
            let shown = io::Error::other(format!("{e:#}"));
            self.failed.get_or_insert(e);
            shown
        })
    }

    fn begin(&mut self, sub: &SubStream) -> Result<()> {
        let mut command = child::command(self.zfs.program());
        command.args(argv(self.dataset, sub, &self.how.properties)).stdin(Stdio::piped());
        let name = format!("{}@{}", self.dataset, sub.snap);
        log::info(format!("receiving {name}"));
        let mut child = Child::spawn(command, "zfs")?;
        let pipe = child.stdin().map(|pipe| Interruptible::patient(pipe, self.how.timeout));
        let stdin = pipe.map(|pipe| BufWriter::with_capacity(256 * 1024, pipe));
        self.current = Some(Current { sub: sub.clone(), name, child, stdin });
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let Some(stdin) = &mut current.stdin else { return Ok(()) };
        match stdin.write_all(bytes) {
            // The receiver ended early: its exit status and the pool show why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.finish(),
            Err(e) => Err(current.given_up(self.how.timeout, e)),
            Ok(()) => Ok(()),
        }
    }

    /// Ends the current receiver. Success depends on whether the snapshot exists, not on how the receiver ended: one
    /// that was orphaned, failed late or hangs may have committed the snapshot, and one that succeeded may not have
    /// (OpenZFS ignores a snapshot that exists).
    fn finish(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        match current.stdin.as_mut().map_or(Ok(()), Write::flush) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                let error = current.given_up(self.how.timeout, e);
                self.current = Some(current);
                return Err(error);
            }
            _ => drop(current.stdin.take()),
        }
        let ended = current.child.wait(Some(self.how.timeout));
        let there = self.committed(&current);
        let what = format!("zfs receive {}", current.name);
        match (ended, there) {
            (_, Ok(true)) => Ok(()),
            (Err(e), _) => Err(hung(&what, e)),
            (Ok(_), Err(e)) => Err(e),
            (Ok(status), Ok(false)) => {
                let base = current.sub.from;
                self.modified = base.is_some() && says_modified(&current.child.last_lines(), self.dataset);
                let words = current.child.last_words();
                Err(Exit::Unavailable.error(format!("{what}: {status}, and the snapshot is not there: {words}")))
            }
        }
    }

    /// Checks whether the snapshot exists on the pool, and records it if so.
    fn committed(&mut self, current: &Current) -> Result<bool> {
        let there = self.zfs.snapshot_guid(&current.name)? == Some(current.sub.to);
        if there {
            self.committed.push(current.sub.clone());
        }
        Ok(there)
    }
}

impl Current {
    /// Handles a failed write. A receiver that reads nothing is killed here; after a signal it is killed on drop.
    fn given_up(&mut self, timeout: Duration, e: io::Error) -> anyhow::Error {
        if e.kind() != io::ErrorKind::TimedOut {
            return e.into();
        }
        let error = self.child.give_up(&format!("took nothing for {} s", timeout.as_secs()));
        hung(&format!("zfs receive {}", self.name), error)
    }
}

/// Whether `zfs receive` ended with the message that the dataset was modified since its most recent snapshot. The
/// message spans two lines and contains the name of the dataset, which may itself contain `has been modified`: so the
/// whole end of the output is compared.
fn says_modified(lines: &[String], dataset: &str) -> bool {
    let own = format!("destination {dataset} has been modified since most recent snapshot");
    lines.join(" ").strip_suffix(&own).is_some_and(|before| before.ends_with("cannot receive incremental stream: "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zsnap_common::names::target::Target;
    use zsnap_common::stream::{Guid, Kind};

    fn sub(kind: Kind, snap: &str) -> SubStream {
        SubStream {
            fs: "tank/evil".into(),
            snap: snap.into(),
            from: None,
            to: Guid(1),
            kind,
            raw: false,
            compressed: false,
            created: 0,
        }
    }

    fn line(kind: Kind, extra: &[AllowedProperty]) -> String {
        argv("pool/hosts/h/tank", &sub(kind, "s 1"), extra).join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn only_the_programs_own_last_words_say_that_a_dataset_was_changed() {
        let says =
            |text: &str, dataset: &str| says_modified(&text.lines().map(str::to_owned).collect::<Vec<_>>(), dataset);
        let plain = "b/h/d";
        let odd = "b/h/destination b/h/d has been modified since most recent snapshot";
        for dataset in [plain, odd] {
            let modified = format!(
                "cannot receive incremental stream: destination {dataset} has been modified\nsince most recent snapshot"
            );
            assert!(says(&modified, dataset), "{modified}");
            assert!(says(&format!("warning\n{modified}"), dataset));
            assert!(!says(&format!("{modified}\nout of space"), dataset));
            for other in [
                format!("cannot receive incremental stream: out of space on {dataset}"),
                format!("cannot receive new filesystem stream: destination {dataset} has been modified"),
                format!("cannot restore to {dataset}@s: destination already exists"),
                format!("cannot unmount '{dataset}': pool or dataset is busy"),
                dataset.to_owned(),
                String::new(),
            ] {
                assert!(!says(&other, dataset), "{other}");
            }
        }
    }

    #[test]
    fn the_arguments_have_one_form() {
        let (fs, volume) = (Kind::Filesystem, Kind::Volume);
        assert_eq!(line(fs, &[]), "receive -u -o readonly=on -o canmount=noauto pool/hosts/h/tank@s 1");
        assert_eq!(line(volume, &[]), "receive -u -o readonly=on -o volmode=none pool/hosts/h/tank@s 1");
        let set = |text| AllowedProperty::set(text).unwrap();
        let extra = [
            set("compression=lz4"),
            set("canmount=off"),
            set("quota=1G"),
            set("volmode=none"),
            set("zsnap:of=a b=c"),
            AllowedProperty::exclude("compression").unwrap(),
            AllowedProperty::exclude("mountpoint").unwrap(),
        ];
        // Each property occurs once, its last occurrence counts, and only those for this kind are used.
        assert_eq!(
            line(fs, &extra),
            "receive -u -o readonly=on -o canmount=off -x compression -o quota=1073741824 -o zsnap:of=a b=c \
             -x mountpoint pool/hosts/h/tank@s 1"
        );
        assert_eq!(
            line(volume, &extra),
            "receive -u -o readonly=on -o volmode=none -x compression -o zsnap:of=a b=c pool/hosts/h/tank@s 1"
        );
    }

    /// Checks the arguments against the grammar, specified a second time as what must not occur.
    fn in_grammar(args: &[OsString], to: &str) -> Result<(), String> {
        let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let (Some(["receive", "-u"]), Some(last)) = (args.get(..2), args.last()) else { return Err("frame".into()) };
        if *last != to || last.starts_with('-') || args.len() % 2 == 0 {
            return Err("target".into());
        }
        let mut names = std::collections::BTreeSet::new();
        for pair in args[2..args.len() - 1].chunks(2) {
            let (name, value) = match pair {
                ["-o", property] => property.split_once('=').map(|(name, value)| (name, Some(value))).unwrap(),
                ["-x", name] => (*name, None),
                _ => return Err(format!("{pair:?}")),
            };
            let word = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-._".contains(&b));
            let printable = value.is_none_or(|value| value.bytes().all(|b| (32..127).contains(&b)));
            if !word || name.is_empty() || name.starts_with('-') || !printable || !names.insert(name) {
                return Err(format!("{pair:?}"));
            }
            let harmless = name.contains(':')
                || match (name, value) {
                    ("readonly", value) => value == Some("on"),
                    ("canmount", value) => value == Some("off") || value == Some("noauto"),
                    ("volmode", value) => value == Some("none"),
                    ("mountpoint", value) => value.is_none_or(|value| value == "none" || value == "legacy"),
                    ("setuid" | "devices" | "exec" | "sharenfs" | "sharesmb" | "dedup", value) => {
                        value.is_none_or(|value| value == "off")
                    }
                    ("checksum", value) => value != Some("off") && value != Some("noparity"),
                    ("keylocation" | "keyformat" | "pbkdf2iters" | "encryption" | "origin" | "overlay", _) => false,
                    ("zoned" | "jailed" | "nbmand" | "volsize" | "snapshot_limit" | "casesensitivity", _) => false,
                    _ => true,
                };
            if !harmless {
                return Err(format!("{pair:?}"));
            }
        }
        Ok(())
    }

    /// Generates arbitrary words, and words that are almost valid.
    fn word() -> impl Strategy<Value = String> {
        let name = "(-[oxFdeMsrAnvhc]|atime|readonly|canmount|volmode|mountpoint|exec|setuid|sharenfs|keylocation|\
                    encryption|overlay|zoned|origin|quota|compression|checksum|recordsize|copies|[a-z:.-]{1,6}|a:b)";
        let value = "(on|off|none|legacy|noauto|/x|file:///x|1G|512|lz4|gzip-9|-F|--|[ -~]{0,6}|\\PC{0,3}|\n)";
        prop_oneof![
            ".*",
            name,
            (name, value).prop_map(|(name, value)| format!("{name}={value}")),
            (name, "[ =\t\n]{0,2}", value).prop_map(|(name, sep, value)| format!("{name}{sep}{value}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_input_leaves_the_grammar(
            set in proptest::collection::vec(word(), 0..8),
            exclude in proptest::collection::vec(word(), 0..4),
            target in "[A-Za-z0-9_.: -]{1,8}/[A-Za-z0-9_.: -]{1,8}(/[A-Za-z0-9_.: -]{1,8})?",
            snap in "[A-Za-z0-9_.: -]{1,8}",
            volume in any::<bool>(),
        ) {
            let set = set.iter().filter_map(|text| AllowedProperty::set(text).ok());
            let exclude = exclude.iter().filter_map(|name| AllowedProperty::exclude(name).ok());
            let extra: Vec<_> = set.chain(exclude).collect();
            let target = target.parse::<Target>();
            prop_assume!(target.is_ok());
            let dataset = target.unwrap().under("pool/hosts").unwrap();
            let kind = if volume { Kind::Volume } else { Kind::Filesystem };
            let args = argv(&dataset, &sub(kind, &snap), &extra);
            prop_assert_eq!(in_grammar(&args, &format!("{dataset}@{snap}")), Ok(()));
        }
    }
}
