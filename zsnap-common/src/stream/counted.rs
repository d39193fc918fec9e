//! Counts what passes through a writer.

use std::io::{self, Write};

/// A writer that counts the bytes written through it.
pub struct Counted<W> {
    /// The writer that gets them.
    pub to: W,
    /// Their number so far.
    pub bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
