//! From the listing to the last `zfs destroy`: decide about all, tell, and only then act.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use jiff::Timestamp;
use zsnap_common::exit::{Exit, OrExit};
use zsnap_common::zfs::Zfs;
use zsnap_common::{lock, log, options};

use crate::brakes::{Braked, newest_in_future};
use crate::cli::Cli;
use crate::config::{Config, Method, Policy};
use crate::destroy::destroy;
use crate::judge::judge;
use crate::listing::Listing;
use crate::needed::Needed;
use crate::policy::Reference;
use crate::protect::Guards;
use crate::snapshot::{Snapshot, Verdict};
use crate::table;

/// A dataset with what is to become of its snapshots.
#[derive(Debug)]
pub struct Decided<'a> {
    /// Its name.
    pub dataset: &'a str,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot<'a>>,
    /// In the same order.
    pub verdicts: Vec<Verdict>,
    /// Nothing of it is destroyed.
    pub braked: Option<Braked>,
}

impl Decided<'_> {
    /// What may go: nothing if it was braked.
    pub fn doomed(&self) -> Vec<&Snapshot<'_>> {
        let doomed = self.snapshots.iter().zip(&self.verdicts).filter(|(_, verdict)| !verdict.keep);
        if self.braked.is_some() { Vec::new() } else { doomed.map(|(snapshot, _)| snapshot).collect() }
    }
}

/// Does it.
pub fn run(cli: &Cli, config: &Config) -> Result<Exit> {
    let o = &cli.options;
    let zfs = Zfs::find(&o.zfs, &o.zpool)?;
    let dry = o.noop || o.at.is_some();
    let _lock = if dry {
        None
    } else {
        let state = options::state_dir(o.state.as_deref(), "expire")?;
        let lock = lock::unless_busy(&state, o.dotlock.as_deref(), o.max_run)?;
        if lock.is_none() {
            return Ok(Exit::Done);
        }
        lock
    };
    let Some((roots, exact)) = roots(cli, config, &zfs)? else { return Ok(Exit::Done) };
    let everywhere = config.policies().any(|(_, policy)| policy.is_zrep()) && !o.zrep_ignore;
    let tags = if o.zrep_ignore { &[][..] } else { &o.tags[..] };
    let listing = Listing::take(&zfs, &roots, exact, tags, everywhere)?;
    let all = decide(cli, config, &zfs, listing.snapshots()?)?;
    let mut failed = false;
    for decided in &all {
        if let Some(why) = &decided.braked {
            log::error(format_args!("{}: nothing is destroyed: {why}", decided.dataset));
            failed = true;
        }
    }
    if dry || o.verbose || o.debug || o.json || o.timeline {
        table::print(&all, &zfs, &config.clock, o).or_exit(Exit::Io, "standard output")?;
    }
    if !dry {
        for decided in &all {
            let doomed = decided.doomed();
            let done = destroy(&zfs, decided.dataset, &doomed)?;
            if done.destroyed > 0 {
                log::info(format_args!("{}: {} snapshots were destroyed", decided.dataset, done.destroyed));
            }
            failed |= !done.failed.is_empty();
            done.failed.iter().for_each(log::error);
        }
    }
    Ok(if failed { Exit::SomeFailed } else { Exit::Done })
}

/// The whole decision.
fn decide<'a>(
    cli: &Cli,
    config: &Config,
    zfs: &Zfs,
    listed: BTreeMap<&'a str, Vec<Snapshot<'a>>>,
) -> Result<Vec<Decided<'a>>> {
    let mut chosen: Vec<(&str, Vec<Snapshot<'_>>, &Policy)> = Vec::new();
    for (dataset, snapshots) in listed {
        if let Some(policy) = config.of(dataset) {
            chosen.push((dataset, snapshots, policy));
        }
    }
    let pools = |of: &dyn Fn(&Policy) -> bool| -> HashSet<&str> {
        chosen.iter().filter(|(.., policy)| of(policy)).map(|(dataset, ..)| pool(dataset)).collect()
    };
    let mut received = pools(&|policy| policy.received);
    if received.is_empty() && !cli.options.needed.is_empty() {
        // Whoever gives a list means it.
        received = pools(&|_| true);
    }
    // By the real clock: --at says nothing of the age of the list.
    let needed = needed(cli, zfs, &received, Timestamp::now().as_second())?;
    let mut all = Vec::new();
    let mut astray = 0;
    for (dataset, snapshots, policy) in chosen {
        let guards = Guards {
            newest: policy.newest,
            received: policy.received,
            needed: needed.as_ref().map(|needed| &needed.guids),
            all_needed: needed.as_ref().is_some_and(|needed| needed.is_all(dataset)),
        };
        let judged = judge(policy, &snapshots, &guards, &config.clock, cli.options.force);
        if let Some(why) = &judged.forced {
            log::warn(format_args!("{dataset}: --force overrides: {why}"));
        }
        astray += usize::from(newest_in_future(&snapshots, policy.newest, &config.clock).is_some());
        all.push(Decided { dataset, snapshots, verdicts: judged.verdicts, braked: judged.braked });
    }
    // As of another time that is no wonder, and nothing is destroyed.
    if astray * 2 > all.len() && cli.options.at.is_none() {
        return Err(Exit::TryAgain.error(format!(
            "the newest snapshots of {astray} of {} datasets are dated in the future: set this machine's clock",
            all.len()
        )));
    }
    Ok(all)
}

fn pool(dataset: &str) -> &str {
    dataset.split('/').next().unwrap_or(dataset)
}

/// The list of zsnap-ingest, if a policy is for received datasets or one is given.
fn needed(cli: &Cli, zfs: &Zfs, received: &HashSet<&str>, now: i64) -> Result<Option<Needed>> {
    let paths = &cli.options.needed;
    if paths.is_empty() {
        if received.is_empty() || cli.options.no_needed {
            return Ok(None);
        }
        return Err(Exit::TryAgain.error(
            "received datasets need the list of zsnap-ingest: give --needed \"$(zsnap-ingest status --needed-file)\", or --no-needed",
        ));
    }
    let mut texts = Vec::new();
    for path in paths {
        let shown = path.display();
        if path.as_os_str().is_empty() {
            // $(zsnap-ingest status --needed-file) where there is none.
            return Err(Exit::TryAgain
                .error("--needed names no file: zsnap-ingest has not written a list for this pool: run it first"));
        }
        let text = std::fs::read_to_string(path)
            .or_exit(Exit::TryAgain, format_args!("{shown}: no list of needed snapshots: run zsnap-ingest first"))?;
        texts.push((shown, text));
    }
    let mut all = Needed::default();
    for pool in received {
        let guid = zfs.pool_guid(pool)?.ok_or_else(|| Exit::TryAgain.error(format!("the pool {pool} is not here")))?;
        let of_pool = texts.iter().find(|(_, text)| Needed::pool(text) == Some(guid.0)).or(texts.first());
        let Some((shown, text)) = of_pool else { continue };
        let list = Needed::parse(text, guid.0, now).map_err(|why| Exit::TryAgain.error(format!("{shown} {why}")))?;
        all.guids.extend(list.guids);
        all.all.extend(list.all);
    }
    Ok(Some(all))
}

/// What to list, and whether only that itself. `None`: nothing is asked for, as zrep-expire has it.
fn roots(cli: &Cli, config: &Config, zfs: &Zfs) -> Result<Option<(Vec<String>, bool)>> {
    if let Some(name) = cli.datasets.iter().find(|name| name.contains(['@', '#'])) {
        return Err(Exit::Usage.error(format!("{name} is no dataset: name the dataset alone")));
    }
    if !cli.options.rules().is_empty() && cli.datasets.is_empty() && !cli.options.all {
        return Err(Exit::Usage.error("--keep RULE is for the datasets that are named: name some, or give --all"));
    }
    if !config.exact || !cli.datasets.is_empty() {
        return Ok(Some((cli.datasets.clone(), config.exact)));
    }
    if !cli.options.all {
        log::warn("nothing to do: name file systems, or give --all");
        return Ok(None);
    }
    let text = zfs.list("filesystem", "name", &[], None)?.unwrap_or_default();
    let all: Vec<String> = text.lines().map(str::to_owned).collect();
    Ok((!all.is_empty()).then_some((all, true)))
}

/// `check`: says what the configuration means.
pub fn check(config: &Config) -> Result<Exit> {
    let mut text = format!("days begin in {}\n", config.clock.zone_name());
    for (glob, policy) in config.policies() {
        let what = match &policy.method {
            Method::Rules(rules, reference) => {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                let from = if *reference == Reference::Now { ", ages from now" } else { "" };
                format!("{}{from}", rules.join(" "))
            }
            Method::Spacing(windows) => format!("zrep-expire, spacing in {} windows", windows.len()),
            Method::Dated(rules) => format!("zrep-expire, {} dated rules", rules.len()),
        };
        let received = if policy.received { ", received" } else { "" };
        text += &format!("{glob}: {what}, and the newest {}{received}; {}\n", policy.newest, policy.max_destroy);
    }
    table::write(&text).or_exit(Exit::Io, "standard output")?;
    Ok(Exit::Done)
}
