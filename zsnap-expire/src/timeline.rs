//! `--timeline`: a picture for the terminal with a row for each dataset and a cell for each period, from
//! left to right. Characters, not colours, show what stays and what goes.

use crate::calendar::Clock;
use crate::decided::Decided;
use zsnap_common::cli::escape::escape;

/// The maximum number of cells in a row.
const WIDTH: i64 = 60;
/// The possible lengths of a cell, in seconds and in words. The first with which the row is wide enough is used.
const CELLS: [(i64, &str); 7] = [
    (900, "15 minutes"),
    (3600, "1 hour"),
    (6 * 3600, "6 hours"),
    (86_400, "1 day"),
    (7 * 86_400, "1 week"),
    (30 * 86_400, "30 days"),
    (365 * 86_400, "365 days"),
];

/// Returns the picture. Snapshots that are dated in the future are in the last cell.
pub fn draw(all: &[Decided<'_>], clock: &Clock) -> String {
    let times = || all.iter().flat_map(|decided| &decided.snapshots).map(|s| s.counts_as().min(clock.now));
    let (Some(first), Some(last)) = (times().min(), times().max()) else { return "no snapshots\n".to_owned() };
    let (cell, called) =
        CELLS.into_iter().find(|(cell, _)| (last - first) / cell < WIDTH).unwrap_or(CELLS[CELLS.len() - 1]);
    let width = ((last - first) / cell + 1).min(WIDTH);
    let names = all.iter().map(|decided| decided.dataset.len()).max().unwrap_or(0);
    let mut text = format!(
        "# stays, x goes, % both, . none; a cell is {called}; from {} to {}\n",
        clock.civil(first).strftime("%F %R"),
        clock.civil(last).strftime("%F %R")
    );
    for decided in all {
        let mut cells = vec![(false, false); usize::try_from(width).unwrap_or(0)];
        for (snapshot, verdict) in decided.snapshots.iter().zip(&decided.verdicts) {
            // The newest is on the right. What is older than the picture is in the leftmost cell.
            let back = (last - snapshot.counts_as().min(last)) / cell;
            let at = usize::try_from((width - 1 - back).max(0)).unwrap_or(0);
            let keep = verdict.keep || decided.braked.is_some();
            cells[at].0 |= keep;
            cells[at].1 |= !keep;
        }
        let sign = |(stays, goes): &(bool, bool)| match (stays, goes) {
            (true, true) => '%',
            (true, false) => '#',
            (false, true) => 'x',
            (false, false) => '.',
        };
        let row: String = cells.iter().map(sign).collect();
        text += &format!("{:names$}  {row}\n", escape(decided.dataset));
    }
    text
}
