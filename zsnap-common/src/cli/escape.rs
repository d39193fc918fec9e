//! Escapes untrusted text into one line that is harmless in a terminal and a log.

/// The length in bytes at which a line is truncated: syslog daemons accept 1,024 to 8,192 bytes.
const MAX_LINE: usize = 1000;

/// Returns `text` with everything except printable ASCII escaped, truncated to 1,000 bytes followed by `[...]`.
pub fn escape(text: &str) -> String {
    escape_bytes(text.as_bytes())
}

/// Escapes any bytes like [`escape`]: as `\n`, `\t`, `\r`, and otherwise as `\xNN` for each byte.
pub fn escape_bytes(text: &[u8]) -> String {
    let mut out = String::new();
    for &byte in text {
        if out.len() >= MAX_LINE {
            out.truncate(MAX_LINE);
            out.push_str("[...]");
            break;
        }
        match byte {
            b' '..=b'~' => out.push(char::from(byte)),
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\r' => out.push_str("\\r"),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_escaped_to_one_line_of_ascii() {
        assert_eq!(escape("a\nb\t\x1b[2J\u{7f}\u{e4}\\'\""), "a\\nb\\t\\x1b[2J\\x7f\\xc3\\xa4\\'\"");
        assert_eq!(escape_bytes(b"\0\xff~ "), "\\x00\\xff~ ");
        let long = escape(&"x".repeat(5000));
        assert_eq!(long, "x".repeat(1000) + "[...]");
        assert_eq!(escape(&"x".repeat(1000)), "x".repeat(1000));
        assert_eq!(escape(&"\n".repeat(5000)).len(), 1005);
    }
}
