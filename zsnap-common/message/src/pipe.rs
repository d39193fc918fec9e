//! A bounded pipe between two threads that distinguishes a proper end from a broken one: the reader sees the end of
//! the data only after [`PipeWriter::finish`]. If the writer is dropped without that, because its thread failed, the
//! reader gets an error, so it cannot take truncated data for the whole.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};
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

/// The bytes of a buffer: a part of the memory that the pipe was made with, or its own.
enum Bytes<'a> {
    Lent(&'a mut [u8]),
    Own(Vec<u8>),
}

impl Bytes<'_> {
    fn all(&mut self) -> &mut [u8] {
        match self {
            Bytes::Lent(bytes) => bytes,
            Bytes::Own(bytes) => bytes,
        }
    }
}

/// A buffer of [`SIZE`] bytes or fewer, never empty, and how many of them are data.
struct Buffer<'a> {
    bytes: Bytes<'a>,
    filled: usize,
}

enum Piece<'a> {
    Data(Buffer<'a>),
    End,
}

/// Emptied buffers, which are filled again.
#[derive(Clone, Default)]
struct Free(Arc<Mutex<Vec<Vec<u8>>>>);

impl Free {
    fn take(&self) -> Vec<u8> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; SIZE])
    }

    fn give(&self, bytes: Bytes<'_>) {
        if let Bytes::Own(bytes) = bytes {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}

/// The end that is written to.
pub struct PipeWriter<'a> {
    to: SyncSender<Piece<'a>>,
    free: Free,
    lent: &'a mut [u8],
    buffer: Option<Buffer<'a>>,
}

/// The end that is read from.
pub struct PipeReader<'a> {
    from: Receiver<Piece<'a>>,
    free: Free,
    buffer: Option<Buffer<'a>>,
    used: usize,
    ended: bool,
}

/// Makes a pipe of about 1.5 MiB.
pub fn pipe() -> (PipeWriter<'static>, PipeReader<'static>) {
    pipe_in(&mut [])
}

/// Makes a pipe that puts what it is given into `memory` as well, as far as it fits: it comes to the reader from there.
pub fn pipe_in(memory: &mut [u8]) -> (PipeWriter<'_>, PipeReader<'_>) {
    let (to, from) = sync_channel(DEPTH);
    let free = Free::default();
    let writer = PipeWriter { to, free: free.clone(), lent: memory, buffer: None };
    (writer, PipeReader { from, free, buffer: None, used: 0, ended: false })
}

impl<'a> PipeWriter<'a> {
    /// Returns a part of the buffer, never empty, into which the next bytes may be written instead of copied;
    /// [`PipeWriter::advance`] sends them.
    pub fn space(&mut self) -> &mut [u8] {
        let (free, lent) = (&self.free, &mut self.lent);
        let buffer = self.buffer.get_or_insert_with(|| {
            let next = SIZE.min(lent.len());
            let (now, later) = std::mem::take(lent).split_at_mut(next);
            *lent = later;
            Buffer { bytes: if now.is_empty() { Bytes::Own(free.take()) } else { Bytes::Lent(now) }, filled: 0 }
        });
        &mut buffer.bytes.all()[buffer.filled..]
    }

    /// Takes the first `n` bytes of [`PipeWriter::space`] as written. Fails if the reader is gone.
    pub fn advance(&mut self, n: usize) -> io::Result<()> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        let size = buffer.bytes.all().len();
        buffer.filled = (buffer.filled + n).min(size);
        if buffer.filled == size { self.flush() } else { Ok(()) }
    }

    /// Sends what is left, and the proper end.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Piece::End)
    }

    fn send(&mut self, piece: Piece<'a>) -> io::Result<()> {
        self.to.send(piece).map_err(|SendError(piece)| {
            if let Piece::Data(buffer) = piece {
                self.free.give(buffer.bytes);
            }
            io::Error::other(Disconnected)
        })
    }
}

impl Write for PipeWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = self.space();
        let n = bytes.len().min(space.len());
        space[..n].copy_from_slice(&bytes[..n]);
        self.advance(n)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(Buffer { bytes, filled }) = self.buffer.take_if(|buffer| buffer.filled > 0) else { return Ok(()) };
        let bytes = match bytes {
            Bytes::Lent(bytes) => {
                let (now, later) = bytes.split_at_mut(filled);
                self.buffer = (!later.is_empty()).then_some(Buffer { bytes: Bytes::Lent(later), filled: 0 });
                Bytes::Lent(now)
            }
            own => own,
        };
        self.send(Piece::Data(Buffer { bytes, filled }))
    }
}

impl BufRead for PipeReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.buffer.as_ref().is_none_or(|buffer| self.used == buffer.filled) && !self.ended {
            match self.from.recv() {
                Ok(Piece::Data(full)) => {
                    self.used = 0;
                    if let Some(empty) = self.buffer.replace(full) {
                        self.free.give(empty.bytes);
                    }
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::other(Disconnected)),
            }
        }
        let used = self.used;
        Ok(self.buffer.as_mut().map_or(&[], |buffer| &buffer.bytes.all()[used..buffer.filled]))
    }

    fn consume(&mut self, n: usize) {
        self.used = (self.used + n).min(self.buffer.as_ref().map_or(0, |buffer| buffer.filled));
    }
}

impl Read for PipeReader<'_> {
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
    fn what_is_written_gets_into_its_memory() {
        let data: Vec<u8> = (0..5 * SIZE).map(|i| (i % 251) as u8).collect();
        for (len, cut) in [(0, 1), (1, 1), (SIZE + 7, SIZE), (2 * SIZE, 3), (7 * SIZE, 2 * SIZE + 1)] {
            let mut memory = vec![0; len];
            let (mut writer, mut reader) = pipe_in(&mut memory);
            let (mut got, data) = (Vec::new(), &data);
            thread::scope(|scope| {
                scope.spawn(move || {
                    let (first, second) = data.split_at(cut);
                    writer.write_all(first).unwrap();
                    writer.flush().unwrap();
                    writer.write_all(second).unwrap();
                    writer.finish().unwrap();
                });
                drain(&mut reader, &mut got).unwrap();
            });
            drop(reader);
            assert!(got == *data, "{len}");
            let kept = len.min(data.len());
            assert!(memory[..kept] == data[..kept], "{len}");
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
