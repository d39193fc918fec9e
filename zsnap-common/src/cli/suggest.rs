//! "Did you mean": finds the known word that a misspelt one most resembles.

use std::ffi::OsStr;

use clap::Command;

/// How similar two words must be, from 0 to 1.
const SIMILAR: f64 = 0.8;

/// Returns the one of `known` that `word` most resembles, if it is similar enough. Underscores count as hyphens.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    let rated = known.into_iter().map(|known| (strsim::jaro(&word, known), known));
    let best = rated.filter(|(similarity, _)| *similarity > SIMILAR).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, known)| known)
}

/// Returns the subcommand that a user may have meant by an operand, which clap cannot know to be one.
pub fn subcommand<'a>(operand: &OsStr, command: &'a Command) -> Option<&'a str> {
    let word = operand.to_str().filter(|word| !word.contains('/'))?;
    closest(word, command.get_subcommands().map(Command::get_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_word_is_found_and_no_other() {
        let known = ["recipient-file", "encrypt-to", "status", "keep", "to"];
        for (word, expected) in [
            ("recipient_file", Some("recipient-file")),
            ("recipentfile", Some("recipient-file")),
            ("Encrypt_To", Some("encrypt-to")),
            ("stauts", Some("status")),
            ("status", Some("status")),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(closest(word, known), expected, "{word}");
        }
    }
}
