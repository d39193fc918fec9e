//! The scarce files: those that too few destinations have.

use std::collections::{HashMap, HashSet};

use zsnap_common::durable::outbox::Queued;
use zsnap_common::names::target::Host;

use crate::drive::Drive;
use crate::since::Since;

/// Returns the files with fewer copies than `copies`, or than the number of destinations that receive
/// the files of their host. A destination has a file if the file was split to it and no longer waits in its outbox.
pub fn lacking<'a>(
    waiting: &'a [Vec<Queued>],
    in_spool: &'a [Queued],
    drives: &[Drive],
    since: &[Since],
    copies: u64,
) -> HashMap<(&'a Host, &'a str), &'a Queued> {
    let mut found: HashMap<_, (&Queued, u64)> = HashMap::new();
    for file in waiting.iter().flatten() {
        found.entry(key(file)).or_insert((file, 0));
    }
    for (waiting, since) in waiting.iter().zip(since) {
        let waits: HashSet<_> = waiting.iter().map(key).collect();
        for (key, (file, have)) in &mut found {
            *have += u64::from(since.covers(file) && !waits.contains(key));
        }
    }
    found.retain(|(host, _), (_, have)| {
        let takers = drives.iter().filter(|drive| drive.takes(host)).count() as u64;
        *have < copies.min(takers.max(1))
    });
    let found = found.into_iter().map(|(key, (file, _))| (key, file));
    found.chain(in_spool.iter().map(|file| (key(file), file))).collect()
}

/// Returns what identifies a file: its host and its name.
pub fn key(file: &Queued) -> (&Host, &str) {
    (&file.parsed.host, &file.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(seq: u64, written: u64) -> Queued {
        let name = format!("bakfsfmt2-{seq}.000000001.1_h@a");
        Queued { parsed: name.parse().unwrap(), name, bytes: 10, written }
    }

    fn drives() -> Vec<Drive> {
        use clap::Parser;
        let args = ["zsnap-fanout", "--to=a=dir:/a", "--to=b=dir:/b", "--to=c=dir:/c"];
        crate::drive::configured(&crate::cli::Cli::try_parse_from(args).unwrap().options, Default::default()).unwrap()
    }

    #[test]
    fn a_file_on_too_few_drives_is_scarce() {
        // File 1 waits for one of three destinations, 2 for two, 3 for all; 4 is in the spool.
        let waiting =
            [vec![queued(1, 0), queued(2, 0), queued(3, 0)], vec![queued(2, 0), queued(3, 0)], vec![queued(3, 0)]];
        let in_spool = [queued(4, 0)];
        let since = |times: [u64; 3]| times.map(|time| Since::from([("h", time)]));
        let scarce_since = |times, copies| {
            let found = lacking(&waiting, &in_spool, &drives(), &since(times), copies);
            let mut seqs: Vec<_> = found.values().map(|file| file.parsed.stamp.secs).collect();
            seqs.sort();
            seqs
        };
        let scarce = |copies| scarce_since([0; 3], copies);
        assert_eq!(scarce(1), [3, 4]);
        assert_eq!(scarce(2), [2, 3, 4]);
        assert_eq!(scarce(3), [1, 2, 3, 4]);
        // More copies than destinations.
        assert_eq!(scarce(9), scarce(3));
        // The third destination was added later than the files.
        assert_eq!((scarce_since([0, 0, 1], 1), scarce_since([0, 0, 1], 2)), (vec![2, 3, 4], vec![1, 2, 3, 4]));
    }
}
