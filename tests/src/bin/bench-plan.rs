//! Measures the time and the memory of zsnap-ingest's planner for 100,000 files of 1,000 datasets in random order.
//! Exits with 1 if it takes more than 2 seconds or 200 MiB.

use std::process::ExitCode;
use std::time::Instant;

use zsnap_common::stream::Guid;
use zsnap_ingest::plan::{self, Facts, Link, Number, Past, Pending, PoolState, Standing};
use zsnap_message::payload::{Base, Epoch};
use zsnap_tests::random::Random;

const DATASETS: u64 = 1000;
const FILES: u64 = 100;

/// Makes a chain of incrementals with copies. Every third one is an `-I` that overlaps earlier ones. Files 50 and 51
/// are missing.
fn dataset(n: u64, random: &mut Random) -> Vec<Facts> {
    let guid = |at: u64| Guid(n * 1_000_000 + at + 1);
    let target: zsnap_common::names::target::Target = format!("host{}/tank/dataset{n}", n % 10).parse().unwrap();
    let file = |at: u64| {
        let from = if at % 3 == 0 { at.saturating_sub(2) } else { at };
        let link = |k: u64| Link {
            from: (k > 0).then(|| guid(k)),
            to: guid(k + 1),
            snap: format!("__simplesnap_set_2026-11-22T00:00:{k}__"),
            raw: false,
        };
        let number = Number {
            epoch: Epoch { id: "e".repeat(32), started: 1_700_000_000 },
            seq: at + 1,
            prev: (at > 0).then_some(at),
            id: format!("{at:032x}"),
            base: if at > 0 { Base::Prev } else { Base::None },
        };
        Facts { target: target.clone(), order: at + 1, number: Some(number), links: (from..=at).map(link).collect() }
    };
    let mut files: Vec<Facts> = (0..FILES - 10).filter(|&at| at != 50 && at != 51).map(file).collect();
    while (files.len() as u64) < FILES {
        let copy = files[random.below(files.len() as u64) as usize].clone();
        files.push(copy);
    }
    for at in (1..files.len()).rev() {
        files.swap(at, random.below(at as u64 + 1) as usize);
    }
    files
}

fn main() -> ExitCode {
    let mut random = Random::seeded(1);
    let all: Vec<Vec<Facts>> = (0..DATASETS).map(|n| dataset(n, &mut random)).collect();
    let files: usize = all.iter().map(Vec::len).sum();
    let start = Instant::now();
    let (mut ready, mut kept) = (0, Vec::new());
    for facts in &all {
        let state = PoolState { name: "backup/hosts/h/tank", snapshots: None, written: 0, parent: None };
        let pending: Vec<Pending<'_>> = facts.iter().map(|facts| Pending { facts, refused_at: None }).collect();
        let plan = plan::zfs(&state, &pending, &Past::default(), false);
        ready += plan.path.len();
        kept.push(plan);
    }
    let seconds = start.elapsed().as_secs_f64();
    let waiting = |plan: &plan::Plan| plan.standings.iter().filter(|v| matches!(v, Standing::Waiting { .. })).count();
    let waiting: usize = kept.iter().map(waiting).sum();
    assert!(ready > 1000 && waiting > 1000, "{ready} ready, {waiting} waiting: not the intended scenario");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let mib = kib.unwrap() / 1024;
    println!("planner: {files} files of {DATASETS} datasets in {seconds:.2} s (asked: 2), {mib} MiB (asked: 200)");
    if seconds < 2.0 && mib < 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
