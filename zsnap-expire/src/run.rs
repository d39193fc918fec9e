//! From the listing to the last `zfs destroy`: decide about all, tell, and only then act.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::{log, options, trusted};
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

/// Does it.
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
    let listing = Listing::take(&zfs, &scope.roots, scope.exact)?;
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

/// A dataset, its snapshots, and the policy that is for it.
type Chosen<'a> = (&'a str, Vec<Snapshot<'a>>, &'a Policy);

/// The datasets that a policy is for, of those that the run is about.
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
    // It would pass for one of which nothing has to go.
    for root in left.difference(&served) {
        log::warn(format_args!(
            "{root}: no policy is for it: correct the name, or write a table [policy.\"{root}/**\"]"
        ));
    }
    Ok(chosen)
}

/// Asks what zrep says, and takes out the datasets of which that cannot be read: they are left alone.
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

/// The whole decision.
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

/// The lists of zsnap-ingest, if a policy is for received datasets or some are given.
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
    // Whoever gives a list means it.
    let must = if received.is_empty() { &all } else { &received };
    let lists = paths.iter().map(|path| list(path)).collect::<Result<Vec<_>>>()?;
    // By the real clock: --at says nothing of the age of the list.
    let needed = Needed::unite(&lists, &guids, must, Timestamp::now().as_second());
    needed.map(Some).map_err(|why| Exit::TryAgain.error(why))
}

/// A list of needed snapshots, with its path.
fn list(path: &Path) -> Result<(String, String)> {
    let called = path.display().to_string();
    if called.is_empty() {
        // $(zsnap-ingest status --needed-file) where there is none.
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

/// What a run is about.
struct Scope {
    /// These datasets, and what lies below them; none: all.
    roots: Vec<String>,
    /// Not what lies below them.
    exact: bool,
    /// Of what is listed only these.
    only: Option<HashSet<String>>,
}

/// `None`: nothing is asked for, as zrep-expire has it.
fn scope(cli: &Cli, config: &Config, zfs: &Zfs) -> Result<Option<Scope>> {
    for name in &cli.datasets {
        // What zfs would take for an option names nothing, and without a name the rules are for all pools.
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
    // Their names are not given to zfs again: one that goes meanwhile would fail them all.
    let text = zfs.list("filesystem", "name", &[], None)?.unwrap_or_default();
    Ok(Some(Scope { roots, exact: false, only: Some(text.lines().map(str::to_owned).collect()) }))
}
