//! cut-stream `[volume]` < STREAM - writes the stream with only a few small records and correct checksums: real records
//! in a file of a few KiB. With `volume` its BEGIN says that it is a stream of a volume.

use std::io::{self, Read, Write};

use zsnap_tests::stream::{Stream, kind};

/// The maximum payload of a record that is kept.
const PAYLOAD: usize = 1024;
/// The maximum total length of the records of a substream.
const ALL: usize = 4096;

fn main() {
    let volume = std::env::args().nth(1).is_some_and(|arg| arg == "volume");
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).unwrap();
    let mut stream = Stream::parse(&bytes);
    let mut room = 0;
    stream.records.retain_mut(|rec| match rec.kind() {
        kind::BEGIN => {
            room = ALL;
            if volume {
                rec.set_u32(32, 3);
            }
            true
        }
        kind::END => true,
        _ if rec.payload.len() > PAYLOAD || rec.head.len() + rec.payload.len() > room => false,
        _ => {
            room -= rec.head.len() + rec.payload.len();
            true
        }
    });
    io::stdout().write_all(&stream.bytes()).unwrap();
}
