//! Ending on a signal in order: temporaries are removed, children killed, locks released, and
//! then the process dies of that very signal, so that the caller sees it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{emulate_default_handler, pipe};

/// A pipe that poll(2) calls writable takes this many bytes at once (POSIX: PIPE_BUF; Linux: one
/// page). A larger write could block where no signal ends it.
const PIPE_BUF: usize = 4096;
/// Wanted size of a pipe; the most that Linux allows to everybody.
const PIPE_SIZE: usize = 1 << 20;

static SIGNAL: AtomicUsize = AtomicUsize::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
// Never read, so that it wakes every poll from the signal on.
static WAKE: OnceLock<OwnedFd> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// Call once at the start of `main` ([`crate::cli::exit::run_tool`] does): SIGTERM, SIGINT and SIGHUP
/// set a flag; a second one kills at once. Signals that were ignored (nohup) stay so.
pub fn install() -> io::Result<()> {
    let _once = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if WAKE.get().is_some() {
        return Ok(());
    }
    let (wake, writer) = UnixStream::pair()?;
    let _ = WAKE.set(wake.into());
    let ignored = ignored();
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        if ignored & 1 << (signal - 1) != 0 {
            continue;
        }
        // They run in this order: the second signal finds the flag set.
        signal_hook::flag::register_conditional_default(signal, &ARMED)?;
        signal_hook::flag::register(signal, &ARMED)?;
        signal_hook::flag::register_usize(signal, &SIGNAL, usize::try_from(signal).unwrap_or(0))?;
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(())
}

/// The set of signals that this process ignores. Without /proc: none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// The signal that asked us to end, if any.
pub fn pending() -> Option<i32> {
    i32::try_from(SIGNAL.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
}

/// The error that [`Interruptible`] and [`check`] give, inside an `io::Error` of kind `Other`
/// (never `Interrupted`, which std retries). [`Cancelled::find`] gets it out of an error.
#[derive(Debug)]
pub struct Cancelled(pub i32);

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = signal_hook::low_level::signal_name(self.0).unwrap_or("a signal");
        write!(f, "ended by {name}")
    }
}

impl std::error::Error for Cancelled {}

impl Cancelled {
    /// The signal at the root of `error`, which may be wrapped any number of times.
    pub fn find(error: &anyhow::Error) -> Option<i32> {
        error.chain().find_map(Self::inside)
    }

    fn inside(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
        if let Some(Cancelled(signal)) = error.downcast_ref() {
            return Some(*signal);
        }
        // The source of an `io::Error` is its inner error's source: the inner one itself is
        // not in the chain.
        let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
        std::iter::successors(Some(inner as &dyn std::error::Error), |e| e.source()).find_map(Self::inside)
    }
}

/// `Err` with [`Cancelled`] once a signal came.
pub fn check() -> io::Result<()> {
    match pending() {
        Some(signal) => Err(io::Error::other(Cancelled(signal))),
        None => Ok(()),
    }
}

/// Ends this process by `signal`'s default action, so that the caller sees 128+n. No destructor
/// runs: call it last. Returns only for a signal that does not end a process.
pub fn die_of(signal: i32) {
    // An unknown signal is the only error.
    let _ = emulate_default_handler(signal);
}

/// Waits until `fd` is ready for `what`, or an error once a signal came, or, of kind `TimedOut`,
/// when `patience` is over.
fn ready(fd: BorrowedFd<'_>, what: PollFlags, patience: Option<Duration>) -> io::Result<()> {
    // More than the clock can count is not a limit.
    let until = patience.and_then(|patience| Instant::now().checked_add(patience));
    loop {
        check()?;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let (wake, on) = WAKE.get().map_or((fd, what), |wake| (wake.as_fd(), PollFlags::IN));
        let mut fds = [PollFd::from_borrowed_fd(fd, what), PollFd::from_borrowed_fd(wake, on)];
        let ready = match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        check()?;
        if ready == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Errors and hang-ups count as ready: the call itself then tells.
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

/// Reads and writes a pipe or file so that a signal ends a blocked call at once (poll on the fd
/// and a self-pipe).
pub struct Interruptible<F: AsFd> {
    inner: F,
    out: Option<Out>,
    patience: Option<Duration>,
}

/// How to write without blocking where no signal ends it.
enum Out {
    /// A regular file: no write takes long.
    Whole,
    /// A pipe, opened once more for us alone, not blocking: as much as fits.
    Fits(OwnedFd),
    /// Anything else, by pieces of [`PIPE_BUF`].
    Pieces,
}

impl<F: AsFd> Interruptible<F> {
    /// A pipe is made as large as we may, which saves switching between its two ends.
    pub fn new(inner: F) -> Interruptible<F> {
        // No pipe, or not allowed: as it was.
        let _ = rustix::pipe::fcntl_setpipe_size(&inner, PIPE_SIZE);
        Interruptible { inner, out: None, patience: None }
    }

    /// The same, and a call for which the other end does nothing at all in this time fails with
    /// `ErrorKind::TimedOut`.
    pub fn patient(inner: F, patience: Duration) -> Interruptible<F> {
        Interruptible { patience: Some(patience), ..Interruptible::new(inner) }
    }
}

impl Out {
    fn of(fd: BorrowedFd<'_>) -> Out {
        let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile) => Out::Whole,
            // The flag O_NONBLOCK on `fd` itself would be seen by everyone who shares it.
            Ok(FileType::Fifo) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).map_or(Out::Pieces, Out::Fits)
            }
            _ => Out::Pieces,
        }
    }
}

impl<F: AsFd> io::Read for Interruptible<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            ready(self.inner.as_fd(), PollFlags::IN, self.patience)?;
            match rustix::io::read(&self.inner, &mut *buffer) {
                // Another reader was faster, or the fd does not block.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                result => return Ok(result?),
            }
        }
    }
}

impl<F: AsFd> io::Write for Interruptible<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (fd, part) = match self.out.get_or_insert_with(|| Out::of(self.inner.as_fd())) {
            Out::Whole => (self.inner.as_fd(), buffer),
            Out::Fits(pipe) => (OwnedFd::as_fd(pipe), buffer),
            Out::Pieces => (self.inner.as_fd(), &buffer[..buffer.len().min(PIPE_BUF)]),
        };
        loop {
            ready(fd, PollFlags::OUT, self.patience)?;
            match rustix::io::write(fd, part) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::{Pid, Signal, kill_process};

    fn pipe() -> (File, File) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (reader.into(), writer.into())
    }

    /// Runs one of the ignored tests below in a process of its own: signals are the process's.
    fn run(name: &str, stdin: Stdio, stdout: Stdio) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", &format!("cli::cancel::tests::{name}")])
            .env("ZSNAP_TEST_CHILD", "1")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Its stderr says when it is about to block.
    fn send_when_ready(child: &mut Child, signal: Signal) {
        let mut line = [0; 6];
        child.stderr.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn in_child() -> bool {
        std::env::var_os("ZSNAP_TEST_CHILD").is_some()
    }

    #[test]
    #[ignore = "run by other tests"]
    fn blocked_read() {
        if !in_child() {
            return;
        }
        install().unwrap();
        eprintln!("ready");
        let error = Interruptible::new(io::stdin()).read(&mut [0; 10]).unwrap_err();
        let error = anyhow::Error::from(io::Error::other(error)).context("reading");
        die_of(Cancelled::find(&error).unwrap());
    }

    #[test]
    #[ignore = "run by other tests"]
    fn blocked_write() {
        if !in_child() {
            return;
        }
        install().unwrap();
        let (_reader, writer) = pipe();
        eprintln!("ready");
        let error = Interruptible::new(writer).write_all(&vec![0; 10_000_000]).unwrap_err();
        die_of(error.get_ref().unwrap().downcast_ref::<Cancelled>().unwrap().0);
    }

    #[test]
    #[ignore = "run by other tests"]
    fn deaf() {
        if !in_child() {
            return;
        }
        install().unwrap();
        eprintln!("ready");
        while pending().is_none() {
            std::thread::yield_now();
        }
        eprintln!("ready");
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn a_signal_ends_a_blocked_read_and_the_process_dies_of_it() {
        for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
            let mut child = run("blocked_read", Stdio::piped(), Stdio::null());
            send_when_ready(&mut child, signal);
            let stdin = child.stdin.take();
            assert_eq!(child.wait().unwrap().signal(), Some(number));
            drop(stdin);
        }
        let mut child = run("blocked_write", Stdio::null(), Stdio::null());
        send_when_ready(&mut child, Signal::TERM);
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }

    #[test]
    fn a_second_signal_kills_at_once() {
        let mut child = run("deaf", Stdio::null(), Stdio::null());
        send_when_ready(&mut child, Signal::TERM);
        send_when_ready(&mut child, Signal::INT);
        assert_eq!(child.wait().unwrap().signal(), Some(2));
    }

    #[test]
    fn the_shell_sees_128_and_the_signal_and_nohup_is_honoured() {
        let exe = std::env::current_exe().unwrap();
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).arg(&exe).env("ZSNAP_TEST_CHILD", "1").stdin(Stdio::piped());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let run = r#""$0" --ignored --exact --nocapture cli::cancel::tests::blocked_read"#;
        let mut child = shell(&format!("exec 3<&0; {run} <&3 >/dev/null & echo $!; wait $!; exit $?"));
        let mut pid = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        child.stderr.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let stdin = child.stdin.take();
        assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
        drop(stdin);

        let mut child = shell(&format!("trap '' HUP; exec {run}"));
        send_when_ready(&mut child, Signal::HUP);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let stdin = child.stdin.take();
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        drop(stdin);
    }

    #[test]
    fn without_install_it_just_reads_and_writes() {
        let (reader, writer) = pipe();
        let thread = std::thread::spawn(move || Interruptible::new(writer).write_all(&[7; 300_000]));
        let mut all = Vec::new();
        Interruptible::new(reader).read_to_end(&mut all).unwrap();
        thread.join().unwrap().unwrap();
        assert_eq!(all, [7; 300_000]);
        assert!(pending().is_none() && check().is_ok());
        let mut file = Interruptible::new(tempfile::tempfile().unwrap());
        assert_eq!(file.write(&[1; 10_000]).unwrap(), 10_000);
        file.flush().unwrap();
    }

    #[test]
    fn a_broken_pipe_is_an_error() {
        let (reader, writer) = pipe();
        drop(reader);
        assert_eq!(Interruptible::new(writer).write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn patience_ends_where_the_other_end_does_nothing() {
        let (mut reader, writer) = pipe();
        let mut writer = Interruptible::patient(writer, Duration::from_millis(30));
        assert_eq!(writer.write_all(&vec![7; 10_000_000]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        reader.read_exact(&mut [0; 100_000]).unwrap();
        assert!(writer.write(b"there is room again").is_ok());
        let (reader, _writer) = pipe();
        let mut reader = Interruptible::patient(reader, Duration::from_millis(30));
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Longer than the clock goes: no limit.
        let (reader, writer) = pipe();
        (&writer).write_all(b"x").unwrap();
        assert_eq!(Interruptible::patient(reader, Duration::MAX).read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn the_signal_is_found_however_deep() {
        let error = io::Error::other(io::Error::other(Cancelled(15)));
        assert_eq!(Cancelled::find(&anyhow::Error::from(error).context("a").context("b")), Some(15));
        let nested = anyhow::Error::from(io::Error::other(Cancelled(2))).context("inner");
        let error = anyhow::Error::from(io::Error::other(nested)).context("outer");
        assert_eq!(Cancelled::find(&error), Some(2));
        assert_eq!(Cancelled::find(&anyhow::anyhow!("x")), None);
    }
}
