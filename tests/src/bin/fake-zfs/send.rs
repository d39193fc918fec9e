//! `zfs send`: a stream with the names and guids of the snapshots, and synthetic data.

use std::io::{self, Write};

use crate::pool::{Dataset, Kind};
use crate::random::noise;
use crate::stream::{Rec, Stream, Sub};

use crate::disk::Disk;
use crate::{Args, Done, dataset_of};

/// More than the buffer of a pipe, so that a receiver can be stopped in between.
const DATA: usize = 256 << 10;

pub fn send(disk: &Disk, args: &[String]) -> Done {
    let args = Args::parse(args, "wp", "iI")?;
    let name = args.one()?;
    let fs = dataset_of(name);
    let pool = disk.load(&[fs], &[])?;
    let absent = |what: &str| format!("cannot open '{what}': dataset does not exist");
    let dataset = pool.datasets.get(fs).ok_or_else(|| absent(name))?;
    let at = |name: &str| {
        let snap = name.split_once('@').map(|(_, snap)| snap);
        dataset.snapshots.iter().position(|s| Some(s.name.as_str()) == snap)
    };
    let last = at(name).ok_or_else(|| absent(name))?;
    let raw = args.has('w');
    let sub = |base, number| sub(fs, dataset, base, number, raw);
    let stream = if let Some(from) = args.value('I') {
        let from = at(from).ok_or_else(|| absent(from))?;
        Stream::compound(name, (from..last).map(|n| sub(Some(of(dataset, n)), n + 1)))
    } else {
        let base = match args.value('i') {
            None => None,
            Some(bookmark) if bookmark.contains('#') => {
                let mark = bookmark.rsplit('#').next().and_then(|mark| dataset.bookmarks.get(mark));
                let (guid, content) = mark.ok_or_else(|| absent(bookmark))?;
                Some((*guid, *content))
            }
            Some(from) => Some(of(dataset, at(from).ok_or_else(|| absent(from))?)),
        };
        Stream::plain(sub(base, last))
    };
    Ok(io::stdout().write_all(&stream.bytes())?)
}

/// Returns the guid and the content of a snapshot.
fn of(dataset: &Dataset, number: usize) -> (u64, u64) {
    (dataset.snapshots[number].guid, dataset.contents[number])
}

fn sub(fs: &str, dataset: &Dataset, base: Option<(u64, u64)>, number: usize, raw: bool) -> Sub {
    let snapshot = &dataset.snapshots[number];
    let toname = format!("{fs}@{}", snapshot.name);
    let unchanged = base.is_some_and(|(_, content)| content == dataset.contents[number]);
    let data = noise(snapshot.guid, DATA);
    let data: Vec<Rec> = if raw {
        std::iter::once(Rec::raw_object(1, 64 << 10)).chain(data.chunks(64 << 10).map(Rec::raw_write)).collect()
    } else {
        Rec::file(data.chunks(96 << 10))
    };
    Sub::increment(&toname, base.map_or(0, |(guid, _)| guid), snapshot.guid)
        .records(if unchanged { Vec::new() } else { data })
        .objset(if dataset.kind == Kind::Volume { 3 } else { 2 })
        .features(if raw { Sub::RAW | Sub::COMPRESSED } else { 0 })
        .created(snapshot.creation)
}
