//! Quoting for a shell: users paste the remedies in messages, which contain names and paths that others have chosen.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Quotes a name or a path, if necessary, so that a shell reads it as one argument. The result is printable ASCII, which
/// the log prints as it is. A word with any other character becomes `$'…'`, which bash, ksh and zsh read, and any shell
/// that follows POSIX.1-2024. (A word that begins with a hyphen would still be an option, but no target, dataset, queue
/// file or absolute path begins with one.)
pub fn quoted<W: AsRef<OsStr> + ?Sized>(word: &W) -> String {
    let word = word.as_ref().as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"@/_.:,+=%-".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    match word.iter().all(|b| matches!(b, b' '..=b'~')) {
        true => format!("'{}'", String::from_utf8_lossy(word).replace('\'', r"'\''")),
        // `\x` would take following hex digits of the word as its own in some shells; octal numbers have a fixed length.
        false => {
            let one = |b: &u8| match b {
                b'\'' | b'\\' => format!("\\{}", char::from(*b)),
                b' '..=b'~' => char::from(*b).to_string(),
                _ => format!("\\{b:03o}"),
            };
            format!("$'{}'", word.iter().map(one).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Returns what a shell makes of the quoted word. The log prints it as it is, so that this is what a user pastes.
    fn read_by(shell: &str, word: &OsStr) -> Option<Vec<u8>> {
        assert!(quoted(word).bytes().all(|b| matches!(b, b' '..=b'~')), "{word:?}");
        let script = format!("printf %s, {} end", quoted(word));
        Command::new(shell).args(["-c", &script]).output().ok().map(|output| output.stdout)
    }

    #[test]
    fn a_shell_reads_each_quoted_word_as_one_argument() {
        for word in
            ["backup/hosts/h/d@s-1.2:3_4", "", "a b", "x -rR y", "it's", "$(touch x)", "a;b`c`\"d\"\\", "*", "~"]
        {
            assert_eq!(read_by("/bin/sh", word.as_ref()).unwrap(), format!("{word},end,").as_bytes(), "{word}");
        }
        assert_eq!(quoted("tank/home@s1"), "tank/home@s1");
    }

    #[test]
    fn bash_reads_quoted_words_that_are_not_ascii() {
        let words: [&[u8]; 5] =
            ["/mnt/S\u{fc}d 1".as_bytes(), b"a\nb", b"\xff7 it's \\n", b"\x1b[2J'", "\u{e4}bc".as_bytes()];
        for word in words {
            let Some(read) = read_by("bash", OsStr::from_bytes(word)) else {
                eprintln!("NOT TESTED: bash is not installed");
                return;
            };
            assert_eq!(read, [word, b",end,"].concat(), "{word:?}");
        }
    }
}
