//! `--filter`: names and times in, names out, for anything that is not ZFS.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use anyhow::Result;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::log;

use crate::cli::Options;
use crate::config::Config;
use crate::judge::judge;
use crate::protect::Guards;
use crate::snapshot::Snapshot;

/// Reads all of standard input, decides, and prints. A record that cannot be read ends it before
/// anything is printed: what is missing would not be kept.
pub fn filter(options: &Options, config: &Config) -> Result<Exit> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text).or_exit(Exit::Data, "standard input")?;
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let (names, exit) = decide(&text, options, config)?;
    let end = if options.null { b'\0' } else { b'\n' };
    let print = || {
        for name in names {
            out.write_all(name.as_bytes())?;
            out.write_all(&[end])?;
        }
        out.flush()
    };
    print().or_exit(Exit::Io, "standard output")?;
    Ok(exit)
}

/// The names to print, in the order of the input.
pub fn decide<'a>(text: &'a str, options: &Options, config: &Config) -> Result<(Vec<&'a str>, Exit)> {
    // In the order in which they come; mostly what belongs together stands together. Of a million
    // records no more is kept than must be.
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut records: Vec<(&str, i64)> = Vec::new();
    let end = if options.null { '\0' } else { '\n' };
    for (number, record) in text.split_terminator(end).enumerate() {
        let parsed = split_last(record, b'\t').and_then(|(name, time)| {
            let creation = time.trim().parse().ok()?;
            (!name.is_empty()).then_some((name, creation))
        });
        let parsed = parsed.ok_or_else(|| {
            Exit::Data.error(format!(
                "standard input, record {}: \"{}\" is not NAME<TAB>SECONDS-SINCE-1970",
                number + 1,
                log::escape(record)
            ))
        })?;
        let group = group(parsed.0, options);
        let before = groups.len().checked_sub(1).filter(|last| groups[*last].0 == group);
        let at = before.unwrap_or_else(|| *known.entry(group).or_insert(groups.len()));
        if at == groups.len() {
            groups.push((group, Vec::new()));
        }
        groups[at].1.push(number);
        records.push(parsed);
    }
    let (mut goes, mut exit) = (vec![false; records.len()], Exit::Done);
    for (name, numbers) in groups {
        let snapshot = |number: &usize| {
            let (name, creation) = records[*number];
            Snapshot { name, creation, ..Snapshot::default() }
        };
        let snapshots: Vec<Snapshot<'_>> = numbers.iter().map(snapshot).collect();
        // What no policy is for stays.
        let Some(policy) = config.of(name) else { continue };
        let guards = Guards { newest: policy.newest, received: true, ..Guards::default() };
        let judged = judge(policy, &snapshots, &guards, &config.clock, options.force);
        let name = if name.is_empty() { "standard input" } else { name };
        if let Some(why) = judged.braked {
            log::error(format_args!("{name}: nothing of it may go: {why}"));
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

/// As `rsplit_once`, for what stands near the end of many short texts.
fn split_last(text: &str, at: u8) -> Option<(&str, &str)> {
    let at = text.bytes().rposition(|b| b == at)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// What belongs together.
fn group<'a>(name: &'a str, options: &Options) -> &'a str {
    match &options.group {
        Some(regex) => {
            let found = regex.captures(name);
            found.and_then(|found| found.get(1).or(found.get(0))).map_or("", |group| group.as_str())
        }
        None => split_last(name, b'@').map_or("", |(dataset, _)| dataset),
    }
}
