//! Which properties may be set on a received dataset in addition to the stream: those that limit it or tune it, and
//! user properties. Properties that would mount or share it, run programs from it, change its encryption or make it
//! writable are never allowed, whoever wrote the configuration.
//!
//! The names, values and kinds are those of zfsprops(7); the grammar of user properties is that of OpenZFS
//! `zfs_prop_user` (`module/zcommon/zfs_prop.c`).

use zsnap_common::cli::units::size;
use zsnap_common::stream::Kind;

/// One property for `zfs receive`: to be set (`-o`), or to be inherited (`-x`). Only the constructors below create
/// one, so that every value of this type is an allowed property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedProperty {
    name: String,
    /// The value to set; `None`: to be inherited.
    value: Option<String>,
    /// The kind of dataset that it applies to; `None`: both.
    of: Option<Kind>,
}

/// The values that are allowed for a property.
enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// The compression algorithms and levels of OpenZFS.
    Compression,
    /// A size in bytes, or `none`.
    Limit,
    /// A power of two from 512 bytes to 16 MiB.
    Block,
    /// A power of two from 512 bytes to 16 MiB, or 0.
    BlockOrNone,
}
use Values::{Block, BlockOrNone, Compression, Limit, Words};

/// A native property.
struct Native {
    name: &'static str,
    of: Option<Kind>,
    values: Values,
    /// Whether it can be excluded: OpenZFS inherits it, and an inherited value can do no harm that the owner of the
    /// store did not choose.
    excludable: bool,
}

const fn native(name: &'static str, of: Option<Kind>, values: Values) -> Native {
    Native { name, of, values, excludable: true }
}

/// Describes a property that cannot be excluded: OpenZFS does not inherit it, or the value that zsnap-ingest sets must
/// stay.
const fn fixed(name: &'static str, of: Option<Kind>, values: Values) -> Native {
    Native { name, of, values, excludable: false }
}

const BOTH: Option<Kind> = None;
const FS: Option<Kind> = Some(Kind::Filesystem);
const VOLUME: Option<Kind> = Some(Kind::Volume);
const SWITCH: Values = Words(&["on", "off"]);
const OFF: Values = Words(&["off"]);
const CACHE: Values = Words(&["all", "none", "metadata"]);

const NATIVE: &[Native] = &[
    native("atime", FS, SWITCH),
    fixed("canmount", FS, Words(&["off", "noauto"])),
    // "off" is not allowed: a backup that cannot detect that it is damaged is not a backup.
    native("checksum", BOTH, Words(&["on", "fletcher4", "sha256", "sha512", "skein", "edonr", "blake3"])),
    native("compression", BOTH, Compression),
    native("copies", BOTH, Words(&["1", "2", "3"])),
    native("dedup", BOTH, OFF),
    native("devices", FS, OFF),
    native("exec", FS, OFF),
    native("logbias", BOTH, Words(&["latency", "throughput"])),
    native("mountpoint", FS, Words(&["none", "legacy"])),
    native("primarycache", BOTH, CACHE),
    fixed("quota", FS, Limit),
    fixed("readonly", BOTH, Words(&["on"])),
    native("recordsize", FS, Block),
    native("redundant_metadata", BOTH, Words(&["all", "most", "some", "none"])),
    fixed("refquota", FS, Limit),
    fixed("refreservation", BOTH, Words(&["none"])),
    native("relatime", FS, SWITCH),
    fixed("reservation", BOTH, Words(&["none"])),
    native("secondarycache", BOTH, CACHE),
    native("setuid", FS, OFF),
    native("sharenfs", FS, OFF),
    native("sharesmb", FS, OFF),
    native("snapdev", BOTH, Words(&["hidden"])),
    native("snapdir", FS, Words(&["hidden", "disabled"])),
    native("special_small_blocks", FS, BlockOrNone),
    native("sync", BOTH, Words(&["standard", "always", "disabled"])),
    fixed("volmode", VOLUME, Words(&["none"])),
    native("xattr", FS, Words(&["on", "off", "dir", "sa"])),
];

/// OpenZFS limits: a name has less than ZAP_MAXNAMELEN (256) bytes, a value less than ZAP_MAXVALUELEN (8192).
const MAX_USER_NAME: usize = 255;
const MAX_USER_VALUE: usize = 8191;
const SEE: &str = "zsnap-ingest(8) lists what may be set";

impl AllowedProperty {
    /// Parses `NAME=VALUE`, a property to set. The error is a message for the user.
    pub fn set(text: &str) -> Result<AllowedProperty, String> {
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!("\"{text}\" is not PROPERTY=VALUE"));
        };
        if name.contains(':') {
            check_user(name)?;
            if value.len() > MAX_USER_VALUE || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                return Err(format!("the value of {name} is not printable ASCII of at most {MAX_USER_VALUE} bytes"));
            }
            return Ok(AllowedProperty { name: name.into(), value: Some(value.into()), of: BOTH });
        }
        let native = find(name)?;
        let value = native.values.read(value).ok_or_else(|| {
            format!("\"{text}\" is not for received datasets: {name} may be {}; {SEE}", native.values.described())
        })?;
        Ok(AllowedProperty { name: name.into(), value: Some(value), of: native.of })
    }

    /// Parses `NAME`, a property to inherit. The error is a message for the user.
    pub fn exclude(name: &str) -> Result<AllowedProperty, String> {
        let of = match name.contains(':') {
            true => check_user(name).map(|()| BOTH)?,
            false => match find(name)? {
                native if native.excludable => native.of,
                _ => return Err(format!("{name} cannot be excluded: it is not inherited, or zsnap-ingest sets it")),
            },
        };
        Ok(AllowedProperty { name: name.into(), value: None, of })
    }

    /// Returns the option of `zfs receive`, and its argument.
    pub fn arguments(&self) -> [String; 2] {
        match &self.value {
            Some(value) => ["-o".into(), format!("{}={value}", self.name)],
            None => ["-x".into(), self.name.clone()],
        }
    }
}

/// Returns the properties for a received dataset of this kind: read-only, not mounted or exposed as a device by
/// default, and those of `extra` that apply to the kind. Each property occurs once, because OpenZFS rejects
/// duplicates; the last one applies.
pub fn of(kind: Kind, extra: &[AllowedProperty]) -> Vec<AllowedProperty> {
    let hidden = match kind {
        Kind::Filesystem => ("canmount", "noauto"),
        Kind::Volume => ("volmode", "none"),
    };
    let ours = |(name, value): (&str, &str)| AllowedProperty { name: name.into(), value: Some(value.into()), of: BOTH };
    let mut all = vec![ours(("readonly", "on")), ours(hidden)];
    for property in extra.iter().filter(|property| property.of.is_none_or(|of| of == kind)) {
        match all.iter_mut().find(|known| known.name == property.name) {
            Some(known) => *known = property.clone(),
            None => all.push(property.clone()),
        }
    }
    all
}

fn find(name: &str) -> Result<&'static Native, String> {
    NATIVE
        .iter()
        .find(|native| native.name == name)
        .ok_or_else(|| format!("\"{name}\" is not a property for received datasets; {SEE}"))
}

fn check_user(name: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-._".contains(&b);
    match name.bytes().all(fits) && !name.starts_with('-') && name.len() <= MAX_USER_NAME {
        true => Ok(()),
        false => Err(format!(
            "\"{name}\" is not a user property: a-z 0-9 : - . _ and at most {MAX_USER_NAME} of them, not - in front"
        )),
    }
}

impl Values {
    /// Returns the value in the form that `zfs` receives, if it is allowed.
    fn read(&self, value: &str) -> Option<String> {
        let block = |bytes: &u64| bytes.is_power_of_two() && (512..=16 << 20).contains(bytes);
        let allowed = match self {
            Words(words) => words.contains(&value),
            Compression => compression(value),
            Limit if value == "none" => true,
            Limit => return size(value).ok().map(|bytes| bytes.to_string()),
            BlockOrNone if value == "0" => true,
            Block | BlockOrNone => return size(value).ok().filter(block).map(|bytes| bytes.to_string()),
        };
        allowed.then(|| value.to_owned())
    }

    fn described(&self) -> String {
        match self {
            Words(words) => words.join(" or "),
            Compression => "on, off, lz4, lzjb, zle, gzip[-N], zstd[-N] or zstd-fast[-N]".into(),
            Limit => "a size or none".into(),
            Block => "a power of two from 512 to 16M".into(),
            BlockOrNone => "0 or a power of two from 512 to 16M".into(),
        }
    }
}

fn compression(value: &str) -> bool {
    let level = |prefix: &str| -> Option<u32> {
        let digits = value.strip_prefix(prefix)?;
        // OpenZFS compares levels as words: no sign and no leading zero.
        digits.parse().ok().filter(|level: &u32| level.to_string() == digits)
    };
    ["on", "off", "lz4", "lzjb", "zle", "gzip", "zstd", "zstd-fast"].contains(&value)
        || level("gzip-").is_some_and(|n| (1..=9).contains(&n))
        || level("zstd-").is_some_and(|n| (1..=19).contains(&n))
        || level("zstd-fast-")
            .is_some_and(|n| (1..=10).contains(&n) || (n % 10 == 0 && n > 0 && n <= 100) || n == 500 || n == 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limits_or_tunes_may_be_set() {
        for (text, given) in [
            ("readonly=on", "readonly=on"),
            ("quota=10GiB", "quota=10737418240"),
            ("refquota=none", "refquota=none"),
            ("recordsize=1M", "recordsize=1048576"),
            ("special_small_blocks=0", "special_small_blocks=0"),
            ("compression=zstd-fast-500", "compression=zstd-fast-500"),
            ("compression=gzip-9", "compression=gzip-9"),
            ("compression=zstd-19", "compression=zstd-19"),
            ("mountpoint=legacy", "mountpoint=legacy"),
            ("canmount=off", "canmount=off"),
            ("org.example:owner=J. Doe = me", "org.example:owner=J. Doe = me"),
            ("a:b=", "a:b="),
        ] {
            assert_eq!(AllowedProperty::set(text).unwrap().arguments(), ["-o", given], "{text}");
        }
        let longest = format!("{}:={}", "a".repeat(254), "v".repeat(8191));
        assert!(AllowedProperty::set(&longest).is_ok());
        for name in ["compression", "mountpoint", "setuid", "sharenfs", "a:b"] {
            assert_eq!(AllowedProperty::exclude(name).unwrap().arguments(), ["-x", name]);
        }
    }

    #[test]
    fn what_mounts_shares_runs_or_opens_may_not() {
        let words = "readonly=off readonly= readonly canmount=on mountpoint=/etc exec=on setuid=on devices=on \
             sharenfs=on sharenfs=rw sharesmb=on volmode=full snapdir=visible snapdev=visible encryption=off \
             keylocation=file:///k keyformat=raw pbkdf2iters=1 origin=p/x@y overlay=on zoned=on jailed=on dedup=on \
             checksum=off checksum=noparity version=5 volsize=1G userquota@joe=1G snapshot_limit=none \
             compression=gzip-09 compression=gzip-+1 compression=gzip-10 compression=zstd-0 compression=zstd-fast-0 \
             compression=zstd-fast-110 recordsize=1000 recordsize=256 recordsize=32M recordsize=0 quota=-1 \
             quota=lots copies=4 ATIME=off =x -F -F=x -a:b=c A:b=c a:b=\u{e9}";
        let odd = ["", "mountpoint=none ", " atime=off", "atime =off", "a:b=\n", "a b:c=d"];
        for text in words.split(' ').filter(|word| !word.is_empty()).chain(odd) {
            assert!(AllowedProperty::set(text).is_err(), "{text:?}");
        }
        assert!(AllowedProperty::set(&format!("{}:=", "a".repeat(255))).is_err());
        assert!(AllowedProperty::set(&format!("a:b={}", "v".repeat(8192))).is_err());
        for name in
            ["readonly", "canmount", "volmode", "quota", "encryption", "origin", "-F", "", "a:b=c", "compression=on"]
        {
            assert!(AllowedProperty::exclude(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_error_says_what_may_be() {
        let error = AllowedProperty::set("mountpoint=/x").unwrap_err();
        assert!(error.contains("\"mountpoint=/x\"") && error.contains("none or legacy"), "{error}");
    }
}
