//! The stream gate: checks whether a send stream is complete and correct, reports what it contains, and passes its
//! substreams on one by one.
//!
//! If `zfs send` dies or a disk fills up, the file still ends cleanly. `zfs receive` commits at an END record and
//! believes the names in a compound stream, and some values in a record make the kernel panic, at once or when the
//! file is read. So each record is walked before anyone queues or receives it, and its fields are checked by the
//! rules in `rules.rs`.
//!
//! A stream that is not compound is BEGIN, records, END. A compound stream (`zfs send -I`, `-p`) is BEGIN and END of
//! a wrapper, streams that are not compound, and a bare END. Only one record is ever held in memory.

use std::collections::HashSet;
use std::io;

use super::fletcher::{Fletcher4, Order};
use super::record::{self, Begin, RECORD, Record, SUMMED, Type};
use super::rules::{Breach, Rules};
use super::{Guid, Kind, StreamError, StreamFacts, SubStream};

/// The maximum payload of a substream's BEGIN record, in bytes: key material and the like have about 1 KiB.
const MAX_BEGIN: u64 = 1 << 20;
/// The maximum payload of a wrapper's BEGIN record, in bytes: names and properties of all its snapshots.
const MAX_WRAPPER: u64 = 64 << 20;
/// The maximum number of substreams: a stream of nothing but tiny substreams must not fill the memory.
const MAX_SUBSTREAMS: usize = 100_000;

/// A part of a stream, which the gate passes on.
#[derive(Debug)]
pub enum Part<'a> {
    /// A substream begins; none of its bytes were passed on yet.
    Begin(&'a SubStream),
    /// Bytes of the substream, with BEGIN and END records, in pieces as small as one record (312 bytes): write them
    /// through a buffer. They are verified only when the running checksum is compared at the END record, which is
    /// passed on only if that was right.
    Bytes(&'a [u8]),
    /// The substream has ended, and its checksum was right. The records of a wrapper are not passed on.
    End,
}

/// The function that receives the parts.
type Sink<'a> = &'a mut dyn FnMut(Part<'_>) -> io::Result<()>;

/// Which records may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The first BEGIN.
    Start,
    /// The END of the wrapper's header.
    Header,
    /// In a wrapper: a substream's BEGIN, or the bare END.
    Between,
    /// In a substream: anything but BEGIN.
    Inside,
    /// Nothing: the stream has ended.
    Done,
    /// Nothing: `feed` has failed.
    Refused,
}

/// The state machine. Bytes can be fed in pieces of any size.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The number of bytes that were fed.
    bytes: u64,
    place: Place,
    order: Order,
    /// The record that is being filled.
    held: [u8; RECORD],
    filled: usize,
    /// How many bytes of the last record's payload are still to come.
    payload: u64,
    /// The checksum of everything since the last BEGIN.
    sum: Fletcher4,
    /// The guid that the records since the last BEGIN must have.
    toguid: u64,
    /// The rules for their other fields.
    rules: Rules,
    /// The dataset and the snapshot of the wrapper.
    wrapper: Option<(String, String)>,
    properties: bool,
    substreams: Vec<SubStream>,
    /// Every guid that the stream has needed or created.
    guids: HashSet<Guid>,
}

/// What is known when the first substream begins.
pub struct Head<'a> {
    /// The name in the first BEGIN record, `fs@snap`: the wrapper's, with its last snapshot, or the only substream's.
    pub toname: String,
    /// Whether a wrapper is around the substream.
    pub compound: bool,
    /// Whether the wrapper carries properties.
    pub properties: bool,
    /// The first substream.
    pub first: &'a SubStream,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::new()
    }
}

fn damaged(at: u64, what: impl Into<String>) -> StreamError {
    StreamError::Damaged { at, what: what.into() }
}

impl Gate {
    /// Creates a gate, before the first byte of a stream.
    pub fn new() -> Gate {
        Gate {
            bytes: 0,
            place: Place::Start,
            order: Order::Little,
            held: [0; RECORD],
            filled: 0,
            payload: 0,
            sum: Fletcher4::new(Order::Little),
            toguid: 0,
            rules: Rules::new(0, 0),
            wrapper: None,
            properties: false,
            substreams: Vec::new(),
            guids: HashSet::new(),
        }
    }

    /// Processes the next bytes, and calls `on` with the parts in them. After an error no more bytes are accepted.
    pub fn feed(&mut self, bytes: &[u8], on: &mut dyn FnMut(Part<'_>) -> io::Result<()>) -> Result<(), StreamError> {
        let result = self.walk(bytes, on);
        if result.is_err() {
            self.place = Place::Refused;
        }
        result
    }

    /// Returns the first substream, once its BEGIN record was fed, with the name in the first BEGIN record
    /// (`fs@snap`, the wrapper's or its own) and whether the stream is compound.
    pub fn head(&self) -> Option<Head<'_>> {
        let first = self.substreams.first()?;
        let (fs, snap) = self.wrapper.as_ref().map_or((&first.fs, &first.snap), |(fs, snap)| (fs, snap));
        Some(Head {
            toname: format!("{fs}@{snap}"),
            compound: self.wrapper.is_some(),
            properties: self.properties,
            first,
        })
    }

    /// Ends the input, and returns what the stream contains. Fails if the stream is not complete.
    pub fn finish(self) -> Result<StreamFacts, StreamError> {
        match self.place {
            Place::Done => Ok(StreamFacts {
                compound: self.wrapper.is_some(),
                properties: self.properties,
                substreams: self.substreams,
                bytes: self.bytes,
            }),
            Place::Refused => Err(damaged(self.bytes, "it was refused before its end")),
            Place::Start if record::order_of_first(&self.held[..self.filled]).is_none() => Err(StreamError::NotZfs),
            _ => Err(StreamError::Truncated { at: self.bytes }),
        }
    }

    fn walk(&mut self, mut rest: &[u8], on: Sink) -> Result<(), StreamError> {
        while !rest.is_empty() {
            if self.place == Place::Refused {
                return Err(damaged(self.bytes, "it was refused before its end"));
            }
            if self.place == Place::Done {
                return Err(damaged(self.bytes, "bytes behind its end: a second stream or garbage"));
            }
            let wanted = if self.payload > 0 { self.payload } else { (RECORD - self.filled) as u64 };
            let (piece, after) = rest.split_at(usize::try_from(wanted).map_or(rest.len(), |n| n.min(rest.len())));
            rest = after;
            self.bytes += piece.len() as u64;
            if self.payload > 0 {
                self.payload -= piece.len() as u64;
                self.sum.add(piece);
                self.pass_on(piece, on)?;
            } else {
                self.held[self.filled..self.filled + piece.len()].copy_from_slice(piece);
                self.filled += piece.len();
                if self.filled == RECORD {
                    self.filled = 0;
                    self.record(on)?;
                }
            }
        }
        Ok(())
    }

    fn pass_on(&self, bytes: &[u8], on: Sink) -> Result<(), StreamError> {
        if self.place == Place::Inside { on(Part::Bytes(bytes)).map_err(StreamError::Sink) } else { Ok(()) }
    }

    /// Processes the held record, which is complete.
    fn record(&mut self, on: Sink) -> Result<(), StreamError> {
        let bytes = self.held;
        let at = self.bytes - RECORD as u64;
        if self.place == Place::Start {
            self.order = record::order_of_first(&bytes).ok_or(StreamError::NotZfs)?;
        }
        let record = Record { bytes: &bytes, order: self.order };
        let kind = record.kind();
        if kind == Ok(Type::Begin) {
            return self.begin(at, &record, on);
        }

        let before = self.sum.value();
        self.sum.add(&bytes[..SUMMED]);
        let own = record.checksum(SUMMED);
        // Old senders leave the checksum of every record zero, and wrappers those of their own records. The END record
        // then has the only checksum.
        if own != [0; 4] && own != self.sum.value() {
            return Err(damaged(at, "the checksum is wrong"));
        }
        self.sum.add(&bytes[SUMMED..]);

        let kind = kind.map_err(|code| {
            StreamError::Unsupported(format!("ZFS stream with records of unknown type {code}: carry it with --opaque"))
        })?;
        match (self.place, kind) {
            (Place::Inside | Place::Header | Place::Between, Type::End) => self.end(at, &record, before, on),
            (Place::Inside, Type::WriteByref) => Err(StreamError::Unsupported(record::IS_DEDUPLICATED.to_owned())),
            (Place::Inside, Type::Redact) => Err(StreamError::Unsupported(record::IS_REDACTED.to_owned())),
            (Place::Inside, _) => {
                if record.toguid(kind) != self.toguid {
                    return Err(damaged(at, format!("{} of another snapshot", kind.a_record())));
                }
                let wrong = |why| damaged(at, format!("{} with {why}", kind.a_record()));
                self.payload = record.payload(kind).map_err(wrong)?;
                self.rules.check(kind, &record).map_err(|breach| match breach {
                    Breach::Damaged(why) => wrong(why),
                    Breach::Unsupported(why) => StreamError::Unsupported(why),
                })?;
                self.pass_on(&bytes, on)
            }
            _ => Err(damaged(at, format!("{} where none may be", kind.a_record()))),
        }
    }

    fn begin(&mut self, at: u64, record: &Record, on: Sink) -> Result<(), StreamError> {
        if record.u64(8) != record::MAGIC {
            return Err(damaged(at, "a BEGIN record without the magic number of the first"));
        }
        let begin = Begin::read(record).map_err(|why| damaged(at, why))?;
        if let Some(why) = begin.unsupported() {
            return Err(StreamError::Unsupported(why));
        }
        self.sum = Fletcher4::new(self.order);
        self.sum.add(record.bytes);
        self.toguid = begin.to;
        self.rules = Rules::new(begin.features, begin.flags);
        self.payload = u64::from(record.u32(4));
        let longest = if begin.header == record::COMPOUND { MAX_WRAPPER } else { MAX_BEGIN };
        if self.payload > longest || self.payload % 4 != 0 {
            return Err(damaged(at, format!("a BEGIN record with a payload of {} bytes", self.payload)));
        }
        match (begin.header, self.place) {
            (record::COMPOUND, Place::Start) => {
                self.wrapper = Some((begin.fs, begin.snap));
                self.properties = self.payload > 0;
                self.place = Place::Header;
                Ok(())
            }
            (record::SUBSTREAM, Place::Start | Place::Between) => {
                let substream = self.admit(at, begin)?;
                self.substreams.push(substream);
                self.place = Place::Inside;
                if let Some(substream) = self.substreams.last() {
                    on(Part::Begin(substream)).map_err(StreamError::Sink)?;
                }
                self.pass_on(record.bytes, on)
            }
            _ => Err(damaged(at, "a BEGIN record where none may be")),
        }
    }

    /// Checks whether a substream may come here: it must be of the wrapper's dataset, and be based on the snapshot of
    /// the substream before it.
    fn admit(&mut self, at: u64, begin: Begin) -> Result<SubStream, StreamError> {
        if let Some((outer, _)) = self.wrapper.as_ref().filter(|(fs, _)| *fs != begin.fs) {
            let child = begin.fs.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('/'));
            return Err(if child {
                StreamError::Unsupported(format!(
                    "ZFS stream with several file systems inside ({outer}, {}): \
                     send each dataset by itself, with -I or -i, without -R",
                    begin.fs
                ))
            } else {
                damaged(at, format!("a stream of {outer} around one of {}", begin.fs))
            });
        }
        let kind = match begin.objset {
            2 => Kind::Filesystem,
            3 => Kind::Volume,
            other => return Err(damaged(at, format!("a dataset of type {other}, neither file system nor volume"))),
        };
        let (from, to) = ((begin.from != 0).then_some(Guid(begin.from)), Guid(begin.to));
        match self.substreams.last() {
            Some(last) if last.kind != kind => return Err(damaged(at, "file system and volume in one stream")),
            Some(last) if from != Some(last.to) => {
                return Err(damaged(
                    at,
                    format!("@{} is not based on @{}, which is sent before it", begin.snap, last.snap),
                ));
            }
            None => self.guids.extend(from),
            _ => {}
        }
        if begin.to == 0 || !self.guids.insert(to) {
            return Err(damaged(at, format!("the guid of @{} is {to}: zero, its base's, or sent before", begin.snap)));
        }
        if self.substreams.len() == MAX_SUBSTREAMS {
            return Err(StreamError::Unsupported(format!(
                "ZFS stream with more than {MAX_SUBSTREAMS} snapshots: send them in several, with -I"
            )));
        }
        Ok(SubStream {
            fs: begin.fs,
            snap: begin.snap,
            from,
            to,
            kind,
            raw: begin.features & record::RAW != 0,
            compressed: begin.features & record::COMPRESSED != 0,
            created: begin.created,
        })
    }

    /// Processes an END record. `before` is the checksum of all that comes before it.
    fn end(&mut self, at: u64, record: &Record, before: [u64; 4], on: Sink) -> Result<(), StreamError> {
        let bare = self.place == Place::Between;
        let (sum, toguid) = if bare { ([0; 4], 0) } else { (before, self.toguid) };
        if record.checksum(8) != sum {
            return Err(damaged(at, "the checksum in the END record is wrong"));
        }
        if record.u64(40) != toguid {
            return Err(damaged(at, "an END record of another snapshot"));
        }
        // A record that has no checksum of its own could carry anything in its other bytes, were it not for this.
        if record.u32(4) != 0 || record.bytes[48..SUMMED].iter().any(|b| *b != 0) {
            return Err(damaged(at, "an END record with more in it than its checksum"));
        }
        match (self.place, &self.wrapper) {
            (Place::Inside, wrapper) => {
                let next = if wrapper.is_some() { Place::Between } else { Place::Done };
                self.pass_on(record.bytes, on)?;
                self.place = next;
                on(Part::End).map_err(StreamError::Sink)
            }
            // If `zfs send` fails inside a compound stream, it nevertheless ends the stream properly.
            (Place::Between, Some((_, last))) if self.substreams.last().is_none_or(|s| s.snap != *last) => {
                Err(damaged(at, format!("the last snapshot, @{last}, is missing: zfs send failed on the way")))
            }
            (Place::Between, _) => {
                self.place = Place::Done;
                Ok(())
            }
            _ => {
                self.place = Place::Between;
                Ok(())
            }
        }
    }
}
