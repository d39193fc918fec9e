//! `--filter`: names and times in, names out, for anything that is not ZFS.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};

use anyhow::Result;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::log;

use crate::cli::Options;
use crate::config::Config;
use crate::judge::judge;
use crate::protect::Guards;
use crate::snapshot::Snapshot;
use crate::table;

/// A line of the input: a name, which may be any bytes, and a time.
type Record<'a> = (&'a [u8], i64);

/// Reads all of standard input, decides, and prints. A record that cannot be read ends it before
/// anything is printed: what is missing would not be kept.
pub fn filter(options: &Options, config: &Config) -> Result<Exit> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text).or_exit(Exit::Data, "standard input")?;
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let (names, exit) = decide(&text, options, config)?;
    let end = if options.null { b'\0' } else { b'\n' };
    let print = || {
        for name in names {
            out.write_all(name)?;
            out.write_all(&[end])?;
        }
        out.flush()
    };
    print().or_exit(Exit::Io, "standard output")?;
    Ok(exit)
}

/// The names to print, in the order of the input.
pub fn decide<'a>(text: &'a [u8], options: &Options, config: &Config) -> Result<(Vec<&'a [u8]>, Exit)> {
    let records = records(text, if options.null { b'\0' } else { b'\n' })?;
    // In the order in which they come; mostly what belongs together stands together. Of a million
    // records no more is kept than must be.
    let mut groups: Vec<(&[u8], Vec<usize>)> = Vec::new();
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    let mut alone = 0_u64;
    for (number, (name, _)) in records.iter().enumerate() {
        let Some(group) = group(name, options) else {
            alone += 1;
            continue;
        };
        let before = groups.len().checked_sub(1).filter(|last| groups[*last].0 == group);
        let at = before.unwrap_or_else(|| *known.entry(group).or_insert(groups.len()));
        if at == groups.len() {
            groups.push((group, Vec::new()));
        }
        groups[at].1.push(number);
    }
    if alone > 0 {
        log::warn(format_args!("{alone} names do not match --group: they stay"));
    }
    let (mut goes, mut exit) = (vec![false; records.len()], Exit::Done);
    for (name, numbers) in groups {
        unique(&records, &numbers)?;
        let name = String::from_utf8_lossy(name);
        // What no policy is for stays.
        let Some(policy) = config.of(&name)? else { continue };
        let texts: Vec<Cow<'_, str>> = numbers.iter().map(|at| String::from_utf8_lossy(records[*at].0)).collect();
        let snapshots: Vec<Snapshot<'_>> = numbers
            .iter()
            .zip(&texts)
            .map(|(at, name)| Snapshot { name, creation: records[*at].1, ..Snapshot::default() })
            .collect();
        let guards = Guards { newest: policy.newest, received: true, ..Guards::default() };
        let judged = judge(policy, &snapshots, &guards, &config.clock, options.force);
        if options.verbose || options.debug {
            snapshots.iter().zip(&judged.verdicts).for_each(|(snapshot, verdict)| {
                let word = table::word(verdict, judged.braked.is_some());
                log::info(format_args!("{}: {word}: {}", snapshot.name, table::reasons(verdict)));
            });
        }
        let name = if name.is_empty() { "standard input" } else { &name };
        if let Some(why) = judged.braked {
            log::error(format_args!("{name}: nothing of it may go: {}", why.with_remedy("-v")));
            exit = Exit::SomeFailed;
            continue;
        }
        if let Some(why) = judged.forced {
            log::warn(format_args!("{name}: --force overrides: {why}"));
        }
        numbers.iter().zip(&judged.verdicts).for_each(|(number, verdict)| goes[*number] = !verdict.keep);
    }
    let printed = records.into_iter().zip(goes).filter(|(_, goes)| *goes != options.invert);
    Ok((printed.map(|((name, _), _)| name).collect(), exit))
}

fn records(text: &[u8], end: u8) -> Result<Vec<Record<'_>>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // A time that lost its last digits is one of long ago.
    let whole = text
        .strip_suffix(&[end])
        .ok_or_else(|| Exit::Data.error("standard input: its last record has no end: it may have been cut off"))?;
    let parsed = whole.split(|b| *b == end).enumerate().map(|(number, bytes)| {
        record(bytes).ok_or_else(|| {
            Exit::Data.error(format!(
                "standard input, record {}: \"{}\" is not NAME<TAB>SECONDS-SINCE-1970",
                number + 1,
                log::escape_bytes(bytes)
            ))
        })
    });
    parsed.collect()
}

fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let tab = bytes.iter().rposition(|b| *b == b'\t').filter(|tab| *tab > 0)?;
    let creation = std::str::from_utf8(&bytes[tab + 1..]).ok()?.trim().parse().ok()?;
    Some((&bytes[..tab], creation))
}

/// A name that comes twice would count twice, and go with one record though another one stays.
fn unique(records: &[Record<'_>], numbers: &[usize]) -> Result<()> {
    let mut names = HashSet::with_capacity(numbers.len());
    match numbers.iter().find(|number| !names.insert(records[**number].0)) {
        None => Ok(()),
        Some(number) => Err(Exit::Data.error(format!(
            "standard input, record {}: \"{}\" came before: give each name once",
            number + 1,
            log::escape_bytes(records[*number].0)
        ))),
    }
}

/// What belongs together. `None`: it does not match.
fn group<'a>(name: &'a [u8], options: &Options) -> Option<&'a [u8]> {
    match &options.group {
        Some(regex) => {
            let found = regex.captures(name)?;
            Some(found.get(1).or(found.get(0))?.as_bytes())
        }
        None => Some(name.iter().rposition(|b| *b == b'@').map_or(&[][..], |at| &name[..at])),
    }
}
