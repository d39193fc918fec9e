//! A run, from the listing to the last `zfs destroy`: it decides on all datasets, reports, and only then acts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;
use jiff::Timestamp;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::{log, options, suggest, trusted};
use zsnap_common::durable::tool_lock;
use zsnap_common::names::target::check_dataset;
use zsnap_common::process::zfs::Zfs;

use crate::brakes::newest_in_future;
use crate::cli::Cli;
use crate::config::Config;
use crate::decided::{Decided, LeftAlone};
use crate::destroy::destroy;
use crate::judge::judge;
use crate::listing::{Listing, is_at_or_below};
use crate::needed::Needed;
use crate::notices::RunNotices;
use crate::policy::Policy;
use crate::protect::Guards;
use crate::snapshot::Snapshot;
use crate::table;
use crate::zrep::Zrep;

/// Runs zsnap-expire without a subcommand or `--filter`.
pub fn run(cli: &Cli, config: &Config) -> Result<Exit> {
    let o = &cli.options;
    let zfs = Zfs::find(&o.zfs, &o.zpool)?;
    let dry = o.noop || o.at.is_some();
    let (state, _lock) = if dry {
        (None, None)
    } else {
        let state = options::state_dir(o.state.as_deref(), "expire")?;
        let lock = tool_lock::unless_busy(&state, o.dotlock.as_deref(), o.max_run)?;
        if lock.is_none() {
            return Ok(Exit::Done);
        }
        (Some(state), lock)
    };
    let mut notices = RunNotices::read(state.as_deref(), config.clock.now);
    let Some(scope) = scope(cli, config, &zfs)? else { return Ok(Exit::Done) };
    let everywhere = config.policies().any(|(_, policy)| policy.is_zrep()) && !o.zrep_ignore;
    let tags = if o.zrep_ignore { &[][..] } else { &o.tags[..] };
    let listing = Listing::take(&zfs, &scope.roots, scope.exact).map_err(|e| match meant(cli) {
        Some(hint) => e.context(hint),
        None => e,
    })?;
    let mut chosen = choose(cli, config, &scope, listing.snapshots()?)?;
    let looked_at: HashSet<&str> = chosen.iter().map(|(dataset, ..)| *dataset).collect();
    let odd = leave_odd_ones(&zfs, &Zrep { tags, everywhere }, &listing, scope.exact, &mut chosen)?;
    let mut failed = notices.odd(&odd);
    let all = decide(cli, config, &zfs, chosen)?;
    for decided in &all {
        notices.back_dated(decided);
        failed |= notices.braked(decided);
    }
    notices.write(&looked_at);
    if dry || o.verbose || o.debug || o.json || o.timeline {
        table::print(&all, &odd, &zfs, &config.clock, o).or_exit(Exit::Io, "standard output")?;
    }
    if !dry {
        for decided in &all {
            let done = destroy(&zfs, decided.dataset, decided.doomed())?;
            if done.destroyed > 0 {
                log::info(format_args!("{}: {} snapshots were destroyed", decided.dataset, done.destroyed));
            }
            failed |= done.failed > 0;
        }
    }
    Ok(if failed { Exit::SomeFailed } else { Exit::Done })
}

/// Returns which subcommand the user may have meant by the name of a dataset.
fn meant(cli: &Cli) -> Option<String> {
    let command = Cli::command();
    let like = |name: &String| Some((name.clone(), suggest::subcommand(name.as_ref(), &command)?));
    let (name, meant) = cli.datasets.iter().find_map(like)?;
    Some(format!("\"{name}\": did you mean the subcommand \"{meant}\"?"))
}

/// A dataset, its snapshots, and its policy.
type Chosen<'a> = (&'a str, Vec<Snapshot<'a>>, &'a Policy);

/// Returns the datasets in `scope` that have a policy.
fn choose<'a>(
    cli: &Cli,
    config: &'a Config,
    scope: &Scope,
    listed: BTreeMap<&'a str, Vec<Snapshot<'a>>>,
) -> Result<Vec<Chosen<'a>>> {
    let mut chosen: Vec<Chosen<'_>> = Vec::new();
    let (mut served, mut left): (HashSet<&str>, HashSet<&str>) = Default::default();
    for (dataset, snapshots) in listed {
        if scope.only.as_ref().is_some_and(|only| !only.contains(dataset)) {
            continue;
        }
        let policy = config.of(dataset)?;
        let named = cli.datasets.iter().filter(|root| is_at_or_below(dataset, root));
        if policy.is_some() { &mut served } else { &mut left }.extend(named.map(String::as_str));
        chosen.extend(policy.map(|policy| (dataset, snapshots, policy)));
    }
    // Without a warning, it would look as if nothing had to be destroyed.
    for root in left.difference(&served) {
        log::warn(format_args!(
            "{root}: no policy is for it: correct the name, or write a table [policy.\"{root}/**\"]"
        ));
    }
    Ok(chosen)
}

/// Reads zrep's properties, and removes from `chosen` the datasets whose properties cannot be read. These are
/// returned and skipped.
fn leave_odd_ones<'a>(
    zfs: &Zfs,
    zrep: &Zrep<'_>,
    listing: &'a Listing,
    exact: bool,
    chosen: &mut Vec<Chosen<'a>>,
) -> Result<Vec<LeftAlone<'a>>> {
    let mut all: Vec<_> = chosen.iter_mut().map(|(dataset, snapshots, _)| (*dataset, &mut snapshots[..])).collect();
    let mut odd = zrep.ask(zfs, listing, exact, &mut all)?;
    let mut left = Vec::new();
    chosen.retain(|(dataset, ..)| match odd.remove(dataset) {
        Some(why) => {
            left.push(LeftAlone { dataset, why });
            false
        }
        None => true,
    });
    Ok(left)
}

/// Decides on all chosen datasets.
fn decide<'a>(cli: &Cli, config: &'a Config, zfs: &Zfs, chosen: Vec<Chosen<'a>>) -> Result<Vec<Decided<'a>>> {
    let needed = needed(cli, zfs, &chosen)?;
    let mut all = Vec::new();
    let mut astray = 0;
    for (dataset, mut snapshots, policy) in chosen {
        let guards = Guards {
            newest: policy.newest,
            received: policy.received,
            tags: &policy.tags,
            needed: needed.as_ref().map(|needed| &needed.guids),
            all_needed: needed.as_ref().is_some_and(|needed| needed.is_all(dataset)),
        };
        let judged = judge(policy, &mut snapshots, &guards, &config.clock, cli.options.force);
        let would_stop = match judged.forced {
            Some(why) if cli.options.force => {
                log::warn(format_args!("{dataset}: --force overrides: {why}"));
                None
            }
            why => why,
        };
        astray += usize::from(newest_in_future(&snapshots, policy.newest, &config.clock).is_some());
        all.push(Decided { dataset, snapshots, verdicts: judged.verdicts, braked: judged.braked, would_stop });
    }
    // With --at, future dates are to be expected, and nothing is destroyed.
    if astray * 2 > all.len() && cli.options.at.is_none() {
        return Err(Exit::TryAgain.error(format!(
            "the newest snapshots of {astray} of {} datasets are dated in the future: set this machine's clock",
            all.len()
        )));
    }
    Ok(all)
}

/// Returns the merged lists of zsnap-ingest, if any are specified. It is an error if none is specified although
/// a policy is for received datasets, unless `--no-needed` is set.
fn needed(cli: &Cli, zfs: &Zfs, chosen: &[Chosen<'_>]) -> Result<Option<Needed>> {
    let paths = &cli.options.needed;
    let pools = |of: &dyn Fn(&Policy) -> bool| -> HashSet<&str> {
        let of = chosen.iter().filter(|(.., policy)| of(policy));
        of.filter_map(|(dataset, ..)| dataset.split('/').next()).collect()
    };
    let received = pools(&|policy| policy.received);
    if paths.is_empty() {
        if received.is_empty() || cli.options.no_needed {
            return Ok(None);
        }
        return Err(Exit::TryAgain.error(
            "received datasets need the list of zsnap-ingest: specify --needed \"$(zsnap-ingest status --needed-file)\", or --no-needed",
        ));
    }
    let all = pools(&|_| true);
    let mut guids = HashMap::new();
    for pool in &all {
        let guid = zfs.pool_guid(pool)?.ok_or_else(|| Exit::TryAgain.error(format!("the pool {pool} is absent")))?;
        guids.insert(guid.0, *pool);
    }
    // If lists are specified but no dataset is marked as received, every pool needs a list.
    let must = if received.is_empty() { &all } else { &received };
    let lists = paths.iter().map(|path| list(path)).collect::<Result<Vec<_>>>()?;
    // Use the real clock: --at does not change the age of a list.
    let needed = Needed::unite(&lists, &guids, must, Timestamp::now().as_second());
    needed.map(Some).map_err(|why| Exit::TryAgain.error(why))
}

/// Reads a list of needed snapshots, and returns its path and text.
pub fn list(path: &Path) -> Result<(String, String)> {
    let called = path.display().to_string();
    if called.is_empty() {
        // $(zsnap-ingest status --needed-file) prints nothing if there is no list.
        return Err(Exit::TryAgain
            .error("--needed names no file: zsnap-ingest has not written a list for this pool: run it first"));
    }
    let mut text = String::new();
    match trusted::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Exit::TryAgain.error(format!("{called}: no list of needed snapshots: run zsnap-ingest first")))
        }
        read => read.or_exit(Exit::TryAgain, &called).map(|_| (called, text)),
    }
}

/// The datasets that a run examines.
struct Scope {
    /// These datasets and all below them; if empty, all datasets.
    roots: Vec<String>,
    /// Whether the datasets below `roots` are excluded.
    exact: bool,
    /// If set, only these of the listed datasets.
    only: Option<HashSet<String>>,
}

/// Returns the scope of a run, or `None` if, like for zrep-expire, no dataset is named and so nothing is done.
fn scope(cli: &Cli, config: &Config, zfs: &Zfs) -> Result<Option<Scope>> {
    for name in &cli.datasets {
        // zfs would read a name that begins with "-" as an option. Then none is named, and it lists all pools.
        check_dataset(name)
            .map_err(|why| Exit::Usage.error(format!("{why}; name pools or datasets, such as tank/home")))?;
    }
    if !cli.options.rules().is_empty() && cli.datasets.is_empty() && !cli.options.all {
        return Err(Exit::Usage.error("--keep RULE is for the datasets that are named: name some, or specify --all"));
    }
    let roots = cli.datasets.clone();
    if !config.exact || !roots.is_empty() {
        return Ok(Some(Scope { roots, exact: config.exact, only: None }));
    }
    if !cli.options.all {
        log::warn("nothing to do: name file systems, or specify --all");
        return Ok(None);
    }
    // Do not pass these names to zfs: if one of them is destroyed meanwhile, the whole listing would fail.
    let text = zfs.list("filesystem", "name", &[], None)?.unwrap_or_default();
    Ok(Some(Scope { roots, exact: false, only: Some(text.lines().map(str::to_owned).collect()) }))
}
