//! The payload, which is what a queue file contains inside its encryption: a manifest, one zstd frame, a trailer
//! (zsnap-queue-file(5)). Manifest and trailer are JSON in zstd skippable frames, which stock zstd ignores.

use std::fmt;
use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

mod manifest;

pub use manifest::{Base, Epoch, MAX_JSON, Manifest, PayloadKind, Trailer, ZfsHead};
use manifest::{MANIFEST, TRAILER, check_kind, parse};

/// The magic number of a zstd frame (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// What zstd returns for a frame whose window is larger than allowed (`ZSTD_error_frameParameter_windowTooLarge`, 16,
/// in zstd_errors.h). The zstd crate returns only the name of the error.
const WINDOW_TOO_LARGE: usize = 16_usize.wrapping_neg();
/// What zstd returns if it gets no memory for a frame (`ZSTD_error_memory_allocation`, 64, in zstd_errors.h).
const NO_MEMORY: usize = 64_usize.wrapping_neg();

/// Why a payload cannot be read.
#[derive(Debug)]
pub enum PayloadError {
    /// It is not a proper payload: what is wrong, for messages.
    Malformed(String),
    /// Its manifest or trailer is of a kind or version that only newer versions of zsnap know: which, for messages.
    Newer(String),
    /// Its decompression needs a larger window than is allowed: how large, for messages.
    Window(String),
    /// Reading it failed, or there was not enough memory.
    Io(io::Error),
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PayloadError::Malformed(why) | PayloadError::Newer(why) | PayloadError::Window(why) => f.write_str(why),
            PayloadError::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for PayloadError {}

fn malformed<T>(why: impl Into<String>) -> Result<T, PayloadError> {
    Err(PayloadError::Malformed(why.into()))
}

/// Where the reader is in the payload.
enum At {
    /// Between frames.
    Boundary,
    /// Inside a zstd frame; if `true`, its magic number was read and must still be fed to zstd.
    Frame(bool),
    /// Nothing follows.
    End,
}

/// Parses a payload. If it begins with a manifest, the form is strict: manifest, one zstd frame, trailer, end.
/// Without a manifest any number of zstd frames is accepted, and skippable frames are ignored.
pub struct PayloadReader<R> {
    src: R,
    zstd: zstd::stream::raw::Decoder<'static>,
    window_log: u32,
    at: At,
    frames: u64,
    /// Whether the last frame that began has a checksum of what it contains.
    has_checksum: bool,
    manifest: Option<Manifest>,
    trailer: Option<Trailer>,
}

impl<R: BufRead> PayloadReader<R> {
    /// Reads the manifest, if there is one. `window_log` limits the memory for decompression: frames with a larger
    /// window (log2) are rejected as [`PayloadError::Window`].
    pub fn new(src: R, window_log: u32) -> Result<PayloadReader<R>, PayloadError> {
        let mut zstd = zstd::stream::raw::Decoder::new().map_err(PayloadError::Io)?;
        zstd.set_parameter(DParameter::WindowLogMax(window_log)).map_err(PayloadError::Io)?;
        let (at, frames, has_checksum) = (At::Boundary, 0, false);
        let mut reader =
            PayloadReader { src, zstd, window_log, at, frames, has_checksum, manifest: None, trailer: None };
        match reader.magic()? {
            Some(MANIFEST) => {
                let json = reader.json()?;
                check_kind(&json)?;
                let manifest: Manifest = parse(&json, "manifest")?;
                manifest.check()?;
                reader.manifest = Some(manifest);
                reader.boundary()?;
            }
            Some(magic) => reader.enter(magic)?,
            None => return malformed("the payload is empty"),
        }
        Ok(reader)
    }

    /// Returns the manifest, if there is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Whether zstd compares a checksum of what it decompresses. If there is a manifest, this is known from the start.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// Returns the trailer, after [`PayloadReader::read`] has returned 0; there always is one if there is a manifest.
    /// The caller must check that what it says about the stream is true.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// Reads the next bytes of the uncompressed stream. Returns 0 at its end, and then the payload was whole.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, PayloadError> {
        loop {
            match self.at {
                At::End => return Ok(0),
                At::Boundary => self.boundary()?,
                At::Frame(fresh) => {
                    let n = self.decompress(fresh, out)?;
                    if n > 0 {
                        return Ok(n);
                    }
                }
            }
        }
    }

    /// Examines what comes next between frames.
    fn boundary(&mut self) -> Result<(), PayloadError> {
        let Some(magic) = self.magic()? else {
            if self.manifest.is_some() {
                return malformed("the payload ends without a trailer");
            }
            self.at = At::End;
            return Ok(());
        };
        self.enter(magic)
    }

    fn enter(&mut self, magic: [u8; 4]) -> Result<(), PayloadError> {
        match (magic, self.manifest.is_some()) {
            (ZSTD, true) if self.frames > 0 => malformed("the payload has a second zstd frame"),
            (ZSTD, _) => {
                self.frames += 1;
                // Bit 2 of the first byte after the magic number (RFC 8878, 3.1.1.1.1: Content_Checksum_flag).
                let flags = self.src.fill_buf().map_err(PayloadError::Io)?.first();
                self.has_checksum = flags.is_some_and(|flags| flags & 4 != 0);
                self.at = At::Frame(true);
                Ok(())
            }
            (TRAILER, true) if self.frames == 1 => {
                let trailer: Trailer = parse(&self.json()?, "trailer")?;
                trailer.check()?;
                self.trailer = Some(trailer);
                if !self.src.fill_buf().map_err(PayloadError::Io)?.is_empty() {
                    return malformed("bytes follow the payload's trailer");
                }
                self.at = At::End;
                Ok(())
            }
            ([0x50..=0x5f, 0x2a, 0x4d, 0x18], false) => self.skip(),
            (_, true) => malformed("the payload is not manifest, zstd frame and trailer"),
            (_, false) => malformed("the payload is not zstd data"),
        }
    }

    /// Reads the four bytes of a magic number, or returns `None` at the end.
    fn magic(&mut self) -> Result<Option<[u8; 4]>, PayloadError> {
        if self.src.fill_buf().map_err(PayloadError::Io)?.is_empty() {
            return Ok(None);
        }
        self.four().map(Some)
    }

    fn four(&mut self) -> Result<[u8; 4], PayloadError> {
        let mut bytes = [0; 4];
        self.src.read_exact(&mut bytes).map_err(ends_early)?;
        Ok(bytes)
    }

    fn json(&mut self) -> Result<Vec<u8>, PayloadError> {
        let length = u32::from_le_bytes(self.four()?) as usize;
        if length > MAX_JSON {
            return malformed("manifest or trailer is longer than 64 KiB");
        }
        let mut json = vec![0; length];
        self.src.read_exact(&mut json).map_err(ends_early)?;
        Ok(json)
    }

    fn skip(&mut self) -> Result<(), PayloadError> {
        let length = u64::from(u32::from_le_bytes(self.four()?));
        let skipped = io::copy(&mut self.src.by_ref().take(length), &mut io::sink()).map_err(PayloadError::Io)?;
        if skipped < length {
            return malformed("the payload ends inside a frame");
        }
        Ok(())
    }

    /// Runs zstd until it has returned bytes. Returns 0 if the frame ended without any.
    fn decompress(&mut self, mut fresh: bool, out: &mut [u8]) -> Result<usize, PayloadError> {
        let mut out = OutBuffer::around(out);
        while out.pos() == 0 && out.capacity() > 0 {
            let bytes = if fresh { &ZSTD } else { self.src.fill_buf().map_err(PayloadError::Io)? };
            let at_end = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let left = self.zstd.run(&mut input, &mut out);
            let left = left.map_err(|e| match e.to_string() {
                why if why == zstd::zstd_safe::get_error_name(WINDOW_TOO_LARGE) => PayloadError::Window(format!(
                    "zstd needs more memory for it than a window of 2^{} bytes",
                    self.window_log
                )),
                why if why == zstd::zstd_safe::get_error_name(NO_MEMORY) => PayloadError::Io(out_of_memory()),
                why => PayloadError::Malformed(format!("the compressed data is damaged: {why}")),
            })?;
            let used = input.pos();
            if fresh && used < ZSTD.len() {
                return malformed("the compressed data is damaged: no frame begins");
            } else if !fresh {
                self.src.consume(used);
            }
            fresh = false;
            self.at = if left == 0 { At::Boundary } else { At::Frame(false) };
            if left == 0 {
                break;
            }
            if at_end && out.pos() == 0 {
                return malformed("the payload ends inside the compressed data");
            }
        }
        Ok(out.pos())
    }
}

/// Returns the error of a machine that has too little memory, with the remedy.
pub fn out_of_memory() -> io::Error {
    let remedy = "raise its limit (LimitAS= of a unit, ulimit -v), or lower window-log, verify-buffer or jobs";
    io::Error::new(io::ErrorKind::OutOfMemory, format!("this machine gives too little memory to verify it: {remedy}"))
}

fn ends_early(e: io::Error) -> PayloadError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => PayloadError::Malformed("the payload ends inside a frame".into()),
        _ => PayloadError::Io(e),
    }
}

#[cfg(test)]
mod tests;
