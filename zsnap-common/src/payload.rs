//! What a queue file holds inside its encryption: a manifest, one zstd frame, a trailer
//! (zsnap-queue-file(5)). Manifest and trailer are JSON in zstd skippable frames, which stock
//! zstd ignores.

use std::cmp::Ordering;
use std::fmt;
use std::io::{self, BufRead, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use crate::target::{Dataset, Host, MAX_NAME, check_component};
use crate::zstream::Guid;

/// The front of the payload: who sent what, and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub zsnap: u32,
    /// The host that was backed up.
    pub host: Host,
    /// What was backed up there.
    pub dataset: Dataset,
    /// When the queue file was made: seconds UTC, the sender's clock.
    pub created: u64,
    /// ZFS stream or anything else.
    pub kind: PayloadKind,
    /// 128 random bits, 32 hex digits: tells two runs with one number apart.
    pub id: String,
    /// Which life of the sender's state directory numbered this file.
    pub epoch: Epoch,
    /// Number of this file: microseconds UTC, always growing per host and dataset.
    pub seq: u64,
    /// Number of the acknowledged file before this one; `None`: the first of its epoch.
    pub prev: Option<u64>,
    /// Whether it needs the file before it.
    pub base: Base,
    /// For ZFS streams: what the first records tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zfs: Option<ZfsHead>,
}

/// The kinds of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// A ZFS send stream.
    Zfs,
    /// Bytes of any other producer.
    Opaque,
}

impl PayloadKind {
    /// All that this version knows.
    pub const ALL: [PayloadKind; 2] = [PayloadKind::Zfs, PayloadKind::Opaque];

    /// Its name in a manifest.
    fn name(self) -> &'static str {
        match self {
            PayloadKind::Zfs => "zfs",
            PayloadKind::Opaque => "opaque",
        }
    }
}

/// What a file builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Nothing: complete in itself.
    None,
    /// The file numbered `prev`, or for ZFS the snapshot `from`.
    Prev,
}

/// One life of a sender's state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// 128 random bits, 32 hex digits.
    pub id: String,
    /// When it began: seconds UTC.
    pub started: u64,
}

/// What the first records of a ZFS stream tell. Known before the stream is read: for a compound
/// stream there is only the name of its last snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsHead {
    /// Source file system and last snapshot: `tank/home@today`.
    pub toname: String,
    /// Base of the first sub-stream; `None`: full.
    pub from: Option<Guid>,
    /// Snapshot of a plain stream; absent for compound ones, the trailer has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Guid>,
    /// Encrypted as on the sender's disk.
    pub raw: bool,
    /// Blocks are compressed.
    pub compressed: bool,
}

/// The end of the payload: what is known only when the stream has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// Version of this format: 1.
    pub zsnap: u32,
    /// Length of the plain stream in bytes.
    pub bytes: u64,
    /// SHA-256 of the plain stream, 64 hex digits.
    pub sha256: String,
    /// For ZFS streams: number of sub-streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub substreams: Option<u64>,
    /// For ZFS streams: the last snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Guid>,
}

/// Largest manifest or trailer, in bytes of JSON.
pub const MAX_JSON: usize = 64 << 10;
/// The version of the format.
const VERSION: u32 = 1;
/// Magic number of a zstd frame (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Magic number of the skippable frame with the manifest.
const MANIFEST: [u8; 4] = 0x184D_2A5A_u32.to_le_bytes();
/// Magic number of the skippable frame with the trailer.
const TRAILER: [u8; 4] = 0x184D_2A5B_u32.to_le_bytes();

/// What zstd returns for a frame whose window is larger than allowed
/// (`ZSTD_error_frameParameter_windowTooLarge`, 16, in zstd_errors.h). The crate passes on its name only.
const WINDOW_TOO_LARGE: usize = 16_usize.wrapping_neg();
/// The same for a frame that it cannot get memory for (`ZSTD_error_memory_allocation`).
const NO_MEMORY: usize = 64_usize.wrapping_neg();
/// Longest name of a kind of payload.
const MAX_KIND: usize = 32;

/// Why a payload cannot be read.
#[derive(Debug)]
pub enum PayloadError {
    /// It is not what a payload should be: the fact, for people.
    Malformed(String),
    /// Its manifest or trailer is of a kind or version that only later versions of zsnap know: which, for people.
    Newer(String),
    /// Decompressing it needs a larger window than is allowed: the fact, for people.
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

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Manifest {
    /// The skippable frame that holds it. Refuses what [`PayloadReader`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        frame(MANIFEST, self)
    }

    fn check(&self) -> Result<(), PayloadError> {
        if !is_hex(&self.id, 32) || !is_hex(&self.epoch.id, 32) {
            return malformed("the manifest has an id that is not 32 lower-case hex digits");
        }
        if self.prev.is_some_and(|prev| prev >= self.seq) {
            return malformed("the manifest's prev is not less than its seq");
        }
        match (self.kind, &self.zfs) {
            (PayloadKind::Zfs, Some(zfs)) => zfs.check(self.base),
            (PayloadKind::Opaque, None) => Ok(()),
            (PayloadKind::Zfs, None) => malformed("the manifest says zfs and does not describe the stream"),
            (PayloadKind::Opaque, Some(_)) => malformed("the manifest says opaque and describes a ZFS stream"),
        }
    }
}

impl ZfsHead {
    fn check(&self, base: Base) -> Result<(), PayloadError> {
        let named = self.toname.split_once('@').is_some_and(|(fs, snap)| {
            fs.parse::<Dataset>().is_ok() && check_component(snap).is_ok() && self.toname.len() <= MAX_NAME
        });
        if !named {
            return malformed("the manifest's toname is no name of a snapshot");
        }
        if self.from == Some(Guid(0)) || self.to == Some(Guid(0)) {
            return malformed("the manifest has a guid of zero");
        }
        if self.from.is_some() != (base == Base::Prev) {
            return malformed("the manifest's base and its from-guid contradict each other");
        }
        Ok(())
    }
}

impl Trailer {
    /// The skippable frame that holds it.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        frame(TRAILER, self)
    }

    fn check(&self) -> Result<(), PayloadError> {
        if !is_hex(&self.sha256, 64) {
            return malformed("the trailer's sha256 is not 64 lower-case hex digits");
        }
        Ok(())
    }
}

/// A skippable frame (RFC 8878, 3.1.2): magic number, length, JSON.
fn frame(magic: [u8; 4], what: &impl Serialize) -> Result<Vec<u8>, PayloadError> {
    let json = serde_json::to_vec(what).map_err(|e| PayloadError::Malformed(e.to_string()))?;
    let Some(length) = u32::try_from(json.len()).ok().filter(|n| *n as usize <= MAX_JSON) else {
        return malformed("manifest or trailer is longer than 64 KiB");
    };
    Ok([magic.as_slice(), &length.to_le_bytes(), &json].concat())
}

/// Checks the version before the fields, so that a later format is named and not misread.
fn parse<T: DeserializeOwned>(json: &[u8], name: &str) -> Result<T, PayloadError> {
    #[derive(Deserialize)]
    struct Version {
        zsnap: u32,
    }
    let bad = |e: serde_json::Error| PayloadError::Malformed(format!("the {name} cannot be read: {e}"));
    let version = serde_json::from_slice::<Version>(json).map_err(bad)?.zsnap;
    let text = format!("the {name} is of version {version}, this program reads version {VERSION}");
    match version.cmp(&VERSION) {
        Ordering::Less => malformed(text),
        Ordering::Equal => serde_json::from_slice(json).map_err(bad),
        Ordering::Greater => Err(PayloadError::Newer(text)),
    }
}

/// Refuses a manifest whose kind is not known here as [`PayloadError::Newer`]: its other fields may mean
/// something else. What could never be the name of a kind is left to [`parse`].
fn check_kind(json: &[u8]) -> Result<(), PayloadError> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let Ok(Kind { kind }) = serde_json::from_slice(json) else { return Ok(()) };
    let word = kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let possible = word && (1..=MAX_KIND).contains(&kind.len());
    if !possible || PayloadKind::ALL.iter().any(|known| known.name() == kind) {
        return Ok(());
    }
    Err(PayloadError::Newer(format!("its kind is \"{kind}\", which this program does not know")))
}

/// Where in the payload the reader is.
enum At {
    /// Between frames.
    Boundary,
    /// Inside a zstd frame; its magic number was read and must still be fed to zstd if `true`.
    Frame(bool),
    /// Nothing follows.
    End,
}

/// Takes a payload apart. With a manifest in front the form is strict: manifest, one zstd frame,
/// trailer, end. Without one (a file of the seeds): any number of zstd frames, skippable ones
/// ignored.
pub struct PayloadReader<R> {
    src: R,
    zstd: zstd::stream::raw::Decoder<'static>,
    window_log: u32,
    at: At,
    frames: u64,
    manifest: Option<Manifest>,
    trailer: Option<Trailer>,
}

impl<R: BufRead> PayloadReader<R> {
    /// Reads the manifest, if there is one. `window_log` bounds the memory for decompression:
    /// frames with a larger window, log2, are refused as [`PayloadError::Window`].
    pub fn new(src: R, window_log: u32) -> Result<PayloadReader<R>, PayloadError> {
        let mut zstd = zstd::stream::raw::Decoder::new().map_err(PayloadError::Io)?;
        zstd.set_parameter(DParameter::WindowLogMax(window_log)).map_err(PayloadError::Io)?;
        let mut reader =
            PayloadReader { src, zstd, window_log, at: At::Boundary, frames: 0, manifest: None, trailer: None };
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

    /// The manifest; `None`: a file of the seeds.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The trailer, once [`PayloadReader::read`] has given 0; always there if there is a manifest.
    /// Whether it tells the truth about the stream is for the caller to check.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// The next bytes of the plain stream; 0 at its end, and then the payload was whole.
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

    /// Looks at what comes next between frames.
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

    /// Four bytes, or the end.
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

    /// Runs zstd once or more; 0 when the frame ended without giving more.
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

/// The error of a machine that has too little memory for what it is to do.
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
