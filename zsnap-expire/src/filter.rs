//! `--filter`: reads names and times and prints names, to apply rules to anything that is not ZFS.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};

use anyhow::Result;
use zsnap_common::cli::escape::escape;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;

use crate::cli::Options;
use crate::config::Config;
use crate::judge::judge;
use crate::protect::Guards;
use crate::snapshot::Snapshot;
use crate::table;

/// A line of the input: a name and a time.
type Record<'a> = (&'a str, i64);

/// Reads all of standard input, decides, and prints. If a record cannot be read, nothing is printed:
/// what is missing would not be kept.
pub fn filter(options: &Options, config: &Config) -> Result<Exit> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).or_exit(Exit::Data, "standard input")?;
    // Names may be any bytes. Input that is not UTF-8 is read as Latin-1, which maps each byte to its own character.
    let text = std::str::from_utf8(&bytes).map_or_else(|_| latin1(&bytes).into(), Cow::Borrowed);
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let (names, exit) = decide(&text, options, config)?;
    let end = if options.null { b'\0' } else { b'\n' };
    let print = || {
        for name in names {
            match text {
                Cow::Borrowed(_) => out.write_all(name.as_bytes())?,
                Cow::Owned(_) => {
                    out.write_all(&name.chars().filter_map(|c| u8::try_from(c).ok()).collect::<Vec<_>>())?
                }
            }
            out.write_all(&[end])?;
        }
        out.flush()
    };
    print().or_exit(Exit::Io, "standard output")?;
    Ok(exit)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// Returns the names to print, in the order of the input.
pub fn decide<'a>(text: &'a str, options: &Options, config: &Config) -> Result<(Vec<&'a str>, Exit)> {
    let records = records(text, if options.null { '\0' } else { '\n' })?;
    // Groups are in the order of the input, where the records of a group are usually adjacent. Only indices
    // are stored, to save memory with a million records.
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
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
        // Names without a policy stay.
        let Some(policy) = config.of(name)? else { continue };
        let snapshot = |number: &usize| {
            let (name, creation) = records[*number];
            Snapshot { name, creation, ..Snapshot::default() }
        };
        let mut snapshots: Vec<Snapshot<'_>> = numbers.iter().map(snapshot).collect();
        let guards = Guards { newest: policy.newest, received: true, ..Guards::default() };
        let judged = judge(policy, &mut snapshots, &guards, &config.clock, options.force);
        if options.verbose || options.debug {
            snapshots.iter().zip(&judged.verdicts).for_each(|(snapshot, verdict)| {
                let word = table::word(verdict, judged.braked.is_some());
                log::info(format_args!("{}: {word}: {}", snapshot.name, table::reasons(snapshot, verdict).join("; ")));
            });
        }
        let name = if name.is_empty() { "standard input" } else { name };
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

fn records(text: &str, end: char) -> Result<Vec<Record<'_>>> {
    // A truncated number would be a time long ago.
    if !text.is_empty() && !text.ends_with(end) {
        return Err(Exit::Data.error("standard input: its last record has no end: it may have been cut off"));
    }
    // Few records are shorter than 32 bytes; growing the vector step by step would be slower.
    let mut records = Vec::with_capacity(text.len() / 32);
    for record in text.split_terminator(end) {
        let parsed = split_last(record, b'\t').and_then(|(name, time)| {
            let creation = time.trim().parse().ok()?;
            (!name.is_empty()).then_some((name, creation))
        });
        let parsed = parsed.ok_or_else(|| {
            Exit::Data.error(format!(
                "standard input, record {}: \"{}\" is not NAME<TAB>SECONDS-SINCE-1970",
                records.len() + 1,
                escape(record)
            ))
        })?;
        records.push(parsed);
    }
    Ok(records)
}

/// Splits like `rsplit_once`, but faster if the separator is near the end of a short text.
fn split_last(text: &str, at: u8) -> Option<(&str, &str)> {
    let at = text.bytes().rposition(|b| b == at)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Checks that each name occurs once. A name that occurs twice would count twice, and could be printed for one
/// record although the other one stays.
fn unique(records: &[Record<'_>], numbers: &[usize]) -> Result<()> {
    // Names usually come sorted, which is faster to check.
    if numbers.is_sorted_by(|a, b| records[*a].0 < records[*b].0) {
        return Ok(());
    }
    let mut names = HashSet::with_capacity(numbers.len());
    match numbers.iter().find(|number| !names.insert(records[**number].0)) {
        None => Ok(()),
        Some(number) => Err(Exit::Data.error(format!(
            "standard input, record {}: \"{}\" came before: give each name once",
            number + 1,
            escape(records[*number].0)
        ))),
    }
}

/// Returns the group of a name, or `None` if the name does not match `--group`.
fn group<'a>(name: &'a str, options: &Options) -> Option<&'a str> {
    match &options.group {
        Some(regex) => {
            let found = regex.captures(name)?;
            Some(found.get(1).or(found.get(0))?.as_str())
        }
        None => Some(split_last(name, b'@').map_or("", |(dataset, _)| dataset)),
    }
}
