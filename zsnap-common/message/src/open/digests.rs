//! Digests of the payload, chunk by chunk, by which the second pass knows what the first one authenticated.

/// The number of bytes of payload under one digest.
pub const CHUNK: usize = 1 << 20;

/// A BLAKE3 digest, which takes a quarter of the time of SHA-256.
pub type Digest = [u8; 32];

/// Returns the digest of a chunk.
pub fn digest(chunk: &[u8]) -> Digest {
    blake3::hash(chunk).into()
}

/// Makes the digests while the payload passes.
#[derive(Default)]
pub struct Digests {
    digests: Vec<Digest>,
    chunk: blake3::Hasher,
    filled: usize,
}

impl Digests {
    pub fn feed(&mut self, mut payload: &[u8]) {
        while !payload.is_empty() {
            let (now, later) = payload.split_at(payload.len().min(CHUNK - self.filled));
            self.chunk.update(now);
            self.filled += now.len();
            payload = later;
            if self.filled == CHUNK {
                self.end_chunk();
            }
        }
    }

    fn end_chunk(&mut self) {
        self.digests.push(self.chunk.finalize().into());
        self.chunk.reset();
        self.filled = 0;
    }

    /// Returns the digest of each chunk; the last one may be shorter.
    pub fn finish(mut self) -> Vec<Digest> {
        if self.filled > 0 {
            self.end_chunk();
        }
        self.digests
    }
}
