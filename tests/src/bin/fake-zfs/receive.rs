//! `zfs receive`: reads one substream record by record, checks it as the kernel does, and commits its snapshot at END,
//! or nothing.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::pool::{Begin, Kind, Taken};
use crate::stream::{Rec, Sum, kind};
use rustix::process::{Signal, getpid, kill_process};

use crate::disk::Disk;
use crate::{Args, Done, Fail, parent};

/// Feature bits.
const DEDUP: u64 = 1;
const RESUMING: u64 = 1 << 20;
const RAW: u64 = 1 << 24;

pub fn receive(disk: &Disk, home: &Path, args: &[String]) -> Done {
    // Options that overwrite, or that receive elsewhere than the operand says, are not implemented.
    let args = Args::parse(args, "uv", "ox")?;
    let name = args.one()?;
    let properties = args.properties()?;
    if let Ok(why) = fs::read_to_string(home.join("refuse")) {
        return Err(Fail::Refused(why));
    }
    let mut input = BufReader::with_capacity(64 << 10, io::stdin().lock());
    let begin = first(&mut input)?;
    let (stream, snap) = read(&begin)?;
    let (dataset, snap) = name.split_once('@').unwrap_or((name, &snap));
    let (dataset, name) = (dataset.to_owned(), format!("{dataset}@{snap}"));

    let locked = disk.lock()?;
    let before = disk.load(&[&dataset, parent(&dataset)], &[])?;
    let mut pool = before.clone();
    if pool.begin(&name, &stream)? == Taken::Ignored {
        drop(locked);
        return skip(&mut input, begin.big);
    }
    let _receiver = disk.receiver(&dataset)?;
    if let Some(of) = pool.datasets.get_mut(&dataset) {
        of.properties.extend(properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    }
    disk.save(&dataset, &before, &pool)?;
    drop(locked);

    let walked = walk(&mut input, &begin);
    if walked.is_ok() {
        if let Ok(text) = fs::read_to_string(home.join("delay")) {
            sleep(Duration::from_millis(text.trim().parse().unwrap_or(0)));
        }
        die_if(&home.join("die-before-commit"));
    }
    let _locked = disk.lock()?;
    let before = disk.load(&[&dataset], &[])?;
    let mut pool = before.clone();
    let done = walked.and_then(|changes| Ok(pool.commit(&name, &stream, changes)?));
    if done.is_err() {
        pool.abandon(&dataset);
    }
    disk.save(&dataset, &before, &pool)?;
    die_if(&home.join("die-after-commit"));
    if done.is_ok() && home.join("fail-after-commit").exists() {
        return Err(Fail::Refused("cannot receive: failed after all".into()));
    }
    done
}

fn die_if(knob: &Path) {
    if knob.exists() {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Reads the BEGIN in either byte order.
fn first(input: &mut impl Read) -> Result<Rec, Fail> {
    let mut head = vec![0; crate::stream::RECORD];
    input.read_exact(&mut head).map_err(|_| "cannot receive: failed to read from stream".to_owned())?;
    let mut begin = Rec { big: false, head, payload: Vec::new() };
    begin.big = begin.u64(8) != crate::stream::MAGIC;
    if begin.u64(8) != crate::stream::MAGIC || begin.kind() != kind::BEGIN {
        return Err(Fail::Refused("cannot receive: invalid stream (bad magic number)".into()));
    }
    begin.read_payload(input).map_err(|_| "cannot receive: failed to read from stream".to_owned())?;
    Ok(begin)
}

/// Returns what the BEGIN says and the name of the snapshot.
fn read(begin: &Rec) -> Result<(Begin, String), Fail> {
    let refused = |why: &str| Err(Fail::Refused(format!("cannot receive: {why}")));
    let features = begin.u64(16) >> 2;
    if begin.u64(16) & 3 != 1 {
        return refused("a compound stream, which this fake one does not take");
    }
    if features & (DEDUP | RESUMING) != 0 || begin.u32(36) & 1 != 0 {
        return refused("unsupported feature");
    }
    let toname: Vec<u8> = begin.head[56..].iter().copied().take_while(|b| *b != 0).collect();
    let toname = String::from_utf8_lossy(&toname).into_owned();
    let Some((_, snap)) = toname.split_once('@') else { return refused("invalid stream (bad snapshot name)") };
    let contents = Begin {
        from: Some(begin.u64(48)).filter(|guid| *guid != 0),
        to: begin.u64(40),
        kind: if begin.u32(32) == 3 { Kind::Volume } else { Kind::Filesystem },
        raw: features & RAW != 0,
        created: begin.u64(24),
    };
    Ok((contents, snap.to_owned()))
}

/// Reads everything after the BEGIN up to END. Returns whether there were records in between.
fn walk(input: &mut impl Read, begin: &Rec) -> Result<bool, Fail> {
    let broken = |what: &str| Fail::Refused(format!("cannot receive stream: {what}"));
    let mut sum = Sum::default();
    sum.check(begin);
    let mut changes = false;
    loop {
        let record = Rec::read(input, begin.big).map_err(|_| broken("incomplete stream"))?;
        if !sum.check(&record) {
            return Err(broken("checksum mismatch"));
        }
        match record.kind() {
            kind::END => return Ok(changes),
            kind::BEGIN => return Err(broken("invalid stream")),
            _ => changes = true,
        }
    }
}

/// Skips a stream whose snapshot exists, without a check of its contents. As with the real `zfs`, the kernel has
/// already read one record after the BEGIN, so that the END of a stream without changes is missed.
fn skip(input: &mut impl Read, big: bool) -> Done {
    let failed = |_| "cannot receive: failed to read from stream".to_owned();
    if Rec::read(input, big).map_err(failed)?.kind() == kind::END {
        return Err(Fail::Refused("cannot receive: failed to read from stream\ndestination already exists".into()));
    }
    while Rec::read(input, big).map_err(failed)?.kind() != kind::END {}
    Ok(())
}
