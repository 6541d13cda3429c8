//! BLAKE3 digests of chunks.
//!
//! All else here is named by SHA-256, as OCI has it. A chunk's digest names nothing: only its seek
//! table knows it, and a table is itself part of what SHA-256 names. So what counts is speed, for
//! every byte of a layer is hashed for its chunk when the layer is indexed, beside the diffID, and
//! again when a reader waits for it. With the instructions that processors have for SHA-256 BLAKE3
//! still takes about a quarter of its time, and both are as hard to forge.

use std::fmt;

/// The BLAKE3 hash of a chunk's bytes (256 bits, no key), written `blake3:` and 64 hex characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkDigest([u8; 32]);

impl ChunkDigest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// Wraps a hash that was computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", blake3::Hash::from(self.0))
    }
}

/// Hashes the bytes of a chunk as they pass.
#[derive(Clone, Debug, Default)]
pub struct ChunkHasher(blake3::Hasher);

impl ChunkHasher {
    /// Starts with no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added.
    #[must_use]
    pub fn finish(&self) -> ChunkDigest {
        ChunkDigest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the test vectors of BLAKE3's authors: the hash of no bytes.
    const EMPTY: &str = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn it_is_blake3_in_one_piece_and_in_many() {
        assert_eq!(ChunkDigest::of(b"").to_string(), EMPTY);
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let mut hasher = ChunkHasher::new();
        bytes.chunks(777).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.finish(), ChunkDigest::of(&bytes));
        let again = ChunkDigest::from_bytes(*hasher.finish().as_bytes());
        assert_eq!(again, hasher.finish());
        assert_ne!(ChunkDigest::of(b"a"), ChunkDigest::of(b"b"));
    }
}
