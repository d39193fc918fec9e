//! `--filter`: names and times in, names out, for anything that is not ZFS.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use anyhow::Result;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::log;

use crate::brakes::brakes;
use crate::cli::Options;
use crate::config::Config;
use crate::protect::{Guards, protect};
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
    let mut groups: HashMap<&str, Vec<(usize, Snapshot<'_>)>> = HashMap::new();
    let end = if options.null { '\0' } else { '\n' };
    for (number, record) in text.split_terminator(end).enumerate() {
        let snapshot = record.rsplit_once('\t').and_then(|(name, time)| {
            let creation = time.trim().parse().ok()?;
            (!name.is_empty()).then_some(Snapshot { name, creation, ..Snapshot::default() })
        });
        let snapshot = snapshot.ok_or_else(|| {
            Exit::Data.error(format!(
                "standard input, record {}: \"{}\" is not NAME<TAB>SECONDS-SINCE-1970",
                number + 1,
                log::escape(record)
            ))
        })?;
        groups.entry(group(snapshot.name, options)).or_default().push((number, snapshot));
    }
    let (mut names, mut exit) = (Vec::new(), Exit::Done);
    for (name, members) in groups {
        let (numbers, snapshots): (Vec<usize>, Vec<Snapshot<'_>>) = members.into_iter().unzip();
        let Some(policy) = config.of(name) else {
            // As with datasets: what no policy is for stays.
            let stay = numbers.iter().zip(&snapshots).filter(|_| options.invert);
            names.extend(stay.map(|(number, snapshot)| (*number, snapshot.name)));
            continue;
        };
        let guards = Guards { newest: policy.newest, received: true, ..Guards::default() };
        let mut verdicts = policy.decide(&snapshots, &config.clock);
        protect(&mut verdicts, &snapshots, &guards, &config.clock);
        let braked = brakes(&verdicts, &snapshots, policy.newest, policy.max_destroy, &config.clock).err();
        let braked = braked.filter(|why| !(options.force && why.can_be_forced()));
        if let Some(why) = &braked {
            let name = if name.is_empty() { "standard input" } else { name };
            log::error(format_args!("{name}: nothing of it may go: {why}"));
            exit = Exit::SomeFailed;
        }
        for ((number, snapshot), verdict) in numbers.iter().zip(&snapshots).zip(&verdicts) {
            if (verdict.keep || braked.is_some()) == options.invert {
                names.push((*number, snapshot.name));
            }
        }
    }
    names.sort_unstable();
    Ok((names.into_iter().map(|(_, name)| name).collect(), exit))
}

/// What belongs together.
fn group<'a>(name: &'a str, options: &Options) -> &'a str {
    match &options.group {
        Some(regex) => {
            let found = regex.captures(name);
            found.and_then(|found| found.get(1).or(found.get(0))).map_or("", |group| group.as_str())
        }
        None => name.rsplit_once('@').map_or("", |(dataset, _)| dataset),
    }
}
