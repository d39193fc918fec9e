//! Which properties may be set on a received dataset in addition to the stream: those that limit it or tune it, and
//! user properties. Properties that would mount or share it, run programs from it, change its encryption or make it
//! writable are never allowed, whoever wrote the configuration.
//!
//! The names and kinds are those of zfsprops(7); OpenZFS itself checks the values, except those that could do harm. The
//! grammar of user properties is that of OpenZFS
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

/// A native property.
struct Native {
    name: &'static str,
    of: Option<Kind>,
    /// The values that do no harm; `None`: all values that OpenZFS accepts.
    only: Option<&'static [&'static str]>,
    /// Whether it can be excluded: OpenZFS inherits it, and an inherited value can do no harm that the owner of the
    /// store did not choose.
    excludable: bool,
}

const fn any(name: &'static str, of: Option<Kind>) -> Native {
    Native { name, of, only: None, excludable: true }
}

const fn only(name: &'static str, of: Option<Kind>, values: &'static [&'static str]) -> Native {
    Native { name, of, only: Some(values), excludable: true }
}

/// Describes a property that cannot be excluded: OpenZFS does not inherit it, or the value that zsnap-ingest sets must
/// stay.
const fn fixed(native: Native) -> Native {
    Native { excludable: false, ..native }
}

const BOTH: Option<Kind> = None;
const FS: Option<Kind> = Some(Kind::Filesystem);
const VOLUME: Option<Kind> = Some(Kind::Volume);
const OFF: &[&str] = &["off"];

const NATIVE: &[Native] = &[
    any("atime", FS),
    fixed(only("canmount", FS, &["off", "noauto"])),
    // "off" is not allowed: a backup that cannot detect that it is damaged is not a backup.
    only("checksum", BOTH, &["on", "fletcher4", "sha256", "sha512", "skein", "edonr", "blake3"]),
    any("compression", BOTH),
    any("copies", BOTH),
    only("dedup", BOTH, OFF),
    only("devices", FS, OFF),
    only("exec", FS, OFF),
    any("logbias", BOTH),
    only("mountpoint", FS, &["none", "legacy"]),
    any("primarycache", BOTH),
    fixed(any("quota", FS)),
    fixed(only("readonly", BOTH, &["on"])),
    any("recordsize", FS),
    any("redundant_metadata", BOTH),
    fixed(any("refquota", FS)),
    fixed(only("refreservation", BOTH, &["none"])),
    any("relatime", FS),
    fixed(only("reservation", BOTH, &["none"])),
    any("secondarycache", BOTH),
    only("setuid", FS, OFF),
    only("sharenfs", FS, OFF),
    only("sharesmb", FS, OFF),
    only("snapdev", BOTH, &["hidden"]),
    only("snapdir", FS, &["hidden", "disabled"]),
    any("special_small_blocks", FS),
    any("sync", BOTH),
    fixed(only("volmode", VOLUME, &["none"])),
    any("xattr", FS),
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
        let word = |value: &str| value.starts_with(|c: char| c.is_ascii_alphanumeric()) && !value.contains(is_odd);
        if !native.only.map_or_else(|| word(value), |only| only.contains(&value)) {
            let may = native.only.map_or("a word or number".to_owned(), |only| only.join(" or "));
            return Err(format!("\"{text}\" is not for received datasets: {name} may be {may}; {SEE}"));
        }
        // Not every version of OpenZFS knows the units that sizes may have elsewhere in the configuration.
        let value = size(value).map_or_else(|_| value.to_owned(), |bytes| bytes.to_string());
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

/// Whether no value of a native property contains this character.
fn is_odd(c: char) -> bool {
    !c.is_ascii_alphanumeric() && c != '-' && c != '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limits_or_tunes_may_be_set() {
        for (text, given) in [
            ("readonly=on", "readonly=on"),
            ("quota=10GiB", "quota=10737418240"),
            ("copies=2", "copies=2"),
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
             compression= compression=-9 compression=gzip+1 quota=-1 quota=1,5G copies=\u{b2} \
             ATIME=off =x -F -F=x -a:b=c A:b=c a:b=\u{e9}";
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
