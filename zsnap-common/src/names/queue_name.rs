//! The name of a queue file (zsnap-queue-file(5), NAME):
//! `bakfsfmt2-<secs>.<nanos>.<pid>_<host>@<dataset with / as @>`.
//!
//! The name is only a hint: the signed manifest inside is authoritative.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use crate::names::digest::is_hex;
use crate::names::part::Part;
use crate::names::stored::{real, stored};
use crate::names::target::{Dataset, Host, NameError, Target};

/// The maximum length of a name in bytes, also in the form of [`stored`]; a longer one gets a digest as its label. NNCP
/// allows paths of 255 bytes, which must also fit a directory named after the host (40), the suffix of a part, and that
/// of a copy.
const MAX_NAME: usize = 200;

/// When and by which process a queue file was made; orders the files of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Seconds since 1970, UTC.
    pub secs: u64,
    /// Nanoseconds within the second.
    pub nanos: u32,
    /// The process that made it; names without one are accepted, as in the comments of the original scripts.
    pub pid: Option<u32>,
}

impl Stamp {
    /// Returns the stamp of a file with the number `seq` (microseconds since 1970).
    pub fn from_seq(seq: u64, pid: u32) -> Stamp {
        let nanos = u32::try_from(seq % 1_000_000).unwrap_or(0) * 1000;
        Stamp { secs: seq / 1_000_000, nanos, pid: Some(pid) }
    }

    /// Returns the number of the file, in microseconds since 1970.
    pub fn seq(self) -> u64 {
        self.secs.saturating_mul(1_000_000).saturating_add(u64::from(self.nanos / 1000))
    }
}

/// The part of the name after the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// The dataset.
    Dataset(Dataset),
    /// A digest that only the sender can compute; the manifest contains the dataset.
    Digest([u8; 16]),
}

/// The parsed name of a queue file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName {
    /// The stamp, which orders the files of a label.
    pub stamp: Stamp,
    /// The host that sent the file.
    pub host: Host,
    /// The dataset, or a digest in its place.
    pub label: Label,
}

impl QueueName {
    /// Returns a name for a file of `target`. `digest` becomes its label if `opaque` is set, or if the name
    /// with the dataset would be too long or would be mistaken for a transport's temporary file.
    pub fn new(stamp: Stamp, target: &Target, digest: [u8; 16], opaque: bool) -> QueueName {
        let host = target.host.clone();
        let plain = QueueName { stamp, host: host.clone(), label: Label::Dataset(target.dataset.clone()) };
        let text = plain.to_string();
        if opaque || stored(&text).len() > MAX_NAME || !matches!(classify(text.as_bytes()), Entry::Queue(_)) {
            return QueueName { stamp, host, label: Label::Digest(digest) };
        }
        plain
    }

    /// Returns all names that this one may stand for: itself, and itself without each suffix `.N`, which NNCP may
    /// append on each hop to the second file of the same name. The manifest decides which is right.
    pub fn readings(&self) -> impl Iterator<Item = QueueName> {
        std::iter::successors(Some(self.clone()), QueueName::without_copy_suffix)
    }

    fn without_copy_suffix(&self) -> Option<QueueName> {
        let Label::Dataset(dataset) = &self.label else { return None };
        let (shorter, copy) = dataset.as_str().rsplit_once('.')?;
        let shorter = shorter.parse().ok().filter(|_| is_number(copy))?;
        Some(QueueName { label: Label::Dataset(shorter), ..self.clone() })
    }

    /// Whether the name may stand for `target`; a digest may stand for any dataset of the host.
    pub fn may_be(&self, target: &Target) -> bool {
        let fits = |name: &QueueName| match &name.label {
            Label::Dataset(dataset) => *dataset == target.dataset,
            Label::Digest(_) => true,
        };
        self.host == target.host && self.readings().any(|name| fits(&name))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Dataset(dataset) => f.write_str(&dataset.as_str().replace('/', "@")),
            Label::Digest(digest) => write!(f, "~{:032x}", u128::from_be_bytes(*digest)),
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bakfsfmt2-{}.{:09}", self.stamp.secs, self.stamp.nanos)?;
        if let Some(pid) = self.stamp.pid {
            write!(f, ".{pid}")?;
        }
        write!(f, "_{}@{}", self.host, self.label)
    }
}

// The original scripts use both prefixes, and nine digits of nanoseconds (`date +%N`).
static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^(?:bakfsfmt2|backupsfmt2)-([0-9]{1,12})\.([0-9]{1,9})(?:\.([0-9]{1,10}))?_([^@]+)@(.+)$").ok()
});

/// Parses the name of a queue file, also in the form of [`stored`], and also that of a [`Part`], which has the name of
/// its whole file.
impl FromStr for QueueName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<QueueName, NameError> {
        let parse = || {
            let real = real(name)?;
            let whole = Part::parse(&real).map_or(&*real, |part| part.whole);
            let parts = NAME.as_ref()?.captures(whole)?;
            let pid = match parts.get(3) {
                Some(digits) => Some(digits.as_str().parse().ok()?),
                None => None,
            };
            let stamp = Stamp { secs: parts[1].parse().ok()?, nanos: parts[2].parse().ok()?, pid };
            let label = match parts[5].strip_prefix('~') {
                Some(hex) => Label::Digest(parse_digest(hex)?),
                None => Label::Dataset(parts[5].replace('@', "/").parse().ok()?),
            };
            Some(QueueName { stamp, host: parts[4].parse().ok()?, label })
        };
        parse().ok_or_else(|| NameError::new(name, "is not the name of a queue file"))
    }
}

/// Whether a text consists of decimal digits.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Parses 32 hex digits, which the `.N` suffixes of copies may follow.
fn parse_digest(text: &str) -> Option<[u8; 16]> {
    let mut parts = text.split('.');
    let hex = parts.next()?;
    let digest = u128::from_str_radix(hex, 16).ok().filter(|_| is_hex(hex, 32))?;
    parts.all(is_number).then_some(digest.to_be_bytes())
}

/// The kind of an entry in a queue directory, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A queue file, or a part of one.
    Queue(QueueName),
    /// A known temporary file or part of a transport: what [`is_others`] names, NNCP's `nncpfile*`, chunks and
    /// their `.nncp.meta`, `*.part`. Ignored and not reported.
    Transport,
    /// Anything else. Ignored and reported.
    Foreign,
}

/// Whether a name in a directory of hosts, destinations or queue files belongs to somebody else: hidden names to zsnap
/// or to other programs, `lost+found` to the file system. Such names are ignored and not reported.
pub fn is_others(name: &[u8]) -> bool {
    name.starts_with(b".") || name == b"lost+found"
}

/// Classifies a file by its name.
pub fn classify(name: &[u8]) -> Entry {
    if is_others(name) {
        return Entry::Transport;
    }
    let Ok(name) = std::str::from_utf8(name) else { return Entry::Foreign };
    let chunk = || name.rsplit_once(".nncp.chunk").is_some_and(|(_, number)| is_number(number));
    if name.starts_with("nncpfile") || name.ends_with(".nncp.meta") || name.ends_with(".part") || chunk() {
        return Entry::Transport;
    }
    // The notes in zsnap-ingest's quarantine.
    if name.ends_with(".why.json") {
        return Entry::Foreign;
    }
    name.parse().map_or(Entry::Foreign, Entry::Queue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(name: &str) -> QueueName {
        name.parse().unwrap()
    }

    #[test]
    fn both_prefixes_of_the_replaced_scripts_are_read() {
        let name = parse("backupsfmt2-1700000000.123456789.42_host1@tank@home");
        assert_eq!(name.to_string(), "bakfsfmt2-1700000000.123456789.42_host1@tank@home");
        assert_eq!(name.stamp.seq(), 1_700_000_000_123_456);
        assert_eq!(parse("bakfsfmt2-134.13134_my_host@root").host.as_str(), "my_host");
    }

    #[test]
    fn files_of_transports_and_foreign_names_are_classified() {
        for transport in [
            ".zsnap-x",
            "lost+found",
            "nncpfile1234",
            "bakfsfmt2-1.2.3_h@d.nncp.meta",
            "bakfsfmt2-1.2.3_h@d.nncp.chunk12",
            "x.part",
        ] {
            assert_eq!(classify(transport.as_bytes()), Entry::Transport, "{transport}");
        }
        let long = format!("bakfsfmt2-1.2.3_h@{}", "d".repeat(256));
        for foreign in [
            "bakfsfmt2-1.2.3_h",
            "bakfsfmt2-1.2.3_h@",
            "bakfsfmt2-1.2.3_@d",
            "bakfsfmt2-1.2.3_..@d",
            "bakfsfmt2-1.2.3_h@..",
            "bakfsfmt2-1.2.3_h@a@@b",
            "bakfsfmt2-1.2.3_-h@d",
            "bakfsfmt2-1.2.3_h@d\n",
            "bakfsfmt2-1.2.3_h@d\nx",
            "xbakfsfmt2-1.2.3_h@d",
            "bakfsfmt2-1.2.3_h@~12",
            "bakfsfmt2-99999999999999999999.2.3_h@d",
            "notes",
            "lost+found.old",
            "bakfsfmt2-1.2.3_h@d.why.json",
            "",
            &long,
        ] {
            assert_eq!(classify(foreign.as_bytes()), Entry::Foreign, "{foreign:?}");
        }
        assert_eq!(classify(b"bakfsfmt2-1.2.3_h@\xff"), Entry::Foreign);
        // Not a chunk: the number is missing.
        assert!(matches!(classify(b"bakfsfmt2-1.2.3_h@d.nncp.chunk"), Entry::Queue(_)));
    }

    #[test]
    fn the_name_of_a_copy_has_several_readings() {
        let name = parse("bakfsfmt2-1.2.3_h@tank@home.0");
        assert_eq!(name.readings().collect::<Vec<_>>(), [name.clone(), parse("bakfsfmt2-1.2.3_h@tank@home")]);
        assert_eq!(
            parse("bakfsfmt2-1.2.3_h@tank@home.0.1").readings().last(),
            Some(parse("bakfsfmt2-1.2.3_h@tank@home"))
        );
        let target = |t: &str| t.parse::<Target>().unwrap();
        assert!(name.may_be(&target("h/tank/home.0")) && name.may_be(&target("h/tank/home")));
        assert!(!name.may_be(&target("h/tank")) && !name.may_be(&target("i/tank/home")));
        let digest = format!("bakfsfmt2-1.2.3_h@~{}", "0123456789abcdef".repeat(2));
        assert_eq!(parse(&digest), parse(&format!("{digest}.7")));
        assert_eq!(parse(&digest), parse(&format!("{digest}.0.12")));
        assert_eq!(classify(format!("{digest}.0.").as_bytes()), Entry::Foreign);
        assert!(parse(&digest).may_be(&target("h/anything")));
    }

    #[test]
    fn long_or_misleading_names_get_a_digest() {
        let stamp = Stamp::from_seq(1_700_000_000_000_001, 7);
        let of = |target: String| QueueName::new(stamp, &target.parse().unwrap(), [1; 16], false);
        assert!(matches!(of("h/tank".into()).label, Label::Dataset(_)));
        for misleading in [
            format!("h/{}", "d".repeat(200)),
            format!("h/{}", ":".repeat(60)),
            "h/a.part".into(),
            "h/a.nncp.chunk3".into(),
            "h/a.nncp.meta".into(),
            "h/a.why.json".into(),
        ] {
            let name = of(misleading);
            assert!(matches!(name.label, Label::Digest(_)));
            assert_eq!(parse(&name.to_string()), name);
        }
    }

    #[test]
    fn an_escaped_name_and_a_part_are_read_as_the_name_of_the_file() {
        let name = parse("bakfsfmt2-1.2.3_h.:1@tank@co:lon.");
        for form in ["bakfsfmt2-1.2.3_h.%3A1@tank@co%3Alon%2E", "bakfsfmt2-1.2.3_h.%3A1@tank@co%3Alon.~p2of3.0"] {
            assert_eq!(classify(form.as_bytes()), Entry::Queue(name.clone()), "{form}");
        }
        assert_eq!(
            stored(&name.to_string()),
            "bakfsfmt2-1.2.3_h.%3A1@tank@co%3Alon%2E".replace("1.2.3", "1.000000002.3")
        );
        for foreign in ["bakfsfmt2-1.2.3_h@a%20b", "bakfsfmt2-1.2.3_h@a%3ab", "bakfsfmt2-1.2.3_h@a~p1of1"] {
            assert_eq!(classify(foreign.as_bytes()), Entry::Foreign, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn a_generated_name_reads_back(
            seq in 0u64..4_000_000_000_000_000, pid in any::<u32>(), digest in any::<[u8; 16]>(), opaque in any::<bool>(),
            target in "[a-z_][A-Za-z0-9_.:-]{0,39}/[A-Za-z0-9_: -]{1,60}(/[A-Za-z0-9_: -]{1,70}){0,3}",
        ) {
            let target: Target = target.parse().unwrap();
            let name = QueueName::new(Stamp::from_seq(seq, pid), &target, digest, opaque);
            let text = name.to_string();
            prop_assert!(text.len() <= MAX_NAME);
            let form = stored(&text);
            prop_assert!(form.len() <= MAX_NAME);
            prop_assert_eq!(parse(&form), name.clone());
            prop_assert_eq!(parse(&stored(&format!("{text}~p1of2"))), name.clone());
            prop_assert_eq!(name.stamp.seq(), seq);
            prop_assert_eq!(classify(text.as_bytes()), Entry::Queue(name.clone()));
            prop_assert!(name.may_be(&target));
        }

        #[test]
        fn any_bytes_are_classified_and_parsed_names_read_back(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut name = b"bakfsfmt2-1.2.3_".to_vec();
            name.extend(bytes);
            if let Entry::Queue(parsed) = classify(&name) {
                prop_assert!(!parsed.host.as_str().contains('/'));
                prop_assert_eq!(parse(&parsed.to_string()), parsed);
            }
        }
    }
}
