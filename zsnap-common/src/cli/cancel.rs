//! Orderly termination on a signal: temporary files are removed, children killed and locks released;
//! then the process dies of the same signal, so that the caller sees it.

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

/// The number of bytes that a pipe accepts without blocking if poll(2) reports it as writable (POSIX:
/// PIPE_BUF; Linux: one page). A larger write could block, and a signal would not end it.
const PIPE_BUF: usize = 4096;
/// The size that we request for a pipe: the largest that Linux allows unprivileged users by default.
const PIPE_SIZE: usize = 1 << 20;

static SIGNAL: AtomicUsize = AtomicUsize::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
// Never read, so that it wakes every poll after a signal.
static WAKE: OnceLock<OwnedFd> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes SIGTERM, SIGINT and SIGHUP set a flag; a second signal kills the process at once. Signals that were ignored
/// (nohup) remain ignored. Call it once at the start of `main`, as [`crate::cli::exit::run_tool`] does.
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
        // The handlers run in this order: only the second signal finds the flag set.
        signal_hook::flag::register_conditional_default(signal, &ARMED)?;
        signal_hook::flag::register(signal, &ARMED)?;
        signal_hook::flag::register_usize(signal, &SIGNAL, usize::try_from(signal).unwrap_or(0))?;
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(())
}

/// Returns the set of signals that this process ignores, as a bit mask. Without /proc, it is empty.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Returns the signal that asked us to end, if any.
pub fn pending() -> Option<i32> {
    i32::try_from(SIGNAL.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
}

/// The error that [`Interruptible`] and [`check`] return inside an `io::Error` of kind `Other`
/// (never `Interrupted`, which std retries). [`Cancelled::find`] extracts it from an error.
#[derive(Debug)]
pub struct Cancelled(pub i32);

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match signal_hook::low_level::signal_name(self.0) {
            _ if self.0 == SIGINT => f.write_str("interrupted"),
            name => write!(f, "ended by {}", name.unwrap_or("a signal")),
        }
    }
}

impl std::error::Error for Cancelled {}

impl Cancelled {
    /// Returns the signal at the root of `error`, which may be wrapped any number of times.
    pub fn find(error: &anyhow::Error) -> Option<i32> {
        error.chain().find_map(Self::inside)
    }

    fn inside(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
        if let Some(Cancelled(signal)) = error.downcast_ref() {
            return Some(*signal);
        }
        // `source` of an `io::Error` returns the source of its inner error, so the inner error
        // itself is not in the chain.
        let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
        std::iter::successors(Some(inner as &dyn std::error::Error), |e| e.source()).find_map(Self::inside)
    }
}

/// Returns `Err` with [`Cancelled`] once a signal has arrived.
pub fn check() -> io::Result<()> {
    match pending() {
        Some(signal) => Err(io::Error::other(Cancelled(signal))),
        None => Ok(()),
    }
}

/// Ends this process by the default action of `signal`, so that the caller sees 128+n. Destructors
/// do not run: call it last. Returns only for a signal that does not end a process.
pub fn die_of(signal: i32) {
    // An unknown signal is the only error.
    let _ = emulate_default_handler(signal);
}

/// Waits until `fd` is ready for `what`. Returns an error once a signal has arrived, and one of kind
/// `TimedOut` when `patience` is over.
pub fn ready(fd: BorrowedFd<'_>, what: PollFlags, patience: Option<Duration>) -> io::Result<()> {
    // A `patience` that the clock cannot represent is not a limit.
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
        // Errors and hang-ups count as ready: the call itself then reports them.
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

/// Reads from and writes to a pipe or file. A signal ends a blocked call at once (by poll on the fd
/// and a self-pipe).
pub struct Interruptible<F: AsFd> {
    inner: F,
    out: Option<Out>,
    patience: Option<Duration>,
}

/// How to write so that no call blocks where a signal cannot end it.
enum Out {
    /// A regular file, to which no write takes long.
    Whole,
    /// A pipe, opened again in non-blocking mode for us alone, which accepts as much as fits.
    Fits(OwnedFd),
    /// Anything else, which is written in pieces of [`PIPE_BUF`].
    Pieces,
}

impl<F: AsFd> Interruptible<F> {
    /// Wraps `inner`. A pipe is enlarged to 1 MiB if allowed, which saves context switches between its ends.
    pub fn new(inner: F) -> Interruptible<F> {
        // This fails if `inner` is not a pipe or the size is not allowed; then nothing changes.
        let _ = rustix::pipe::fcntl_setpipe_size(&inner, PIPE_SIZE);
        Interruptible { inner, out: None, patience: None }
    }

    /// Wraps `inner` like [`Interruptible::new`]. A call for which the other end does nothing for the time `patience`
    /// fails with `ErrorKind::TimedOut`.
    pub fn patient(inner: F, patience: Duration) -> Interruptible<F> {
        Interruptible { patience: Some(patience), ..Interruptible::new(inner) }
    }
}

impl Out {
    fn of(fd: BorrowedFd<'_>) -> Out {
        let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile) => Out::Whole,
            // O_NONBLOCK on `fd` itself would affect every process that shares it.
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
                // EAGAIN: another reader was faster, and the fd is in non-blocking mode.
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

    /// Runs one of the ignored tests below in its own process, because signals go to a whole process.
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

    /// Sends `signal` once the child has reported on stderr that it is about to block.
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
    fn a_signal_ends_a_blocked_read_or_write_and_kills_the_process() {
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
    fn a_second_signal_kills_the_process_at_once() {
        let mut child = run("deaf", Stdio::null(), Stdio::null());
        send_when_ready(&mut child, Signal::TERM);
        send_when_ready(&mut child, Signal::INT);
        assert_eq!(child.wait().unwrap().signal(), Some(2));
    }

    #[test]
    fn the_shell_sees_128_plus_the_signal_and_nohup_is_respected() {
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
    fn without_install_an_interruptible_only_reads_and_writes() {
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
    fn a_write_to_a_broken_pipe_is_an_error() {
        let (reader, writer) = pipe();
        drop(reader);
        assert_eq!(Interruptible::new(writer).write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_patient_read_or_write_times_out_if_the_other_end_does_nothing() {
        let (mut reader, writer) = pipe();
        let mut writer = Interruptible::patient(writer, Duration::from_millis(30));
        assert_eq!(writer.write_all(&vec![7; 10_000_000]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        reader.read_exact(&mut [0; 100_000]).unwrap();
        assert!(writer.write(b"there is room again").is_ok());
        let (reader, _writer) = pipe();
        let mut reader = Interruptible::patient(reader, Duration::from_millis(30));
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // A time that the clock cannot represent is not a limit.
        let (reader, writer) = pipe();
        (&writer).write_all(b"x").unwrap();
        assert_eq!(Interruptible::patient(reader, Duration::MAX).read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn the_signal_is_found_in_nested_errors() {
        let error = io::Error::other(io::Error::other(Cancelled(15)));
        assert_eq!(Cancelled::find(&anyhow::Error::from(error).context("a").context("b")), Some(15));
        let nested = anyhow::Error::from(io::Error::other(Cancelled(2))).context("inner");
        let error = anyhow::Error::from(io::Error::other(nested)).context("outer");
        assert_eq!(Cancelled::find(&error), Some(2));
        assert_eq!(Cancelled::find(&anyhow::anyhow!("x")), None);
    }
}
