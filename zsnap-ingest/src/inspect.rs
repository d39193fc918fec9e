//! `verify` and `cat`: check one file by hand. The checks are those of a run, but nothing is received, moved or
//! removed. `cat` is for restores: it accepts any stream that is authentic, also where a run would hold or refuse it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use zsnap_common::cli::cancel::Interruptible;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::durable::incoming::shown;
use zsnap_common::names::part::Part;
use zsnap_common::names::queue_name::{Entry, classify};
use zsnap_common::names::target::Host;

use crate::cli::{OneFile, Options, TrustLevel};
use crate::config::{Config, Tables};
use crate::joined::Joined;
use crate::opened::{Opened, Reader};

/// Checks the file. Writes its uncompressed stream (`cat`), or a description of it, to stdout.
pub fn inspect(options: &Options, tables: Tables, which: &OneFile, cat: bool) -> Result<Exit> {
    let name = which.path.file_name().unwrap_or(OsStr::new(""));
    let queue = match classify(name.as_encoded_bytes()) {
        Entry::Queue(queue) => Some(queue),
        _ => None,
    };
    let host = options.host.clone().or_else(|| queue.as_ref().map(|q| q.host.clone()));
    let Some(host) = host else {
        return Err(
            Exit::Usage.error(format!("{} has no queue file's name; say its sender with --host", which.path.display()))
        );
    };
    let config = Config::load(&without_store(options), trusting(tables, &host, which))?;
    let file = open(&which.path)?;
    let (keep, reader) = if cat { (config.verify_buffer, Reader::Person) } else { (0, Reader::Run) };
    let shown = shown(name);
    let opened = Opened::verify(&config, &host, reader, (&file, &shown), keep, SystemTime::now());
    let opened = opened.and_then(|opened| {
        // Without a manifest, nothing but the name says what the stream is, and it need not say so for a restore.
        if let Some(queue) = queue.as_ref().filter(|_| !cat || opened.manifest().is_some()) {
            opened.target(&host, queue)?;
        }
        Ok(opened)
    });
    let opened = opened.map_err(|rejection| {
        let (exit, why) = rejection.explained();
        exit.error(format!("{}: {why}", which.path.display()))
    })?;
    if cat {
        let mut out = Interruptible::new(io::stdout());
        opened.replay(&format!("writing {shown}"), &mut out)?;
        return Ok(Exit::Done);
    }
    let text = describe(&opened);
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_exit(Exit::Io, "stdout")?;
    Ok(Exit::Done)
}

/// Opens a queue file. If the path is that of a part, all parts are opened, which must be beside it.
fn open(path: &Path) -> Result<Joined> {
    let name = path.file_name().map(shown).unwrap_or_default();
    let paths = match Part::parse(&name) {
        None => vec![path.to_owned()],
        Some(part) => (1..=part.of).map(|number| path.with_file_name(Part { number, ..part }.name())).collect(),
    };
    let files = paths.iter().map(|path| File::open(path).or_exit(Exit::Io, path.display())).collect::<Result<_>>()?;
    Joined::of(files).or_exit(Exit::Io, path.display())
}

/// Removes the store from the options: to check a file needs no pool.
fn without_store(options: &Options) -> Options {
    Options { store: None, ..options.clone() }
}

/// Adds what the command line specifies to the host's table.
fn trusting(mut tables: Tables, host: &Host, which: &OneFile) -> Tables {
    if !which.signers.is_empty() || which.unsigned || tables.hosts.contains_key(host) {
        let table = tables.hosts.entry(host.clone()).or_default();
        table.signers.extend(which.signers.iter().cloned());
        if which.unsigned {
            table.trust = TrustLevel::Recipient;
        }
    }
    tables
}

/// Describes the file in lines `key: value`, for users and for scripts.
fn describe(opened: &Opened) -> String {
    let mut lines = BTreeMap::new();
    let Opened::Sealed(verified) = opened else { return String::new() };
    lines.insert("bytes", verified.bytes().to_string());
    lines.insert("signer", verified.signer().unwrap_or("none").to_owned());
    if let Some(manifest) = verified.manifest() {
        lines.insert("target", format!("{}/{}", manifest.host, manifest.dataset));
        lines.insert("seq", manifest.seq.to_string());
        lines.insert("prev", manifest.prev.map_or("none".to_owned(), |prev| prev.to_string()));
        lines.insert("kind", if verified.stream().is_some() { "zfs" } else { "opaque" }.to_owned());
    }
    if let Some(stream) = verified.stream() {
        let first = stream.substreams.first();
        let last = stream.substreams.last();
        lines.insert("from", first.and_then(|s| s.from).map_or("none".to_owned(), |guid| guid.to_string()));
        lines.insert("to", last.map_or(String::new(), |s| s.to.to_string()));
        lines.insert("snapshot", last.map_or(String::new(), |s| format!("{}@{}", s.fs, s.snap)));
        lines.insert("substreams", stream.substreams.len().to_string());
    }
    lines.into_iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}
