//! The form of a name on a file system that cannot store every name: FAT, exFAT and NTFS have no `:`, drop or reject a
//! `.` or a space at the end, and reserve the names of devices. There each such character becomes `%` and two hex
//! digits: `co%3Alon`, `a%2E`, `%63on`. No host, dataset or queue file has a `%` in its name, so the form is
//! unambiguous, and can be read on any file system.

use std::borrow::Cow;

/// Returns the form of `name` that every file system can store: the name itself, if it has nothing to escape.
pub fn stored(name: &str) -> String {
    let last = name.len().saturating_sub(1);
    let device = is_device(name);
    let mut form = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let ends = at == last && (c == '.' || c == ' ');
        if ends || c == ':' || c == '%' || at == 0 && device {
            form.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            form.push(c);
        }
    }
    form
}

/// Whether a file system may be unable to store `name`.
pub fn is_at_risk(name: &str) -> bool {
    stored(name) != name
}

/// Returns the name that `form` stands for: `form` itself if it is not escaped. `None`: it has a `%`, but is not what
/// [`stored`] returns for any name.
pub fn real(form: &str) -> Option<Cow<'_, str>> {
    if !form.contains('%') {
        return Some(Cow::Borrowed(form));
    }
    let mut parts = form.split('%');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2)?;
        let byte = u8::from_str_radix(hex, 16).ok().filter(u8::is_ascii)?;
        name.push(char::from(byte));
        name.push_str(rest);
    }
    // Each name has exactly one form, so that no two files have the same name.
    (stored(&name) == form).then_some(Cow::Owned(name))
}

/// Whether the name, or what comes before its first `.`, is that of a DOS device.
fn is_device(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = |port: &str| base.strip_prefix(port).is_some_and(|n| n.len() == 1 && ("1"..="9").contains(&n));
    ["aux", "con", "nul", "prn"].contains(&base.as_str()) || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fat_cannot_store_is_escaped_and_nothing_else() {
        for (name, form) in [
            ("laptop", "laptop"),
            ("tank@co:lon", "tank@co%3Alon"),
            ("a.", "a%2E"),
            ("a..", "a.%2E"),
            ("a ", "a%20"),
            (" a.b c", " a.b c"),
            ("con", "%63on"),
            ("AUX.example.org", "%41UX.example.org"),
            ("com1", "%63om1"),
            ("com0", "com0"),
            ("com10", "com10"),
            ("console", "console"),
            ("a%", "a%25"),
            ("", ""),
        ] {
            assert_eq!(stored(name), form);
            assert_eq!(real(form).as_deref(), Some(name));
            assert_eq!(is_at_risk(name), name != form);
        }
    }

    #[test]
    fn a_form_that_no_name_has_is_rejected() {
        for form in ["%", "a%3", "a%3a", "a%2Eb", "%61", "a%C3%A4", "a%zz", "a%+3", "a:%3A", "a\u{e4}%3\u{e4}"] {
            assert_eq!(real(form), None, "{form}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_one_form_that_reads_back(name in "[A-Za-z0-9_.:@~% -]{0,12}|\\PC{0,6}") {
            let form = stored(&name);
            prop_assert!(!form.contains(':') && !form.ends_with(['.', ' ']) && !is_device(&form));
            prop_assert_eq!(real(&form), Some(Cow::Borrowed(name.as_str())));
        }
    }
}
