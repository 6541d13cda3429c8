//! The border between bytes that came from somewhere and bytes that are right.

use crate::{ChunkDigest, Digest};

/// Bytes whose digest matched. There is no other way to make one than the functions here, and
/// nothing but a `Verified` may be written to a layer tar.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    bytes: Vec<u8>,
}

/// The bytes are not those that were promised.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("digest mismatch: expected {expected}, got {actual} ({len} bytes)")]
pub struct Mismatch<D = Digest> {
    /// What was promised.
    pub expected: D,
    /// What came.
    pub actual: D,
    /// How many bytes came.
    pub len: usize,
}

impl Verified {
    /// Hashes `bytes` and keeps them only if the digest is `expected`.
    ///
    /// # Errors
    /// [`Mismatch`] with both digests.
    pub fn check(bytes: Vec<u8>, expected: &Digest) -> Result<Self, Mismatch> {
        let actual = Digest::of(&bytes);
        Self::compare(bytes, *expected, actual)
    }

    /// The same for the bytes of a chunk.
    ///
    /// # Errors
    /// [`Mismatch`] with both digests.
    pub fn check_chunk(
        bytes: Vec<u8>,
        expected: &ChunkDigest,
    ) -> Result<Self, Mismatch<ChunkDigest>> {
        let actual = ChunkDigest::of(&bytes);
        Self::compare(bytes, *expected, actual)
    }

    /// What `unpack` makes of `packed`, if the digest of that is `expected`: what comes of right bytes is
    /// right, and wrong ones are not looked into.
    ///
    /// # Errors
    /// [`Mismatch`], or what `unpack` says.
    pub fn unpacked<E: From<Mismatch>>(
        packed: &[u8],
        expected: &Digest,
        unpack: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let actual = Digest::of(packed);
        if actual != *expected {
            return Err(E::from(Mismatch {
                expected: *expected,
                actual,
                len: packed.len(),
            }));
        }
        unpack(packed).map(|bytes| Self { bytes })
    }

    fn compare<D: PartialEq>(bytes: Vec<u8>, expected: D, actual: D) -> Result<Self, Mismatch<D>> {
        if actual == expected {
            return Ok(Self { bytes });
        }
        let len = bytes.len();
        Err(Mismatch {
            expected,
            actual,
            len,
        })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the buffer back.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verified({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bytes_pass() {
        let digest = Digest::of(b"right");
        assert_eq!(
            Verified::check(b"right".to_vec(), &digest).unwrap().bytes(),
            b"right"
        );
        let error = Verified::check(b"wrong".to_vec(), &digest).unwrap_err();
        assert_eq!(error.expected, digest);
        assert_eq!(error.len, 5);
    }

    #[test]
    fn only_the_right_bytes_of_a_chunk_pass() {
        let digest = ChunkDigest::of(b"right");
        let right = Verified::check_chunk(b"right".to_vec(), &digest);
        assert_eq!(right.unwrap().bytes(), b"right");
        let error = Verified::check_chunk(b"wrong".to_vec(), &digest).unwrap_err();
        assert_eq!(error.expected, digest);
        assert_eq!(error.actual, ChunkDigest::of(b"wrong"));
    }

    #[test]
    fn only_what_is_right_is_unpacked() {
        let digest = Digest::of(b"right");
        let twice = |packed: &[u8]| Ok::<_, Mismatch>(packed.repeat(2));
        let unpacked = Verified::unpacked(b"right", &digest, twice).unwrap();
        assert_eq!(unpacked.bytes(), b"rightright");
        let never = |_: &[u8]| -> Result<Vec<u8>, Mismatch> { panic!("wrong bytes are unpacked") };
        let error = Verified::unpacked(b"wrong", &digest, never).unwrap_err();
        assert_eq!((error.expected, error.len), (digest, 5));
    }
}
