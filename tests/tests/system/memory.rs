//! The memory of the tools does not depend on the length of the stream. 2 GiB that are generated on the fly are opened
//! unchanged.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Stdio};

use sha2::{Digest, Sha256};
use zsnap_tests::scene::{Scene, files, name, run};
use zsnap_tests::sealed::noise;
use zsnap_tests::spooler::Spooler;

const MIB: u64 = 1 << 20;

/// Returns the peak of resident memory of a running child in KiB, or 0 if it has ended.
fn peak(child: &Child) -> u64 {
    let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id())) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
}

/// A stream in which an eighth of each block is noise that the rest repeats, so that zstd has work to do.
struct Made {
    noise: Vec<u8>,
    block: Vec<u8>,
}

impl Made {
    fn new() -> Made {
        Made { noise: noise(MIB as usize, 7), block: vec![0; MIB as usize] }
    }

    fn block(&mut self, number: u64) -> &[u8] {
        let turn = (number as usize).wrapping_mul(104_729) % self.noise.len();
        let eighth = self.block.len() / 8;
        for (at, piece) in self.block.chunks_mut(eighth).enumerate() {
            let from = (turn + at * 13) % (self.noise.len() - eighth);
            piece.copy_from_slice(&self.noise[from..from + eighth]);
            piece.iter_mut().step_by(256).for_each(|byte| *byte ^= number as u8);
        }
        &self.block
    }
}

/// Queues this many MiB. Returns the digest of the stream and the peak in KiB.
fn queue(scene: &Scene, mebibytes: u64) -> (Vec<u8>, u64) {
    let args = ["--threads", "16", "--level", "8", "--to", "-", "--opaque", "--full", "laptop/etc"];
    let mut command = scene.queue_command(args);
    let packet = File::create(scene.path("packet")).unwrap();
    let mut child = command.stdin(Stdio::piped()).stdout(packet).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut made, mut digest, mut most) = (Made::new(), Sha256::new(), 0);
    for number in 0..mebibytes {
        let block = made.block(number);
        digest.update(block);
        stdin.write_all(block).unwrap();
        most = most.max(peak(&child));
    }
    drop(stdin);
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(&child));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    (digest.finalize().to_vec(), most)
}

/// Runs `zsnap-ingest cat`. Returns the digest of what it writes and the peak in KiB.
fn cat(scene: &Scene) -> (Vec<u8>, u64) {
    let packet = scene.path("packet");
    let args = ["--host", "laptop", "--verify-buffer", "4MiB", "cat", packet.to_str().unwrap()];
    let mut child = scene.ingest_command(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut digest, mut buffer, mut most) = (Sha256::new(), vec![0; MIB as usize], 0);
    loop {
        let length = stdout.read(&mut buffer).unwrap();
        most = most.max(peak(&child));
        if length == 0 {
            break;
        }
        digest.update(&buffer[..length]);
    }
    assert!(child.wait().unwrap().success());
    (digest.finalize().to_vec(), most)
}

#[test]
fn two_gibibytes_need_no_more_memory_than_256_mebibytes() {
    let scene = Scene::new();
    let [(queue_small, cat_small), (queue_large, cat_large)] = [256, 2048].map(|mebibytes| {
        let (sent, queue_peak) = queue(&scene, mebibytes);
        let (got, cat_peak) = cat(&scene);
        assert!(sent == got, "{mebibytes} MiB were changed");
        let size = fs::metadata(scene.path("packet")).unwrap().len();
        assert!(size > 8 * MIB, "{size}: not larger than the verify buffer");
        eprintln!(
            "{mebibytes} MiB as {} MiB: queue {} MiB, ingest {} MiB",
            size / MIB,
            queue_peak >> 10,
            cat_peak >> 10
        );
        (queue_peak, cat_peak)
    });
    // The default of --memory, and the verify buffer with room for zstd's window and OpenPGP.
    assert!(queue_large >> 10 < 256, "{queue_large} KiB");
    assert!(cat_large >> 10 < 96, "{cat_large} KiB");
    // The margin is needed because not all threads of zstd work at the same time. If only the ciphertext of each piece
    // were kept, that would be some 200 MiB.
    let grown = |small: u64, large: u64| large > small + small / 4 + 8192;
    assert!(!grown(queue_small, queue_large), "zsnap-queue: {queue_small} KiB, then {queue_large}");
    assert!(!grown(cat_small, cat_large), "zsnap-ingest: {cat_small} KiB, then {cat_large}");
}

/// Distributes `count` files of `bytes` bytes to two directories. Returns the peak in KiB.
fn fan_out(count: u64, bytes: u64) -> u64 {
    let spooler = Spooler::new();
    let only = |host: &str| format!("hosts = [\"{host}\"]");
    for disk in ["disk1", "disk2"] {
        spooler.drive(disk, &only("laptop"));
    }
    // A last drive, for a file of another host, waits for a FIFO, so that the run ends when the test lets it.
    let fifo = spooler.path("fifo").display().to_string();
    run(std::process::Command::new("mkfifo").arg(&fifo), b"").expect(0);
    spooler.to("last", &format!("cmd:read go < {fifo}; cat > /dev/null"), &only("other"));
    spooler.put("other/etc", 1, "x");
    fs::create_dir(spooler.path("spool/laptop")).unwrap();
    for seq in 1..=count {
        let file = File::create(spooler.path("spool/laptop").join(name("laptop/etc", seq))).unwrap();
        file.set_len(bytes).unwrap();
    }
    let mut child = spooler.command::<&str>([]).spawn().unwrap();
    let all = |disk: &str| {
        spooler.waiting(disk).is_empty() && files(&spooler.path(disk).join("laptop")).len() as u64 == count
    };
    while !all("disk1") || !all("disk2") {
        assert!(child.try_wait().unwrap().is_none(), "zsnap-fanout has ended before the last drive");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let most = peak(&child);
    fs::write(fifo, "\n").unwrap();
    assert!(child.wait().unwrap().success());
    most
}

#[test]
fn distributing_needs_little_memory_for_many_or_large_files() {
    for (count, bytes) in [(3000, 1), (1, 300 * MIB)] {
        let most = fan_out(count, bytes);
        eprintln!("fan-out of {count} files of {bytes} bytes: {most} KiB");
        assert!(most > 1000 && most < 32 << 10, "{most} KiB for {count} files");
    }
}
