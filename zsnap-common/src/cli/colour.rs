//! Colours of words on a terminal.

use std::io::{self, IsTerminal};

/// How good what a word says is, which determines its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well: green.
    Good,
    /// Nobody has to do anything now, such as for a file that waits: yellow.
    Pending,
    /// Somebody must do something: red.
    Bad,
}

impl Tone {
    /// Returns the escape sequences around `text`, if `coloured`.
    pub fn paint(self, text: &str, coloured: bool) -> String {
        let colour = match self {
            _ if !coloured => return text.to_owned(),
            Tone::Good => "32",
            Tone::Pending => "33",
            Tone::Bad => "1;31",
        };
        format!("\x1b[{colour}m{text}\x1b[0m")
    }
}

/// Whether to use colours on standard output: it is a terminal that knows them, and the environment variable NO_COLOR is
/// not set (or empty).
pub fn is_on() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}
