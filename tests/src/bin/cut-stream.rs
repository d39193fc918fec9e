//! cut-stream `[volume]` < STREAM - the same stream with a few small records only, checksums mended: real
//! records in a file of a few KiB. `volume`: it says that it is one of a volume.

use std::io::{self, Read, Write};

use zsnap_tests::stream::{Stream, kind};

/// Longest payload that stays.
const PAYLOAD: usize = 1024;
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
