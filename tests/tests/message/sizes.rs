//! Both binaries return the queued bytes for every size around the end of a buffer, packet or frame. `system/memory.rs`
//! does the same with 2 GiB.

use std::fs;

use zsnap_tests::scene::Scene;
use zsnap_tests::sealed::noise;

const EDGES: [usize; 8] = [312, 4096, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20];

fn sizes() -> impl Iterator<Item = usize> {
    std::iter::once(1).chain(EDGES.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]))
}

#[test]
fn a_stream_of_any_size_is_opened_unchanged() {
    let scene = Scene::new();
    // Noise does not get smaller when it is compressed, so the edges are also in the packets.
    let data = noise((8 << 20) + 1, 1);
    for format in ["gpg", "aead"] {
        for size in sizes() {
            let input = &data[..size];
            let queued = scene
                .queue(&["--format", format, "--level", "1", "--to", "-", "--opaque", "--full", "laptop/etc"], input);
            fs::write(scene.path("packet"), queued.expect(0).out).unwrap();
            let packet = scene.path("packet");
            let args = ["--host", "laptop", "cat", packet.to_str().unwrap()];
            assert!(scene.ingest(&args).expect(0).out == input, "{format}: {size} bytes");
            // With a stream that is larger than the buffer, the file is read twice.
            if EDGES.contains(&size) {
                let twice = scene.ingest(&[&args[..], &["--verify-buffer", "0"]].concat()).expect(0);
                assert!(twice.out == input, "{format}: {size} bytes, in two passes");
            }
        }
    }
}
