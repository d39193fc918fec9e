//! Runs a tool on a terminal, with the real script(1).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::scene::Ran;

/// A shell command that runs on a terminal of 80 columns, and what it has printed so far.
pub struct Terminal {
    child: Child,
    log: PathBuf,
}

impl Terminal {
    /// Starts a shell command on a terminal. `log` is a file for what it prints.
    pub fn start(line: &str, log: &Path, dir: &Path) -> Terminal {
        let line = format!("stty cols 80 rows 24; {line}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--return", "--command", &line]).arg(log).current_dir(dir);
        script.env_remove("NO_COLOR").env("TERM", "xterm").env("SHELL", "/bin/sh");
        let child = script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("script");
        Terminal { child, log: log.to_owned() }
    }

    /// Returns what was printed so far, without what script adds.
    pub fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("Script "));
        lines.collect::<String>().replace('\r', "")
    }

    /// Types keys.
    pub fn press(&mut self, keys: &[u8]) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys).and_then(|()| stdin.flush()).unwrap();
    }

    /// Waits until the command ends, and checks its status. Returns what was printed.
    #[track_caller]
    pub fn end(mut self, status: i32) -> String {
        // The end of its input would be an end of input at the terminal, too.
        let stdin = self.child.stdin.take();
        let ran = Ran::of(self.child.wait_with_output().unwrap());
        drop(stdin);
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
        assert_eq!(ran.status, status, "{text}{}", ran.err);
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("Script "));
        lines.collect::<String>().replace('\r', "")
    }
}

/// Returns a command as a line for a shell.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}' ", word.to_str().unwrap())).collect()
}

/// Returns what a tool prints on a terminal of 80 columns. It must end with this status.
#[track_caller]
pub fn on_terminal(command: &Command, status: i32) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let dir = command.get_current_dir().unwrap_or(Path::new("/"));
    Terminal::start(&line(command), log.path(), dir).end(status)
}
