//! A bounded pipe between two threads that distinguishes a proper end from a broken one: the reader sees the end of
//! the data only after [`PipeWriter::finish`]. If the writer is dropped without that, because its thread failed, the
//! reader gets an error, so it cannot take truncated data for the whole.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// The size of a buffer, in bytes.
const SIZE: usize = 256 << 10;
/// The number of buffers on their way between the two ends; each end holds one more.
const DEPTH: usize = 4;

/// The thread at the other end is gone: it failed, and returns an error of its own.
#[derive(Debug)]
pub struct Disconnected;

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the next or previous stage ended early")
    }
}

impl std::error::Error for Disconnected {}

impl Disconnected {
    /// Whether an error says only that another stage failed.
    pub fn is(error: &anyhow::Error) -> bool {
        error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(Disconnected::is_io)
    }

    /// Whether an error of `std::io` says only that another stage failed.
    pub fn is_io(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Disconnected>())
    }
}

/// A buffer of [`SIZE`] bytes, and how many of them are data.
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

enum Piece {
    Data(Buffer),
    End,
}

/// Emptied buffers, which are filled again.
type Free = Arc<Mutex<Vec<Vec<u8>>>>;

/// The end that is written to.
pub struct PipeWriter {
    to: SyncSender<Piece>,
    free: Free,
    buffer: Buffer,
}

/// The end that is read from.
pub struct PipeReader {
    from: Receiver<Piece>,
    free: Free,
    buffer: Buffer,
    used: usize,
    ended: bool,
}

/// Makes a pipe of about 1.5 MiB.
pub fn pipe() -> (PipeWriter, PipeReader) {
    let (to, from) = sync_channel(DEPTH);
    let free = Free::default();
    let none = || Buffer { bytes: Vec::new(), filled: 0 };
    let writer = PipeWriter { to, free: Arc::clone(&free), buffer: none() };
    (writer, PipeReader { from, free, buffer: none(), used: 0, ended: false })
}

impl PipeWriter {
    /// Returns a part of the buffer, never empty, into which the next bytes may be written instead of copied;
    /// [`PipeWriter::advance`] sends them.
    pub fn space(&mut self) -> &mut [u8] {
        if self.buffer.bytes.is_empty() {
            let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            self.buffer.bytes = free.unwrap_or_else(|| vec![0; SIZE]);
        }
        &mut self.buffer.bytes[self.buffer.filled..]
    }

    /// Takes the first `n` bytes of [`PipeWriter::space`] as written.
    pub fn advance(&mut self, n: usize) -> io::Result<()> {
        self.buffer.filled = (self.buffer.filled + n).min(self.buffer.bytes.len());
        if self.buffer.filled == SIZE { self.flush() } else { Ok(()) }
    }

    /// Sends what is left, and the proper end.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.to.send(Piece::End).map_err(|_| io::Error::other(Disconnected))
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = self.space();
        let n = bytes.len().min(space.len());
        space[..n].copy_from_slice(&bytes[..n]);
        self.advance(n)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.filled == 0 {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Buffer { bytes: Vec::new(), filled: 0 });
        self.to.send(Piece::Data(full)).map_err(|_| io::Error::other(Disconnected))
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.used == self.buffer.filled && !self.ended {
            match self.from.recv() {
                Ok(Piece::Data(full)) => {
                    let empty = std::mem::replace(&mut self.buffer, full);
                    self.used = 0;
                    if !empty.bytes.is_empty() {
                        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(empty.bytes);
                    }
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::other(Disconnected)),
            }
        }
        Ok(&self.buffer.bytes[self.used..self.buffer.filled])
    }

    fn consume(&mut self, n: usize) {
        self.used = (self.used + n).min(self.buffer.filled);
    }
}

impl Read for PipeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

/// Writes the rest of `from` to `to`, without copying it in between.
pub fn drain(from: &mut impl BufRead, to: &mut (impl Write + ?Sized)) -> io::Result<()> {
    loop {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        to.write_all(bytes)?;
        let n = bytes.len();
        from.consume(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn bytes_arrive_in_order_and_end_only_when_finished() {
        for len in [0, 1, SIZE - 1, SIZE, SIZE + 1, 20 * SIZE + 3] {
            let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let (mut writer, mut reader) = pipe();
            let mut got = Vec::new();
            thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&data).unwrap();
                    writer.finish().unwrap();
                });
                drain(&mut reader, &mut got).unwrap();
            });
            assert!(got == data, "{len}");
        }
    }

    #[test]
    fn a_writer_that_goes_away_is_an_error() {
        let (mut writer, mut reader) = pipe();
        writer.write_all(b"torso").unwrap();
        writer.flush().unwrap();
        drop(writer);
        let mut got = Vec::new();
        let e = reader.read_to_end(&mut got).unwrap_err();
        assert_eq!(got, b"torso");
        assert!(Disconnected::is(&anyhow::Error::from(e).context("reading")));
    }

    #[test]
    fn a_reader_that_goes_away_is_an_error() {
        let (mut writer, reader) = pipe();
        drop(reader);
        let e = writer.write_all(&vec![0; 2 * SIZE]).unwrap_err();
        assert!(Disconnected::is_io(&e));
        assert!(!Disconnected::is_io(&io::Error::from(io::ErrorKind::BrokenPipe)));
    }
}
