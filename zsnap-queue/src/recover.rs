//! Recovery: finishes or withdraws what a crash left of a dataset, before anything else is done with it.
//! See the table in ARCHITECTURE.md, "What a crash leaves".

use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::publish;

use crate::state::{Acknowledged, Locked};

/// Brings the outboxes and the producer's state in line with what was queued, and returns the state of
/// the dataset. May be repeated after a crash at any point.
pub fn recover(dataset: &Locked<'_>) -> anyhow::Result<Acknowledged> {
    let (state, target) = (dataset.state, dataset.target);
    let past = state.acknowledged(target)?;
    let boxes = state.outboxes();
    let split = boxes.split_dir(&target.host);
    publish::sweep(&split).or_exit(Exit::Io, "clearing up")?;
    for queued in boxes.in_split(&target.host).or_exit(Exit::TryAgain, "cannot read the outbox")? {
        if !state.is_of(&queued.parsed, target) {
            continue;
        }
        if queued.parsed.stamp.seq() > past.chain.seq {
            // The caller did not get exit status 0, so it will send the stream again.
            log::info(format_args!("{} was never acknowledged and is withdrawn", queued.name));
            boxes.unsplit(&target.host, &[&queued.name]).or_exit(Exit::Io, "withdrawing a file")?;
        } else if past.destinations.is_empty() {
            return Err(Exit::TryAgain.error(format!(
                "{} was acknowledged, but {target}'s state names no destination: restore the state of that time",
                queued.name
            )));
        } else {
            let split = boxes.split(&target.host, &[&queued.name], &past.destinations);
            let failed = split.and_then(|failed| failed.into_iter().next().map_or(Ok(()), |(_, e)| Err(e)));
            failed.or_exit(Exit::Io, "filling the outboxes")?;
        }
    }
    if let Some(producer) = &past.producer {
        producer.advance()?;
    }
    Ok(past)
}

#[cfg(test)]
mod tests {
    //! Tests for each row of the table: what a crash right after a step leaves, and what recovery makes of it.

    use super::*;
    use crate::admit::Chain;
    use crate::producer::StateCopy;
    use crate::state::State;
    use std::fs;
    use std::path::{Path, PathBuf};
    use zsnap_common::names::queue_name::{QueueName, Stamp};
    use zsnap_common::names::target::Target;

    struct Fixture {
        dir: tempfile::TempDir,
        state: State,
        target: Target,
    }

    const OLD: u64 = 1_700_000_000_000_000;
    const NEW: u64 = OLD + 1;

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state"), 7).unwrap();
        let target = "h/tank/a".parse().unwrap();
        fs::create_dir_all(state.outboxes().split_dir(&"h".parse().unwrap())).unwrap();
        Fixture { dir, state, target }
    }

    impl Fixture {
        fn name(&self, seq: u64, dataset: &str, opaque: bool) -> String {
            let target: Target = format!("h/{dataset}").parse().unwrap();
            QueueName::new(Stamp::from_seq(seq, 1), &target, self.state.digest(&target), opaque).to_string()
        }
        fn split(&self) -> PathBuf {
            self.state.outboxes().split_dir(&self.target.host)
        }
        /// Step Q4: publishes a file.
        fn publish(&self, name: &str) {
            fs::write(self.split().join(name), name).unwrap();
        }
        /// Step Q5: commits the state that makes the file queued.
        fn commit(&self, seq: u64, file: &str, to: &[&str], producer: Option<crate::producer::Advance>) {
            let state = Acknowledged {
                chain: Chain { seq, ..Chain::default() },
                file: Some(file.to_owned()),
                destinations: to.iter().map(|t| (*t).to_owned()).collect(),
                producer,
                ..Acknowledged::default()
            };
            self.state.try_lock(&self.target).unwrap().unwrap().commit(&state).unwrap();
        }
        fn recover(&self) -> anyhow::Result<Acknowledged> {
            recover(&self.state.try_lock(&self.target).unwrap().unwrap())
        }
        fn waiting(&self, id: &str) -> Vec<String> {
            self.state.outboxes().waiting(id).unwrap().into_iter().map(|q| q.name).collect()
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn q1_to_q3_temporary_files_are_removed() {
        let f = fixture();
        fs::write(f.split().join(".zsnap-0123456789abcdef"), "half").unwrap();
        assert_eq!(f.recover().unwrap(), Acknowledged::default());
        assert!(names(&f.split()).is_empty());
    }

    #[test]
    fn q4_a_file_that_was_not_committed_is_withdrawn() {
        for opaque in [false, true] {
            let f = fixture();
            f.commit(OLD, "gone", &["x"], None);
            f.publish(&f.name(NEW, "tank/a", opaque));
            // A file of another dataset is ignored.
            let other = f.name(NEW, "tank/b", opaque);
            f.publish(&other);
            f.recover().unwrap();
            assert_eq!(names(&f.split()), [other]);
            assert!(f.waiting("x").is_empty());
        }
        // The very first file of a dataset.
        let f = fixture();
        f.publish(&f.name(NEW, "tank/a", false));
        f.recover().unwrap();
        assert!(names(&f.split()).is_empty());
    }

    #[test]
    fn q5_to_q7_a_committed_file_gets_all_its_links() {
        for opaque in [false, true] {
            let f = fixture();
            let name = f.name(NEW, "tank/a", opaque);
            f.publish(&name);
            f.commit(NEW, &name, &["x", "y"], None);
            // Q7: one of the two links exists.
            fs::create_dir_all(f.state.outboxes().dir("x").join("h")).unwrap();
            fs::hard_link(f.split().join(&name), f.state.outboxes().dir("x").join("h").join(&name)).unwrap();
            for _ in 0..2 {
                assert_eq!(f.recover().unwrap().chain.seq, NEW);
                assert!(names(&f.split()).is_empty());
                assert_eq!((f.waiting("x"), f.waiting("y")), (vec![name.clone()], vec![name.clone()]));
            }
        }
    }

    #[test]
    fn q6_the_producers_state_follows_the_commit() {
        let f = fixture();
        let file = f.dir.path().join("s");
        fs::write(&file, "old").unwrap();
        let mut copy = StateCopy::new(&file, NEW, true).unwrap();
        fs::write(copy.path(), "new").unwrap();
        let advance = copy.settle().unwrap();
        copy.keep();
        f.commit(NEW, "f", &["x"], Some(advance));
        for _ in 0..2 {
            f.recover().unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "new");
            assert_eq!(fs::read_dir(f.dir.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn a_committed_file_without_a_destination_is_never_removed() {
        let f = fixture();
        let name = f.name(NEW, "tank/a", false);
        f.publish(&name);
        f.commit(NEW, &name, &[], None);
        assert_eq!(Exit::of(&f.recover().unwrap_err()), Exit::TryAgain);
        assert_eq!(names(&f.split()), [name]);
    }

    #[test]
    fn an_unreadable_state_changes_nothing_and_its_remedy_loses_no_file() {
        let f = fixture();
        let name = f.name(NEW, "tank/a", false);
        f.publish(&name);
        f.commit(NEW, &name, &["x"], None);
        f.state.outboxes().make("x", &f.target.host).unwrap();
        let path = f.dir.path().join("state/datasets/h/tank@a/state.json");
        fs::write(&path, "{\"zsnap\":1,\"chain\":{").unwrap();
        let e = f.recover().unwrap_err();
        assert_eq!(Exit::of(&e), Exit::TryAgain);
        assert_eq!(names(&f.split()), std::slice::from_ref(&name));
        // The remedy in the message loses no queued file.
        let outbox = f.dir.path().join("state/outbox").display().to_string();
        let remedy = format!("copy what lies in {outbox}/split/h into each {outbox}/to/*/h,");
        assert!(e.to_string().contains(&remedy), "{e}");
        fs::copy(f.split().join(&name), f.state.outboxes().dir("x").join("h").join(&name)).unwrap();
        fs::remove_file(f.split().join(&name)).unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!(f.recover().unwrap(), Acknowledged::default());
        assert_eq!(f.waiting("x"), [name]);
    }
}
