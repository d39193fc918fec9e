//! Quoting for a shell: users paste the remedies in messages, which contain names that others have chosen.

/// Quotes `word`, if necessary, so that a shell reads it as one argument. (A word that begins with a hyphen would
/// still be an option, but no target, dataset or queue file begins with one.)
pub fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@/_.:,+=%-".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_each_quoted_word_as_one_argument() {
        for word in [
            "backup/hosts/h/d@s-1.2:3_4",
            "",
            "a b",
            "x -rR y",
            "it's",
            "$(touch x)",
            "a;b`c`\"d\"\\",
            "*",
            "~",
            "a\nb",
        ] {
            let script = format!("printf %s, {} end", quoted(word));
            let out = Command::new("/bin/sh").args(["-c", &script]).output().unwrap().stdout;
            assert_eq!(String::from_utf8(out).unwrap(), format!("{word},end,"));
        }
        assert_eq!(quoted("tank/home@s1"), "tank/home@s1");
    }
}
