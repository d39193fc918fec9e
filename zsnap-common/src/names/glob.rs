//! Globs for HOST/DATASET, as used in the configuration.

use std::str::FromStr;

use regex::Regex;

/// A glob: `*` matches any text within a component, `**` any text across components, `?` one
/// character other than `/`. All else is literal, and the whole text must match.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    whole: Regex,
}

impl Glob {
    /// Returns the glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the glob matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(glob: &str) -> Result<Self, String> {
        let mut pattern = String::from(r"\A");
        let mut rest = glob;
        while let Some(c) = rest.chars().next() {
            let (length, part) = match c {
                '*' if rest.starts_with("**") => (2, "(?s:.*)".to_owned()),
                '*' => (1, "[^/]*".to_owned()),
                '?' => (1, "[^/]".to_owned()),
                c => (c.len_utf8(), regex::escape(&c.to_string())),
            };
            pattern.push_str(&part);
            rest = rest.get(length..).unwrap_or_default();
        }
        pattern.push_str(r"\z");
        Regex::new(&pattern)
            .map(|whole| Glob { text: glob.to_owned(), whole })
            .map_err(|e| format!("\"{glob}\" is not a glob: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_matches_within_a_component_and_two_across() {
        for (glob, text, fits) in [
            ("laptop/etc", "laptop/etc", true),
            ("laptop/etc", "laptop/etc2", false),
            ("laptop/etc", "xlaptop/etc", false),
            ("laptop/*", "laptop/etc", true),
            ("laptop/*", "laptop/etc/x", false),
            ("laptop/**", "laptop/etc/x", true),
            ("*/hosts/**", "disk1/hosts/a/b", true),
            ("laptop/e?c", "laptop/etc", true),
            ("laptop?etc", "laptop/etc", false),
            ("lap.op/etc", "laptop/etc", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob.parse::<Glob>().unwrap().matches(text), fits, "{glob} {text}");
        }
    }
}
