//! Many runs of zsnap-queue at once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::process::Stdio;

use zsnap_common::names::digest::sha256_hex;
use zsnap_tests::random::{moments, noise};
use zsnap_tests::scene::{Scene, files, run};
use zsnap_tests::torture::{chained, status, walk};

/// Runs for eight datasets and four runs for one more dataset start at once, from the first run on.
#[test]
fn concurrent_runs_lose_and_double_no_stream() {
    for round in 0..moments().div_ceil(20) {
        let scene = Scene::new();
        let mut queued = HashMap::new();
        for again in 0..2 {
            let targets = (0..8).map(|i| format!("laptop/set/{i}")).chain((0..4).map(|_| "laptop/same".to_owned()));
            let start = |(i, target): (u64, String)| {
                let input = scene.path(format!("input.{again}.{i}"));
                fs::write(&input, noise(again * 100 + i, 20_000)).unwrap();
                let mut command = scene.queue_command(["--opaque", "--full", &target]);
                command.stdin(File::open(&input).unwrap()).stdout(Stdio::null()).stderr(Stdio::piped());
                (target, input, command.spawn().unwrap())
            };
            let running: Vec<_> = (0..).zip(targets).map(start).collect();
            let mut same = 0;
            for (target, input, child) in running {
                let output = child.wait_with_output().unwrap();
                let (status, said) = (status(output.status), String::from_utf8_lossy(&output.stderr).into_owned());
                if target == "laptop/same" {
                    assert!(status == 0 || status == 75, "round {round}: {status}, {said}");
                    same += u32::from(status == 0);
                } else {
                    assert_eq!((status, said.as_str()), (0, ""), "round {round}, {target}");
                }
                if status == 0 {
                    queued.insert(sha256_hex(&fs::read(&input).unwrap()), target);
                }
            }
            assert!(same > 0, "round {round}: none of the four runs queued a stream");
        }
        chained(&scene);
        let spooled = files(&scene.path("spool/laptop"));
        for path in &spooled {
            let plain = run(scene.ingest_command(["cat"]).arg(path), b"").expect(0).out;
            assert!(queued.remove(&sha256_hex(&plain)).is_some(), "{} was rejected, or is doubled", path.display());
        }
        assert!(queued.is_empty(), "not delivered: {queued:?}");
        let stays = |name: &str| [".lock", ".dest.json"].contains(&name);
        for path in walk(scene.path("queue-state/outbox")) {
            assert!(stays(path.file_name().unwrap().to_str().unwrap()), "{} was left behind", path.display());
        }
    }
}
