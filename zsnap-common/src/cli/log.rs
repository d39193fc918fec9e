//! The log of the tools: syslog (facility daemon) receives everything, stderr what matters. One event is
//! one line of printable ASCII, because file names and the output of children are untrusted text.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::escape::{escape, escape_bytes};

/// How long a syslog daemon that hangs may delay a backup, and (the pause) how long we then do without it.
const SYSLOG_TIMEOUT: Duration = Duration::from_secs(1);
const SYSLOG_PAUSE: Duration = Duration::from_secs(10);

/// The socket of the syslog daemon.
const SYSLOG: &str = "/dev/log";
/// The facility `daemon`, as syslog(3) numbers it.
const DAEMON: u8 = 3 << 3;

/// How severe an event is, as syslog(3) numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
}

static LOG: Mutex<Log> = Mutex::new(Log { tool: "zsnap", verbose: false, syslog: None });

struct Log {
    tool: &'static str,
    verbose: bool,
    /// `None` before [`init`], so that unit tests do not log to syslog.
    syslog: Option<Syslog>,
}

/// Starts the log. Call it once at the start of `main`, as [`crate::cli::exit::run_tool`] does. With `verbose`, info
/// and the lines of children also go to stderr.
pub fn init(tool: &'static str, verbose: bool) {
    let syslog = Some(Syslog { path: SYSLOG.into(), socket: None, not_before: None });
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = Log { tool, verbose, syslog };
}

/// Sets the verbosity, once the command line (`-v`) is known.
pub fn set_verbose(verbose: bool) {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).verbose = verbose;
}

/// Logs a failure, to syslog as `err` and to stderr.
pub fn error(m: impl Display) {
    emit(Line::new(Severity::Error, None, &m.to_string()));
}

/// Logs something that needs attention, to syslog as `warning` and to stderr.
pub fn warn(m: impl Display) {
    emit(Line::new(Severity::Warning, None, &m.to_string()));
}

/// Logs what happened, to syslog as `info`, and to stderr only if verbose.
pub fn info(m: impl Display) {
    emit(Line::new(Severity::Info, None, &m.to_string()));
}

/// Logs what a subcommand has changed, and what the user does next. It is info, and is also shown on a terminal.
pub fn outcome(m: impl Display) {
    let shown = io::stderr().is_terminal();
    emit(Line { shown, ..Line::new(Severity::Info, None, &m.to_string()) });
}

/// Logs a line that a child wrote to its stderr, as [`info`], tagged `zsnap-ingest[pid/zfs]` in syslog.
pub fn child_line(program: &str, line: &[u8]) {
    emit(Line::new(Severity::Info, Some(program), &escape_bytes(line)));
}

fn emit(line: Line) {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.tell_syslog(&line);
    crate::cli::bars::aside(|| log.tell_stderr(&line, &mut io::stderr()));
}

/// One event, whose texts are already escaped.
struct Line {
    severity: Severity,
    child: Option<String>,
    text: String,
    /// Whether info goes to stderr, too.
    shown: bool,
}

impl Line {
    fn new(severity: Severity, child: Option<&str>, message: &str) -> Line {
        Line { severity, child: child.map(escape), text: escape(message), shown: false }
    }
}

impl Log {
    fn tell_stderr(&self, line: &Line, stderr: &mut dyn Write) {
        if line.severity == Severity::Info && !self.verbose && !line.shown {
            return;
        }
        let child = line.child.as_ref().map(|child| format!("[{child}]")).unwrap_or_default();
        // A single write, so that the lines of several processes do not mix. A closed stderr must not
        // stop a backup.
        let _ = stderr.write_all(format!("{}{child}: {}\n", self.tool, line.text).as_bytes());
    }

    fn tell_syslog(&mut self, line: &Line) {
        let Some(syslog) = &mut self.syslog else { return };
        let child = line.child.as_ref().map(|child| format!("/{child}")).unwrap_or_default();
        syslog.send(line.severity, &format!("{}[{}{child}]: {}", self.tool, std::process::id(), line.text));
    }
}

/// The local syslog daemon.
struct Syslog {
    /// The path of its socket.
    path: PathBuf,
    socket: Option<UnixDatagram>,
    not_before: Option<Instant>,
}

impl Syslog {
    /// Sends a line, or drops it: a missing syslog daemon must not stop a backup.
    fn send(&mut self, severity: Severity, line: &str) {
        if self.not_before.is_some_and(|then| Instant::now() < then) {
            return;
        }
        // RFC 3164 without a host name, as syslog(3) writes it.
        let (priority, time) = (DAEMON | severity as u8, jiff::Zoned::now());
        let text = format!("<{priority}>{} {line}", time.strftime("%b %e %H:%M:%S"));
        // The second try is for a daemon that was restarted.
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = self.connect().ok();
            }
            if self.socket.as_ref().is_some_and(|socket| socket.send(text.as_bytes()).is_ok()) {
                return;
            }
            self.socket = None;
        }
        self.not_before = Some(Instant::now() + SYSLOG_PAUSE);
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SYSLOG_TIMEOUT))?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(verbose: bool, socket: PathBuf) -> Log {
        let syslog = Syslog { path: socket, socket: None, not_before: None };
        Log { tool: "zsnap-ingest", verbose, syslog: Some(syslog) }
    }

    fn receive(daemon: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let n = daemon.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[test]
    fn syslog_gets_everything_with_the_right_tag() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        let daemon = UnixDatagram::bind(&socket).unwrap();
        let mut log = log(false, socket.clone());
        let pid = std::process::id();

        log.tell_syslog(&Line::new(Severity::Info, Some("zfs"), "cannot\nreceive"));
        let text = receive(&daemon);
        // <30>Nov 22 10:11:12 TAG: daemon.info, and the time in 15 columns.
        assert!(text.starts_with("<30>") && text.as_bytes()[19] == b' ', "{text}");
        assert_eq!(text[20..], format!("zsnap-ingest[{pid}/zfs]: cannot\\nreceive"));
        log.tell_syslog(&Line::new(Severity::Error, None, "x"));
        assert!(receive(&daemon).starts_with("<27>"));

        // The daemon is restarted: the next line is not lost.
        drop(daemon);
        std::fs::remove_file(&socket).unwrap();
        let daemon = UnixDatagram::bind(&socket).unwrap();
        log.tell_syslog(&Line::new(Severity::Warning, None, "again"));
        assert!(receive(&daemon).ends_with(&format!("zsnap-ingest[{pid}]: again")));
    }

    #[test]
    fn an_absent_or_hanging_syslog_does_not_block_logging() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = log(false, dir.path().join("none"));
        gone.tell_syslog(&Line::new(Severity::Error, None, "x"));
        let socket = dir.path().join("log");
        let _hangs = UnixDatagram::bind(&socket).unwrap();
        let mut hangs = log(false, socket);
        // The kernel buffers only a few datagrams; the others cause one pause.
        for _ in 0..2000 {
            hangs.tell_syslog(&Line::new(Severity::Info, None, "x"));
        }
        assert!(hangs.syslog.unwrap().not_before.is_some());
    }

    #[test]
    fn stderr_gets_information_only_with_verbose() {
        let printed = |verbose, severity, child| {
            let mut stderr = Vec::new();
            log(verbose, PathBuf::new()).tell_stderr(&Line::new(severity, child, "m"), &mut stderr);
            String::from_utf8(stderr).unwrap()
        };
        assert_eq!(printed(false, Severity::Error, None), "zsnap-ingest: m\n");
        assert_eq!(printed(false, Severity::Warning, None), "zsnap-ingest: m\n");
        assert_eq!(printed(false, Severity::Info, None), "");
        assert_eq!(printed(true, Severity::Info, Some("zfs")), "zsnap-ingest[zfs]: m\n");
        assert_eq!(printed(false, Severity::Info, Some("zfs")), "");
        let mut stderr = Vec::new();
        let shown = Line { shown: true, ..Line::new(Severity::Info, None, "m") };
        log(false, PathBuf::new()).tell_stderr(&shown, &mut stderr);
        assert_eq!(stderr, b"zsnap-ingest: m\n");
    }

    #[test]
    fn a_closed_stderr_does_not_panic() {
        let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(reader);
        log(true, PathBuf::new()).tell_stderr(&Line::new(Severity::Error, None, "m"), &mut writer);
    }

    #[test]
    fn logging_before_init_does_not_fail() {
        error("e");
        child_line("zfs", b"\xff");
    }
}
